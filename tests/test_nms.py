"""Suppression against hand values and properties; test_parity_ops.py has the comparison with torchvision at length."""

import sys

import hypothesis.strategies as st
import pytest
import torch
import torchvision
from hypothesis import given
from strategies import GRID, THRESHOLDS, arrange, box_sets, scores_for
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from frcnn_common.boxes import box_iou
from frcnn_common.nms import batched_nms, best_kept, best_of_each, nms


@given(box_sets(GRID), st.sampled_from((0.0, 0.3, 0.5, 0.7, 1.0)), st.randoms(use_true_random=False))
def test_nms_equals_torchvision(boxes, iou_thr, random):
    scores = torch.tensor([random.randrange(5) / 4 for _ in boxes])
    for dtype in (torch.float32, torch.float64):
        mine = nms(boxes.to(dtype), scores.to(dtype), iou_thr)
        assert torch.equal(mine, torchvision.ops.nms(boxes.to(dtype), scores.to(dtype), iou_thr))


def test_nms_threshold_between_two_floats():
    """An overlap equal to float32(0.3) is above the number 0.3 and must suppress, as it does in torchvision."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 3]])
    assert box_iou(boxes, boxes)[0, 1].item() > 0.3
    assert torch.equal(
        nms(boxes, torch.tensor([0.9, 0.8]), 0.3), torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.3)
    )


class CountCalls(TorchDispatchMode):
    """How many operations there were, and the most numbers that one of them returned."""

    calls, largest = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.largest = max([self.largest, *(tensor.numel() for tensor in tensors)])
        return result


def counted(boxes, scores, iou_thr=0.5):
    with CountCalls() as counter:
        nms(boxes, scores, iou_thr)
    return counter


def scattered(count):
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * 300
    return torch.cat([corners, corners + 40], dim=1)


def chain(count):
    """Each box overlaps the next by 0.6: every second one stays, and whether it does depends on all before it."""
    return torch.tensor([0.0, 0, 100, 10]) + 25 * torch.arange(count)[:, None] * torch.tensor([1, 0, 1, 0])


@pytest.mark.parametrize("boxes", [scattered, chain])
def test_nms_takes_no_step_per_box(boxes):
    def calls(count):
        return counted(boxes(count), torch.linspace(1, 0, count)).calls

    assert calls(2000) - calls(400) < 1600 / 4


def test_a_chain_by_hand():
    assert nms(chain(3000), torch.linspace(1, 0, 3000), 0.5).tolist() == list(range(0, 3000, 2))


@pytest.mark.parametrize("layout", ["scattered", "clustered", "one pile", "identical", "of all sizes"])
def test_no_table_of_all_pairs(layout):
    """Of 8,000 boxes there are 64 million pairs; nothing is larger than the boxes or one piece of a table."""
    boxes = arrange(layout, 8000, 0).float()
    scores = torch.rand(8000, generator=torch.Generator().manual_seed(1))
    assert counted(boxes, scores).largest <= 2**16


def test_a_crowd_behind_spread_out_boxes():
    """The best thousand touch nothing, so the neighbors are searched, and the crowd behind them is found out there."""
    places = 1000 * torch.arange(1000.0)[:, None]
    spread_out = torch.cat([places, places, places + 50, places + 50], dim=1)
    crowd = arrange("one pile", 3000, 0).float() - 500
    boxes, scores = torch.cat([spread_out, crowd]), torch.linspace(1, 0, 4000)
    kept = nms(boxes, scores, 0.7)
    assert torch.equal(kept, torchvision.ops.nms(boxes, scores, 0.7))
    assert kept[:1000].tolist() == list(range(1000))


def test_the_area_of_a_large_box_in_half_precision():
    """300 × 300 is above the largest float16. The second box lies a sixth further right: an overlap of 250 of 350."""
    boxes = torch.tensor([[0.0, 0, 300, 300], [50, 0, 350, 300]], dtype=torch.float16)
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.7).tolist() == [0] and nms(boxes, scores, 0.72).tolist() == [0, 1]


@pytest.mark.parametrize("count", [3, 1000])
def test_boxes_of_nothing_suppress_nothing(count):
    """NaN is no number, and a box that is inside out has no inside: neither drops another, neither is dropped."""
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(count, 1)
    boxes[0], boxes[1] = torch.tensor([0, 0, torch.nan, 10]), torch.tensor([10.0, 0, 0, 10])
    assert nms(boxes, torch.linspace(1, 0, count), 0.5).tolist() == [0, 1, 2]
    groups = torch.arange(count) % 3
    assert batched_nms(boxes, torch.linspace(1, 0, count), groups, 0.5).tolist() == [0, 1, *range(2, min(count, 5))]


@pytest.mark.parametrize("limit", [0, 1, 7, 60, 1000])
def test_the_best_that_are_kept(limit):
    """Ties among the scores, groups, and crowds of which few survive: always the beginning of the whole list."""
    torch.manual_seed(limit)
    for spread in (20, 400):
        corners = torch.rand(700, 2) * spread
        boxes = torch.cat([corners, corners + 10 + 40 * torch.rand(700, 2)], dim=1)
        scores, groups = (torch.rand(700) * 20).round() / 20, torch.randint(3, (700,))
        expected = batched_nms(boxes, scores, groups, 0.5)[:limit]
        assert torch.equal(best_kept(boxes, scores, groups, 0.5, limit), expected)


def test_the_best_of_nothing():
    nothing = best_kept(torch.empty(0, 4), torch.empty(0), torch.empty(0).long(), 0.5, 10)
    assert nothing.dtype == torch.int64 and nothing.shape == (0,)


def test_kept_indices_serve_autograd():
    boxes = scattered(300).requires_grad_()
    kept = nms(boxes, torch.rand(300), 0.5)
    boxes[kept].sum().backward()
    assert not kept.requires_grad and boxes.grad.count_nonzero() == 4 * len(kept)


def test_without_boxes():
    nothing = torch.empty(0, 4)
    for kept in (nms(nothing, torch.empty(0), 0.5), batched_nms(nothing, torch.empty(0), torch.empty(0).long(), 0.5)):
        assert kept.dtype == torch.int64 and kept.shape == (0,)


def test_nms_names_the_wrong_shape():
    with pytest.raises(ValueError, match=r"boxes \[N, 4\].*got \[3, 5\]"):
        nms(torch.zeros(3, 5), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match=r"groups \[N\], got \[3, 4\], \[3\], \[2\]"):
        batched_nms(torch.zeros(3, 4), torch.zeros(3), torch.zeros(2), 0.5)


# --- All pairs at once, as on a GPU -----------------------------------------------------------------------------------
ROOM = sys.modules["frcnn_common.nms"]


@pytest.fixture
def few_waits(monkeypatch):
    """Let tensors of the CPU go the way of a GPU's."""
    monkeypatch.setattr(ROOM, "_wants_few_waits", lambda boxes: True)


def walk(boxes, scores, groups, wanted, iou_thr):
    """The definition, one box after the other."""
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        rivals = [j for j in kept if groups[j] == groups[i]]
        if wanted[i] and not (box_iou(boxes[i : i + 1], boxes[rivals]) > iou_thr).any():
            kept.append(i)
    return kept


@st.composite
def sets(draw):
    """Boxes, scores, groups and which are wanted, of one to four sets, some of them empty."""
    drawn = []
    for boxes in draw(st.lists(box_sets(max_boxes=12), min_size=1, max_size=4)):
        groups = draw(st.lists(st.sampled_from((0, 3, -(2**60))), min_size=len(boxes), max_size=len(boxes)))
        wanted = draw(st.lists(st.booleans(), min_size=len(boxes), max_size=len(boxes)))
        masks = torch.tensor(groups, dtype=torch.int64), torch.tensor(wanted, dtype=torch.bool)
        drawn.append((boxes, draw(scores_for(boxes)), *masks))
    return [list(part) for part in zip(*drawn, strict=True)]


@pytest.mark.parametrize("together", [False, True])
@given(sets(), THRESHOLDS, st.integers(0, 14))
def test_the_best_of_each_set_are_those_of_a_walk(together, drawn, iou_thr, limit):
    """By the way of the CPU, and by that of a GPU with blocks of three boxes and two rounds between looks."""
    boxes, scores, groups, wanted = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ROOM, "_wants_few_waits", lambda boxes: together)
        patch.setattr(ROOM, "_LARGEST_BLOCK", 3)
        patch.setattr(ROOM, "_ROUNDS", 2)
        best = best_of_each(boxes, scores, groups, wanted, iou_thr, limit)
    expected = [walk(*one, iou_thr)[:limit] for one in zip(*drawn, strict=True)]
    assert [indices.tolist() for indices in best] == expected


@pytest.mark.parametrize("block", [100, 4096])
@pytest.mark.parametrize("layout", ["scattered", "clustered", "one pile", "chain", "of all sizes", "thin", "on a grid"])
def test_many_boxes_all_pairs_at_once(few_waits, monkeypatch, layout, block):
    """As torchvision's, of 1,200 boxes with ties; the first twenty come from the first blocks."""
    monkeypatch.setattr(ROOM, "_LARGEST_BLOCK", block)
    boxes = arrange(layout, 1200, 0).float()
    scores = (torch.rand(1200) * 100).round()
    for iou_thr in (0.0, 0.5, 1.0):
        kept = nms(boxes, scores, iou_thr)
        assert torch.equal(kept, torchvision.ops.nms(boxes, scores, iou_thr))
        assert torch.equal(best_kept(boxes, scores, torch.zeros(1200).long(), iou_thr, 20), kept[:20])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.float16])
def test_scores_of_any_type_all_pairs_at_once(few_waits, dtype):
    boxes, scores = arrange("clustered", 300, 0).float(), torch.arange(300).flip(0).to(dtype)
    assert torch.equal(nms(boxes, scores, 0.5), torchvision.ops.nms(boxes, scores.float(), 0.5))


def test_nothing_and_no_number_all_pairs_at_once(few_waits):
    test_the_best_of_nothing()
    test_without_boxes()
    test_boxes_of_nothing_suppress_nothing(1000)
    test_the_area_of_a_large_box_in_half_precision()
    test_kept_indices_serve_autograd()


@pytest.mark.parametrize("together", [False, True])
def test_each_set_is_looked_at(monkeypatch, together):
    monkeypatch.setattr(ROOM, "_wants_few_waits", lambda boxes: together)
    boxes = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"groups \[N\], got \[3, 4\], \[2\], \[3\]"):
        best_of_each(
            [boxes] * 2, [torch.zeros(3), torch.zeros(2)], [torch.zeros(3)] * 2, [boxes[:, 0] == 0] * 2, 0.5, 1
        )
    with pytest.raises(ValueError, match="threshold in 0…1, got 2"):
        best_of_each([boxes], [torch.zeros(3)], [torch.zeros(3)], [boxes[:, 0] == 0], 2, 1)

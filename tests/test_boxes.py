"""Boxes against hand values, properties and torchvision."""

import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import pytest
import torch
import torchvision
from hypothesis import given
from torch.utils._python_dispatch import TorchDispatchMode

from frcnn_common import boxes as B


def box_sets(max_boxes=30, grid=None, low=-100):
    """Boxes whose coordinates lie on a coarse grid, so that duplicates, touching and empty ones are common."""
    numbers = st.integers(low, 100).map(float) if grid is None else st.integers(0, grid).map(float)
    arrays = st.integers(0, max_boxes).flatmap(lambda n: hnp.arrays("float32", (n, 4), elements=numbers))
    return arrays.map(_sort_corners)


def _sort_corners(array):
    first, second = torch.from_numpy(array).split(2, dim=1)
    return torch.cat([first.minimum(second), first.maximum(second)], dim=1)


def with_area(boxes):
    return boxes[((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)]


def test_iou_is_exact_for_tiny_boxes():
    tiny = torch.tensor([[0.0, 0, 1e-3, 1e-3]])
    assert B.box_iou(tiny, tiny).item() == 1.0


def test_iou_of_empty_boxes_is_zero_and_never_nan():
    points = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 9]])
    assert B.box_iou(points, points).eq(0).all()


def test_iou_without_boxes():
    assert B.box_iou(torch.empty(0, 4), torch.rand(3, 4)).shape == (0, 3)


@given(box_sets(), box_sets())
def test_iou_equals_torchvision(a, b):
    a, b = with_area(a), with_area(b)
    torch.testing.assert_close(B.box_iou(a, b), torchvision.ops.box_iou(a, b), rtol=0, atol=0)


@given(box_sets())
def test_decode_inverts_encode(boxes):
    boxes = with_area(boxes).double()
    goals = boxes.flip(0)
    torch.testing.assert_close(B.decode_boxes(boxes, B.encode_boxes(boxes, goals), clamp=20), goals)


def test_encode_by_hand():
    deltas = B.encode_boxes(torch.tensor([[10.0, 10, 30, 50]]), torch.tensor([[15.0, 0, 55, 40]]))
    torch.testing.assert_close(deltas, torch.tensor([[15 / 20, -10 / 40, math.log(2), 0.0]]))


def test_encode_and_decode_equal_torchvision():
    from torchvision.models.detection._utils import BoxCoder

    weights = (10.0, 10.0, 5.0, 5.0)
    peer = BoxCoder(weights, bbox_xform_clip=4.0)
    corners = torch.rand(2, 50, 2) * 100
    anchors, goals = torch.cat([corners, corners + 1 + torch.rand(2, 50, 2) * 80], dim=2)
    deltas = B.encode_boxes(anchors, goals, weights=weights)
    torch.testing.assert_close(deltas, peer.encode_single(goals, anchors))
    deltas = deltas * 10
    torch.testing.assert_close(B.decode_boxes(anchors, deltas, weights=weights), peer.decode_single(deltas, anchors))


def test_decode_clamps_stretch_from_above_only():
    anchor = torch.tensor([[0.0, 0, 10, 10]])
    x1, y1, x2, y2 = B.decode_boxes(anchor, torch.tensor([[0.0, 0, 100, -100]]))[0].tolist()
    assert x2 - x1 == pytest.approx(10 * math.exp(4), rel=1e-5)
    assert y2 - y1 == pytest.approx(0, abs=1e-6)


@given(box_sets(), st.integers(1, 80), st.integers(1, 80))
def test_clip_equals_torchvision(boxes, height, width):
    peer = torchvision.ops.clip_boxes_to_image(boxes, (height, width))
    assert torch.equal(B.clip_boxes(boxes, (height, width)), peer)


@given(box_sets(grid=6), st.sampled_from((0.0, 0.3, 0.5, 0.7, 1.0)), st.randoms(use_true_random=False))
def test_nms_equals_torchvision(boxes, iou_thr, random):
    scores = torch.tensor([random.randrange(5) / 4 for _ in boxes])
    for dtype in (torch.float32, torch.float64):
        mine = B.nms(boxes.to(dtype), scores.to(dtype), iou_thr)
        assert torch.equal(mine, torchvision.ops.nms(boxes.to(dtype), scores.to(dtype), iou_thr))


@given(box_sets(grid=6), st.randoms(use_true_random=False))
def test_batched_nms_equals_torchvision_group_by_group(boxes, random):
    boxes = boxes - 3  # negative coordinates, where an offset by group goes wrong
    scores = torch.tensor([random.randrange(5) / 4 for _ in boxes])
    groups = torch.tensor([random.randrange(3) for _ in boxes], dtype=torch.int64)
    mine = B.batched_nms(boxes, scores, groups, 0.5)
    assert torch.equal(mine, mine[scores[mine].argsort(descending=True, stable=True)])
    for group in range(3):
        members = (groups == group).nonzero()[:, 0]
        peer = members[torchvision.ops.nms(boxes[members], scores[members], 0.5)]
        assert torch.equal(mine[groups[mine] == group], peer)


@pytest.mark.parametrize("spread", [60, 400, 4000])
def test_nms_equals_torchvision_over_many_blocks(spread):
    generator = torch.Generator().manual_seed(spread)
    corners = torch.rand(3000, 2, generator=generator) * spread
    boxes = torch.cat([corners, corners + 5 + 60 * torch.rand(3000, 2, generator=generator)], dim=1)
    scores = (torch.rand(3000, generator=generator) * 200).round() / 200
    assert torch.equal(B.nms(boxes, scores, 0.5), torchvision.ops.nms(boxes, scores, 0.5))


def test_nms_threshold_between_two_floats():
    """An overlap equal to float32(0.3) is above the number 0.3 and must suppress, as it does in torchvision."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 3]])
    assert B.box_iou(boxes, boxes)[0, 1].item() > 0.3
    assert torch.equal(
        B.nms(boxes, torch.tensor([0.9, 0.8]), 0.3), torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.3)
    )


class CountCalls(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        return function(*args, **(kwargs or {}))


def test_nms_takes_no_step_per_box():
    def calls(count):
        corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * 300
        with CountCalls() as counter:
            B.nms(torch.cat([corners, corners + 40], dim=1), torch.linspace(1, 0, count), 0.5)
        return counter.calls

    assert calls(2000) - calls(400) < 1600 / 4


def test_nms_names_the_wrong_shape():
    with pytest.raises(ValueError, match=r"boxes \[N, 4\].*got \[3, 5\]"):
        B.nms(torch.zeros(3, 5), torch.zeros(3), 0.5)

"""Boxes against hand values and properties; test_parity_ops.py has the comparison with torchvision."""

import math

import hypothesis.strategies as st
import pytest
import torch
import torchvision
from hypothesis import given
from strategies import GRID, PIXELS, box_sets, with_area
from torch.utils._python_dispatch import TorchDispatchMode

from frcnn_common import boxes as B


def test_iou_is_exact_for_tiny_boxes():
    tiny = torch.tensor([[0.0, 0, 1e-3, 1e-3]])
    assert B.box_iou(tiny, tiny).item() == 1.0


def test_iou_of_empty_boxes_is_zero_and_never_nan():
    points = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 9]])
    assert B.box_iou(points, points).eq(0).all()


def test_iou_without_boxes():
    assert B.box_iou(torch.empty(0, 4), torch.rand(3, 4)).shape == (0, 3)


@given(box_sets(PIXELS))
def test_decode_inverts_encode(boxes):
    boxes = with_area(boxes)
    goals = boxes.flip(0)
    torch.testing.assert_close(B.decode_boxes(boxes, B.encode_boxes(boxes, goals), clamp=20), goals)


def test_encode_by_hand():
    deltas = B.encode_boxes(torch.tensor([[10.0, 10, 30, 50]]), torch.tensor([[15.0, 0, 55, 40]]))
    torch.testing.assert_close(deltas, torch.tensor([[15 / 20, -10 / 40, math.log(2), 0.0]]))


def test_decode_clamps_stretch_from_above_only():
    anchor = torch.tensor([[0.0, 0, 10, 10]])
    x1, y1, x2, y2 = B.decode_boxes(anchor, torch.tensor([[0.0, 0, 100, -100]]))[0].tolist()
    assert x2 - x1 == pytest.approx(10 * math.exp(4), rel=1e-5)
    assert y2 - y1 == pytest.approx(0, abs=1e-6)


@given(box_sets(GRID), st.sampled_from((0.0, 0.3, 0.5, 0.7, 1.0)), st.randoms(use_true_random=False))
def test_nms_equals_torchvision(boxes, iou_thr, random):
    scores = torch.tensor([random.randrange(5) / 4 for _ in boxes])
    for dtype in (torch.float32, torch.float64):
        mine = B.nms(boxes.to(dtype), scores.to(dtype), iou_thr)
        assert torch.equal(mine, torchvision.ops.nms(boxes.to(dtype), scores.to(dtype), iou_thr))


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

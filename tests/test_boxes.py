"""Boxes against hand values and properties; test_parity_ops.py has the comparison with torchvision."""

import math

import pytest
import torch
from hypothesis import given
from strategies import PIXELS, box_sets, with_area

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

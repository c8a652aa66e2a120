"""Anchors, their assignment, and the sampling of them."""

import pytest
import torch

from frcnn_common import AnchorGenerator
from frcnn_common.anchors import assign_anchors, subsample


def test_anchors_by_hand():
    anchors = AnchorGenerator((8, 16), (0.25, 1.0), (4, 8))([torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 1)], (4, 8))
    expected = [
        [0, -6, 4, 10], [-2, -2, 6, 6],  # cell 0, 0: ratio width / height 1/4, then 1
        [4, -6, 8, 10], [2, -2, 10, 6],  # cell 0, 1
        [0, -12, 8, 20], [-4, -4, 12, 12],  # the next level
    ]  # fmt: skip
    torch.testing.assert_close(anchors, torch.tensor(expected).float())


def test_anchors_run_row_by_row():
    anchors = AnchorGenerator((4,), (1.0,), (10,))([torch.zeros(1, 1, 2, 3)], (20, 30))
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centers.tolist() == [[5, 5], [15, 5], [25, 5], [5, 15], [15, 15], [25, 15]]


def test_wrong_number_of_levels_is_refused():
    with pytest.raises(ValueError, match="2 and 3"):
        AnchorGenerator((8, 16), strides=(4, 8, 16))
    with pytest.raises(ValueError, match="expected 5 feature maps, got 1"):
        AnchorGenerator()([torch.zeros(1, 1, 1, 1)], (4, 4))


def test_unreachable_object_forces_no_anchor():
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    labels, _ = assign_anchors(anchors, torch.tensor([[80.0, 80, 90, 90]]))
    assert labels.tolist() == [0, 0]


def test_best_anchor_is_forced_however_modest():
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    labels, _ = assign_anchors(anchors, torch.tensor([[8.0, 8, 12, 12]]))
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("positives", "negatives", "drawn"), [(3, 1000, (3, 253)), (500, 1000, (128, 128)), (2, 5, (2, 5))]
)
def test_negatives_fill_up(positives, negatives, drawn):
    labels = torch.tensor([1] * positives + [0] * negatives + [-1] * 50)
    chosen = subsample(labels, 256, 0.5)
    assert tuple(len(indices) for indices in chosen) == drawn
    for indices, label in zip(chosen, (1, 0), strict=True):
        assert len(indices.unique()) == len(indices) and (labels[indices] == label).all()

"""What four numbers mean: found by the numbers, or not guessed at all."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frcnn_common.formats import box_evidence, find_box_format, to_corners


def test_corners_by_hand():
    boxes = torch.tensor([[10.0, 20, 30, 40]])
    assert to_corners(boxes, "xywh").tolist() == [[10, 20, 40, 60]] and to_corners(boxes, "xyxy") is boxes


def test_a_claim_that_is_no_format_is_refused():
    with pytest.raises(ValueError, match="'xyxy' or 'xywh', got 'cxcywh'"):
        find_box_format(torch.zeros(0, 4), torch.zeros(0, 2), claimed="cxcywh")


def test_area_decides_what_fits():
    """Areas of outlines fill a part of their box; read as the other format some boxes are too small for them."""
    boxes, sizes = torch.tensor([[10.0, 10, 20, 20], [4, 4, 30, 16]]), torch.tensor([[100.0, 60], [100, 60]])
    areas = torch.tensor([380.0, 450])  # of 20 × 20 and 30 × 16
    evidence = box_evidence(boxes, sizes, areas)
    assert evidence["xyxy"] == {"outside": 0, "fits": 0, "equals": 0} and evidence["xywh"]["fits"] == 1
    assert find_box_format(boxes, sizes, areas) == "xywh"
    with pytest.raises(ValueError, match="fit both"):
        find_box_format(boxes, sizes)
    exact = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert find_box_format(boxes, sizes, exact) == "xyxy"


@settings(max_examples=200)
@given(seed=st.integers(0, 10**6), reading=st.sampled_from(["xyxy", "xywh"]), areas=st.booleans())
def test_scenes_are_never_misread(seed, reading, areas):
    """Whatever the boxes of a hundred random objects are in: they are found, or not guessed at all."""
    chance = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([[640.0, 480]]).expand(100, 2)
    ends = torch.rand(100, 2, 2, generator=chance).sort(dim=1).values * sizes[:, None]
    corners = ends.flatten(1)
    boxes = corners if reading == "xyxy" else torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
    whole = (corners[:, 2:] - corners[:, :2]).prod(dim=1)
    assert find_box_format(boxes, sizes, 0.6 * whole if areas else None) == reading

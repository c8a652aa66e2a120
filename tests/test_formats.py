"""What the readers share: what four numbers mean, the words for a split, and which file is the picture."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frcnn_common.formats import (
    SPLIT_WORDS,
    Pictures,
    box_evidence,
    find_box_format,
    is_sound_area,
    name_words,
    picture_size,
    split_word,
    to_corners,
    visible_files,
    words_for,
)


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


def test_centers_are_named_where_corners_belong():
    """A hundred objects of 40 × 30 pixels, evenly from corner to corner of the picture, told by their centers."""
    x, y = torch.meshgrid(torch.linspace(20, 620, 10), torch.linspace(15, 465, 10), indexing="ij")
    boxes = torch.stack([x, y, torch.full_like(x, 40), torch.full_like(x, 30)], dim=-1).view(-1, 4)
    with pytest.raises(ValueError, match="fit no format: of 100, .* They fit a center, width and height, which have"):
        find_box_format(boxes, torch.tensor([[640.0, 480]]).expand(100, 2))


def test_overhang_does_not_contradict_a_claim():
    """Full-frame objects, two pixels too large, in every picture: as corners these would be sound, too."""
    boxes, sizes = torch.tensor([[2.0, 2, 100, 60]]).expand(8, 4), torch.tensor([[100.0, 60]]).expand(8, 2)
    assert find_box_format(boxes, sizes, claimed="xywh") == "xywh"
    with pytest.raises(ValueError, match="no xywh boxes: of 8, .*If so, say box_format='xyxy'"):
        find_box_format(boxes + torch.tensor([40.0, 20, 0, 0]), sizes, claimed="xywh")


@pytest.mark.parametrize("convention", ["shares", "both ends", "another scale", "zero"])
def test_areas_of_another_convention_do_not_count(convention):
    corners = torch.tensor([[10.0, 10, 90, 50], [5, 5, 8, 9], [40, 20, 60, 55]])
    sizes, sides = torch.tensor([[100.0, 60]]).expand(3, 2), corners[:, 2:] - corners[:, :2]
    whole = sides.prod(dim=1)
    areas = {
        "shares": whole / 6000,
        "both ends": (sides + 1).prod(dim=1),
        "another scale": 9 * whole,
        "zero": 0 * whole,
    }
    boxes = torch.cat([corners[:, :2], sides], dim=1)
    assert find_box_format(boxes, sizes, areas[convention], claimed="xywh") == "xywh"
    assert find_box_format(corners, sizes, areas[convention]) == "xyxy"


def test_what_an_area_can_be():
    areas = torch.tensor([0.5, 1, 200, 231, 234, torch.nan, -1])
    assert is_sound_area(areas, 10, 20).tolist() == [False, True, True, True, False, False, False]


def test_the_words_of_names():
    assert name_words("Val2017-small_setB") == ["val", "2017", "small", "set", "b"]
    known = {"instances_val2017": "val", "festival": None, "trainer": None, "TrainImages": "train",
             "train_val": "trainval", "test-dev": "test", "valid": "valid", "évaluation": None}  # fmt: skip
    assert {name: split_word(name) for name in known} == known
    assert split_word("train", "images") == "train" and split_word("train", "val_small") == "val"


def test_a_split_has_an_order_of_words():
    assert words_for("train", ["trainval", "train", "val"]) == ("train",) and words_for("val", ["test", "val"]) == (
        "val",
    )
    assert words_for("train", ["trainval", "test"]) == ("trainval",) and words_for("val", ["trainval", "test"]) == (
        "test",
    )
    assert words_for("val", ["train", None]) == () and list(SPLIT_WORDS) == ["train", "val"]


HERE = Path("data")


def found(places, words=("train",), home="annotations", name="0.png"):
    picture = Pictures(HERE, [HERE / place for place in places], words).find(name, HERE / home)
    return picture and picture.relative_to(HERE).as_posix()


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["annotations/train/0.png", "images/train/0.png"], "images/train/0.png"),
        (["masks/0.png", "train/0.png", "val/0.png"], "train/0.png"),
        (["images/0.png", "thumbnails/0.png", "old/0.png"], "images/0.png"),
        (["images/val/0.png", "images/train/1.png"], None),
        (["annotations/train/0.png", "images/train/1.png"], None),
        (["annotations/0.png"], "annotations/0.png"),
        (["images/a/0.png"], "images/a/0.png"),
    ],
)
def test_the_likeliest_place_has_the_picture(places, expected):
    assert found(places) == expected


def test_several_places_are_an_error_that_lists_them():
    with pytest.raises(ValueError, match=r"which of these is the picture 0.png\? data/a/0.png, data/b/0.png"):
        found(["a/0.png", "b/0.png"])
    assert found(["a/0.png", "b/0.png"], name="b/0.png") == "b/0.png"
    assert found(["a/0.png", "b/0.png"], home="a") == "a/0.png"
    assert found(["xml/north/0.png", "img/north/0.png", "img/south/0.png"], home="labels/south") == "img/south/0.png"


def test_links_are_followed_and_hidden_files_are_not_seen(tmp_path):
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for place in (folder / ".git", folder / "__MACOSX", elsewhere):
        place.mkdir(parents=True)
    for path in (elsewhere / "0.png", folder / ".git" / "0.png", folder / "__MACOSX" / "0.png", folder / "._0.png"):
        path.touch()
    (folder / "images").symlink_to(elsewhere)
    assert visible_files(folder) == [folder / "images" / "0.png"]


def test_the_size_of_a_picture_that_lies_on_its_side(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "0.jpg", exif=exif)
    assert picture_size(tmp_path / "0.jpg") == (20, 30)
    (tmp_path / "1.jpg").write_bytes(b"no picture")
    assert picture_size(tmp_path / "1.jpg") is None and picture_size(tmp_path / "2.jpg") is None

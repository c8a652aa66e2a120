"""Drawn detections: where frames and tags are, in which colors, and in which letters."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from frcnn_common import pictures
from frcnn_common.letters import font_with
from frcnn_common.pictures import draw_detections
from frcnn_common.plots import class_color

NOBODYS = "\U0010fffe"  # of those that Unicode will never define


def drawn(path, boxes, name="cup", size=(100, 50), mode="RGB"):
    """A black picture with boxes of one class, as an array `[H, W, 3]`."""
    found = {"boxes": torch.tensor(boxes), "labels": torch.ones(len(boxes)).long(), "scores": torch.ones(len(boxes))}
    draw_detections(Image.new(mode, size), found, ("__background__", name), path)
    return np.asarray(Image.open(path))


def has_color(part, color, alpha=1):
    return (np.abs(part - alpha * np.array(ImageColor.getrgb(color))) <= 2).all(axis=-1)


def test_a_frame_stands_on_the_edges_of_its_box(tmp_path):
    """Eight times as large, from (80, 160) to (400, 320), with a rim of white around it."""
    image = drawn(tmp_path / "a.png", [[10.0, 20, 50, 40]])
    assert image.shape == (400, 800, 3)
    across = image[240]  # a line through the middle of the box
    frame, rim = has_color(across, class_color(1)), has_color(across, "white")
    assert frame.nonzero()[0].tolist() == [79, 80, 399, 400]
    assert rim.nonzero()[0].tolist() == [78, 81, 398, 401]
    assert not across[~frame & ~rim].any()
    down = has_color(image[:, 300], class_color(1))
    assert down.nonzero()[0].tolist() == [159, 160, 319, 320]


@pytest.mark.parametrize(
    ("box", "left", "top"),
    [([10.0, 20, 50, 40], 80, None), ([10.0, 0, 50, 40], 80, 0), ([97.0, 20, 100, 40], None, None)],
)
def test_a_tag_stays_in_the_picture(tmp_path, box, left, top):
    """Above its box and from its left end on; within one at the upper edge, at the right end of one at the right."""
    image = drawn(tmp_path / "a.png", [box])
    tag = has_color(image, class_color(1), alpha=230 / 255)
    rows, columns = (axis.nonzero()[0] for axis in (tag.any(axis=1), tag.any(axis=0)))
    letters = (image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] > 120).all(axis=-1)
    assert letters.sum() > 50 and tag.sum() > letters.sum()
    assert 0 <= columns[0] - left <= 2 if left is not None else columns[-1] == 799
    assert rows[0] <= top + 3 if top is not None else abs(rows[-1] - 8 * box[1]) <= 3


def test_a_large_picture_keeps_its_pixels(tmp_path):
    image = drawn(tmp_path / "a.png", [[200.0, 300, 900, 800]], size=(1600, 900), mode="L")
    assert image.shape == (900, 1600, 3)
    assert has_color(image[600], class_color(1)).nonzero()[0].tolist() == [198, 199, 200, 201, 898, 899, 900, 901]


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (1, 1)])
def test_pictures_and_boxes_without_room(tmp_path, size):
    assert drawn(tmp_path / "a.png", [[0.0, 0, 0, 0], [0, 0, *size]], size=size).max() == 255


def test_a_name_is_drawn_as_it_is(tmp_path):
    """No formula, no line break; what no font has, by its number."""
    images = [drawn(tmp_path / "a.png", [[10.0, 20, 50, 40]], name) for name in ("a $x$", "a\n$x$", "a x")]
    assert (images[0] == images[1]).all() and (images[0] != images[2]).any()
    with pytest.warns(UserWarning, match=f"no font of this machine has {NOBODYS}"):
        image = drawn(tmp_path / "a.png", [[10.0, 20, 50, 40]], f"a{NOBODYS}")
    assert (image == drawn(tmp_path / "a.png", [[10.0, 20, 50, 40]], "aU+10FFFE")).all()


def test_a_letter_comes_from_a_font_that_has_it(tmp_path, monkeypatch):
    """A sign that DejaVu Sans Mono has not, drawn with that as the first font."""
    from matplotlib.font_manager import findfont

    from frcnn_common import letters

    mono = findfont("DejaVu Sans Mono")
    sign = next(chr(n) for n in range(0x250, 0x2FFF) if not letters._has(mono, chr(n)) and font_with(chr(n)))
    asked, own_font = [], pictures._font
    monkeypatch.setattr("frcnn_common.pictures.FONT", "DejaVu Sans Mono")
    monkeypatch.setattr(pictures, "_font", lambda name, size: asked.append(name) or own_font(name, size))
    drawn(tmp_path / "a.png", [[10.0, 20, 50, 40]], f"a{sign}")
    assert {*asked} == {mono, font_with(sign)}

"""Plots: what is drawn, read back from the figures."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from frcnn_common.plots import (
    PALETTE,
    STYLE,
    class_color,
    plot_losses,
    set_style,
    show_boxes,
    show_feature_maps,
    show_grid,
    to_image,
)
from frcnn_common.samples import normalize

mpl.use("Agg")
import matplotlib.pyplot as plt

BOXES = torch.tensor([[2.0, 20, 30, 40], [10, 1, 20, 11], [50, 30, 63, 60]])
LABELS = torch.tensor([1, 17, 18])


@pytest.fixture(autouse=True)
def _fresh_figures():
    with mpl.rc_context():
        yield
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def drawn_boxes(collection):
    return [path.get_extents().extents.tolist() for path in collection.get_paths()]


def test_to_image_undoes_the_normalization():
    pixels = torch.rand(3, 5, 7)
    np.testing.assert_allclose(to_image(normalize(pixels)), pixels.permute(1, 2, 0), atol=1e-6)
    assert to_image(torch.full((3, 2, 2), 99.0)).max() == 1


def test_to_image_leaves_pictures_alone():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for image in (pixels, Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)):
        assert to_image(image).dtype == np.uint8 and (to_image(image) == pixels).all()


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 4), (2, 3, 4, 4)])
def test_to_image_refuses_what_is_no_picture(shape):
    with pytest.raises(ValueError, match=r"expected a \[3, H, W\] tensor"):
        to_image(torch.zeros(shape))


def test_boxes_stand_where_they_should():
    ax = show_boxes(torch.zeros(3, 64, 64), BOXES)
    assert drawn_boxes(ax.collections[0]) == BOXES.tolist()
    assert ax.texts == [] or not texts(ax)
    assert ax.get_xlim() == (-0.5, 63.5) and ax.get_ylim() == (63.5, -0.5)


def test_tags_name_class_and_score():
    image = torch.zeros(3, 64, 64)
    scores = torch.tensor([0.987, 0.5, 0.049])
    assert texts(show_boxes(image, BOXES, LABELS)) == ["person", "dog", "horse"]
    assert texts(show_boxes(image, BOXES, LABELS, scores)) == ["person 0.99", "dog 0.50", "horse 0.05"]
    assert texts(show_boxes(image, BOXES, None, scores)) == ["0.99", "0.50", "0.05"]


def test_names_are_drawn_letter_by_letter(tmp_path):
    """Formulas that are none."""
    names = ("", "$_$", "_hidden", r"x^{")
    ax = show_boxes(torch.zeros(3, 64, 64), BOXES, torch.tensor([1, 2, 3]), names=names, title="$_$ and $x^{")
    assert texts(ax) == list(names[1:])
    ax.figure.savefig(tmp_path / "figure.png")


def test_a_label_without_a_name_is_named():
    with pytest.raises(ValueError, match="label 3 has no name: there are 2"):
        show_boxes(torch.zeros(3, 64, 64), BOXES, torch.tensor([1, 3, 1]), names=("", "cat"))


def test_tags_stay_inside_the_picture():
    left, top = show_boxes(torch.zeros(3, 64, 64), BOXES[:2], LABELS[:2]).texts
    assert (left.get_va(), left.get_ha()) == ("bottom", "left")
    assert top.get_va() == "top"
    edge = show_boxes(torch.zeros(3, 64, 64), torch.tensor([[55.0, 30, 80, 60]]), LABELS[:1]).texts[0]
    assert edge.get_ha() == "right" and edge.xy[0] == 63.5


def test_a_tag_that_is_too_long_for_the_right_side_ends_where_its_box_does():
    fig, ax = plt.subplots(figsize=(3, 3))
    boxes = [[5.0, 30, 40, 50], [60, 30, 80, 50], [60, 70, 80, 90]]
    show_boxes(
        np.zeros((100, 100, 3)), torch.tensor(boxes), range(3), names=("rook", "king: background", "rook"), ax=ax
    )
    fig.canvas.draw()
    short, long, other = (text.get_window_extent() for text in ax.texts)
    whole, edges = ax.get_window_extent(), [ax.transData.transform((x, 0))[0] for x in (5, 60, 80)]
    assert whole.x0 < long.x0 and long.x1 < whole.x1 and long.x1 == pytest.approx(edges[2], abs=6)
    assert [short.x0, other.x0] == pytest.approx(edges[:2], abs=6)  # where there is room, at the left


def test_a_class_keeps_its_color():
    assert len(set(PALETTE)) == 12
    assert {class_color(label) for label in range(1, 81)} == set(PALETTE)
    ax = show_boxes(torch.zeros(3, 64, 64), BOXES[[2, 0]], LABELS[[2, 0]])
    expected = mpl.colors.to_rgba_array([class_color(18), class_color(1)])
    np.testing.assert_allclose(ax.collections[-1].get_edgecolors(), expected)
    one = show_boxes(torch.zeros(3, 64, 64), BOXES, LABELS, color="red").collections[-1]
    assert {tuple(color) for color in one.get_edgecolors()} == {(1, 0, 0, 1)}


def test_boxes_over_a_picture_leave_its_limits():
    ax = show_boxes(torch.zeros(3, 64, 64), BOXES)
    assert show_boxes(None, BOXES + 40, ax=ax) is ax
    assert len(ax.images) == 1 and ax.get_xlim() == (-0.5, 63.5)


def test_no_boxes_and_many_boxes():
    assert show_boxes(torch.zeros(3, 8, 8), torch.empty(0, 4), torch.empty(0)).images
    ax = show_boxes(torch.zeros(3, 8, 8), torch.rand(3000, 4))
    assert len(ax.collections) == 1 and len(ax.collections[0].get_paths()) == 3000


def test_boxes_complain():
    image = torch.zeros(3, 8, 8)
    with pytest.raises(ValueError, match=r"boxes have shape \(4,\); expected \[N, 4\]"):
        show_boxes(image, torch.zeros(4))
    with pytest.raises(ValueError, match="2 labels for 3 boxes"):
        show_boxes(image, BOXES, [1, 2])
    with pytest.raises(ValueError, match="1 scores for 3 boxes"):
        show_boxes(image, BOXES, LABELS, [0.5])


def test_grid_draws_targets_detections_and_proposals():
    images = torch.zeros(5, 3, 16, 16)
    fig = show_grid(images, [{"boxes": BOXES, "labels": LABELS, "image_id": 3}] * 5, columns=3, titles="abcde")
    assert len(fig.axes) == 6 and [ax.get_title() for ax in fig.axes] == [*"abcde", ""]
    assert texts(fig.axes[4]) == ["person", "dog", "horse"] and not fig.axes[5].axison
    assert len(show_grid(images[:2]).axes) == 2
    assert not texts(show_grid(images[:1], [{"boxes": BOXES}]).axes[0])


def test_feature_maps_show_the_mean_and_the_liveliest_channels():
    still, lively = torch.ones(1, 4, 4), torch.arange(16.0).reshape(1, 4, 4)
    fig = show_feature_maps([torch.cat([still, -lively]), torch.zeros(2, 1, 2, 2)], names=("P2", "P3"), channels=1)
    p2_mean, p3_mean, p2_channel, _ = (ax.images[0].get_array() for ax in fig.axes)
    np.testing.assert_allclose(p2_mean, (1 + lively[0]) / 2)
    np.testing.assert_allclose(p2_channel, -lively[0])
    assert p3_mean.shape == (2, 2)
    assert [ax.get_title() for ax in fig.axes[:2]] == ["P2: 2 × 4 × 4", "P3: 1 × 2 × 2"]


def test_losses_and_their_sum():
    history = [{"step": 10 * n, "lr": 0.1, "rpn_cls": torch.tensor(4.0 - n), "rpn_box": 1.0} for n in range(1, 4)]
    ax = plot_losses(history)
    lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["sum", "rpn_cls", "rpn_box"]
    assert lines["sum"].get_xydata().tolist() == [[10, 4], [20, 3], [30, 2]]


def test_running_mean_is_centered():
    history = [{"rpn_cls": float(n)} for n in range(100)]  # the mean of a straight line is that line, but for its ends
    smooth = plot_losses(history).lines[-1].get_ydata()
    np.testing.assert_allclose(smooth[2:-2], np.arange(2, 98), atol=1e-9)
    assert smooth[0] == 1  # the mean of 0, 1, 2


@pytest.mark.parametrize("history", [[], [{"loss": 1.0}]])
def test_losses_complain(history):
    with pytest.raises(ValueError, match="none of rpn_cls, rpn_box, roi_cls, roi_box"):
        plot_losses(history)


def test_background_is_opaque_white(tmp_path):
    mpl.rcParams.update({"figure.facecolor": "black", "savefig.transparent": True})
    set_style()
    show_boxes(torch.zeros(3, 8, 8), BOXES).figure.savefig(tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
    assert mpl.rcParams["axes.prop_cycle"].by_key()["color"] == list(PALETTE)


def test_style_is_not_left_behind():
    before = dict(mpl.rcParams)
    show_grid(torch.zeros(2, 3, 8, 8))
    show_boxes(torch.zeros(3, 8, 8), BOXES)
    assert {key: mpl.rcParams[key] for key in STYLE} == {key: before[key] for key in STYLE}


def test_import_is_light():
    heavy = ("matplotlib", "torchvision", "datasets")
    code = f"import sys, frcnn_common.plots; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

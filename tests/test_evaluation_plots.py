"""Evaluation plots: what is drawn, read back from the figures."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from detections import boxes_at, prediction_of, target_of

from frcnn_common.constants import COCO_NAMES
from frcnn_common.errors import Calibration
from frcnn_common.evaluation_plots import plot_calibration, plot_confusion, plot_precision_recall, show_errors
from frcnn_common.metrics import evaluate_detections
from frcnn_common.plots import PALETTE, class_color

mpl.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def _fresh_figures():
    with mpl.rc_context():
        yield
    plt.close("all")


def numbers(ax):
    """What stands in the cells: (row, column): text."""
    return {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in ax.texts}


def ticks(ax):
    return [[text.get_text() for text in axis.get_ticklabels()] for axis in (ax.yaxis, ax.xaxis)]


def test_precision_recall_curves():
    target = target_of(boxes_at([2, 20, 30, 40], [10, 1, 20, 11]), [1, 2])
    found = prediction_of(boxes_at([2, 20, 30, 40]), [1], [0.9])
    evaluation = evaluate_detections([found], [target])
    legend = [text.get_text() for text in plot_precision_recall(evaluation).get_legend().get_texts()]
    assert legend == [f"IoU ≥ {thr:.2f}: 0.50" for thr in (0.5, 0.6, 0.7, 0.8, 0.9)]
    ax = plot_precision_recall(evaluation, [1, 2], iou_thr=0.75)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["person: 1.00", "bicycle: 0.00"]
    assert (ax.lines[0].get_ydata() == 1).all() and ax.lines[0].get_color() == class_color(1)


def test_curves_of_classes_with_one_color_differ_in_style():
    boxes = boxes_at([0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9])
    found = prediction_of(boxes, [1, 13, 2], [0.9] * 3)
    lines = plot_precision_recall(evaluate_detections([found], [found]), [1, 13, 2]).lines
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-"]


def test_a_small_confusion_matrix_is_drawn_whole_with_the_background_last():
    counts = torch.tensor([[0, 4, 0, 0], [7, 1200, 2, 0], [0, 3, 50, 0], [0, 0, 0, 0]])  # the third never occurs
    ax = plot_confusion(counts, ("background", "cat", "dog", "cow"))
    assert ticks(ax) == [["cat", "dog", "none"], ["cat", "dog", "missed"]]
    assert numbers(ax) == {(0, 0): "1,200", (0, 1): "2", (0, 2): "7", (1, 0): "3", (1, 1): "50", (2, 0): "4"}
    assert ax.get_title() == "" and ax.get_ylabel() == "object" and ax.get_xlabel() == "detection"
    assert ax.get_ylim() == (3, 0)  # the first row on top


def test_of_eighty_classes_the_most_confused_are_shown_and_the_title_says_what_is_not():
    counts = torch.zeros(81, 81, dtype=torch.int64)
    counts[range(1, 81), range(1, 81)] = 100
    counts[17, 18], counts[18, 17], counts[3, 8], counts[1, 2] = 9, 1, 5, 2
    ax = plot_confusion(counts, most=4)
    assert ticks(ax)[0] == [*(COCO_NAMES[label] for label in (3, 8, 17, 18)), "none"]
    assert ax.get_title() == "4 of 80 classes, 15 of 17 confusions"
    assert len(ticks(plot_confusion(counts))[0]) == 13


def test_colors_of_right_and_wrong_cells_do_not_depend_on_each_other():
    counts = torch.tensor([[0, 0, 0], [1, 900, 1], [0, 2, 900]])
    right, wrong = plot_confusion(counts, "-ab").collections
    assert right.get_cmap().name == "Blues" and np.ma.count(right.get_array()) == 2
    assert wrong.get_cmap().name == "Oranges" and wrong.get_clim()[1] == pytest.approx(2 * 2**0.5)


def test_an_empty_confusion_matrix_is_one_empty_cell():
    ax = plot_confusion(torch.zeros(81, 81, dtype=torch.int64))
    assert ticks(ax) == [["none"], ["missed"]] and not ax.texts


def test_names_of_strangers_are_shown_as_they_are_and_cut():
    counts = torch.tensor([[0, 1, 0], [0, 1, 1], [0, 0, 1]])
    ax = plot_confusion(counts, ("", "$\\frac$", "a" * 50))
    assert ticks(ax)[0] == ["$\\frac$", "a" * 19 + "…", "none"]
    ax.figure.canvas.draw()  # as mathematics, the first could not be drawn
    names, boxes = ("", "$_$", "_hidden", "x^{"), boxes_at([0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9])
    found = prediction_of(boxes, [1, 2, 3], [1.0] * 3)
    ax = plot_precision_recall(evaluate_detections([found], [found], num_classes=4, names=names), [1, 2, 3])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["$_$: 1.00", "_hidden: 1.00", "x^{: 1.00"]
    ax.figure.canvas.draw()


def test_a_point_of_the_calibration_for_each_bin_that_holds_something():
    nan = torch.nan
    result = Calibration(torch.tensor([0.1, nan, 0.9]), torch.tensor([0.2, nan, 0.6]), torch.tensor([30, 0, 10]))
    ax = plot_calibration(result)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[0.1, 0.2], [0.9, 0.6]])
    large, small = ax.collections[0].get_sizes()
    assert large > small
    assert ax.get_title() == "expected calibration error 0.150"  # (30 · 0.1 + 10 · 0.3) / 40


def test_errors_in_a_picture_right_wrong_and_missed():
    target = target_of(boxes_at([0, 0, 10, 10], [40, 0, 50, 10], [20, 20, 30, 30]), [1, 1, 2])
    prediction = prediction_of(boxes_at([0, 0, 10, 10], [40, 0, 50, 10]), [1, 2], [0.9, 0.8])
    ax = show_errors(np.zeros((40, 60, 3), np.uint8), prediction, target)
    drawn = {}
    for collection in ax.collections:
        for path in collection.get_paths():
            color = mpl.colors.to_hex(collection.get_edgecolor()[0])
            drawn.setdefault(color, []).append(path.get_extents().extents.tolist())
    assert drawn[PALETTE[2]] == [[0, 0, 10, 10]] and drawn[PALETTE[7]] == [[40, 0, 50, 10]]
    assert [20, 20, 30, 30] in drawn["#ffffff"]
    assert [text.get_text() for text in ax.texts] == ["bicycle: classification"]

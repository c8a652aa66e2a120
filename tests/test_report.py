"""The report: what a reader without eyes finds in it, numbers against the evaluation, and names from strangers."""

import base64
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from detections import GOOD, boxes_at, prediction_of, random_case, target_of
from PIL import Image

from frcnn_common.errors import ERRORS, calibration, confusion_matrix, error_breakdown
from frcnn_common.evaluation_plots import show_errors
from frcnn_common.metrics import evaluate_detections
from frcnn_common.report import WorstPictures, mistakes, report_page

NAMES = ("__background__", "cat", "dog", "cow", "cup")
EVIL = ("", "<script>alert(1)</script>", '" onerror="alert(2)', "$\\frac$ & <b>", "{0}")


class Page(HTMLParser):
    """A page as a browser takes it: tags, attributes, tables by name, images. Fails where tags do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tables, self.images, self.words = [], [], {}, [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if attributes.get("role") == "region":
            self.tables[attributes["aria-label"]] = self.table = []
        elif tag == "tr":
            self.table.append([])
        elif tag == "img":
            self.images.append(attributes)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.setdefault(self.open[-1] if self.open else None, []).append(text)
        if self.open and self.open[-1] in ("td", "th"):
            self.table[-1].append(text)


def report(predictions, targets, names=NAMES, most=12, size=(360, 360), title="tiny on images"):
    worst = WorstPictures(names, most)
    for n, pair in enumerate(zip(predictions, targets, strict=True)):
        worst.add(Image.new("RGB", size, "gray"), *pair, f"image {n}")
    evaluation = evaluate_detections(predictions, targets, num_classes=len(names), names=names)
    return evaluation, worst, report_page(evaluation, predictions, targets, worst, title)


def number(text):
    return math.nan if text == "–" else float(text.replace(",", ""))


@pytest.mark.parametrize("seed", [1, 2, 6])
def test_numbers_in_the_page_are_those_of_the_evaluation(seed):
    predictions, targets = random_case(seed)
    evaluation, _, text = report(predictions, targets)
    tables = Page(text).tables
    twelve = {name: number(value) for name, value in tables["COCO's twelve numbers"][1:]}
    assert twelve == pytest.approx(evaluation.summary(), abs=6e-4, nan_ok=True)
    by_class = {row[0]: [number(value) for value in row[1:]] for row in tables["By class"][1:]}
    ap = {name: row[0] for name, row in by_class.items() if not math.isnan(row[0])}
    assert ap == pytest.approx(evaluation.per_class(), abs=6e-4)
    breakdown = error_breakdown(predictions, targets, num_classes=5)
    assert {kind: number(count) for kind, count, _ in tables["Errors by kind"][1:]} == breakdown.counts
    assert [number(row[2]) for row in tables["Errors by kind"][1:]] == pytest.approx(
        list(breakdown.gains.values()), abs=6e-4
    )
    counts = confusion_matrix(predictions, targets, num_classes=5)
    for label, name in enumerate(NAMES[1:], start=1):
        if name in by_class:
            objects, right, other, missed, on_nothing = by_class[name][2:]
            assert objects == counts[label].sum() == right + other + missed
            assert right == counts[label, label] and on_nothing == counts[0, label]
    rows = tables["Confusions"][1:]
    assert all(counts[NAMES.index(taken), NAMES.index(name)] == number(times) for taken, name, times in rows)
    result = calibration(predictions, targets, num_classes=5)
    columns = [[number(value) for value in column] for column in list(zip(*tables["Calibration"][1:], strict=True))[1:]]
    for column, expected in zip(columns, (result.counts, result.scores, result.shares), strict=True):
        assert column == pytest.approx(expected.tolist(), abs=6e-4, nan_ok=True)


def test_the_page_needs_nothing_beside_itself():
    page = Page(report(*random_case(2))[2])
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "form", "a"} == set()
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("href", "srcset", "data") for name in attributes)
    assert all(image["src"].startswith("data:image/") for image in page.images)
    assert "url(" not in "".join(page.words["style"]) and "@import" not in "".join(page.words["style"])
    policy = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_one_title_one_first_heading_and_words_for_every_picture():
    page = Page(report(*random_case(2), title="<tiny>")[2])
    assert page.words["h1"] == page.words["title"] == ["<tiny>"] and dict(page.tags)["html"] == {"lang": "en"}
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings == ["h1"] + ["h2"] * 7
    assert all(len(image["alt"]) > 20 for image in page.images)
    for image in page.images:
        assert Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).width > 300


def test_names_from_strangers_are_text():
    predictions, targets = random_case(2)
    _, _, text = report(predictions, targets, EVIL, title=EVIL[1])
    page = Page(text)
    assert "script" not in dict(page.tags) and "onerror" not in str([set(a) for _, a in page.tags])
    assert set(EVIL[1:]) & set(page.words["th"]) and page.words["h1"] == [EVIL[1]]


def test_the_worst_pictures_come_in_their_order_with_what_is_wrong_in_words():
    target = target_of(boxes_at([0, 0, 90, 90], [200, 0, 290, 90]), [1, 2])
    right = prediction_of(target["boxes"], [1, 2], [0.9, 0.9])
    wrong = prediction_of(target["boxes"], [1, 3], [0.9, 0.75])
    half = prediction_of(target["boxes"][:1], [1], [0.9])
    unsure = prediction_of(target["boxes"], [1, 2], [0.9, 0.4])
    _, worst, text = report([right, wrong, half, unsure], [target] * 4, most=2)
    assert [(kept.name, kept.words) for kept in worst.kept] == [
        ("image 2", ["dog: missed"]),
        ("image 3", ["dog: missed"]),
    ]
    _, worst, text = report([right, wrong, half, unsure], [target] * 4)
    assert [kept.badness for kept in worst.kept] == [1, 1, 0.75]
    page = Page(text)
    assert page.words["li"] == ["dog: missed", "dog: missed", "cow 0.75: classification (dog)"]


def test_mistakes_by_hand():
    target = target_of(boxes_at([0, 0, 10, 10], [40, 0, 50, 10], [80, 0, 90, 10]), [1, 2, 3])
    places = boxes_at([0, 0, 10, 10], [0, 0, 10, 9], [45, 0, 55, 10], [45, 0, 55, 10], [200, 0, 210, 10])
    prediction = prediction_of(places, [1, 1, 2, 4, 4], [0.5, 0.25, 1.0, 0.125, 0.75])
    assert mistakes(prediction, target, NAMES) == (
        1.0 + 0.75 + 0.25 + 0.125 + 1,
        [
            "dog 1.00: localization",
            "cup 0.75: background",
            "cat 0.25: duplicate",
            "cup 0.12: both",
            "cow: missed",
        ],
    )


def test_tags_words_and_table_name_the_kinds_alike():
    """The same detections, in a picture, in a list and in a table, under the same words; the page explains each."""
    target = target_of(boxes_at([0, 0, 10, 10], [40, 0, 50, 10], [80, 0, 90, 10]), [1, 2, 3])
    places = boxes_at([0, 0, 10, 10], [0, 0, 10, 9], [45, 0, 55, 10], [45, 0, 55, 10], [80, 0, 90, 10], [20, 0, 30, 9])
    prediction = prediction_of(places, [1, 1, 2, 4, 4, 4], [0.5, 0.75, 1.0, 0.875, 0.75, 0.75])
    words = {phrase.split(": ")[1].split(" (")[0] for phrase in mistakes(prediction, target, NAMES)[1]}
    tags = show_errors(np.zeros((20, 100, 3), np.uint8), prediction, target, names=NAMES).texts
    assert words == {tag.get_text().split(": ")[1] for tag in tags} == {*ERRORS} - {"missed"}
    page = Page(report([prediction], [target])[2])
    assert [row[0] for row in page.tables["Errors by kind"][1:]] == [*ERRORS]
    assert all(any(f"{word.capitalize()}:" in text for text in page.words["p"]) for word in words)


def test_a_picture_with_many_mistakes_names_the_first_and_counts_the_others():
    boxes = boxes_at(*[[20 * n, 0, 20 * n + 10, 10] for n in range(11)])
    page = Page(report([prediction_of(boxes_at(), [], [])], [target_of(boxes, [1] * 11)])[2])
    assert page.words["li"] == ["cat: missed"] * 8 + ["and 3 more"]


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000)])
def test_a_picture_of_any_shape_can_be_drawn(size):
    Page(report([prediction_of(boxes_at(), [], [])], [target_of(boxes_at([0, 0, 1, 1]), [1])], size=size)[2])


@pytest.mark.filterwarnings("error")
def test_a_page_without_objects_or_without_mistakes():
    nothing, target = prediction_of(boxes_at(), [], []), target_of(boxes_at(), [])
    page = Page(report([nothing], [target])[2])
    assert all(value == "–" for _, value in page.tables["COCO's twelve numbers"][1:])
    assert Page(report([GOOD], [target])[2]).tables["By class"][1] == ["cat", "–", "–", "0", "0", "0", "0", "1"]
    page = Page(report([GOOD], [{key: GOOD[key] for key in ("boxes", "labels")}])[2])
    assert "Nothing is wrong in any picture." in page.words["p"] and page.tables["Confusions"] == [
        ["object", "taken for", "times"]
    ]


def test_pictures_of_other_modes_are_kept():
    for mode in ("RGBA", "P", "L"):
        worst = WorstPictures(NAMES)
        worst.add(Image.new(mode, (20, 20)), prediction_of(boxes_at(), [], []), GOOD, "image 0")
        assert len(worst.kept) == 1

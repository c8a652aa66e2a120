"""What the course says to those who write its parts: a word for each mistake, and none against what is right."""

import ast
import contextlib
import io
import itertools
import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from variants import VARIANTS

from frcnn_common import lessons
from frcnn_common.boxes import box_iou, clip_boxes
from frcnn_common.lessons import PARTS, check, my_parts, stub
from frcnn_common.parts import copied, difference, shown

EVERY_PART = pytest.mark.parametrize("name", PARTS)


def message(name, mine):
    """What `check` answers; it must have printed the same."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        answer = check(name, mine)
    assert printed.getvalue() == f"{answer.message}\n" and repr(answer) == answer.message
    assert answer.name == name and bool(answer) is answer.ok
    return answer.message


# ------------------------------------------------------------------------------------------- each part


def test_there_are_the_parts_that_the_chapters_ask_for():
    by_chapter = [[name for name, part in PARTS.items() if part.chapter == number] for number in range(1, 7)]
    assert len(PARTS) >= 24 and min(map(len, by_chapter)) >= 3
    assert all(len(part.mistakes) >= 5 for part in PARTS.values())
    assert PARTS.keys() == VARIANTS.keys() and all(len(versions) >= 2 for versions in VARIANTS.values())


@EVERY_PART
def test_every_mistake_is_told_by_its_own_name(name):
    for sentence, version in PARTS[name].mistakes.items():
        told = message(name, version)
        assert told.startswith(f"{name}: not yet. It looks like this:\n    {sentence}\n    Seen in "), told


@EVERY_PART
def test_hidden_cases_tell_all_versions_apart(name):
    """No two wrong versions agree in all cases, nor does one with the right one."""
    part = PARTS[name]
    versions = {"right": part.right, **part.mistakes}
    with torch.random.fork_rng(devices=[]):
        results = {
            sentence: [copied(part.run(version, *copied(case))) for case in part.cases().values()]
            for sentence, version in versions.items()
        }
    for (one, mine), (other, theirs) in itertools.combinations(results.items(), 2):
        pairs = zip(mine, theirs, strict=True)
        assert any(difference(a, b, part.outputs) for a, b in pairs), f"{one} | {other}"


@pytest.mark.parametrize(("name", "number"), [(name, i) for name, some in VARIANTS.items() for i in range(len(some))])
def test_what_is_right_is_not_refused(name, number):
    told = message(name, VARIANTS[name][number])
    assert told.startswith(f"{name}: right in all {len(PARTS[name].cases())} cases. Yours takes "), told
    assert "times the library's time on " in told


@EVERY_PART
def test_a_stub_is_code_that_says_what_to_write(name):
    text = stub(name)
    (head,) = ast.parse(text).body
    assert head.name == name and len(ast.get_docstring(head).split()) > 20
    assert max(map(len, text.splitlines())) <= 88
    namespace = {"nn": nn}
    exec(text, namespace)  # noqa: S102 - our own text
    assert message(name, namespace[name]) == f"{name}: not written yet."


@EVERY_PART
def test_a_sentence_is_a_sentence(name):
    for sentence in PARTS[name].mistakes:
        first = sentence.split()[0]
        assert first[0].isupper() or "_" in first or first in {"tw", "p6", "k0", "step", "beta"}, sentence
        assert sentence.endswith(".") and len(sentence) < 180, sentence


# --------------------------------------------------------------------------- what else an answer can say


@pytest.mark.parametrize("nothing", [lambda a, b: None, lambda a, b: ...])
def test_what_returns_nothing_is_not_written_yet(nothing):
    assert message("box_iou", nothing) == "box_iou: not written yet."


def test_what_returns_nothing_in_a_later_case_is_told_so():
    told = message("box_iou", lambda a, b: box_iou(a, b) if len(a) else None)
    assert told == "box_iou: not yet. With no boxes against two (case 8 of 9) it returns nothing."


def test_a_module_without_forward_is_not_written_yet():
    assert message("RPNHead", type("RPNHead", (PARTS["RPNHead"].right,), {"forward": nn.Module.forward})).endswith(
        "not written yet."
    )


def test_an_unknown_part_names_the_parts():
    told = message("boxiou", box_iou)
    assert told.startswith("There is no part 'boxiou'. Did you mean 'box_iou'? The parts are: box_iou, ")
    assert all(name in told for name in PARTS)
    with pytest.raises(ValueError, match="There is no part 'x'"):
        stub("x")


def test_the_result_instead_of_the_part():
    told = message("box_iou", torch.zeros(1))
    assert told == "box_iou: not yet. Hand over box_iou itself, not what it returns: check('box_iou', box_iou)."
    told = message("TwoMLPHead", PARTS["TwoMLPHead"].right(4, 4))
    assert told.startswith("TwoMLPHead: not yet. Hand over the class itself, not one that was made")


def test_a_change_in_place_is_told_by_the_argument():
    def in_place(boxes, image_size):
        boxes[:, 0::2].clamp_(0, image_size[1])
        boxes[:, 1::2].clamp_(0, image_size[0])
        return boxes

    told = message("clip_boxes", in_place)
    assert "With a box over the left and upper edge (case 2 of 7) it changes its argument boxes in place" in told


def test_a_view_of_the_argument_is_a_result():
    def same_if_inside(boxes, image_size):
        clipped = clip_boxes(boxes, image_size)
        return boxes[:] if torch.equal(clipped, boxes) else clipped

    assert check("clip_boxes", same_if_inside)


def wrong_size(boxes_a, boxes_b):
    return boxes_a[:, :2] + torch.zeros(7, 2)  # the culprit


def wrong_name(boxes_a, boxes_b):
    return boxes_c  # noqa: F821


def wrong_place(boxes_a, boxes_b):
    return list(boxes_a)[1]


def wrong_axis(boxes_a, boxes_b):
    return boxes_a.sum(dim=5)


def wrong_mask(boxes_a, boxes_b):
    return boxes_a[boxes_b[0] > 0]


def nothing_to_stack(boxes_a, boxes_b):
    return torch.stack([])


def wrong_number(boxes_a):
    return boxes_a


def within_torch(boxes_a, boxes_b):
    return torch.nn.functional.interpolate(boxes_a, size=3)  # stops deep inside


NO_PLACE = "an index or a dimension is used that the tensor or list does not have"


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        (wrong_name, ["a name is used that is not defined", "return boxes_c", "NameError: name 'boxes_c'"]),
        (wrong_place, [NO_PLACE, "return list(boxes_a)[1]", "IndexError"]),
        (wrong_axis, [NO_PLACE, "return boxes_a.sum(dim=5)", "IndexError: Dimension out of range"]),
        (wrong_mask, ["two shapes do not fit together", "return boxes_a[boxes_b[0] > 0]", "IndexError: The shape of"]),
        (nothing_to_stack, ["max, stack or cat is given nothing at all", "return torch.stack([])", "RuntimeError"]),
        (wrong_number, ["it cannot be called as box_iou(boxes_a, boxes_b)", "TypeError"]),
        (within_torch, ["in line ", "size=3)  # stops deep inside"]),
    ],
)
def test_an_error_is_a_sentence_with_the_line(mine, words):
    told = message("box_iou", mine)
    assert told.startswith("box_iou: not yet. With a box and itself (case 1 of 9) ")
    assert all(word in told for word in words), told
    assert "Traceback" not in told and len(told.splitlines()) <= 4


def test_shapes_that_do_not_fit_are_told_so():
    told = message("box_iou", lambda a, b: wrong_size(a, b) if len(a) == 3 else box_iou(a, b))
    line = wrong_size.__code__.co_firstlineno + 1
    assert f"(case 9 of 9) two shapes do not fit together, in line {line} of your code" in told
    assert "torch.zeros(7, 2)  # the culprit" in told


def test_a_result_of_another_form_is_told_so():
    told = message("subsample", lambda labels, size, pos_frac: torch.tensor(3))
    assert "what it returns is not of the form that the docstring says" in told


def test_an_error_beyond_the_cases_is_a_sentence_too():
    told = message("box_iou", lambda a, b: box_iou(a, b) if len(a) < 4 else 1 / 0)
    assert told.startswith("box_iou: not yet. With more than in the cases a number is divided by zero, in line ")


def test_an_interrupt_is_not_caught():
    def stopped(boxes_a, boxes_b):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("box_iou", stopped)


def test_a_new_mistake_is_shown_by_its_smallest_case():
    told = message("box_iou", lambda a, b: box_iou(a, b).clamp(max=0.5))
    assert told.splitlines() == [
        "box_iou: not yet. 3 of 9 cases come out differently. With a box and itself:",
        "    boxes_a = [[0, 0, 10, 10]]",
        "    boxes_b = [[0, 0, 10, 10]]",
        "    the result is [[0.5]]; expected is [[1]]",
    ]


def test_two_mistakes_at_once_are_both_told():
    def first_attempt(boxes_a, boxes_b):
        a, b = boxes_a[:, None], boxes_b[None]
        inter = (torch.minimum(a, b)[..., 2:] - torch.maximum(a, b)[..., :2]).prod(dim=-1)
        areas = [(boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) for boxes in (a, b)]
        return inter / (sum(areas) - inter)

    told = message("box_iou", first_attempt).splitlines()
    assert told[0] == "box_iou: not yet. It looks like two mistakes:"
    assert told[1].startswith("    The intersection of boxes apart is not clamped at 0")
    assert told[2].startswith("    It is 0/0 where the union is empty")
    assert told[3] == "    Seen in 3 of 9 cases, first with two boxes apart."


def test_a_maximum_over_nothing_is_told_so():
    told = message("assign_anchors", lambda anchors, gt_boxes, *thr: box_iou(anchors, gt_boxes).max(dim=1)[::-1])
    assert "With no objects (case 8 of 9) a function such as max, stack or cat is given nothing at all, in line" in told


def test_losses_may_come_in_a_dict():
    right = PARTS["rpn_losses"].right
    assert check("rpn_losses", lambda *case: dict(zip(("rpn_cls", "rpn_box"), right(*case), strict=True)))
    assert "the number of losses is 1; expected is 2" in message("rpn_losses", lambda *case: right(*case)[0])


def test_what_is_no_module_is_told_so():
    assert "what is made is a list of 1; expected is an nn.Module" in message("make_stage", lambda *options: [1])


def test_names_of_parameters_are_told():
    class Renamed(PARTS["TwoMLPHead"].right):
        def __init__(self, *options):
            super().__init__(*options)
            self.first = self.fc1
            del self.fc1

    told = message("TwoMLPHead", Renamed)
    assert "the parameters differ; missing: fc1.bias [6], fc1.weight [6, 4]; not expected: first.bias [6]" in told


class PlainHead(PARTS["RPNHead"].right):
    """Layers in another order than the library's, with PyTorch's start."""

    def __init__(self, in_ch, k):
        nn.Module.__init__(self)
        self.cls, self.box = nn.Conv2d(in_ch, k, 1), nn.Conv2d(in_ch, 4 * k, 1)
        self.conv = nn.Conv2d(in_ch, in_ch, 3, padding=1)


class PlainPredictor(PARTS["FastRCNNPredictor"].right):
    """The same for the other head."""

    def __init__(self, in_channels, num_classes):
        nn.Module.__init__(self)
        self.box = nn.Linear(in_channels, 4 * num_classes)
        self.cls = nn.Linear(in_channels, num_classes)


@pytest.mark.parametrize(("name", "plain"), [("RPNHead", PlainHead), ("FastRCNNPredictor", PlainPredictor)])
def test_a_start_that_was_forgotten_is_told_whatever_the_order_of_the_layers(name, plain):
    class WithoutZeros(plain):
        def __init__(self, *options):
            super().__init__(*options)
            for layer in self.children():
                box = name == "FastRCNNPredictor" and layer is self.box
                nn.init.normal_(layer.weight, std=0.001 if box else 0.01)

    assert "    The weights start as PyTorch has them" in message(name, plain)
    assert "    The biases do not start at 0" in message(name, WithoutZeros)


def test_step_before_backward_is_told_also_with_zero_grad():
    def train(model, batches, optimizer, lr_at, steps):
        history = []
        model.train()
        for step, batch in zip(range(steps), batches, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = lr_at(step)
            loss = sum(model(*batch).values())
            optimizer.step()
            optimizer.zero_grad()
            loss.backward()
            history.append(loss.item())
        return history

    assert "    step comes before backward" in message("train", train)


def test_whole_numbers_have_to_be_whole():
    right = PARTS["assign_levels"].right
    told = message("assign_levels", lambda *case: right(*case).float())
    assert "the result is of type float32; expected is int64" in told


def test_a_check_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    message("subsample", PARTS["subsample"].right)
    assert torch.equal(torch.rand(2), expected)


def test_nothing_is_shown_twice_in_a_notebook():
    assert check("box_iou", box_iou)._ipython_display_() is None


# ------------------------------------------------------------------------------- all of them together


def page_of(folder, name, *cells):
    """A notebook with these code cells."""
    page = {"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]}
    (folder / name).write_text(json.dumps(page))


def put_together(folder, capsys):
    my = my_parts(folder)
    own = {name for name, part in PARTS.items() if getattr(my, name) is not part.right}
    return my, own, capsys.readouterr().out.splitlines()


RIGHT_CLIP = """
import numpy as np

print("is not run")

def limits(image_size):
    return np.array(image_size)

def clip_boxes(boxes, image_size):
    height, width = limits(image_size).tolist()
    return torch.stack([b.clamp(0, s) for b, s in zip(boxes.T, (width, height) * 2)], dim=1)
"""


def test_the_first_right_part_is_taken_with_what_its_cell_defines(tmp_path, capsys):
    wrong = "def clip_boxes(boxes, image_size):\n    return boxes"
    page_of(tmp_path, "01_data.ipynb", "%matplotlib inline", "def clip_boxes(", wrong, RIGHT_CLIP, wrong)
    page_of(tmp_path, "notes.ipynb", RIGHT_CLIP.replace("clip_boxes", "box_iou"))
    my, own, told = put_together(tmp_path, capsys)
    assert own == {"clip_boxes"} and told[0] == f"1 of {len(PARTS)} parts come from the notebooks."
    assert len(told) == 2 and told[1].startswith("The library's, in no notebook here: box_iou, encode_boxes, ")
    assert my.clip_boxes(torch.tensor([[-1.0, 2.0, 30.0, 40.0]]), (20, 10)).tolist() == [[0, 2, 10, 20]]


def test_why_a_part_is_the_librarys(tmp_path, capsys):
    cells = stub("nms"), "def box_iou(a, b):\n    return a", "import nowhere\ndef detect():\n    pass"
    page_of(tmp_path, "03_rpn.ipynb", *cells)
    _, own, told = put_together(tmp_path, capsys)
    assert own == set() and set(told[1:]) >= {
        "The library's, not written yet: nms",
        "The library's, not right yet: box_iou",
        "The library's, since the cell stops with an error: detect",
    }


def test_parts_call_each_other(tmp_path, capsys):
    calls = """
def batched_nms(boxes, scores, groups, iou_thr):
    return nms(boxes.double() + 1e4 * groups[:, None], scores, iou_thr)
"""
    walk = """
def nms(boxes, scores, iou_thr):
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not kept or box_iou(boxes[i : i + 1], boxes[kept]).max() <= iou_thr:
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)
"""
    page_of(tmp_path, "03_rpn.ipynb", calls)
    page_of(tmp_path, "06_inference.ipynb", walk)
    my, own, _ = put_together(tmp_path, capsys)
    assert own == {"nms", "batched_nms"}
    assert my.batched_nms.__globals__["nms"] is my.nms and my.nms.__globals__["box_iou"] is box_iou


# ----------------------------------------------------------------------------------------- comparisons


@pytest.mark.parametrize(
    ("got", "expected", "words"),
    [
        (torch.zeros(2), torch.zeros(2, 1), "x is of shape [2]; expected is [2, 1]"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), "x is of type float32; expected is int64"),
        (torch.ones(2).bool(), torch.ones(2).long(), "x is of type bool; expected is int64"),
        (torch.ones(2).bool(), torch.ones(2), "x is of type bool; expected is float32"),
        (torch.ones(2).long(), torch.ones(2), None),
        (torch.zeros(2).long(), torch.ones(2), "x is [0, 0]; expected is [1, 1]"),
        (torch.tensor([1.0, float("nan")]), torch.ones(2), "x is [1, nan]; expected is [1, 1]"),
        (torch.arange(20), torch.zeros(20).long(), "x is 1 at [1]; expected is 0 there (19 of 20 numbers differ)"),
        (torch.zeros(2), (torch.zeros(1),) * 2, "x is one tensor [2]; expected are 2 values: x[0], x[1]"),
        ([1], (torch.zeros(1),) * 2, "x is a list of 1; expected are 2 values: x[0], x[1]"),
        ([1, 3], [1, 2], "x is [1, 3]; expected is [1, 2]"),
        (None, [1, 2], "x is no tensor; expected is one of shape [2]"),
        (3, {"boxes": 1}, "x is of type int; expected is a dict with boxes"),
        ({"a": 2}, {"a": 2, "boxes": 1}, "the entry 'boxes' is missing"),
        ({"a": 3}, {"a": 2, "boxes": 1}, "a is 3; expected is 2"),
        ("one", "two", "x is one; expected is two"),
        ("no", torch.zeros(2), "x is no tensor; expected is one of shape [2]"),
    ],
)
def test_a_difference_in_words(got, expected, words):
    assert difference(got, expected, name="x") == words


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (torch.zeros(2, dtype=torch.float64), torch.zeros(2)),
        (torch.full((3,), 100.001), torch.full((3,), 100.0)),
        ([1, 2], torch.tensor([1, 2], dtype=torch.int32)),
        ([torch.tensor(1.0), torch.tensor(2.0)], torch.tensor([1.0, 2.0])),
        ([0, 1], torch.tensor([False, True])),
        ([], torch.empty(0, dtype=torch.int64)),
        (1, torch.tensor(1.0)),
        (torch.tensor([float("nan"), float("inf")]), torch.tensor([float("nan"), float("inf")])),
        ((torch.zeros(1), [1]), [torch.zeros(1), torch.tensor([1])]),
        ({"a": 1, "b": 2}, {"a": 1}),
    ],
)
def test_what_counts_as_equal(got, expected):
    assert difference(got, expected) is None


def test_values_are_shown_briefly():
    assert shown(torch.tensor([[0.1, 1 / 3]])) == "[[0.1, 0.33333]]"
    assert shown((torch.zeros(5, 4), 8, 0.5, nn.ReLU())) == "(float32 [5, 4], 8, 0.5, ReLU)"
    assert shown({"boxes": torch.zeros(0, 4)}) == "{'boxes': float32 [0, 4]}"


def test_the_package_does_not_import_its_lessons():
    code = "import sys, frcnn_common; print(sorted(m for m in sys.modules if 'lessons' in m or '.parts' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "frcnn_common" not in done.stdout


def test_every_page_of_parts_is_in_the_registry():
    pages = {module for module in dir(lessons) if module.endswith("_PARTS")}
    assert len(pages) == 13 and sum(len(getattr(lessons, page)) for page in pages) == len(PARTS)


class WithLosses(nn.Linear):
    def forward(self, images, targets):
        return {"loss": super().forward(images).sum()}


def test_the_librarys_loop_takes_no_more_batches_than_steps():
    taken = []
    model = WithLosses(2, 1)
    batches = ((torch.ones(1, 2), taken.append(0)) for _ in itertools.count())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = PARTS["train"].right(model, batches, optimizer, lambda step: 0.1, 3)
    assert len(losses) == len(taken) == 3

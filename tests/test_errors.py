"""Errors by kind, mixed-up names and calibration: hand-made cases, definitions, and COCO's evaluator as a peer."""

import math

import pytest
import torch
from detections import GOOD, boxes_at, prediction_of, random_case, target_of

from frcnn_common.boxes import box_iou
from frcnn_common.errors import (
    ERRORS,
    calibration,
    confusion_matrix,
    detection_errors,
    error_breakdown,
    most_confused,
)
from frcnn_common.metrics import evaluate_detections


def kinds_of(prediction, target):
    return detection_errors(prediction, target)[0]


def test_each_kind_by_hand():
    target = target_of(boxes_at([0, 0, 10, 10], [40, 0, 50, 10]), [1, 2])
    cases = {
        "correct": ([0, 0, 10, 10], 1),
        "classification": ([0, 0, 10, 10], 2),
        "localization": ([5, 0, 15, 10], 1),  # overlap 1/3
        "both": ([5, 0, 15, 10], 3),
        "background": ([9, 0, 19, 10], 1),  # overlap 1/19
    }
    for kind, (box, label) in cases.items():
        assert kinds_of(prediction_of(boxes_at(box), [label], [0.5]), target) == [kind]
    twice = prediction_of(boxes_at([0, 0, 10, 10], [0, 0, 10, 9]), [1, 1], [0.4, 0.5])
    kinds, meant, missed = detection_errors(twice, target)
    assert kinds == ["duplicate", "correct"] and meant.tolist() == [-1, 0] and missed.tolist() == [1]


def test_place_goes_before_class():
    target = target_of(boxes_at([0, 0, 10, 10], [5, 0, 15, 10]), [1, 2])
    assert kinds_of(prediction_of(boxes_at([0, 0, 10, 10]), [2], [0.5]), target) == ["localization"]


def test_crowds_are_neither_right_nor_wrong():
    target = target_of(boxes_at([0, 0, 100, 100], [0, 0, 10, 10]), [1, 2], iscrowd=torch.tensor([1, 0]))
    inside = prediction_of(boxes_at([20, 20, 30, 30], [20, 20, 30, 30]), [1, 2], [0.5, 0.5])
    kinds, _, missed = detection_errors(inside, target)
    assert kinds == ["ignored", "background"] and missed.tolist() == [0]
    assert error_breakdown([inside], [target]).counts == dict.fromkeys(ERRORS, 0) | {"background": 1, "missed": 1}


def test_images_without_objects_or_detections():
    nothing = prediction_of(boxes_at(), [], [])
    target = target_of(boxes_at([0, 0, 10, 10]), [1])
    assert detection_errors(nothing, target)[2].tolist() == [0]
    assert kinds_of(GOOD, target_of(boxes_at(), [])) == ["background"]
    breakdown = error_breakdown([nothing], [target])
    assert breakdown.AP50 == 0 and breakdown.gains == dict.fromkeys(ERRORS, 0) | {"missed": 1}
    assert math.isnan(error_breakdown([GOOD], [target_of(boxes_at(), [])]).AP50)


def test_gains_by_hand():
    # one person found, above it a bird where the other person stands: putting the class right finds both
    target = target_of(boxes_at([0, 0, 10, 10], [40, 0, 50, 10]), [1, 1])
    prediction = prediction_of(boxes_at([40, 0, 50, 10], [0, 0, 10, 10]), [15, 1], [0.9, 0.5])
    breakdown = error_breakdown([prediction], [target])
    assert breakdown.AP50 == pytest.approx(51 / 101)
    assert breakdown.gains["classification"] == pytest.approx(50 / 101)
    # a duplicate between two right ones costs precision on the second half
    prediction = prediction_of(boxes_at([0, 0, 10, 10], [0, 0, 10, 9], [40, 0, 50, 10]), [1, 1, 1], [0.9, 0.8, 0.7])
    breakdown = error_breakdown([prediction], [target])
    assert breakdown.counts["duplicate"] == 1
    assert breakdown.gains["duplicate"] == pytest.approx(1 - (51 + 50 * 2 / 3) / 101)


@pytest.mark.parametrize("seed", range(30))
def test_every_detection_has_one_kind_and_mending_never_costs(seed):
    predictions, targets = random_case(seed)
    breakdown = error_breakdown(predictions, targets)
    kinds = [kind for pair in zip(predictions, targets, strict=True) for kind in kinds_of(*pair)]
    found = sum(len(p["labels"]) for p in predictions)
    assert len(kinds) == found and set(kinds) <= {"correct", "ignored", *ERRORS[:-1]}
    assert sum(breakdown.counts[kind] for kind in ERRORS[:-1]) == sum(kind in ERRORS for kind in kinds)
    assert all(gain >= -1e-12 for gain in breakdown.gains.values() if not math.isnan(gain))


def test_kinds_follow_their_definition():
    for seed in range(30):
        for prediction, target in zip(*random_case(seed), strict=True):
            kinds, meant, missed = detection_errors(prediction, target)
            plain = target["iscrowd"] == 0
            ious = box_iou(prediction["boxes"].double(), target["boxes"][plain].double())
            labels = target["labels"][plain]
            for d, kind in enumerate(kinds):
                own = max(ious[d, labels == prediction["labels"][d]].tolist(), default=0)
                other = max(ious[d, labels != prediction["labels"][d]].tolist(), default=0)
                holds = {
                    "correct": own >= 0.5,
                    "ignored": True,
                    "background": max(own, other) < 0.1,
                    "localization": 0.1 <= own < 0.5,
                    "classification": other >= 0.5,
                    "duplicate": own >= 0.5,
                    "both": own < 0.1 <= other < 0.5,
                }
                assert holds[kind]
            assert not set(missed.tolist()) & set(meant.tolist())


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_equals_the_evaluator(seed):
    predictions, targets = random_case(seed)
    targets = [target_of(t["boxes"], t["labels"].tolist()) for t in targets]
    breakdown, result = error_breakdown(predictions, targets), evaluate_detections(predictions, targets)
    assert breakdown.AP50 == pytest.approx(result.AP50, abs=1e-6, nan_ok=True)


def test_average_precision_with_crowds_equals_the_evaluator():
    for seed in range(40):
        predictions, targets = random_case(seed)
        result = evaluate_detections(predictions, targets)
        assert error_breakdown(predictions, targets).AP50 == pytest.approx(result.AP50, abs=1e-6, nan_ok=True)


def test_a_malformed_prediction_is_named():
    with pytest.raises(ValueError, match=r"prediction of image 1: box 0 is \[0.0, 0.0, -1.0, 5.0\]"):
        error_breakdown([GOOD, GOOD | {"boxes": torch.tensor([[0.0, 0, -1, 5]])}], [GOOD, GOOD])


def filled(counts):
    """The cells of a confusion matrix that are not empty: (object, detection): times."""
    return {tuple(place): int(counts[tuple(place)]) for place in counts.nonzero().tolist()}


def test_a_confusion_matrix_by_hand():
    # a person and a dog; the dog is called a cat, the person is found twice, and a cup stands on nothing
    target = target_of(boxes_at([0, 0, 10, 10], [40, 0, 50, 10], [80, 0, 90, 10]), [1, 3, 3])
    places = boxes_at([0, 0, 10, 10], [0, 0, 10, 9], [40, 0, 50, 10], [200, 0, 210, 10], [80, 0, 90, 10])
    prediction = prediction_of(places, [1, 1, 2, 4, 3], [0.9, 0.8, 0.7, 0.6, 0.4])
    counts = confusion_matrix([prediction], [target], num_classes=5)
    assert counts.dtype == torch.int64
    assert filled(counts) == {(1, 1): 1, (0, 1): 1, (3, 2): 1, (0, 4): 1, (3, 0): 1}
    assert most_confused(counts) == [(3, 2, 1)]
    everything = confusion_matrix([prediction, prediction], [target, target], num_classes=5, score_thr=0.05)
    assert filled(everything) == {(1, 1): 2, (0, 1): 2, (3, 2): 2, (0, 4): 2, (3, 3): 2}


def test_a_higher_score_takes_the_object_whatever_its_class():
    target = target_of(boxes_at([0, 0, 10, 10]), [1])
    for scores, expected in (([0.9, 0.8], {(1, 2): 1, (0, 1): 1}), ([0.8, 0.9], {(1, 1): 1, (0, 2): 1})):
        prediction = prediction_of(boxes_at([0, 0, 10, 9], [0, 0, 10, 10]), [2, 1], scores)
        assert filled(confusion_matrix([prediction], [target], num_classes=3)) == expected


def test_a_detection_takes_the_free_object_that_it_overlaps_most():
    target = target_of(boxes_at([0, 0, 10, 10], [2, 0, 12, 10]), [1, 2])  # overlap 2/3
    prediction = prediction_of(boxes_at([2, 0, 12, 10], [2, 0, 12, 10]), [1, 2], [0.9, 0.8])
    assert filled(confusion_matrix([prediction], [target], num_classes=3)) == {(2, 1): 1, (1, 2): 1}
    strict = confusion_matrix([prediction], [target], num_classes=3, iou_thr=0.7)
    assert filled(strict) == {(2, 1): 1, (0, 2): 1, (1, 0): 1}


def test_the_confusion_matrix_leaves_crowds_out():
    target = target_of(boxes_at([0, 0, 100, 100], [0, 0, 10, 10]), [1, 2], iscrowd=torch.tensor([1, 0]))
    inside = prediction_of(boxes_at([20, 20, 30, 30], [20, 20, 30, 30], [0, 0, 10, 10]), [1, 2, 1], [0.9, 0.9, 0.9])
    assert filled(confusion_matrix([inside], [target], num_classes=3)) == {(0, 2): 1, (2, 1): 1}


def test_the_most_frequent_confusion_comes_first():
    counts = torch.tensor([[0, 9, 9, 9], [9, 5, 1, 0], [9, 3, 5, 0], [9, 0, 2, 5]])
    assert most_confused(counts) == [(2, 1, 3), (3, 2, 2), (1, 2, 1)]


@pytest.mark.parametrize("seed", range(30))
def test_rows_add_up_to_objects_and_columns_to_detections(seed):
    predictions, targets = random_case(seed)
    targets = [target_of(t["boxes"], t["labels"].tolist()) for t in targets]
    for score_thr in (0.0, 0.5):
        counts = confusion_matrix(predictions, targets, num_classes=5, score_thr=score_thr)
        objects = torch.cat([t["labels"] for t in targets])
        found = torch.cat([p["labels"][p["scores"] >= score_thr] for p in predictions])
        assert counts[1:].sum(dim=1).tolist() == torch.bincount(objects, minlength=5)[1:].tolist()
        assert counts[:, 1:].sum(dim=0).tolist() == torch.bincount(found, minlength=5)[1:].tolist()
        assert counts[0, 0] == 0


def in_crowd(box, label, target):
    """Whether half of a box lies in a crowd region of its class."""
    for region, kind, crowd in zip(*(target[key].tolist() for key in ("boxes", "labels", "iscrowd")), strict=True):
        width, height = (min(box[n + 2], region[n + 2]) - max(box[n], region[n]) for n in (0, 1))
        area = max((box[2] - box[0]) * (box[3] - box[1]), 1e-12)
        if crowd and kind == label and max(width, 0) * max(height, 0) / area >= 0.5:
            return True
    return False


@pytest.mark.parametrize("seed", range(40))
def test_a_walk_one_by_one_counts_the_same(seed):
    predictions, targets = random_case(seed)
    counts = torch.zeros(5, 5, dtype=torch.int64)
    for prediction, target in zip(predictions, targets, strict=True):
        free = (target["iscrowd"] == 0).nonzero()[:, 0].tolist()
        ious = box_iou(prediction["boxes"].double(), target["boxes"].double())
        for d in prediction["scores"].argsort(descending=True, stable=True).tolist():
            label, best = int(prediction["labels"][d]), max(free, key=lambda g: ious[d, g], default=None)
            if prediction["scores"][d] < 0.3:
                continue
            if best is not None and ious[d, best] >= 0.5:
                counts[target["labels"][best], label] += 1
                free.remove(best)
            elif not in_crowd(prediction["boxes"][d].double().tolist(), label, target):
                counts[0, label] += 1
        for g in free:
            counts[target["labels"][g], 0] += 1
    assert torch.equal(confusion_matrix(predictions, targets, num_classes=5, score_thr=0.3), counts)


@pytest.mark.parametrize("seed", range(20))
def test_with_one_class_the_diagonal_counts_what_is_right(seed):
    predictions, targets = random_case(seed)
    for row in (*predictions, *targets):
        row["labels"] = torch.ones_like(row["labels"])
    kinds = [kind for pair in zip(predictions, targets, strict=True) for kind in kinds_of(*pair)]
    counts = confusion_matrix(predictions, targets, num_classes=2, score_thr=0.0)
    assert counts[1, 1] == kinds.count("correct")
    assert counts[:, 1].sum() == len(kinds) - kinds.count("ignored")


def test_calibration_by_hand():
    corner = torch.arange(5)[:, None] * 20.0
    boxes = torch.cat([corner, corner * 0, corner + 10, corner * 0 + 10], dim=1)
    prediction = prediction_of(boxes, [1] * 5, [0.9, 0.8, 0.7, 0.4, 0.3])
    result = calibration([prediction], [target_of(boxes[[0, 1, 3]], [1, 1, 1])], bins=2)
    assert result.counts.tolist() == [2, 3]
    assert result.scores.tolist() == pytest.approx([0.35, 0.8]) and result.shares.tolist() == pytest.approx(
        [0.5, 2 / 3]
    )
    assert result.error == pytest.approx(2 / 5 * 0.15 + 3 / 5 * (0.8 - 2 / 3))


@pytest.mark.parametrize("seed", range(20))
def test_calibration_follows_its_definition(seed):
    predictions, targets = random_case(seed)
    rows = [
        (score, kind == "correct")
        for p, t in zip(predictions, targets, strict=True)
        for score, kind in zip(p["scores"].tolist(), kinds_of(p, t), strict=True)
        if kind != "ignored"
    ]
    bins = [[row for row in rows if b <= min(round(row[0] * 4, 6), 3.5) < b + 1] for b in range(4)]
    gaps = [abs(sum(right for _, right in part) - sum(score for score, _ in part)) for part in bins]
    result = calibration(predictions, targets, bins=4)
    assert result.counts.tolist() == [len(part) for part in bins]
    assert result.error == pytest.approx(sum(gaps) / len(rows) if rows else math.nan, nan_ok=True)


def test_a_score_on_a_border_belongs_to_the_upper_bin():
    borders = [n / 10 for n in range(11)]
    prediction = prediction_of(boxes_at(*[[0, 0, 1, 1]] * 11), [1] * 11, borders)
    assert calibration([prediction], [target_of(boxes_at(), [])]).counts.tolist() == [1] * 9 + [2]


def test_scores_that_are_the_share_of_right_detections_have_no_error():
    boxes = boxes_at(*[[20 * n, 0, 20 * n + 10, 10] for n in range(100)])
    prediction = prediction_of(boxes, [1] * 100, [0.8] * 100)
    result = calibration([prediction], [target_of(boxes[:80], [1] * 80)])
    assert result.error == pytest.approx(0, abs=1e-6)
    assert result.counts.tolist() == [0] * 8 + [100, 0] and result.scores.isnan().sum() == 9


def test_calibration_leaves_crowds_out_and_counts_a_duplicate_as_wrong():
    target = target_of(boxes_at([0, 0, 100, 100], [200, 0, 210, 10]), [1, 1], iscrowd=torch.tensor([1, 0]))
    places = boxes_at([20, 20, 30, 30], [200, 0, 210, 10], [200, 0, 210, 9])
    result = calibration([prediction_of(places, [1, 1, 1], [0.9, 0.95, 0.92])], [target])
    assert result.counts[9] == 2 and result.shares[9] == 0.5


def test_calibration_of_nothing_has_no_error():
    assert math.isnan(calibration([prediction_of(boxes_at(), [], [])], [GOOD]).error)


def test_a_score_that_is_no_probability_is_named():
    with pytest.raises(ValueError, match=r"prediction of image 1: a score is 1.5; expected 0…1"):
        calibration([GOOD, GOOD | {"scores": torch.tensor([1.5])}], [GOOD, GOOD])
    with pytest.raises(ValueError, match="prediction of image 0: labels 1…1; expected 1…0"):
        confusion_matrix([GOOD], [GOOD], num_classes=1)

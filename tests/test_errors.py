"""Errors by kind: hand-made cases, their definitions, and COCO's evaluator for what an unmended list is worth."""

import math

import pytest
import torch
from detections import GOOD, boxes_at, prediction_of, random_case, target_of

from frcnn_common.boxes import box_iou
from frcnn_common.errors import ERRORS, detection_errors, error_breakdown
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

"""Metrics: pycocotools is the peer, hand-made cases give the rest."""

import contextlib
import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frcnn_common.boxes import box_iou
from frcnn_common.constants import COCO_NAMES
from frcnn_common.metrics import (
    COCO_IDS,
    ERRORS,
    IOU_THRS,
    average_precision,
    detection_errors,
    error_breakdown,
    evaluate,
    evaluate_detections,
    from_coco_ids,
    match_greedily,
    predict,
    proposal_recall,
    read_coco_results,
    to_coco_ids,
    write_coco_results,
)


def boxes_at(*corners):
    return torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)


def target_of(boxes, labels, **more):
    return {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64), **more}


def prediction_of(boxes, labels, scores):
    return target_of(boxes, labels, scores=torch.tensor(scores, dtype=torch.float32))


# ------------------------------------------------------------------------------- random cases, and the peer


def random_boxes(rng, count):
    corner = rng.uniform(0, 300, (count, 2))
    sides = np.exp(rng.uniform(np.log(5), np.log(250), (count, 2)))  # all three size bins
    return np.concatenate([corner, corner + sides], axis=1)


def random_image(rng, classes, most_found):
    objects = rng.integers(0, 7) * (rng.random() > 0.15)
    boxes, labels = random_boxes(rng, objects), rng.integers(1, classes + 1, objects)
    target = target_of(torch.tensor(boxes, dtype=torch.float32), labels.tolist())
    target["iscrowd"] = torch.tensor(rng.random(objects) < 0.2).long()
    if rng.random() < 0.5:  # COCO's own area is the mask's
        target["area"] = (target["boxes"][:, 2:] - target["boxes"][:, :2]).prod(1) * 0.7
    near = boxes[rng.integers(0, max(objects, 1), rng.integers(0, 4) * objects)] if objects else boxes
    near = near + rng.normal(0, 8, near.shape)
    found = np.concatenate([near, random_boxes(rng, rng.integers(0, most_found + 1))]) * (rng.random() > 0.15)
    found = found[found.any(axis=1)]
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
    scores = rng.integers(0, 20, len(found)) / 20 if rng.random() < 0.3 else rng.random(len(found))  # ties, too
    found_labels = rng.integers(1, classes + 1, len(found)).tolist()
    return prediction_of(torch.tensor(found, dtype=torch.float32), found_labels, scores.tolist()), target


def random_case(seed, most_found=12):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(1, 5))
    pairs = [random_image(rng, classes, most_found) for _ in range(rng.integers(1, 7))]
    return [p for p, _ in pairs], [t for _, t in pairs]


def peer_dataset(rows, categories):
    annotations = []
    for i, row in enumerate(rows):
        for n, (x1, y1, x2, y2) in enumerate(row["boxes"].double().tolist()):
            area = row["area"][n].item() if "area" in row else (x2 - x1) * (y2 - y1)
            annotation = {"id": len(annotations) + 1, "image_id": i, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": area}
            annotation |= {"category_id": row["labels"][n].item(), "iscrowd": 0, "score": 1.0}
            annotation |= {key: row[key][n].item() for key in ("iscrowd", "scores") if key in row}
            annotations.append(annotation | {"score": annotation.get("scores", 1.0)})
    coco = COCO()
    coco.dataset = {"images": [{"id": i} for i in range(len(rows))], "annotations": annotations}
    coco.dataset["categories"] = [{"id": label} for label in range(1, categories + 1)]
    coco.createIndex()
    return coco


def peer_evaluation(predictions, targets, categories, **params):
    with contextlib.redirect_stdout(io.StringIO()):
        peer = COCOeval(peer_dataset(targets, categories), peer_dataset(predictions, categories), "bbox")
        for name, value in params.items():
            setattr(peer.params, name, value)
        peer.evaluate()
        peer.accumulate()
        if not params:
            peer.summarize()
    return peer


def assert_equals_peer(predictions, targets, num_classes=6):
    peer = peer_evaluation(predictions, targets, num_classes - 1)
    result = evaluate_detections(predictions, targets, num_classes=num_classes)
    expected = np.where(peer.stats < 0, np.nan, peer.stats)
    np.testing.assert_allclose(list(result.summary().values()), expected, atol=1e-6, rtol=0)
    curves = peer.eval["precision"][..., 0, 2]
    np.testing.assert_allclose(result.precision.numpy(), np.where(curves < 0, np.nan, curves), atol=1e-6, rtol=0)
    return result


@pytest.mark.parametrize("block", range(4))
def test_two_hundred_random_cases_equal_pycocotools(block):
    for seed in range(50 * block, 50 * (block + 1)):
        assert_equals_peer(*random_case(seed))


@pytest.mark.parametrize("seed", range(1000, 1010))
def test_more_than_a_hundred_detections_equal_pycocotools(seed):
    rng = np.random.default_rng(seed)
    pairs = [random_image(rng, 1, 400) for _ in range(3)]
    predictions, targets = [p for p, _ in pairs], [t for _, t in pairs]
    assert_equals_peer(predictions, targets)


def test_the_random_cases_hold_what_they_should():
    cases = [random_case(seed) for seed in range(200)]
    images = [pair for case in cases for pair in zip(*case, strict=True)]
    assert any(t["iscrowd"].any() for _, t in images)
    assert any(len(t["labels"]) == 0 and len(p["labels"]) for p, t in images)
    assert any(len(p["labels"]) == 0 and len(t["labels"]) for p, t in images)
    rng = np.random.default_rng(1000)
    assert max(len(random_image(rng, 1, 400)[0]["labels"]) for _ in range(3)) > 100


def test_empty_everything():
    predictions = [prediction_of(boxes_at(), [], [])] * 2
    result = evaluate_detections(predictions, [target_of(boxes_at(), [])] * 2)
    assert all(math.isnan(value) for value in result.summary().values())
    assert result.per_class() == {}
    found_nothing = evaluate_detections(predictions, [target_of(boxes_at([0, 0, 9, 9]), [3])] * 2)
    assert found_nothing.AP == 0 and found_nothing.per_class() == {"car": 0}


def test_class_without_objects_does_not_count():
    target = target_of(boxes_at([0, 0, 10, 10]), [1])
    prediction = prediction_of(boxes_at([0, 0, 10, 10], [50, 50, 60, 60]), [1, 2], [0.5, 0.9])
    result = evaluate_detections([prediction], [target])
    assert result.AP == 1 and result.per_class() == {"person": 1}


def test_size_bins_follow_the_area():
    target = target_of(boxes_at([0, 0, 10, 10], [100, 0, 150, 50], [200, 0, 400, 200]), [1, 1, 1])
    prediction = prediction_of(target["boxes"][1:], [1, 1], [0.9, 0.8])
    result = evaluate_detections([prediction], [target])
    assert (result.AP_small, result.AP_medium, result.AP_large) == (0, 1, 1)
    small = evaluate_detections([prediction], [{**target, "area": torch.tensor([100.0, 100.0, 100.0])}])
    assert math.isnan(small.AP_large) and small.AR_small == pytest.approx(2 / 3)


def test_curves_and_names():
    target = target_of(boxes_at([0, 0, 10, 10], [20, 0, 30, 10]), [1, 2])
    prediction = prediction_of(boxes_at([0, 0, 10, 10], [50, 0, 60, 10]), [1, 2], [0.9, 0.8])
    result = evaluate_detections([prediction], [target], num_classes=3, names=("background", "ball", "bat"))
    assert result.per_class() == {"ball": 1, "bat": 0}
    recall, precision = result.curve()
    assert recall.shape == precision.shape == (101,) and precision.unique().tolist() == [0.5]
    assert result.curve(1)[1].unique().tolist() == [1]
    with pytest.raises(ValueError, match="0.52"):
        result.curve(iou_thr=0.52)


def test_nothing_is_printed(capfd):
    evaluate_detections(*random_case(0))
    assert capfd.readouterr() == ("", "")


GOOD = prediction_of(boxes_at([0, 0, 10, 10]), [1], [0.5])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"boxes": torch.zeros(1, 5)}, r"prediction of image 1: boxes have shape \(1, 5\)"),
        ({"boxes": torch.tensor([[0.0, 0, -1, 5]])}, r"prediction of image 1: box 0 is \[0.0, 0.0, -1.0, 5.0\]"),
        ({"boxes": torch.tensor([[0.0, 0, torch.nan, 5]])}, "prediction of image 1: box 0 is"),
        ({"scores": torch.ones(2)}, r"prediction of image 1: scores have shape \(2,\); expected \[1\]"),
        ({"scores": torch.tensor([torch.nan])}, "prediction of image 1: scores hold a value that is not finite"),
        ({"labels": torch.tensor([0])}, "prediction of image 1: labels 0…0; expected 1…80"),
        ({"labels": torch.tensor([81])}, "prediction of image 1: labels 81…81; expected 1…80"),
    ],
)
def test_errors_name_the_image(change, complaint):
    for measure in (evaluate_detections, error_breakdown):
        with pytest.raises(ValueError, match=complaint):
            measure([GOOD, GOOD | change], [GOOD, GOOD])


def test_errors_name_what_is_missing():
    with pytest.raises(ValueError, match="prediction of image 0: no 'scores'; expected boxes, labels, scores"):
        evaluate_detections([target_of(boxes_at(), [])], [GOOD])
    with pytest.raises(ValueError, match="target of image 0: area have shape"):
        evaluate_detections([GOOD], [GOOD | {"area": torch.ones(3)}])
    with pytest.raises(ValueError, match="1 predictions, 2 targets"):
        evaluate_detections([GOOD], [GOOD, GOOD])
    with pytest.raises(ValueError, match="0 predictions, 0 targets"):
        evaluate_detections([], [])


# ------------------------------------------------------------------------------------------ average precision


def test_average_precision_by_hand():
    scores = torch.tensor([0.7, 0.9, 0.8])
    assert average_precision(scores, torch.tensor([True, True, False]), 2) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert average_precision(scores, torch.tensor([False, False, False]), 2) == 0
    assert average_precision(torch.empty(0), torch.empty(0, dtype=torch.bool), 2) == 0
    assert average_precision(torch.tensor([0.5]), torch.tensor([True]), 100) == pytest.approx(2 / 101)  # recall 0, 0.01


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


# ---------------------------------------------------------------------------------------------------- matching


def test_matching_takes_the_best_free_object():
    ious = torch.tensor([[0.6, 0.7], [0.5, 0.9], [0.55, 0.2]], dtype=torch.float64)
    assert match_greedily(ious, (0.5,)).tolist() == [[1, 0, -1]]
    assert match_greedily(ious, (0.5, 0.65)).tolist() == [[1, 0, -1], [1, -1, -1]]
    assert match_greedily(torch.zeros(3, 0)).shape == (len(IOU_THRS), 3)
    assert match_greedily(torch.zeros(0, 3)).shape == (len(IOU_THRS), 0)


def test_matching_is_one_to_one_and_reaches_the_threshold():
    draw = torch.Generator().manual_seed(0)
    for _ in range(50):
        ious = torch.rand(12, 7, generator=draw)
        for thr, row in zip(IOU_THRS, match_greedily(ious), strict=True):
            taken = row[row >= 0]
            assert len(taken.unique()) == len(taken)
            assert (ious[row >= 0, taken] >= thr).all()


# --------------------------------------------------------------------------------------------------- proposals


def test_proposal_recall_equals_pycocotools():
    limits = (1, 3, 10)
    for seed in range(60):
        predictions, targets = random_case(seed)
        ordered = []
        for prediction in predictions:
            order = prediction["scores"].argsort(descending=True, stable=True)
            ordered.append(prediction["boxes"][order])
        peer = peer_evaluation(
            predictions, targets, 5, useCats=0, maxDets=list(limits), areaRng=[[0, 1e10]], areaRngLbl=["all"]
        )
        expected = peer.eval["recall"][:, 0, 0]  # [T, limits]
        average, at_half = (proposal_recall(ordered, targets, limits=limits, iou_thr=thr) for thr in (IOU_THRS, 0.5))
        if (expected < 0).all():
            assert all(math.isnan(value) for value in average.values())
        else:
            np.testing.assert_allclose(list(average.values()), expected.mean(axis=0), atol=1e-6)
            np.testing.assert_allclose(list(at_half.values()), expected[0], atol=1e-6)


def test_one_proposal_serves_one_object():
    target = {"boxes": boxes_at([0, 0, 10, 10], [0, 0, 10, 9])}
    assert proposal_recall([boxes_at([0, 0, 10, 10])], [target], limits=(10,), iou_thr=0.5) == {10: 0.5}


def test_proposal_recall_of_nothing():
    assert proposal_recall([boxes_at()], [{"boxes": boxes_at([0, 0, 1, 1])}]) == {10: 0, 100: 0, 1000: 0}
    assert math.isnan(proposal_recall([boxes_at([0, 0, 1, 1])], [{"boxes": boxes_at()}])[10])
    with pytest.raises(ValueError, match="proposals of 1 images and 0 targets"):
        proposal_recall([boxes_at()], [])


# ------------------------------------------------------------------------------------------------ a model's run


class Echo(torch.nn.Linear):
    """Finds the corner box 8 8 40 24 in every picture, and counts its calls in eval mode."""

    def forward(self, images):
        assert not self.training
        box = boxes_at([8, 8, 40, 24])
        return [prediction_of(box, [5], [0.5])] * len(images), [box] * len(images)


def test_boxes_go_back_to_the_original_image():
    target = target_of(boxes_at([8, 8, 40, 24]), [5])
    sized = target | {"orig_size": torch.tensor([128, 640]), "image_id": torch.tensor(7)}
    model = Echo(1, 1).train()
    predictions, targets = predict(model, [(torch.zeros(2, 3, 64, 64), [target, sized])])
    assert model.training
    assert predictions[0]["boxes"].tolist() == targets[0]["boxes"].tolist() == [[8, 8, 40, 24]]
    assert predictions[1]["boxes"].tolist() == predictions[1]["proposals"].tolist() == [[80, 16, 400, 48]]
    assert targets[1]["boxes"].tolist() == [[80, 16, 400, 48]] and targets[1]["image_id"] == 7
    assert target["boxes"].tolist() == [[8, 8, 40, 24]]  # the loader's own is left alone


def test_size_bins_follow_the_original_image():
    target = target_of(boxes_at([8, 8, 40, 24]), [5])  # 512 square pixels here, 10,240 in the original
    loader = [(torch.zeros(1, 3, 64, 64), [target])]
    assert evaluate(Echo(1, 1), loader).AP_small == 1
    result = evaluate(Echo(1, 1), [(torch.zeros(1, 3, 64, 64), [target | {"orig_size": (128, 640)}])])
    assert result.AP_large == 1 and math.isnan(result.AP_small)


def test_mode_is_restored_after_an_error():
    class Broken(torch.nn.Linear):
        def forward(self, images):
            raise RuntimeError("broken")

    model = Broken(1, 1).train()
    with pytest.raises(RuntimeError, match="broken"):
        predict(model, [(torch.zeros(1, 3, 8, 8), [{}])])
    assert model.training


# ------------------------------------------------------------------------------------------------- ids and files


def test_coco_ids():
    assert len(COCO_IDS) == 80 and COCO_IDS[0] == 1 and COCO_IDS[-1] == 90 and list(COCO_IDS) == sorted(COCO_IDS)
    # from COCO's own category list
    known = {"stop sign": 13, "backpack": 27, "umbrella": 28, "handbag": 31, "wine glass": 46}
    known |= {"dining table": 67, "toilet": 70, "tv": 72, "refrigerator": 82, "book": 84}
    for name, coco_id in known.items():
        assert COCO_IDS[COCO_NAMES.index(name) - 1] == coco_id
    labels = torch.arange(1, 81)
    assert torch.equal(from_coco_ids(to_coco_ids(labels)), labels)
    assert to_coco_ids(labels.reshape(8, 10)).shape == (8, 10)
    for bad in (0, 81):
        with pytest.raises(ValueError, match=f"{bad} is not a label"):
            to_coco_ids(torch.tensor([1, bad]))
    with pytest.raises(ValueError, match="12 is not a COCO category id"):
        from_coco_ids(torch.tensor([12]))


def test_results_file_round_trip(tmp_path):
    rng = np.random.default_rng(3)
    predictions = [random_image(rng, 80, 9)[0] for _ in range(6)] + [prediction_of(boxes_at(), [], [])]
    ids = [139, 285, 632, 724, 776, 785, 802]
    write_coco_results(tmp_path / "results.json", predictions, ids)
    again = read_coco_results(tmp_path / "results.json", ids)
    for before, after in zip(predictions, again, strict=True):
        for key in before:
            assert torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype
    with pytest.raises(ValueError, match=r"results.json: entry 0 is of image"):
        read_coco_results(tmp_path / "results.json", [5])


def test_pycocotools_reads_the_results_file(tmp_path):
    target = target_of(boxes_at([10, 20, 40, 60]), [12])
    write_coco_results(tmp_path / "r.json", [prediction_of(target["boxes"], [12], [0.5])], [42])
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {"image_id": 42, "category_id": 13, "bbox": [10, 20, 30, 40], "score": 0.5}
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": [{"id": 42}], "categories": [{"id": 13}], "annotations": []}
        truth.createIndex()
        assert truth.loadRes(str(tmp_path / "r.json")).anns[1]["area"] == 1200


# --------------------------------------------------------------------------------------------------------- errors


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


def test_import_is_light():
    heavy = ("torchvision", "faster_coco_eval", "datasets", "matplotlib")
    code = f"import sys, frcnn_common.metrics; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

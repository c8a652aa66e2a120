"""Metrics: pycocotools is the peer, hand-made cases give the rest."""

import contextlib
import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from detections import GOOD, boxes_at, prediction_of, random_case, random_image, target_of
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frcnn_common.metrics import (
    IOU_THRS,
    average_precision,
    evaluate,
    evaluate_detections,
    match_greedily,
    predict,
    proposal_recall,
)

# ------------------------------------------------------------------------------- random cases, and the peer


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


def test_the_summary_is_in_the_evaluators_order():
    names = "AP AP50 AP75 AP_small AP_medium AP_large AR_1 AR_10 AR_100 AR_small AR_medium AR_large"
    assert list(evaluate_detections([GOOD], [GOOD]).summary()) == names.split()


def test_nothing_is_printed(capfd):
    evaluate_detections(*random_case(0))
    assert capfd.readouterr() == ("", "")


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
    with pytest.raises(ValueError, match=complaint):
        evaluate_detections([GOOD, GOOD | change], [GOOD, GOOD])


def test_arrays_are_refused_by_name():
    with pytest.raises(ValueError, match="prediction of image 0: boxes are a ndarray; expected a Tensor"):
        evaluate_detections([{key: value.numpy() for key, value in GOOD.items()}], [GOOD])
    with pytest.raises(ValueError, match="target of image 0: iscrowd are a list; expected a Tensor"):
        evaluate_detections([GOOD], [GOOD | {"iscrowd": [0]}])


def test_more_classes_than_names_are_refused():
    with pytest.raises(ValueError, match="num_classes is 82, but there are 81 names"):
        evaluate_detections([GOOD], [GOOD], num_classes=82)
    with pytest.raises(ValueError, match="num_classes is 3, but there are 2 names"):
        evaluate_detections([GOOD], [GOOD], num_classes=3, names=("__background__", "cat"))


def test_a_missing_name_is_told_before_anything_is_predicted():
    with pytest.raises(ValueError, match="num_classes is 3, but there are 2 names"):
        evaluate(Echo(1, 1), iter(lambda: pytest.fail("a batch was read"), None), num_classes=3, names=("", "cat"))


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


def test_import_is_light():
    """It knows boxes and processes: no training, no recipe, no data that is drawn."""
    heavy = ("torchvision", "faster_coco_eval", "datasets", "matplotlib", "torchdata")
    heavy += tuple(f"frcnn_common.{name}" for name in ("recipes", "runs", "engine", "openmoji", "drawing"))
    code = f"import sys, frcnn_common.metrics; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_boxes_of_padded_pictures_go_back_by_the_size_without_padding():
    """64 × 64 with 32 rows of picture, which has 160 × 320 pixels: five times as large both ways."""

    class Padded(Echo):
        def forward(self, images, image_sizes):
            assert image_sizes == [(32, 64), (64, 64)]
            return super().forward(images)

    first = target_of(boxes_at([8, 8, 40, 24]), [5]) | {"size": torch.tensor([32, 64])}
    second = first | {"size": torch.tensor([64, 64])}
    orig = torch.tensor([160, 320])
    batch = [first | {"orig_size": orig}, second]
    predictions, targets = predict(Padded(1, 1), [(torch.zeros(2, 3, 64, 64), batch)])
    for row in (predictions[0], targets[0]):
        assert row["boxes"].tolist() == [[40, 40, 200, 120]]
    assert predictions[1]["boxes"].tolist() == targets[1]["boxes"].tolist() == [[8, 8, 40, 24]]

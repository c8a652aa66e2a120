"""The whole model: what goes in and out, losses and detections against their definitions."""

import copy

import pytest
import torch
import torchvision
from test_nms import CountCalls

from frcnn_common import FasterRCNN, decode_boxes, detector
from frcnn_common.boxes import clip_boxes
from frcnn_common.roi import sample_rois_of_each


def small(num_classes=6, **options):
    torch.manual_seed(0)
    sizes = (8, 16, 32, 64, 128)
    return FasterRCNN(
        num_classes, width=8, fpn_channels=16, fc_dim=32, anchor_sizes=sizes, min_sz=2, trainable_layers=5, **options
    )


def eager(model):
    """Make the class layer loud, so that an untrained model detects plenty."""
    model.predictor.cls.weight.data *= 300
    return model.eval()


def target(boxes=((10.0, 12, 50, 60),), labels=(3,)):
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}


@pytest.mark.parametrize("size", [(96, 96), (75, 133), (64, 200)])
def test_training_gives_four_scalars_for_any_size(size):
    model = small()
    losses = model(torch.randn(2, 3, *size), [target(), target((), ())])
    assert set(losses) == {"rpn_cls", "rpn_box", "roi_cls", "roi_box"}
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_evaluation_gives_sorted_detections_and_proposals():
    model = eager(small(score_thr=0.2, max_dets=20))
    with torch.no_grad():
        results, proposals = model(torch.randn(2, 3, 80, 120))
    assert len(results) == len(proposals) == 2
    for result, boxes in zip(results, proposals, strict=True):
        assert set(result) == {"boxes", "scores", "labels"} and boxes.shape[1] == 4
        assert 0 < len(result["scores"]) <= 20 and result["labels"].dtype == torch.int64
        assert torch.equal(result["scores"], result["scores"].sort(descending=True).values)
        assert result["labels"].min() >= 1 and result["labels"].max() <= 5
        assert result["boxes"][:, [0, 2]].max() <= 120 and result["boxes"][:, [1, 3]].max() <= 80


def test_thresholds_decide_what_is_detected():
    images, loose = torch.randn(1, 3, 80, 120), {"score_thr": 0.0, "max_dets": 10**6}

    def detect(**options):
        with torch.no_grad():
            return eager(small(**options))(images)[0][0]

    everything = detect(**loose, nms_thr=1.0)
    sure = everything["scores"] > 0.2
    assert 0 < sure.sum() < len(sure)
    assert torch.equal(detect(**loose | {"score_thr": 0.2}, nms_thr=1.0)["scores"], everything["scores"][sure])
    assert torch.equal(detect(max_dets=5, score_thr=0.0, nms_thr=1.0)["boxes"], everything["boxes"][:5])
    kept = torchvision.ops.batched_nms(*everything.values(), 0.3)
    assert len(kept) < len(sure) and torch.equal(detect(**loose, nms_thr=0.3)["boxes"], everything["boxes"][kept])


@pytest.mark.parametrize(("options", "regions"), [({}, (512, 128, 0.5)), ({"roi_batch": 40}, (40, 10, 0.5))])
def test_the_head_is_trained_on_as_many_regions_as_were_asked_for(options, regions, monkeypatch):
    asked = []
    ask = sample_rois_of_each
    monkeypatch.setattr(detector, "sample_rois_of_each", lambda p, t, *rest: asked.append(rest) or ask(p, t, *rest))
    small(**options)(torch.randn(1, 3, 64, 64), [target()])
    (size, share, threshold), = asked  # fmt: skip
    assert (size, size * share, threshold) == regions


def test_boxes_are_clipped_to_the_unpadded_size():
    model = small().eval()  # untrained: every class has about the same score, above the threshold
    with torch.no_grad():
        results, proposals = model(torch.randn(2, 3, 96, 96), image_sizes=[(96, 96), (50, 70)])
    for boxes in (results[1]["boxes"], proposals[1]):
        assert boxes[:, [0, 2]].max() <= 70 and boxes[:, [1, 3]].max() <= 50


def detections_class_by_class(model, proposals, scores, deltas, size):
    """The definition, as a loop over the classes, with torchvision's suppression."""
    found = []
    for label in range(1, scores.shape[1]):
        boxes = clip_boxes(decode_boxes(proposals, deltas[:, label], weights=model.box_weights), size)
        wanted = (scores[:, label] > model.score_thr) & ((boxes[:, 2:] - boxes[:, :2]) >= model.MIN_SIDE).all(dim=1)
        boxes, score = boxes[wanted], scores[wanted, label]
        found += [(score[i].item(), label, boxes[i].tolist()) for i in torchvision.ops.nms(boxes, score, model.nms_thr)]
    return sorted(found, key=lambda item: -item[0])[: model.max_dets]


def detect_from(model, proposals, logits, deltas, size):
    """Detections of one image from what the head says of its proposals."""
    model._predict = lambda *_: (logits, deltas)
    return model.detect([], [proposals], size, [size])


def test_detections_equal_a_loop_over_the_classes():
    model = small(num_classes=9)
    torch.manual_seed(3)
    corners = torch.rand(200, 2) * 60
    proposals = torch.cat([corners, corners + 4 + torch.rand(200, 2) * 40], dim=1)
    logits, deltas = torch.randn(200, 9) * 2, torch.randn(200, 9, 4) * 0.3
    (result,) = detect_from(model, proposals, logits, deltas, (80, 80))
    expected = detections_class_by_class(model, proposals, logits.softmax(dim=1), deltas, (80, 80))
    assert len(result["scores"]) == len(expected) == 100
    scores, labels, boxes = zip(*expected, strict=True)
    assert result["scores"].tolist() == list(scores) and result["labels"].tolist() == list(labels)
    torch.testing.assert_close(result["boxes"], torch.tensor(boxes))


def test_all_classes_at_once():
    """The number of operations does not grow with the number of classes."""

    def calls(num_classes):
        model = small(num_classes)
        logits = torch.zeros(100, num_classes)
        logits[torch.arange(100), 1 + torch.arange(100) % (num_classes - 1)] = 9
        with CountCalls() as counter:
            same = torch.tensor([[0.0, 0, 9, 9]]).repeat(100, 1)
            detect_from(model, same, logits, torch.zeros(100, num_classes, 4), (20, 20))
        return counter.calls

    assert calls(81) <= calls(5) + 5


def test_box_loss_reads_the_matched_class_only():
    model = small()
    images, targets = torch.randn(1, 3, 64, 64), [target(labels=(3,))]
    model(images, targets)["roi_box"].backward()
    touched = model.predictor.box.weight.grad.view(6, 4, -1).abs().sum(dim=(1, 2)) > 0
    assert touched.tolist() == [False, False, False, True, False, False]


@pytest.mark.parametrize(("targets", "count"), [(None, "none"), ([], "0"), ([target()] * 3, "3")])
def test_training_wants_a_target_for_each_image(targets, count):
    with pytest.raises(ValueError, match=f"each of the 2 images, got {count}"):
        small()(torch.randn(2, 3, 64, 64), targets)


def test_empty_results_keep_dtype():
    model = small(score_thr=1.0).double().eval()
    with torch.no_grad():
        results, _ = model(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert results[0]["boxes"].shape == (0, 4) and results[0]["boxes"].dtype == torch.float64
    assert results[0]["scores"].shape == (0,) and results[0]["scores"].dtype == torch.float64
    assert results[0]["labels"].shape == (0,) and results[0]["labels"].dtype == torch.int64


def test_losses_are_float32_under_autocast():
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(torch.randn(2, 3, 64, 64), [target()] * 2)
        model.eval()
        results, proposals = model(torch.randn(1, 3, 64, 64))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert proposals[0].dtype == results[0]["boxes"].dtype == torch.float32


def test_stem_and_layers_1_to_3_are_frozen_by_default():
    model = FasterRCNN(2, width=8, fpn_channels=8, fc_dim=8)
    frozen = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "layer1", "layer2", "layer3"}


def test_a_step_on_one_image_lowers_its_loss():
    model = small()
    images, targets = torch.randn(1, 3, 64, 64), [target()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for _ in range(20):
        torch.manual_seed(0)  # the same sample each time
        loss = sum(model(images, targets).values())
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.8 * first


def test_a_copy_detects_the_same():
    model = eager(small(score_thr=0.2))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        a, b = model(images)[0][0], copy.deepcopy(model)(images)[0][0]
    assert all(torch.equal(a[key], b[key]) for key in a)

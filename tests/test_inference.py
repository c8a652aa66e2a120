"""Detectors from files: what is stored comes back, pictures keep their own pixels, other files are refused by name."""

import hashlib
import io
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from frcnn_common import FasterRCNN
from frcnn_common.boxes import box_iou
from frcnn_common.constants import COURSE, DEVICE, TORCHVISION
from frcnn_common.engine import Trainer
from frcnn_common.inference import SHIPPED, Detector, load_detector, read_ahead, save_detector
from frcnn_common.metrics import evaluate, predict
from frcnn_common.openmoji import draw_scene
from frcnn_common.recipes import RECIPES
from frcnn_common.roi import FastRCNNPredictor
from frcnn_common.runs import save_checkpoint
from frcnn_common.samples import to_input

TINY = RECIPES["openmoji-tiny"]
SMALL = replace(
    TINY, img_size=64, batch_size=1, steps=1,
    model_options=TINY.model_options | {"width": 4, "fpn_channels": 16, "fc_dim": 32},
)  # fmt: skip


def scene(number, **options):
    row = draw_scene(number, "val", **options)
    boxes, labels = torch.tensor(row["objects"]["bbox"]), torch.tensor(row["objects"]["category"]) + 1
    return Image.open(io.BytesIO(row["image"]["bytes"])), boxes, labels


@pytest.fixture(scope="module")
def tiny():
    return Detector.load("tiny")


@pytest.fixture(scope="module")
def card(root):
    """The figures from which the page of results is made."""
    return json.loads((root / "book" / "_data" / "openmoji-tiny.json").read_text(encoding="utf-8"))


def test_matrices_are_stored_in_half_and_vectors_as_they_are(tmp_path):
    model = SMALL.model()
    model.backbone.stem[1].running_var.fill_(1e6)  # more than half precision can hold
    save_detector(tmp_path / "new" / "a.safetensors", model, SMALL)
    assert os.listdir(tmp_path / "new") == ["a.safetensors"]
    loaded, settings = load_detector(tmp_path / "new" / "a.safetensors")
    assert settings["img_size"] == 64 and not loaded.training
    for name, value in model.state_dict().items():
        expected = value.half().float() if value.ndim > 1 else value
        assert torch.equal(loaded.state_dict()[name].to(value.device), expected.to(value.dtype)), name


NARROW = {"width": 4, "fpn_channels": 16, "fc_dim": 32}


def by_position():
    return FasterRCNN(5, **NARROW)


def with_thresholds():
    return FasterRCNN(5, score_thr=0.01, nms_thr=0.9, max_dets=7, pre_nms=300, post_nms=70, min_sz=3, **NARROW)


def with_conventions():
    return FasterRCNN(num_classes=5, conventions=TORCHVISION, norm="frozen", trainable_layers=2, **NARROW)


def with_conventions_of_its_own():
    return FasterRCNN(5, conventions=replace(COURSE, roi_offset=0.0, box_weights=(2.0, 2.0, 1.0, 1.0)), **NARROW)


def changed_by_hand():
    model = FasterRCNN(5, anchor_sizes=[9, 18, 36, 72, 144], box_weights=(5.0, 5.0, 2.0, 2.0), **NARROW)
    model.score_thr, model.rpn.post_nms, model.box_weights = 0.02, 40, [4.0, 4.0, 2.0, 2.0]
    model.rpn.rpn_batch = 32  # has nothing to do with detection
    return model


def lively(make):
    """A model whose head tells classes apart, so that it finds something."""
    torch.manual_seed(3)
    model = make().to(DEVICE)
    nn.init.normal_(model.predictor.box.weight, std=0.1)
    model.predictor.cls.bias.data = torch.tensor([0.0, 1.0, 0.5, 0.0, 0.0], device=DEVICE)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


FIVE = replace(
    SMALL, names=("__background__", "a", "b", "c", "d"), model_options=SMALL.model_options | {"num_classes": 5}
)


@pytest.mark.parametrize(
    "make", [by_position, with_thresholds, with_conventions, with_conventions_of_its_own, changed_by_hand]
)
@pytest.mark.parametrize("way", ["weights", "checkpoint"])
def test_what_is_loaded_detects_what_was_saved(tmp_path, make, way):
    """To the bit, whoever made the model: the recipe says nothing of its options. Weights are stored as halves."""
    model = lively(make)
    if way == "weights":
        save_detector(tmp_path / "a.safetensors", model, FIVE)
        loaded, settings = load_detector(tmp_path / "a.safetensors")
        model.load_state_dict({k: v.half().float() if v.ndim > 1 else v for k, v in model.state_dict().items()})
    else:
        Trainer(model, FIVE, tmp_path).run(FIVE.loader("train", 2, source=rows_of_five()), steps=1)
        loaded, settings = load_detector(tmp_path / "step_00000001.pt")
        model.eval()
    assert loaded.conventions == model.conventions and FasterRCNN(**settings["model_options"]).conventions
    with torch.no_grad():
        images = torch.randn(2, 3, 96, 128, device=DEVICE)
        (expected, proposals), (found, others) = model(images), loaded(images)
    assert sum(len(result["boxes"]) for result in expected)
    assert all(torch.equal(a, b) for a, b in zip(proposals, others, strict=True))
    for result, other in zip(expected, found, strict=True):
        assert all(torch.equal(result[key], other[key]) for key in ("boxes", "scores", "labels"))


def rows_of_five():
    rows = [draw_scene(number, longest=64) for number in range(2)]
    for row in rows:
        row["objects"]["category"] = [category % 4 for category in row["objects"]["category"]]
    return datasets.IterableDataset.from_generator(lambda: iter(rows))


def test_torchvisions_weights_come_back_as_torchvisions(tmp_path):
    options = {"width": 4, "fpn_channels": 16, "fc_dim": 32}
    model = lively(lambda: FasterRCNN(5, conventions=TORCHVISION, **options))
    save_detector(tmp_path / "a.safetensors", model, FIVE)
    loaded, _ = load_detector(tmp_path / "a.safetensors")
    assert loaded.to_torchvision().keys() == model.to_torchvision().keys()
    low = load_detector(tmp_path / "a.safetensors", score_thr=0.01)[0]
    assert (low.score_thr, loaded.score_thr) == (0.01, 0.05)


def test_conventions_in_the_options_of_a_recipe(tmp_path):
    recipe = replace(FIVE, steps=2, model_options=FIVE.model_options | {"conventions": TORCHVISION})
    loader = recipe.loader("train", 2, source=rows_of_five())
    Trainer(recipe.model(), recipe, tmp_path).run(loader, steps=1)
    assert Trainer(recipe.model(), recipe, tmp_path).resume(loader) == 1
    other = Trainer(FasterRCNN(**FIVE.model_options), recipe, tmp_path)
    with pytest.raises(ValueError, match="belongs to another run: .*conventions is .*here, .*there"):
        other.resume(loader)
    save_detector(tmp_path / "a.safetensors", recipe.model(), recipe)
    for path in ("a.safetensors", "step_00000001.pt"):
        assert load_detector(tmp_path / path)[0].conventions == TORCHVISION


def test_files_of_before_still_load(tmp_path):
    """Their options are the recipe's; conventions were no part of them."""
    model = lively(lambda: FasterRCNN(**FIVE.model_options))
    old = {"recipe": "x", "img_size": 64, "names": FIVE.names, "model_options": FIVE.model_options}
    save_file(model.state_dict(), tmp_path / "old.safetensors", metadata={"frcnn_common": json.dumps(old)})
    save_checkpoint(tmp_path / "old.pt", model, recipe=FIVE.describe())
    for path in ("old.safetensors", "old.pt"):
        loaded, _ = load_detector(tmp_path / path)
        assert torch.equal(loaded(torch.ones(1, 3, 64, 64, device=DEVICE))[0][0]["scores"],
                           model(torch.ones(1, 3, 64, 64, device=DEVICE))[0][0]["scores"])  # fmt: skip


def test_what_cannot_be_stored_is_refused_before_the_first_step(tmp_path):
    model = by_position().to(DEVICE)
    model.roi_align.k0 = 3
    with pytest.raises(ValueError, match="no option of FasterRCNN makes a model whose roi_align.k0 is 3: 4 is"):
        save_detector(tmp_path / "a.safetensors", model, FIVE)
    trainer = Trainer(model, FIVE, tmp_path / "run")
    with pytest.raises(ValueError, match="roi_align.k0"):
        trainer.run(FIVE.loader("train", 2, source=rows_of_five()))
    assert trainer.step == 0
    with pytest.raises(ValueError, match="the recipe has 81 names .*, the model 5 classes"):
        save_detector(tmp_path / "a.safetensors", by_position(), SMALL)
    assert not (tmp_path / "a.safetensors").exists()


def test_a_number_that_is_too_large_for_a_half_stays(tmp_path):
    model = by_position()
    model.predictor.box.weight.data[0, 0] = 1e6
    save_detector(tmp_path / "a.safetensors", model, FIVE)
    loaded, _ = load_detector(tmp_path / "a.safetensors")
    assert torch.equal(loaded.predictor.box.weight.cpu(), model.predictor.box.weight)


def test_a_checkpoint_of_the_trainer_is_a_detector(tmp_path):
    trainer = Trainer(SMALL.model(), SMALL, tmp_path)
    trainer.run(SMALL.loader("train", metadata=True))
    model, settings = load_detector(tmp_path / "step_00000001.pt")
    assert settings["img_size"] == 64
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), trainer.model.state_dict().values()))


@pytest.mark.slow
def test_a_checkpoint_of_the_older_module_is_a_detector(tmp_path):
    old = FasterRCNN(5)
    save_checkpoint(tmp_path / "old.pt", old, num_classes=5, steps_trained=5, final_losses={})
    model, settings = load_detector(tmp_path / "old.pt")
    assert settings["img_size"] == 400 and torch.equal(model.predictor.cls.weight.cpu(), old.predictor.cls.weight)


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        load_detector(tmp_path / "missing.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(Path(SHIPPED).read_bytes()[:5000])
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    stranger = {"frcnn_common": '{"recipe": "x", "img_size": 64, "model_options": {}}'}
    save_file({"a": torch.zeros(1)}, tmp_path / "stranger.safetensors", metadata=stranger)
    torch.save({"model_state_dict": {"a": torch.zeros(1)}}, tmp_path / "stranger.pt")
    for name in ("torn.safetensors", "foreign.safetensors", "stranger.safetensors", "stranger.pt"):
        with pytest.raises(ValueError, match=name):
            load_detector(tmp_path / name)


def test_options_of_the_model_are_said_while_loading():
    loose = Detector.load("tiny", score_thr=0.01, nms_thr=1.0, max_dets=7).model
    assert (loose.score_thr, loose.nms_thr, loose.max_dets) == (0.01, 1.0, 7)
    with pytest.raises(TypeError, match="max_detections"):
        load_detector(SHIPPED, max_detections=7)


def test_the_shipped_file_is_small_and_half():
    state = load_file(SHIPPED)
    assert os.path.getsize(SHIPPED) < 12e6
    assert state["box_head.fc1.weight"].dtype == torch.float16
    assert state["backbone.stem.1.running_var"].dtype == torch.float32


def test_it_finds_what_predict_finds(tiny):
    loader = TINY.loader("val", 3, batch_size=3, metadata=True, img_size=tiny.img_size)
    expected, targets = predict(tiny.model, loader)
    pictures = TINY.dataset("val", 3).pictures()
    for (picture, truth), wanted, target in zip(pictures, expected, targets, strict=True):
        found = tiny(picture, score=0.05)
        torch.testing.assert_close(truth["boxes"], target["boxes"], rtol=0, atol=0.01)
        assert found["labels"].tolist() == wanted["labels"].tolist()
        torch.testing.assert_close(found["boxes"], wanted["boxes"], rtol=1e-3, atol=0.05)


def test_boxes_are_in_the_pixels_of_the_picture(tiny):
    """A picture of twice the size has boxes of twice the size."""
    small, _, _ = scene(5)
    large = small.resize((2 * small.width, 2 * small.height), Image.Resampling.NEAREST)
    sure, two = tiny(small, score=0.9), tiny(large, score=0.5)
    assert len(sure["boxes"])
    same = sure["labels"][:, None] == two["labels"]
    assert ((box_iou(2 * sure["boxes"], two["boxes"]) > 0.8) & same).any(dim=1).all()


def test_a_rotation_that_exif_asks_for_is_applied(tiny):
    upright, _, _ = scene(5)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    data = io.BytesIO()
    upright.rotate(90, expand=True).save(data, "PNG", exif=exif)
    assert tiny(Image.open(data))["boxes"].tolist() == tiny(upright)["boxes"].tolist() != []


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_any_mode(tiny, mode):
    deep = Image.fromarray(np.full((30, 50), 20_000, np.uint16))
    found = tiny(deep if mode == deep.mode else Image.new("RGB", (50, 30), "green").convert(mode))
    assert found["boxes"].shape[1] == 4


def test_coco_weights_follow_torchvisions_rule_of_size():
    detector = Detector(FasterRCNN(3, width=4, fpn_channels=16, fc_dim=32).to(DEVICE), name="coco")
    pixels, inner, size = detector.prepare(Image.new("RGB", (200, 100)))
    assert (inner, size) == ((666, 1333), (100, 200)) and pixels.shape == (3, 672, 1344)
    pixels, inner, size = detector.prepare(Image.new("RGB", (100, 100)))
    assert (inner, size) == ((800, 800), (100, 100)) and pixels.shape == (3, 800, 800)


def test_input_of_a_square_is_the_data_sets():
    image = Image.effect_noise((30, 20), 80)
    for keep_aspect, inner in ((False, (64, 64)), (True, (43, 64))):
        pixels, *sizes = Detector(SMALL.model(), 64, keep_aspect=keep_aspect).prepare(image)
        assert torch.equal(pixels, to_input(image, 64, keep_aspect)) and sizes == [inner, (20, 30)]


def of_many_shapes(count=11):
    """Scenes of the validation split, some of them stretched to other shapes."""
    shapes = [(1.0, 1.0), (2.0, 1.0), (1.0, 1.5), (0.5, 1.0)]
    pictures = [scene(number)[0] for number in range(count)]
    factors = [shapes[number % len(shapes)] for number in range(count)]
    return [p.resize((int(p.width * x), int(p.height * y))) for p, (x, y) in zip(pictures, factors, strict=True)]


def assert_same_detections(found, alone):
    """Boxes within a thousandth of a pixel, the same labels, in the same order."""
    assert len(found) == len(alone)
    for many, one in zip(found, alone, strict=True):
        assert many["labels"].tolist() == one["labels"].tolist()
        torch.testing.assert_close(many["boxes"], one["boxes"], rtol=0, atol=1e-3)
        torch.testing.assert_close(many["scores"], one["scores"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("keep_aspect", [False, True])
def test_many_pictures_at_once_are_found_like_each_alone(tiny, keep_aspect):
    detector = Detector(tiny.model, tiny.img_size, keep_aspect=keep_aspect)
    pictures = of_many_shapes()
    alone = [detector(picture) for picture in pictures]
    assert sum(len(one["boxes"]) for one in alone) > 20
    assert_same_detections(detector(pictures), alone)
    assert_same_detections(detector(pictures, batch_size=3), alone)
    assert detector([]) == []


def test_by_torchvisions_rule_a_picture_is_found_as_torchvision_finds_it_alone(monkeypatch):
    """Whatever else is in the list. At a quarter of the rule's sizes, since this is a whole ResNet-50."""
    from torchvision.models.detection import FasterRCNN as Peer
    from torchvision.models.detection import transform
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.transforms.functional import to_tensor

    rule = transform.GeneralizedRCNNTransform
    smaller = lambda shorter, longer, *normal: rule(shorter // 4, longer // 4, *normal)
    torch.manual_seed(3)
    peer = Peer(resnet_fpn_backbone(backbone_name="resnet50", weights=None), 5, min_size=200, max_size=333).eval()
    nn.init.normal_(peer.roi_heads.box_predictor.bbox_pred.weight, std=0.1)
    peer.roi_heads.box_predictor.cls_score.bias.data = torch.tensor([0.0, 1.0, 0.5, 0.0, 0.0])
    ours = FasterRCNN.from_torchvision(peer.state_dict(), bn_eps=1e-5).to(DEVICE)
    monkeypatch.setattr(transform, "GeneralizedRCNNTransform", smaller)
    pictures = [scene(number)[0].resize(size) for number, size in enumerate(((320, 240), (240, 320), (320, 240)))]
    found = Detector(ours)(pictures, score=0.05)
    with torch.no_grad():
        for picture, mine in zip(pictures, found, strict=True):
            theirs = peer([to_tensor(picture)])[0]
            assert len(mine["boxes"]) == len(theirs["boxes"]) > 0
            apart = torch.cdist(mine["boxes"], theirs["boxes"], p=torch.inf)
            apart[mine["labels"][:, None] != theirs["labels"]] = torch.inf
            assert apart.min(dim=1).values.max() < 0.01 and apart.min(dim=0).values.max() < 0.01


@pytest.mark.long
def test_the_numbers_of_the_card_come_out_again(tiny, card):
    """COCO's twelve, which the card has from pycocotools, by our evaluator on all 500 validation scenes."""
    evaluation = evaluate(tiny.model, TINY.loader("val", metadata=True, img_size=tiny.img_size))
    assert evaluation.summary() == pytest.approx(card["pycocotools"], abs=2e-3)
    assert evaluation.precision.nanmean(dim=(1, 2)).tolist() == pytest.approx(card["by_overlap"], abs=2e-3)


def test_the_card_is_that_of_the_shipped_file(card):
    assert card["sha256"] == hashlib.sha256(Path(SHIPPED).read_bytes()).hexdigest()
    assert card["pycocotools"]["AP"] > 0.7 and card["img_size"] == load_detector(SHIPPED)[1]["img_size"]
    assert card["log"][-1]["step"] == card["run"]["steps"] == TINY.steps


def test_the_shipped_detector_finds_most_of_forty_scenes(tiny):
    hits = total = 0
    for number in range(40):
        picture, boxes, labels = scene(number)
        found = tiny(picture)
        total += len(boxes)
        if len(found["boxes"]):
            same = labels[:, None] == found["labels"]
            hits += int(((box_iou(boxes, found["boxes"]) > 0.5) & same).any(dim=1).sum())
    assert hits > 0.7 * total


def test_the_model_sees_at_most_a_batch_and_pictures_come_in_their_order(tiny):
    seen = []

    class Watched(nn.Linear):
        predictor = FastRCNNPredictor(1, 2)

        def forward(self, images, image_sizes):
            seen.append(len(images))
            return [{"boxes": torch.tensor([[0.0, 0, *size[::-1]]]), "scores": torch.ones(1), "labels": torch.ones(1)}
                    for size in image_sizes], None  # fmt: skip

    detector = Detector(Watched(1, 1), 64, keep_aspect=True)
    pictures = [Image.new("RGB", (10 + number, 20)) for number in range(19)]
    found = detector(pictures, batch_size=8)
    assert seen == [8, 8, 3]
    assert [one["boxes"][0].round().tolist() for one in found] == [[0, 0, 10 + number, 20] for number in range(19)]


def test_a_class_without_a_name_is_refused():
    with pytest.raises(ValueError, match="num_classes is 5, but there are 2 names"):
        Detector(by_position(), 64, names=("__background__", "cup"))


def test_only_pictures_of_one_shape_share_a_batch():
    """So none is padded for the sake of another."""
    seen = []

    class Watched(nn.Linear):
        predictor = FastRCNNPredictor(1, 2)

        def forward(self, images, image_sizes):
            seen.append((list(images.shape), image_sizes))
            nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}
            return [nothing] * len(images), None

    wide, high = Image.new("RGB", (200, 100)), Image.new("RGB", (100, 200))
    Detector(Watched(1, 1))([wide, high, wide])
    assert seen == [([2, 3, 672, 1344], [(666, 1333)] * 2), ([1, 3, 1344, 672], [(1333, 666)])]


def test_large_pictures_share_a_batch_with_few():
    """800 × 800 pixels are 0.64 of the 2.1 megapixels of a batch."""
    seen = []

    class Watched(nn.Linear):
        predictor = FastRCNNPredictor(1, 2)

        def forward(self, images, image_sizes):
            seen.append(len(images))
            return [
                {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)} for _ in images
            ], None

    found = Detector(Watched(1, 1))([Image.new("RGB", (90, 90))] * 5)
    assert seen == [3, 2] and len(found) == 5


def test_whether_pictures_keep_their_shape_is_stored(tmp_path):
    recipe = replace(FIVE, keep_aspect=True)
    save_detector(tmp_path / "a.safetensors", by_position(), recipe)
    save_checkpoint(tmp_path / "a.pt", by_position(), recipe=recipe.describe())
    for name in ("a.safetensors", "a.pt"):
        assert load_detector(tmp_path / name)[1]["keep_aspect"] is True
        assert Detector.load(tmp_path / name).keep_aspect is True
    assert load_detector(SHIPPED)[1]["keep_aspect"] is Detector.load("tiny").keep_aspect is False


def test_padded_pictures_are_found_as_predict_finds_them(tiny):
    recipe = replace(TINY, keep_aspect=True)
    expected, targets = predict(tiny.model, recipe.loader("val", 3, batch_size=3, metadata=True))
    pictures = list(recipe.dataset("val", 3).pictures())
    found = Detector(tiny.model, 256, keep_aspect=True)([picture for picture, _ in pictures], score=0.05)
    assert sum(len(one["boxes"]) for one in found)
    for one, wanted, (picture, truth), target in zip(found, expected, pictures, targets, strict=True):
        torch.testing.assert_close(truth["boxes"], target["boxes"], rtol=0, atol=0.01)
        assert one["labels"].tolist() == wanted["labels"].tolist()
        torch.testing.assert_close(one["boxes"], wanted["boxes"], rtol=1e-3, atol=0.05)
        assert (one["boxes"] <= torch.tensor([picture.width, picture.height] * 2) + 1e-3).all()


# What is read ahead


def test_what_is_read_ahead_comes_in_order_and_is_never_more_than_a_few():
    started = []
    ahead = read_ahead((started.append(number) or number for number in range(50)), count=4)
    for number, item in enumerate(ahead):
        assert item == number and len(started) <= number + 6
    assert started == list(range(50))


def test_an_error_comes_in_the_place_of_its_item():
    def items():
        yield 1
        yield 2
        raise ValueError("the third")

    ahead = read_ahead(items(), count=8)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(ahead)


def test_a_reader_that_is_left_reads_no_further():
    started = []
    ahead = read_ahead((started.append(number) or number for number in range(50)), count=4)
    assert next(ahead) == 0
    ahead.close()
    count = len(started)
    assert count <= 6 and not any(thread.name.startswith("ThreadPool") for thread in threading.enumerate())


def test_a_picture_too_slender_for_torchvisions_rule_is_refused_by_its_size():
    with pytest.raises(ValueError, match="1×2000 pixels are too slender"):
        Detector(by_position()).prepare(Image.new("RGB", (1, 2000)))

"""The model and the detector in ways that no chapter uses: copied, compiled, under another default precision."""

import copy
import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from frcnn_common import COCOStreamDataset, FasterRCNN, frcnn_collate_fn
from frcnn_common.constants import DEVICE, TORCHVISION
from frcnn_common.engine import Trainer
from frcnn_common.inference import Detector, save_detector
from frcnn_common.metrics import evaluate
from frcnn_common.openmoji import draw_scene, scene_stream
from frcnn_common.recipes import RECIPES

TINY = RECIPES["openmoji-tiny"]


def small(**options):
    torch.manual_seed(0)
    sizes = {"width": 4, "fpn_channels": 8, "fc_dim": 16, "anchor_sizes": (8, 16, 32, 64, 128), "min_sz": 2}
    return FasterRCNN(4, **sizes | {"trainable_layers": 5, "checkpoint": False, "post_nms": 50} | options)


def batch(count=2):
    torch.manual_seed(1)
    boxes, labels = torch.tensor([[10.0, 12, 50, 60]]), torch.tensor([3])
    return torch.randn(count, 3, 64, 64), [{"boxes": boxes, "labels": labels, "seed": n} for n in range(count)]


def losses_of(model, images, targets):
    """The losses of a training step, and the gradient of a weight that all of them reach."""
    model.zero_grad()
    losses = model(images, targets)
    sum(losses.values()).backward()
    return {name: loss.item() for name, loss in losses.items()}, model.fpn.output[0].weight.grad.clone()


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {"pickle": lambda model: pickle.loads(pickle.dumps(model)), "copy": copy.deepcopy, "torch": through_a_file}


@pytest.mark.filterwarnings("ignore:the backbone is frozen")
@pytest.mark.parametrize("options", [{"conventions": TORCHVISION}, {"trainable_layers": 1, "checkpoint": True}])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_model_is_the_model(way, options):
    """Also of one that has been used."""
    model = small(**options)
    losses_of(model, *batch())
    other = WAYS[way](model)
    assert other.training and [p.requires_grad for p in other.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    mine, theirs = losses_of(model, *batch()), losses_of(other, *batch())
    assert mine[0] == theirs[0] and torch.equal(mine[1], theirs[1])
    with torch.no_grad():
        other.predictor.cls.weight.zero_()
    assert model.predictor.cls.weight.any()


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_detector_detects_the_same(way):
    picture = Image.open(io.BytesIO(draw_scene(5, "val")["image"]["bytes"]))
    detector = Detector.load("tiny")
    found, again = detector(picture), WAYS[way](detector)(picture)
    assert len(found["boxes"]) and all(torch.equal(found[key], again[key]) for key in found)


@pytest.mark.slow
def test_a_compiled_training_step_has_the_same_losses_and_gradients():
    """With checkpointing asked for, as by default: a compiler cannot trace it, and decides itself what to keep."""
    torch.compiler.reset()
    expected, gradient = losses_of(small(checkpoint=True), *batch())
    compiled = torch.compile(small(checkpoint=True), backend="aot_eager")
    found, compiled_gradient = losses_of(compiled, *batch())
    assert found == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(compiled_gradient, gradient, rtol=1e-3, atol=1e-5)


@pytest.fixture
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_default_precision_changes_no_detection(tmp_path):
    picture = Image.open(io.BytesIO(draw_scene(5, "val")["image"]["bytes"]))
    expected = Detector.load("tiny")
    found = expected(picture)
    torch.set_default_dtype(torch.float64)
    try:
        for detector in (expected, Detector.load("tiny")):
            again = detector(picture)
            assert len(found["boxes"]) and all(torch.equal(found[key], again[key]) for key in found)
            assert again["boxes"].dtype == again["scores"].dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_double")
def test_under_another_default_precision_samples_are_what_they_are_and_a_model_trains(tmp_path):
    """A model that was made before stays what it is as well."""
    data = COCOStreamDataset("val", 2, source=scene_stream("val"), img_size=64, metadata=True)
    for image, target in data:
        assert image.dtype == target["boxes"].dtype == torch.float32
    torch.set_default_dtype(torch.float32)
    recipe = replace(
        TINY, img_size=64, model_options=TINY.model_options | {"width": 4, "fpn_channels": 8, "fc_dim": 16}
    )
    model = recipe.model()
    torch.set_default_dtype(torch.float64)
    loader = DataLoader(data, 2, collate_fn=frcnn_collate_fn)
    (entry,) = Trainer(model, recipe).run([next(iter(loader))], 1)
    assert np.isfinite(entry["loss"])
    evaluate(model, loader)
    save_detector(tmp_path / "a.safetensors", model, recipe)
    assert next(Detector.load(tmp_path / "a.safetensors").model.parameters()).dtype == torch.float32


def test_a_model_in_double_precision_detects_in_it():
    model = small(score_thr=0.05).double().to(DEVICE)
    found = Detector(model, 64, names=("", "a", "b", "c"))(Image.effect_noise((60, 40), 80))
    assert found["boxes"].dtype == torch.float32 and found["boxes"].shape[1] == 4


def test_a_detector_takes_arrays_as_pictures():
    picture = Image.open(io.BytesIO(draw_scene(5, "val")["image"]["bytes"])).convert("RGB")
    detector = Detector.load("tiny")
    found, array = detector(picture), np.array(picture)
    for given in (array, torch.from_numpy(array).permute(2, 0, 1)):
        again = detector(given)
        assert len(found["boxes"]) and all(torch.equal(found[key], again[key]) for key in found)
    with pytest.raises(TypeError, match="for a file use PIL.Image.open"):
        detector("scene.jpg")

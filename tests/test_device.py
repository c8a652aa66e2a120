"""On a device that is not the processor: nothing of two devices meets, and the processor waits as seldom as possible.

The device is pretended (`pretend.py`), so that every machine runs this; what a GPU makes of it, `make gpu` asks one.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pretend import pretend
from test_engine import entries

from frcnn_common import FasterRCNN, frcnn_collate_fn
from frcnn_common.coco_json import write_coco_results
from frcnn_common.engine import Trainer, seed_everything
from frcnn_common.errors import detection_errors
from frcnn_common.inference import Detector, load_detector, save_detector
from frcnn_common.metrics import evaluate, evaluate_detections, proposal_recall
from frcnn_common.nms import batched_nms, best_kept, nms
from frcnn_common.recipes import RECIPES, memory_estimate

TINY = RECIPES["openmoji-tiny"]
SMALL = {"width": 4, "fpn_channels": 16, "fc_dim": 32, "pre_nms": 100, "post_nms": 50}
RECIPE = replace(
    TINY, img_size=64, batch_size=2, steps=4, warmup_steps=2, num_workers=0, model_options=TINY.model_options | SMALL
)
ON_EACH = pytest.mark.parametrize("name", ["cuda", "mps"])


def model(num_classes=6, **options):
    """An untrained detector that is made sure of many things."""
    torch.manual_seed(0)
    small = {**SMALL, "anchor_sizes": (8, 16, 32, 64, 128), "min_sz": 2, "trainable_layers": 5}
    made = FasterRCNN(num_classes, **small | options)
    made.predictor.cls.weight.data *= 300
    return made


def batch(count, number_of_boxes=3):
    generator = torch.Generator().manual_seed(count)
    images = torch.randn(count, 3, 64, 96, generator=generator)
    targets = []
    for i in range(count):
        corners = torch.rand(number_of_boxes * (i != 1), 2, generator=generator) * 30  # the second has no object
        labels = torch.arange(len(corners)) % 5 + 1
        targets.append({"boxes": torch.cat([corners, corners + 30], 1), "labels": labels, "image_id": torch.tensor(i)})
    return images, targets


def on(name, targets):
    return [{key: value.to(name) for key, value in target.items()} for target in targets]


# --- The pretended device itself --------------------------------------------------------------------------------------
def here_and_there(name):
    return torch.arange(4.0), torch.arange(4.0).to(name)


MEETINGS = {
    "sum": lambda here, there: here + there,
    "cat": lambda here, there: torch.cat([here, there]),
    "a view": lambda here, there: here[:2] * there.view(2, 2)[0],
    "its data": lambda here, there: here.mul_(torch.nn.Parameter(there).data),
    "a new one": lambda here, there: here + torch.ones(4, device=there.device),
    "one like it": lambda here, there: here + torch.zeros_like(there),
    "an index that is there": lambda here, there: here[there.long()],
    "a loss": lambda here, there: F.mse_loss(here, there),
    "a gradient": lambda here, there: here + torch.autograd.grad((w := there.requires_grad_()).square().sum(), w)[0],
}


@ON_EACH
@pytest.mark.parametrize("meet", MEETINGS.values(), ids=MEETINGS)
def test_two_devices_do_not_meet(name, meet):
    with pretend(name), pytest.raises(RuntimeError, match="and on the CPU"):
        meet(*here_and_there(name))


@ON_EACH
def test_what_torch_allows_between_devices(name):
    with pretend(name):
        here, there = here_and_there(name)
        assert (there * torch.tensor(2.0)).device == torch.device(name, 0) and here.device.type == "cpu"
        assert (there.cpu() + here).device.type == "cpu"
        assert getattr(there, f"is_{name}") and there.new_zeros(2).device == there.device
        assert torch.nn.Linear(4, 4).to(name)(there).device.type == name
        drawn = torch.randperm(9, generator=torch.Generator(there.device).manual_seed(3), device=there.device)
        assert torch.equal(drawn.cpu(), torch.randperm(9, generator=torch.Generator().manual_seed(3)))


WAITS = {
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "bool": lambda x: bool(x[0]),
    "int": lambda x: int(x[0]),
    "float": lambda x: float(x[0]),
    "a size": lambda x: range(x[1].long()),
    "nonzero": lambda x: x.nonzero(),
    "argwhere": lambda x: x.argwhere(),
    "where": lambda x: torch.where(x > 1),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, 2 * x),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().bincount(),
    "masked_select": lambda x: x.masked_select(x > 1),
    "a mask": lambda x: x[x > 1],
    "a mask to write": lambda x: x.index_put_((x > 1,), torch.ones_like(x)[:2]),
    "repeats": lambda x: x.repeat_interleave(x.long()),
    "to the CPU": lambda x: x.cpu(),
    "from the CPU": lambda x: torch.ones(3).to(x.device),
    "made of a list": lambda x: torch.tensor([1.0], device=x.device),
    "new of a list": lambda x: x.new_tensor([1.0]),
    "an index from the CPU": lambda x: x[torch.tensor([0, 1])],
    "copy": lambda x: x.copy_(torch.zeros(4)),
    "in a backward pass": lambda x: Asks.apply(x.requires_grad_()).sum().backward(),
}
NO_WAIT = {
    "arithmetic": lambda x: (2 * x + 1).sum(),
    "an index": lambda x: x[x.long()],
    "a sort": lambda x: x.sort(),
    "repeats of known number": lambda x: x.repeat_interleave(x.long(), output_size=6),
    "a fill": lambda x: x.masked_fill_(x > 1, 0.0),
    "a copy in its turn": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "a scalar": lambda x: x.new_full((), 3.0) + torch.full((2,), 1.0, device=x.device),
    "a shape": lambda x: len(x) + x.numel(),
}


class Asks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * gradient.max().item()


@pytest.mark.parametrize("ask", WAITS.values(), ids=WAITS)
def test_a_wait_is_counted(ask):
    with pretend("cuda") as device:
        _, there = here_and_there("cuda")
        device.waits.clear()
        ask(there)
        assert device.waits.total() == 1, device.waits


@pytest.mark.parametrize("work", NO_WAIT.values(), ids=NO_WAIT)
def test_nothing_else_is_counted(work):
    with pretend("cuda") as device:
        _, there = here_and_there("cuda")
        device.waits.clear()
        work(there)
        assert not device.waits


def test_a_wait_has_its_place_in_the_library():
    with pretend("cuda") as device:
        boxes = torch.tensor([[0.0, 0, 9, 9]]).to("cuda")
        nms(boxes, boxes[:, 2], 0.5)
    assert any(place.startswith("nms._settle_together:") for place in device.waits)


def test_mps_has_no_float64():
    with pretend("mps"), pytest.raises(TypeError, match="float64"):
        torch.zeros(2).to("mps").double()


# --- How often the library waits --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("count", "num_classes"), [(1, 6), (2, 6), (5, 6), (2, 81)])
def test_waits_of_a_detection(count, num_classes):
    with pretend("cuda") as device, torch.no_grad():
        detector, images = model(num_classes).to("cuda").eval(), batch(count)[0].to("cuda")
        device.waits.clear()
        results, _ = detector(images)
        assert device.waits.total() <= 10, device.waits
    assert all(len(result["boxes"]) > 10 for result in results)


@pytest.mark.parametrize(("count", "num_classes"), [(1, 6), (2, 6), (5, 6), (2, 81)])
def test_waits_of_a_training_step(count, num_classes):
    with pretend("cuda") as device:
        trainer = Trainer(model(num_classes).to("cuda").train(), TINY)
        images, targets = batch(count)
        for given, most in ((targets, 12), (on("cuda", targets), 14)):
            device.waits.clear()
            trainer.train_step([(images, given)])
            assert device.waits.total() <= most, device.waits


def test_waits_do_not_grow_with_the_batches_of_a_step():
    with pretend("cuda") as device:
        trainer = Trainer(model().to("cuda").train(), TINY, accumulate=3)
        device.waits.clear()
        trainer.train_step([batch(1)] * 3)
        of_the_step = sum(count for place, count in device.waits.items() if place.startswith("engine."))
        assert of_the_step == 2, device.waits


# --- The same numbers as on the CPU, and nothing of two devices meets -------------------------------------------------
@ON_EACH
@pytest.mark.parametrize("targets_there", [False, True])
def test_a_training_step_is_that_of_the_cpu(name, targets_there):
    images, targets = batch(3)
    expected = Trainer(model().train(), TINY).train_step([(images, targets)])
    with pretend(name):
        found = Trainer(model().to(name).train(), TINY).train_step(
            [(images, on(name, targets) if targets_there else targets)]
        )
    for key in ("grad_norm", "rpn_cls", "rpn_box", "roi_cls", "roi_box"):
        assert found[key] == pytest.approx(expected[key], rel=1e-6), key


@ON_EACH
def test_detections_are_those_of_the_cpu(name):
    images, _ = batch(3)
    with torch.no_grad():
        expected = model().eval()(images, image_sizes=[(64, 96), (50, 70), (64, 90)])
        with pretend(name):
            found = model().to(name).eval()(images.to(name), image_sizes=[(64, 96), (50, 70), (64, 90)])
    for mine, theirs in zip(found[0], expected[0], strict=True):
        assert len(mine["boxes"]) > 10 and all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found[1], expected[1], strict=True))


@ON_EACH
def test_suppression_is_that_of_the_cpu(name):
    corners = torch.rand(700, 2) * 200
    boxes, scores = torch.cat([corners, corners + 50], dim=1), (torch.rand(700) * 50).round()
    groups = torch.randint(3, (700,)) - 2**60
    expected = nms(boxes, scores, 0.5), batched_nms(boxes, scores, groups, 0.5)
    with pretend(name):
        there = [value.to(name) for value in (boxes, scores, groups)]
        found = nms(*there[:2], 0.5).cpu(), batched_nms(*there, 0.5).cpu(), best_kept(*there, 0.5, 20).cpu()
    for mine, theirs in zip(found, (*expected, expected[1][:20]), strict=True):
        assert torch.equal(mine, theirs)


@ON_EACH
def test_a_run_a_checkpoint_and_its_reload(name, tmp_path):
    with pretend(name):
        for folder, lengths in (("whole", (4,)), ("in parts", (2, 4))):
            for steps in lengths:
                seed_everything(0)
                trainer, loader = (
                    Trainer(RECIPE.model(), RECIPE, tmp_path / folder),
                    RECIPE.loader("train", metadata=True),
                )
                trainer.resume(loader)
                trainer.run(loader, steps, every=2)
    whole, parts = (entries(tmp_path / folder) for folder in ("whole", "in parts"))
    assert [entry["step"] for entry in parts] == [1, 2, 3, 4]
    for mine, theirs in zip(parts, whole, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


@ON_EACH
def test_evaluation_and_metrics(name, tmp_path):
    rows = list(RECIPE.dataset("val", 3, metadata=True))
    images, targets = frcnn_collate_fn(rows)
    with pretend(name):
        detector = Detector.load().model.to(name)
        assert evaluate(detector, [(images, targets)]).AP > 0
        results, proposals = detector(images.to(name))
        for given in (targets, [{k: v.to(name) for k, v in t.items() if k in ("boxes", "labels")} for t in targets]):
            assert evaluate_detections(results, given).AP > 0
            assert proposal_recall(proposals, given)[1000] > 0
            assert len(detection_errors(results[0], given[0])[0]) == len(results[0]["boxes"])
        write_coco_results(tmp_path / "results.json", results, [1, 2, 3])
    assert (tmp_path / "results.json").stat().st_size > 100


@ON_EACH
def test_a_detector_and_its_file(name, tmp_path):
    picture = Image.effect_noise((90, 70), 80)
    with pretend(name):
        made = RECIPE.model()
        save_detector(tmp_path / "a.safetensors", made, RECIPE)
        loaded, settings = load_detector(tmp_path / "a.safetensors", score_thr=0.0)
        assert next(loaded.parameters()).device.type == name
        found = Detector(loaded, settings["img_size"])(picture, score=0.0)
        assert len(found["boxes"]) and all(value.device.type == "cpu" for value in found.values())


@ON_EACH
def test_the_estimate_of_memory(name):
    expected = memory_estimate(RECIPE)
    with pretend(name):
        assert memory_estimate(RECIPE) == pytest.approx(expected, rel=0.02)


@ON_EACH
@pytest.mark.parametrize("there", [False, True])
def test_wrong_inputs_are_named_wherever_they_are(name, there):
    images, targets = batch(2)
    targets[0]["labels"][1] = 9
    spoiled = images.clone()
    spoiled[1, 2, 3, 4] = torch.nan
    with pretend(name):
        detector = model().to(name).train()
        targets = on(name, targets) if there else targets
        with pytest.raises(ValueError, match=r"targets\[0\]\['labels'\]\[1\] must be 1…5, got 9"):
            detector(images.to(name), targets)
        with pytest.raises(ValueError, match=r"images\[1\] must have finite pixels, got nan at \[2, 3, 4\]"):
            detector(spoiled.to(name), targets)
        with pytest.raises(ValueError, match=f"model's device {name}:0, got cpu"):
            detector(images, targets)

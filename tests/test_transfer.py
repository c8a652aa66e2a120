"""Starting from trained weights: which numbers come from where, what is refused, and how such a run goes on."""

import copy
import hashlib
import io
import json
from dataclasses import replace

import pytest
import torch

from frcnn_common import COCO_NAMES, COURSE, DEVICE, TORCHVISION, FasterRCNN
from frcnn_common.engine import Trainer, seed_everything
from frcnn_common.inference import Detector, save_detector
from frcnn_common.recipes import RECIPES
from frcnn_common.runs import load_checkpoint
from frcnn_common.transfer import resume_start, start_from
from frcnn_common.weights import WEIGHTS_URLS, cached_file

SMALL = {"width": 4, "fpn_channels": 16, "fc_dim": 32, "pre_nms": 50, "post_nms": 20}
BACKGROUND = "__background__"
TRAINED = (BACKGROUND, "cat", "dog", "cow")
OWN = replace(
    RECIPES["openmoji-tiny"], names=(BACKGROUND, "unicorn", "cow", "cat"), model_options={"num_classes": 4},
    img_size=96, batch_size=2, steps=4, warmup_steps=1, lr=0.01,
)  # fmt: skip


def trained(names=TRAINED, **options):
    """A detector whose class rows, of 1 for the score and 4 for the deltas, hold the number of their class."""
    model = FasterRCNN(len(names), **SMALL | options).to(DEVICE)
    for layer, rows in ((model.predictor.cls, 1), (model.predictor.box, 4)):
        numbers = torch.arange(len(names), dtype=torch.float32, device=DEVICE).repeat_interleave(rows)
        layer.bias.data.copy_(numbers)
        layer.weight.data.copy_(numbers[:, None].expand_as(layer.weight))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
    return Detector(model, 64, "trained", names)


def batch():
    targets = [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([n + 1])} for n in range(2)]
    return torch.rand(2, 3, 64, 64, device=DEVICE), targets


def test_all_but_the_class_rows_are_the_trained_ones():
    detector = trained()
    model, _, _ = start_from(OWN, detector)
    state = detector.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items() if not k.startswith("predictor."))
    assert model.training and next(model.parameters()).device.type == DEVICE.type
    state["fpn.lateral.0.weight"].zero_()
    assert model.fpn.lateral[0].weight.any()  # of its own


def test_class_rows_follow_the_names():
    """Cow is class 3 there and class 2 here, cat 1 and 3; nobody knows the unicorn."""
    model, _, taken = start_from(OWN, trained())
    for layer, rows in ((model.predictor.cls, 1), (model.predictor.box, 4)):
        weight, bias = layer.weight.unflatten(0, (4, rows)), layer.bias.unflatten(0, (4, rows))
        for label, there in ((0, 0), (2, 3), (3, 1)):
            assert (weight[label] == there).all() and (bias[label] == there).all()
        assert 0 < weight[1].std() < 0.02 and not bias[1].any()
    assert taken == (
        "starting from trained: backbone, pyramid, RPN and box head are taken over; "
        "classes taken over: cow, cat; new classes: unicorn"
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a", "b"), "classes taken over: none; new classes: a, b"),
        (("dog",), "classes taken over: dog; new classes: none"),
        (("Cat", "cat"), "classes taken over: cat; new classes: Cat"),
        (tuple("abcdefghij"), "classes taken over: none; new classes: a, b, c, d, e, f, g, h and 2 more"),
    ],
)
def test_what_was_taken_is_said(names, words):
    recipe = replace(OWN, names=(BACKGROUND, *names), model_options={"num_classes": 1 + len(names)})
    model, _, taken = start_from(recipe, trained(names=("nothing", *TRAINED[1:])))
    assert taken.endswith(words)
    assert (model.predictor.cls.weight[0] == 0).all() and (model.predictor.box.weight[:4] == 0).all()


def test_the_model_follows_the_weights_and_its_training_the_recipe():
    theirs = {"anchor_sizes": (8, 16, 32, 64, 128), "conventions": TORCHVISION, "norm": "frozen", "trainable_layers": 5}
    detector = trained(**theirs, roi_batch=16, score_thr=0.2)
    training = {"trainable_layers": 2, "roi_batch": 64, "checkpoint": False}
    recipe = replace(OWN, model_options={"num_classes": 4, "width": 8, "backbone_weights": "IMAGENET1K_V2"} | training)
    model, recipe, _ = start_from(recipe, detector)
    assert model.rpn.anchor_gen.anchor_sizes == theirs["anchor_sizes"] and model.conventions == TORCHVISION
    assert model.box_weights == TORCHVISION.box_weights and model.score_thr == 0.2
    assert not any(module.training for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert (model.roi_batch, model.backbone.checkpoint) == (64, False)
    stages = (model.backbone.stem, model.backbone.layer1, model.backbone.layer2, model.backbone.layer3)
    assert [any(p.requires_grad for p in stage.parameters()) for stage in stages] == [False, False, False, True]
    assert recipe.img_size == 64 and recipe.lr == OWN.lr
    assert recipe.model().state_dict().keys() == model.state_dict().keys()


def test_options_are_said_where_they_shall_differ():
    model, recipe, _ = start_from(OWN, trained(), trainable_layers=1, score_thr=0.3, width=4)
    assert (model.score_thr, recipe.model_options["score_thr"]) == (0.3, 0.3)
    assert not any(p.requires_grad for p in model.backbone.layer3.parameters())


@pytest.mark.parametrize(
    ("name", "value", "theirs"),
    [
        ("width", 8, "4"),
        ("fpn_channels", 8, "16"),
        ("fc_dim", 8, "32"),
        ("box_weights", (10.0, 10.0, 5.0, 5.0), r"\(1.0, 1.0, 1.0, 1.0\)"),
        ("conventions", TORCHVISION, "Conventions"),
    ],
)
def test_a_model_to_which_the_weights_mean_nothing_is_refused(name, value, theirs):
    with pytest.raises(ValueError, match=rf"^{name} must be that of trained, {theirs}.*, got [^\n]*$"):
        start_from(OWN, trained(), **{name: value})


def test_frozen_stages_keep_weights_and_statistics_in_training():
    """Also the memory: nothing of them is kept for a backward pass that does not come."""
    detector = trained()
    before = copy.deepcopy(detector.model.backbone.state_dict())
    model, recipe, _ = start_from(replace(OWN, model_options={"num_classes": 4, "trainable_layers": 2}), detector)
    Trainer(model, recipe).run([batch()], steps=2)
    after = model.backbone.state_dict()
    frozen = ("stem", "layer1", "layer2")
    assert all(torch.equal(after[key], value) for key, value in before.items() if key.startswith(frozen))
    assert not torch.equal(after["layer3.0.conv1.weight"], before["layer3.0.conv1.weight"])
    assert not torch.equal(after["layer4.0.bn1.running_mean"], before["layer4.0.bn1.running_mean"])
    assert model.backbone.layer2(torch.rand(1, 16, 8, 8, device=DEVICE)).grad_fn is None


def test_a_frozen_backbone_that_was_taken_over_is_not_called_random(recwarn):
    model, _, _ = start_from(replace(OWN, model_options={"num_classes": 4, "trainable_layers": 0}), trained())
    model(*batch())
    assert not [warning for warning in recwarn if "random" in str(warning.message)]


def test_a_file_a_copy_of_it_and_a_run_are_the_same_start(tmp_path):
    named = replace(OWN, names=TRAINED, img_size=64)
    save_detector(tmp_path / "run" / "best.safetensors", trained().model, named)
    (tmp_path / "copy.safetensors").write_bytes((tmp_path / "run" / "best.safetensors").read_bytes())
    starts = []
    for place in ("run", "run/best.safetensors", "copy.safetensors"):
        seed_everything(0)
        starts.append(start_from(OWN, tmp_path / place))
    assert len({recipe.start["sha256"] for _, recipe, _ in starts}) == 1
    assert starts[0][1].start["weights"] == str(tmp_path / "run")
    assert f"starting from {tmp_path / 'run' / 'best.safetensors'}: " in starts[0][2]
    first, *others = (model.state_dict() for model, _, _ in starts)
    assert all(torch.equal(first[key], other[key]) for other in others for key in first)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        start_from(OWN, tmp_path / "nowhere.safetensors")


def test_log_and_checkpoint_say_what_a_run_started_from(tmp_path):
    model, recipe, _ = start_from(OWN, trained())
    Trainer(model, recipe, tmp_path).run([batch()], steps=2)
    first, second = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert first["start"] == {"weights": "trained", "sha256": recipe.start["sha256"]} and "start" not in second
    start = load_checkpoint(tmp_path / "step_00000002.pt")["recipe"]["start"]
    assert start == recipe.start and (start["img_size"], start["model_options"]["width"]) == (64, 4)


def files(tmp_path):
    """Two files of weights, and a run of one step that started from the first."""
    for name in ("one", "other"):
        save_detector(tmp_path / f"{name}.safetensors", trained().model, replace(OWN, names=TRAINED, img_size=64))
    model, recipe, _ = start_from(OWN, tmp_path / "one.safetensors")
    Trainer(model, recipe, tmp_path / "run").run([batch()], steps=1)
    return tmp_path / "one.safetensors", tmp_path / "other.safetensors", tmp_path / "run", recipe


def test_a_run_goes_on_without_the_weights_that_it_started_from(tmp_path):
    one, _, run, recipe = files(tmp_path)
    one.rename(tmp_path / "moved.safetensors")
    for weights in (None, one, str(one), tmp_path / "moved.safetensors"):
        assert resume_start(OWN, run, weights) == recipe
    trainer = Trainer(resume_start(OWN, run).model(), resume_start(OWN, run), run)
    assert trainer.resume([batch()]) == 1
    assert len(trainer.run([batch()], steps=2)) == 2


def test_a_run_goes_on_only_from_where_it_started(tmp_path):
    one, other, run, recipe = files(tmp_path)
    with pytest.raises(
        ValueError, match="step_00000001.pt belongs to another run: .*one.safetensors, not from .*other"
    ):
        resume_start(OWN, run, other)
    with pytest.raises(ValueError, match="model_options is .* here, .* there"):
        changed = resume_start(OWN, run, one, trainable_layers=0)
        Trainer(changed.model(), changed, run).resume([batch()])
    scratch = replace(OWN, model_options=recipe.model_options)
    Trainer(scratch.model(), scratch, tmp_path / "scratch").run([batch()], steps=1)
    assert resume_start(scratch, tmp_path / "scratch") == scratch
    with pytest.raises(ValueError, match="it started from scratch, not from tiny"):
        resume_start(scratch, tmp_path / "scratch", "tiny")


def test_the_shipped_detector_keeps_its_classes():
    detector = Detector.load("tiny")
    recipe = replace(OWN, names=(BACKGROUND, "zebra"), model_options={"num_classes": 2, "trainable_layers": 5})
    model, recipe, _ = start_from(recipe, "tiny")
    zebra = COCO_NAMES.index("zebra")
    assert torch.equal(model.predictor.box.bias[4:], detector.model.predictor.box.bias[4 * zebra : 4 * zebra + 4])
    assert (recipe.img_size, recipe.model_options["width"], model.conventions) == (detector.img_size, 16, COURSE)


def test_what_was_learned_of_other_classes_counts_from_the_first_step():
    """Scenes whose classes have names that nobody has seen: where objects are is known all the same.

    At 192 pixels: much smaller pictures are foreign to weights that were last trained at 320.
    """
    scenes = replace(RECIPES["openmoji-tiny"], img_size=192, num_workers=0)
    images, targets = next(iter(scenes.loader("val", 4, batch_size=4)))
    names = (BACKGROUND, *(f"thing {label}" for label in range(1, 81)))
    recipe = replace(scenes, names=names)
    models = {"scratch": recipe.model(), "tiny": start_from(recipe, "tiny")[0]}
    losses = {name: model.train()(images.to(DEVICE), targets) for name, model in models.items()}
    first_stage = {name: (loss["rpn_cls"] + loss["rpn_box"]).item() for name, loss in losses.items()}
    assert first_stage["tiny"] < 0.2 * first_stage["scratch"]


@pytest.mark.slow
def test_torchvisions_detector_by_its_name(tmp_path, monkeypatch):
    """A file of random numbers stands in for the published one, which has no size of pictures: that is the recipe's."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).state_dict()
    content = io.BytesIO()
    torch.save(theirs, content)
    digits = hashlib.sha256(content.getvalue()).hexdigest()[:8]
    monkeypatch.setitem(WEIGHTS_URLS, "COCO_V1", f"http://127.0.0.1:9/detector-{digits}.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached_file("COCO_V1").parent.mkdir()
    cached_file("COCO_V1").write_bytes(content.getvalue())
    names = (BACKGROUND, "unicorn", "toothbrush")
    recipe = replace(OWN, names=names, model_options={"num_classes": 3}, keep_aspect=True)
    model, recipe, taken = start_from(recipe, "coco", trainable_layers=3)
    assert torch.equal(model.predictor.cls.weight[2].cpu(), theirs["roi_heads.box_predictor.cls_score.weight"][90])
    assert torch.equal(model.box_head.fc1.weight.cpu(), theirs["roi_heads.box_head.fc6.weight"])
    assert taken.startswith("starting from coco: ") and taken.endswith("taken over: toothbrush; new classes: unicorn")
    assert (recipe.img_size, recipe.keep_aspect, recipe.start["weights"]) == (96, True, "coco")
    assert model.conventions == TORCHVISION
    assert not any(module.training for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))

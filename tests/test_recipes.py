"""Recipes: which one is current, that its data and its model fit together, and what the course adds."""

from dataclasses import fields, replace

import datasets
import pytest
import torch
from torch import nn

from frcnn_common import COCO_NAMES, FasterRCNN
from frcnn_common.engine import lr_factor
from frcnn_common.hub import HUB_REVISION
from frcnn_common.openmoji import draw_scene
from frcnn_common.recipes import RECIPES, Recipe, course_settings, current_recipe, memory_estimate


def test_the_environment_chooses(monkeypatch):
    monkeypatch.delenv("FRCNN_RECIPE", raising=False)
    assert current_recipe().name == "openmoji-tiny"
    monkeypatch.setenv("FRCNN_RECIPE", "coco-r50")
    assert current_recipe().name == "coco-r50"
    monkeypatch.setenv("FRCNN_RECIPE", "coco")
    with pytest.raises(ValueError, match="'coco'.*openmoji-tiny, coco-r50"):
        current_recipe()


def test_the_course_is_shorter_and_narrower():
    recipe = RECIPES["openmoji-tiny"]
    live = course_settings(recipe).live
    assert live.steps < recipe.steps and live.img_size < recipe.img_size and len(live.categories) == 12
    labels = {
        label for _, targets in live.loader("val", 40) for target in targets for label in target["labels"].tolist()
    }
    names = {COCO_NAMES[label] for label in labels}
    assert names <= set(live.categories)


@pytest.mark.parametrize("name", RECIPES)
def test_the_course_knows_every_recipe(name):
    recipe, course = RECIPES[name], course_settings(RECIPES[name])
    assert (course.live.name, course.live.source, course.live.names) == (name, recipe.source, recipe.names)
    assert course.eval_samples > 0 and course.weights in ("tiny", "coco")
    bars = ("overfit_loss", "overfit_AP50", "live_loss", "rpn_recall100", "recall100", "live_AP50", "AP50")
    assert course.bars.keys() == set(bars)
    assert course_settings(recipe.with_batch_size(2)) is course


def test_a_recipe_that_the_course_does_not_know():
    with pytest.raises(ValueError, match="'mine', only for openmoji-tiny, coco-r50"):
        course_settings(replace(RECIPES["openmoji-tiny"], name="mine"))


def test_a_description_has_every_field_and_goes_through_a_checkpoint(tmp_path):
    for recipe in RECIPES.values():
        described = recipe.describe()
        assert described.keys() == {field.name for field in fields(recipe)}
        torch.save(described, tmp_path / "recipe.pt")
        assert torch.load(tmp_path / "recipe.pt", weights_only=True) == described


def test_the_model_has_the_options_of_the_recipe():
    recipe = RECIPES["openmoji-tiny"]
    model = recipe.model()
    assert (model.roi_batch, model.roi_pos_frac, model.rpn.post_nms) == (128, 0.5, 200)
    assert course_settings(recipe).live.model().roi_batch == 64
    assert vars(model).keys() == vars(FasterRCNN(**recipe.model_options)).keys()


def test_default_recipe_trains_and_detects():
    torch.manual_seed(0)
    recipe = RECIPES["openmoji-tiny"]
    images, targets = next(iter(recipe.loader("train", batch_size=2)))
    assert images.shape == (2, 3, recipe.img_size, recipe.img_size)
    model = recipe.model()
    assert model.train()(images.to(model.rpn.head.cls.weight.device), targets)["roi_cls"].isfinite()
    size = model.rpn.anchor_gen.anchor_sizes
    assert min(size) <= recipe.img_size / 16 and max(size) > 0.5 * recipe.img_size


def test_hub_recipe_asks_the_hub(monkeypatch):
    recipe = RECIPES["coco-r50"]
    dataset = recipe.dataset("validation", 5)
    assert (dataset.source, dataset.split, dataset.img_size) == ("detection-datasets/coco", "val", 400)
    assert dataset.revision == HUB_REVISION and replace(recipe, revision="abc").dataset("val").revision == "abc"
    assert recipe.model_options["backbone_weights"] == "IMAGENET1K_V2" and recipe.amp_dtype == torch.float16


def test_the_hub_recipe_is_the_1x_schedule_of_the_references():
    """0.02 for 16 images, a tenth after 60,000 of 90,000 steps, a hundredth after 80,000."""
    recipe = RECIPES["coco-r50"]
    rates = [
        recipe.lr * lr_factor(step, recipe.steps, recipe.warmup_steps, recipe.schedule)
        for step in (0, 999, 59_999, 60_000, 79_999, 80_000, 89_999)
    ]
    assert recipe.batch_size == 16 and rates == pytest.approx([2e-5, 0.02, 0.02, 2e-3, 2e-3, 2e-4, 2e-4])


def test_another_batch_size_scales_the_learning_rate():
    recipe = RECIPES["coco-r50"].with_batch_size(4)
    assert recipe.lr == pytest.approx(0.005) and recipe.loader("val").batch_size == 4


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("steps", "warmup"), [(9600, 300), (1500, 300), (100, 20), (4, 0)])
def test_of_a_short_run_at_most_a_fifth_is_warm_up(steps, warmup):
    recipe = RECIPES["openmoji-tiny"].with_steps(steps)
    assert (recipe.steps, recipe.warmup_steps) == (steps, warmup)


def test_every_picture_is_trained_on_however_many_workers_there_are():
    """Twenty pictures, four workers, batches of eight: of five pictures, no worker could make a batch."""
    rows = datasets.IterableDataset.from_generator(scenes, gen_kwargs={"numbers": list(range(20))})
    recipe = replace(RECIPES["openmoji-tiny"], img_size=32, num_workers=4, shuffle=4)
    loader = recipe.loader("train", source=rows, metadata=True)
    seen = [int(target["image_id"]) for _ in range(2) for _, targets in loader for target in targets]
    assert len(seen) == 40 and sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))


def scenes(numbers):
    yield from (draw_scene(number, longest=64) for number in numbers)


def test_a_recipe_that_keeps_the_shape_of_pictures_says_so_to_its_data():
    recipe = replace(RECIPES["openmoji-tiny"], img_size=64, keep_aspect=True)
    for split in ("train", "val"):
        images, targets = next(iter(recipe.loader(split, batch_size=3)))
        assert images.shape == (3, 3, 64, 64)
        assert all(max(target["size"].tolist()) == 64 for target in targets)
    assert not any("size" in target for target in next(iter(RECIPES["openmoji-tiny"].loader("val", batch_size=2)))[1])


def test_names_must_fit_the_model_and_be_text():
    recipe = RECIPES["openmoji-tiny"]
    with pytest.raises(ValueError, match="3 names .* for a model of 81 classes"):
        replace(recipe, names=("__background__", "cup", "spoon"))
    options = recipe.model_options | {"num_classes": 3}
    with pytest.raises(TypeError, match=r"names must be text, got \('__background__', 1, 2\)"):
        replace(recipe, names=("__background__", 1, 2), model_options=options)
    assert replace(recipe, names=("__background__", "cup", "spoon"), model_options=options)


class OneConvolution(nn.Conv2d):
    """A model whose memory can be computed by hand: 3 → 8 channels, 3 × 3, and a ReLU."""

    def forward(self, images, targets):
        return super().forward(images).relu()


def test_memory_of_one_convolution_by_hand(monkeypatch):
    """Kept are the pictures, 3 channels, and the ReLU's result, 8; in half precision also the 216 weights."""
    monkeypatch.setattr(Recipe, "model", lambda recipe: OneConvolution(3, 8, 3, padding=1, bias=False))
    recipe = replace(RECIPES["openmoji-tiny"], img_size=32, batch_size=5)
    parts = {"parameters": 216 * 4, "gradients": 216 * 4, "optimizer": 216 * 8}
    assert memory_estimate(recipe) == parts | {"copies": 0, "activations": 5 * 11 * 32**2 * 4}
    half = replace(recipe, amp_dtype=torch.float16, optimizer="sgd")
    parts["optimizer"] = 216 * 4
    assert memory_estimate(half) == parts | {"copies": 216 * 2, "activations": 5 * 11 * 32**2 * 2}


@pytest.mark.slow
def test_the_hub_recipe_fits_16_gigabytes():
    """Fixed are the stem's 64·3·49 weights, 212,992 of layer 1, and two for each of the norms' 26,560 channels."""
    estimate = memory_estimate(RECIPES["coco-r50"])
    trainable = 41_757_156 - 64 * 3 * 49 - 212_992 - 2 * 26_560
    assert estimate["parameters"] == 41_757_156 * 4
    assert estimate["gradients"] == estimate["optimizer"] == trainable * 4
    head = 512 * 256 * 7 * 7 * 2  # what the box head sees of one image, in half precision
    assert estimate["activations"] > 16 * head and 0 < estimate["copies"] < trainable * 2
    assert sum(estimate.values()) < 16e9

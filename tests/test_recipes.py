"""Recipes: which one is current, and that each gives data and a model that fit together."""

import pytest
import torch

from frcnn_common import data
from frcnn_common.recipes import RECIPES, current_recipe


def test_the_environment_chooses(monkeypatch):
    monkeypatch.delenv("FRCNN_RECIPE", raising=False)
    assert current_recipe().name == "openmoji-tiny"
    monkeypatch.setenv("FRCNN_RECIPE", "coco-r50")
    assert current_recipe().name == "coco-r50"
    monkeypatch.setenv("FRCNN_RECIPE", "coco")
    with pytest.raises(ValueError, match="'coco'.*openmoji-tiny, coco-r50"):
        current_recipe()


def test_live_is_shorter_and_narrower():
    recipe = RECIPES["openmoji-tiny"]
    live = recipe.live()
    assert live.steps == recipe.live_steps < recipe.steps and len(live.categories) == 12
    labels = {
        label for _, targets in live.loader("val", 40) for target in targets for label in target["labels"].tolist()
    }
    names = {data.COCO_NAMES[label] for label in labels}
    assert names <= set(live.categories)


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
    assert recipe.model_options["backbone_weights"] == "IMAGENET1K_V2" and recipe.amp_dtype == torch.float16


def test_learning_rate_of_the_hub_recipe_follows_the_linear_rule():
    recipe = RECIPES["coco-r50"]
    assert recipe.lr == pytest.approx(0.02 * recipe.batch_size / 16)

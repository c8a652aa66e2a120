"""The programs behind the results page run, and do to weights what they say."""

import importlib
import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from test_voc import CUP, SPOON, write, xml

from frcnn_common.inference import SHIPPED, load_detector, save_detector
from frcnn_common.recipes import RECIPES


def run(root, *arguments):
    """The lines that one of the programs prints."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()


def model_card(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "tools"))
    return importlib.import_module("model_card")


def test_a_wider_box_head_computes_the_same(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    go_on = importlib.import_module("go_on")
    narrow, wide = (load_detector(SHIPPED)[0] for _ in range(2))
    go_on.widen(wide, 600)
    regions = torch.rand(9, 64, 7, 7, generator=torch.Generator().manual_seed(0))
    assert wide.box_head(regions).shape == (9, 600)
    for got, expected in zip(wide.predictor(wide.box_head(regions)), narrow.predictor(narrow.box_head(regions))):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_box_loss_that_counts_more_changes_nothing_that_is_computed(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    go_on = importlib.import_module("go_on")
    model, _ = load_detector(SHIPPED)
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    target = {"boxes": torch.tensor([[20.0, 30, 80, 90]]), "labels": torch.tensor([5]), "seed": 0}
    with torch.no_grad():
        losses, found = model.train()(image, [target]), model.eval()(image)[0][0]
        go_on.weigh_boxes(model, 2.0)
        found_too, weighed = model(image)[0][0], model.train()(image, [target])
    for name, values in found.items():
        torch.testing.assert_close(found_too[name], values)
    torch.testing.assert_close(weighed["roi_cls"], losses["roi_cls"])
    assert 2 * losses["roi_box"] < weighed["roi_box"] < 4 * losses["roi_box"]  # smooth L1 is between |d| and its square


@pytest.mark.slow
def test_going_on_at_two_sizes_leaves_a_detector(root, tmp_path, monkeypatch):
    options = (
        "--widen",
        520,
        "--box-loss",
        2,
        "--sizes",
        "64:2",
        "96:1",
        "--every",
        2,
        "--scenes",
        2,
        "--out",
        tmp_path / "a.safetensors",
    )
    log = tmp_path / "a.log"
    log.write_text("\n".join(run(root, "benchmarks/go_on.py", *options)), encoding="utf-8")
    stage = model_card(root, monkeypatch).went_on(log)
    assert stage["options"]["sizes"] == ["64:2", "96:1"] and stage["options"]["box_loss"] == 2
    lines = stage["evaluations"]
    assert [(line["step"], line["img_size"]) for line in lines] == [(2, 64), (3, 96)]
    model, settings = load_detector(tmp_path / "a.safetensors")
    assert settings["img_size"] == 96 and model.predictor.cls.in_features == 520


@pytest.mark.slow
def test_both_detectors_learn_side_by_side(root, tmp_path):
    run(root, "benchmarks/learning.py", "--steps", 2, "--scenes", 2, "--out", tmp_path / "a.json")
    curves = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["curves"]
    assert {name: [entry["step"] for entry in entries] for name, entries in curves.items()} == {
        "ours": [2],
        "torchvision": [2],
    }
    assert all(math.isfinite(entries[0]["loss"]) for entries in curves.values())


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--from", "tiny"), ("--from", "scratch", "--peer")], ids=["ours", "torchvision"])
def test_both_detectors_train_on_the_lists_of_a_folder_of_ones_own(root, tmp_path, options):
    folder = write(
        tmp_path / "voc",
        {stem: xml(CUP, SPOON) for stem in "abcd"},
        lists={"train": "a", "val": "b", "trainval": "abc", "test": "d"},
    )
    tail = "--steps", 2, "--side", 64, "--every", 2, "--out", tmp_path / "a.json"
    run(root, "benchmarks/real_data.py", folder, *options, *tail)
    report = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    (entry,) = report["curve"]
    assert entry["step"] == 2 and entry["per_class"].keys() == {"cup", "spoon"} and 0 <= entry["AP50"] <= 1


def test_the_mean_of_two_runs_is_that_of_their_weights(root, tmp_path, monkeypatch):
    recipe = replace(RECIPES["openmoji-tiny"], img_size=96)
    files = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for file in files[:2]:
        save_detector(file, recipe.model(), recipe)
    model_card(root, monkeypatch).mean(files[:2], files[2])
    one, two, mean = (load_file(file) for file in files)
    for name, value in mean.items():
        torch.testing.assert_close(value.float(), (one[name].float() + two[name].float()) / 2, rtol=1e-3, atol=1e-6)
    assert load_detector(files[2])[1]["img_size"] == 96

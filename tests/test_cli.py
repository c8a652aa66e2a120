"""The command line: what it prints and writes, its exit codes, and errors in one line that name the culprit."""

import io
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from PIL import Image
from test_files import full_disk
from typer.testing import CliRunner

from frcnn_common import COCO_NAMES, FasterRCNN, cli, folders
from frcnn_common.cli import app
from frcnn_common.coco_json import coco_document
from frcnn_common.engine import Trainer
from frcnn_common.inference import Detector, load_detector, save_detector
from frcnn_common.openmoji import draw_scene
from frcnn_common.recipes import RECIPES
from frcnn_common.runs import load_checkpoint

run = CliRunner().invoke


@pytest.fixture
def folder(tmp_path):
    """Two scenes, a text file, and something that calls itself a picture."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in (5, 8):
        (pictures / f"scene{number}.jpg").write_bytes(draw_scene(number, "val")["image"]["bytes"])
    (pictures / "notes.txt").write_text("not a picture")
    return pictures


def test_detect_draws_and_writes_coco_json(folder, tmp_path):
    result = run(app, ["detect", str(folder), "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["detections.json", "scene5.png", "scene8.png"]
    assert max(Image.open(tmp_path / "out" / "scene5.png").size) == pytest.approx(800, abs=1)
    document = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [image["file_name"] for image in document["images"]] == [str(folder / f"scene{n}.jpg") for n in (5, 8)]
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert len(names) == 80 and names[90] == "toothbrush" and document["annotations"]
    for found in document["annotations"]:
        image = document["images"][found["image_id"] - 1]
        x, y, width, height = found["bbox"]
        assert 0 <= x and x + width <= image["width"] + 0.01 and y + height <= image["height"] + 0.01
        assert found["score"] >= 0.5 and names[found["category_id"]] in result.output


def test_a_pattern_and_equal_names(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "scene5.jpg").write_bytes((folder / "scene5.jpg").read_bytes())
    result = run(app, ["detect", str(tmp_path / "*" / "scene5.jpg"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["scene5-2.png", "scene5.png"]


def test_one_bad_picture_does_not_stop_the_others(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no picture")
    result = run(app, ["detect", str(folder), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and "broken.png" in result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["scene5.png", "scene8.png"]


def test_one_bad_picture_does_not_cost_its_batch(folder, tmp_path):
    """Eleven pictures of two shapes are two batches; what is said of each comes in their order."""
    for number in range(9):
        picture = Image.open(io.BytesIO(draw_scene(number, "val")["image"]["bytes"]))
        picture.resize((96 + 8 * (number % 2), 96)).save(folder / f"a{number}.png")
    whole = (folder / "a4.png").read_bytes()
    (folder / "a4.png").write_bytes(whole[: len(whole) // 2])
    result = run(app, ["detect", str(folder), "--out", str(tmp_path / "out"), "--json"])
    names = [*(f"a{number}" for number in range(9)), "scene5", "scene8"]
    assert result.exit_code == 1
    said = [line for line in result.output.splitlines() if ".jpg" in line or ".png" in line]
    assert [name for name, line in zip(names, said, strict=True) if name not in line] == []
    assert [line.startswith("frcnn: ") for line in said] == [name == "a4" for name in names]
    names.remove("a4")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == sorted(f"{name}.png" for name in names)
    document = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [Path(image["file_name"]).stem for image in document["images"]] == names


def test_detect_finds_in_each_picture_what_the_detector_finds_in_it_alone(folder, tmp_path):
    assert run(app, ["detect", str(folder), "--out", str(tmp_path / "out"), "--json"]).exit_code == 0
    document = json.loads((tmp_path / "out" / "detections.json").read_text())
    detector = Detector.load("tiny")
    for image in document["images"]:
        with Image.open(folder / image["file_name"]) as picture:
            expected = detector(picture)
            alone = coco_document([(Path(image["file_name"]), picture.size, expected)], detector.names)["annotations"]
        found = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        assert [a["category_id"] for a in found] == [a["category_id"] for a in alone] != []
        for one, other in zip(found, alone, strict=True):
            assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-2)


def test_a_picture_that_cannot_be_decoded_does_not_stop_the_others(folder, tmp_path):
    """Cut, with a broken checksum, of a broken form: readers raise whatever they like."""
    whole = {}
    for format in ("PNG", "GIF", "TIFF", "WEBP", "BMP"):
        Image.effect_noise((64, 64), 50).save(folder / f"whole.{format}", format)
        whole[format] = (folder / f"whole.{format}").read_bytes()
        (folder / f"whole.{format}").unlink()
        for number, data in enumerate((whole[format][:60], whole[format][:200] + b"?" * 99 + whole[format][299:])):
            (folder / f"broken{number}.{format.lower()}").write_bytes(data)
    (folder / "exif.webp").write_bytes(whole["WEBP"])
    Image.effect_noise((64, 64), 50).save(folder / "exif.webp", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\0")
    result = run(app, ["detect", str(folder), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and result.exception is None or isinstance(result.exception, SystemExit)
    lines = result.output.splitlines()
    assert len(lines) == 13 and all(line.startswith(("frcnn: ", str(folder))) for line in lines)
    assert sum("broken0.png: no picture can be read from it: " in line for line in lines) == 1
    assert {"exif.png", "scene5.png", "scene8.png"} <= {p.name for p in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (1, 1)])
def test_a_picture_of_an_odd_form_is_drawn(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    result = run(app, ["detect", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output


def test_numbers_that_are_none_are_null_in_the_json_of_an_evaluation(tmp_path, monkeypatch):
    """As the AP of large objects, where there is none."""
    summary = {"AP": 0.5, "AP_large": math.nan}
    monkeypatch.setattr(cli, "evaluate_detections", Mock(**{"return_value.summary.return_value": summary}))
    result = run(app, ["evaluate", "--samples", "1", "--json", str(tmp_path / "ap.json")])
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "ap.json").read_text(), parse_constant=pytest.fail)
    assert numbers == {"weights": "tiny", "data": "openmoji", "images": 1, "AP": 0.5, "AP_large": None}


def test_a_full_disk_names_the_file_of_a_detection(folder, tmp_path):
    out = tmp_path / "out"
    with full_disk(100):
        result = run(app, ["detect", str(folder / "scene5.jpg"), "--out", str(out)])
    assert result.exit_code == 1 and result.output.count("\n") == 1
    assert f"File too large: '{out / 'scene5.png'}'" in result.output and list(out.iterdir()) == []


def test_data_that_changed_are_refused_when_a_run_goes_on(tmp_path):
    data, out = own_folder(tmp_path / "own"), tmp_path / "run"
    recipe = replace(RECIPES["openmoji-tiny"].with_data(data), steps=2, batch_size=1, img_size=64, num_workers=0)
    recipe = replace(recipe, model_options=recipe.model_options | {"width": 4, "fpn_channels": 8, "fc_dim": 16})
    Trainer(recipe.model(), recipe, out).run(recipe.loader("train"), 1)
    assert Trainer(recipe.model(), recipe, out).resume(recipe.loader("train")) == 1
    (data / "train" / "new.jpg").write_bytes(b"1234")
    with pytest.raises(ValueError, match="1.pt the data have changed: .jpg is '9 files, .* here, '8 files, "):
        Trainer(recipe.model(), recipe, out).resume(recipe.loader("train"))


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["detect", "nowhere.jpg"], "nowhere.jpg"),
        (["detect", "--weights", "nowhere.pt", "PICTURE"], "nowhere.pt"),
        (["evaluate", "--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["train", "--recipe", "coco", "--out", "never"], "openmoji-tiny, coco-r50"),
        (["train", "--data", "/nowhere/pictrues", "--out", "never"], "no folder /nowhere/pictrues"),
        (["evaluate", "--data", "./pictrues"], "no folder ./pictrues"),
    ],
)
def test_errors_are_one_line_that_names_the_culprit(folder, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    result = run(app, [str(folder / "scene5.jpg") if a == "PICTURE" else a for a in arguments])
    assert result.exit_code == 1
    assert result.output.count("\n") == 1 and result.output.startswith("frcnn: ") and named in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["pictures"]


def test_a_wrong_option_is_a_usage_error():
    assert run(app, ["detect", "--score", "2", "a.jpg"]).exit_code == 2
    assert run(app, ["train"]).exit_code == 2


@pytest.mark.parametrize("command", ["train", "check", "evaluate", "detect", "export", "info"])
def test_help_has_an_example(command):
    result = run(app, [command, "--help"])
    assert result.exit_code == 0
    assert command == "info" or f"frcnn {command}" in result.output


def test_info_in_a_process_of_its_own():
    result = subprocess.run(
        [sys.executable, "-m", "frcnn_common.cli", "info"], capture_output=True, text=True, check=True
    )
    assert "torch" in result.stdout and "openmoji-tiny.safetensors" in result.stdout


@pytest.mark.slow
def test_train_evaluate_resume(tmp_path):
    out = tmp_path / "run"
    options = ["train", "--recipe", "openmoji-tiny", "--out", str(out)]
    assert run(app, [*options, "--steps", "2", "--samples", "4"]).exit_code == 0
    assert {"log.jsonl", "step_00000002.pt", "weights.safetensors"} <= {p.name for p in out.iterdir()}
    again = run(app, [*options, "--steps", "2"])
    assert again.exit_code == 1 and "another run" in again.output
    longer = run(app, [*options, "--steps", "3", "--resume"])
    assert longer.exit_code == 1 and "steps is 3 here, 2 there" in longer.output
    same = run(app, [*options, "--steps", "2", "--resume"])
    assert same.exit_code == 0 and "after step 2" in same.output
    weights = str(out / "weights.safetensors")
    measured = run(app, ["evaluate", "--weights", weights, "--samples", "4", "--json", str(tmp_path / "ap.json")])
    assert measured.exit_code == 0, measured.output
    assert json.loads((tmp_path / "ap.json").read_text())["images"] == 4


@pytest.mark.parametrize("spelling", [".", "deeper/..", "LINK"])
def test_detect_writes_over_no_picture_that_it_reads(folder, tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(folder)
    (folder / "deeper").mkdir()
    (tmp_path / "link").symlink_to(folder)
    Image.new("RGB", (64, 64)).save(folder / "scene.png")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    out = str(tmp_path / "link") if spelling == "LINK" else spelling
    result = run(app, ["detect", "scene5.jpg", "scene.png", "--out", out])
    assert result.exit_code == 1 and "scene.png would be written over, but it is read, as scene.png" in result.output
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_evaluate_writes_over_nothing_that_it_reads(tmp_path):
    data = own_folder(tmp_path / "own")
    target = data / "valid" / "_annotations.coco.json"
    before = target.read_bytes()
    (tmp_path / "numbers.json").symlink_to(target)
    for path in (target, tmp_path / "numbers.json"):
        result = run(app, ["evaluate", "--data", str(data), "--json", str(path)])
        assert result.exit_code == 1 and "would be written over, but it is read" in result.output
    assert target.read_bytes() == before


def test_evaluate_writes_a_report_of_what_it_prints(tmp_path):
    out = tmp_path / "report"
    result = run(app, ["evaluate", "--samples", "3", "--report", str(out), "--json", str(tmp_path / "numbers.json")])
    assert result.exit_code == 0, result.output
    assert [path.name for path in out.iterdir()] == ["index.html"]
    page = (out / "index.html").read_text(encoding="utf-8")
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert f'<th scope="row">AP50</th><td>{numbers["AP50"]:.3f}</td>' in page
    assert "<h1>tiny on 3 images of openmoji</h1>" in page and "image 0" in page
    assert f"report: {out / 'index.html'}" in result.output


def test_a_report_goes_over_nothing_that_is_read(tmp_path):
    data = own_folder(tmp_path / "own")
    target = data / "valid" / "_annotations.coco.json"
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").symlink_to(target)
    before = target.read_bytes()
    result = run(app, ["evaluate", "--data", str(data), "--report", str(tmp_path / "report")])
    assert result.exit_code == 1 and "would be written over, but it is read" in result.output
    assert target.read_bytes() == before
    taken = run(app, ["evaluate", "--samples", "1", "--report", str(target)])
    assert taken.exit_code == 1 and taken.output.count("\n") == 1 and target.name in taken.output


def own_folder(folder, splits=("train", "valid")):
    """Pictures of two classes with COCO's JSON: scenes that are cut out of the stream."""
    for split in splits:
        rows = [draw_scene(number, "val", categories=("cat", "dog"), longest=96) for number in range(4)]
        document = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 5, "name": "kitten"}, {"id": 2, "name": "puppy"}],
        }
        (folder / split).mkdir(parents=True)
        for row in rows:
            number, name = row["image_id"], f"{row['image_id']}.jpg"
            (folder / split / name).write_bytes(row["image"]["bytes"])
            document["images"].append({"id": number, "file_name": name, "width": row["width"], "height": row["height"]})
            for category, (x1, y1, x2, y2) in zip(row["objects"]["category"], row["objects"]["bbox"], strict=True):
                annotation = {"category_id": {"cat": 5, "dog": 2}[COCO_NAMES[category + 1]], "image_id": number}
                annotation |= {"id": len(document["annotations"]), "bbox": [x1, y1, x2 - x1, y2 - y1]}
                document["annotations"].append(annotation)
        (folder / split / "_annotations.coco.json").write_text(json.dumps(document))
    return folder


@pytest.mark.slow
def test_a_folder_of_ones_own_from_training_to_detection(tmp_path):
    """With its own classes, in the order of their ids, which the file of weights keeps."""
    data, out = own_folder(tmp_path / "own"), tmp_path / "run"
    command = ["train", "--data", str(data), "--batch-size", "2", "--steps", "1", "--out", str(out)]
    result = run(app, command)
    assert result.exit_code == 0, result.output
    weights = ["--weights", str(out / "weights.safetensors")]
    assert Detector.load(weights[1]).names == ("__background__", "puppy", "kitten")
    measured = run(app, ["evaluate", *weights, "--data", str(data)])
    assert measured.exit_code == 0 and "4 images" in measured.output
    other = run(app, ["evaluate", *weights])
    assert other.exit_code == 1 and "has other classes: person, bicycle" in other.output
    assert "expected are puppy, kitten" in other.output
    picture = str(next((data / "valid").glob("*.jpg")))
    found = run(app, ["detect", picture, *weights, "--score", "0.05", "--json", "--out", str(tmp_path / "found")])
    assert found.exit_code == 0, found.output
    document = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert document["categories"] == [{"id": 1, "name": "puppy"}, {"id": 2, "name": "kitten"}]


def train_on(data, out, *options):
    """Train on a folder for a step, or as the options say: of an option that is there twice, the last counts."""
    return run(app, ["train", "--data", str(data), "--batch-size", "2", "--steps", "1", "--out", str(out), *options])


def test_each_split_of_a_folder_is_read_once_before_training_begins(tmp_path, monkeypatch):
    data, read = own_folder(tmp_path / "own"), []
    splits, rows = folders._READERS["COCO's JSON"]
    counting = (lambda *place: read.append("folder") or splits(*place), lambda *a: read.append(a[3][0]) or rows(*a))
    monkeypatch.setitem(folders._READERS, "COCO's JSON", counting)
    monkeypatch.setattr("frcnn_common.train_command.Trainer.run", Mock(side_effect=ValueError("here it would begin")))
    assert "frcnn: here it would begin" in train_on(data, tmp_path / "run").output
    assert sorted(read) == ["folder", "train", "valid"]


def small_weights(path, names=("__background__", "puppy", "cow")):
    """A file of a narrow, random detector for pictures of 64 pixels."""
    options = {"width": 4, "fpn_channels": 16, "fc_dim": 32, "pre_nms": 50, "post_nms": 20}
    recipe = replace(RECIPES["openmoji-tiny"], names=names, img_size=64, model_options={"num_classes": len(names)})
    save_detector(path, FasterRCNN(len(names), **options), recipe)
    return path


def scores(monkeypatch, *values):
    """Let evaluations in training find these values of AP, one after the other."""
    left = iter(values)
    found = SimpleNamespace(summary=lambda: {"AP": next(left)})
    monkeypatch.setattr("frcnn_common.train_command.evaluate_model", lambda *_, **__: found)


def test_training_from_trained_weights_leaves_the_best_and_goes_on_without_them(tmp_path, monkeypatch):
    data, out, start = own_folder(tmp_path / "own"), tmp_path / "run", small_weights(tmp_path / "start.safetensors")
    scores(monkeypatch, 0.2, 0.5, 0.4)
    options = [
        "--steps",
        "3",
        "--every",
        "1",
        "--freeze",
        "2",
        "--flip",
        "0.5",
        "--scales",
        "0.8",
        "1.25",
        "--lr",
        "0.01",
    ]
    result = train_on(data, out, *options, "--from", str(start))
    assert result.exit_code == 0, result.output
    assert "box head are taken over; classes taken over: puppy; new classes: kitten" in result.output
    assert f"weights: {out / 'weights.safetensors'}, of step 3" in result.output
    assert f"best: {out / 'best.safetensors'}, of step 2, AP 0.500" in result.output
    recipe = load_checkpoint(out / "step_00000003.pt")["recipe"]
    assert (recipe["lr"], recipe["augment"], recipe["img_size"]) == (0.01, {"flip": 0.5, "scales": (0.8, 1.25)}, 64)
    assert (recipe["model_options"]["trainable_layers"], recipe["model_options"]["width"]) == (3, 4)
    best = load_detector(out / "best.safetensors")[0].state_dict()
    after_two = load_checkpoint(out / "step_00000002.pt")["model_state_dict"]
    assert all(torch.equal(best[k].cpu(), v.half().float() if v.ndim > 1 else v) for k, v in after_two.items())
    start.unlink()
    again = train_on(data, out, *options, "--resume")
    assert again.exit_code == 0 and "going on after step 3" in again.output
    other = train_on(data, out, *options, "--resume", "--from", "tiny")
    assert other.exit_code == 1 and f"it started from {start}, not from tiny" in other.output.replace("\n", "")
    changed = train_on(data, out, *options, "--resume", "--freeze", "3")
    assert changed.exit_code == 1 and "belongs to another run: model_options is" in changed.output


def test_the_folder_of_a_run_stands_for_its_best(tmp_path):
    small_weights(tmp_path / "run" / "weights.safetensors")
    picture = str(own_folder(tmp_path / "own") / "train" / "0.jpg")
    for name in ("weights.safetensors", "best.safetensors"):
        small_weights(tmp_path / "run" / name)
        assert Detector.load(tmp_path / "run").name == str(tmp_path / "run" / name)
    found = run(app, ["detect", picture, "--weights", str(tmp_path / "run"), "--out", str(tmp_path / "found")])
    assert found.exit_code == 0, found.output
    (tmp_path / "empty").mkdir()
    none = run(app, ["detect", picture, "--weights", str(tmp_path / "empty"), "--out", str(tmp_path / "found")])
    assert none.exit_code == 1 and "no weights in the folder" in none.output


def test_training_stops_when_its_patience_is_over(tmp_path, monkeypatch):
    data, out, start = own_folder(tmp_path / "own"), tmp_path / "run", small_weights(tmp_path / "start.safetensors")
    options = ["--steps", "9", "--every", "1", "--patience", "2", "--from", str(start)]
    scores(monkeypatch, 0.5, 0.2, 0.5, 0.9)
    result = train_on(data, out, *options)
    assert result.exit_code == 0, result.output
    assert "stopped after step 3 of 9" in result.output and "of step 1, AP 0.500" in result.output
    again = train_on(data, out, *options, "--resume")
    assert again.exit_code == 0 and "going on after step 3" in again.output and "stopped after step 3" in again.output


def test_without_an_evaluation_there_is_no_best(tmp_path):
    start = small_weights(tmp_path / "start.safetensors")
    result = train_on(own_folder(tmp_path / "own"), tmp_path / "run", "--samples", "0", "--from", str(start))
    assert result.exit_code == 0 and "no best.safetensors: without an evaluation" in result.output
    assert not (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "nowhere.safetensors"], "no weights at nowhere.safetensors"),
        (["--from", "tiny", "--backbone-weights", "IMAGENET1K_V2"], "leave out --backbone-weights"),
        (["--freeze", "2"], "it goes with --from or --backbone-weights"),
        (["--from", "tiny", "--samples", "0", "--patience", "2"], "--patience counts evaluations"),
        (["--lr", "0"], "--lr must be a positive number, got 0"),
        (["--scales", "2", "0.5"], "--scales must be two positive numbers, the smaller first, got 2 0.5"),
    ],
)
def test_options_of_training_that_make_no_sense_are_refused_in_one_line(tmp_path, options, message):
    result = train_on(own_folder(tmp_path / "own"), tmp_path / "run", *options)
    errors = [line for line in result.output.splitlines() if line.startswith("frcnn: ")]
    assert result.exit_code == 1 and len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_trained_over_the_weights_that_it_starts_from(tmp_path):
    start = small_weights(tmp_path / "run" / "best.safetensors")
    before = start.read_bytes()
    result = train_on(own_folder(tmp_path / "own"), tmp_path / "run", "--from", str(tmp_path / "run"))
    assert result.exit_code == 1 and "best.safetensors would be written over, but it is read" in result.output
    assert start.read_bytes() == before and os.listdir(tmp_path / "run") == ["best.safetensors"]


def test_what_is_wrong_with_validation_is_said_before_the_first_step(tmp_path):
    data, out = own_folder(tmp_path / "own"), tmp_path / "run"
    path = data / "valid" / "_annotations.coco.json"
    document = json.loads(path.read_text())
    broken = data / "valid" / document["images"][1]["file_name"]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-400])
    result = train_on(data, out)
    assert result.exit_code == 1 and f"({broken.name}): the picture cannot be decoded" in result.output
    assert "own: COCO's JSON, 2 classes" in result.output and "  train: 4 pictures, " in result.output
    broken.write_bytes(whole)
    path.write_text(json.dumps(document | {"categories": [*document["categories"], {"id": 9, "name": "cow"}]}))
    result = train_on(data, out)
    assert result.exit_code == 1 and "split val has other classes: cow; expected are puppy, kitten" in result.output
    path.write_text(json.dumps(document | {"images": document["images"][:1], "annotations": []}))
    (path.parent / document["images"][0]["file_name"]).unlink()
    assert "no picture: FileNotFoundError" in train_on(data, out).output
    assert not out.exists()


@pytest.mark.slow
def test_training_without_a_validation_split(tmp_path):
    data, out = own_folder(tmp_path / "own", ["train"]), tmp_path / "run"
    result = train_on(data, out)
    assert result.exit_code == 0 and "training without an evaluation: nothing of the split 'val'" in result.output
    assert {"step_00000001.pt", "weights.safetensors"} <= {path.name for path in out.iterdir()}
    assert "AP" not in json.loads((out / "log.jsonl").read_text())


@pytest.mark.slow
def test_a_class_that_validation_has_not_got_is_no_fault(tmp_path):
    data, out = own_folder(tmp_path / "own"), tmp_path / "run"
    path = data / "valid" / "_annotations.coco.json"
    document = json.loads(path.read_text())
    kittens = [a for a in document["annotations"] if a["category_id"] == 5]
    path.write_text(json.dumps(document | {"categories": document["categories"][:1], "annotations": kittens}))
    result = train_on(data, out)
    assert result.exit_code == 0, result.output
    assert "AP" in json.loads((out / "log.jsonl").read_text())
    weights = ["--weights", str(out / "weights.safetensors")]
    assert run(app, ["evaluate", *weights, "--data", str(data)]).exit_code == 0
    silent = train_on(data, tmp_path / "other", "--samples", "0")
    assert silent.exit_code == 0 and "AP" not in json.loads((tmp_path / "other" / "log.jsonl").read_text())


def test_check_says_what_is_in_a_folder_and_draws_it(tmp_path):
    data, out = own_folder(tmp_path / "own"), tmp_path / "sheet.png"
    result = run(app, ["check", str(data), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "own: COCO's JSON, 2 classes" in result.output and "train: 4 pictures" in result.output
    assert "warning: val has 4 of the pictures of train" in result.output
    assert Image.open(out).format == "PNG" and "8 pictures with their boxes" in result.output
    broken = next((data / "train").glob("*.jpg"))
    broken.write_bytes(broken.read_bytes()[:-400])
    result = run(app, ["check", str(data), "--out", str(out)])
    assert result.exit_code == 1 and f"({broken.name}): the picture cannot be decoded" in result.output


def test_check_writes_over_nothing_in_the_folder(tmp_path):
    data = own_folder(tmp_path / "own")
    picture = next((data / "train").glob("*.jpg"))
    before = picture.read_bytes()
    result = run(app, ["check", str(data), "--out", str(picture)])
    assert result.exit_code == 1 and "would be written over, but it is read" in result.output
    assert picture.read_bytes() == before
    among = run(app, ["check", str(data), "--out", str(data / "sheet.png")])
    assert among.exit_code == 1 and "would lie among the pictures" in among.output
    nowhere = run(app, ["check", str(tmp_path / "nowhere")])
    assert nowhere.exit_code == 1 and nowhere.output.count("\n") == 1 and "no folder" in nowhere.output


@pytest.mark.slow
def test_pictures_keep_their_shape_from_training_to_evaluation(tmp_path):
    data, out = own_folder(tmp_path / "own"), tmp_path / "run"
    result = train_on(data, out, "--keep-aspect")
    assert result.exit_code == 0, result.output
    weights = out / "weights.safetensors"
    assert Detector.load(weights).keep_aspect
    assert run(app, ["evaluate", "--weights", str(weights), "--data", str(data)]).exit_code == 0
    other = train_on(data, out, "--resume")
    assert other.exit_code == 1 and "keep_aspect is False here, True there" in other.output

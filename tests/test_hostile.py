"""Files and names from strangers: none of their code runs, nothing is written elsewhere, and errors name the file."""

import io
import json
import os
import pickle
import tempfile
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from frcnn_common import COCO_NAMES, FasterRCNN, ResNet50, cli
from frcnn_common.cli import app
from frcnn_common.engine import Trainer
from frcnn_common.files import write_atomically
from frcnn_common.inference import SHIPPED, Detector, load_detector
from frcnn_common.recipes import RECIPES
from frcnn_common.runs import load_checkpoint
from frcnn_common.weights import load_weights

TINY = RECIPES["openmoji-tiny"]
run = CliRunner().invoke

# --------------------------------------------------------------------------------------------- pickles


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


PICKLES = {
    "plain": lambda evil: pickle.dumps(evil, protocol=2),
    "zip": saved,
    "old": lambda evil: saved(evil, _use_new_zipfile_serialization=False),
    "in a state dict": lambda evil: saved({"model_state_dict": {"weight": evil}, "weight": torch.zeros(1)}),
    "as a name": lambda evil: saved({"model_state_dict": {}, "recipe": {"name": evil}}),
}


def resume(path):
    """Take a file for the last checkpoint of a run."""
    path = path.rename(path.with_name("step_00000001.pt"))
    Trainer(torch.nn.Linear(1, 1), TINY, path.parent).resume([])


def command(*arguments):
    """A door of the command line: its one line is raised, to be held to the same as the others."""

    def use(path):
        result = run(app, [str(path) if argument == "FILE" else argument for argument in arguments])
        assert result.exit_code == 1 and result.output.startswith("frcnn: ") and result.output.count("\n") == 1
        raise ValueError(result.output)

    return use


DOORS = {
    "load_weights": load_weights,
    "from_torchvision": FasterRCNN.from_torchvision,
    "ResNet50": lambda path: ResNet50(width=4, weights=path),
    "load_checkpoint": load_checkpoint,
    "resume": resume,
    "load_detector": load_detector,
    "Detector.load": Detector.load,
    "evaluate": command("evaluate", "--weights", "FILE"),
    "detect": command("detect", str(SHIPPED), "--weights", "FILE"),
}


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("kind", PICKLES)
def test_no_door_runs_what_a_pickle_holds(tmp_path, monkeypatch, kind, name):
    """Not even where the environment asks torch to trust every file."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker, path = tmp_path / "ran", tmp_path / name
    evil = PICKLES[kind](Malicious(marker))
    with suppress(Exception):
        torch.load(io.BytesIO(evil), weights_only=False)
    assert marker.exists(), "these bytes are harmless: they would show nothing"
    marker.rmdir()
    for door, use in DOORS.items():
        path.write_bytes(evil)
        with pytest.raises(ValueError, match="step_00000001.pt" if door == "resume" else name):
            use(path)
        assert not marker.exists(), door


# ----------------------------------------------------------------------------------- foreign settings


def settings_of_tiny(**changed):
    return {"recipe": "x", "img_size": 64, "model_options": dict(TINY.model_options)} | changed


SETTINGS = {
    "no JSON": "{",
    "deep": "[" * 100_000,
    "a list": "[1]",
    "a number": "1",
    "a key is missing": json.dumps({"recipe": "x", "img_size": 64}),
    "an unknown option": json.dumps(settings_of_tiny(model_options={"depth": 152})),
    "options are no dict": json.dumps(settings_of_tiny(model_options=["width", 16])),
    "other conventions": json.dumps(settings_of_tiny(model_options={"conventions": "COURSE"})),
    "a large picture": json.dumps(settings_of_tiny(img_size=10**9)),
    "no picture": json.dumps(settings_of_tiny(img_size=0)),
    "a text for a size": json.dumps(settings_of_tiny(img_size="64")),
}


@pytest.fixture(scope="module")
def state():
    return TINY.model().state_dict()


@pytest.mark.parametrize("kind", SETTINGS)
def test_foreign_settings_are_refused_by_name(tmp_path, state, kind):
    path = tmp_path / "foreign.safetensors"
    save_file(state, path, metadata={"frcnn_common": SETTINGS[kind]})
    with pytest.raises(ValueError, match="foreign.safetensors") as caught:
        load_detector(path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("recipe", [{}, {"img_size": 64}, {"img_size": 64, "model_options": 3}])
@pytest.mark.parametrize("weights", [[1], {}, {"predictor.cls.bias": 3}, {"predictor.cls.bias": torch.tensor(3.0)}])
def test_a_foreign_checkpoint_is_refused_by_name(tmp_path, recipe, weights):
    path = tmp_path / "foreign.pt"
    torch.save({"model_state_dict": weights, "recipe": recipe}, path)
    with pytest.raises(ValueError, match="foreign.pt"):
        load_detector(path)


def test_a_file_gets_no_more_memory_than_it_fills(tmp_path, state):
    """Nor does it name files to read: sizes are those of the tensors, and no other weights are looked for."""
    options = TINY.model_options | {"width": 10**6, "fc_dim": 10**9, "backbone_weights": "/dev/zero"}
    path = tmp_path / "large.safetensors"
    save_file(state, path, metadata={"frcnn_common": json.dumps(settings_of_tiny(model_options=options))})
    model, _ = load_detector(path)
    assert len(model.backbone.stem[1].weight) == TINY.model_options["width"]


# ---------------------------------------------------------------------------------------- file names

AWKWARD = 'ab.AB-~ \n\r\t\x1b\x7f\\:*?"<>|$&;%é\u0301\u202eſßＡ\u2028\udcff名'  # \udcff: a byte that is no UTF-8
STEMS = st.text(AWKWARD, min_size=1, max_size=12) | st.sampled_from(["..", "...", "detections.json", "CON", "a" * 251])
NAMES = st.builds(lambda stem, ending: stem + ending, STEMS, st.sampled_from([".jpg", ".JPG", ".png"]))


def write_a_byte(picture, found, names, path):
    """Instead of a drawing, which takes long."""
    write_atomically(path, lambda file: file.write(b"."))


NOTHING = {"boxes": torch.empty(0, 4), "scores": torch.empty(0), "labels": torch.empty(0, dtype=torch.int64)}


@pytest.mark.slow
@settings(max_examples=50)
@example(["A.jpg", "a.png", "A-2.png", "a" * 251 + ".jpg", "..jpg", "\udcff.jpg", "..\\b.jpg"], False)
@given(st.lists(NAMES, min_size=1, max_size=6, unique=True), st.booleans())
def test_detect_writes_one_file_for_each_picture_into_its_folder(names, spelled_out):
    nothing = {"names": COCO_NAMES, "detect.side_effect": lambda inputs, score: [NOTHING] * len(inputs)}
    detector = Mock(**{"load.return_value": Mock(**nothing)})
    picture = Mock(return_value=Image.new("RGB", (1, 1)))
    quick = patch.multiple(cli, draw_detections=write_a_byte, open_picture=picture, Detector=detector)
    with tempfile.TemporaryDirectory() as folder, quick:
        root = Path(folder).resolve()
        pictures, out = root / "in", root / "out"
        (pictures / "deeper").mkdir(parents=True)
        files = [pictures / name for name in names]
        for file in files:
            file.write_bytes(b"")
        arguments = [f"{pictures}/deeper/../{file.name}" for file in files] if spelled_out else [str(pictures)]
        result = run(app, ["detect", *arguments, "--out", str(out), "--json"])
        assert result.exit_code == 0, result.output
        assert result.output.count("\n") == len(names) and result.output.replace("\n", "").isprintable()
        written = list(out.iterdir())
        assert all(path.is_file() and path.resolve().parent == out for path in written)
        assert len({path.name.casefold() for path in written}) == len(names) + 1
        assert {path for path in root.rglob("*") if path.is_file()} == {*files, *written}
        assert len(json.loads((out / "detections.json").read_text())["images"]) == len(names)


@pytest.mark.slow
def test_detect_replaces_links_instead_of_following_them(tmp_path, monkeypatch):
    """Links that wait in the output folder, and a picture that is one."""
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.write_bytes(b"keep")
    out.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "real.png")
    (tmp_path / "scene.png").symlink_to(tmp_path / "real.png")
    for name in ("scene.png", f"scene.png.{os.getpid()}.partial", "detections.json"):
        (out / name).symlink_to(outside)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = run(app, ["detect", "../scene.png", "--out", "../out", "--json"])
    assert result.exit_code == 0, result.output
    assert outside.read_bytes() == b"keep"
    assert sorted(p.name for p in out.iterdir()) == ["detections.json", "scene.png"]
    assert not any(p.is_symlink() for p in out.iterdir())

"""Files and names from strangers: no code of theirs runs, nothing is written elsewhere, and the error names the file."""

import io
import json
import os
import pickle
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from frcnn_common import FasterRCNN, ResNet50
from frcnn_common.cli import app
from frcnn_common.engine import Trainer, load_checkpoint
from frcnn_common.inference import SHIPPED, Detector, load_detector
from frcnn_common.recipes import RECIPES
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
        assert result.exit_code == 1 and result.output.startswith("frcnn: ") and "Traceback" not in result.output
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

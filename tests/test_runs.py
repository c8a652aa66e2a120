"""What a run leaves on the disk: checkpoints, the folder, the random generators."""

import json
import math
import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from frcnn_common.runs import (
    RunFolder,
    best_entry,
    load_checkpoint,
    out_of_patience,
    random_states,
    save_checkpoint,
    set_random_states,
    weights_file,
)


def test_checkpoint_comes_back(tmp_path):
    model = nn.Linear(2, 1)
    save_checkpoint(tmp_path / "new" / "a.pt", model, steps_trained=3, recipe="x")
    checkpoint = load_checkpoint(tmp_path / "new" / "a.pt")
    assert (checkpoint["steps_trained"], checkpoint["recipe"]) == (3, "x")
    assert torch.equal(checkpoint["model_state_dict"]["weight"], model.weight)
    assert os.listdir(tmp_path / "new") == ["a.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    save_checkpoint(path, nn.Linear(2, 1), steps_trained=1)

    def torn(obj, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, nn.Linear(2, 1), steps_trained=2)
    assert os.listdir(tmp_path) == ["a.pt"] and load_checkpoint(path)["steps_trained"] == 1


def test_unreadable_files_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing.pt"):
        load_checkpoint("missing.pt")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 half")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    for name in ("torn.pt", "other.pt"):
        with pytest.raises(ValueError, match=name):
            load_checkpoint(name)


def run_of(folder, scores, keep=3):
    """A run with a checkpoint after every step, and an evaluation where there is a score."""
    run, history, model = RunFolder(folder, keep), [], nn.Linear(2, 1)
    for step, score in enumerate(scores, start=1):
        history.append({"step": step, "loss": 1.0} | ({} if score is None else {"AP": score}))
        run.log(history[-1])
        run.save(history[-1], model, step=step)
        run.tidy(history)
    return run, history


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([None] * 5, [4, 5]),
        ([0.1, 0.5, 0.3, 0.2, 0.4], [2, 4, 5]),
        ([0.1, 0.2, None, None, None], [2, 4, 5]),
        ([0.1, 0.2, 0.3, 0.4, 0.5], [4, 5]),
    ],
)
def test_the_last_checkpoints_and_the_best_are_kept(tmp_path, scores, kept):
    run, _ = run_of(tmp_path, scores, keep=2)
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == [f"step_{step:08}.pt" for step in kept]
    assert load_checkpoint(run.last())["step"] == 5


def test_a_log_is_cut_back_to_the_checkpoint(tmp_path):
    run, history = run_of(tmp_path, [None] * 5)
    (tmp_path / "step_00000006.pt.1.partial").write_bytes(b"half")
    assert run.rewind(3, write=False) == history[:3]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 5 and list(tmp_path.glob("*.partial"))
    assert run.rewind(3) == history[:3]
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == history[:3]
    assert not list(tmp_path.glob("*.partial"))


def test_a_log_that_does_not_hold_the_steps_is_refused(tmp_path):
    run, _ = run_of(tmp_path, [None] * 2)
    with pytest.raises(ValueError, match=r"log.jsonl does not hold the steps 1 to 3 of the checkpoint"):
        run.rewind(3)


def test_an_empty_folder_has_no_checkpoint_and_an_empty_log(tmp_path):
    run = RunFolder(tmp_path / "new")
    assert run.last() is None and run.rewind(0) == []


NAN = math.nan


@pytest.mark.parametrize(
    ("scores", "best", "since"),
    [
        ([], None, 0),
        ([None, None], None, 0),
        ([0.0], 1, 0),
        ([None, 0.3, 0.3, None, 0.2], 2, 2),
        ([0.1, 0.3, 0.2, 0.4], 4, 0),
        ([NAN, 0.3, NAN], 2, 1),
        ([NAN, NAN], None, 2),
    ],
)
def test_the_best_is_the_first_of_the_highest_and_patience_counts_from_there(scores, best, since):
    history = [{"step": step} | ({} if ap is None else {"AP": ap}) for step, ap in enumerate(scores, start=1)]
    assert (best_entry(history) or {"step": None})["step"] == best
    assert not out_of_patience(history, None)
    assert [out_of_patience(history, patience) for patience in range(1, 4)] == [since >= n for n in range(1, 4)]


def test_an_evaluation_without_a_number_does_not_hide_the_best(tmp_path):
    run_of(tmp_path, [NAN, 0.5, 0.3, NAN, NAN], keep=1)
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == ["step_00000002.pt", "step_00000005.pt"]


def test_the_weights_of_a_folder_are_the_best_there_are(tmp_path):
    assert weights_file(tmp_path / "a.safetensors") == tmp_path / "a.safetensors"
    with pytest.raises(
        FileNotFoundError, match=r"no weights in the folder .*: neither best.safetensors nor weights.saf"
    ):
        weights_file(tmp_path)
    for name in ("step_00000009.pt", "step_00000010.pt", "weights.safetensors", "best.safetensors"):
        (tmp_path / name).touch()
        assert weights_file(str(tmp_path)) == tmp_path / name


@pytest.mark.parametrize("name", ["weights.safetensors", "best.safetensors"])
def test_a_new_run_does_not_begin_over_the_weights_of_another(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"holds {name} of another run: choose another folder"):
        RunFolder(tmp_path).begin()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_random_numbers_come_again_after_a_checkpoint(tmp_path):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item(), random.gauss(0, 1), np.random.randn()

    random.gauss(0, 1), np.random.randn()  # each keeps a second number for the next call
    save_checkpoint(tmp_path / "a.pt", nn.Linear(2, 1), random=random_states())
    first = draw()
    assert draw() != first
    set_random_states(load_checkpoint(tmp_path / "a.pt")["random"])
    assert draw() == first

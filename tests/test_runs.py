"""What a run leaves on the disk: checkpoints, the folder, the random generators."""

import errno
import json
import math
import os
import random
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from test_files import full_disk
from torch import nn

from frcnn_common.runs import (
    RunFolder,
    best_entry,
    data_state,
    load_checkpoint,
    out_of_patience,
    random_states,
    refuse_other_run,
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
        ([math.nan, 0.2, math.nan, 0.1, math.nan], [2, 4, 5]),
        ([math.nan] * 5, [4, 5]),
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


def test_a_log_is_json_and_what_is_no_number_comes_back_as_that(tmp_path):
    run, (entry,) = RunFolder(tmp_path), [{"step": 1, "loss": 0.5, "AP": math.nan, "grad_norm": math.inf}]
    run.log(entry)
    text = (tmp_path / "log.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == entry | {"AP": None, "grad_norm": None}
    (back,) = run.rewind(1)
    assert (back["step"], back["loss"]) == (1, 0.5) and math.isnan(back["AP"]) and math.isnan(back["grad_norm"])
    (tmp_path / "log.jsonl").write_text('{"step": 1, "AP": NaN}\n')  # of an older version
    assert math.isnan(run.rewind(1)[0]["AP"])


def test_a_full_disk_names_the_log_the_curves_and_the_checkpoint(tmp_path, monkeypatch):
    entry, full = {"step": 1, "loss": 0.5}, OSError(errno.ENOSPC, "No space left on device")
    with full_disk(0), pytest.raises(OSError, match="log.jsonl'"):
        RunFolder(tmp_path).log(entry)
    with full_disk(10), pytest.raises(OSError, match="step_00000001.pt'"):
        RunFolder(tmp_path).save(entry, nn.Linear(100, 100))
    for when in ({"side_effect": full}, {"return_value.add_scalar.side_effect": full}):
        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", Mock(**when))
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
            RunFolder(tmp_path).log(entry)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", Mock(**{"return_value.flush.side_effect": full}))
    run = RunFolder(tmp_path)
    run.log(entry)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
        run.tidy([entry])


class Stream:
    """What data_state asks of a loader."""

    def __init__(self, folder):
        self.dataset, self.folder = self, folder


def test_data_that_have_changed_are_refused_with_what_changed(tmp_path):
    for name in ("a.jpg", "b.jpg", "boxes.json"):
        (tmp_path / name).write_bytes(b"12345")
    state = {"recipe": {}, "run": {}, "model_options": {}}
    checkpoint = state | {"data": data_state(Stream(tmp_path))}
    refuse_other_run("step.pt", checkpoint, state | {"data": data_state(Stream(tmp_path))})
    (tmp_path / "log.jsonl").write_bytes(b"a run in the same folder")
    refuse_other_run("step.pt", checkpoint, state | {"data": data_state(Stream(tmp_path))})
    (tmp_path / "b.jpg").unlink()
    told = r"since step.pt the data have changed: .jpg is '1 files, 5 bytes, .* here, '2 files, 10 bytes, .* there$"
    with pytest.raises(ValueError, match=told):
        refuse_other_run("step.pt", checkpoint, state | {"data": data_state(Stream(tmp_path))})
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ValueError, match=".jpg is None here, '2 files"):
        refuse_other_run("step.pt", checkpoint, state | {"data": data_state(Stream(tmp_path))})
    for older in (state, state | {"data": None}):
        refuse_other_run("step.pt", older, state | {"data": data_state(Stream(tmp_path))})


@pytest.mark.parametrize("batches", [[], Stream(None)])
def test_of_data_in_no_folder_nothing_is_known(batches):
    assert data_state(batches) == {}


def test_a_run_of_two_processes_says_how_to_go_on():
    state = {"recipe": {}, "model_options": {}, "data": {}}
    with pytest.raises(ValueError, match="ranks is 1 here, 2 there; each process .* start 2 of them by torchrun"):
        refuse_other_run("step.pt", state | {"run": {"ranks": 2}}, state | {"run": {"ranks": 1}})


@pytest.mark.parametrize("here", [0, 1])
def test_random_states_of_two_gpus_are_set_on_as_many_as_there_are(monkeypatch, here):
    set_on = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: set_on.append((state, device)))
    set_random_states(random_states() | {"cuda": ["first", "second"]})
    assert set_on == [("first", 0)][:here]

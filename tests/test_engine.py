"""The training loop: its schedule, its steps, and runs that are killed and go on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from faults import DATASET, Faults, coco_files
from hub import Hub
from torch import nn

from frcnn_common import FasterRCNN
from frcnn_common.constants import DEVICE
from frcnn_common.data import Batches
from frcnn_common.engine import Trainer, lr_factor, make_optimizer, seed_everything
from frcnn_common.recipes import RECIPES

RECIPE = replace(
    RECIPES["openmoji-tiny"], batch_size=1, steps=40, warmup_steps=5, lr=0.05, optimizer="sgd", weight_decay=0.0
)


class Line(nn.Module):
    """Fits one number; its loss is the squared distance from the image's."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, images, targets):
        return {"a": (self.weight - images.mean()).square().sum(), "b": (self.bias - 1).square().sum()}


def batches(value=2.0):
    return [(torch.full((1, 3, 2, 2), value), None)] * 3


def test_schedule_by_hand():
    assert [lr_factor(s, 20, 4) for s in (0, 1, 3, 4)] == [0.25, 0.5, 1.0, 1.0]
    assert lr_factor(12, 20, 4) == pytest.approx(0.5)
    assert lr_factor(19, 20, 4) < 0.02


def test_training_converges_and_logs_every_step():
    model = Line().to(DEVICE)
    history = Trainer(model, RECIPE).run(batches())
    assert [entry["step"] for entry in history] == list(range(1, 41))
    assert model.weight.item() == pytest.approx(2, abs=0.1) and model.bias.item() == pytest.approx(1, abs=0.1)
    assert all(entry["loss"] == pytest.approx(entry["a"] + entry["b"]) for entry in history)
    assert max(entry["lr"] for entry in history) == pytest.approx(RECIPE.lr)


def test_a_run_in_two_parts_is_the_run_in_one():
    seed_everything(0)
    whole = Line().to(DEVICE)
    Trainer(whole, RECIPE).run(batches())
    seed_everything(0)
    parts = Line().to(DEVICE)
    trainer = Trainer(parts, RECIPE)
    trainer.run(batches(), steps=17)
    trainer.run(batches())
    assert torch.equal(whole.weight, parts.weight) and torch.equal(whole.bias, parts.bias)


@pytest.mark.parametrize(("threads", "used"), [(1, 1), (None, 3)])
def test_a_run_computes_with_the_threads_of_its_recipe_and_leaves_them_as_they_were(threads, used):
    before, seen = torch.get_num_threads(), set()
    torch.set_num_threads(3)
    try:
        trainer = Trainer(Line().to(DEVICE), replace(RECIPE, threads=threads))
        trainer.run(batches(), steps=1, evaluate=lambda model: {"threads": seen.add(torch.get_num_threads())})
        assert (seen, torch.get_num_threads()) == ({used}, 3)
        with pytest.raises(FloatingPointError):
            trainer.run(batches(float("nan")), steps=2)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_gradient_is_clipped():
    model = Line().to(DEVICE)
    trainer = Trainer(model, replace(RECIPE, grad_clip=1.0, lr=1.0, warmup_steps=1))
    entry = trainer.train_step(batches(1000.0)[:1])
    assert entry["grad_norm"] == pytest.approx(2000, rel=1e-3)
    assert torch.stack([model.weight.detach().flatten(), model.bias.detach()]).norm().item() == pytest.approx(
        1, rel=1e-3
    )


def test_a_loss_that_is_not_finite_stops_with_its_name():
    with pytest.raises(FloatingPointError, match="step 1.*'a': nan"):
        Trainer(Line().to(DEVICE), RECIPE).run(batches(float("nan")))


def test_biases_and_norms_do_not_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    decaying, others = make_optimizer(model, replace(RECIPE, weight_decay=0.1)).param_groups
    assert [p.ndim for p in decaying["params"]] == [4] and decaying["weight_decay"] == 0.1
    assert [p.ndim for p in others["params"]] == [1, 1, 1] and others["weight_decay"] == 0


def test_frozen_parameters_are_left_out():
    model = Line()
    model.bias.requires_grad_(False)
    groups = make_optimizer(model, RECIPE).param_groups
    assert [p for group in groups for p in group["params"]] == [model.weight]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_fewer_pictures_than_a_batch_takes_are_used_equally_often(count):
    """Every step has as many images as another, and so the learning rate that the schedule says."""
    seen = []

    class Counting(Line):
        def forward(self, images, targets):
            seen.extend(target["image_id"].item() for target in targets)
            return super().forward(images, targets)

    samples = [(torch.zeros(3, 2, 2), {"image_id": torch.tensor(n)}) for n in range(count)]
    recipe = replace(RECIPE, batch_size=4, steps=10)
    history = Trainer(Counting().to(DEVICE), recipe).run(Batches(samples, 4))
    assert seen == [n % count for n in range(40)]
    assert [entry["lr"] for entry in history] == pytest.approx([0.05 * lr_factor(s, 10, 5) for s in range(10)])


def test_data_without_a_sample_are_refused():
    with pytest.raises(ValueError, match="the training data does not yield a single sample"):
        Trainer(Line().to(DEVICE), RECIPE).run(Batches([], 4))


class Noisy(Line):
    """Its loss has a part that is drawn."""

    def forward(self, images, targets):
        return super().forward(images, targets) | {"drawn": torch.rand(())}


def step_by_step(value=2.0):
    """Batches of one image each, and in each of them another number."""
    return [(torch.full((1, 3, 2, 2), value + i), None) for i in range(3)]


def test_a_checkpoint_is_written_before_an_evaluation_that_fails(tmp_path):
    """Nothing is lost: the run goes on with the evaluation that is missing, and is the run in which none failed."""

    def measure(model):
        torch.rand(3)  # what an evaluation draws must not change the run
        return {"AP": model.weight.item()}

    def fail(model):
        raise RuntimeError("no picture")

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    seed_everything(0)
    expected = Trainer(Noisy().to(DEVICE), RECIPE, whole).run(step_by_step(), every=15, evaluate=measure)
    seed_everything(0)
    with pytest.raises(RuntimeError, match="no picture"):
        Trainer(Noisy().to(DEVICE), RECIPE, broken).run(step_by_step(), every=15, evaluate=fail)
    assert [path.name for path in broken.glob("*.pt")] == ["step_00000015.pt"]
    assert [entry["step"] for entry in entries(broken)] == list(range(1, 15))
    again = Trainer(Noisy().to(DEVICE), RECIPE, broken)
    assert again.resume(step_by_step()) == 15 and len(again.history) == 15
    again.run(step_by_step(), every=15, evaluate=measure)
    assert entries(broken) == entries(whole) and [entry.get("AP") for entry in again.history] == [
        entry.get("AP") for entry in expected
    ]


def test_the_same_trainer_evaluates_again_what_it_could_not(tmp_path):
    answers = iter([RuntimeError("no picture"), {"AP": 0.5}, {"AP": 0.25}])

    def measure(model):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    trainer = Trainer(Line().to(DEVICE), RECIPE, tmp_path)
    with pytest.raises(RuntimeError, match="no picture"):
        trainer.run(batches(), every=20, evaluate=measure)
    trainer.run(batches(), every=20, evaluate=measure)
    assert [entry["step"] for entry in entries(tmp_path)] == list(range(1, 41))
    assert [entry["AP"] for entry in trainer.history if "AP" in entry] == [0.5, 0.25]


def scored(*scores):
    """An evaluation that gives these scores, one after the other."""
    left = iter(scores)
    return lambda model: {"AP": next(left)}


def test_the_best_model_is_handed_over_whenever_the_score_rises():
    trainer, best = Trainer(Line().to(DEVICE), RECIPE), []
    trainer.run(
        batches(), every=10, evaluate=scored(0.1, 0.3, 0.3, 0.4), on_best=lambda model: best.append(trainer.step)
    )
    assert best == [10, 20, 40]


def test_a_run_killed_between_the_best_and_its_log_hands_it_over_again(tmp_path):
    class Killed(BaseException):
        pass

    def kill(model):
        raise Killed

    with pytest.raises(Killed):
        Trainer(Line().to(DEVICE), RECIPE, tmp_path).run(batches(), every=10, evaluate=scored(0.5), on_best=kill)
    assert [entry["step"] for entry in entries(tmp_path)] == list(range(1, 10))
    again, best = Trainer(Line().to(DEVICE), RECIPE, tmp_path), []
    assert again.resume(batches()) == 10
    again.run(batches(), every=10, evaluate=scored(0.5, 0.4, 0.6, 0.1), on_best=lambda model: best.append(again.step))
    assert best == [10, 30]


def test_a_run_stops_when_its_patience_is_over():
    trainer = Trainer(Line().to(DEVICE), RECIPE)
    history = trainer.run(batches(), every=5, evaluate=scored(0.1, 0.3, 0.2, 0.3, 0.9), patience=2)
    assert len(history) == trainer.step == 20


@pytest.mark.parametrize(("stop", "end"), [(14, 15), (16, 16), (20, 20)])
def test_patience_goes_on_where_a_run_was_stopped(tmp_path, stop, end):
    """The best is found after 10 steps, and two evaluations in vain are enough; one is where the first part ends."""
    first = Trainer(Line().to(DEVICE), RECIPE, tmp_path)
    score = {5: 0.1, 10: 0.3, 15: 0.2}
    first.run(batches(), stop, every=5, evaluate=lambda model: {"AP": score.get(first.step, 0.3)}, patience=2)
    again = Trainer(Line().to(DEVICE), RECIPE, tmp_path)
    again.resume(batches())
    again.run(batches(), every=5, evaluate=lambda model: {"AP": score.get(again.step, 0.3)}, patience=2)
    assert again.step == end
    without = Trainer(Line().to(DEVICE), RECIPE, tmp_path)
    without.resume(batches())
    assert len(without.run(batches(), every=5, evaluate=scored(*[0.1] * 9))) == 40


def test_a_run_without_a_checkpoint_begins_its_log_anew(tmp_path):
    for steps in (2, 1):
        (tmp_path / "log.jsonl").write_text("".join(f'{{"step": {i + 1}}}\n' for i in range(steps)) + '{"step": ')
        trainer = Trainer(Line().to(DEVICE), RECIPE, tmp_path)
        trainer.run(batches(), steps=3, every=3)
        assert [entry["step"] for entry in entries(tmp_path)] == [1, 2, 3]
        assert Trainer(Line().to(DEVICE), RECIPE, tmp_path).resume(batches()) == 3
        (tmp_path / "step_00000003.pt").unlink()


def test_a_run_from_before_pictures_could_keep_their_shape_goes_on_as_it_was(tmp_path):
    Trainer(Line().to(DEVICE), RECIPE, tmp_path).run(batches(), steps=2)
    path = tmp_path / "step_00000002.pt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["recipe"]["keep_aspect"]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="keep_aspect is True here, False there"):
        Trainer(Line().to(DEVICE), replace(RECIPE, keep_aspect=True), tmp_path).resume(batches())
    assert Trainer(Line().to(DEVICE), RECIPE, tmp_path).resume(batches()) == 2


def test_a_step_on_padded_pictures_is_a_step_with_their_sizes():
    options = RECIPES["openmoji-tiny"].model_options | {"width": 4, "fpn_channels": 16, "fc_dim": 32}
    recipe = replace(RECIPES["openmoji-tiny"], img_size=64, keep_aspect=True, num_workers=0, model_options=options)
    images, targets = next(iter(recipe.loader("train", batch_size=2, metadata=True)))
    seen = []

    class Watched(FasterRCNN):
        def roi_losses(self, features, proposals, image_size, targets):
            seen.extend(proposals)
            return super().roi_losses(features, proposals, image_size, targets)

    seed_everything(0)
    Trainer(Watched(**options).to(DEVICE), recipe).train_step([(images, targets)])
    for boxes, target in zip(seen, targets, strict=True):
        height, width = target["size"].tolist()
        assert len(boxes) and (boxes.cpu() <= torch.tensor([width, height] * 2)).all()


def test_one_run_a_folder(tmp_path):
    """While one runs, another is refused before it has written anything; afterwards the folder is free."""

    def intrude(model):
        before = (tmp_path / "log.jsonl").read_bytes()
        for start in (lambda trainer: trainer.run(batches()), lambda trainer: trainer.resume(batches())):
            with pytest.raises(ValueError, match=f"{tmp_path} is in use by another run"):
                start(Trainer(Line().to(DEVICE), RECIPE, tmp_path))
        assert (tmp_path / "log.jsonl").read_bytes() == before
        return {"AP": 1.0}

    Trainer(Line().to(DEVICE), RECIPE, tmp_path).run(batches(), steps=4, every=2, evaluate=intrude)
    assert Trainer(Line().to(DEVICE), RECIPE, tmp_path).resume(batches()) == 4


def test_a_first_step_that_is_skipped_leaves_no_momentum():
    """By hand: 1 - 0.05 · 2 = 0.9, whatever lay in memory when the step before was skipped."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = make_optimizer(model, replace(RECIPE, lr=0.05))
    for found_inf, gradient in ((1.0, torch.nan), (0.0, 2.0)):
        model.weight.grad = torch.full_like(model.weight, gradient)
        optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(found_inf)  # as a GradScaler hands it over
        optimizer.step()
        (buffer,) = (state["momentum_buffer"] for state in optimizer.state.values())
        assert buffer.item() == (0.0 if found_inf else 2.0)
    assert model.weight.item() == pytest.approx(0.9)


class Steep(nn.Module):
    """A loss of 0 whose gradient is not finite while its weight is 0, at any scale."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images, targets):
        return {"root": self.weight.abs().sqrt().sum() if images.mean() > 0 else self.weight.square().sum()}


def test_float16_stops_after_twenty_gradients_in_a_row_that_are_not_finite(tmp_path):
    recipe = replace(RECIPE, amp_dtype=torch.float16)
    trainer = Trainer(Steep().to(DEVICE), recipe, tmp_path)
    with pytest.raises(FloatingPointError, match="step 20: the gradient was not finite in 20 steps in a row.*bf16"):
        trainer.run(batches())
    assert [entry["step"] for entry in entries(tmp_path)] == list(range(1, 20))
    mixed = [*batches()[:1] * 19, *batches(-1.0)[:1]]  # one in twenty that is finite
    assert len(Trainer(Steep().to(DEVICE), recipe).run(mixed)) == RECIPE.steps


def briefly(root, folder, *kill_at_sync, environment=os.environ):
    """Start `briefly.py` on a folder."""
    command = [sys.executable, root / "tests" / "briefly.py", folder, *map(str, kill_at_sync)]
    environment = environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def finish(process):
    """The fingerprint that a run prints at its end."""
    output, _ = process.communicate(timeout=3600)
    assert process.returncode == 0
    return output.strip()


def entries(folder):
    """The log without the times."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory):
    """Folder and fingerprint of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, finish(briefly(root, folder))


def kill_after(process, log, step, chance):
    """Kill a run at a random moment soon after a step is in its log."""
    ended = False
    while not (log.exists() and log.read_bytes().count(b"\n") >= step):
        assert not ended, f"the run has ended before step {step}"
        ended = process.poll() is not None  # a last look at the log then: it may have gone on in the meantime
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.05))
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_that_is_killed_at_random_moments_is_the_run_that_is_not(root, undisturbed, tmp_path, seed):
    chance = random.Random(seed)
    for step in sorted(chance.sample(range(1, 24), 3)):
        kill_after(briefly(root, tmp_path), tmp_path / "log.jsonl", step, chance)
    assert finish(briefly(root, tmp_path)) == undisturbed[1]
    assert entries(tmp_path) == entries(undisturbed[0])
    assert [entry["step"] for entry in entries(tmp_path)] == list(range(1, 25))


@pytest.mark.slow
def test_the_same_from_a_hub_with_faults_with_shuffling_and_two_workers(root, tmp_path):
    """Thirty rows: the second epoch begins in the middle of the run."""
    chance, alone, killed = random.Random(0), tmp_path / "alone", tmp_path / "killed"
    with Hub(DATASET, coco_files()) as hub:
        environment = hub.environment(tmp_path / "home")
        expected = finish(briefly(root, alone, environment=environment))
        for step in (4, 17):
            hub.hook = Faults({3: "error_503", 5: "cut", 8: "short", 12: "truncated"})
            kill_after(briefly(root, killed, environment=environment), killed / "log.jsonl", step, chance)
            assert len(hub.hook.happened) >= 3
        assert finish(briefly(root, killed, environment=environment)) == expected
    assert entries(killed) == entries(alone)
    assert [entry["step"] for entry in entries(killed)] == list(range(1, 25))


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_writes_is_the_run_that_is_not(root, undisturbed, tmp_path):
    for sync in (1, 3, 2):  # resuming syncs the log first, so the last two are checkpoints, too
        process = briefly(root, tmp_path, sync)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert list(tmp_path.glob("*.partial"))
    assert finish(briefly(root, tmp_path)) == undisturbed[1]
    assert entries(tmp_path) == entries(undisturbed[0])
    assert not list(tmp_path.glob("*.partial"))

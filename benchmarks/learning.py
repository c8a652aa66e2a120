"""The course's detector and torchvision's learn side by side: python benchmarks/learning.py

Both have the same first weights, and take every step on the same batch with the same optimizer, by the recipe that
chapter 5 trains with, only for longer; now and then both are measured on validation scenes of its twelve categories.
The curves and the time of each go into `book/_data/learning.json`, which the results page shows.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from inputs import OURS, THEIRS
from measure import machine
from peers import AroundOurBackbone

from frcnn_common.engine import Trainer, seed_everything
from frcnn_common.files import strict_json, write_atomically
from frcnn_common.metrics import evaluate
from frcnn_common.recipes import RECIPES, course_settings

EVERY = 250
FILE = Path(__file__).resolve().parent.parent / "book" / "_data" / "learning.json"


def run(recipe, scenes, file):
    """Train both to the end of the recipe, and write what is known after each evaluation."""
    seed_everything(0)
    model = recipe.model()
    trainers = {OURS: Trainer(model, recipe), THEIRS: Trainer(AroundOurBackbone(model, recipe), recipe)}
    report = {"machine": machine(), "scenes": scenes, "categories": len(recipe.categories)}
    report |= {name: getattr(recipe, name) for name in ("steps", "batch_size", "img_size", "lr")}
    report["curves"] = {name: [] for name in trainers}
    seconds = {name: {"wall": 0.0, "cpu": 0.0} for name in trainers}
    for step, batch in enumerate(recipe.loader("train", recipe.steps * recipe.batch_size), start=1):
        for name in list(trainers)[:: 1 if step % 2 else -1]:  # each is the first in every second step
            wall, cpu = time.perf_counter(), time.process_time()
            loss = trainers[name].train_step([batch])["loss"]
            seconds[name]["wall"] += time.perf_counter() - wall
            seconds[name]["cpu"] += time.process_time() - cpu
            if step % EVERY == 0 or step == recipe.steps:
                numbers = _measure(trainers[name].model, recipe, scenes)
                report["curves"][name].append({"step": step, "loss": loss} | seconds[name] | numbers)
                write_atomically(file, lambda handle: handle.write(strict_json(report, indent=1).encode()))
                print(name, report["curves"][name][-1], flush=True)


def _measure(model, recipe, scenes):
    model.eval()
    evaluation = evaluate(model, recipe.loader("val", scenes))
    model.train()
    return {name: getattr(evaluation, name) for name in ("AP", "AP50", "AP75")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    live = course_settings(RECIPES["openmoji-tiny"]).live
    run(replace(live, steps=options.steps), options.scenes, options.out)

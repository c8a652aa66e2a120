"""The course's detector and torchvision's learn side by side: python benchmarks/learning.py

Both have the same first weights, and take every step on the same batch with the same optimizer; then both are measured
on the 500 validation scenes. The curves and the time of each go into `benchmarks/learning.json`.
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
from frcnn_common.recipes import RECIPES

EVERY = 250


def run(recipe, scenes, file):
    """Train both to the end of the recipe, and write what is known after each evaluation."""
    seed_everything(0)
    model = recipe.model()
    trainers = {OURS: Trainer(model, recipe), THEIRS: Trainer(AroundOurBackbone(model, recipe), recipe)}
    settings = {"batch_size": recipe.batch_size, "img_size": recipe.img_size, "amp_dtype": str(recipe.amp_dtype)}
    report = {"machine": machine(), "scenes": scenes, "steps": recipe.steps, "lr": recipe.lr} | settings
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
    parser.add_argument("--amp", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("learning.json"))
    options = parser.parse_args()
    dtype = None if options.amp == "float32" else torch.bfloat16
    torch.set_num_threads(1)
    run(replace(RECIPES["openmoji-tiny"], steps=options.steps, amp_dtype=dtype), options.scenes, options.out)

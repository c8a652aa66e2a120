"""Train on a folder of photographs in Pascal VOC's layout: python benchmarks/real_data.py FOLDER --out FILE

    python benchmarks/real_data.py BCCD --from scratch --out book/_data/bccd-scratch.json
    python benchmarks/real_data.py BCCD --from tiny --out book/_data/bccd-tiny.json
    python benchmarks/real_data.py BCCD --from tiny --peer --out book/_data/bccd-torchvision.json

The folder's own lists `trainval` and `test` are the splits. All runs have the same recipe and number of steps;
`--peer` trains torchvision's detector around the same first weights. FILE gets AP, AP50 and AP by class after each
evaluation, and what it took.
"""

import argparse
import json
import tempfile
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
from frcnn_common.transfer import start_from


def view(folder, place):
    """The same folder with the lists `trainval` and `test` alone."""
    lists = place / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name in ("Annotations", "JPEGImages"):
        (place / name).symlink_to((folder / name).resolve())
    for name in ("trainval.txt", "test.txt"):
        (lists / name).symlink_to((folder / "ImageSets" / "Main" / name).resolve())
    return place


def run(folder, options):
    """Train for the budget, and write what is known after each evaluation."""
    seed_everything(options.seed)
    recipe = RECIPES["openmoji-tiny"].with_data(folder).with_steps(options.steps)
    recipe = replace(recipe, augment={"flip": 0.5, "scales": (0.8, 1.25)})
    if options.start == "scratch":
        model = recipe.model()
    else:
        model, recipe, taken = start_from(recipe, options.start)
        print(taken, flush=True)
    recipe = replace(recipe, img_size=options.side)
    trainer = Trainer(AroundOurBackbone(model, recipe) if options.peer else model, recipe)
    report = {"machine": machine(), "detector": THEIRS if options.peer else OURS, "start": options.start}
    report |= {name: getattr(recipe, name) for name in ("steps", "batch_size", "img_size", "lr")}
    report |= {"seed": options.seed, "curve": []}
    classes = {"num_classes": len(recipe.names), "names": recipe.names}
    wall, cpu = time.monotonic(), time.process_time()

    def measure(model):
        evaluation = evaluate(model.eval(), recipe.loader("val", metadata=True), **classes)
        model.train()
        spent = {"step": trainer.step, "wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}
        report["curve"].append(spent | evaluation.summary() | {"per_class": evaluation.per_class()})
        write_atomically(options.out, lambda file: file.write(strict_json(report, indent=1).encode()))
        print(json.dumps(spent | {name: getattr(evaluation, name) for name in ("AP", "AP50")}), flush=True)
        return {}

    trainer.run(recipe.loader("train", metadata=True), every=options.every, evaluate=measure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--from", dest="start", default="scratch", help="scratch, tiny, or a file of weights")
    parser.add_argument("--peer", action="store_true", help="torchvision's detector")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--every", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        run(view(options.folder, Path(place) / "view"), options)

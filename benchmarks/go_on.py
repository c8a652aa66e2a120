"""Go on training from finished weights, with another cosine: benchmarks/go_on.py --sizes 320:6400 --out FILE

Weights are averaged over the steps, scenes are drawn with a seed of their own, and what comes out lies in a file that
`frcnn evaluate --weights FILE` measures. The last two stages in the training of the weights that ship were run in this
way; the page of results has their commands.
"""

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from frcnn_common.engine import Trainer, seed_everything
from frcnn_common.files import strict_json
from frcnn_common.inference import SHIPPED, load_detector, save_detector
from frcnn_common.metrics import evaluate
from frcnn_common.openmoji import scene_stream
from frcnn_common.recipes import RECIPES


def widen(model, channels):
    """Give the box head's hidden layers more channels. What the model computes stays the same.

    The new channels of each layer are as random as at its first start, and nothing reads them yet: the weights by which
    the next layer takes them in are zero.
    """
    fc1, fc2, predictor = model.box_head.fc1, model.box_head.fc2, model.predictor
    old = fc1.out_features
    model.box_head.fc1 = _grown(fc1, fc1.in_features, channels)
    model.box_head.fc2 = _grown(fc2, channels, channels)
    predictor.cls = _grown(predictor.cls, channels, predictor.cls.out_features)
    predictor.box = _grown(predictor.box, channels, predictor.box.out_features)
    with torch.no_grad():
        for weight in (model.box_head.fc2.weight[:old], predictor.cls.weight, predictor.box.weight):
            weight[:, old:] = 0
    return model


def weigh_boxes(model, times):
    """Let the head's box loss count more: so many times where errors are large, and even more where they are small.

    Deltas are told in units that are as many times smaller, so smooth L1 grows. What the model computes stays the same.
    """
    model.box_weights = tuple(times * weight for weight in model.box_weights)
    with torch.no_grad():
        for values in model.predictor.box.parameters():
            values *= times
    return model


def _grown(layer, inputs, outputs):
    grown = nn.Linear(inputs, outputs)
    with torch.no_grad():
        grown.weight[: layer.out_features, : layer.in_features] = layer.weight
        grown.bias[: layer.out_features] = layer.bias
    return grown


def average(mean, new, steps):
    """The moving average of the weights; it forgets faster at the beginning."""
    keep = min(0.9995, 1 - 10 / (10 + float(steps)))
    return keep * mean + (1 - keep) * new if mean.is_floating_point() else new


def run(model, recipe, sizes, seed, out, every, scenes, times=1.0):
    """Train at one size of the pictures after the other, `{side: steps}`; measure and store the average."""
    trainer = Trainer(weigh_boxes(model, times).train(), recipe)
    averaged = AveragedModel(model, avg_fn=average, use_buffers=True)
    begun = time.monotonic()
    for number, (side, steps) in enumerate(sizes.items()):
        source = scene_stream("train", seed=seed + number)
        for batch in recipe.loader("train", steps * recipe.batch_size, source=source, img_size=side):
            entry = trainer.train_step([batch])
            averaged.update_parameters(model)
            if trainer.step % every == 0 or trainer.step == recipe.steps:
                measured = replace(recipe, img_size=side)
                mean = weigh_boxes(copy.deepcopy(averaged.module), 1 / times).eval()
                found = evaluate(mean, measured.loader("val", scenes))
                numbers = {name: round(getattr(found, name), 4) for name in ("AP", "AP50", "AP75")}
                spent = {"seconds": round(time.monotonic() - begun), "loss": round(entry["loss"], 3)}
                print(strict_json({"step": trainer.step, "img_size": side} | spent | numbers), flush=True)
                save_detector(out, mean, measured)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--widen", type=int, metavar="CHANNELS", help="of the box head")
    parser.add_argument("--box-loss", type=float, default=1.0, metavar="TIMES", help="how much more the head's counts")
    parser.add_argument("--sizes", nargs="+", default=["320:6400"], metavar="SIDE:STEPS")
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument(
        "--seed", type=int, default=2, help="of the scenes; weights that ship have seen 0, 1, 11 and 12"
    )
    parser.add_argument("--amp", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sizes = {int(side): int(steps) for side, steps in (text.split(":") for text in options.sizes)}
    torch.set_num_threads(1)
    seed_everything(options.seed)
    model, _ = load_detector(options.weights)
    if options.widen:
        widen(model, options.widen)
    steps = sum(sizes.values())
    schedule = {"steps": steps, "warmup_steps": min(300, steps // 10), "lr": options.lr}
    dtype = None if options.amp == "float32" else torch.bfloat16
    recipe = replace(RECIPES["openmoji-tiny"], **schedule, amp_dtype=dtype)
    settings = {name: value for name, value in vars(options).items() if name not in ("weights", "out")}
    print(strict_json({"options": settings}), flush=True)
    run(model, recipe, sizes, options.seed, options.out, options.every, options.scenes, options.box_loss)

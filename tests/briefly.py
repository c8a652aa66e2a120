"""A short training run, which tests kill: `python briefly.py FOLDER [KILL_AT_SYNC]`.

On the embedded scenes; or, where HF_ENDPOINT is set, on that Hub's data, shuffled, with two workers.
"""

import hashlib
import os
import signal
import sys
from dataclasses import replace

import torch

from frcnn_common.engine import Trainer, seed_everything
from frcnn_common.hub import HUB_DATASET
from frcnn_common.recipes import RECIPES

STEPS, EVERY = 24, 5
SMALL = {"width": 4, "fpn_channels": 16, "fc_dim": 32, "pre_nms": 100, "post_nms": 50}


def kill_at_sync(number):
    """Let this process be killed when, for the n-th time, bytes of a file have to reach the disk."""
    sync, calls = os.fsync, iter(range(1, 1000))

    def fsync(file):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(file)

    os.fsync = fsync


def main(folder):
    """Train, or go on with training, and print a fingerprint of the weights."""
    torch.set_num_threads(1)
    seed_everything(0)
    default = RECIPES["openmoji-tiny"]
    recipe = replace(
        default, img_size=64, batch_size=2, steps=STEPS, warmup_steps=4, model_options=default.model_options | SMALL
    )
    if "HF_ENDPOINT" in os.environ:
        recipe = replace(recipe, source=HUB_DATASET, shuffle=4, num_workers=2)
    trainer = Trainer(recipe.model(), recipe, folder)
    loader = recipe.loader("train", metadata=True)
    trainer.resume(loader)
    trainer.run(loader, every=EVERY)
    bits = b"".join(value.cpu().numpy().tobytes() for value in trainer.model.state_dict().values())
    print(hashlib.sha256(bits).hexdigest())


if __name__ == "__main__":
    if len(sys.argv) > 2:
        kill_at_sync(int(sys.argv[2]))
    main(sys.argv[1])

"""An hour of streaming and training on two workers, through faults and kills.

    python benchmarks/soak.py [--minutes 60] [--seed 0]

A Hub on the loopback serves scenes in eight files. One request in six goes wrong, now and then the Hub is away for some
seconds, and the training run is killed at random moments and resumed from its last checkpoint. In the end the images of
all steps are counted: each epoch must hold each image once.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from faults import DATASET, KINDS, Away, Faults, coco_files
from hub import Hub

ROWS, FILES, EVERY = 240, 8, 25


class RandomFaults(Faults):
    """One request in six goes wrong."""

    stall = 4

    def __init__(self, seed):
        super().__init__()
        self.chance = random.Random(seed)

    def __call__(self, request):
        kind = self.chance.choice(KINDS) if self.chance.random() < 1 / 6 else None
        self.happened.append(kind)
        return kind is not None and getattr(self, kind)(request)


class Recorded:
    """Batches whose image numbers are written down, a line for each step."""

    def __init__(self, loader, path):
        self.loader, self.path, self.dataset, self.step = loader, path, loader.dataset, 0
        self.state_dict, self.load_state_dict = loader.state_dict, loader.load_state_dict

    def rewind(self, step):
        """Forget what came after a step."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.path.write_text("".join(f"{line}\n" for line in lines[:step]))
        self.step = step

    def __iter__(self):
        for images, targets in self.loader:
            with self.path.open("a") as file:
                file.write(json.dumps([int(target["image_id"]) for target in targets]) + "\n")
            yield images, targets


def train(folder):
    """Train until killed, from the last checkpoint on."""
    import torch
    from ranks import RECIPE
    from torchdata.stateful_dataloader import StatefulDataLoader

    from frcnn_common.data import COCOStreamDataset, frcnn_collate_fn
    from frcnn_common.engine import Trainer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = replace(RECIPE, steps=10**9)
    data = COCOStreamDataset(img_size=96, metadata=True, shuffle=16, retries=20)
    loader = StatefulDataLoader(data, recipe.batch_size, collate_fn=frcnn_collate_fn, num_workers=2)
    batches = Recorded(loader, folder / "images.jsonl")
    trainer = Trainer(recipe.model(), recipe, folder / "run")
    batches.rewind(trainer.resume(batches))
    trainer.run(batches, every=EVERY)


def memory(pid):
    """Bytes in memory of a process and its children; what they share is counted once."""
    total, group = 0, subprocess.run(["pgrep", "-g", str(pid)], capture_output=True, text=True, check=False).stdout
    for member in group.split():
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
            total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return total


def live(folder, environment, seconds):
    """One life of the training run: its most memory. It must not end by itself."""
    command = [sys.executable, __file__, "--train", str(folder)]
    with (folder / "errors.txt").open("a") as errors:
        process = subprocess.Popen(command, env=environment, stderr=errors, start_new_session=True)
    most, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        most = max(most, memory(process.pid))
        if process.poll() is not None:
            raise SystemExit((folder / "errors.txt").read_text()[-3000:])
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return most


def count(folder):
    """Delivered, repeated and lost images of the epochs that are complete, and how many those are."""
    images = [number for line in (folder / "images.jsonl").read_text().splitlines() for number in json.loads(line)]
    epochs = [Counter(images[start : start + ROWS]) for start in range(0, len(images) - ROWS + 1, ROWS)]
    repeated = sum(n - 1 for epoch in epochs for n in epoch.values())
    lost = sum(ROWS - len(epoch) for epoch in epochs)
    return len(images), repeated, lost, len(epochs)


def main(minutes, seed):
    """Let it live and die until the time is over, and print the balance."""
    chance, end, peaks = random.Random(seed), time.monotonic() + 60 * minutes, []
    with tempfile.TemporaryDirectory() as folder, Hub(DATASET, coco_files(ROWS, FILES, longest=96)) as hub:
        folder = Path(folder)
        environment = hub.environment(folder / "home") | {"HF_HUB_DOWNLOAD_TIMEOUT": "3", "OMP_NUM_THREADS": "1"}
        kinds = Counter()
        while time.monotonic() < end:
            hub.hook = faults = RandomFaults(chance.random())
            if chance.random() < 0.2:
                hub.hook = faults = Away(hub, seconds=chance.uniform(2, 10))
            peaks.append(live(folder, environment, chance.uniform(15, 90)))
            kinds.update(kind for kind in faults.happened if kind)
        delivered, repeated, lost, epochs = count(folder)
        print(f"{minutes} minutes, {len(peaks) - 1} restarts, {sum(kinds.values())} faults: {dict(kinds)}")
        print(f"{delivered} samples delivered, {epochs} whole epochs of {ROWS}: {repeated} repeated, {lost} lost")
        print(f"most memory of a life, with two workers: {min(peaks) / 1e6:.0f} to {max(peaks) / 1e6:.0f} MB")
        return repeated > 0 or lost > 0 or epochs == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.exit(train(options.train) if options.train else main(options.minutes, options.seed))

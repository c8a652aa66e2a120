"""Around the model: what an import costs, and how many images a second the data set delivers."""

import subprocess
import sys
from collections import deque

import datasets
import torch
from inputs import OURS, Sides
from PIL import Image
from torchvision.transforms.functional import normalize, to_tensor

from frcnn_common.constants import IMAGENET_MEAN, IMAGENET_STD, IMG_SIZE
from frcnn_common.data import COCOStreamDataset
from frcnn_common.openmoji import draw_scene, scene_stream


def imports():
    """`import frcnn_common` and `import torch`, each in a fresh interpreter."""

    def importing(name):
        return lambda: subprocess.run([sys.executable, "-c", f"import {name}"], check=True)

    return Sides({OURS: importing("frcnn_common"), "import torch": importing("torch")})


def stream(on_bad_sample="raise", images=100):
    """The same JPEG bytes from memory, once through `COCOStreamDataset`, once through `datasets` and torchvision."""
    rows = [draw_scene(number) for number in range(images)]
    source = datasets.Dataset.from_list(rows, features=scene_stream().features).to_iterable_dataset()
    mean, std = IMAGENET_MEAN.flatten().tolist(), IMAGENET_STD.flatten().tolist()

    def alone():
        for row in source:
            image = row["image"].convert("RGB").resize((IMG_SIZE, IMG_SIZE), Image.Resampling.BICUBIC)
            yield normalize(to_tensor(image), mean, std, inplace=True)

    ours = COCOStreamDataset(source=source, on_bad_sample=on_bad_sample)
    count = 0
    for (mine, _), theirs in zip(ours, alone(), strict=True):
        torch.testing.assert_close(mine, theirs)
        count += 1
    sides = {OURS: lambda: deque(ours, maxlen=0), "datasets alone": lambda: deque(alone(), maxlen=0)}
    return Sides(sides, {"images": count})

"""Around the model: what an import costs, and how many images a second the data set delivers."""

import subprocess
import sys

import datasets
import numpy as np
import torch
from inputs import OURS, Sides
from PIL import Image

from frcnn_common.constants import IMG_SIZE
from frcnn_common.data import COCOStreamDataset, normalize
from frcnn_common.openmoji import draw_scene, scene_stream


def imports():
    """`import frcnn_common` and `import torch`, each in a fresh interpreter."""

    def importing(name):
        return lambda: subprocess.run([sys.executable, "-c", f"import {name}"], check=True)

    return Sides({OURS: importing("frcnn_common"), "import torch": importing("torch")})


def stream(images=100):
    """The same JPEG bytes from memory, once through `COCOStreamDataset`, once through `datasets` and four lines."""
    rows = [draw_scene(number) for number in range(images)]
    source = datasets.Dataset.from_list(rows, features=scene_stream().features).to_iterable_dataset()

    def alone():
        for row in source:
            image = row["image"].convert("RGB").resize((IMG_SIZE, IMG_SIZE), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)
            yield normalize(pixels)

    ours = COCOStreamDataset(source=source)
    count = 0
    for (mine, _), theirs in zip(ours, alone(), strict=True):
        torch.testing.assert_close(mine, theirs)
        count += 1
    return Sides({OURS: lambda: list(ours), "datasets alone": lambda: list(alone())}, {"images": count})

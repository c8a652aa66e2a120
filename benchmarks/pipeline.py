"""Around the model: what an import costs, and how fast images are drawn and delivered."""

import functools
import io
import subprocess
import sys
from contextlib import contextmanager

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


PILLOW = (
    "resize",
    "rotate",
    "crop",
    "transpose",
    "convert",
    "getchannel",
    "putalpha",
    "putpalette",
    "paste",
    "filter",
    "point",
)


@contextmanager
def pillow_calls():
    """The list of the calls of Pillow's image methods within the block, to be made again; not what these call."""
    calls, inside = [], False

    def recorded(method):
        @functools.wraps(method)
        def call(*args, **kwargs):
            nonlocal inside
            if inside:
                return method(*args, **kwargs)
            calls.append(functools.partial(method, *args, **kwargs))
            inside = True
            try:
                return method(*args, **kwargs)
            finally:
                inside = False

        return call

    methods = {name: getattr(Image.Image, name) for name in (*PILLOW, "save")}
    for name, method in methods.items():
        setattr(Image.Image, name, recorded(method))
    try:
        yield calls
    finally:
        for name, method in methods.items():
            setattr(Image.Image, name, method)


def encode(call):
    """The bytes that a recorded `Image.save` writes, this time into a file of its own."""
    image, _, *rest = call.args
    file = io.BytesIO()
    image.save(file, *rest, **call.keywords)
    return file.getvalue()


def scenes(count=25):
    """Scenes from nothing to rows; and Pillow's part of that alone, called again with what was recorded."""

    def ours():
        return [draw_scene(number) for number in range(count)]

    ours()  # draws the glyphs, once for all
    with pillow_calls() as calls:
        rows = ours()
    steps = [functools.partial(encode, call) if call.func.__name__ == "save" else call for call in calls]
    encoded = [step() for step in steps if step.func is encode]
    assert encoded == [row["image"]["bytes"] for row in rows]
    return Sides(
        {OURS: ours, "Pillow alone": lambda: [step() for step in steps]}, {"images": count, "calls": len(calls)}
    )

"""Around the model: what an import costs, and how fast images are drawn and delivered."""

import functools
import io
import subprocess
import sys
from collections import deque
from contextlib import contextmanager

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

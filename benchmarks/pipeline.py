"""Around the model: what an import costs, and how fast images are drawn, delivered and detected in."""

import functools
import io
import subprocess
import sys
import tempfile
from collections import deque
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import datasets
import torch
from inputs import OURS, Sides
from PIL import Image
from torchvision.transforms.functional import normalize, to_tensor

from frcnn_common import cli
from frcnn_common.constants import IMAGENET_MEAN, IMAGENET_STD, IMG_SIZE
from frcnn_common.data import COCOStreamDataset
from frcnn_common.inference import Detector
from frcnn_common.metrics import evaluate_detections
from frcnn_common.openmoji import draw_scene, scene_stream
from frcnn_common.pictures import draw_detections, open_picture


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


ONE_AT_A_TIME = "one at a time"


def _silent(work):
    """The work without what it prints."""

    def run():
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return work()

    return run


def detecting(count=16):
    """`frcnn detect` on JPEG files; and the same files opened, detected in and drawn one after the other."""
    folder = tempfile.TemporaryDirectory()  # it goes when the process ends
    paths = [Path(folder.name) / f"{number:02}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(draw_scene(number, "val")["image"]["bytes"])
    batches, alone = Path(folder.name) / "batches", Path(folder.name) / "alone"
    alone.mkdir()

    def ours():
        cli.detect([str(path) for path in paths], out=batches)

    def one_at_a_time(folder=folder):
        detector = Detector.load()
        for path in paths:
            picture = open_picture(path)
            draw_detections(picture, detector(picture), detector.names, alone / f"{path.stem}.png")

    sides = {OURS: _silent(ours), ONE_AT_A_TIME: one_at_a_time}
    for work in sides.values():
        work()
    drawn = [sorted((path.name, path.read_bytes()) for path in out.iterdir()) for out in (batches, alone)]
    assert [name for name, _ in drawn[0]] == [name for name, _ in drawn[1]] == [f"{path.stem}.png" for path in paths]
    same = sum(one == other for one, other in zip(*drawn, strict=True))
    assert same > 0.9 * count  # a score may be rounded the other way
    return Sides(sides, {"images": count})


def evaluating(count=32):
    """`frcnn evaluate` on drawn scenes; and one scene after the other."""

    def one_at_a_time():
        detector, predictions, targets = Detector.load(), [], []
        options = {"names": detector.names, "metadata": True, "keep_empty": True}
        for picture, target in COCOStreamDataset("val", count, source=scene_stream("val"), **options).pictures():
            predictions.append(detector(picture, score=detector.model.score_thr))
            targets.append(target)
        return evaluate_detections(predictions, targets, num_classes=len(detector.names), names=detector.names)

    def ours():
        printed = io.StringIO()
        with redirect_stdout(printed), redirect_stderr(io.StringIO()):
            cli.evaluate(samples=count)
        return printed.getvalue()

    assert str(one_at_a_time()) in ours()
    return Sides({OURS: ours, ONE_AT_A_TIME: one_at_a_time}, {"images": count})

"""Draw the picture at the top of the landing page, and print what its caption has to say.

python tools/hero.py 131      the number of a validation scene
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from frcnn_common.constants import COCO_NAMES
from frcnn_common.errors import detection_errors
from frcnn_common.inference import Detector
from frcnn_common.openmoji import compose_scene
from frcnn_common.plots import set_style, show_boxes

ROOT = Path(__file__).resolve().parent.parent


def verdict(scene, threshold=0.5):
    """Detections in a scene, its objects, the kind of each detection, and which objects are missed."""
    found = Detector.load("tiny")(scene.image, score=threshold)
    truth = {"boxes": torch.tensor(scene.boxes), "labels": torch.tensor([COCO_NAMES.index(n) for n in scene.names])}
    kinds, _, missed = detection_errors(found, truth)
    return found, truth, kinds, missed


def draw(number, path=ROOT / "book/_static/hero.png"):
    """One scene, small, so that its tags are legible on a phone."""
    scene = compose_scene(number, "val")
    found, truth, kinds, missed = verdict(scene)
    width, height = scene.image.size
    set_style()
    fig, ax = plt.subplots(figsize=(3.7, 3.7 * height / width))
    show_boxes(scene.image, truth["boxes"][missed], ax=ax, color="white", style="--", width=1.4)
    show_boxes(None, found["boxes"], found["labels"], found["scores"], ax=ax, width=1.4)
    fig.savefig(path, dpi=300)
    print(f"scene {number}: {kinds}, missed {[scene.names[n] for n in missed.tolist()]} of {len(scene.names)}")


if __name__ == "__main__":
    draw(int(sys.argv[1]))

"""Write what the page "Try it" loads when its reader asks for it: into _build/extra/try, which the site copies.

python tools/try_it.py                      the graphs, scenes, glyphs and onnxruntime-web
python tools/try_it.py --picture PATH       the page's still picture

onnxruntime-web is npm's. Its archive is fetched once and compared with the hash in tools/package-lock.json. If the
registry cannot be reached, the page stays a picture, and one line says so.
"""

import argparse
import base64
import hashlib
import http.client
import io
import json
import os
import shutil
import subprocess
import tarfile
import unicodedata
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "_build/extra/try"
LOCK = ROOT / "tools/package-lock.json"
PACKAGE = "onnxruntime-web"
RUNTIME = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")  # processors only
REGISTRY = "https://registry.npmjs.org/"
SCENES = (187, 131, 3, 8, 12, 17, 21, 29, 34, 46, 55, 62, 70, 83, 97, 104, 118, 140, 152, 166)  # of validation
BACKGROUNDS = (4, 0, 1, 2, 3, 5)  # seeds
UNKNOWN = "🍒🍓🍄🎃🎈🌻🤖👻🏠🔑💡🔔🎸🎲🐸🐢🐙🦋🦁🐭🚀🚁🛸⛔"  # among the distractors: of no class
GLYPH_SIDE = 160  # pixels at most: half of a scene


def registry():
    """npm's registry as this machine has it set, by the environment or a file of npm's, with a slash at its end."""
    found = os.environ.get("npm_config_registry") or os.environ.get("NPM_CONFIG_REGISTRY")
    if not found and (npm := shutil.which("npm")):
        asked = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=False)
        found = asked.stdout.strip()
    return (found or REGISTRY).rstrip("/") + "/"


def pinned(lock=LOCK):
    """Version and integrity of onnxruntime-web."""
    entry = json.loads(lock.read_text(encoding="utf-8"))["packages"][f"node_modules/{PACKAGE}"]
    return entry["version"], entry["integrity"]


def fetch_runtime(folder, lock=LOCK):
    """Put the files of onnxruntime-web into a folder that is named by their version, unless it is there.

    Returns the folder. Raises `OSError` if the registry has no answer, and `ValueError` for another archive than the
    lock file's.
    """
    version, integrity = pinned(lock)
    target = folder / f"{PACKAGE}-{version}"
    if target.is_dir():
        return target
    with urllib.request.urlopen(f"{registry()}{PACKAGE}/-/{PACKAGE}-{version}.tgz", timeout=60) as answer:
        archive = answer.read()
    kind, _, expected = integrity.partition("-")
    if base64.b64encode(hashlib.new(kind, archive).digest()).decode() != expected:
        raise ValueError(f"{registry()} sent another {PACKAGE} {version} than tools/package-lock.json names")
    part = folder / f".{target.name}"
    part.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        for name in RUNTIME:
            (part / name).write_bytes(members.extractfile(f"package/dist/{name}").read())
    part.rename(target)  # whole, or not at all
    return target


def write_scenes(folder):
    """Validation scenes, to the byte as the data have them, and where things are in them."""
    from frcnn_common.constants import COCO_NAMES
    from frcnn_common.openmoji import draw_scene

    listed = []
    for number in SCENES:
        row = draw_scene(number, "val")
        (folder / f"scene-{number}.jpg").write_bytes(row["image"]["bytes"])
        names = [COCO_NAMES[label + 1] for label in row["objects"]["category"]]
        entry = {"file": f"scene-{number}.jpg", "name": f"scene {number}: {', '.join(dict.fromkeys(names))}"}
        listed.append(entry | {"boxes": row["objects"]["bbox"]})
    return listed


def write_backgrounds(folder):
    """Grounds to compose on, drawn and photographed like those of the scenes."""
    from frcnn_common.drawing import draw_background, photograph

    listed = []
    for number, seed in enumerate(BACKGROUNDS, 1):
        rng = np.random.default_rng(seed)
        name = f"background-{number}.jpg"
        photograph(rng, draw_background(rng, 320, 240)).save(folder / name, quality=85)
        listed.append({"file": name, "name": f"background {number}"})
    return listed


def write_glyphs(folder):
    """One glyph of each category that has one, and some that are none of COCO's."""
    from PIL import Image

    from frcnn_common.drawing import CATEGORIES, GLYPHS, draw_glyph

    listed = []
    chosen = [(GLYPHS[name][0], name, True) for name in CATEGORIES]
    chosen += [(char, unicodedata.name(char).lower(), False) for char in UNKNOWN]
    for char, name, known in chosen:
        glyph, file = draw_glyph(char).copy(), f"glyph-{ord(char):x}.png"
        glyph.thumbnail((GLYPH_SIDE, GLYPH_SIDE), Image.Resampling.LANCZOS)
        glyph.save(folder / file, optimize=True)
        listed.append({"file": file, "name": name, "known": known, "width": glyph.width, "height": glyph.height})
    return listed


def write_detector(folder):
    """The shipped detector's two graphs; returns the settings of what lies between and behind them."""
    from frcnn_common.export import export_onnx, export_settings
    from frcnn_common.inference import Detector

    detector = Detector.load("tiny")
    export_onnx(folder / "tiny.onnx", detector, stages=True)
    return export_settings(detector)


def colors():
    """The map from 0…1 to colors that the course's figures of probabilities use."""
    import matplotlib

    return (255 * matplotlib.colormaps["magma"](np.linspace(0, 1, 64))[:, :3]).round().astype(int).tolist()


def main(folder=FOLDER, lock=LOCK):
    """Write everything, and last `files.json`, the list of what the page loads: without it the page is a picture.

    Of what an earlier run has left in the folder only onnxruntime-web stays, if it is the pinned one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "files.json"
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
        elif path.name != f"{PACKAGE}-{pinned(lock)[0]}":
            shutil.rmtree(path)
    try:
        runtime = fetch_runtime(folder, lock)
    except (OSError, http.client.HTTPException) as error:
        print(f'"Try it" stays a picture: the npm registry {registry()} cannot be reached ({error})')
        return
    lists = {"scenes": write_scenes(folder), "backgrounds": write_backgrounds(folder), "glyphs": write_glyphs(folder)}
    data = {"detector": write_detector(folder), "magma": colors()} | lists
    (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
    names = {kind: f"{runtime.name}/{name}" for kind, name in zip(("script", "glue", "wasm"), RUNTIME)}
    names |= {"picture": "tiny-picture.onnx", "regions": "tiny-regions.onnx", "data": "data.json"}
    listed = {kind: {"file": name, "bytes": (folder / name).stat().st_size} for kind, name in names.items()}
    pictures = [entry["file"] for entries in lists.values() for entry in entries]
    listed["pictures"] = {"bytes": sum((folder / name).stat().st_size for name in pictures)}
    files.write_text(json.dumps(listed), encoding="utf-8")


def draw_picture(path):
    """The still picture: one scene, and what the page shows of it."""
    import matplotlib.pyplot as plt
    import torch
    from PIL import Image

    from frcnn_common.inference import Detector
    from frcnn_common.openmoji import compose_scene
    from frcnn_common.plots import set_style, show_boxes

    image, detector = compose_scene(SCENES[0], "val").image, Detector.load("tiny")
    pixels, inner, _ = detector.prepare(image)
    with torch.no_grad():
        features = detector.model.fpn(detector.model.backbone(pixels[None]))
        logits, _ = detector.model.rpn.head(features)
        proposals = detector.model.rpn(features, inner, image_sizes=[inner])[0][0]
    scale = torch.tensor([image.width, image.height] * 2) / torch.tensor([*inner[::-1], *inner[::-1]])
    before, after = Detector.load("tiny", nms_thr=1.0)(image), detector(image)
    set_style()
    fig, axes = plt.subplots(2, 2, figsize=(7.4, 5.9), layout="constrained")
    axes = axes.flatten()
    axes[0].imshow(logits[2][0].sigmoid().amax(dim=0), cmap="magma", vmin=0, vmax=1, aspect="auto")
    show_boxes(image, proposals[:60] * scale, ax=axes[1], color="#2f6bff", width=0.6)
    show_boxes(image, before["boxes"], ax=axes[2], color="#ff9046", style="--", width=0.8)
    show_boxes(image, after["boxes"], after["labels"], after["scores"], ax=axes[3], width=1.4)
    titles = "where could something be? (P4)", "the best 60 proposals", "before suppression", "one box for each thing"
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
        ax.axis("off")
    picture = io.BytesIO()
    fig.savefig(picture, dpi=140)
    Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write what the page “Try it” loads, into _build/extra/try.")
    parser.add_argument("--picture", metavar="PATH", help="draw the page's still picture instead")
    path = parser.parse_args().picture
    draw_picture(path) if path else main()

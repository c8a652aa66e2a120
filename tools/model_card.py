"""Write the figures of the model card: python tools/model_card.py [RUN_FOLDER | WEIGHTS LOG ...]

The folder is one that `frcnn train` wrote. Weights and logs are of runs of `benchmarks/go_on.py` that went on from one
file; the mean of their weights ships, and the card gets one more stage: give it each stage once, in order. Weights go
into the package, and are then measured from the shipped file on all 500 validation scenes, and on fresh ones, by COCO's
own tool, `pycocotools`; the log, of a folder as means over 50 steps, and the numbers go into
`book/_data/openmoji-tiny.json`, from which the page is made. With neither, the shipped file is measured again.
"""

import contextlib
import hashlib
import io
import json
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import measure

from frcnn_common.boxes import box_area
from frcnn_common.constants import COCO_NAMES
from frcnn_common.errors import error_breakdown
from frcnn_common.files import write_atomically
from frcnn_common.inference import SHIPPED, Detector, load_detector, save_detector
from frcnn_common.metrics import evaluate_detections, predict, proposal_recall
from frcnn_common.openmoji import scene_stream
from frcnn_common.recipes import RECIPES
from frcnn_common.runs import load_checkpoint

EVERY = 50
FRESH = 99  # the seed of scenes that no run and no choice between runs has seen
CARD = ROOT / "book" / "_data" / "openmoji-tiny.json"


def as_coco(rows):
    """Boxes of some images in COCO's format, with our labels as ids."""
    annotations = []
    for number, row in enumerate(rows, start=1):
        boxes = row["boxes"].double()
        scores, areas = row.get("scores", torch.ones(len(boxes))), row.get("area", box_area(boxes))
        columns = (column.tolist() for column in (boxes, row["labels"], scores, areas))
        for (x1, y1, x2, y2), label, score, area in zip(*columns, strict=True):
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": label, "score": score}
            annotations.append(entry | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": 0})
    data = COCO()
    categories = [{"id": label, "name": name} for label, name in enumerate(COCO_NAMES)][1:]
    images = [{"id": number} for number in range(1, len(rows) + 1)]
    data.dataset = {"images": images, "annotations": annotations, "categories": categories}
    data.createIndex()
    return data


def twelve_numbers(names, predictions, targets):
    """COCO's summary by pycocotools, whose twelve numbers have these names."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(as_coco(targets), as_coco(predictions), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(names, evaluation.stats.tolist(), strict=True))


def curve(log):
    """Means of the log over `EVERY` steps, and the evaluations."""
    losses = ("loss", "rpn_cls", "rpn_box", "roi_cls", "roi_box", "grad_norm", "lr")
    parts = [log[start : start + EVERY] for start in range(0, len(log), EVERY)]
    means = [
        {"step": part[-1]["step"]} | {key: round(sum(e[key] for e in part) / len(part), 5) for key in losses}
        for part in parts
    ]
    evaluations = [
        {"step": e["step"]} | {key: round(e[key], 4) for key in ("AP", "AP50", "AP75")} for e in log if "AP" in e
    ]
    return means, evaluations


def measured():
    """What the shipped file reaches on the validation scenes, and on as many fresh ones."""
    detector = Detector.load("tiny")
    recipe = replace(RECIPES["openmoji-tiny"], img_size=detector.img_size)
    predictions, targets = predict(detector.model, recipe.loader("val", metadata=True))
    evaluation, breakdown = evaluate_detections(predictions, targets), error_breakdown(predictions, targets)
    source = scene_stream("train", seed=FRESH)
    fresh, there = predict(detector.model, recipe.loader("train", len(targets), source=source, metadata=True))
    summary = evaluate_detections(fresh, there).summary()
    recall = proposal_recall([row["proposals"] for row in predictions], targets, limits=(100, 1000))
    return {
        "objects": sum(len(row["labels"]) for row in targets),
        "scenes": len(targets),
        "img_size": detector.img_size,
        "sha256": hashlib.sha256(Path(SHIPPED).read_bytes()).hexdigest(),
        "pycocotools": twelve_numbers(evaluation.summary(), predictions, targets),
        "fresh": {"seed": FRESH, "scenes": len(there), "pycocotools": twelve_numbers(summary, fresh, there)},
        "by_overlap": [round(value, 4) for value in evaluation.precision.nanmean(dim=(1, 2)).tolist()],
        "per_class": {name: round(value, 4) for name, value in evaluation.per_class().items()},
        "proposal_recall": {str(limit): round(value, 4) for limit, value in recall.items()},
        "errors": {
            "counts": breakdown.counts,
            "gains": {kind: round(gain, 4) for kind, gain in breakdown.gains.items()},
        },
    }


def mean(files, out):
    """Store the mean of the weights of some files, which are of one kind and not far from each other."""
    (model, settings), *others = (load_detector(file) for file in files)
    states = [model.state_dict(), *(other.state_dict() for other, _ in others)]
    model.load_state_dict({key: sum(state[key] for state in states) / len(states) for key in states[0]})
    save_detector(out, model, replace(RECIPES[settings["recipe"]], img_size=settings["img_size"]))


def went_on(log):
    """How a run of `benchmarks/go_on.py` went, from what it has printed."""
    begin, *evaluations = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    return begin | {"evaluations": evaluations}


def trained(folder):
    """How a run went; its weights become those that ship."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    checkpoint = load_checkpoint(folder / f"step_{log[-1]['step']:08}.pt")
    weights = (folder / "weights.safetensors").read_bytes()
    write_atomically(SHIPPED, lambda file: file.write(weights))
    recipe = RECIPES[checkpoint["recipe"]["name"]]
    means, evaluations = curve(log)
    images = recipe.batch_size * checkpoint["run"]["ranks"] * checkpoint["run"]["accumulate"]
    return {
        "recipe": {key: str(value) for key, value in checkpoint["recipe"].items() if key in recipe.describe()},
        "run": checkpoint["run"] | {"steps": log[-1]["step"], "images_per_step": images},
        "seconds_in_steps": round(sum(entry["seconds"] for entry in log)),
        "machine": measure.machine() | {"date": datetime.now().strftime("%Y-%m-%d")},
        "log": means,
        "evaluations": evaluations,
        "stages": [],
    }


def main(*sources):
    """Ship and measure the weights of a run, or of runs that went on; or measure those that ship."""
    if len(sources) == 1:
        card = trained(*sources)
    else:
        card = json.loads(CARD.read_text(encoding="utf-8"))
    if len(sources) > 1:
        mean(sources[::2], SHIPPED)
        card["stages"].append([went_on(log) for log in sources[1::2]])
    card |= measured()
    write_atomically(CARD, lambda file: file.write((json.dumps(card, indent=1) + "\n").encode()))
    print(json.dumps(card["pycocotools"], indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

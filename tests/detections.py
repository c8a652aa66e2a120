"""Detections and targets for the tests of metrics, errors and COCO's files: made by hand, and at random."""

import numpy as np
import torch


def boxes_at(*corners):
    return torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)


def target_of(boxes, labels, **more):
    return {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64), **more}


def prediction_of(boxes, labels, scores):
    return target_of(boxes, labels, scores=torch.tensor(scores, dtype=torch.float32))


def random_boxes(rng, count):
    corner = rng.uniform(0, 300, (count, 2))
    sides = np.exp(rng.uniform(np.log(5), np.log(250), (count, 2)))  # all three size bins
    return np.concatenate([corner, corner + sides], axis=1)


def random_image(rng, classes, most_found):
    objects = rng.integers(0, 7) * (rng.random() > 0.15)
    boxes, labels = random_boxes(rng, objects), rng.integers(1, classes + 1, objects)
    target = target_of(torch.tensor(boxes, dtype=torch.float32), labels.tolist())
    target["iscrowd"] = torch.tensor(rng.random(objects) < 0.2).long()
    if rng.random() < 0.5:  # COCO's own area is the mask's
        target["area"] = (target["boxes"][:, 2:] - target["boxes"][:, :2]).prod(1) * 0.7
    near = boxes[rng.integers(0, max(objects, 1), rng.integers(0, 4) * objects)] if objects else boxes
    near = near + rng.normal(0, 8, near.shape)
    found = np.concatenate([near, random_boxes(rng, rng.integers(0, most_found + 1))]) * (rng.random() > 0.15)
    found = found[found.any(axis=1)]
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
    scores = rng.integers(0, 20, len(found)) / 20 if rng.random() < 0.3 else rng.random(len(found))  # ties, too
    found_labels = rng.integers(1, classes + 1, len(found)).tolist()
    return prediction_of(torch.tensor(found, dtype=torch.float32), found_labels, scores.tolist()), target


def random_case(seed, most_found=12):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(1, 5))
    pairs = [random_image(rng, classes, most_found) for _ in range(rng.integers(1, 7))]
    return [p for p, _ in pairs], [t for _, t in pairs]


GOOD = prediction_of(boxes_at([0, 0, 10, 10]), [1], [0.5])

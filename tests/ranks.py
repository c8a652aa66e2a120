"""What each of several processes does in the tests of distributed training: `torchrun … ranks.py JOB FOLDER`.

Started alone, without `torchrun`, the same code is the single process that the others are compared with.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import torch
from torch.utils.data import DataLoader

from frcnn_common.data import COCOStreamDataset, frcnn_collate_fn
from frcnn_common.distributed import gather, join_processes, mean_count, mean_over_ranks, process_rank
from frcnn_common.engine import Trainer, seed_everything
from frcnn_common.metrics import evaluate
from frcnn_common.openmoji import draw_scene
from frcnn_common.recipes import RECIPES

DEFAULT = RECIPES["openmoji-tiny"]
SMALL = {"width": 4, "fpn_channels": 16, "fc_dim": 32, "pre_nms": 100, "post_nms": 50, "norm": "frozen"}
RECIPE = replace(
    DEFAULT,
    img_size=96,
    batch_size=4,
    steps=12,
    warmup_steps=1,
    optimizer="sgd",
    grad_clip=1e9,
    model_options=DEFAULT.model_options | SMALL,
)


def rows(files):
    """Seven scenes in three files, which two processes cannot share evenly."""
    for file in files:
        yield from (draw_scene(number, longest=96) for number in range(file, 7, 3))


def loader(batch_size, **options):
    source = datasets.IterableDataset.from_generator(rows, gen_kwargs={"files": [0, 1, 2]})
    data = COCOStreamDataset("train", img_size=96, source=source, metadata=True)
    return DataLoader(data, batch_size, collate_fn=frcnn_collate_fn, **options)


def four_images():
    """Noise with one, two, three and no objects."""
    chance = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 96, 96, generator=chance)
    boxes = [torch.rand(count, 4, generator=chance) * 48 for count in (1, 2, 3, 0)]
    boxes = [torch.cat([b[:, :2], b[:, :2] + b[:, 2:] + 4], dim=1) for b in boxes]
    labels = [torch.arange(len(b)) + 1 for b in boxes]
    rows = zip(boxes, labels, range(4), strict=True)
    return images, [{"boxes": b, "labels": label, "image_id": torch.tensor(n)} for b, label, n in rows]


def exchange(folder):
    """What `gather` and the two means return, and what was passed, which must still be the same."""
    rank, ranks = process_rank()
    values, counts = torch.tensor([1.0, 10.0]) * (rank + 1), torch.tensor([0.0, 3.0 * rank, 0.5])
    means, mean_counts = mean_over_ranks(values), mean_count(counts)
    return {
        "rank": [rank, ranks],
        "gathered": gather("first" if rank == 0 else ["another", rank]),
        "mean_over_ranks": means.tolist(),
        "mean_count": mean_counts.tolist(),
        "passed": [values.tolist(), counts.tolist()],
    }


def gradients(folder):
    """One step on four images, two in each of two processes."""
    rank, ranks = process_rank()
    images, targets = four_images()
    trainer = Trainer(RECIPE.model(), RECIPE)
    entry = trainer.train_step([(images[rank::ranks], targets[rank::ranks])])
    torch.save(
        {name: p.grad for name, p in trainer.model.named_parameters()}, folder / f"gradients_{rank}_of_{ranks}.pt"
    )
    return entry


def epoch(folder):
    """The images that this process sees in an epoch."""
    return sorted(int(t["image_id"]) for _, targets in loader(2, num_workers=1) for t in targets)


def run(folder):
    """Train past the end of the uneven files, evaluate together, write checkpoints."""
    trainer = Trainer(RECIPE.model(), RECIPE, folder / "run")

    def measure(model):
        return evaluate(model, loader(2)).summary()

    trainer.run(loader(1), every=6, evaluate=measure)
    return {"last": trainer.history[-1], "weights": sum(p.double().sum().item() for p in trainer.model.parameters())}


if __name__ == "__main__":
    job, folder = globals()[sys.argv[1]], Path(sys.argv[2])
    torch.set_num_threads(1)
    join_processes()
    seed_everything(0)
    results = gather(job(folder))
    rank, _ = process_rank()
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(results))

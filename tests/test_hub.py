"""The Hub: what is said when it fails; and one on the loopback, from which the recipe of the GPU takes its steps."""

import io
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import pytest
import torch
import torchvision
from hub import Hub

from frcnn_common import COCOStreamDataset
from frcnn_common.hub import HUB_DATASET, StreamError, class_names, file_of, read_again
from frcnn_common.openmoji import draw_scene, scene_stream
from frcnn_common.recipes import RECIPES
from frcnn_common.runs import load_checkpoint

SPLITS = {"train": (20, 4), "val": (5, 2)}  # rows, files

STREAM = """
import json, sys
from torch.utils.data import DataLoader
from frcnn_common import COCOStreamDataset
for split, workers in ("train", 0), ("train", 2), ("val", 0), ("val", 2):
    samples = COCOStreamDataset(split, img_size=32, revision=sys.argv[1], metadata=True)
    loader = DataLoader(samples, batch_size=None, num_workers=workers)
    seen = [(target["image_id"].item(), target["boxes"].tolist(), image.sum().item()) for image, target in loader]
    print(json.dumps([split, workers, seen]))
"""


@pytest.fixture(scope="module")
def rows():
    """Scenes by split, as a table in the Hub's columns."""
    columns = scene_stream().features
    return {
        split: datasets.Dataset.from_list([draw_scene(i, split, longest=64) for i in range(count)], features=columns)
        for split, (count, _) in SPLITS.items()
    }


@pytest.fixture(scope="module")
def hub(rows):
    """The Hub with these scenes, in several files."""
    files = {}
    for split, (_, shards) in SPLITS.items():
        for shard in range(shards):
            parquet = io.BytesIO()
            rows[split].shard(shards, shard).to_parquet(parquet)
            files[f"data/{split}-{shard:05}-of-{shards:05}.parquet"] = parquet.getvalue()
    with Hub(HUB_DATASET, files) as hub:
        yield hub


def run(hub, home, *command, **variables):
    """What a Python process that uses this Hub prints."""
    command, environment = [sys.executable, *command], hub.environment(home) | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def revisions(hub, start):
    """The revisions that the Hub was asked for since its n-th request."""
    parts = [path.split("/") for _, path, _ in hub.requests[start:]]
    return {p[p.index(word) + 1] for p in parts for word in ("revision", "tree", "resolve") if word in p}


@pytest.mark.slow
def test_every_row_of_the_asked_revision_arrives_once(hub, rows, tmp_path):
    start = len(hub.requests)
    printed = [json.loads(line) for line in run(hub, tmp_path, "-c", STREAM, hub.commit).splitlines()]
    assert [case[:2] for case in printed] == [["train", 0], ["train", 2], ["val", 0], ["val", 2]]
    for split, _, seen in printed:
        local = COCOStreamDataset(split, img_size=32, source=rows[split].to_iterable_dataset(), metadata=True)
        expected = [
            (target["image_id"].item(), target["boxes"].tolist(), image.sum().item()) for image, target in local
        ]
        assert sorted(map(tuple, seen)) == sorted(expected) and len(expected) == SPLITS[split][0]
    assert revisions(hub, start) == {hub.commit}


@pytest.mark.slow
def test_the_cache_will_do_without_a_network(hub, tmp_path):
    """What was downloaded once is read from there, if the Hub's own variable says that there is no network."""
    fill = "import datasets; datasets.load_dataset('detection-datasets/coco', split='val')"
    read = (
        "from frcnn_common import COCOStreamDataset;"
        "print(sorted(int(t['image_id']) for _, t in COCOStreamDataset('val', img_size=32, metadata=True)))"
    )
    run(hub, tmp_path, "-c", fill)
    start = len(hub.requests)
    assert json.loads(run(hub, tmp_path, "-c", read, HF_HUB_OFFLINE="1")) == list(range(SPLITS["val"][0]))
    assert len(hub.requests) == start
    with pytest.raises(AssertionError, match="StreamError: detection-datasets/coco, split val, .*Without a network"):
        run(hub, tmp_path / "empty", "-c", read, HF_HUB_OFFLINE="1")


def test_an_unknown_revision_is_an_error(hub, tmp_path):
    code = "from frcnn_common import COCOStreamDataset; next(iter(COCOStreamDataset(revision='gone')))"
    with pytest.raises(AssertionError, match="gone"):
        run(hub, tmp_path, "-c", code)


def random_resnet50(path):
    """A file as torchvision's `resnet50` stores it, of random weights whose blocks add little to their input."""
    state = torchvision.models.resnet50(weights=None).state_dict()
    for key in [key for key in state if key.endswith("bn3.weight")]:
        state[key] *= 0.2  # as it stays fixed, 1 would double the variance in each of the 16 blocks
    torch.save(state, path)
    return state


TRAIN = """
import sys
from dataclasses import replace
from frcnn_common import cli
from frcnn_common.recipes import RECIPES
RECIPES["coco-r50"] = replace(RECIPES["coco-r50"], img_size=int(sys.argv.pop(1)))
cli.app()
"""
WHOLE = RECIPES["coco-r50"].img_size


@pytest.mark.parametrize(
    ("side", "amp", "batch"),
    [  # the whole network; small pictures, for a processor takes minutes for the recipe's own
        pytest.param(64, "bf16", 2, marks=pytest.mark.slow),
        pytest.param(WHOLE, "bf16", 2, marks=pytest.mark.long),
        pytest.param(WHOLE, "fp16", 1, marks=pytest.mark.long),
    ],
)
def test_the_recipe_trains(hub, side, amp, batch):
    start, steps = len(hub.requests), 2
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        given = random_resnet50(folder / "resnet50.pth")
        command = f"train --recipe coco-r50 --revision {hub.commit} --amp {amp} --steps {steps}"
        options = f"--batch-size {batch} --backbone-weights {folder}/resnet50.pth --out {folder}/run"
        run(hub, folder / "home", "-c", TRAIN, str(side), *command.split(), *options.split())
        log = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
        checkpoint = load_checkpoint(folder / f"run/step_{steps:08}.pt")
    assert [entry["step"] for entry in log] == list(range(1, steps + 1))
    assert all(math.isfinite(entry["loss"]) and entry["rpn_cls"] > 0 < entry["roi_cls"] for entry in log)
    assert log[0]["lr"] == pytest.approx(0.02 * batch / 16)  # of two steps, none is warm-up
    assert "AP50" in log[-1]
    trained = checkpoint["model_state_dict"]
    assert torch.equal(trained["backbone.layer1.2.conv3.weight"], given["layer1.2.conv3.weight"])
    changed = not torch.equal(trained["backbone.layer4.2.conv3.weight"], given["layer4.2.conv3.weight"])
    assert changed == any(math.isfinite(entry["grad_norm"]) for entry in log)  # float16 skips steps that overflow
    assert bool(checkpoint["scaler"]) == (amp == "fp16")
    assert revisions(hub, start) == {hub.commit}


def test_a_mistake_is_not_tried_again(monkeypatch):
    """A wrong split, or other classes: at once, and without the advice to be patient."""
    monkeypatch.setattr("frcnn_common.data.ask_hub", lambda name: None)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))

    def bad_split(*_, **__):
        raise ValueError('Bad split: val. Available splits: ["train"]')

    monkeypatch.setattr(datasets, "load_dataset", bad_split)
    with pytest.raises(StreamError, match="Bad split: val.*Are the name, the split and the revision right"):
        next(iter(COCOStreamDataset("val")))
    one_row = datasets.Dataset.from_dict({"objects": [{"category": [1]}]})
    other = datasets.Features({"objects": {"category": datasets.List(datasets.ClassLabel(names=["Mask", "Gloves"]))}})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: one_row.cast(other))
    with pytest.raises(StreamError, match="not COCO's classes but .*'Mask', 'Gloves'"):
        next(iter(COCOStreamDataset(source="somebody/masks")))


def test_class_names_where_there_are_none():
    rows = datasets.Dataset.from_dict({"objects": [{"category": [1]}]})
    assert class_names(rows) is None and class_names(datasets.IterableDataset.from_generator(list)) is None


def breaking(error, at, times):
    """`read_from` of the numbers to 5, which breaks on the way to one of them so many times."""
    left = [times]

    def read_from(place):
        for number in range(place, 5):
            if number == at and left[0]:
                left[0] -= 1
                raise error
            yield number, number + 1

    return read_from


@pytest.mark.parametrize(
    ("error", "times", "retries", "waited", "message"),
    [
        (TimeoutError("slow"), 3, None, [1, 2, 4], None),
        (TimeoutError("slow"), 9, 7, [1, 2, 4, 8, 16, 32, 60], "COCO, opening it: TimeoutError: slow. Tried 8 times"),
        (ConnectionError("away"), 9, 0, [], "COCO, opening it: ConnectionError: away. Without a network"),
        (ConnectionError("away"), 9, 1, [1], "Tried 2 times; retries=... makes it more patient"),
        (FileNotFoundError("gone"), 9, None, [], "FileNotFoundError: gone. Are the name, the split and the revision"),
    ],
)
def test_a_stream_is_read_again_where_that_can_help(monkeypatch, error, times, retries, waited, message):
    seconds, numbers = [], []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", seconds.append)
    rows = read_again(breaking(error, 2, times), 0, "COCO", retries)
    if message is None:
        assert [number for number, _ in rows] == [0, 1, 2, 3, 4]
    else:
        with pytest.raises(StreamError, match=message):
            numbers += (number for number, _ in rows)
    assert seconds == waited


def test_whose_errors_are_told_and_whose_are_passed_on():
    """Of a local file, at once, with its advice; of a stream of somebody else, as they are."""
    with pytest.raises(StreamError, match="OSError: bad. Is the file whole"):
        list(read_again(breaking(OSError("bad"), 2, 1), 0, "folder", local=True))
    with pytest.raises(OSError, match="bad"):
        list(read_again(breaking(OSError("bad"), 2, 1), 0, None))
    with pytest.raises(KeyError):
        list(read_again(breaking(KeyError("mine"), 2, 1), 0, "folder", local=True, passed_on=KeyError))


@pytest.mark.parametrize("at_the_end", [False, True])
def test_the_file_is_named(tmp_path, at_the_end):
    """The damaged one of two, whether its end is missing or a page in its middle."""
    for name in ("train-0", "train-1"):
        datasets.Dataset.from_dict({"text": [f"{n:0100}" for n in range(100)]}).to_parquet(tmp_path / f"{name}.parquet")
    rows = datasets.load_dataset("parquet", data_dir=str(tmp_path), split="train", streaming=True)
    data = (tmp_path / "train-1.parquet").read_bytes()
    damaged = data[:-100] if at_the_end else data[:10] + bytes(400) + data[410:]
    (tmp_path / "train-1.parquet").write_bytes(damaged)
    with pytest.raises(Exception) as error:  # pyarrow raises whatever it likes
        list(rows)
    assert file_of(error.value).endswith("train-1.parquet") and file_of(ValueError()) is None

"""Order, shuffling and position: each sample once, whoever reads, and wherever it stops and goes on."""

import json
import os
import random
import subprocess
import sys

import datasets
import pytest
from test_data import make_rows
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from frcnn_common import COCOStreamDataset, frcnn_collate_fn

ROWS, FILES = 60, 4
FEATURES = datasets.Features({
    "image_id": datasets.Value("int64"),
    "image": datasets.Image(),
    "objects": {
        "bbox": datasets.List(datasets.List(datasets.Value("float64"))),
        "category": datasets.List(datasets.Value("int64")),
    },
})  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore::UserWarning:torchdata")


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Sixty rows in four files of several row groups; every seventh row has no box."""
    folder = tmp_path_factory.mktemp("rows")
    rows = [row for i in range(ROWS) for row in make_rows([i], boxes=[] if i % 7 == 3 else None)]
    for part in range(FILES):
        table = datasets.Dataset.from_list(rows[part::FILES], features=FEATURES)
        table.to_parquet(folder / f"train-{part}.parquet", batch_size=4)
    return folder


WANTED = [i for i in range(ROWS) if i % 7 != 3]


def source_of(folder, kind):
    if kind == "generator":
        numbers = datasets.IterableDataset.from_generator(numbered, gen_kwargs={"parts": list(range(FILES))})
        return numbers.map(row_of, remove_columns="number", features=FEATURES)
    files = sorted(map(str, folder.glob("*.parquet")))
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)


def numbered(parts):
    for part in parts:
        yield from ({"number": number} for number in range(part, ROWS, FILES))


def row_of(row):
    return next(make_rows([row["number"]], boxes=[] if row["number"] % 7 == 3 else None))


def make(folder, kind="parquet", **options):
    return COCOStreamDataset("train", img_size=16, source=source_of(folder, kind), metadata=True, **options)


def ids(loader):
    return [int(target["image_id"]) for _, targets in loader for target in targets]


def loader(data, workers, batch=3):
    return StatefulDataLoader(data, batch, collate_fn=frcnn_collate_fn, num_workers=workers)


@pytest.mark.parametrize("kind", ["parquet", "generator"])
@pytest.mark.parametrize("workers", [0, 1, 2, 4, 6])
def test_shuffled_rows_come_once(parquet, kind, workers):
    data = make(parquet, kind, shuffle=8, seed=1)
    first = ids(DataLoader(data, 3, collate_fn=frcnn_collate_fn, num_workers=workers))
    assert sorted(first) == WANTED and first != WANTED
    if workers in (0, 2):
        again = ids(loader(make(parquet, kind, shuffle=8, seed=1), workers))
        other = ids(loader(make(parquet, kind, shuffle=8, seed=2), workers))
        data.set_epoch(1)
        later = ids(loader(data, workers))
        assert first == again and sorted(other) == sorted(later) == WANTED
        assert len({tuple(order) for order in (first, other, later)}) == 3


def test_shuffling_moves_files_and_rows(parquet):
    data, beginnings = make(parquet, shuffle=8), set()
    for epoch in range(12):
        data.set_epoch(epoch)
        order = [int(target["image_id"]) for _, target in data]
        beginnings.add(order[0] % FILES)
        assert order[:8] != sorted(order[:8])
    assert len(beginnings) > 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bound_means_the_same_samples_in_every_epoch(parquet, workers):
    data, plain = make(parquet, max_samples=10, shuffle=4), make(parquet, max_samples=10)
    chosen, orders = sorted(ids(loader(plain, workers))), []
    for epoch in range(3):
        data.set_epoch(epoch)
        orders.append(ids(loader(data, workers)))
    assert len(chosen) == 10 and all(sorted(order) == chosen for order in orders)
    assert len(set(map(tuple, orders))) == 3


@pytest.mark.parametrize("kind", ["parquet", "generator"])
@pytest.mark.parametrize("shuffle", [0, 1, 8, 100])
def test_every_position_can_be_returned_to(parquet, kind, shuffle):
    """Without a loader, after each single sample, in the second epoch."""
    data = make(parquet, kind, shuffle=shuffle)
    data.set_epoch(1)
    positions = [(data.state_dict(), int(target["image_id"])) for _, target in data]
    whole = [number for _, number in positions]
    assert sorted(whole) == WANTED
    report = data.report
    for k, (state, _) in enumerate(positions):
        other = make(parquet, kind, shuffle=shuffle)
        other.load_state_dict(state)
        assert [int(target["image_id"]) for _, target in other] == whole[k + 1 :]
        assert other.report == report and other.epoch == 1


def test_positions_with_a_bound_and_bad_samples(parquet):
    """Reports go on where they were, in the middle of a window as well."""
    options = {"shuffle": 8, "max_samples": 20, "on_bad_sample": "skip"}

    def broken(row):
        return row | {"objects": row["objects"] | {"category": [99] if row["image_id"] % 5 == 0 else [1]}}

    def start():
        source = source_of(parquet, "parquet").map(broken, features=FEATURES)
        return COCOStreamDataset("train", img_size=16, source=source, metadata=True, **options)

    data = start()
    positions = [(data.state_dict(), int(target["image_id"])) for _, target in data]
    assert data.report.bad_samples > 3
    for k, (state, _) in enumerate(positions):
        other = start()
        other.load_state_dict(state)
        assert [int(target["image_id"]) for _, target in other] == [number for _, number in positions[k + 1 :]]
        assert other.report == data.report


def test_a_position_wins_over_an_epoch_that_is_set_and_refuses_other_settings(parquet):
    data = make(parquet, shuffle=4)
    state = [data.state_dict() for _ in zip(data, range(7), strict=False)][-1]
    other = make(parquet, shuffle=4)
    other.load_state_dict(state)
    other.set_epoch(3)
    rest = [int(target["image_id"]) for _, target in other]
    whole = [int(target["image_id"]) for _, target in make(parquet, shuffle=4)]
    assert rest == whole[7:]
    for options in ({"shuffle": 8}, {"shuffle": 4, "seed": 1}, {"shuffle": 4, "max_samples": 9}):
        with pytest.raises(ValueError, match="the position is of a stream with"):
            make(parquet, **options).load_state_dict(state)


def test_pictures_are_not_shuffled(parquet):
    """Red counts the rows."""
    data = make(parquet, shuffle=8)
    assert [image.getpixel((0, 0))[0] for image, _ in data.pictures()] == [
        i for part in range(FILES) for i in range(part, ROWS, FILES) if i in WANTED
    ]


def test_two_iterations_of_one_dataset_do_not_disturb_each_other(parquet):
    data = make(parquet)
    pairs = [(int(a["image_id"]), int(b["image_id"])) for (_, a), (_, b) in zip(data, data, strict=True)]
    assert [a for a, _ in pairs] == [b for _, b in pairs] and sorted(a for a, _ in pairs) == WANTED


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [0, 5])
@pytest.mark.parametrize("kind", ["parquet", "generator"])
def test_a_loader_goes_on_with_the_next_sample(parquet, kind, shuffle, workers):
    """Stopped at several batches of the first and of a later epoch, in the middle of files and windows."""
    for epoch in (0, 2):
        reference = make(parquet, kind, shuffle=shuffle)
        reference.set_epoch(epoch)
        whole = ids(loader(reference, workers))
        assert sorted(whole) == WANTED
        for stop in random.Random(epoch).sample(range(1, len(whole) // 3), 2):
            data = make(parquet, kind, shuffle=shuffle)
            data.set_epoch(epoch)
            first, before = loader(data, workers), []
            for batch in first:
                before += ids([batch])
                if len(before) >= 3 * stop:
                    break
            second = loader(make(parquet, kind, shuffle=shuffle), workers)
            second.dataset.set_epoch(epoch)
            second.load_state_dict(first.state_dict())
            del first
            assert before + ids(second) == whole


@pytest.mark.parametrize(
    ("name", "value"), [("shuffle", -1), ("seed", -1), ("retries", -1), ("on_bad_sample", "ignore")]
)
def test_impossible_options_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        COCOStreamDataset(**{name: value})


MEMORY = """
import gc, io, json, os, sys
from multiprocessing import active_children
import datasets
from PIL import Image
from torch.utils.data import DataLoader
from frcnn_common import COCOStreamDataset, frcnn_collate_fn

total = int(sys.argv[1])
picture = io.BytesIO()
Image.effect_noise((64, 48), 80).save(picture, "JPEG")
objects = {"bbox": [[1.0, 2, 30, 40]] * 7, "category": [3] * 7}

def rows(parts):
    for part in parts:
        for number in range(part, total, 4):
            yield {"image_id": number, "image": {"bytes": picture.getvalue(), "path": None}, "objects": objects}

def resident():
    pages = [int(open(f"/proc/{pid}/statm").read().split()[1]) for pid in ("self", *(p.pid for p in active_children()))]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")

source = datasets.IterableDataset.from_generator(rows, gen_kwargs={"parts": list(range(4))})
data = COCOStreamDataset(img_size=16, source=source, metadata=True, shuffle=64)
count, curve = 0, {}
for images, _ in DataLoader(data, 20, collate_fn=frcnn_collate_fn, num_workers=2):
    count += len(images)
    if count in (2_000, total - 40):
        curve[count] = resident()
print(json.dumps([count, *curve.values()]))
"""


@pytest.mark.parametrize(
    "total", [pytest.param(6_000, marks=pytest.mark.slow), pytest.param(22_000, marks=pytest.mark.long)]
)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_thousands_of_samples_leave_memory_flat(root, total):
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMORY, str(total)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=3600)
    count, before, after = json.loads(done.stdout)
    assert count == total and after < 1.05 * before
    print(f"{before / 1e6:.0f} MB after 2,000 samples, {after / 1e6:.0f} MB after {total - 40:,}")

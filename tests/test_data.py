"""The data set: split names, every sample exactly once, and no work twice."""

import io
import itertools
import json
import os
import pkgutil
import subprocess
import sys

import datasets
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data._utils.worker import WorkerInfo
from torchdata.stateful_dataloader import StatefulDataLoader

from frcnn_common import COCOStreamDataset, frcnn_collate_fn
from frcnn_common.data import Batches
from frcnn_common.hub import StreamError, labels_among
from frcnn_common.openmoji import draw_scene
from frcnn_common.samples import Augment


def make_rows(ids, size=(40, 20), boxes=None):
    for i in ids:
        picture = io.BytesIO()
        Image.new("RGB", size, (i % 256, 0, 0)).save(picture, "PNG")
        box = [[0.0, 0.0, 20.0, 10.0]] if boxes is None else list(boxes)
        objects = {"bbox": box, "category": [i % 80] * len(box)}
        yield {"image": {"bytes": picture.getvalue(), "path": None}, "image_id": i, "objects": objects}


def stream(count, shards=4, **options):
    return datasets.IterableDataset.from_generator(make_rows, gen_kwargs={"ids": list(range(count)), **options})


def ids_of(loader):
    return sorted(target["image_id"].item() for _, target in loader)


def samples(source, **options):
    return COCOStreamDataset("train", source=source, metadata=True, img_size=16, **options)


def test_boxes_are_scaled_and_clipped():
    rows = datasets.IterableDataset.from_generator(
        make_rows, gen_kwargs={"ids": [3], "size": (40, 20), "boxes": ([20.0, 10.0, 50.0, 20.0],)}
    )
    (image, target), *_ = COCOStreamDataset("train", img_size=80, source=rows)
    assert image.dtype == torch.float32 and image.shape == (3, 80, 80)
    assert set(target) == {"boxes", "labels"}
    assert target["boxes"].tolist() == [[40.0, 40.0, 80.0, 80.0]]
    assert target["labels"].dtype == torch.int64 and target["labels"].tolist() == [4]


def test_boxes_without_area_are_dropped_and_counted():
    rows = datasets.IterableDataset.from_generator(
        make_rows, gen_kwargs={"ids": [0], "boxes": ([5.0, 5, 5, 9], [0, 0, 9, 9])}
    )
    dataset = samples(rows)
    assert [len(target["boxes"]) for _, target in dataset] == [1]
    assert (dataset.report.dropped_boxes, dataset.report.skipped_images) == (1, 0)


def test_images_left_without_a_box_are_skipped():
    rows = datasets.IterableDataset.from_generator(make_rows, gen_kwargs={"ids": [0, 1], "boxes": ()})
    dataset = samples(rows)
    assert list(dataset) == [] and dataset.report.skipped_images == 2


def test_split_names(monkeypatch):
    asked = []

    def load_dataset(name, *, split, streaming, revision):
        asked.append((name, split, streaming))
        return stream(2)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("frcnn_common.data.ask_hub", lambda name: None)
    for split in ("train", "val", "validation"):
        assert len(list(COCOStreamDataset(split, img_size=16))) == 2
    assert asked == [("detection-datasets/coco", split, True) for split in ("train", "val", "val")]
    with pytest.raises(ValueError, match="'test'.*'train' and 'val'"):
        COCOStreamDataset("test")


@pytest.mark.parametrize("workers", [0, 1, 2, 4, 6])
def test_each_sample_once_over_workers(workers):
    rows = datasets.IterableDataset.from_generator(make_rows, gen_kwargs={"ids": list(range(24))})
    loader = DataLoader(samples(rows), batch_size=None, num_workers=workers)
    assert ids_of(loader) == list(range(24))


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("bound", [1, 7, 10])
def test_max_samples_bounds_the_whole(workers, bound):
    rows = datasets.IterableDataset.from_generator(make_rows, gen_kwargs={"ids": list(range(24))})
    loader = DataLoader(samples(rows, max_samples=bound), batch_size=None, num_workers=workers)
    ids = ids_of(loader)
    assert len(ids) == len(set(ids)) == bound


def test_max_samples_counts_what_is_yielded():
    rows = datasets.IterableDataset.from_generator(_every_other_empty, gen_kwargs={"ids": list(range(10))})
    assert [target["image_id"].item() for _, target in samples(rows, max_samples=3)] == [1, 3, 5]


def _every_other_empty(ids):
    for i in ids:
        yield from make_rows([i], boxes=None if i % 2 else [])


def test_max_samples_zero_yields_none():
    assert list(samples(stream(5), max_samples=0)) == []


def test_negative_max_samples_is_refused():
    with pytest.raises(ValueError, match="max_samples.*-1"):
        COCOStreamDataset(max_samples=-1)


RANK_CASES = [  # samples, bound, workers, shuffle
    (12, None, 0, 0),
    (13, None, 2, 0),
    (12, 5, 0, 0),
    (12, 6, 2, 0),
    (12, None, 2, 4),
    (13, None, 0, 4),
    (12, 5, 0, 4),
]
RANK_PROGRAM = """
import json, os, sys, torch, datasets
sys.path.insert(0, os.environ["TESTS"])
from test_data import RANK_CASES, make_rows, samples, ids_of
from torch.utils.data import DataLoader
torch.distributed.init_process_group("gloo", init_method="file://" + os.environ["MEET"],
                                     rank=int(sys.argv[1]), world_size=2)
for count, bound, workers, shuffle in RANK_CASES:
    rows = datasets.IterableDataset.from_generator(make_rows, gen_kwargs={"ids": list(range(count))})
    data = samples(rows, max_samples=bound, shuffle=shuffle)
    print(json.dumps(ids_of(DataLoader(data, batch_size=None, num_workers=workers))))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory):
    """By case: what each of two processes has seen."""
    environment = os.environ | {
        "TESTS": os.path.dirname(__file__),
        "MEET": str(tmp_path_factory.mktemp("ranks") / "meet"),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK_PROGRAM, str(n)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for n in range(2)
    ]
    seen = [[json.loads(line) for line in rank.communicate(timeout=3600)[0].splitlines()] for rank in ranks]
    return dict(zip(RANK_CASES, zip(*seen, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", RANK_CASES, ids=lambda case: "-".join(map(str, case)))
def test_each_sample_once_over_ranks(of_two_ranks, case):
    count, bound, *_ = case
    parts = of_two_ranks[case]
    together = sorted(parts[0] + parts[1])
    assert len(together) == len(set(together)) == (count if bound is None else bound)
    assert parts[0] and parts[1]


def test_collate_stacks_images_and_keeps_targets():
    batch = [(torch.zeros(3, 4, 5), {"boxes": torch.zeros(k, 4)}) for k in (0, 2)]
    images, targets = frcnn_collate_fn(batch)
    assert images.shape == (2, 3, 4, 5)
    assert isinstance(targets, list) and [len(target["boxes"]) for target in targets] == [0, 2]


def named_rows(ids):
    for row in make_rows(ids):
        objects = row["objects"]
        yield row | {"objects": objects | {"category": [c % 2 for c in objects["category"]]}}


def named_stream(names, count=4):
    features = datasets.Features({
        "image": datasets.Image(),
        "image_id": datasets.Value("int64"),
        "objects": {
            "bbox": datasets.List(datasets.List(datasets.Value("float64"))),
            "category": datasets.List(datasets.ClassLabel(names=names)),
        },
    })  # fmt: skip
    return datasets.IterableDataset.from_generator(
        named_rows, gen_kwargs={"ids": list(range(count))}, features=features
    )


def test_a_stream_has_its_own_class_names():
    data = samples(named_stream(["cup", "spoon"]))
    assert data.names == ("__background__", "cup", "spoon")
    assert [target["labels"].tolist() for _, target in data] == [[1], [2], [1], [2]]


@pytest.mark.parametrize("skip", ["raise", "skip"])
def test_classes_are_found_by_name(skip):
    """Those of the source may be fewer, and in another order."""
    names = ("__background__", "spoon", "fork", "cup")
    data = samples(named_stream(["cup", "spoon"]), names=names, on_bad_sample=skip)
    assert data.names == names and [target["labels"].tolist() for _, target in data] == [[3], [1], [3], [1]]
    assert [target["labels"].tolist() for _, target in data.pictures()] == [[3], [1], [3], [1]]
    with pytest.raises(ValueError, match="other classes: cup; expected are spoon, fork"):
        samples(named_stream(["cup", "spoon"]), names=names[:3])


def test_of_two_classes_with_one_name_each_is_itself():
    data = samples(named_stream(["cup", "spoon"]).cast(named_stream(["a", "b"]).features), names=("", "a", "b"))
    assert [target["labels"].tolist() for _, target in data] == [[1], [2], [1], [2]]
    assert labels_among(("", "cup", "cup"), ("", "cup", "cup"), "it")[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("count", "files", "workers"), [(7, 1, 0), (30, 4, 2), (30, 4, 3), (5, 4, 3), (12, 12, 4)])
def test_every_sample_comes_once_in_each_pass_whatever_the_batches(count, files, workers):
    """Also where there are fewer samples than a batch takes, or fewer in each worker."""
    size, passes, seen = 8, 8, []
    rows = datasets.IterableDataset.from_generator(rows_of_files, gen_kwargs={"files": deal(count, files)})
    of_samples = StatefulDataLoader(samples(rows, shuffle=4), None, collate_fn=Batches.pack, num_workers=workers)
    loader = Batches(of_samples, size)
    for epoch in range(passes):
        loader.dataset.set_epoch(epoch)
        for images, targets in loader:
            assert len(images) == len(targets) == size
            seen += [int(target["image_id"]) for target in targets]
    assert len(seen) == count * passes // size * size
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_a_batch_of_packed_samples_is_the_batch():
    data = samples(stream(4))
    images, targets = frcnn_collate_fn(list(data))
    (packed, others), *_ = Batches(StatefulDataLoader(data, None, collate_fn=Batches.pack, num_workers=1), 4)
    assert torch.equal(packed, images)
    for target, other in zip(targets, others, strict=True):
        assert target.keys() == other.keys()
        assert all(torch.equal(target[key], other[key]) and target[key].dtype == other[key].dtype for key in target)


def rows_of_files(files):
    for file in files:
        yield from make_rows(file)


def deal(count, files):
    return [list(range(file, count, files)) for file in range(files)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_on_after_any_batch(workers):
    """Over the end of a pass as well: of 10 samples, the third batch of 4 begins in one pass and ends in the next."""
    rows = datasets.IterableDataset.from_generator(rows_of_files, gen_kwargs={"files": deal(10, 2)})

    def start():
        data = samples(rows, shuffle=3)
        return Batches(StatefulDataLoader(data, None, num_workers=workers), 4)

    def endless(loader, epoch):
        while True:
            loader.dataset.set_epoch(epoch)
            for _, targets in loader:
                yield [int(target["image_id"]) for target in targets], (loader.state_dict(), epoch)
            epoch += 1

    whole = list(itertools.islice(endless(start(), 0), 9))
    for stop, (_, (state, epoch)) in enumerate(whole[:6]):
        loader = start()
        loader.load_state_dict(state)
        again = itertools.islice(endless(loader, epoch), 3)
        assert [ids for ids, _ in again] == [ids for ids, _ in whole[stop + 1 : stop + 4]]


def test_augmentation_depends_on_image_and_epoch_alone():
    source = stream(12)
    data = COCOStreamDataset(img_size=16, source=source, metadata=True, augment=Augment())

    def mirrored(workers, epoch):
        data.set_epoch(epoch)
        loader = DataLoader(data, 2, collate_fn=frcnn_collate_fn, num_workers=workers)
        return {int(t["image_id"]): t["boxes"][0, 0].item() > 0 for _, targets in loader for t in targets}

    first = mirrored(0, 0)
    assert len(set(first.values())) == 2 and first == mirrored(2, 0) == mirrored(0, 0) != mirrored(0, 1)


def test_the_hub_is_asked_before_anything_else_and_never_again(monkeypatch):
    """A Hub that is away at the beginning of a later epoch, or of a run that goes on, gets the usual patience."""

    def nobody(name):
        raise ConnectionError("nobody there")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream(3))
    monkeypatch.setattr("frcnn_common.data.ask_hub", nobody)
    data = COCOStreamDataset(img_size=16)
    with pytest.raises(StreamError, match="nobody there. Without a network"):
        next(iter(data))
    data.set_epoch(1)
    assert len(list(data)) == 3
    resumed = COCOStreamDataset(img_size=16)
    resumed.load_state_dict([data.state_dict() for _ in zip(data, range(2), strict=False)][-1])
    assert len(list(resumed)) == 1
    assert len(list(COCOStreamDataset(img_size=16, retries=1))) == 3


class Counter:
    """How often a function is called from now on."""

    def __init__(self, monkeypatch, name):
        target, attribute = name.rsplit(".", 1)
        self.calls, function = 0, getattr(pkgutil.resolve_name(target), attribute)

        def counting(*args, **options):
            self.calls += 1
            return function(*args, **options)

        monkeypatch.setattr(name, counting)


@pytest.fixture
def work(monkeypatch):
    """Counters of what a row costs: reading its header, cleaning its boxes, decoding its picture."""
    names = {
        "headers": "PIL.Image.open",
        "cleanings": "frcnn_common.samples.clean_boxes",
        "decodings": "PIL.ImageFile.ImageFile.load_prepare",
    }
    return {key: Counter(monkeypatch, name) for key, name in names.items()}


def done(work):
    counts = [counter.calls for counter in work.values()]
    for counter in work.values():
        counter.calls = 0
    return counts


def picture_bytes(damaged=False):
    file = io.BytesIO()
    Image.effect_noise((40, 20), 80).save(file, "PNG")
    return file.getvalue()[: 400 if damaged else None]


def mixed_rows(ids):
    """Every fourth has no box; of every fourth, two later, the picture ends too early."""
    for i in ids:
        objects = {"bbox": [[0.0, 0, 9, 9]] if i % 4 else [], "category": [1] if i % 4 else []}
        yield {"image_id": i, "image": {"bytes": picture_bytes(i % 4 == 2), "path": None}, "objects": objects}


@pytest.mark.parametrize("shuffle", [0, 5])
@pytest.mark.parametrize("options", [{}, {"on_bad_sample": "skip"}, {"augment": Augment()}, {"keep_empty": True}])
@pytest.mark.parametrize("bound", [None, 20, 7])
def test_nothing_is_done_twice(work, options, shuffle, bound):
    """Twenty good rows; of a bounded stream, no row is opened that is not needed."""
    data = samples(stream(20), shuffle=shuffle, max_samples=bound, **options)
    count = len(list(data))
    assert count == (bound or 20) and done(work) == [count] * 3
    assert len(list(data.pictures())) == count and done(work) == [count] * 3


@pytest.mark.parametrize("shuffle", [0, 5])
@pytest.mark.parametrize(("keep_empty", "good"), [(False, 10), (True, 15)])
def test_nothing_is_done_twice_for_rows_that_are_left_out(work, shuffle, keep_empty, good):
    rows = datasets.IterableDataset.from_generator(mixed_rows, gen_kwargs={"ids": list(range(20))})
    options = {"on_bad_sample": "skip", "shuffle": shuffle, "keep_empty": keep_empty}
    data = samples(rows, **options)
    assert len(list(data)) == good and done(work) == [20, 20, good + 5]
    assert (data.report.bad_samples, data.report.skipped_images) == (5, 20 - 5 - good)
    first = samples(rows, max_samples=4, **options)
    ids = [int(target["image_id"]) for _, target in first]
    last = max(ids)
    assert sorted(ids) == [i for i in range(last + 1) if i % 4 in ((0, 1, 3) if keep_empty else (1, 3))]
    assert done(work) == [last + 1, last + 1, 4 + sum(i % 4 == 2 for i in range(last))]


def test_a_folder_is_opened_once(work, tmp_path):
    """Pictures with COCO's JSON beside them, whose rows hold the paths of files."""
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cup"}]}
    for n in range(20):
        (tmp_path / f"{n}.png").write_bytes(picture_bytes())
        document["images"].append({"id": n, "file_name": f"{n}.png", "width": 40, "height": 20})
        document["annotations"].append({"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 9, 9]})
    (tmp_path / "train.json").write_text(json.dumps(document))
    for options in ({}, {"on_bad_sample": "skip"}, {"on_bad_sample": "skip", "max_samples": 20, "shuffle": 6}):
        assert len(list(samples(tmp_path, **options))) == 20 and done(work) == [20] * 3


@pytest.mark.parametrize(("shuffle", "bound"), [(0, None), (6, None), (6, 20)])
def test_windows_hold_undecoded_rows(work, shuffle, bound):
    """When the first sample comes, its window is read, and one picture decoded."""
    next(iter(samples(stream(20), shuffle=shuffle, max_samples=bound)))
    assert done(work) == [max(1, shuffle) if bound else 1] * 2 + [1]


@pytest.mark.parametrize("workers", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("bound", [1, 6, 9])
def test_a_bound_counts_good_rows_over_workers(workers, bound):
    """Four files of ten rows, half of which are good: at most five from each."""
    rows = datasets.IterableDataset.from_generator(mixed_rows_of, gen_kwargs={"files": [0, 1, 2, 3]})
    data = samples(rows, max_samples=bound, on_bad_sample="skip", shuffle=3)
    ids = ids_of(DataLoader(data, batch_size=None, num_workers=workers))
    assert len(ids) == len(set(ids)) == bound and all(i % 2 for i in ids)


def mixed_rows_of(files):
    for file in files:
        yield from mixed_rows(range(10 * file, 10 * file + 10))


@pytest.mark.parametrize("files", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [None, 1, 2, 4])
@pytest.mark.parametrize("bound", [None, 0, 5, 7, 100])
def test_ranks_and_workers_share_everything(monkeypatch, files, ranks, workers, bound):
    """Whatever the numbers: each process by itself, in this one, and all of them together have each sample once."""
    rows = datasets.IterableDataset.from_generator(mixed_rows_of, gen_kwargs={"files": list(range(files))})
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: ranks > 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
    ids, left_out = [], 0
    for rank, worker in itertools.product(range(ranks), range(workers or 1)):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        info = None if workers is None else WorkerInfo(id=worker, num_workers=workers, seed=0, dataset=None)
        monkeypatch.setattr("torch.utils.data._utils.worker._worker_info", info)
        data = samples(rows, max_samples=bound, on_bad_sample="skip")
        ids += [int(target["image_id"]) for _, target in data]
        left_out += data.report.bad_samples + data.report.skipped_images
    good = [i for i in range(10 * files) if i % 2]
    assert len(ids) == len(set(ids)) and set(ids) <= set(good)
    if bound is None or bound >= len(good):
        assert sorted(ids) == good and left_out == 5 * files
    elif files % ranks or files <= (workers or 1):  # a file may hold less than its share of the bound
        assert len(ids) <= bound
    else:
        assert len(ids) == bound


def test_the_source_is_left_alone():
    """It may be read by others: its epoch, order and place are what they were."""
    source = stream(9)
    data = samples(source, shuffle=4)
    data.set_epoch(2)
    place = [data.state_dict() for _ in zip(data, range(5), strict=False)][-1]
    data.load_state_dict(place)
    assert len(list(data)) == 4
    assert [row["image_id"] for row in source] == list(range(9)) and source.epoch == 0


def test_pictures_of_any_shape_make_one_batch_and_their_sizes_go_along():
    rows = [draw_scene(number, longest=64) for number in range(4)]
    source = datasets.IterableDataset.from_generator(lambda: iter(rows))
    data = COCOStreamDataset(img_size=48, source=source, keep_aspect=True)
    images, targets = frcnn_collate_fn(list(data))
    assert images.shape == (4, 3, 48, 48)
    for image, target, given in zip(images, targets, rows, strict=True):
        height, width = target["size"].tolist()
        assert max(height, width) == 48
        assert width / height == pytest.approx(given["width"] / given["height"], rel=0.02)
        assert image[:, height:].count_nonzero() == image[:, :, width:].count_nonzero() == 0
        assert (target["boxes"] <= torch.tensor([width, height] * 2)).all()
        packed = Batches.pack((image, target))[1]
        assert packed["size"].tolist() == [height, width]


def test_a_table_of_rows_is_a_stream_of_them():
    """A `datasets.Dataset` as well as an `IterableDataset`, with workers, and in its own order without."""
    table = datasets.Dataset.from_list(list(make_rows(range(20)))).cast_column("image", datasets.Image())
    data = samples(table, shuffle=0)
    assert [target["image_id"].item() for _, target in data] == list(range(20))
    assert ids_of(DataLoader(data, batch_size=None, num_workers=2)) == list(range(20))
    with pytest.raises(TypeError, match="source must be .* with rows .* got a Dataset"):
        samples(table.select([]))


@pytest.mark.parametrize(
    "source", [list(make_rows([1])), None, datasets.DatasetDict(), torch.utils.data.TensorDataset(torch.zeros(2))]
)
def test_another_source_is_refused_with_what_to_do(source):
    told = f"source must be a folder, .* datasets.IterableDataset .* got a {type(source).__name__}"
    with pytest.raises(TypeError, match=told):
        COCOStreamDataset("train", source=source)


@pytest.mark.parametrize(
    "name",
    ["/home/ada/pictrues", "./pictrues", "../pictrues", "~/pictrues", "my pictrues", "a/b/c", "pictrues/", "FILE"],
)
def test_a_path_with_a_typing_error_asks_nobody(tmp_path, monkeypatch, name):
    (tmp_path / "FILE").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("frcnn_common.data.ask_hub", pytest.fail)
    with pytest.raises(FileNotFoundError, match=f"no folder {name}"):
        next(iter(COCOStreamDataset("train", source=name)))

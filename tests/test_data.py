"""The stream: format, split names, and every sample exactly once."""

import io
import os
import subprocess
import sys

import datasets
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from frcnn_common import COCOStreamDataset, frcnn_collate_fn
from frcnn_common.data import Augment, clean_boxes, denormalize, normalize
from frcnn_common.rows import StreamError


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


def test_boxes_are_corners():
    """The documented row of image 9, 640 × 480: read as x y w h, this box would end at y = 661."""
    row = {"image_id": 9, "objects": {"bbox": [[1.08, 187.69, 612.67, 473.53]], "category": [45]}}
    target, dropped, clipped = clean_boxes(row, (480, 640))
    torch.testing.assert_close(target["boxes"], torch.tensor([[1.08, 187.69, 612.67, 473.53]]))
    assert target["labels"].tolist() == [46] and (dropped, clipped) == (0, 0)


def test_boxes_are_scaled_and_clipped():
    rows = datasets.IterableDataset.from_generator(
        make_rows, gen_kwargs={"ids": [3], "size": (40, 20), "boxes": ([20.0, 10.0, 50.0, 20.0],)}
    )
    (image, target), *_ = COCOStreamDataset("train", img_size=80, source=rows)
    assert image.dtype == torch.float32 and image.shape == (3, 80, 80)
    assert set(target) == {"boxes", "labels"}
    assert target["boxes"].tolist() == [[40.0, 40.0, 80.0, 80.0]]
    assert target["labels"].dtype == torch.int64 and target["labels"].tolist() == [4]


def test_pixels_are_pillows_bicubic_and_normalized():
    picture = Image.effect_noise((30, 20), 80).convert("RGB")
    rows = datasets.IterableDataset.from_generator(_one_row, gen_kwargs={"pictures": [picture]})
    image = next(iter(COCOStreamDataset(img_size=24, source=rows)))[0]
    expected = picture.resize((24, 24), Image.Resampling.BICUBIC)
    bytes_back = (denormalize(image) * 255).round().byte().permute(1, 2, 0).numpy()
    assert bytes_back.tobytes() == expected.tobytes()


def _one_row(pictures):
    for picture in pictures:
        yield {"image": picture, "image_id": 0, "objects": {"bbox": [[0.0, 0, 9, 9]], "category": [0]}}


def test_normalize_by_hand():
    white = normalize(torch.ones(3, 1, 1)).flatten()
    torch.testing.assert_close(white, torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))


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


@pytest.mark.parametrize(
    ("box", "category", "message"),
    [
        ([300.0, 190.0, 280.0, 250.0], 0, "image 9.*reversed"),
        ([float("nan"), 0.0, 1.0, 1.0], 0, "image 9.*not finite"),
        ([700.0, 0.0, 710.0, 1.0], 0, "image 9.*outside the image of 640×480"),
        ([0.0, 0.0, 1.0, 1.0], 80, "image 9: category outside 0…79: 80"),
    ],
)
def test_impossible_boxes_are_refused_by_name(box, category, message):
    with pytest.raises(ValueError, match=message):
        clean_boxes({"image_id": 9, "objects": {"bbox": [box], "category": [category]}}, (480, 640))


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


RANK_PROGRAM = """
import os, sys, torch, datasets
sys.path.insert(0, os.environ["TESTS"])
from test_data import make_rows, samples, ids_of
from torch.utils.data import DataLoader
torch.distributed.init_process_group("gloo", init_method="file://" + os.environ["MEET"],
                                     rank=int(sys.argv[1]), world_size=2)
rows = datasets.IterableDataset.from_generator(make_rows, gen_kwargs={"ids": list(range(int(sys.argv[2])))})
bound = None if sys.argv[3] == "None" else int(sys.argv[3])
data = samples(rows, max_samples=bound, shuffle=int(sys.argv[5]))
print(ids_of(DataLoader(data, batch_size=None, num_workers=int(sys.argv[4]))))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "bound", "workers", "shuffle"),
    [
        (12, None, 0, 0),
        (13, None, 2, 0),
        (12, 5, 0, 0),
        (12, 6, 2, 0),
        (12, None, 2, 4),
        (13, None, 0, 4),
        (12, 5, 0, 4),
    ],
)
def test_each_sample_once_over_ranks(tmp_path, count, bound, workers, shuffle):
    environment = os.environ | {"TESTS": os.path.dirname(__file__), "MEET": str(tmp_path / "meet")}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK_PROGRAM, *map(str, (rank, count, bound, workers, shuffle))],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    parts = [eval(rank.communicate(timeout=3600)[0]) for rank in ranks]
    together = sorted(parts[0] + parts[1])
    assert len(together) == len(set(together)) == (count if bound is None else bound)
    assert parts[0] and parts[1]


def test_collate_stacks_images_and_keeps_targets():
    batch = [(torch.zeros(3, 4, 5), {"boxes": torch.zeros(k, 4)}) for k in (0, 2)]
    images, targets = frcnn_collate_fn(batch)
    assert images.shape == (2, 3, 4, 5)
    assert isinstance(targets, list) and [len(target["boxes"]) for target in targets] == [0, 2]


def square_sample():
    """A white square on black, and its box."""
    image = torch.zeros(3, 32, 32)
    image[:, 4:12, 2:10] = 1
    return image, {"boxes": torch.tensor([[2.0, 4, 10, 12]]), "labels": torch.tensor([5])}


def test_mirrored_by_hand():
    image, target = Augment(flip=1.0)(*square_sample())
    assert target["boxes"].tolist() == [[22.0, 4.0, 30.0, 12.0]] and target["labels"].tolist() == [5]
    assert torch.equal(image, square_sample()[0].flip(2))


@pytest.mark.parametrize("seed", range(20))
def test_boxes_go_along_with_the_picture(seed):
    torch.manual_seed(seed)
    image, target = Augment(scales=(0.5, 2.0))(*square_sample())
    assert image.shape == (3, 32, 32) and len(target["boxes"]) == len(target["labels"])
    bright = (image[0] > 0.5).nonzero()
    if len(target["boxes"]) == 0:
        assert len(bright) == 0
    else:
        seen = torch.cat([bright.amin(0).flip(0), bright.amax(0).flip(0) + 1]).float()
        assert (target["boxes"][0] - seen).abs().max() <= 1
        assert target["boxes"].min() >= 0 and target["boxes"].max() <= 32


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


def test_a_mistake_is_not_tried_again(monkeypatch):
    """A wrong split, or other classes: at once, and without the advice to be patient."""
    monkeypatch.setattr("frcnn_common.data.ask_hub", lambda name: None)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))

    def bad_split(*_, **__):
        raise ValueError('Bad split: val. Available splits: ["train"]')

    monkeypatch.setattr(datasets, "load_dataset", bad_split)
    with pytest.raises(StreamError, match="Bad split: val.*Are the name, the split and the revision right"):
        next(iter(COCOStreamDataset("val")))
    other = datasets.Features({"objects": {"category": datasets.List(datasets.ClassLabel(names=["Mask", "Gloves"]))}})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream(1).cast(other))
    with pytest.raises(StreamError, match="not COCO's classes but .*'Mask', 'Gloves'"):
        next(iter(COCOStreamDataset(source="somebody/masks")))

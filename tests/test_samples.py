"""What a row can hold: it becomes a sample, is left out and counted, or is refused by name."""

import io
import itertools
import os
import struct
import subprocess
import sys
import zlib

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frcnn_common import COCOStreamDataset
from frcnn_common.samples import (
    Augment,
    BadSample,
    OpenRow,
    clean_boxes,
    denormalize,
    input_size,
    normalize,
    to_input,
    to_rgb,
    to_sample,
)

ORIENTATION = 0x0112


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def row(data, boxes=((0, 0, 1, 1),), category=(0,), **columns):
    """A row with the bytes of a picture."""
    objects = {"bbox": [list(map(float, box)) for box in boxes], "category": list(category)}
    return {"image_id": 5, "image": {"bytes": data, "path": None}, "objects": objects} | columns


def rows_of(rows):
    yield from rows


def dataset(*rows, **options):
    stream = datasets.IterableDataset.from_generator(rows_of, gen_kwargs={"rows": list(rows)})
    return COCOStreamDataset(source=stream, **({"img_size": 8} | options))


def pixels(sample):
    """The 8-bit pixels of a sample, `[H, W, 3]`."""
    return (denormalize(sample[0]) * 255).round().byte().permute(1, 2, 0)


def halves(mode, left, right):
    image = Image.new(mode, (8, 8), left)
    image.paste(right, (4, 0, 8, 8))
    return image


def palette():
    return halves("RGB", (255, 0, 0), (0, 0, 255)).convert("P", palette=Image.Palette.ADAPTIVE)


def transparent_palette():
    image = halves("P", 0, 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.info["transparency"] = bytes([0, 255])
    return image


def sixteen_bits():
    return Image.fromarray(np.repeat([[0, 257 * 100] * 4], 8, axis=0).astype(np.uint16)[:, [0, 0, 0, 0, 1, 1, 1, 1]])


RED, BLUE = [255, 0, 0], [0, 0, 255]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("image", "kind", "options", "left", "right"),
    [
        (halves("L", 10, 200), "PNG", {}, [10] * 3, [200] * 3),
        (halves("1", 0, 1), "PNG", {}, [0] * 3, [255] * 3),
        (halves("LA", (10, 0), (200, 255)), "PNG", {}, [10] * 3, [200] * 3),
        (palette(), "PNG", {}, RED, BLUE),
        (transparent_palette(), "PNG", {"transparency": bytes([0, 255])}, RED, BLUE),
        (halves("RGBA", (255, 0, 0, 0), (0, 0, 255, 255)), "PNG", {}, RED, BLUE),
        (halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "TIFF", {}, RED, BLUE),
        (sixteen_bits(), "PNG", {}, [0] * 3, [100] * 3),
        (sixteen_bits(), "TIFF", {}, [0] * 3, [100] * 3),
        (palette(), "GIF", {"save_all": True, "append_images": [Image.new("P", (8, 8))]}, RED, BLUE),
        (halves("RGB", (255, 0, 0), (0, 0, 255)), "WEBP", {"lossless": True}, RED, BLUE),
    ],
    ids=[
        "gray",
        "bits",
        "gray+alpha",
        "palette",
        "palette+alpha",
        "alpha",
        "cmyk",
        "16bit",
        "16bit-tiff",
        "animated",
        "webp",
    ],
)
def test_pictures_of_every_mode(image, kind, options, left, right):
    seen = pixels(next(iter(dataset(row(encoded(image, kind, **options))))))
    assert seen[4, 1].tolist() == left and seen[4, 6].tolist() == right


def test_a_jpeg_in_four_colors_is_close():
    seen = pixels(next(iter(dataset(row(encoded(halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "JPEG"))))))
    assert (seen[4, 0].int() - torch.tensor(RED)).abs().max() < 12
    assert (seen[4, 7].int() - torch.tensor(BLUE)).abs().max() < 12


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000), (3, 2)])
def test_pictures_of_every_size(size):
    image, target = next(iter(dataset(row(encoded(Image.new("RGB", size, (9, 9, 9))), [(0, 0, *size)]))))
    assert image.shape == (3, 8, 8) and image.isfinite().all()
    assert target["boxes"].tolist() == [[0, 0, 8, 8]]


def turned(orientation):
    """A picture that is 8 wide and 4 high when it is shown, with a white left upper corner, stored otherwise."""
    shown = Image.new("RGB", (8, 4))
    shown.paste((255, 255, 255), (0, 0, 2, 2))
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Pillow's number of the inverse
    stored = shown if undo is None else shown.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(stored, "PNG", exif=exif), stored.size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("said", [False, True])
def test_boxes_are_in_the_picture_as_it_is_shown(orientation, said):
    """By the EXIF data alone, and if width and height say the same."""
    data, _ = turned(orientation)
    columns = {"width": 8, "height": 4} if said else {}
    sample = next(iter(dataset(row(data, [(0, 0, 2, 2)], **columns), metadata=True)))
    assert sample[1]["orig_size"].tolist() == [4, 8] and sample[1]["boxes"].tolist() == [[0, 0, 2, 4]]
    bright = pixels(sample)[..., 0] > 127
    assert bright[0, 0] and not bright[0, 7] and not bright[7, 0] and not bright[7, 7]


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_none(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert next(iter(dataset(row(data), metadata=True)))[1]["orig_size"].tolist() == [4, 8]


def test_a_reader_who_wants_every_picture_gets_it(monkeypatch):
    """`MAX_IMAGE_PIXELS = None` is how Pillow is told so."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert len(list(dataset(row(encoded(Image.new("1", (9_500, 9_500))))))) == 1


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_width_and_height_of_the_row_decide(orientation):
    """Boxes that were drawn into the stored pixels are in a picture that lies on its side: so it stays."""
    data, (width, height) = turned(orientation)
    sample = next(iter(dataset(row(data, [(0, 0, 2, 4)], width=width, height=height), metadata=True)))
    assert (width, height) == (4, 8) and sample[1]["orig_size"].tolist() == [8, 4]
    stored = Image.open(io.BytesIO(data)).convert("RGB").resize((8, 8), Image.Resampling.BICUBIC)
    assert torch.equal(pixels(sample), torch.from_numpy(np.array(stored)))
    image, target = next(dataset(row(data, [(0, 0, 2, 4)], width=width, height=height)).pictures())
    assert image.size == (4, 8) and target["boxes"].tolist() == [[0, 0, 2, 4]]


def bomb():
    """A PNG of a hundred bytes that asks for 10 gigapixels."""
    data = bytearray(encoded(Image.new("L", (1, 1))))
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


PNG = encoded(Image.effect_noise((40, 40), 90))
JPEG = encoded(Image.effect_noise((40, 40), 90), "JPEG")
BAD_ROWS = {
    "truncated png": (row(PNG[: len(PNG) // 2]), "image 5: the picture cannot be decoded.*truncated"),
    "truncated jpeg": (row(JPEG[: len(JPEG) // 2]), "image 5: the picture cannot be decoded.*truncated"),
    "zero bytes": (row(b""), "image 5: no picture: its bytes are of no known format"),
    "not an image": (row(b"<html>Not found</html>"), "image 5: no picture: its bytes are of no known format"),
    "bomb": (row(bomb()), "image 5: .*10000000000 pixels"),
    "large bomb by a little": (row(encoded(Image.new("1", (9_500, 9_500)))), "image 5: 9500×9500 pixels are more than"),
    "float pixels": (row(encoded(Image.new("F", (4, 4)), "TIFF")), "image 5: .*floating-point"),
    "no image": (row(PNG, image=None), "image 5: no picture"),
    "missing file": (row(PNG, image={"bytes": None, "path": "nowhere.jpg"}), "image 5 \\(nowhere.jpg\\): no picture"),
    "other size": (row(PNG, width=80, height=40), "image 5: the picture has 40×40 pixels, the row says 80×40"),
    "reversed": (row(PNG, [(9, 9, 3, 12)]), r"image 5: box is not x1 y1 x2 y2.*\[9.0, 9.0, 3.0, 12.0\]"),
    "nan": (row(PNG, [(0, 0, float("nan"), 1)]), "image 5: box is not finite"),
    "infinite": (row(PNG, [(0, 0, float("inf"), 1)]), "image 5: box is not finite"),
    "too large for float32": (row(PNG, [(0, 0, 1e39, 1)]), "image 5: box is not finite"),
    "outside": (row(PNG, [(41, 0, 50, 9)]), "image 5: box lies outside the image of 40×40"),
    "category 80": (row(PNG, category=[80]), "image 5: category outside 0…79: 80"),
    "category -1": (row(PNG, category=[-1]), "image 5: category outside 0…79: -1"),
    "category 1.5": (row(PNG, category=[1.5]), "image 5: a category is no integer"),
    "category None": (row(PNG, category=[None]), "image 5: objects.'category'.*no number"),
    "more boxes": (row(PNG, [(0, 0, 1, 1)] * 2), "image 5: lists of different length: .*'bbox': 2, 'category': 1"),
    "three numbers": (row(PNG, [(0, 0, 1)]), r"image 5: objects.'bbox'. has the shape \[1, 3\], expected \[K, 4\]"),
    "ragged": (row(PNG, [(0, 0, 1, 1), (0, 0)], [0, 0]), "image 5: objects.'bbox'.*no number"),
    "words": (row(PNG, objects={"bbox": [["a"] * 4], "category": [0]}), "image 5: objects.'bbox'.*no number"),
    "bbox None": (row(PNG, objects={"bbox": None, "category": [0]}), "image 5: no list objects.'bbox'"),
    "no category": (row(PNG, objects={"bbox": []}), "image 5: no list objects.'category'"),
    "no objects": (row(PNG, objects=None), "image 5: no list objects.'bbox'"),
    "list of objects": (
        row(PNG, objects=[{"bbox": [0, 0, 1, 1]}]),
        "image 5: objects must be a dict of lists, got a list",
    ),
    "huge number": (
        row(PNG, objects={"bbox": [[0, 0, 10**400, 1]], "category": [0]}),
        "image 5: objects.'bbox'.*no number",
    ),
    "no image_id": (row(PNG, image_id=None), "image None: image_id is None, expected an integer"),
}


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_refused_by_name(name):
    bad, message = BAD_ROWS[name]
    with pytest.raises(BadSample, match=message):
        list(dataset(bad, metadata=True))


def good_and_bad_rows():
    """They take turns; the good ones have the numbers from 100 on."""
    return [r for n, (bad, _) in enumerate(BAD_ROWS.values()) for r in (bad, row(PNG, image_id=100 + n))]


GOOD = [100 + n for n in range(len(BAD_ROWS))]


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_bad_rows_are_skipped_counted_and_told_at_the_end(caplog):
    data = dataset(*good_and_bad_rows(), metadata=True, on_bad_sample="skip")
    for epoch in range(2):
        data.set_epoch(epoch)
        assert [int(target["image_id"]) for _, target in data] == GOOD
        assert data.report.bad_samples == len(BAD_ROWS) and len(data.report.culprits) == 10
        told = caplog.messages[-1]
        assert f"epoch {epoch}, bad samples skipped: {len(BAD_ROWS)}, " in told and told.count("image 5") == 10
    assert len(caplog.messages) == 2


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_bad_rows_are_told_if_the_reader_leaves_in_the_middle(caplog):
    data = dataset(*good_and_bad_rows(), metadata=True, on_bad_sample="skip")
    assert len(list(itertools.islice(data, 3))) == 3 and "bad samples skipped: 3, " in caplog.messages[-1]
    pictures = data.pictures()
    assert len([next(pictures) for _ in range(5)]) == 5
    pictures.close()
    assert "bad samples skipped: 5, " in caplog.messages[-1]


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_a_bound_counts_good_rows_alone():
    data = dataset(*good_and_bad_rows(), metadata=True, on_bad_sample="skip", max_samples=4)
    assert [int(target["image_id"]) for _, target in data] == GOOD[:4]


WORKERS = """
from torch.utils.data import DataLoader
from test_samples import dataset, good_and_bad_rows
data = dataset(*good_and_bad_rows(), metadata=True, on_bad_sample="skip")
print([int(target["image_id"]) for _, target in DataLoader(data, batch_size=None, num_workers=2)])
"""


@pytest.mark.slow
def test_workers_tell_of_bad_rows_as_well(root):
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    command = [sys.executable, "-c", WORKERS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=3600)
    assert done.stdout == f"{GOOD}\n" and f"bad samples skipped: {len(BAD_ROWS)}, " in done.stderr


def test_real_boxes_are_dropped_and_clipped_and_counted():
    boxes = [(-3, 2, 10, 9), (5, 5, 5, 9), (30, 30, 44, 40.4), (40, 0, 45, 9), (1, 1, 2, 2)]
    data = dataset(row(PNG, boxes, range(5)), img_size=40)
    (_, target), *_ = data
    assert target["boxes"].tolist() == [[0, 2, 10, 9], [30, 30, 40, 40], [1, 1, 2, 2]]
    assert target["labels"].tolist() == [1, 3, 5]
    assert (data.report.dropped_boxes, data.report.clipped_boxes) == (2, 2)


def test_thousands_of_boxes_and_none():
    many = [(i % 30, i % 29, i % 30 + 5, i % 29 + 7) for i in range(5000)]
    (_, target), *rest = dataset(row(PNG, many, [3] * 5000), row(PNG, [], []), img_size=40)
    assert rest == [] and len(target["boxes"]) == 5000
    torch.testing.assert_close(target["boxes"], torch.tensor(many).float())
    empty = list(dataset(row(PNG, [], []), row(PNG, [(5, 5, 5, 9)]), keep_empty=True))
    assert [sample[1]["boxes"].shape for sample in empty] == [(0, 4), (0, 4)]


def test_crowds_are_ground_truth_in_evaluation_alone():
    crowd = row(PNG, [(0, 0, 9, 9), (9, 9, 30, 30)], [0, 1])
    crowd["objects"]["iscrowd"] = [0, 1]
    assert [len(target["boxes"]) for _, target in dataset(crowd, metadata=True)] == [1]
    (_, target), *_ = dataset(crowd, split="val", metadata=True)
    assert target["iscrowd"].tolist() == [False, True] and target["labels"].tolist() == [1, 2]


@settings(max_examples=300)
@given(data=st.binary(max_size=400), cut=st.integers(0, 400))
def test_arbitrary_bytes_are_a_picture_or_refused(data, cut):
    """Any bytes, also behind the beginning of a real file."""
    for content in (data, PNG[:cut] + data, JPEG[:cut] + data):
        try:
            (image, _), *_ = dataset(row(content))
            assert image.shape == (3, 8, 8) and image.isfinite().all()
        except BadSample as error:
            assert "image 5" in str(error)


number = st.floats(width=32) | st.floats(-50, 150, width=32) | st.integers(-10, 90)


@settings(max_examples=500)
@given(boxes=st.lists(st.lists(number, min_size=4, max_size=4), max_size=5), format=st.sampled_from(["xyxy", "xywh"]))
def test_arbitrary_boxes_are_in_the_image_or_refused(boxes, format):
    objects = {"bbox": boxes, "category": [1] * len(boxes)}
    try:
        target, dropped, clipped = clean_boxes({"image_id": 5, "objects": objects}, (60, 100), box_format=format)
    except BadSample as error:
        assert "image 5" in str(error)
        return
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    assert (x1 >= 0).all() and (x1 < x2).all() and (x2 <= 100).all()
    assert (y1 >= 0).all() and (y1 < y2).all() and (y2 <= 60).all()
    assert len(target["boxes"]) + dropped == len(boxes) and clipped <= len(target["boxes"])
    resized = target["boxes"] * (400 / torch.tensor([100, 60, 100, 60]))
    assert (resized[:, :2] < resized[:, 2:]).all()


def test_a_box_that_resizing_would_flatten_is_dropped():
    """Two neighbors in float32 that are the same number after resizing."""
    scale, up = 8 / 60_000, torch.tensor(torch.inf)
    edges = torch.arange(30_000.0, 32_000)
    edge = edges[edges * scale == torch.nextafter(edges, up) * scale][0]
    boxes = [(edge, 0, torch.nextafter(edge, up), 9), (0, 0, 50, 9)]
    (_, target), *_ = dataset(row(encoded(Image.new("L", (60_000, 10))), boxes, [1, 2]))
    assert target["labels"].tolist() == [3]


def test_to_rgb_leaves_rgb_alone():
    image = Image.effect_noise((9, 9), 80).convert("RGB")
    assert to_rgb(image).tobytes() == image.tobytes()


def test_boxes_are_corners():
    """The documented row of image 9, 640 × 480: read as x y w h, this box would end at y = 661."""
    row = {"image_id": 9, "objects": {"bbox": [[1.08, 187.69, 612.67, 473.53]], "category": [45]}}
    target, dropped, clipped = clean_boxes(row, (480, 640))
    torch.testing.assert_close(target["boxes"], torch.tensor([[1.08, 187.69, 612.67, 473.53]]))
    assert target["labels"].tolist() == [46] and (dropped, clipped) == (0, 0)


def test_pixels_are_pillows_bicubic_and_normalized():
    """A picture that is no file yet, as a source of one's own may have it."""
    picture = Image.effect_noise((30, 20), 80).convert("RGB")
    sample = next(iter(dataset(row(None, image=picture), img_size=24)))
    expected = picture.resize((24, 24), Image.Resampling.BICUBIC)
    assert pixels(sample).numpy().tobytes() == expected.tobytes()
    values = torch.from_numpy(np.array(expected)).permute(2, 0, 1).double() / 255  # the contract's formula
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double()[..., None, None]
    torch.testing.assert_close(sample[0].double(), (values - mean) / std, atol=1e-6, rtol=0)


def test_normalize_by_hand():
    white = normalize(torch.ones(3, 1, 1)).flatten()
    torch.testing.assert_close(white, torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))


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


def test_one_row_is_a_sample_or_a_bad_one():
    """Without a stream: the same sample; and bytes that end too early are found out by whoever asks for pixels."""
    good = row(PNG, [(0, 0, 20, 10)], [3])
    image, target = to_sample(OpenRow(good, 8, metadata=True))
    (same, others), *_ = dataset(good, metadata=True)
    assert torch.equal(image, same) and target.keys() == others.keys()
    assert all(torch.equal(target[key], others[key]) for key in target)
    half = OpenRow(row(PNG[: len(PNG) // 2]), 8)
    with pytest.raises(BadSample, match="image 5: the picture cannot be decoded"):
        to_sample(half)


def test_a_picture_is_decoded_at_the_first_call_alone():
    opened = OpenRow(row(PNG), 8)
    assert opened.decode() is opened.decode() and opened.decode().size == (8, 8)
    assert OpenRow(row(PNG)).decode().size == (40, 40)


def test_an_area_that_cannot_be_the_objects_is_the_boxs():
    """Four boxes of 20 × 10 pixels; the last is cut to 10 × 10 by the edge, and so is what counts for it."""
    boxes = [[10.0, 10, 30, 20]] * 3 + [[90.0, 10, 110, 20]]
    objects = {"bbox": boxes, "category": [0] * 4, "area": [150, None, 9e9, float("nan")]}
    target, _, clipped = clean_boxes({"image_id": 1, "objects": objects}, (60, 100))
    assert target["area"].tolist() == [150, 200, 200, 100] and clipped == 1
    kept = OpenRow({"image_id": 1, "image": Image.new("RGB", (100, 60)), "objects": objects}, crowds=True)
    assert kept.target["area"].tolist() == [150, 200, 200, 100]
    assert "area" not in OpenRow({"image_id": 1, "image": Image.new("RGB", (100, 60)), "objects": objects}).target


@pytest.mark.parametrize(
    ("size", "inner"),
    [((20, 40), (32, 64)), ((40, 20), (64, 32)), ((7, 7), (64, 64)), ((100, 3), (64, 2)), ((1, 1000), (1, 64))],
)
def test_the_longer_side_fills_the_square_and_the_shape_stays(size, inner):
    assert input_size(size, 64, keep_aspect=True) == inner
    assert input_size(size, 64) == (64, 64)


@pytest.mark.parametrize("turned", [False, True])
def test_a_picture_that_keeps_its_shape_lies_in_the_upper_left_corner(turned):
    """40 × 20 pixels in a square of 80: everything is twice as large, and below (or beside) it is the mean color."""
    size, box = ((20, 40), (5, 10, 10, 20)) if turned else ((40, 20), (10, 5, 20, 10))
    picture = Image.effect_noise(size, 80).convert("RGB")
    image, target = next(iter(dataset(row(encoded(picture), [box]), img_size=80, keep_aspect=True)))
    width, height = 2 * size[0], 2 * size[1]
    assert image.shape == (3, 80, 80) and target["size"].tolist() == [height, width]
    assert target["boxes"].tolist() == [[2.0 * corner for corner in box]]
    assert image[:, height:].count_nonzero() == image[:, :, width:].count_nonzero() == 0
    expected = np.array(picture.resize((width, height), Image.Resampling.BICUBIC))
    assert np.array_equal(pixels((image[:, :height, :width],)), expected)
    assert torch.equal(to_input(picture, 80, keep_aspect=True), image)


def test_a_box_at_the_border_of_a_rounded_picture_stays_within_it():
    """A side of 33 × 64 / 100 = 21.12 pixels is rounded to 21."""
    picture = Image.new("RGB", (100, 33))
    _, target = next(iter(dataset(row(encoded(picture), [(0, 0, 100, 33)]), img_size=64, keep_aspect=True)))
    assert target["size"].tolist() == [21, 64] and target["boxes"].tolist() == [[0, 0, 64, 21]]


def test_a_stretched_sample_says_nothing_of_a_size():
    assert next(iter(dataset(row(PNG))))[1].keys() == {"boxes", "labels"}


def tall_sample():
    """The white square in a picture 16 wide and 32 high, padded to a square."""
    image, target = square_sample()
    return image, target | {"size": torch.tensor([32, 16])}


def test_a_padded_picture_is_mirrored_within_itself():
    image, target = Augment(flip=1.0)(*tall_sample())
    assert target["boxes"].tolist() == [[6.0, 4.0, 14.0, 12.0]] and target["size"].tolist() == [32, 16]
    expected = torch.zeros(3, 32, 32)
    expected[:, 4:12, 6:14] = 1
    assert torch.equal(image, expected)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("factor", [0.5, 1.5])
@pytest.mark.parametrize("turned", [False, True])
def test_a_padded_picture_is_enlarged_by_the_factor_and_cropped_within_itself(seed, factor, turned):
    image, target = tall_sample()
    if turned:
        image, boxes = image.transpose(1, 2), target["boxes"][:, [1, 0, 3, 2]]
        target = target | {"boxes": boxes, "size": target["size"].flip(0)}
    torch.manual_seed(seed)
    image, target = Augment(flip=0.0, scales=(factor, factor))(image, target)
    height, width = target["size"].tolist()
    assert image.shape == (3, 32, 32)
    assert image[:, height:].count_nonzero() == image[:, :, width:].count_nonzero() == 0
    bright = (image[0] > 0.5).nonzero()
    if len(target["boxes"]):
        box = target["boxes"][0]
        seen = torch.cat([bright.amin(0).flip(0), bright.amax(0).flip(0) + 1]).float()
        assert (box - seen).abs().max() <= 1
        inside = (box[:2] > 0).all() and box[2] < width and box[3] < height
        assert not inside or (box[2:] - box[:2]).tolist() == [8 * factor] * 2

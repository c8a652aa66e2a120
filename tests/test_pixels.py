"""A picture as its maker meant it, from a file or an array, whatever its file says beside the pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from frcnn_common.pixels import orientation, to_picture, upright
from frcnn_common.samples import OpenRow

BEGIN = b"Exif\0\0"
MALFORMED = [BEGIN, BEGIN + b"II*\0\xff\xff\xff\xff", b"no such thing", BEGIN + b"MM\0*\0\0\0\x08\xff\xff"]


def encoded(format, **options):
    file = io.BytesIO()
    Image.effect_noise((20, 40), 50).save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("data", MALFORMED)
@pytest.mark.parametrize("format", ["WEBP", "PNG", "JPEG"])
def test_a_picture_that_decodes_is_a_picture_whatever_its_exif_data(format, data):
    file = encoded(format, exif=data)
    image = Image.open(io.BytesIO(file))
    assert orientation(image) == 1 and upright(image).size == (20, 40)
    row = {"image_id": 1, "image": {"bytes": file}, "objects": {"bbox": [], "category": []}}
    assert OpenRow(row).decode().size == (20, 40)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("way", range(1, 9))
def test_all_eight_ways_up_are_those_of_pillow(format, way):
    note = Image.Exif()
    note[0x0112] = way
    file = io.BytesIO(encoded(format, exif=note))
    assert upright(Image.open(file)).tobytes() == ImageOps.exif_transpose(Image.open(file)).tobytes()


def test_pixels_that_cannot_be_read_are_an_error_and_no_gray():
    data = encoded("PNG")
    with pytest.raises((OSError, SyntaxError)):
        upright(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_arrays_and_tensors_of_whole_numbers_are_pictures():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for given in (pixels, torch.from_numpy(pixels).permute(2, 0, 1), Image.fromarray(pixels)):
        assert (np.asarray(to_picture(given)) == pixels).all()
    assert (np.asarray(to_picture(pixels[..., ::-1])) == pixels[..., ::-1]).all()
    assert to_picture(pixels[..., 0]).mode == "L"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.zeros((2, 4, 3)), r"got ndarray float64 \[2, 4, 3\]"),
        (np.zeros((3, 2, 4), np.uint8), r"got ndarray uint8 \[3, 2, 4\]"),
        (torch.zeros(1, 3, 2, 4, dtype=torch.uint8), r"got Tensor torch.uint8 \[1, 3, 2, 4\]"),
        ("cat.jpg", "got 'cat.jpg', for a file use PIL.Image.open"),
        (None, "got None"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_to_do(given, told):
    with pytest.raises(TypeError, match=f"a picture must be a PIL.Image.Image, or .*{told}"):
        to_picture(given)

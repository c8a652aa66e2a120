"""What stands at the door of the detector: what is wrong is named, what is odd is taken."""

import copy
import functools
import re

import pytest
import torch
from test_detector import eager, target

from frcnn_common import COURSE, FasterRCNN
from frcnn_common.checks import check_images, image_sizes_of

NAN, INF = float("nan"), float("inf")


@functools.cache
def tiny_model(dtype=torch.float32, conventions=COURSE, norm="live", min_sz=2):
    """A detector of six classes that an untrained class layer makes sure of many things."""
    torch.manual_seed(0)
    options = {"width": 4, "fpn_channels": 16, "fc_dim": 32, "pre_nms": 100, "post_nms": 50, "trainable_layers": 5}
    options["score_thr"] = 0.2
    sizes = (8, 16, 32, 64, 128)
    model = FasterRCNN(6, anchor_sizes=sizes, min_sz=min_sz, conventions=conventions, norm=norm, **options)
    return eager(model).to(dtype)


def fresh(training=True, **options):
    """A copy that nothing has been done to: live batch norm remembers what it has seen."""
    return copy.deepcopy(tiny_model(**options)).train(training)


def images(count=2, height=64, width=96):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(count))


def pixel(value, place):
    batch = images()
    batch[place] = value
    return batch


def one_box(*corners, dtype=torch.float32):
    return target(corners, (3,)) | {"boxes": torch.tensor([corners], dtype=dtype)}


# What is refused, in training and in evaluation

BAD_IMAGES = {
    "a list": ([torch.zeros(3, 64, 96)] * 2, TypeError, r"images must be a Tensor \[B, 3, H, W\], got list"),
    "an array": (images().numpy(), TypeError, "images must be a Tensor .*, got ndarray"),
    "one image without a batch": (images()[0], ValueError, r"images must be \[B, 3, H, W\].*, got \[3, 64, 96\]"),
    "no image": (images()[:0], ValueError, r"one or more of them, got \[0, 3, 64, 96\]"),
    "gray": (images()[:, :1], ValueError, r"images must be \[B, 3, H, W\].*, got \[2, 1, 64, 96\]"),
    "channels last": (images().permute(0, 2, 3, 1), ValueError, r"got \[2, 64, 96, 3\]"),
    "low": (images(height=31), ValueError, "images must be at least 32 pixels high and wide, got 31 × 96"),
    "narrow": (images(width=1), ValueError, "images must be at least 32 pixels high and wide, got 64 × 1"),
    "bytes": (images().byte(), TypeError, "images must be normalized.* torch.float32, got torch.uint8"),
    "integers": (images().long(), TypeError, "images must be normalized.* torch.float32, got torch.int64"),
    "double": (images().double(), TypeError, "images must be normalized.* torch.float32, got torch.float64"),
    "half": (images().half(), TypeError, "images must be normalized.* torch.float32, got torch.float16"),
    "elsewhere": (images().to("meta"), ValueError, "images must be on the model's device cpu, got meta"),
    "NaN": (pixel(NAN, (1, 2, 5, 7)), ValueError, r"images\[1\] must have finite pixels, got nan at \[2, 5, 7\]"),
    "infinity": (pixel(INF, (0, 0, 63, 95)), ValueError, r"images\[0\] .*finite pixels, got inf at \[0, 63, 95\]"),
    "both infinities": (pixel(torch.tensor([INF, -INF]), (1, 0, 0, slice(2))), ValueError, r"images\[1\].*got inf"),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("batch", "error", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_images_that_are_refused(batch, error, message, training):
    with pytest.raises(error, match=message):
        fresh(training)(batch, [target(), target()])


@pytest.mark.parametrize(("dtype", "known"), [(torch.float64, False), (torch.uint8, False), (torch.bfloat16, True)])
def test_autocast_takes_half_precision_alone(dtype, known):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        if known:
            assert len(fresh(training=False)(images().to(dtype))[0]) == 2
        else:
            with pytest.raises(TypeError, match=f"images must be normalized.*got {dtype}"):
                fresh(training=False)(images().to(dtype))


def test_large_finite_pixels_are_not_mistaken():
    """Their sum overflows, and only then each of them is looked at."""
    model = tiny_model()
    batch = torch.full((1, 3, 64, 64), 1e38)
    assert batch.sum().isinf()
    check_images(batch, model.backbone.stem[0].weight)
    with pytest.raises(ValueError, match=r"images\[0\] must have finite pixels, got inf"):
        check_images(10 * batch, model.backbone.stem[0].weight)


BAD_SIZES = {
    "too few": ([(64, 96)], r"image_sizes must have one for each of the 2 images, got 1"),
    "none": ([], r"image_sizes must have one for each of the 2 images, got 0"),
    "one for all": ((64, 96), r"image_sizes\[0\] must be \(H, W\) within the batch's \(64, 96\), got 64"),
    "(W, H)": ([(64, 96), (96, 64)], r"image_sizes\[1\] .*\(64, 96\), got \(96, 64\)"),
    "too wide": ([(64, 96), (64, 97)], r"image_sizes\[1\] .*\(64, 96\), got \(64, 97\)"),
    "empty": ([(0, 96), (64, 96)], r"image_sizes\[0\] .*got \(0, 96\)"),
    "(C, H, W)": ([(3, 64, 96)] * 2, r"image_sizes\[0\] .*got \(3, 64, 96\)"),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("sizes", "message"), BAD_SIZES.values(), ids=BAD_SIZES)
def test_sizes_that_are_refused(sizes, message, training):
    with pytest.raises(ValueError, match=message):
        fresh(training)(images(), [target(), target()], image_sizes=sizes)


def corners_refused(place, corners):
    return rf"targets\[1\]\['boxes'\]\[{place}\] must have x1 < x2 and y1 < y2, within 0…96 and 0…64, got \[{corners}\]"


TWO = torch.tensor([[1.0, 2, 30, 40], [5, 5, 50, 50]])
BAD_TARGETS = {
    "none": (None, ValueError, "a target for each of the 2 images, got none"),
    "too few": ([target()], ValueError, "a target for each of the 2 images, got 1"),
    "too many": ([target()] * 3, ValueError, "a target for each of the 2 images, got 3"),
    "one dict": (target(), TypeError, r"targets\[0\] must be a dict with 'boxes' and 'labels', got str"),
    "no labels": ([target(), {"boxes": TWO}], ValueError, r"targets\[1\] must have 'labels', got only \['boxes'\]"),
    "no boxes": ([{"labels": torch.ones(2)}, target()], ValueError, r"targets\[0\] must have 'boxes'"),
}
BAD_SECOND_TARGET = {
    "a list of boxes": ({"boxes": [[1, 2, 3, 4]]}, TypeError, r"targets\[1\]\['boxes'\] must be a Tensor, got list"),
    "a list of labels": ({"labels": [1, 2]}, TypeError, r"targets\[1\]\['labels'\] must be a Tensor, got list"),
    "whole boxes": ({"boxes": TWO.long()}, TypeError, r"targets\[1\]\['boxes'\] must be floating.*torch.int64"),
    "labels as floats": ({"labels": torch.ones(2)}, TypeError, r"targets\[1\]\['labels'\] .*int64, got torch.float32"),
    "labels in 32 bits": ({"labels": torch.ones(2).int()}, TypeError, r"targets\[1\]\['labels'\] .*got torch.int32"),
    "five columns": (
        {"boxes": torch.rand(2, 5)},
        ValueError,
        r"targets\[1\]\['boxes'\] must be \[N, 4\], got \[2, 5\]",
    ),
    "one box, flat": ({"boxes": TWO[0]}, ValueError, r"targets\[1\]\['boxes'\] must be \[N, 4\], got \[4\]"),
    "nothing, flat": ({"boxes": torch.empty(0)}, ValueError, r"targets\[1\]\['boxes'\] must be \[N, 4\], got \[0\]"),
    "three labels": ({"labels": torch.tensor([1, 2, 3])}, ValueError, r"\['labels'\] must be \[2\] .*, got \[3\]"),
    "labels in a column": ({"labels": torch.ones(2, 1).long()}, ValueError, r"\['labels'\] must be \[2\] .*\[2, 1\]"),
    "background": ({"labels": torch.tensor([1, 0])}, ValueError, r"targets\[1\]\['labels'\]\[1\] must be 1…5, got 0"),
    "a class too many": ({"labels": torch.tensor([6, 1])}, ValueError, r"\[1\]\['labels'\]\[0\] must be 1…5, got 6"),
    "a negative class": ({"labels": torch.tensor([1, -1])}, ValueError, r"\['labels'\]\[1\] must be 1…5, got -1"),
}
BAD_SECOND_BOX = {
    "reversed in x": (50.0, 5, 5, 50),
    "reversed in y": (5.0, 50, 50, 5),
    "reversed": (50.0, 50, 5, 5),
    "a point": (5.0, 5, 5, 5),
    "no width": (5.0, 5, 5, 50),
    "no height": (5.0, 5, 50, 5),
    "NaN": (5.0, NAN, 50, 50),
    "infinite": (5.0, 5, INF, 50),
    "x y width height": (80.0, 40, 30, 20),
    "too far right": (5.0, 5, 96.2, 50),
    "too far down": (5.0, 5, 50, 64.1),
    "too far left": (-0.2, 5, 50, 50),
    "too far up": (5.0, -0.1, 50, 50),
    "outside": (200.0, 200, 300, 300),
    "a million": (-1e6, -1e6, 1e6, 1e6),
}


@pytest.mark.parametrize(("targets", "error", "message"), BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_targets_that_are_refused(targets, error, message):
    with pytest.raises(error, match=message):
        fresh()(images(), targets)


@pytest.mark.parametrize(("change", "error", "message"), BAD_SECOND_TARGET.values(), ids=BAD_SECOND_TARGET)
def test_the_target_at_fault_is_named(change, error, message):
    with pytest.raises(error, match=message):
        fresh()(images(), [target(), {"boxes": TWO, "labels": torch.tensor([1, 2])} | change])


@pytest.mark.parametrize("corners", BAD_SECOND_BOX.values(), ids=BAD_SECOND_BOX)
def test_the_box_at_fault_is_named(corners):
    second = {"boxes": torch.stack([TWO[0], torch.tensor(corners)]), "labels": torch.tensor([1, 2])}
    numbers = re.escape(", ".join(f"{c:g}" for c in corners))
    with pytest.raises(ValueError, match=corners_refused(1, numbers)):
        fresh()(images(), [target(), second])


def test_a_box_that_vanishes_in_the_models_precision():
    thin = one_box(50, 5, 50 + 1e-9, 50, dtype=torch.float64)
    with pytest.raises(ValueError, match=corners_refused(0, "50, 5, 50, 50")):
        fresh()(images(), [target(), thin])
    losses = fresh(dtype=torch.float64)(images().double(), [target(), thin])
    assert all(loss.isfinite() for loss in losses.values())


def test_boxes_lie_within_their_own_image():
    sizes, beyond = [(64, 96), (40, 96)], [target(), one_box(5.0, 5, 50, 50)]
    fresh()(images(), beyond)
    with pytest.raises(ValueError, match=r"targets\[1\]\['boxes'\]\[0\] .* within 0…96 and 0…40, got \[5, 5, 50, 50\]"):
        fresh()(images(), beyond, image_sizes=sizes)


def test_one_cell_is_too_little_for_live_batch_norm():
    with pytest.raises(ValueError, match="images must be two or larger than 32 × 32 in training"):
        fresh()(images(1, 32, 32), [target((), ())])
    for model, batch in ((fresh(norm="frozen"), images(1, 32, 32)), (fresh(), images(2, 32, 32))):
        losses = model(batch, [target((), ())] * len(batch))
        assert all(loss.isfinite() for loss in losses.values())


# What is taken


@pytest.mark.parametrize(
    "boxes",
    [
        one_box(-0.05, -0.05, 96.05, 64.05),  # a thousandth of the sides is 0.096 and 0.064
        one_box(0, 0, 96, 64, dtype=torch.float64),
        one_box(0, 0, 96, 64, dtype=torch.float16),
        one_box(5, 5, 5.00001, 5.00001),
        target((), ()),
    ],
    ids=["over the edge by rounding", "double", "half", "tiny", "nothing"],
)
def test_boxes_that_are_taken(boxes):
    model = fresh()
    losses = model(images(), [boxes, boxes])
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


# Sizes without padding, which targets may know


def test_targets_say_how_much_is_picture():
    sized = [{"size": torch.tensor([50, 70])}, {"size": (64, 96)}]
    assert image_sizes_of(images(), sized) == [(50, 70), (64, 96)]
    assert image_sizes_of(images(), [sized[0], {}]) == [(50, 70), (64, 96)]
    assert image_sizes_of(images()) == image_sizes_of(images(), sized[:1]) == [(64, 96)] * 2


def test_a_size_in_the_targets_is_a_size_that_is_passed():
    sizes = [(64, 48), (40, 96)]
    plain = [one_box(4.0, 4, 30, 30) | {"seed": 5} for _ in sizes]
    sized = [given | {"size": torch.tensor(size)} for given, size in zip(plain, sizes, strict=True)]
    expected, losses = fresh()(images(), plain, image_sizes=sizes), fresh()(images(), sized)
    assert losses.keys() == expected.keys() and all(torch.equal(losses[key], expected[key]) for key in losses)
    other = fresh()(images(), plain)
    assert any(not torch.equal(losses[key], other[key]) for key in losses)


def test_a_box_in_the_padding_is_refused():
    beyond = one_box(4.0, 4, 60, 30) | {"size": torch.tensor([64, 48])}
    with pytest.raises(ValueError, match=r"targets\[1\]\['boxes'\]\[0\] .* within 0…48 and 0…64, got \[4, 4, 60, 30\]"):
        fresh()(images(), [target(), beyond])
    with pytest.raises(ValueError, match=r"image_sizes\[0\] must be \(H, W\) .*got \(64, 97\)"):
        fresh()(images(), [target() | {"size": torch.tensor([64, 97])}, target()])

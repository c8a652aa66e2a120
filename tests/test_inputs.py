"""Inputs: what is wrong is named, what is odd is handled, and from finite numbers come finite numbers."""

import copy
import math
import re

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from strategies import DTYPES, EXTREMES, NUMBERS, box_sets, with_area
from test_checks import fresh, images
from test_detector import target
from test_engine import RECIPE, Line, batches
from torch.autograd import gradcheck

from frcnn_common import COURSE, TORCHVISION, RegionProposalNetwork, ROIAlign, RPNHead
from frcnn_common import boxes as B
from frcnn_common.anchors import AnchorGenerator, assign_anchors
from frcnn_common.constants import DEVICE
from frcnn_common.engine import Trainer
from frcnn_common.nms import nms
from frcnn_common.roi import sample_rois
from frcnn_common.rpn import box_loss

SEEDS = st.integers(0, 2**31 - 1)


# Odd batches


@pytest.mark.slow
def test_a_batch_of_64():
    model, batch = fresh(), images(64, 40, 33)
    losses = model(batch, [target(((3.0, 4, 20, 30),), (1 + i % 5,)) if i % 3 else target((), ()) for i in range(64)])
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        results, proposals = model.eval()(batch)
    assert len(results) == len(proposals) == 64 and any(len(result["boxes"]) for result in results)


@pytest.mark.parametrize("half", [False, True])
def test_no_proposal_in_any_image(half):
    """All are too small. Nothing is detected, and the regions' losses are 0 rather than a mean over none."""
    model = fresh(min_sz=1000)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = model(images(), [target((), ())] * 2)
        sum(losses.values()).backward()
        assert losses["roi_cls"].item() == losses["roi_box"].item() == 0 < losses["rpn_cls"].item()
        results, proposals = model.eval()(images())
    assert [len(p) for p in proposals] == [len(r["boxes"]) for r in results] == [0, 0]


# What the functions of boxes refuse

FOUR, FIVE, FLAT, ONE = torch.rand(3, 4), torch.rand(3, 5), torch.rand(4), torch.rand(1, 4)
MAPS = [torch.zeros(2, 1, 2**k, 2**k) for k in (4, 3, 2, 1)]
BAD_SHAPES = {
    "box_iou, five columns": (lambda: B.box_iou(FIVE, FOUR), r"boxes_a must be \[N, 4\], got \[3, 5\]"),
    "box_iou, one box": (lambda: B.box_iou(FOUR, FLAT), r"boxes_b must be \[N, 4\], got \[4\]"),
    "box_iou, a batch": (lambda: B.box_iou(FOUR[None], FOUR), r"boxes_a must be \[N, 4\], got \[1, 3, 4\]"),
    "encode_boxes, one goal": (
        lambda: B.encode_boxes(FOUR, ONE),
        r"proposals \[3, 4\] and gt_boxes \[1, 4\] must be equally many",
    ),
    "encode_boxes, flat": (lambda: B.encode_boxes(FLAT, FOUR), r"proposals must be \[N, 4\], got \[4\]"),
    "decode_boxes, one anchor": (
        lambda: B.decode_boxes(ONE, FOUR),
        r"anchors \[1, 4\] and deltas \[3, 4\] must be equally many",
    ),
    "decode_boxes, of all classes": (lambda: B.decode_boxes(FOUR, FOUR.repeat(1, 2)), r"deltas .*, got \[3, 8\]"),
    "clip_boxes, five columns": (lambda: B.clip_boxes(FIVE, (9, 9)), r"boxes must be \[N, 4\], got \[3, 5\]"),
    "nms, one score": (lambda: nms(FOUR, FOUR[:1, 0], 0.5), r"boxes \[N, 4\].*got \[3, 4\], \[1\]"),
    "nms, threshold": (lambda: nms(FOUR, FOUR[:, 0], 50), "threshold in 0…1, got 50"),
    "box_loss, one goal": (lambda: box_loss(FOUR, ONE), r"deltas \[3, 4\] and goals \[1, 4\] must be equally many"),
    "ROIAlign, too few levels": (lambda: ROIAlign()(MAPS[:2], [FOUR] * 2, (64, 64)), "the 4 levels 2…5, got 2 maps"),
    "ROIAlign, of one image": (lambda: ROIAlign()(MAPS, [FOUR], (64, 64)), "for each of 2 images, got 1"),
    "ROIAlign, of three": (lambda: ROIAlign()(MAPS, [FOUR] * 3, (64, 64)), "for each of 2 images, got 3"),
    "ROIAlign, with scores": (
        lambda: ROIAlign()(MAPS, [FOUR, FIVE], (64, 64)),
        r"proposals\[1\] must be \[N, 4\], got \[3, 5\]",
    ),
    "sample_rois, labels": (
        lambda: sample_rois(FOUR, {"boxes": FOUR, "labels": torch.ones(4).long()}, 9, 0.5, 0.5),
        r"target has 3 boxes, but labels \[4\]",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_SHAPES.values(), ids=BAD_SHAPES)
def test_shapes_that_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nms_wants_floats():
    """Its threshold would be rounded to a whole number."""
    with pytest.raises(TypeError, match=r"boxes in floating point, got torch.int64"):
        nms(FOUR.long(), FOUR[:, 0], 0.5)


def proposal_network():
    sizes, strides = (8, 16, 32, 64), (4, 8, 16, 32)
    return RegionProposalNetwork(RPNHead(1), AnchorGenerator(sizes, strides=strides))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([target()],), "a target for each of the 2 images, got 1"),
        (([target()] * 2, [(64, 64)]), "image_sizes must have one for each of the 2 images, got 1"),
    ],
)
def test_the_proposal_network_wants_as_many_as_images(arguments, message):
    targets, *sizes = arguments
    with pytest.raises(ValueError, match=message):
        proposal_network()(MAPS, (64, 64), targets, image_sizes=sizes[0] if sizes else None)


# What the training step refuses


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ([], ValueError, "at least one batch, got none"),
        ([*batches(), images()], TypeError, r"batches\[3\] must be \(images \[B, 3, H, W\], targets\), got Tensor"),
        ([([images()], None)], TypeError, r"batches\[0\] must be \(images"),
    ],
)
def test_batches_that_are_refused(wrong, error, message):
    model = Line().to(DEVICE)
    with pytest.raises(error, match=message):
        Trainer(model, RECIPE).train_step(wrong)
    assert model.weight.item() == 0  # no step was made


def test_the_models_own_errors_come_through_a_training_step():
    model = fresh().to(DEVICE)
    weights = copy.deepcopy(model.state_dict())
    numbered = target() | {"image_id": torch.tensor(7)}
    for targets, message in (([], "images, got 0"), ([numbered, target() | {"labels": torch.tensor([9])}], "got 9")):
        with pytest.raises(ValueError, match=message):
            Trainer(model, RECIPE).train_step([(images(), targets)])
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


# Finite numbers give finite numbers: functions of boxes


EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def finite(*tensors):
    return all(tensor.isfinite().all() for tensor in tensors)


@EACH_DTYPE
@given(box_sets(), box_sets(min_boxes=1))
def test_iou_and_its_gradient_are_finite(dtype, a, b):
    a, b = a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_()
    iou = B.box_iou(a, b)
    assert iou.ge(0).all() and iou.le(1).all()  # NaN is neither
    sides = [box[:, 2:] - box[:, :2] for box in (a, b)]
    sizable = all(
        (side == 0).logical_or(side > 1e-6).all() for side in sides
    )  # smaller areas have larger slopes than there are numbers
    iou.sum().backward()
    assert not sizable or finite(a.grad, b.grad)


def numbers(*shape):
    return hnp.arrays("float64", shape, elements=st.one_of(*NUMBERS), fill=st.nothing()).map(torch.from_numpy)


@EACH_DTYPE
@given(box_sets(min_boxes=1), st.data(), st.sampled_from((COURSE, TORCHVISION)))
def test_decoded_and_clipped_boxes_are_finite(dtype, anchors, data, conventions):
    """Deltas of any size up to a million, the reference boxes with and without area."""
    deltas = data.draw(numbers(len(anchors), 4)).to(dtype)
    boxes = B.decode_boxes(anchors.to(dtype), deltas, weights=conventions.box_weights, clamp=conventions.delta_clamp)
    clipped = B.clip_boxes(boxes, (480, 640))
    assert finite(boxes) and clipped.ge(0).all() and clipped.le(torch.tensor([640, 480, 640, 480])).all()
    assert (clipped[:, 2:] >= clipped[:, :2]).all()


@EACH_DTYPE
@given(box_sets(min_boxes=2))
def test_encoded_boxes_are_finite(dtype, boxes):
    boxes = with_area(boxes.to(dtype))
    assert finite(B.encode_boxes(boxes, boxes.flip(0)))


@EACH_DTYPE
@given(box_sets(min_boxes=1), box_sets(max_boxes=8), SEEDS)
def test_what_is_encoded_in_training_is_finite(dtype, boxes, gt_boxes, seed):
    """No anchor and no region without area is ever matched, for it overlaps nothing."""
    boxes, gt_boxes = boxes.to(dtype), with_area(gt_boxes.to(dtype))
    labels, matches = assign_anchors(boxes, gt_boxes)
    positive = labels > 0
    generator = torch.Generator().manual_seed(seed)
    known = {"boxes": gt_boxes, "labels": torch.ones(len(gt_boxes), dtype=torch.int64), "generator": generator}
    rois, labels, matched = sample_rois(boxes, known, 64, 0.5, 0.5)
    if len(gt_boxes):
        goals = [
            B.encode_boxes(boxes[positive], gt_boxes[matches[positive]]),
            B.encode_boxes(rois[labels > 0], matched),
        ]
        assert finite(*goals, *(box_loss(torch.zeros_like(goal), goal) for goal in goals))


@EACH_DTYPE
@pytest.mark.parametrize("conventions", [COURSE, TORCHVISION], ids=["course", "torchvision"])
@settings(max_examples=100)
@given(st.data(), st.integers(0, 12), SEEDS)
def test_regions_anywhere_are_aligned(conventions, dtype, data, count, seed):
    """Far outside, without area, or with their corners in any order, they give finite features and gradients."""
    regions = data.draw(numbers(count, 4)).to(dtype).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(1, 2, side, side, generator=generator, dtype=dtype).requires_grad_() for side in (9, 5, 3, 2)]
    cells = ROIAlign(conventions=conventions)(maps, [regions], (36, 36))
    assert cells.shape == (count, 2, 7, 7) and finite(cells)
    cells.sum().backward()
    assert finite(*(fmap.grad for fmap in maps))
    largest = max(fmap.abs().max() for fmap in maps)
    assert not count or cells.abs().max() <= largest * (1 + 1e-5)  # a mean of four, each between four values


# Finite numbers give finite numbers: the whole model


def shapes(smallest):
    """(height, width): any two sides, or a strip."""
    side = st.one_of(st.sampled_from((32, 33, 63, 64, 65, 96)), st.integers(32, 200)).map(lambda s: max(s, smallest))
    strip = st.sampled_from(((smallest, 2048), (2048, smallest), (smallest + 8, 1500)))
    return st.one_of(st.tuples(side, side), strip)


SETTINGS = st.fixed_dictionaries(
    {"conventions": st.sampled_from((COURSE, TORCHVISION)), "norm": st.sampled_from(("live", "frozen"))}
)
PRECISIONS = {
    "float32": (torch.float32, False),
    "float64": (torch.float64, False),
    "bfloat16 autocast": (torch.float32, True),
}


@st.composite
def training_batches(draw, dtype, smallest=32):
    """Noise of any strength up to ±1000, bright, dark or flat, with none to five objects of any size."""
    height, width = draw(shapes(smallest))
    count = draw(st.integers(1, 4 if height * width < 20_000 else 1))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    strength, offset = draw(st.sampled_from((0.0, 1e-3, 1.0, 500.0))), draw(st.sampled_from((0.0, 2.0, -500.0)))
    batch = offset + strength * (2 * torch.rand(count, 3, height, width, generator=generator, dtype=dtype) - 1)
    targets = []
    for _ in range(count):
        share = torch.tensor(
            draw(st.lists(st.sampled_from((1e-5, 1e-3, 0.1, 0.5, 1.0)), max_size=5)), dtype=torch.float64
        )[:, None]
        corners = torch.rand(len(share), 2, generator=generator, dtype=torch.float64) * (1 - share)
        boxes = torch.cat([corners, corners + share], dim=1) * torch.tensor([width, height] * 2)
        labels = torch.randint(1, 6, (len(boxes),), generator=generator)
        targets.append({"boxes": boxes.float(), "labels": labels})
    return batch, targets


def check_detections(results, proposals, height, width):
    for result, regions in zip(results, proposals, strict=True):
        boxes, scores, labels = result["boxes"], result["scores"], result["labels"]
        assert finite(boxes, scores, regions)
        assert scores.ge(0).all() and scores.le(1).all() and labels.ge(1).all() and labels.le(5).all()
        for inside in (boxes, regions):
            assert inside.ge(0).all() and inside.le(inside.new_tensor([width, height] * 2)).all()
            assert (inside[:, 2:] >= inside[:, :2]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "half"), PRECISIONS.values(), ids=PRECISIONS)
@settings(max_examples=40)
@given(st.data(), SETTINGS)
def test_losses_gradients_and_detections_are_finite(dtype, half, data, options):
    # On a map one cell wide, PyTorch's bfloat16 convolution on a processor reads memory that nobody has written.
    batch, targets = data.draw(training_batches(dtype, smallest=65 if half else 32))
    torch.manual_seed(0)  # anchors and regions are drawn: a case that is found can be repeated
    height, width = batch.shape[-2:]
    if len(batch) == 1 and (height, width) == (32, 32):
        options["norm"] = "frozen"
    model = fresh(dtype=dtype, **options)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = model(batch, targets)
        assert finite(*losses.values()) and all(loss >= 0 for loss in losses.values())
        sum(losses.values()).backward()
        with torch.no_grad():
            check_detections(*model.eval()(batch), height, width)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained) and finite(*(p.grad for p in trained))


@pytest.mark.slow
@settings(max_examples=60)
@given(box_sets(st.integers(0, 64).map(float), EXTREMES, *NUMBERS, max_boxes=5), st.integers(-1, 7))
def test_objects_are_learned_or_refused(boxes, label):
    """Whatever the corners and the label are, there is an error with their place, or a finite loss."""
    model, objects = fresh(), {"boxes": boxes, "labels": torch.full((len(boxes),), label)}
    width, height = 96, 64
    within = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] <= width) & (boxes[:, 3] <= height)
    good = 1 <= label <= 5 and len(with_area(boxes.float())) == len(boxes) and within.all()
    try:
        losses = model(images(), [target((), ()), objects])
    except ValueError as error:
        assert not good and re.match(r"targets\[1\]\['(boxes|labels)'\]\[\d\] must ", str(error))
    else:
        assert 1 <= label <= 5 or not len(boxes)
        sum(losses.values()).backward()
        assert finite(*losses.values(), *(p.grad for p in model.parameters()))


# Derivatives against finite differences, in float64


def spread_boxes(count, seed, spread=60):
    """Boxes no two edges of which coincide: there, minimum and maximum have no derivative."""
    generator = torch.Generator().manual_seed(seed)
    corners = spread * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    sides = 10 + 30 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corners, corners + sides], dim=1).requires_grad_()


def test_gradient_of_overlap():
    a, b = spread_boxes(4, 0), spread_boxes(5, 1)
    assert (B.box_iou(a, b) > 0).sum() > 5
    assert gradcheck(B.box_iou, (a, b))


@pytest.mark.parametrize("weights", [COURSE.box_weights, TORCHVISION.box_weights])
def test_gradient_of_deltas(weights):
    boxes, goals = spread_boxes(5, 0), spread_boxes(5, 1)
    assert gradcheck(lambda a, b: B.encode_boxes(a, b, weights=weights), (boxes, goals))
    deltas = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda a, b: B.decode_boxes(a, b, weights=weights), (boxes, deltas))


def test_gradient_beyond_the_clamps():
    """A stretch above the clamp, or a corner that was cut off, does not move when its number does."""
    deltas = torch.tensor([[0.1, 0.2, 5.0, 0.3], [0.1, 0.2, 0.3, 9.0]], dtype=torch.float64, requires_grad=True)
    boxes = spread_boxes(2, 0)
    assert gradcheck(B.decode_boxes, (boxes, deltas))
    (gradient,) = torch.autograd.grad(B.decode_boxes(boxes, deltas).square().sum(), deltas)
    assert gradient[0, 2] == gradient[1, 3] == 0 != gradient[0, 3]
    boxes = torch.tensor([[-5.0, 7, 30, 90], [3, -8, 120, 40]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda b: B.clip_boxes(b, (64, 96)), boxes)
    (gradient,) = torch.autograd.grad(B.clip_boxes(boxes, (64, 96)).sum(), boxes)
    assert gradient.tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]


def test_gradient_of_the_box_loss():
    """On both sides of the bend at 1/9."""
    deltas = torch.tensor([[0.02, -0.05, 0.5, -3.0], [0.3, 0.1, -0.1, 0.0]], dtype=torch.float64, requires_grad=True)
    goals = torch.zeros(2, 4, dtype=torch.float64)
    assert gradcheck(lambda d: box_loss(d, goals), deltas) and gradcheck(lambda d: box_loss(d, goals, 512), deltas)


@pytest.mark.parametrize("conventions", [COURSE, TORCHVISION], ids=["course", "torchvision"])
def test_gradient_of_aligned_features(conventions):
    """With respect to the maps, and to the regions: off the cells' centers a bilinear sample moves smoothly."""
    maps = [torch.randn(2, 2, side, side, dtype=torch.float64, requires_grad=True) for side in (12, 6)]
    regions = [spread_boxes(2, 3, spread=8), spread_boxes(1, 4, spread=8)]
    align = ROIAlign(out_size=3, k0=3 + math.log2(224 / 20), k_max=3, conventions=conventions)
    assert set(align.assign_levels(torch.cat(regions)).tolist()) == {2, 3}

    def aligned(first, second, *regions):
        return align([first, second], list(regions), (48, 48))

    assert gradcheck(aligned, (*maps, *regions))

"""Every operation against torchvision's, over inputs that hypothesis draws.

Each comparison goes through `parity`, which asserts its bound and fills the table printed after the tests. Where both
sides do the same arithmetic in the same order, the bound is 0. Otherwise a difference is divided by the magnitude of
the numbers that were rounded, and the bound is a few of their last digits; each test says which.
"""

from collections import OrderedDict

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import example, given, settings
from strategies import DTYPES, LAYOUTS, NUMBERS, PIXELS, THRESHOLDS, arrange, box_sets, scores_for, with_area
from torchvision.models.detection import _utils as peers
from torchvision.models.detection.anchor_utils import AnchorGenerator as PeerAnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork as PeerRPN
from torchvision.ops.poolers import LevelMapper

from frcnn_common import FPN, AnchorGenerator, RegionProposalNetwork, ResNet50, ROIAlign, RPNHead
from frcnn_common import boxes as B
from frcnn_common.anchors import assign_anchors
from frcnn_common.constants import COURSE, TORCHVISION
from frcnn_common.nms import batched_nms, nms
from frcnn_common.roi import sample_rois
from frcnn_common.rpn import box_loss

ROUNDING = {torch.float32: 1e-6, torch.float64: 2e-15}  # about eight units in the last place
NAMES = {torch.float32: "float32", torch.float64: "float64"}
SEEDS = st.integers(0, 2**32 - 1)
EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)


def largest(mine, theirs, magnitude=1.0):
    """Largest difference, as a share of `magnitude`; equal infinities, and NaN on both sides, do not differ."""
    assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
    same = (mine == theirs) | (mine.isnan() & theirs.isnan())
    difference = ((mine - theirs).abs() / magnitude).masked_fill(same, 0)
    return difference.max().item() if difference.numel() else 0.0


def differing(mine, theirs):
    """At how many places two lists of indices differ."""
    assert mine.dtype == theirs.dtype
    shared = min(len(mine), len(theirs))
    return (mine[:shared] != theirs[:shared]).sum().item() + max(len(mine), len(theirs)) - shared


def at_least_one(x):
    return x.abs().clamp(min=1)


# Boxes


@EACH_DTYPE
@settings(max_examples=150)
@given(box_sets(), box_sets())
def test_box_iou(parity, dtype, a, b):
    a, b = a.to(dtype), b.to(dtype)
    mine, theirs = B.box_iou(a, b), torchvision.ops.box_iou(a, b)
    empty = theirs.isnan()  # torchvision divides 0 by 0 where the union is empty
    assert not mine[empty].any()
    parity("box_iou, where the union is positive", largest(mine[~empty], theirs[~empty]), 0)


@st.composite
def pairs_of_boxes(draw):
    boxes = draw(box_sets(max_boxes=30))
    return boxes[::2][: len(boxes) // 2], boxes[1::2]


WEIGHTS = st.sampled_from((COURSE.box_weights, TORCHVISION.box_weights))


@EACH_DTYPE
@given(pairs_of_boxes(), WEIGHTS)
def test_encode_boxes(parity, dtype, pairs, weights):
    """Without area on either side too: both give the same infinities. The weights are multiplied in another order."""
    proposals, goals = (boxes.to(dtype) for boxes in pairs)
    mine = B.encode_boxes(proposals, goals, weights=weights)
    theirs = peers.BoxCoder(weights).encode_single(goals, proposals)
    parity(f"encode_boxes, {NAMES[dtype]}", largest(mine, theirs, at_least_one(theirs)), ROUNDING[dtype])


@EACH_DTYPE
@given(pairs_of_boxes(), WEIGHTS, st.sampled_from((COURSE, TORCHVISION)), SEEDS)
def test_decode_boxes(parity, dtype, pairs, weights, conventions, seed):
    """Differences are relative to the box's largest coordinate, which has been rounded on both sides."""
    anchors = pairs[0].to(dtype)
    deltas = 3 * torch.randn(len(anchors), 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    deltas = deltas * deltas.new_tensor(weights)
    clamp = conventions.delta_clamp
    mine = B.decode_boxes(anchors, deltas, weights=weights, clamp=clamp)
    theirs = peers.BoxCoder(weights, bbox_xform_clip=clamp).decode_single(deltas, anchors)
    magnitude = at_least_one(theirs).amax(dim=1, keepdim=True)
    parity(f"decode_boxes, {NAMES[dtype]}", largest(mine, theirs, magnitude), ROUNDING[dtype])


@EACH_DTYPE
@given(box_sets(), st.tuples(st.integers(1, 1400), st.integers(1, 1400)))
def test_clip_boxes(parity, dtype, boxes, size):
    boxes = boxes.to(dtype)
    parity("clip_boxes", largest(B.clip_boxes(boxes, size), torchvision.ops.clip_boxes_to_image(boxes, size)), 0)


# Non-maximum suppression: the same indices in the same order, whatever the boxes


def compare_nms(parity, row, boxes, scores, iou_thr):
    mine, theirs = nms(boxes, scores, iou_thr), torchvision.ops.nms(boxes, scores, iou_thr)
    parity(row, differing(mine, theirs), 0)


@st.composite
def scored_boxes(draw, *numbers, **sizes):
    boxes = draw(box_sets(*numbers, **sizes))
    return boxes, draw(scores_for(boxes))


@EACH_DTYPE
@settings(max_examples=300)
@given(scored_boxes(), THRESHOLDS)
def test_nms_of_few_boxes(parity, dtype, scored, iou_thr):
    boxes, scores = (x.to(dtype) for x in scored)
    compare_nms(parity, "nms, up to 20 boxes", boxes, scores, iou_thr)


def neighbors(value):
    """`value`, and the numbers next to it in its own type and in float64; rounding can lift an overlap above 1."""
    value = value.clamp(max=1)
    up, down = value.new_tensor(1), value.new_tensor(0)
    near = [torch.nextafter(x, toward.to(x)) for x in (value, value.double()) for toward in (up, down)]
    return [value.item(), *(x.item() for x in near)]


@EACH_DTYPE
@settings(max_examples=100)
@given(scored_boxes(min_boxes=2), st.data())
def test_nms_where_an_overlap_equals_the_threshold(parity, dtype, scored, data):
    boxes, scores = (x.to(dtype) for x in scored)
    overlaps = B.box_iou(boxes, boxes).triu(1).unique()
    iou_thr = overlaps[data.draw(st.integers(0, len(overlaps) - 1))]
    for near in neighbors(iou_thr):
        compare_nms(parity, "nms, an overlap at the threshold", boxes, scores, near)


@EACH_DTYPE
def test_nms_of_pairs_whose_overlap_equals_the_threshold(parity, dtype):
    """One rounding more or less, and the second box of a pair is kept or dropped by mistake."""
    boxes, scores = arrange("clustered", 4000, 0).to(dtype), torch.tensor([1.0, 0.0], dtype=dtype)
    pairs = [pair for pair in boxes.split(2) if B.box_iou(pair, pair)[0, 1] > 0]
    assert len(pairs) > 100
    for pair in pairs:
        for near in neighbors(B.box_iou(pair, pair)[0, 1]):
            compare_nms(parity, "nms, an overlap at the threshold", pair, scores, near)


LEVELS = st.sampled_from((1, 20, 10**6))  # with fewer than boxes there are ties


def random_scores(count, levels, seed):
    """`levels` different ones."""
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randint(levels, (count,), generator=generator).double() / levels


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=12)
@given(st.integers(1, 2500), SEEDS, LEVELS, THRESHOLDS)
@example(2500, 0, 20, 0.0)
@example(2500, 1, 20, 0.3)
@example(2500, 2, 20, 0.7)
@example(2500, 3, 10**6, 0.5)
def test_nms_of_many_boxes(parity, layout, count, seed, levels, iou_thr):
    boxes, scores = arrange(layout, count, seed), random_scores(count, levels, seed)
    for dtype in DTYPES:
        compare_nms(parity, "nms, up to 2,500 boxes", boxes.to(dtype), scores.to(dtype), iou_thr)


@pytest.mark.parametrize("order", ["falling", "rising", "by turns", "at random"])
@pytest.mark.parametrize("overlap", [9, 5, 1])
def test_nms_of_a_chain(parity, order, overlap):
    """Whether a box stays depends on the one before, and so on through 3,000 of them: no shortcut settles it."""
    x = torch.arange(3000.0) * (10 - overlap)
    boxes = torch.stack([x, 0 * x, x + 10, 0 * x + 10], dim=1)
    ranks = {
        "falling": x.flip(0),
        "rising": x,
        "by turns": x * (1 - 2 * (torch.arange(3000) % 2)),
        "at random": torch.rand(3000),
    }
    for iou_thr in (0.0, 0.04, 0.3, 0.5, 0.8):
        compare_nms(parity, "nms, chains of 3,000", boxes, ranks[order], iou_thr)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["scattered", "clustered", "one pile", "of all sizes"])
def test_nms_of_ten_thousand_boxes(parity, layout):
    boxes, scores = arrange(layout, 10_000, 0).float(), random_scores(10_000, 2000, 0).float()
    for iou_thr in (0.5, 0.7):
        compare_nms(parity, "nms, 10,000 boxes", boxes, scores, iou_thr)


def group_by_group(boxes, scores, groups, iou_thr):
    """The peer of `batched_nms`: torchvision's own shifts the groups apart, which errs on negative coordinates."""
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    for group in groups.unique():
        members = (groups == group).nonzero()[:, 0]
        kept[members[torchvision.ops.nms(boxes[members], scores[members], iou_thr)]] = True
    order = scores.argsort(descending=True, stable=True)
    return order[kept[order]]


IDS = (0, 1, 2, -1, 80, -(2**40), 2**62, -(2**63))


@EACH_DTYPE
@settings(max_examples=150)
@given(scored_boxes(), st.data(), THRESHOLDS)
def test_batched_nms_of_few_boxes(parity, dtype, scored, data, iou_thr):
    boxes, scores = (x.to(dtype) for x in scored)
    ids = data.draw(st.lists(st.sampled_from(IDS), min_size=len(boxes), max_size=len(boxes)))
    groups = torch.tensor(ids, dtype=torch.int64)
    mine, theirs = batched_nms(boxes, scores, groups, iou_thr), group_by_group(boxes, scores, groups, iou_thr)
    parity("batched_nms, up to 20 boxes", differing(mine, theirs), 0)


@pytest.mark.parametrize("iou_thr", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("box", [[0, 0, 1, 1], [-1e6, 0, 1e6, 1], [5, 5, 5, 9]])
@pytest.mark.parametrize("count", [200, 2000])
def test_batched_nms_keeps_the_same_box_in_each_group(parity, count, box, iou_thr):
    """Each box spans the whole range of coordinates: groups that are told apart by place must not even touch."""
    boxes, scores, groups = torch.tensor(box).float().repeat(count, 1), torch.zeros(count), torch.arange(count) % 100
    mine = batched_nms(boxes, scores, groups, iou_thr)
    assert groups[mine].unique().numel() == 100
    parity("batched_nms, one box in 100 groups", differing(mine, group_by_group(boxes, scores, groups, iou_thr)), 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=6)
@given(st.integers(1, 2500), SEEDS, LEVELS, THRESHOLDS, st.sampled_from((1, 5, 80, 2500)))
@example(2500, 0, 20, 0.5, 5)
@example(2500, 1, 20, 0.5, 80)
def test_batched_nms_of_many_boxes(parity, layout, count, seed, levels, iou_thr, kinds):
    groups = torch.randint(kinds, (count,), generator=torch.Generator().manual_seed(seed)) ** 3 - 7
    for dtype in DTYPES:
        boxes, scores = arrange(layout, count, seed).to(dtype), random_scores(count, levels, seed).to(dtype)
        mine, theirs = batched_nms(boxes, scores, groups, iou_thr), group_by_group(boxes, scores, groups, iou_thr)
        parity("batched_nms, up to 2,500 boxes", differing(mine, theirs), 0)


# Anchors and their assignment


@st.composite
def pyramids(draw):
    """An image size and the sides of its five maps: halved and rounded up, as strided convolutions do, or any."""
    size = draw(st.tuples(st.integers(1, 1344), st.integers(1, 1344)))
    if draw(st.booleans()):
        return size, [tuple(-(-side // 2**k) for side in size) for k in range(2, 7)]
    return size, draw(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=5, max_size=5))


SIZES = st.lists(st.integers(1, 600), min_size=5, max_size=5)
RATIOS = st.permutations((0.25, 0.5, 1.0, 2.0, 4.0)).map(lambda ratios: tuple(ratios[:3]))
P6_IS_61_APART = ((800, 1216), [(200, 304), (100, 152), (50, 76), (25, 38), (13, 19)])


@settings(max_examples=200)
@given(pyramids(), SIZES, RATIOS)
@example(P6_IS_61_APART, [32, 64, 128, 256, 512], TORCHVISION.anchor_ratios)
def test_anchors_with_torchvisions_conventions(parity, pyramid, sizes, ratios):
    size, sides = pyramid
    maps = [torch.zeros(1, 1, *side) for side in sides]
    mine = AnchorGenerator(sizes, ratios, conventions=TORCHVISION)(maps, size)
    peer = PeerAnchorGenerator(tuple((s,) for s in sizes), (tuple(1 / r for r in ratios),) * 5)
    (theirs,) = peer(ImageList(torch.zeros(1, 1, *size), [size]), maps)
    parity("anchors, torchvision's conventions", largest(mine, theirs), 0)


def test_the_last_level_of_800_by_1216_is_61_apart():
    size, sides = P6_IS_61_APART
    generator = AnchorGenerator(aspect_ratios=TORCHVISION.anchor_ratios, conventions=TORCHVISION)
    last = generator([torch.zeros(1, 1, *side) for side in sides], size)[-3 * 13 * 19 :].view(13, 19, 3, 4)
    assert (last[1:, :, :, 1] - last[:-1, :, :, 1] == 61).all() and (last[:, 1:, :, 0] - last[:, :-1, :, 0] == 64).all()


@settings(max_examples=20)
@given(pyramids(), SIZES, RATIOS)
def test_anchors_of_the_course_follow_the_formula(pyramid, sizes, ratios):
    """Centers at (index + 0.5) * stride, width / height = ratio, width * height = size²."""
    size, sides = pyramid
    mine = AnchorGenerator(sizes, ratios)([torch.zeros(1, 1, *side) for side in sides], size).double()
    start = 0
    for level, (rows, columns) in enumerate(sides):
        x1, y1, x2, y2 = mine[start : start + rows * columns * 3].view(rows, columns, 3, 4).unbind(3)
        start += rows * columns * 3
        stride, shape = 4 * 2**level, torch.ones(rows, columns, 3, dtype=torch.float64)
        expected = {
            "x": ((x1 + x2) / 2, (torch.arange(columns)[:, None] + 0.5) * stride * shape),
            "y": ((y1 + y2) / 2, (torch.arange(rows)[:, None, None] + 0.5) * stride * shape),
            "ratio": ((x2 - x1) / (y2 - y1), torch.tensor(ratios) * shape),
            "area": ((x2 - x1) * (y2 - y1), sizes[level] ** 2 * shape),
        }
        for name, (value, wanted) in expected.items():
            # corners are float32 near 1,344, so that a side of 1 pixel is known to a 4,000th
            torch.testing.assert_close(value, wanted, rtol=4e-6 + 1e-3 / sizes[level], atol=1e-3, msg=name)
    assert start == len(mine)


# of the first box the others cover exactly 0.7, 0.5 and 0.3
AT_THRESHOLDS = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 7], [0, 0, 10, 5], [0, 0, 10, 3]]).double()


def peer_rpn(batch=256):
    nothing = {"training": 0, "testing": 0}
    return PeerRPN(None, None, 0.7, 0.3, batch, 0.5, nothing, nothing, 0.7)


def reachable(anchors, gt_boxes):
    """The ground truth that some anchor overlaps.

    torchvision makes *every* anchor positive for one that none does, since all tie at an overlap of 0.
    """
    return gt_boxes[(torchvision.ops.box_iou(gt_boxes, anchors) > 0).any(dim=1)] if len(anchors) else gt_boxes[:0]


@EACH_DTYPE
@settings(max_examples=150)
@given(box_sets(max_boxes=25), box_sets(max_boxes=6))
@example(AT_THRESHOLDS, AT_THRESHOLDS[:1])
def test_assign_anchors(parity, dtype, anchors, gt_boxes):
    anchors = with_area(anchors.to(dtype))
    gt_boxes = reachable(anchors, with_area(gt_boxes.to(dtype)))
    compare_assignment(parity, anchors, gt_boxes)


@settings(max_examples=30)
@given(box_sets(PIXELS, max_boxes=8))
def test_assign_anchors_of_a_pyramid(parity, gt_boxes):
    """Real anchors: regular, so that many tie for a ground truth, and all of the ties become positive."""
    anchors = AnchorGenerator()([torch.zeros(1, 1, 2 ** (6 - k), 2 ** (6 - k)) for k in range(5)], (256, 256))
    gt_boxes = B.clip_boxes(gt_boxes.float(), (256, 256))
    compare_assignment(parity, anchors, reachable(anchors, with_area(gt_boxes)))


def compare_assignment(parity, anchors, gt_boxes):
    labels, matches = assign_anchors(anchors, gt_boxes)
    (peer_labels,), (peer_boxes,) = peer_rpn().assign_targets_to_anchors([anchors], [{"boxes": gt_boxes}])
    parity("assign_anchors, labels", differing(labels, peer_labels.long()), 0)
    positive = labels == 1
    parity("assign_anchors, matched boxes", largest(gt_boxes[matches[positive]], peer_boxes[positive].to(gt_boxes)), 0)


@settings(max_examples=60)
@given(box_sets(max_boxes=30), box_sets(max_boxes=8), SEEDS)
@example(AT_THRESHOLDS, AT_THRESHOLDS[:1], 0)
def test_labels_of_regions(parity, proposals, gt_boxes, seed):
    """With room for all of them, the sample holds every region, in random order."""
    proposals, gt_boxes = with_area(proposals.float()), with_area(gt_boxes.float())
    gt_labels = torch.randint(1, 81, (len(gt_boxes),), generator=torch.Generator().manual_seed(seed))
    rois, labels, matched = sample_rois(proposals, {"boxes": gt_boxes, "labels": gt_labels}, 10**6, 1.0, 0.5)
    everything = torch.cat([proposals, gt_boxes])
    if len(gt_boxes) == 0:
        wanted = everything.new_zeros(len(everything), 5)
    else:
        found = peers.Matcher(0.5, 0.5, allow_low_quality_matches=False)(torchvision.ops.box_iou(gt_boxes, everything))
        positive = (found >= 0)[:, None]
        wanted = torch.cat([gt_labels[found.clamp(min=0), None], gt_boxes[found.clamp(min=0)]], dim=1) * positive
    mine = torch.zeros_like(wanted)
    mine[:, 0] = labels
    mine[: len(matched), 1:] = matched
    rows = sorted(torch.cat([rois, mine], dim=1).tolist()), sorted(torch.cat([everything, wanted], dim=1).tolist())
    parity("sample_rois, labels and matched boxes", sum(a != b for a, b in zip(*rows, strict=True)), 0)


# Losses


@st.composite
def deltas_and_goals(draw):
    count, seed, scale = draw(st.integers(0, 40)), draw(SEEDS), draw(st.sampled_from((0.1, 1.0, 100.0)))
    generator = torch.Generator().manual_seed(seed)
    deltas, goals = scale * torch.randn(2, count, 4, generator=generator, dtype=torch.float64)
    on_the_corner = torch.rand(count, 4, generator=generator) < 0.2  # where the square meets the line, and its middle
    edges = torch.tensor([-1 / 9, 0.0, 1 / 9]).double()[torch.randint(3, (count, 4), generator=generator)]
    return torch.where(on_the_corner, goals + edges, deltas), goals


@EACH_DTYPE
@given(deltas_and_goals())
def test_box_loss(parity, dtype, drawn):
    deltas, goals = (x.to(dtype).requires_grad_() for x in drawn)
    mine = box_loss(deltas, goals.detach())
    theirs = F.smooth_l1_loss(deltas, goals.detach(), beta=1 / 9) if len(deltas) else deltas.sum()  # not NaN
    parity(f"smooth-L1, mean, {NAMES[dtype]}", largest(mine, theirs, at_least_one(theirs)), ROUNDING[dtype])
    slopes = (torch.autograd.grad(loss, deltas)[0] for loss in (mine, theirs))
    parity(f"smooth-L1, gradient, {NAMES[dtype]}", largest(*slopes), ROUNDING[dtype])


@EACH_DTYPE
@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(2, 81), SEEDS)
def test_losses_of_regions(parity, dtype, count, classes, seed):
    """The box loss of the head, against the function that torchvision computes it with: divided by all sampled."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=generator, dtype=dtype)
    deltas = torch.randn(count, 4 * classes, generator=generator, dtype=dtype)
    goals = torch.randn(count, 4, generator=generator, dtype=dtype)
    labels = torch.randint(classes, (count,), generator=generator) * torch.randint(2, (count,), generator=generator)
    positive = labels > 0
    chosen = deltas.view(count, classes, 4)[positive, labels[positive]]
    _, theirs = fastrcnn_loss(logits, deltas, [labels], [goals])
    mine = box_loss(chosen, goals[positive], count=count)
    parity(f"smooth-L1 over sampled, {NAMES[dtype]}", largest(mine, theirs, at_least_one(theirs)), ROUNDING[dtype])


@settings(max_examples=50)
@given(st.lists(box_sets(PIXELS, max_boxes=4), min_size=1, max_size=3), SEEDS)
def test_losses_of_anchors(parity, gt_boxes, seed):
    """With room for all 189 anchors nothing is left to chance."""
    maps = [torch.zeros(1, 1, side, side) for side in (6, 4, 3, 1, 1)]
    anchors = AnchorGenerator(aspect_ratios=TORCHVISION.anchor_ratios, conventions=TORCHVISION)(maps, (192, 192))
    targets = [{"boxes": reachable(anchors, with_area(B.clip_boxes(b.float(), (192, 192))))} for b in gt_boxes]
    generator = torch.Generator().manual_seed(seed)
    logits, deltas = torch.randn(len(targets), len(anchors), 5, generator=generator).split((1, 4), dim=2)
    model = RegionProposalNetwork(RPNHead(1), None, rpn_batch=2 * len(anchors), conventions=TORCHVISION)
    sample = model.sample_anchors(anchors, targets)
    mine = model.compute_losses(logits[..., 0][sample.places], deltas[sample.places], sample)
    peer = peer_rpn(model.rpn_batch)
    labels, matched = peer.assign_targets_to_anchors([anchors] * len(targets), targets)
    goals = peer.box_coder.encode(matched, [anchors] * len(targets))
    theirs = peer.compute_loss(logits.reshape(-1, 1), deltas.reshape(-1, 4), labels, goals)
    for name, loss in zip(("rpn_cls", "rpn_box"), theirs, strict=True):
        # sums of up to 567 terms in another order
        parity(f"{name}, torchvision's conventions", largest(mine[name], loss, at_least_one(loss)), 1e-5)


# ROIAlign


BORDERS = (112.0, 224.0, 448.0)


def sides_near_the_borders(dtype):
    sides = torch.tensor(BORDERS, dtype=dtype)
    up, down = (torch.nextafter(sides, torch.full_like(sides, toward)) for toward in (1e9, 0.0))
    further = torch.nextafter(up, up + 1), torch.nextafter(down, down - 1)
    # a level is shifted by 1e-6 in torchvision: sides shorter by a factor of 2^-1e-6 stand at that border
    shifted = sides * 2**-1e-6
    around = torch.nextafter(shifted, up), torch.nextafter(shifted, 0 * up)
    return torch.cat([sides, up, down, *further, shifted, *around])


@pytest.mark.parametrize("conventions", [COURSE, TORCHVISION], ids=["course", "torchvision"])
@EACH_DTYPE
def test_levels_at_the_borders(parity, dtype, conventions):
    sides = sides_near_the_borders(dtype)
    areas = torch.cat([torch.stack([sides * share, sides / share], dim=1) for share in (1.0, 2.0, 0.25, 1.3)])
    boxes = torch.cat([torch.zeros_like(areas), areas], dim=1)
    compare_levels(parity, boxes, conventions)
    exact = torch.tensor([[0, 0, side, side] for side in BORDERS], dtype=dtype)
    assert ROIAlign(conventions=conventions).assign_levels(exact).tolist() == [3, 4, 5]


@EACH_DTYPE
@given(box_sets(), st.sampled_from((COURSE, TORCHVISION)))
def test_levels(parity, dtype, boxes, conventions):
    compare_levels(parity, boxes.to(dtype), conventions)


def peer_levels(boxes, conventions):
    return LevelMapper(2, 5, eps=conventions.level_eps)([boxes]) + 2


def compare_levels(parity, boxes, conventions):
    mine = ROIAlign(conventions=conventions).assign_levels(boxes)
    parity("level of a region", differing(mine, peer_levels(boxes, conventions)), 0)


@st.composite
def scenes(draw):
    """Maps of one or two images with values in −1…1, and regions: some within the image, some far outside."""
    height, width = draw(st.sampled_from(((64, 96), (128, 64), (320, 256))))
    images, seed = draw(st.integers(1, 2)), draw(SEEDS)
    generator = torch.Generator().manual_seed(seed)
    maps = [
        2 * torch.rand(images, 2, height // 2**k, width // 2**k, generator=generator, dtype=torch.float64) - 1
        for k in range(2, 6)
    ]
    within = st.integers(-40 * 64, 360 * 64).map(lambda i: i / 64)
    proposals = [draw(box_sets(within, within, *NUMBERS, max_boxes=8)) for _ in range(images)]
    return (height, width), maps, proposals


def torchvisions_course(maps, proposals, out_size):
    """`aligned=True`, region by region's level."""
    levels = peer_levels(torch.cat(proposals), COURSE)
    owner = torch.cat([torch.full_like(p[:, :1], i) for i, p in enumerate(proposals)])
    boxes = torch.cat([owner, torch.cat(proposals)], dim=1)
    cells = boxes.new_zeros(len(boxes), maps[0].shape[1], out_size, out_size)
    for k, fmap in enumerate(maps, start=2):
        cells[levels == k] = torchvision.ops.roi_align(fmap, boxes[levels == k], out_size, 0.5**k, 2, aligned=True)
    return cells


def torchvisions_own(maps, proposals, out_size, size):
    """`aligned=False`, and the levels that its pooler finds."""
    pooler = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], out_size, 2)
    return pooler(OrderedDict((str(i), fmap) for i, fmap in enumerate(maps)), proposals, [size] * len(proposals))


def samples(maps, proposals, out_size, conventions):
    """How far each region reaches on its map, in cells, and which output cells have a sample at a cut-off.

    A sample more than one cell outside the map counts 0, so that a rounding error there changes a value by much. Such
    cells are the one place where two correct implementations differ; they are left out of the comparison.
    """
    boxes = torch.cat(proposals)
    levels = peer_levels(boxes, conventions)
    scale, rounding = 0.5 ** levels.to(boxes.dtype)[:, None], torch.finfo(boxes.dtype).eps
    start, end = (boxes * scale).double().sub(conventions.roi_offset).split(2, dim=1)  # [K, 2] each: x, y
    end = end.maximum(start + conventions.min_roi)
    reach = torch.cat([start, end], dim=1).abs().amax(dim=1)
    sides = torch.tensor([[f.shape[3], f.shape[2]] for f in maps])[levels - 2]  # [K, 2]
    steps = (torch.arange(2 * out_size, dtype=torch.float64) + 0.5) / (2 * out_size)
    position = start[..., None] + (end - start)[..., None] * steps  # [K, 2, 2 * out]
    slack = 8 * rounding * at_least_one(reach)[:, None, None]
    at_cut = ((position + 1).abs() <= slack) | ((position - sides[..., None]).abs() <= slack)
    at_cut = at_cut.view(len(boxes), 2, out_size, 2).any(dim=3)
    return reach, at_cut[:, 1, :, None] | at_cut[:, 0, None, :]  # [K], [K, out, out]


@EACH_DTYPE
@pytest.mark.parametrize("conventions", [COURSE, TORCHVISION], ids=["course", "torchvision"])
@settings(max_examples=60)
@given(scenes(), st.sampled_from((7, 7, 2, 14)), SEEDS)
def test_roi_align(parity, conventions, dtype, scene, out_size, seed):
    """Values of order 1 agree to 1e-4, and so do the gradients with respect to the maps.

    A position p cells from the origin is rounded to p / 2^23 in float32, whoever computes it: beyond 256 cells the
    difference of a region is divided by how many times 256 cells it reaches. In float64 no such allowance is needed.
    """
    size, maps, proposals = scene
    maps = [fmap.to(dtype).requires_grad_() for fmap in maps]
    proposals = [boxes.to(dtype) for boxes in proposals]
    mine = ROIAlign(out_size, conventions=conventions)(maps, proposals, size)
    if conventions is COURSE:
        row, theirs = "aligned=True", torchvisions_course(maps, proposals, out_size)
    else:
        row, theirs = "MultiScaleRoIAlign", torchvisions_own(maps, proposals, out_size, size)
    reach, at_cut = samples(maps, proposals, out_size, conventions)
    allowance = (reach / 256).clamp(min=1).to(dtype) if dtype == torch.float32 else torch.ones_like(reach)
    counts = (~at_cut / allowance[:, None, None]).to(dtype)[:, None]  # [K, 1, out, out]
    parity(f"ROIAlign, {row}, {NAMES[dtype]}", largest(mine * counts, theirs * counts), 1e-4)
    weights = counts * (2 * torch.rand(mine.shape, generator=torch.Generator().manual_seed(seed)) - 1).to(dtype)
    for ours, peer in zip(*(torch.autograd.grad((o * weights).sum(), maps) for o in (mine, theirs)), strict=True):
        # a cell of the map adds up what all regions and samples near it send
        difference = largest(ours, peer, at_least_one(peer.abs().max()))
        parity(f"ROIAlign, {row}, gradient, {NAMES[dtype]}", difference, 1e-4)


@given(
    box_sets(st.integers(-10, 35).map(lambda i: 4.0 * i), min_boxes=1), st.sampled_from((COURSE, TORCHVISION)), SEEDS
)
def test_roi_align_at_the_cut_off(parity, boxes, conventions, seed):
    """With whole numbers and two bins nothing is rounded: a sample exactly at −1 or at the side still counts."""
    boxes = boxes + 4 * conventions.roi_offset
    fmap = torch.randint(-8, 9, (1, 1, 24, 20), generator=torch.Generator().manual_seed(seed)).float()
    mine = ROIAlign(2, k_max=2, conventions=conventions)([fmap], [boxes.float()], (96, 80))
    aligned = conventions is COURSE
    theirs = torchvision.ops.roi_align(fmap, [boxes.float()], 2, 0.25, 2, aligned=aligned)
    parity("ROIAlign, samples at a cut-off", largest(mine, theirs), 0)


# Backbone and pyramid


def with_torchvisions_weights(peer):
    """Our backbone and pyramid with the weights of a `resnet_fpn_backbone`."""
    backbone = ResNet50(weights=peer.body.state_dict())
    pyramid = FPN()
    for ours, theirs in ((pyramid.lateral, peer.fpn.inner_blocks), (pyramid.output, peer.fpn.layer_blocks)):
        for conv, block in zip(ours, theirs, strict=True):
            conv.load_state_dict(block[0].state_dict())
    return backbone.eval(), pyramid.eval()


def test_backbone_and_pyramid(parity):
    torch.manual_seed(0)
    peer = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5).eval()
    for norm in (m for m in peer.modules() if isinstance(m, torchvision.ops.FrozenBatchNorm2d)):
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.1)
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    backbone, pyramid = with_torchvisions_weights(peer)
    for batch, height, width in ((1, 97, 131), (2, 64, 96), (1, 33, 200)):
        images = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            levels = zip(pyramid(backbone(images)), peer(images).values(), strict=True)
        for mine, theirs in levels:
            parity("resnet_fpn_backbone, five maps", largest(mine, theirs, theirs.abs().max()), 1e-5)

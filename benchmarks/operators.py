"""The parts: ROIAlign, suppression, proposals, their losses, post-processing."""

import torch
import torchvision.ops as tv
from inputs import (
    MAP_SIDES,
    OURS,
    THEIRS,
    Sides,
    assert_same_boxes,
    assert_same_detections,
    clustered,
    feature_map,
    scenes,
    some_boxes,
)
from measure import DEVICE
from peers import Given, as_list, same_weights, torchvision_model
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.image_list import ImageList

from frcnn_common.boxes import box_iou
from frcnn_common.constants import TORCHVISION
from frcnn_common.detector import FasterRCNN
from frcnn_common.nms import nms
from frcnn_common.roi import FastRCNNPredictor, ROIAlign, TwoMLPHead
from frcnn_common.rpn import RegionProposalNetwork, flatten_levels


def roi_align(count=512, backward=False, channels_last=False):
    """Regions of two 400-pixel images on P2…P5, under torchvision's conventions."""
    maps = [feature_map(2, side) for side in MAP_SIDES[:4]]
    if channels_last:
        maps = [m.to(memory_format=torch.channels_last) for m in maps]
    rois = [some_boxes(count // 2, 400) for _ in range(2)]
    align, pool = ROIAlign(conventions=TORCHVISION), tv.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = {str(n): m for n, m in enumerate(maps)}
    return _aligned(
        maps,
        lambda: align(maps, rois, (400, 400)),
        lambda: pool(named, rois, [(400, 400)] * 2),
        backward,
    )


def _aligned(maps, ours, theirs, backward):
    for m in maps:
        m.requires_grad_()
    values, others = ours(), theirs()
    torch.testing.assert_close(values, others, atol=1e-4, rtol=1e-4)
    flow = torch.randn_like(others)
    gradients, other_gradients = (torch.autograd.grad(out, maps, flow) for out in (values, others))
    torch.testing.assert_close(gradients, other_gradients, atol=1e-4, rtol=1e-4)
    work = {OURS: ours, THEIRS: theirs}
    if backward:
        work = {name: lambda run=run: torch.autograd.grad(run(), maps, flow) for name, run in work.items()}
    else:
        work = {name: torch.no_grad()(run) for name, run in work.items()}
    apart = [(a - b).abs().max().item() for a, b in zip((values, *gradients), (others, *other_gradients), strict=True)]
    return Sides(work, {"regions": len(values), "largest difference": apart[0], "of gradients": max(apart[1:])})


def scattered_boxes(count):
    """`[N, 4]` boxes of a crowd of separate things: few overlap."""
    return some_boxes(count, int(1000 * max(count / 2000, 1) ** 0.5), 40, 160)


def suppression(kind, count):
    """NMS at 0.7 of a crowd (scattered), of an RPN's output (clustered: 80 boxes around a thing), or of one pile."""
    if kind == "scattered":
        boxes = scattered_boxes(count)
    elif kind == "clustered":
        boxes = clustered(count, max(count // 80, 1), 0.11, int(1000 * max(count / 2000, 1) ** 0.5))
    else:
        boxes = clustered(count, 1, 0.26)
    scores = torch.rand(count, device=DEVICE)
    kept, theirs = nms(boxes, scores, 0.7), tv.nms(boxes, scores, 0.7)
    assert torch.equal(kept, theirs), "NMS keeps other boxes than torchvision"
    few = boxes[:2000]
    overlap = (box_iou(few, few).sum().item() - len(few)) / (len(few) * (len(few) - 1))  # of pairs, none with itself
    return Sides(
        {OURS: lambda: nms(boxes, scores, 0.7), THEIRS: lambda: tv.nms(boxes, scores, 0.7)},
        {"survive": round(len(kept) / count, 4), "mean IoU": round(overlap, 5)},
    )


def scattered(count):
    sides = suppression("scattered", count)
    assert sides.found["mean IoU"] < 0.02, sides.found
    return sides


def overlapping(kind, count):
    sides = suppression(kind, count)
    assert 0.15 <= sides.found["survive"] <= 0.25, sides.found
    return sides


# --- Proposals and detections -----------------------------------------------------------------------------------------
def _rpns(batch):
    """Both region proposal networks with the same head, over the maps of a 400-pixel batch."""
    peer, _ = torchvision_model(None, 1)
    ours, theirs = same_weights(peer, 1).rpn, peer.rpn
    return (
        ours,
        theirs,
        [feature_map(batch, side) for side in MAP_SIDES],
        ImageList(torch.empty(batch, 3, 400, 400, device=DEVICE), [(400, 400)] * batch),
    )


def proposals_from_head(batch):
    """Our network, whose head gives what is given, and the maps of a 400-pixel batch."""
    rpn, _, maps, _ = _rpns(batch)
    with torch.no_grad():
        rpn.head = Given(*rpn.head(maps))
    return rpn.eval(), maps


@torch.no_grad()
def proposals(batch=4, convolutions=True, same_layout=False):
    """Each side gets the maps in the layout in which its own pyramid hands them over, or both in torchvision's."""
    ours, theirs, maps, images = _rpns(batch)
    ours.eval(), theirs.eval()
    if not convolutions:
        ours.head = theirs.head = Given(*theirs.head(maps))
    named = {str(n): m for n, m in enumerate(maps)}
    our_maps = maps if same_layout else [m.contiguous(memory_format=torch.channels_last) for m in maps]
    work = {
        OURS: torch.no_grad()(lambda: ours(our_maps, (400, 400))),
        THEIRS: torch.no_grad()(lambda: theirs(images, named)),
    }
    found = [run()[0] for run in work.values()]
    for a, b in zip(*found, strict=True):
        assert_same_boxes(a, b, "proposals")
    return Sides(work, {"proposals": [len(p) for p in found[0]]})


def rpn_losses(batch=4):
    """Assignment and the two losses, from the head's output on; checked with every anchor drawn."""
    ours, theirs, maps, images = _rpns(batch)
    with torch.no_grad():
        cls_outs, box_outs = theirs.head(maps)
    logits, deltas = flatten_levels(cls_outs, 1)[..., 0], flatten_levels(box_outs, 4)
    logits.requires_grad_(), deltas.requires_grad_()
    anchors = theirs.anchor_generator(images, maps)
    torch.testing.assert_close(ours.anchor_gen(maps, (400, 400)), anchors[0])
    targets = scenes(batch, 400)

    def run_ours(rpn=ours):
        sample = rpn.sample_anchors(anchors[0], targets)
        return list(rpn.compute_losses(logits[sample.places], deltas[sample.places], sample).values())

    def run_theirs():
        labels, matched = theirs.assign_targets_to_anchors(anchors, targets)
        goals = theirs.box_coder.encode(matched, anchors)
        return theirs.compute_loss(logits.flatten()[:, None], deltas.view(-1, 4), labels, goals)

    every_anchor = RegionProposalNetwork(ours.head, ours.anchor_gen, rpn_batch=10**7, conventions=TORCHVISION)
    sampler, theirs.fg_bg_sampler = theirs.fg_bg_sampler, BalancedPositiveNegativeSampler(10**7, 0.5)
    losses = [[round(loss.item(), 6) for loss in run()] for run in (lambda: run_ours(every_anchor), run_theirs)]
    torch.testing.assert_close(*map(torch.tensor, losses), atol=1e-4, rtol=1e-4)
    theirs.fg_bg_sampler = sampler
    return Sides({OURS: run_ours, THEIRS: run_theirs}, {"losses over all anchors": losses, "anchors": len(anchors[0])})


def head_output(classes, count, pairs):
    """Both models behind their heads: ours (its layers give what is given), torchvision's, regions, logits, deltas."""
    rois = clustered(count, count // 25, 0.1, 800).clamp(0, 800)
    logits = torch.randn(count, classes + 1, device=DEVICE).mul_(0.3)
    logits[:, 0] = 8.0
    thing = torch.arange(count, device=DEVICE) // 25  # the regions around one thing agree on its class, and on a rival
    for rival in range(pairs // count):
        logits[torch.arange(count), (thing + 3 * rival) % classes + 1] = 6 + 2 * torch.rand(count, device=DEVICE)
    deltas = torch.randn(count, 4 * (classes + 1), device=DEVICE).mul_(0.3)
    above = int((logits.softmax(dim=1)[:, 1:] > 0.05).sum())
    assert 0.95 * pairs <= above <= 1.05 * pairs, f"{above} pairs above the threshold"
    peer, _ = torchvision_model(None, 1)
    model = FasterRCNN(2, width=8, fc_dim=8, conventions=TORCHVISION).eval()
    model.roi_align, model.box_head, model.predictor = Given(None), Given(None), Given(logits, deltas)
    return model, peer, rois, logits, deltas


def postprocess(classes=80, count=1000, pairs=2000):
    """Detections from the head's output: `pairs` classes of regions score above 0.05, the rest do not."""
    model, peer, rois, logits, deltas = head_output(classes, count, pairs)
    work = {
        OURS: lambda: model.detect([], [rois], (800, 800), [(800, 800)]),
        THEIRS: lambda: peer.roi_heads.postprocess_detections(logits, deltas, [rois], [(800, 800)]),
    }
    detections, theirs = work[OURS](), as_list(*work[THEIRS]())
    assert_same_detections(detections, theirs)
    return Sides(work, {"pairs": pairs, "detections": len(detections[0]["boxes"])})


def box_head(count):
    """ROIAlign and the head behind it; regions of two images."""
    sides = roi_align(count)
    head, predictor = TwoMLPHead().to(DEVICE), FastRCNNPredictor().to(DEVICE)

    def behind(align):
        def run():
            with torch.no_grad():
                return predictor(head(align()))

        return run

    return Sides({name: behind(align) for name, align in sides.work.items()}, sides.found)

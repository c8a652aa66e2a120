"""Earlier forms of what the library does, each as short as the idea that replaced it, and equal to it in result."""

import copy

import torch
import torch.nn.functional as F
from inputs import MAP_SIDES, Sides, assert_same_boxes, assert_same_detections, feature_map, picture, some_boxes
from measure import DEVICE
from operators import head_output, proposals_from_head, scattered_boxes
from torch import Tensor

from frcnn_common.backbone import ResNet50
from frcnn_common.boxes import box_iou, clip_boxes, decode_boxes
from frcnn_common.constants import TORCHVISION
from frcnn_common.nms import batched_nms, nms
from frcnn_common.roi import ROIAlign
from frcnn_common.rpn import flatten_levels

NOW = "the library"


# --- ROIAlign ---------------------------------------------------------------------------------------------------------
def grid_sampled(maps: list[Tensor], rois: list[Tensor], out=7) -> Tensor:
    """`[K, C, out, out]`: the sample points of all regions of a map as one tall grid, read by `grid_sample`."""
    choose = ROIAlign(conventions=TORCHVISION).assign_levels
    steps = (torch.arange(2 * out, device=DEVICE) + 0.5) / (2 * out)
    places, cells = [], []
    for image, boxes in enumerate(rois):
        first = sum(len(r) for r in rois[:image])
        for level, fmap in enumerate(maps):
            chosen = (choose(boxes) == level + 2).nonzero()[:, 0]
            if len(chosen) == 0:
                continue
            start, end = (boxes[chosen] / 2 ** (level + 2)).split(2, dim=1)
            points = start[:, None] + steps[:, None] * (end - start).clamp(min=1)[:, None]  # [K, 2 * out, (x, y)]
            points = (2 * points + 1) / points.new_tensor(fmap.shape[:1:-1]) - 1  # grid_sample's -1…1
            x, y = points.unbind(-1)
            grid = torch.stack([x[:, None].expand(-1, 2 * out, -1), y[:, :, None].expand(-1, -1, 2 * out)], dim=-1)
            tall = grid.reshape(1, -1, 2 * out, 2)  # [1, K * 2 * out, 2 * out, 2]
            samples = F.grid_sample(fmap[image : image + 1], tall, padding_mode="border", align_corners=False)
            cells.append(F.avg_pool2d(samples, 2)[0].unflatten(1, (-1, out)).transpose(0, 1))
            places.append(chosen + first)
    return torch.cat(cells)[torch.cat(places).argsort()]


def roi_align(count=512):
    """Forward and backward on P2…P5 of two images."""
    maps = [feature_map(2, side).requires_grad_() for side in MAP_SIDES[:4]]
    rois, align = [some_boxes(count // 2, 400) for _ in range(2)], ROIAlign(conventions=TORCHVISION)
    flow = torch.randn(count, 256, 7, 7, device=DEVICE)
    forms = {
        "grid_sample, a grid for each map": lambda: grid_sampled(maps, rois),
        NOW: lambda: align(maps, rois, (400, 400)),
    }
    torch.testing.assert_close(*(form() for form in forms.values()), atol=1e-4, rtol=1e-4)
    work = {
        name: lambda form=form: torch.autograd.grad(form(), maps, flow, materialize_grads=True)
        for name, form in forms.items()
    }
    for a, b in zip(*(form() for form in work.values()), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    return Sides(work, {"regions": count})


# --- Suppression ------------------------------------------------------------------------------------------------------
def walk(boxes: Tensor, scores: Tensor, iou_thr: float) -> Tensor:
    """Greedy suppression as it is told: take the best, drop what overlaps it, repeat."""
    order, kept = scores.argsort(descending=True, stable=True), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[box_iou(boxes[best][None], boxes[order])[0] <= iou_thr]
    return torch.stack(kept)


def in_blocks(boxes: Tensor, scores: Tensor, iou_thr: float, block=256) -> Tensor:
    """The fixed point of `keep = ~(keep @ suppresses)`, block by block; survivors of a block clear what follows."""
    order, kept = scores.argsort(descending=True, stable=True), []
    while len(order):
        first, order = order[:block], order[block:]
        suppresses = (box_iou(boxes[first], boxes[first]) > iou_thr).triu(1).float()
        keep, before = torch.ones(len(first), device=boxes.device), None
        while before is None or not torch.equal(keep, before):
            keep, before = (keep @ suppresses == 0).float(), keep
        kept.append(first[keep.bool()])
        order = order[~(box_iou(boxes[kept[-1]], boxes[order]) > iou_thr).any(dim=0)]
    return torch.cat(kept)


def suppression(count):
    boxes, scores = scattered_boxes(count), torch.rand(count, device=DEVICE)
    forms = {"a step for each box": walk, "a fixed point for each block": in_blocks, NOW: nms}
    if count > 2000:
        del forms["a step for each box"]  # ten seconds
    kept = [form(boxes, scores, 0.7) for form in forms.values()]
    assert all(torch.equal(kept[0], other) for other in kept)
    work = {name: lambda form=form: form(boxes, scores, 0.7) for name, form in forms.items()}
    return Sides(work, {"boxes": count, "survive": len(kept[0])})


# --- Backbone ---------------------------------------------------------------------------------------------------------
def normalized(conv, norm, x, fold):
    """A convolution with its frozen batch norm: as a pass of its own, or inside the weights."""
    if not fold:
        fixed = norm.running_mean, norm.running_var, norm.weight, norm.bias
        return F.batch_norm(F.conv2d(x, conv.weight, None, conv.stride, conv.padding), *fixed, eps=norm.eps)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    return F.conv2d(x, conv.weight * scale[:, None, None, None], bias, conv.stride, conv.padding)


def stage_by_stage(backbone: ResNet50, x: Tensor, fold: bool) -> tuple:
    """`c2…c5` from the backbone's weights, with nothing but `torch.nn.functional`."""
    x = F.max_pool2d(normalized(*backbone.stem[:2], x, fold).relu_(), 3, stride=2, padding=1)
    maps = []
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        for block in stage:
            shortcut = x if block.downsample is None else normalized(*block.downsample, x, fold)
            x = normalized(block.conv1, block.bn1, x, fold).relu_()
            x = normalized(block.conv2, block.bn2, x, fold).relu_()
            x = (normalized(block.conv3, block.bn3, x, fold) + shortcut).relu_()
        maps.append(x)
    return tuple(maps)


def _backbone():
    """A backbone with frozen norms that do something, a batch of two, and the layout that the library computes in."""
    backbone = ResNet50(norm="frozen", checkpoint=False).to(DEVICE).eval()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.2, 0.6), module.bias.data.normal_(0, 0.1)
    images = torch.stack([picture(416, 416) for _ in range(2)])
    with torch.no_grad():
        c2 = backbone(images)[0]
    return backbone, images, torch.contiguous_format if c2.is_contiguous() else torch.channels_last


def _backbone_forms(first, backbone, images, fold, layout):
    backbone_then = copy.deepcopy(backbone).to(memory_format=layout)
    images_then = images.to(memory_format=layout)
    work = {
        first: torch.no_grad()(lambda: stage_by_stage(backbone_then, images_then, fold)),
        NOW: torch.no_grad()(lambda: backbone(images)),
    }
    for a, b in zip(*(form() for form in work.values()), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    return Sides(work, {"input": list(images.shape), "layout before": str(layout).removeprefix("torch.")})


def batch_norm():
    """Only the norm differs: the form before runs in the library's layout."""
    backbone, images, layout = _backbone()
    return _backbone_forms("a pass of its own", backbone, images, False, layout)


def layout():
    """Only the layout differs: the form before has its norms inside the convolutions, too."""
    backbone, images, _ = _backbone()
    return _backbone_forms("channel by channel (NCHW)", backbone, images, True, torch.contiguous_format)


# --- Decoding ---------------------------------------------------------------------------------------------------------
@torch.no_grad()
def decode_then_choose(rpn, maps, image_size):
    """Proposals of each image from all anchors, decoded and clipped, of which the best of each level then compete."""
    cls_outs, box_outs = rpn.head(maps)
    logits, deltas = flatten_levels(cls_outs, 1)[..., 0], flatten_levels(box_outs, 4)
    anchors, counts = rpn.anchor_gen(maps, image_size), [out[0].numel() for out in cls_outs]
    share = rpn.conventions.eval_share
    proposals = []
    for logit, delta in zip(logits, deltas, strict=True):
        boxes = clip_boxes(decode_boxes(anchors, delta, clamp=rpn.conventions.delta_clamp), image_size)
        best, levels, start = [], [], 0
        for level, count in enumerate(counts):
            best.append(logit[start : start + count].topk(min(count, int(rpn.pre_nms * share))).indices + start)
            levels.append(torch.full_like(best[-1], level))
            start += count
        best, levels = torch.cat(best), torch.cat(levels)
        boxes, scores = boxes[best], logit[best].sigmoid()
        large = ((boxes[:, 2:] - boxes[:, :2]) >= rpn.min_sz).all(dim=1)
        kept = batched_nms(boxes[large], scores[large], levels[large], rpn.nms_thr)[: int(rpn.post_nms * share)]
        proposals.append(boxes[large][kept])
    return proposals


def proposals(batch=4):
    rpn, maps = proposals_from_head(batch)
    work = {
        "decode every anchor": lambda: decode_then_choose(rpn, maps, (400, 400)),
        NOW: torch.no_grad()(lambda: rpn(maps, (400, 400))[0]),
    }
    for a, b in zip(*(form() for form in work.values()), strict=True):
        assert_same_boxes(a, b, "proposals")
    return Sides(work, {"anchors": len(rpn.anchor_gen(maps, (400, 400))), "images": batch})


def decode_every_class(model, rois, logits, deltas, size):
    """Detections of an image: decode all regions × classes, then look at the scores."""
    scores = logits.softmax(dim=1)[:, 1:].flatten()
    classes = logits.shape[1]
    repeated = rois.repeat_interleave(classes, dim=0)
    boxes = decode_boxes(
        repeated, deltas.view(-1, 4), weights=model.box_weights, clamp=model.conventions.delta_clamp
    ).view(-1, classes, 4)[:, 1:]
    boxes = clip_boxes(boxes.reshape(-1, 4), size)
    labels = torch.arange(1, classes, device=DEVICE).repeat(len(rois))
    good = (scores > model.score_thr) & ((boxes[:, 2:] - boxes[:, :2]) >= model.MIN_SIDE).all(dim=1)
    boxes, scores, labels = boxes[good], scores[good], labels[good]
    kept = batched_nms(boxes, scores, labels, model.nms_thr)[: model.max_dets]
    return [{"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}]


def postprocess():
    model, _, rois, logits, deltas = head_output(80, 1000, 2000)
    size = (800, 800)
    work = {
        "decode every class": lambda: decode_every_class(model, rois, logits, deltas, size),
        NOW: lambda: model.detect([], [rois], size, [size]),
    }
    assert_same_detections(*(form() for form in work.values()))
    return Sides(work, {"boxes decoded before": logits.numel() - len(logits), "boxes decoded now": 2000})

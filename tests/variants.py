"""The parts of the course as different people write them, all of them right: a list in `VARIANTS` for each part."""

import itertools
import math
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

VARIANTS = {}


def variant_of(name):
    """Add a function or class to the variants of a part."""

    def add(version):
        VARIANTS.setdefault(name, []).append(version)
        return version

    return add


# ------------------------------------------------------------------------------------------------ boxes


def overlap(a, b):
    """Overlap of two boxes, number by number."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = map(list, (a, b))
    inter = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    return inter / union if union > 0 else 0.0


@variant_of("box_iou")
def iou_in_loops(boxes_a, boxes_b):
    out = torch.zeros(len(boxes_a), len(boxes_b))
    for i, a in enumerate(boxes_a.tolist()):
        for j, b in enumerate(boxes_b.tolist()):
            out[i, j] = overlap(a, b)
    return out


@variant_of("box_iou")
def iou_in_float64(boxes_a, boxes_b, *, eps=0.0):
    a, b = boxes_a.double(), boxes_b.double()
    w = torch.min(a[:, None, 2], b[:, 2]) - torch.max(a[:, None, 0], b[:, 0])
    h = torch.min(a[:, None, 3], b[:, 3]) - torch.max(a[:, None, 1], b[:, 1])
    inter = w.clamp(min=0) * h.clamp(min=0)
    area_a, area_b = ((c[:, 2] - c[:, 0]) * (c[:, 3] - c[:, 1]) for c in (a, b))
    union = area_a[:, None] + area_b - inter
    return (inter / (union + eps)).nan_to_num(0.0)


@variant_of("box_iou")
def iou_of_lists(boxes_a, boxes_b):
    """Of boxes that are all apart, this is a tensor of whole numbers."""
    rows = [[overlap(a, b) or 0 for b in boxes_b.tolist()] for a in boxes_a.tolist()]
    return torch.tensor(rows).view(len(boxes_a), len(boxes_b))


@variant_of("box_iou")
def iou_in_numpy(boxes_a, boxes_b):
    a, b = boxes_a.numpy()[:, None], boxes_b.numpy()[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    inter = sides.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


@variant_of("encode_boxes")
def encode_by_columns(proposals, gt_boxes):
    px1, py1, px2, py2 = proposals.T
    gx1, gy1, gx2, gy2 = gt_boxes.T
    pw, ph, gw, gh = px2 - px1, py2 - py1, gx2 - gx1, gy2 - gy1
    tx = ((gx1 + gx2) - (px1 + px2)) / 2 / pw
    ty = ((gy1 + gy2) - (py1 + py2)) / 2 / ph
    return torch.stack([tx, ty, gw.log() - pw.log(), gh.log() - ph.log()], dim=1)


@variant_of("encode_boxes")
def encode_in_loops(proposals, gt_boxes, weights=(1, 1, 1, 1)):
    out = torch.zeros(len(proposals), 4, dtype=torch.float64)
    for i, (p, g) in enumerate(zip(proposals.tolist(), gt_boxes.tolist(), strict=True)):
        for axis in (0, 1):
            size, gt_size = p[axis + 2] - p[axis], g[axis + 2] - g[axis]
            center, gt_center = p[axis] + size / 2, g[axis] + gt_size / 2
            out[i, axis] = weights[axis] * (gt_center - center) / size
            out[i, axis + 2] = weights[axis + 2] * math.log(gt_size / size)
    return out


@variant_of("decode_boxes")
def decode_by_columns(anchors, deltas):
    x1, y1, x2, y2 = anchors.unbind(1)
    tx, ty, tw, th = deltas.unbind(1)
    cx, cy = (x1 + x2) / 2 + tx * (x2 - x1), (y1 + y2) / 2 + ty * (y2 - y1)
    w, h = (x2 - x1) * tw.clamp(max=4).exp(), (y2 - y1) * th.clamp(max=4).exp()
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=1)


@variant_of("decode_boxes")
def decode_in_loops(anchors, deltas, clamp=4.0):
    out = torch.empty_like(anchors, dtype=torch.float64)
    for i, (a, d) in enumerate(zip(anchors.double(), deltas.double(), strict=True)):
        for axis in (0, 1):
            size = a[axis + 2] - a[axis]
            new = size * math.exp(min(clamp, d[axis + 2].item()))
            out[i, axis] = a[axis] + size / 2 + d[axis] * size - new / 2
            out[i, axis + 2] = out[i, axis] + new
    return out


@variant_of("clip_boxes")
def clip_with_minimum(boxes, image_size):
    height, width = image_size
    return torch.minimum(torch.maximum(boxes, torch.tensor(0.0)), torch.tensor([width, height, width, height]))


@variant_of("clip_boxes")
def clip_in_loops(boxes, image_size):
    height, width = image_size
    rows = [
        [min(max(v, 0.0), float(bound)) for v, bound in zip(row, (width, height) * 2, strict=True)]
        for row in boxes.tolist()
    ]
    return torch.tensor(rows).view(-1, 4)


@variant_of("clip_boxes")
def clip_a_copy(boxes, image_size):
    boxes = boxes.clone()
    boxes[:, 0::2].clamp_(0, image_size[1])
    boxes[:, 1::2].clamp_(0, image_size[0])
    return boxes


# ---------------------------------------------------------------------------------------------- anchors


@variant_of("make_anchors")
def anchors_in_loops(size, stride, rows, columns, ratios=(0.5, 1.0, 2.0)):
    out = []
    for row, column, ratio in itertools.product(range(rows), range(columns), ratios):
        w, h = size * ratio**0.5, size / ratio**0.5
        x, y = (column + 0.5) * stride, (row + 0.5) * stride
        out.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return torch.tensor(out)


@variant_of("make_anchors")
def anchors_shifted(size, stride, rows, columns, ratios=(0.5, 1.0, 2.0)):
    r = torch.tensor(ratios, dtype=torch.float64)
    w, h = size * r.sqrt(), size / r.sqrt()
    base = torch.stack([-w, -h, w, h], dim=1) / 2
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    shift = (torch.stack([x, y, x, y], dim=-1) * stride + stride / 2).view(-1, 1, 4)
    return (base + shift).reshape(-1, 4)


@variant_of("assign_anchors")
def assign_in_loops(anchors, gt_boxes, pos_thr=0.7, neg_thr=0.3):
    table = [[overlap(a, g) for g in gt_boxes.tolist()] for a in anchors.tolist()]
    labels, matches = [], []
    for row in table:
        best = max(row, default=0.0)
        matches.append(row.index(best) if row else 0)
        labels.append(1 if best >= pos_thr else 0 if best < neg_thr else -1)
    for g in range(len(gt_boxes)):
        column = [row[g] for row in table]
        for i, value in enumerate(column):
            if value == max(column) > 0:
                labels[i] = 1
    return torch.tensor(labels), torch.tensor(matches)


@variant_of("assign_anchors")
def assign_the_other_way(anchors, gt_boxes, pos_thr=0.7, neg_thr=0.3, *, iou_of=iou_in_float64):
    labels = torch.full((len(anchors),), -1, dtype=torch.int32)
    if gt_boxes.numel() == 0:
        return torch.zeros_like(labels), torch.zeros_like(labels)
    iou = iou_of(anchors, gt_boxes)  # [A, G]
    best, matches = iou.max(dim=1)
    labels[best < neg_thr] = 0
    labels[best >= pos_thr] = 1
    top = iou.max(dim=0).values
    for g in (top > 0).nonzero()[:, 0]:
        labels[iou[:, g] == top[g]] = 1
    return labels, matches


@variant_of("subsample")
def subsample_with_lists(labels, size=256, pos_frac=0.5):
    positives = [i for i, v in enumerate(labels.tolist()) if v > 0]
    negatives = [i for i, v in enumerate(labels.tolist()) if v == 0]
    positives = random.sample(positives, min(len(positives), int(size * pos_frac)))
    return positives, random.sample(negatives, min(len(negatives), size - len(positives)))


@variant_of("subsample")
def subsample_by_random_numbers(labels, size=256, pos_frac=0.5, generator=None):
    keys = torch.rand(len(labels), generator=generator)
    order = keys.argsort()
    positives = order[labels[order] > 0][: int(size * pos_frac)]
    return positives, order[labels[order] == 0][: size - len(positives)]


# ---------------------------------------------------------------------------------------------- network


@variant_of("Bottleneck")
class PlainBottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_ch, out_ch, stride=1, downsample=None, *, relu=None):
        super().__init__()
        self.downsample = downsample
        self.relu = relu or nn.ReLU(inplace=True)
        self.bn3, self.bn2, self.bn1 = nn.BatchNorm2d(4 * out_ch), nn.BatchNorm2d(out_ch), nn.BatchNorm2d(out_ch)
        self.conv3 = nn.Conv2d(out_ch, 4 * out_ch, kernel_size=1, bias=False)
        self.conv2 = nn.Conv2d(out_ch, out_ch, kernel_size=3, stride=stride, padding=1, bias=False)
        self.conv1 = nn.Conv2d(in_ch, out_ch, kernel_size=1, bias=False)

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


@variant_of("Bottleneck")
class FunctionalBottleneck(PlainBottleneck):
    def forward(self, x):
        y = x
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            y = norm(conv(y if conv is self.conv1 else y.clamp(min=0)))
        return torch.relu((self.downsample or nn.Identity())(x) + y)


@variant_of("make_stage")
def stage_in_a_loop(in_ch, out_ch, blocks, stride):
    stage = nn.Sequential()
    for i in range(blocks):
        down = None
        if i == 0:
            conv = nn.Conv2d(in_ch, out_ch * 4, 1, stride=stride, bias=False)
            down = nn.Sequential(conv, nn.BatchNorm2d(out_ch * 4))
        stage.append(PlainBottleneck(in_ch if i == 0 else out_ch * 4, out_ch, stride if i == 0 else 1, down))
    return stage


@variant_of("make_stage")
def stage_with_empty_shortcuts(in_ch, out_ch, blocks, stride, block=FunctionalBottleneck):
    down = nn.Sequential(nn.Conv2d(in_ch, 4 * out_ch, 1, stride, bias=False), nn.BatchNorm2d(4 * out_ch))
    rest = [block(4 * out_ch, out_ch, 1, nn.Identity()) for _ in range(1, blocks)]
    return nn.Sequential(block(in_ch, out_ch, stride, down), *rest)


@variant_of("FPN")
class PlainFPN(nn.Module):
    def __init__(self, in_channels=(256, 512, 1024, 2048), out_channels=256, pool=True):
        super().__init__()
        self.output = nn.ModuleList([nn.Conv2d(out_channels, out_channels, 3, 1, 1) for _ in in_channels])
        self.lateral = nn.ModuleList([nn.Conv2d(channels, out_channels, 1) for channels in in_channels])
        self.pool = nn.MaxPool2d(1, 2) if pool else nn.AvgPool2d(1, 2)

    def forward(self, features):
        c2, c3, c4, c5 = features
        m5 = self.lateral[3](c5)
        m4 = self.lateral[2](c4) + F.interpolate(m5, c4.shape[2:])
        m3 = self.lateral[1](c3) + F.interpolate(m4, c3.shape[2:])
        m2 = self.lateral[0](c2) + F.interpolate(m3, c2.shape[2:])
        p = [conv(m) for conv, m in zip(self.output, (m2, m3, m4, m5), strict=True)]
        return (*p, self.pool(p[3]))


@variant_of("FPN")
class IndexedFPN(PlainFPN):
    def forward(self, features):
        merged = None
        levels = []
        for i in reversed(range(4)):
            side = self.lateral[i](features[i])
            if merged is not None:
                rows = torch.arange(side.shape[2]) * merged.shape[2] // side.shape[2]
                columns = torch.arange(side.shape[3]) * merged.shape[3] // side.shape[3]
                side = side + merged[:, :, rows][..., columns]
            merged = side
            levels.append(self.output[i](merged))
        levels.reverse()
        return [*levels, levels[-1][:, :, ::2, ::2]]


# -------------------------------------------------------------------------------------------- proposals


@variant_of("RPNHead")
class PlainRPNHead(nn.Module):
    def __init__(self, in_ch=256, k=3, std=0.01):
        super().__init__()
        self.box, self.cls = nn.Conv2d(in_ch, k * 4, 1), nn.Conv2d(in_ch, k, 1)
        self.conv = nn.Conv2d(in_ch, in_ch, 3, padding="same")
        for name, parameter in self.named_parameters():
            nn.init.normal_(parameter, 0, std) if "weight" in name else nn.init.zeros_(parameter)

    def forward(self, features):
        hidden = [torch.relu(self.conv(f)) for f in features]
        return [self.cls(h) for h in hidden], [self.box(h) for h in hidden]


@variant_of("RPNHead")
class ZippedRPNHead(PlainRPNHead):
    def forward(self, features):
        pairs = []
        for feature in features:
            h = self.conv(feature).clamp_(min=0)
            pairs.append((self.cls(h), self.box(h)))
        return tuple(zip(*pairs, strict=True))


@variant_of("flatten_levels")
def flatten_by_views(maps, width):
    flat = []
    for m in maps:
        b, channels, h, w = m.shape
        m = m.view(b, channels // width, width, h, w).permute(0, 3, 4, 1, 2)
        flat.append(m.reshape(b, h * w * channels // width, width))
    return torch.cat(flat, dim=1)


@variant_of("flatten_levels")
def flatten_in_loops(maps, width):
    images = []
    for b in range(len(maps[0])):
        rows = []
        for m in maps:
            for y, x in itertools.product(range(m.shape[2]), range(m.shape[3])):
                rows.append(m[b, :, y, x].reshape(-1, width))
        images.append(torch.cat(rows))
    return torch.stack(images).double()


@variant_of("nms")
def nms_with_a_rest(boxes, scores, iou_thr):
    rest, kept = scores.argsort(descending=True, stable=True), []
    while len(rest):
        kept.append(rest[0])
        overlaps = iou_in_float64(boxes[rest[:1]], boxes[rest[1:]])[0]
        rest = rest[1:][overlaps <= iou_thr]
    return kept


@variant_of("nms")
def nms_with_lists(boxes, scores, iou_thr):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i].item()):
        if all(overlap(boxes[i].tolist(), boxes[j].tolist()) <= iou_thr for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int32)


@variant_of("batched_nms")
def batched_nms_by_loop(boxes, scores, groups, iou_thr):
    kept = []
    for group in set(groups.tolist()):
        of_group = (groups == group).nonzero().flatten()
        kept += [of_group[i] for i in nms_with_a_rest(boxes[of_group], scores[of_group], iou_thr)]
    return sorted((int(i) for i in kept), key=lambda i: (-scores[i].item(), i))


@variant_of("batched_nms")
def batched_nms_by_offset(boxes, scores, groups, iou_thr):
    if not len(boxes):
        return groups
    numbers = groups.unique(return_inverse=True)[1]
    extent = boxes.max() - boxes.min() + 1
    return nms_with_lists(boxes.double() + (numbers * extent.double())[:, None], scores, iou_thr)


@variant_of("filter_proposals")
def filter_in_one_go(anchors, logits, deltas, image_size, pre_nms=2000, nms_thr=0.7, min_sz=16):
    order = logits.argsort(descending=True, stable=True)[:pre_nms]
    boxes = clip_with_minimum(decode_by_columns(anchors[order], deltas[order]), image_size)
    keep = (boxes[:, 2] - boxes[:, 0] >= min_sz) & (boxes[:, 3] - boxes[:, 1] >= min_sz)
    boxes, scores = boxes[keep], logits[order][keep]
    kept = nms_with_lists(boxes, scores, nms_thr)
    return boxes[kept], scores[kept]


@variant_of("filter_proposals")
def filter_box_by_box(anchors, logits, deltas, image_size, pre_nms=2000, nms_thr=0.7, min_sz=16):
    boxes, scores = [], []
    for i in sorted(range(len(logits)), key=lambda i: -logits[i].item())[:pre_nms]:
        box = clip_in_loops(decode_in_loops(anchors[i : i + 1], deltas[i : i + 1]), image_size)[0]
        if min(box[2] - box[0], box[3] - box[1]) >= min_sz and all(overlap(box, b) <= nms_thr for b in boxes):
            boxes.append(box)
            scores.append(logits[i])
    return torch.stack(boxes), torch.stack(scores)


# ---------------------------------------------------------------------------------------------- regions


@variant_of("roi_align")
def align_by_grid_sample(fmap, boxes, stride, out_size=7):
    _, height, width = fmap.shape
    steps = (torch.arange(2 * out_size) + 0.5) / (2 * out_size)
    x = boxes[:, :1] + steps * (boxes[:, 2:3] - boxes[:, :1])
    y = boxes[:, 1:2] + steps * (boxes[:, 3:4] - boxes[:, 1:2])
    x, y = 2 * x / (stride * width) - 1, 2 * y / (stride * height) - 1
    count = 2 * out_size
    grid = torch.stack([x[:, None].expand(-1, count, -1), y[:, :, None].expand(-1, -1, count)], dim=-1)
    samples = F.grid_sample(fmap.expand(len(boxes), -1, -1, -1), grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(samples, 2)


@variant_of("roi_align")
def align_in_loops(fmap, boxes, stride, out_size=7, samples=2):
    fmap, (channels, height, width) = fmap.double().numpy(), fmap.shape
    out = np.zeros((len(boxes), channels, out_size, out_size))
    shares = [(s + 0.5) / samples for s in range(samples)]

    def read(y, x):
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        upper = fmap[:, y0, x0] * (1 - x + x0) + fmap[:, y0, x1] * (x - x0)
        lower = fmap[:, y1, x0] * (1 - x + x0) + fmap[:, y1, x1] * (x - x0)
        return upper * (1 - y + y0) + lower * (y - y0)

    for k, (x1, y1, x2, y2) in enumerate((boxes.double() / stride - 0.5).tolist()):
        for i, j in itertools.product(range(out_size), repeat=2):
            for sy, sx in itertools.product(shares, repeat=2):
                y, x = y1 + (i + sy) * (y2 - y1) / out_size, x1 + (j + sx) * (x2 - x1) / out_size
                out[k, :, i, j] += read(y, x) / samples**2
    return out


@variant_of("assign_levels")
def levels_in_loops(boxes, k0=4, k_min=2, k_max=5):
    levels = []
    for x1, y1, x2, y2 in boxes.tolist():
        area = (x2 - x1) * (y2 - y1)
        level = math.floor(k0 + 0.5 * math.log2(area / 224**2)) if area > 0 else k_min
        levels.append(min(max(level, k_min), k_max))
    return levels


@variant_of("assign_levels")
def levels_by_comparison(boxes, k0=4, k_min=2, k_max=5):
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    levels = torch.full((len(boxes),), k_min, dtype=torch.int32)
    for k in range(k_min + 1, k_max + 1):
        levels[side >= 224 * 2.0 ** (k - k0)] = k
    return levels


@variant_of("TwoMLPHead")
class PlainTwoMLPHead(nn.Module):
    def __init__(self, in_channels=256 * 7 * 7, fc_dim=1024):
        super().__init__()
        self.fc2, self.fc1 = nn.Linear(fc_dim, fc_dim), nn.Linear(in_channels, fc_dim)

    def forward(self, x):
        return torch.relu(self.fc2(torch.relu(self.fc1(torch.flatten(x, start_dim=1)))))


@variant_of("TwoMLPHead")
class MatrixTwoMLPHead(PlainTwoMLPHead):
    def forward(self, x):
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        for layer in (self.fc1, self.fc2):
            x = (x @ layer.weight.T + layer.bias).clamp(min=0)
        return x


@variant_of("FastRCNNPredictor")
class PlainPredictor(nn.Module):
    def __init__(self, in_channels=1024, num_classes=81, *, stds=(0.01, 0.001)):
        super().__init__()
        self.box, self.cls = nn.Linear(in_channels, num_classes * 4), nn.Linear(in_channels, num_classes)
        for layer, std in zip((self.cls, self.box), stds, strict=True):
            layer.weight.data.normal_(0, std)
            layer.bias.data.fill_(0)

    def forward(self, x):
        return [self.cls(x), self.box(x)]


@variant_of("FastRCNNPredictor")
class JoinedPredictor(PlainPredictor):
    def forward(self, x):
        weight, bias = torch.cat([self.cls.weight, self.box.weight]), torch.cat([self.cls.bias, self.box.bias])
        return F.linear(x, weight, bias).split([len(self.cls.bias), len(self.box.bias)], dim=1)


@variant_of("sample_rois")
def rois_with_lists(proposals, target, size=512, pos_frac=0.25, pos_thr=0.5):
    pool = torch.cat([target["boxes"], proposals])
    best = [max([(overlap(r, g), -i) for i, g in enumerate(target["boxes"])], default=(0, 0)) for r in pool]
    positives = [i for i, (iou, _) in enumerate(best) if iou >= pos_thr]
    negatives = [i for i, (iou, _) in enumerate(best) if iou < pos_thr]
    positives = random.sample(positives, min(len(positives), int(size * pos_frac)))
    negatives = random.sample(negatives, min(len(negatives), size - len(positives)))
    owners = [-best[i][1] for i in positives]
    labels = [*target["labels"][owners].tolist(), *[0] * len(negatives)]
    return pool[positives + negatives], torch.tensor(labels), target["boxes"][owners].view(-1, 4)


@variant_of("sample_rois")
def rois_in_float64(proposals, target, size=512, pos_frac=0.25, pos_thr=0.5, generator=None):
    gt_boxes = target["boxes"].double()
    pool = torch.cat([proposals.double(), gt_boxes])
    labels, matches = torch.zeros(len(pool), dtype=torch.int64), torch.zeros(len(pool), dtype=torch.int64)
    if len(gt_boxes):
        iou, matches = iou_in_float64(pool, gt_boxes).max(dim=1)
        labels = target["labels"][matches] * (iou >= pos_thr)
    order = torch.randperm(len(pool), generator=generator)
    positives = order[labels[order] > 0][: int(size * pos_frac)]
    negatives = order[labels[order] == 0][: size - len(positives)]
    chosen = torch.cat([positives, negatives])
    return pool[chosen], labels[chosen], gt_boxes[matches[positives]]


# ----------------------------------------------------------------------------------------------- losses


@variant_of("box_loss")
def box_loss_of_torch(deltas, goals):
    if not len(deltas):
        return deltas.sum()
    return F.smooth_l1_loss(deltas, goals, beta=1 / 9)


@variant_of("box_loss")
def box_loss_by_huber(deltas, goals, beta=1 / 9):
    total = F.huber_loss(deltas.double(), goals.double(), delta=beta, reduction="sum") / beta
    return total / max(1, deltas.numel())


@variant_of("rpn_losses")
def rpn_losses_by_weights(logits, deltas, labels, goals):
    weight = (labels >= 0).float()
    cls = F.binary_cross_entropy_with_logits(logits, (labels == 1).float(), weight, reduction="sum")
    return [cls / weight.sum(), box_loss_of_torch(deltas[labels == 1], goals)]


@variant_of("rpn_losses")
def rpn_losses_by_hand(logits, deltas, labels, goals):
    z, y = logits[labels != -1].double(), labels[labels != -1]
    cls = -(y * z.sigmoid().log() + (1 - y) * (1 - z.sigmoid()).log()).mean()
    positives = (labels == 1).nonzero()[:, 0]
    return cls, box_loss_by_huber(deltas[positives], goals)


@variant_of("roi_losses")
def roi_losses_by_index(logits, deltas, labels, goals):
    positives = (labels > 0).nonzero()[:, 0]
    columns = 4 * labels[positives, None] + torch.arange(4)
    return F.cross_entropy(logits, labels), box_loss_of_torch(deltas[positives[:, None], columns], goals)


@variant_of("roi_losses")
def roi_losses_in_loops(logits, deltas, labels, goals):
    cls = sum(torch.logsumexp(z, 0) - z[y] for z, y in zip(logits, labels, strict=True)) / len(labels)
    chosen = [row[4 * y : 4 * y + 4] for row, y in zip(deltas, labels.tolist(), strict=True) if y > 0]
    if not chosen:
        return cls, 0.0 * deltas.sum()
    return cls, box_loss_by_huber(torch.stack(chosen), goals)


# --------------------------------------------------------------------------------------------- training


@variant_of("lr_factor")
def lr_of_tensors(step, steps, warmup_steps):
    if step < warmup_steps:
        return torch.tensor(step + 1) / warmup_steps
    share = torch.tensor((step - warmup_steps) / (steps - warmup_steps))
    return (1 + torch.cos(torch.pi * share)) / 2


@variant_of("lr_factor")
def lr_by_half_angle(step, steps, warmup_steps, floor=0.0):
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    share = max(0, step - warmup_steps) / max(1, steps - warmup_steps)
    return max(floor, warm * math.cos(math.pi / 2 * share) ** 2)


@variant_of("train")
def train_with_zip(model, batches, optimizer, lr_at, steps):
    model.train()
    history = []
    for step, (images, targets) in zip(range(steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step)
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


@variant_of("train")
def train_with_a_counter(model, batches, optimizer, lr_at, steps, *, clip=10.0):
    history, stream = [], iter(itertools.cycle(batches))
    optimizer.zero_grad(set_to_none=False)
    while len(history) < steps:
        model.train()
        losses = model(*next(stream))
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        for group in optimizer.param_groups:
            group.update(lr=lr_at(len(history)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        history.append(torch.stack(list(losses.values())).sum())
    return torch.stack(history)


# ------------------------------------------------------------------------------------------- detections


@variant_of("detect")
def detect_class_by_class(
    proposals, logits, deltas, image_size, score_thr=0.05, nms_thr=0.5, max_dets=100, nms=nms_with_lists
):
    scores, found = torch.softmax(logits, 1), []
    for c in range(1, logits.shape[1]):
        above = (scores[:, c] > score_thr).nonzero()[:, 0]
        boxes = decode_by_columns(proposals[above], deltas[above, 4 * c : 4 * c + 4])
        boxes = clip_with_minimum(boxes, image_size)
        found += [(scores[above[i], c], boxes[i], c) for i in nms(boxes, scores[above, c], nms_thr)]
    found.sort(key=lambda entry: -entry[0].item())
    found = found[:max_dets]
    return {
        "labels": torch.tensor([c for _, _, c in found], dtype=torch.int64),
        "scores": torch.tensor([score for score, _, _ in found]),
        "boxes": torch.stack([box for _, box, _ in found]) if found else torch.empty(0, 4),
    }


@variant_of("detect")
def detect_all_at_once(proposals, logits, deltas, image_size, score_thr=0.05, nms_thr=0.5, max_dets=100):
    count, classes = logits.shape
    scores = logits.double().exp() / logits.double().exp().sum(dim=1, keepdim=True)
    boxes = decode_by_columns(proposals.repeat_interleave(classes, 0), deltas.reshape(-1, 4))
    boxes = clip_a_copy(boxes, image_size)
    labels = torch.arange(classes).repeat(count)
    keep = (scores.flatten() > score_thr) & (labels != 0)
    boxes, scores, labels = boxes[keep], scores.flatten()[keep], labels[keep]
    kept = torch.as_tensor(batched_nms_by_loop(boxes, scores, labels, nms_thr), dtype=torch.int64)[:max_dets]
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


@variant_of("match_greedily")
def match_with_lists(scores, ious, iou_thr=0.5):
    hits, taken = [False] * len(scores), set()
    for i in sorted(range(len(scores)), key=lambda i: -scores[i].item()):
        free = [(v, -g) for g, v in enumerate(ious[i].tolist()) if g not in taken and v >= iou_thr]
        if free:
            taken.add(-max(free)[1])
            hits[i] = True
    return hits


@variant_of("match_greedily")
def match_by_marking(scores, ious, iou_thr=0.5):
    ious, hits = ious.clone().double(), torch.zeros(len(scores), dtype=torch.int64)
    for i in torch.argsort(scores, descending=True, stable=True):
        if ious.shape[1] and ious[i].max() >= iou_thr:
            hits[i] = 1
            ious[:, ious[i].argmax()] = -1
    return hits


@variant_of("precision_recall")
def curve_with_lists(scores, hits, num_objects):
    order = sorted(range(len(scores)), key=lambda i: -scores[i].item())
    found, precision, recall = 0, [], []
    for rank, i in enumerate(order, 1):
        found += bool(hits[i])
        precision.append(found / rank)
        recall.append(found / num_objects)
    return precision, recall


@variant_of("precision_recall")
def curve_by_wrong_ones(scores, hits, num_objects):
    hits = hits[torch.sort(scores, descending=True, stable=True).indices]
    right, wrong = hits.cumsum(0), (~hits).cumsum(0)
    return right / (right + wrong), right / num_objects


@variant_of("average_precision")
def ap_with_lists(scores, hits, num_objects):
    precision, recall = curve_with_lists(scores, hits, num_objects)
    levels = [k / 100 for k in range(101)]
    return (
        sum(max([p for p, r in zip(precision, recall, strict=True) if r >= level], default=0) for level in levels) / 101
    )


@variant_of("average_precision")
def ap_of_tensors(scores, hits, num_objects):
    precision, recall = curve_by_wrong_ones(scores, hits, num_objects)
    reached = recall[:, None] >= torch.linspace(0, 1, 101)
    return torch.cat([precision[:, None] * reached, torch.zeros(1, 101)]).amax(dim=0).mean()

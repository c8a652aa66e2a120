"""The whole model against torchvision's `fasterrcnn_resnet50_fpn`: proposals, detections, losses, gradients.

The weights are random, but made such that the lists compared are full: confident, overlapping detections of many
classes. Such a network enlarges rounding a thousandfold, and ours rounds otherwise, since a fixed batch norm is
multiplied into the weights: in float32 scores differ by up to 8e-4, and near-ties flip. So both compute in float64.
"""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torchvision.models.detection import _utils, fasterrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from frcnn_common import COCO_IDS, TORCHVISION, FasterRCNN, roi, rpn
from frcnn_common.constants import IMAGENET_MEAN, IMAGENET_STD
from frcnn_common.weights import detector_from_torchvision

BOX, SCORE = 0.05, 1e-4  # pixels, probability
MEAN, STD = IMAGENET_MEAN.flatten().tolist(), IMAGENET_STD.flatten().tolist()


def smooth_image(height, width, seed):
    """Blobs of four sizes, in 0…1."""
    generator = torch.Generator().manual_seed(seed)
    grids = [torch.randn(1, 3, side, side, generator=generator) for side in (4, 10, 25, 60)]
    blobs = sum(F.interpolate(grid, size=(height, width), mode="bicubic") for grid in grids)
    return (0.5 + 0.25 * blobs[0]).clamp(0, 1)


def sizes(count, seed=0):
    """`(height, width)` of images, from wide to tall, so that those of a batch need little padding."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.randint(220, 700, (count, 2), generator=generator)
    return sorted(map(tuple, sides.tolist()), key=lambda side: side[0] / side[1])


def batches(images, side=400, longest=667, batch=2):
    """The images as torchvision's own transform resizes, normalizes and pads them, a batch at a time."""
    transform = GeneralizedRCNNTransform(side, longest, MEAN, STD)
    for start in range(0, len(images), batch):
        yield transform(images[start : start + batch])[0]


@functools.cache
def lively_state():
    """A state dict of torchvision's model whose layers all put out numbers of a useful size."""
    torch.manual_seed(0)
    peer = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81)
    norms = [module for module in peer.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.1)
        norm.momentum = None
    (images,) = batches([smooth_image(300, 400, 99), smooth_image(360, 260, 98)])
    with torch.no_grad():
        peer.backbone.train()(images.tensors)
        for norm in norms:
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
        peer.eval()
        features = peer.backbone(images.tensors)
        head, predictor = peer.rpn.head, peer.roi_heads.box_predictor
        for layer, spread, maps in zip((head.cls_logits, head.bbox_pred), (3, 0.3), head(list(features.values()))):
            layer.weight *= spread / torch.cat([m.flatten() for m in maps]).std()
        proposals, _ = peer.rpn(images, features)
        regions = peer.roi_heads.box_head(peer.roi_heads.box_roi_pool(features, proposals, images.image_sizes))
        logits, deltas = predictor(regions)
        predictor.cls_score.weight *= 3 / logits.std(dim=0).mean()
        predictor.cls_score.bias.copy_(-(regions @ predictor.cls_score.weight.T).mean(dim=0))
        predictor.cls_score.bias[0] += 2
        predictor.bbox_pred.weight *= 1 / deltas.std()
    return peer.state_dict()


def lively_peer(num_classes=81):
    """torchvision's model with these weights."""
    peer = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=num_classes).eval()
    if num_classes == 81:
        peer.load_state_dict(lively_state())
    return peer


@pytest.fixture(scope="module")
def pair():
    """Our model and torchvision's with the same weights."""
    return FasterRCNN.from_torchvision(lively_state(), bn_eps=1e-5).eval(), lively_peer()


class CountSuppressed:
    """Count what goes into torchvision's suppression, and what comes out."""

    def __enter__(self):
        self.original, self.before, self.after = torchvision.ops.boxes.batched_nms, 0, 0
        torchvision.ops.boxes.batched_nms = self
        return self

    def __exit__(self, *_):
        torchvision.ops.boxes.batched_nms = self.original

    def __call__(self, boxes, *rest):
        kept = self.original(boxes, *rest)
        self.before, self.after = self.before + len(boxes), self.after + len(kept)
        return kept


@torch.no_grad()
def detect(ours, peer, images):
    """Results and proposals of both, and how many boxes torchvision's last suppression saw and kept."""
    results, proposals = ours(images.tensors, image_sizes=images.image_sizes)
    features = peer.backbone(images.tensors)
    peer_proposals, _ = peer.rpn(images, features)
    with CountSuppressed() as count:
        peer_results, _ = peer.roi_heads(features, peer_proposals, images.image_sizes)
    return (results, proposals), (peer_results, peer_proposals), count


def proposal_difference(mine, theirs):
    """How far a proposal is, at most, from the nearest one of the other list; infinite if the counts differ."""
    if len(mine) != len(theirs):
        return float("inf")
    distance = torch.cdist(mine, theirs, p=float("inf"))
    return max(distance.min(dim=0).values.max().item(), distance.min(dim=1).values.max().item())


def detection_differences(mine, theirs):
    """Largest differences of boxes and scores between detections paired by label and place; infinite without pairs."""
    if len(mine["boxes"]) != len(theirs["boxes"]):
        return float("inf"), float("inf")
    distance = torch.cdist(mine["boxes"], theirs["boxes"], p=float("inf"))
    distance[mine["labels"][:, None] != theirs["labels"]] = float("inf")
    box, partner = distance.min(dim=1)
    if len(partner.unique()) < len(partner):
        return float("inf"), float("inf")
    return box.max().item(), (mine["scores"] - theirs["scores"][partner]).abs().max().item()


def differences(mine, theirs, i=0):
    """Of image i: differences of proposals, boxes and scores."""
    return proposal_difference(mine[1][i], theirs[1][i]), *detection_differences(mine[0][i], theirs[0][i])


def compare(pair, images, parity, name):
    """Compare image by image, in float64; the lists must be full and differ by rounding only."""
    pair = [copy.deepcopy(model).double() for model in pair]
    for batch in images:
        mine, theirs, count = detect(*pair, ImageList(batch.tensors.double(), batch.image_sizes))
        assert count.before - count.after >= 300 * len(batch.image_sizes), "suppression had too little to do"
        for i in range(len(batch.image_sizes)):
            labels = theirs[0][i]["labels"]
            assert len(labels) >= 50 and len(labels.unique()) >= 10, "too few detections to mean anything"
            proposals, boxes, scores = differences(mine, theirs, i)
            parity(f"whole model, {name}: proposals (px)", proposals, BOX, 1)
            parity(f"whole model, {name}: boxes (px)", boxes, BOX, 1)
            parity(f"whole model, {name}: scores", scores, SCORE, 1)


@pytest.mark.parametrize("count", [pytest.param(4, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.long)])
def test_detections_equal_torchvisions_at_400(pair, parity, count):
    images = [smooth_image(*size, seed) for seed, size in enumerate(sizes(count))]
    compare(pair, batches(images), parity, "400 px")


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.long)])
def test_detections_equal_torchvisions_at_full_size(pair, parity, count):
    images = [smooth_image(*size, seed) for seed, size in enumerate(sizes(count, seed=2))]
    compare(pair, batches(images, 800, 1333, batch=1), parity, "800 px")


@pytest.mark.slow
def test_all_detections_where_nothing_is_cut_off(pair, parity, monkeypatch):
    """Thousands instead of the best 100: here suppression decides about every sixth box."""
    peer = pair[1]
    monkeypatch.setattr(peer.roi_heads, "detections_per_img", 10_000)
    ours = FasterRCNN.from_torchvision(lively_state(), bn_eps=1e-5, max_dets=10_000).eval()
    images = [smooth_image(*size, seed) for seed, size in enumerate(sizes(2, seed=3))]
    compare((ours, peer), batches(images), parity, "400 px, all detections")


def with_tiny_variances(state):
    """The same network for epsilon 0, but with variances that an epsilon of 1e-5 would change."""
    scaled = dict(state)
    for key in (key for key in state if key.endswith("running_var")):
        scaled[key] = state[key] * 1e-4
        weight = key.replace("running_var", "weight")
        scaled[weight] = state[weight] * 1e-2
    return scaled


def old_spelling(state):
    """The keys of the published file: no counters, no `.0` in the convolutions of RPN and pyramid."""
    keys = {key: key.replace("head.conv.0.0.", "head.conv.") for key in state if "num_batches" not in key}
    for block in ("inner_blocks", "layer_blocks"):
        for i in range(4):
            keys |= {k: k.replace(f"{block}.{i}.0.", f"{block}.{i}.") for k in keys if f"{block}.{i}.0." in k}
    return {new: state[key] for key, new in keys.items()}


@pytest.mark.slow
def test_epsilon_0_is_folded_into_the_weights(parity):
    state = with_tiny_variances(lively_state())
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5)  # frozen batch norm
    peer = torchvision.models.detection.FasterRCNN(backbone, num_classes=81).eval()
    peer.load_state_dict(state)
    _utils.overwrite_eps(peer, 0.0)
    ours = FasterRCNN.from_torchvision(old_spelling(state), bn_eps=0.0).eval()
    images = [smooth_image(320, 400, 7)]
    compare((ours, peer), batches(images, 320, 533), parity, "epsilon 0")

    ignored = FasterRCNN.from_torchvision(state, bn_eps=1e-5).eval()
    mine, theirs, _ = detect(ignored, peer, *batches(images, 320, 533))
    assert max(differences(mine, theirs)) > 1, "the epsilon made no difference: the test above shows nothing"


@pytest.mark.slow
def test_our_weights_in_torchvisions_model(parity):
    """Through 91 class rows, whose labels are COCO's ids, and through 81."""
    torch.manual_seed(1)
    ours = FasterRCNN.from_torchvision(lively_state(), bn_eps=1e-5).eval()
    for parameter in ours.parameters():
        parameter.data *= torch.empty_like(parameter).uniform_(0.9, 1.1)
    images = list(batches([smooth_image(300, 420, 8)]))
    for num_classes in (81, 91):
        peer = lively_peer(num_classes)
        peer.load_state_dict(ours.to_torchvision(num_classes))
        if num_classes == 91:
            peer.roi_heads.postprocess_detections = renumbered(peer.roi_heads.postprocess_detections)
        compare((ours, peer), images, parity, f"our weights there, {num_classes} rows")


def renumbered(postprocess):
    """torchvision's last step, with COCO's ids as our labels."""

    def postprocess_and_renumber(*args):
        boxes, scores, ids = postprocess(*args)
        return boxes, scores, [torch.tensor([COCO_IDS.index(i) + 1 for i in of_image.tolist()]) for of_image in ids]

    return postprocess_and_renumber


# --------------------------------------------------------------------------------------------- training


def spread(candidates, count):
    """`count` of the candidates, evenly spread: a rule for both samplers that needs no random numbers."""
    count = min(count, len(candidates))
    return candidates[torch.linspace(0, len(candidates) - 1, count).long()] if count else candidates[:0]


def our_rule(labels, size, pos_frac):
    """In place of `subsample`."""
    positives = spread((labels > 0).nonzero()[:, 0], int(size * pos_frac))
    return positives, spread((labels == 0).nonzero()[:, 0], size - len(positives))


def ours_of_each(labels, size, pos_frac, generators):
    """In place of `subsample_of_each`."""
    return [our_rule(of_image, size, pos_frac) for of_image in labels]


def their_rule(sampler, labels_per_image):
    """In place of torchvision's sampler: the same indices as masks."""
    chosen = [our_rule(labels, sampler.batch_size_per_image, sampler.positive_fraction) for labels in labels_per_image]
    masks = [[torch.zeros_like(labels, dtype=torch.uint8) for _ in range(2)] for labels in labels_per_image]
    for mask, index in ((m, i) for pair in zip(masks, chosen, strict=True) for m, i in zip(*pair, strict=True)):
        mask[index] = 1
    return tuple(zip(*masks, strict=True))


def scene():
    """Three images of different sizes, padded to one, with 4, 0 and 7 objects; float64."""
    images = [smooth_image(*size, seed) for seed, size in enumerate([(240, 320), (200, 200), (330, 210)])]
    targets = []
    for image, count in zip(images, (4, 0, 7), strict=True):
        height, width = image.shape[1:]
        corners = torch.rand(count, 2) * torch.tensor([width, height]) * 0.6
        boxes = torch.cat([corners, corners + 12 + torch.rand(count, 2) * 0.35 * min(height, width)], dim=1)
        targets.append({"boxes": boxes, "labels": torch.randint(1, 81, (count,))})
    transform = GeneralizedRCNNTransform(160, 256, MEAN, STD)
    batch, targets = transform(images, targets)
    targets = [{"boxes": t["boxes"].double(), "labels": t["labels"]} for t in targets]
    return ImageList(batch.tensors.double(), batch.image_sizes), targets


def peer_losses(peer, images, targets):
    """torchvision's training step on prepared images, under our names."""
    features = peer.backbone(images.tensors)
    proposals, rpn_losses = peer.rpn(images, features, targets)
    _, roi_losses = peer.roi_heads(features, proposals, images.image_sizes, targets)
    names = {"loss_objectness": "rpn_cls", "loss_rpn_box_reg": "rpn_box", "loss_classifier": "roi_cls"}
    return {names.get(name, "roi_box"): loss for name, loss in (rpn_losses | roi_losses).items()}


@pytest.mark.slow
def test_losses_and_gradients_equal_torchvisions(parity, monkeypatch):
    monkeypatch.setattr(rpn, "subsample_of_each", ours_of_each)
    monkeypatch.setattr(roi, "subsample_of_each", ours_of_each)
    monkeypatch.setattr(_utils.BalancedPositiveNegativeSampler, "__call__", their_rule)
    options = {"norm": "frozen", "trainable_layers": 5, "roi_batch": 128}  # float64 is slow
    ours = FasterRCNN.from_torchvision(lively_state(), bn_eps=1e-5, **options).double().train()
    peer = lively_peer().double().train()
    peer.roi_heads.fg_bg_sampler.batch_size_per_image = 128
    for module in peer.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    images, targets = scene()
    mine = ours(images.tensors, targets, image_sizes=images.image_sizes)
    theirs = peer_losses(peer, images, targets)
    assert mine.keys() == theirs.keys() and all(loss > 0.01 for loss in theirs.values())
    for name, loss in theirs.items():
        parity("training step: losses", (mine[name] - loss).abs().item(), 1e-4, 1)

    sum(mine.values()).backward()
    sum(theirs.values()).backward()
    gradients = detector_from_torchvision(
        peer.state_dict() | {name: p.grad for name, p in peer.named_parameters()}, bn_eps=1e-5
    )
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            expected = gradients[name]
            assert expected.norm() > 0, f"no gradient arrives at {name}"
            difference = ((parameter.grad - expected).norm() / expected.norm()).item()
            parity("training step: gradients (relative)", difference, 1e-3, 1)


def test_the_courses_own_conventions_cannot_be_converted():
    with pytest.raises(ValueError, match="only a model with conventions=TORCHVISION"):
        FasterRCNN(3, width=8, fpn_channels=8, fc_dim=8).to_torchvision()
    small = FasterRCNN(3, width=8, fpn_channels=8, fc_dim=8, conventions=TORCHVISION)
    assert small.to_torchvision()["roi_heads.box_predictor.cls_score.bias"].shape == (3,)

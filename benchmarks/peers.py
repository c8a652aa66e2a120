"""torchvision's detector, ready to be compared: random weights that find many things, and the same weights in ours."""

import copy

import torch
from measure import DEVICE
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from frcnn_common.detector import FasterRCNN


def same_weights(peer: nn.Module, trainable_layers: int) -> FasterRCNN:
    """Our model with the weights and conventions of torchvision's, batch norm frozen, nothing recomputed."""
    options = {"trainable_layers": trainable_layers, "norm": "frozen", "checkpoint": False}
    model = FasterRCNN.from_torchvision(peer.state_dict(), bn_eps=1e-5, **options)
    return model.to(DEVICE).train(peer.training)


def torchvision_model(images: list[Tensor] | None, trainable_layers: int):
    """torchvision's model in evaluation mode, and the `images` as its own transform hands them on."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=trainable_layers
        )
        height, width = images[0].shape[-2:] if images else (400, 400)
        sides = {"min_size": min(height, width), "max_size": max(height, width)}
        peer = TorchvisionFasterRCNN(backbone, num_classes=81, **sides).to(DEVICE).eval()
        _awaken(peer)
    if not images:
        return peer, None
    batch, _ = peer.transform(images)
    _spread_the_scores(peer, batch)
    return peer, batch


def torchvision_step(peer, batch, targets=None):
    """What torchvision's forward does behind its transform: detections, proposals, losses."""
    features = peer.backbone(batch.tensors)
    proposals, losses = peer.rpn(batch, features, targets)
    detections, roi_losses = peer.roi_heads(features, proposals, batch.image_sizes, targets)
    return detections, proposals, losses | roi_losses


@torch.no_grad()
def _awaken(peer):
    """Statistics and affine weights as after training, no two channels alike; heads that say something."""
    for name, module in peer.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
            if name.endswith("bn3"):
                module.weight.mul_(0.3)  # sixteen residuals add up
    for layer in (peer.rpn.head.cls_logits, peer.rpn.head.bbox_pred):
        layer.weight.mul_(10)
    peer.roi_heads.box_predictor.bbox_pred.weight.mul_(10)


@torch.no_grad()
def _spread_the_scores(peer, batch):
    """Enlarge the class layer and center it on these images, so that many classes win somewhere."""
    features = peer.backbone(batch.tensors)
    proposals, _ = peer.rpn(batch, features)
    hidden = peer.roi_heads.box_head(peer.roi_heads.box_roi_pool(features, proposals, batch.image_sizes))
    layer = peer.roi_heads.box_predictor.cls_score
    layer.weight.mul_(2 / (hidden @ layer.weight.T).std(dim=0).mean())
    layer.bias.copy_(-(hidden @ layer.weight.T).mean(dim=0))


class AroundOurBackbone(nn.Module):
    """torchvision's detector around a copy of our backbone and pyramid, all sizes and first weights those of our model.

    Called as ours is: it gives losses in training, otherwise detections and proposals.
    """

    def __init__(self, model, recipe):
        super().__init__()
        options, channels = recipe.model_options, model.fpn.output[0].out_channels
        backbone = _Maps(copy.deepcopy(model.backbone), copy.deepcopy(model.fpn))
        backbone.out_channels = channels
        self.detector = TorchvisionFasterRCNN(
            backbone,
            rpn_anchor_generator=AnchorGenerator([(side,) for side in options["anchor_sizes"]], [(0.5, 1.0, 2.0)] * 5),
            rpn_pre_nms_top_n_train=options["pre_nms"],
            rpn_pre_nms_top_n_test=options["pre_nms"],
            rpn_post_nms_top_n_train=options["post_nms"],
            rpn_post_nms_top_n_test=options["post_nms"],
            box_head=TwoMLPHead(channels * 49, options["fc_dim"]),
            box_predictor=FastRCNNPredictor(options["fc_dim"], model.predictor.cls.out_features),
            box_batch_size_per_image=model.roi_batch,
            box_positive_fraction=model.roi_pos_frac,
        )
        rpn, roi = self.detector.rpn.head, self.detector.roi_heads
        for theirs, ours in (
            (rpn.conv[0][0], model.rpn.head.conv),
            (rpn.cls_logits, model.rpn.head.cls),
            (rpn.bbox_pred, model.rpn.head.box),
            (roi.box_head.fc6, model.box_head.fc1),
            (roi.box_head.fc7, model.box_head.fc2),
            (roi.box_predictor.cls_score, model.predictor.cls),
            (roi.box_predictor.bbox_pred, model.predictor.box),
        ):
            theirs.load_state_dict(ours.state_dict())

    def forward(self, images, targets=None):
        batch = ImageList(images, [tuple(images.shape[-2:])] * len(images))
        detections, proposals, losses = torchvision_step(self.detector, batch, targets)
        return losses if self.training else (detections, proposals)


class _Maps(nn.Sequential):
    def forward(self, images):
        return {str(level): fmap for level, fmap in enumerate(super().forward(images))}


class Given(nn.Module):
    """A layer whose output is given: what comes before it costs nothing."""

    def __init__(self, *output):
        super().__init__()
        self.output = output if len(output) > 1 else output[0]

    def forward(self, *_):
        return self.output


def as_list(boxes, scores, labels):
    """torchvision's three lists as a list of dicts."""
    return [{"boxes": b, "scores": s, "labels": c} for b, s, c in zip(boxes, scores, labels, strict=True)]

"""What the course promises: names, defaults, and the keys and shapes of a checkpoint."""

import inspect

import pytest
import torch

import frcnn_common
from frcnn_common.detector import FasterRCNN
from frcnn_common.runs import load_checkpoint

SIGNATURES = {
    "box_iou": "(boxes_a, boxes_b)",
    "encode_boxes": "(proposals, gt_boxes)",
    "decode_boxes": "(anchors, deltas)",
    "nms": "(boxes, scores, iou_thr)",
    "batched_nms": "(boxes, scores, groups, iou_thr)",
    "COCOStreamDataset": "(split='train', max_samples=None)",
    "frcnn_collate_fn": "(batch)",
    "Bottleneck": "(in_ch, out_ch, stride=1, downsample=None)",
    "ResNet50": "()",
    "FPN": "(in_channels=(256, 512, 1024, 2048), out_channels=256)",
    "AnchorGenerator": (
        "(anchor_sizes=(32, 64, 128, 256, 512), aspect_ratios=(0.5, 1.0, 2.0), strides=(4, 8, 16, 32, 64))"
    ),
    "RPNHead": "(in_ch=256, k=3)",
    "RegionProposalNetwork": "(head, anchor_gen, pre_nms=2000, post_nms=1000, nms_thr=0.7, min_sz=16)",
    "ROIAlign": "(out_size=7, k0=4, k_min=2, k_max=5)",
    "TwoMLPHead": "(in_channels=12544, fc_dim=1024)",
    "FastRCNNPredictor": "(in_channels=1024, num_classes=81)",
    "FasterRCNN": "(num_classes=81)",
}
CLASS_CONSTANTS = {
    "RegionProposalNetwork": {"RPN_BATCH": 256, "POS_FRAC": 0.5, "POS_THR": 0.7, "NEG_THR": 0.3},
    "FasterRCNN": {
        "ROI_BATCH": 512,
        "ROI_POS_FRAC": 0.25,
        "ROI_POS_THR": 0.5,
        "SCORE_THR": 0.05,
        "NMS_THR": 0.5,
        "MAX_DETS": 100,
    },
    "Bottleneck": {"expansion": 4},
}


@pytest.mark.parametrize(("name", "expected"), SIGNATURES.items())
def test_positional_parameters_and_defaults(name, expected):
    parameters = inspect.signature(getattr(frcnn_common, name)).parameters.values()
    positional = [p.replace(annotation=p.empty) for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert str(inspect.Signature(positional)) == expected
    assert all(p.default is not p.empty for p in parameters if p.kind == p.KEYWORD_ONLY)


@pytest.mark.parametrize(("name", "constants"), CLASS_CONSTANTS.items())
def test_class_constants(name, constants):
    assert {key: getattr(getattr(frcnn_common, name), key) for key in constants} == constants


def test_constants():
    assert (frcnn_common.IMG_SIZE, frcnn_common.NUM_CLASSES) == (400, 81)
    assert frcnn_common.DEVICE.type in ("cuda", "mps", "cpu")
    for name, values in (("IMAGENET_MEAN", (0.485, 0.456, 0.406)), ("IMAGENET_STD", (0.229, 0.224, 0.225))):
        constant = getattr(frcnn_common, name)
        assert constant.dtype == torch.float32 and constant.shape == (3, 1, 1)
        torch.testing.assert_close(constant.flatten(), torch.tensor(values), rtol=0, atol=0)


def test_category_names_are_those_of_the_published_weights():
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    published = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert list(frcnn_common.COCO_NAMES) == [name for name in published if name != "N/A"]


def expected_state(num_classes=81):
    """Keys and shapes of a checkpoint, written down from the architecture and not from the model."""
    shapes = {}

    def conv(name, out_ch, in_ch, kernel, bias=False):
        shapes[f"{name}.weight"] = (out_ch, in_ch, kernel, kernel)
        if bias:
            shapes[f"{name}.bias"] = (out_ch,)

    def norm(name, channels):
        for key in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{key}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def linear(name, out_features, in_features):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out_features, in_features), (out_features,)

    conv("backbone.stem.0", 64, 3, 7)
    norm("backbone.stem.1", 64)
    in_ch = 64
    for stage, (blocks, mid) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for i in range(blocks):
            block = f"backbone.layer{stage}.{i}"
            for k, (out, inp, kernel) in enumerate(((mid, in_ch, 1), (mid, mid, 3), (4 * mid, mid, 1)), start=1):
                conv(f"{block}.conv{k}", out, inp, kernel)
                norm(f"{block}.bn{k}", out)
            if i == 0:
                conv(f"{block}.downsample.0", 4 * mid, in_ch, 1)
                norm(f"{block}.downsample.1", 4 * mid)
            in_ch = 4 * mid
    for i, channels in enumerate((256, 512, 1024, 2048)):
        conv(f"fpn.lateral.{i}", 256, channels, 1, bias=True)
        conv(f"fpn.output.{i}", 256, 256, 3, bias=True)
    conv("rpn.head.conv", 256, 256, 3, bias=True)
    conv("rpn.head.cls", 3, 256, 1, bias=True)
    conv("rpn.head.box", 12, 256, 1, bias=True)
    linear("box_head.fc1", 1024, 256 * 7 * 7)
    linear("box_head.fc2", 1024, 1024)
    linear("predictor.cls", num_classes, 1024)
    linear("predictor.box", 4 * num_classes, 1024)
    return shapes


def test_checkpoint_keys_shapes_and_parameters():
    model = FasterRCNN(81)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected_state()
    assert len(expected_state()) == 348
    assert sum(p.numel() for p in model.parameters()) == 41_757_156


def test_checkpoint_of_the_older_module_loads_strictly(tmp_path):
    integers = "num_batches_tracked"
    state = {
        key: torch.ones(shape, dtype=torch.int64) if key.endswith(integers) else torch.rand(shape)
        for key, shape in expected_state(num_classes=5).items()
    }
    torch.save({"model_state_dict": state, "optimizer_state_dict": {}, "steps_trained": 5, "num_classes": 5,
                "final_losses": {"rpn_cls": 0.1}}, tmp_path / "old.pth")  # fmt: skip
    checkpoint = load_checkpoint(tmp_path / "old.pth")
    model = FasterRCNN(checkpoint["num_classes"])
    model.load_state_dict(checkpoint["model_state_dict"], strict=True)
    torch.testing.assert_close(model.predictor.box.weight.detach(), state["predictor.box.weight"], rtol=0, atol=0)

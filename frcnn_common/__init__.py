"""Faster R-CNN from Scratch: a small, real two-stage detection library.

The names of the course's core are here; what is built on top of it (recipes, runs, engine, metrics, errors, coco_json,
plots, evaluation_plots, report, inference, export, cli) is in the modules of those names, and `lessons` checks what
the readers of the chapters write. Importing this package opens no file and no connection, and imports torch but
neither torchvision, datasets nor matplotlib.
"""

__version__ = "0.1.0"

from .anchors import AnchorGenerator
from .backbone import FPN, Bottleneck, ResNet50
from .boxes import box_iou, decode_boxes, encode_boxes
from .constants import (
    COCO_IDS,
    COCO_NAMES,
    COURSE,
    DEVICE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    IMG_SIZE,
    NUM_CLASSES,
    TORCHVISION,
    Conventions,
)
from .data import COCOStreamDataset, frcnn_collate_fn
from .detector import FasterRCNN
from .nms import batched_nms, nms
from .roi import FastRCNNPredictor, ROIAlign, TwoMLPHead
from .rpn import RegionProposalNetwork, RPNHead

__all__ = [
    "COCO_IDS",
    "COCO_NAMES",
    "COURSE",
    "DEVICE",
    "FPN",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMG_SIZE",
    "NUM_CLASSES",
    "TORCHVISION",
    "AnchorGenerator",
    "Bottleneck",
    "COCOStreamDataset",
    "Conventions",
    "FastRCNNPredictor",
    "FasterRCNN",
    "ROIAlign",
    "RPNHead",
    "RegionProposalNetwork",
    "ResNet50",
    "TwoMLPHead",
    "batched_nms",
    "box_iou",
    "decode_boxes",
    "encode_boxes",
    "frcnn_collate_fn",
    "nms",
]

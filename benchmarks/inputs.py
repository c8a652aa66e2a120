"""What both sides are given, and what it means that they agree."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from measure import DEVICE
from torch import Tensor

OURS, THEIRS = "ours", "torchvision"
MAP_SIDES = (100, 50, 25, 13, 7)  # P2…P6 of a 400-pixel image


@dataclass
class Sides:
    """The work of each side, and what was found while making sure that all do the same."""

    work: dict
    found: dict = field(default_factory=dict)


# --- Inputs -----------------------------------------------------------------------------------------------------------
def picture(height: int, width: int) -> Tensor:
    """`[3, H, W]` in 0…1: blobs of color, and noise."""
    blobs = F.interpolate(torch.rand(1, 3, height // 16, width // 16), size=(height, width), mode="bicubic")[0]
    return (0.8 * blobs.clamp(0, 1) + 0.2 * torch.rand(3, height, width)).to(DEVICE)


def feature_map(batch: int, side: int, channels: int = 256) -> Tensor:
    """`[B, C, side, side]`: neighbors resemble each other, as on a real map."""
    coarse = F.interpolate(
        torch.randn(batch, channels, -(-side // 6), -(-side // 6)), size=(side, side), mode="bicubic"
    )
    return (coarse + 0.3 * torch.randn(batch, channels, side, side)).to(DEVICE)


def some_boxes(count: int, side: int, smallest=16, largest=350) -> Tensor:
    """`[N, 4]` boxes with log-uniform sides, inside an image."""
    sizes = smallest * (largest / smallest) ** torch.rand(count, 2)
    corners = torch.rand(count, 2) * (side - sizes).clamp(min=0)
    return torch.cat([corners, (corners + sizes).clamp(max=side)], dim=1).to(DEVICE)


def scenes(batch: int, side: int, objects: int = 8) -> list[dict]:
    """Targets of a batch."""
    labels = torch.randint(1, 81, (batch, objects), device=DEVICE)
    return [{"boxes": some_boxes(objects, side), "labels": labels[i]} for i in range(batch)]


def clustered(count: int, objects: int, jitter: float, side: int = 1000) -> Tensor:
    """`[N, 4]` boxes around a few objects, as an RPN proposes them: corners moved by a share of the sides."""
    around = some_boxes(objects, side, 60, 300).repeat_interleave(-(-count // objects), dim=0)[:count]
    sizes = (around[:, 2:] - around[:, :2]).repeat(1, 2)
    return around + jitter * sizes * torch.randn(count, 4, device=DEVICE)


# --- Agreement --------------------------------------------------------------------------------------------------------
def assert_same_boxes(ours: Tensor, theirs: Tensor, what: str, tolerance=0.05):
    """The same set of boxes, in any order; of a thousand two may differ, where rounding decides a near-tie at a cut."""
    assert len(ours) == len(theirs), f"{what}: {len(ours)} here, {len(theirs)} in torchvision"
    if len(ours):
        apart = torch.cdist(ours.double(), theirs.double(), p=torch.inf)
        others = max((apart.min(dim=dim).values > tolerance).sum().item() for dim in (0, 1))
        assert others <= len(ours) // 500, f"{what}: {others} of {len(ours)} boxes differ by over {tolerance} pixels"


def assert_same_detections(ours: list[dict], theirs: list[dict]):
    """Detections paired by class and place: those whose scores tie may stand in another order."""
    for n, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert len(a["boxes"]) == len(b["boxes"]), f"image {n}: {len(a['boxes'])} and {len(b['boxes'])} detections"
        if not len(a["boxes"]):
            continue
        apart = torch.cdist(a["boxes"].double(), b["boxes"].double(), p=torch.inf)
        apart[a["labels"][:, None] != b["labels"]] = torch.inf
        nearest, partner = apart.min(dim=1)
        assert len(partner.unique()) == len(partner) and nearest.max() <= 0.05, f"image {n}: boxes or labels differ"
        torch.testing.assert_close(a["scores"], b["scores"][partner], atol=1e-4, rtol=0)

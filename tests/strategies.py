"""The boxes and scores that property tests draw.

Small sets are drawn number by number, so that hypothesis can shrink them. Large ones come from a seed and a layout.
All boxes are float64 with ordered corners, and `.to(torch.float32)` keeps the order.
"""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import torch

GRID = st.integers(0, 6).map(float)  # duplicates, touching and empty boxes, overlaps that tie
PIXELS = st.integers(-100, 1300).map(float)
THOUSANDTHS = st.integers(-(10**9), 10**9).map(lambda i: i / 1000)  # up to a million
EXTREMES = st.sampled_from((-1e6, -1e5, -1.0, 0.0, 1e-20, 1e-3, 0.01, 1.0, 1.001, 1e5, 1e6 - 0.0625, 1e6))
NUMBERS = (GRID, PIXELS, THOUSANDTHS, EXTREMES)
DTYPES = (torch.float32, torch.float64)
THRESHOLDS = st.one_of(st.sampled_from((0.0, 0.3, 0.5, 0.7, 1.0)), st.floats(0, 1))


def box_sets(*numbers, min_boxes=0, max_boxes=20):
    """Boxes whose coordinates are all of one of the kinds of number, or of all kinds mixed."""
    numbers = numbers or NUMBERS
    kinds = st.sampled_from((*numbers, st.one_of(*numbers)))
    shapes = st.tuples(st.integers(min_boxes, max_boxes), st.just(4))
    return kinds.flatmap(lambda kind: hnp.arrays("float64", shapes, elements=kind, fill=st.nothing())).map(
        _sort_corners
    )


def _sort_corners(array):
    first, second = torch.from_numpy(array).split(2, dim=1)
    return torch.cat([first.minimum(second), first.maximum(second)], dim=1)


def with_area(boxes):
    """The boxes whose sides are both above 0."""
    return boxes[((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)]


def scores_for(boxes):
    """One score for each box: with many ties, all different, or all the same."""
    few = st.sampled_from((-float("inf"), -1.0, -0.0, 0.0, 0.25, 0.5, 0.5 + 2**-50, 1.0, float("inf")))
    kinds = st.sampled_from((few, st.floats(-1e3, 1e3, width=32), st.just(0.5)))
    return kinds.flatmap(lambda kind: hnp.arrays("float64", len(boxes), elements=kind, fill=st.nothing())).map(
        torch.from_numpy
    )


def arrange(layout, count, seed):
    """`count` boxes in one of `LAYOUTS`."""
    return LAYOUTS[layout](count, torch.Generator().manual_seed(seed))


def _boxes(corners, sides):
    return torch.cat([corners, corners + sides], dim=1)


def _rand(g, count, low, high):
    return low + (high - low) * torch.rand(count, 2, generator=g, dtype=torch.float64)


def _scattered(count, g):
    spread = 60 * count**0.5
    return _boxes(_rand(g, count, 0, spread), _rand(g, count, 5, 60))


def _clustered(count, g):
    centers = _rand(g, 10, 0, 1300)[torch.randint(10, (count,), generator=g)]
    return _boxes(centers + _rand(g, count, -15, 15), _rand(g, count, 40, 80))


def _pile(count, g):
    return _boxes(_rand(g, count, 300, 310), _rand(g, count, 90, 110))


def _identical(count, g):
    return _scattered(7, g)[torch.randint(7, (count,), generator=g)]


def _chain(count, g):
    """Each overlaps only the next, in either axis."""
    step = 5 + torch.randint(5, (1,), generator=g)  # of a side of 10: overlaps from 1/19 to 1/3
    corners = torch.stack([step * torch.arange(count), torch.zeros(count)], dim=1).double()
    return _boxes(corners.flip(1) if step % 2 else corners, torch.full((count, 2), 10.0, dtype=torch.float64))


def _thin(count, g):
    """A hundredth wide and a hundred thousand high, or lying; every standing one crosses every lying one."""
    corners, sides = _rand(g, count, 0, 0.002 * count), torch.tensor([0.01, 1e5], dtype=torch.float64).repeat(count, 1)
    lying = torch.rand(count, 1, generator=g) < 0.3
    return _boxes(corners, torch.where(lying, sides.flip(1), sides))


def _huge_and_tiny(count, g):
    tiny = _boxes(_rand(g, count, -20, 20).round(), _rand(g, count, 0, 2e-3))
    huge = _boxes(_rand(g, count, -1e6, -9e5), _rand(g, count, 1.8e6, 2e6))
    return torch.where(torch.rand(count, 1, generator=g) < 0.5, tiny, huge)


def _of_all_sizes(count, g):
    return _boxes(_rand(g, count, -500, 500), 10 ** _rand(g, count, -3, 6))


def _far_out(count, g):
    """A million pixels off, where neighbors in float32 are a sixteenth apart."""
    signs = torch.randint(2, (count, 2), generator=g) * 2 - 1
    return _boxes(signs * (1e6 - 100) + _rand(g, count, -20, 20), _rand(g, count, 0, 8))


def _on_a_grid(count, g):
    """Whole coordinates within 0…6: few different overlaps, many of them exactly 1/2, 1/3 or 1."""
    corners = torch.randint(0, 5, (count, 2), generator=g).double()
    return _boxes(corners, torch.randint(0, 3, (count, 2), generator=g).double())


def _without_area(count, g):
    corners = torch.randint(0, 4, (count, 2), generator=g).double()
    return _boxes(corners, torch.randint(0, 2, (count, 2), generator=g) * torch.tensor([1.0, 0.0]).double())


LAYOUTS = {
    "scattered": _scattered,
    "clustered": _clustered,
    "one pile": _pile,
    "identical": _identical,
    "chain": _chain,
    "thin": _thin,
    "huge and tiny": _huge_and_tiny,
    "of all sizes": _of_all_sizes,
    "far out": _far_out,
    "on a grid": _on_a_grid,
    "without area": _without_area,
}

"""ROIAlign against torchvision and by hand, and the sampling of regions."""

import pytest
import torch
import torchvision

from frcnn_common import FastRCNNPredictor, ROIAlign, TwoMLPHead
from frcnn_common.roi import sample_rois, weighted_rows


def scene(dtype=torch.float32, batch=2, count=60, channels=5):
    torch.manual_seed(0)
    sides = ((51, 63), (26, 32), (13, 16), (7, 8))
    fmaps = [torch.randn(batch, channels, *side, dtype=dtype).requires_grad_() for side in sides]
    corners = torch.rand(batch, count, 2, dtype=dtype) * 280 - 40
    proposals = list(torch.cat([corners, corners + 400 * torch.rand(batch, count, 2, dtype=dtype) ** 2], dim=2))
    return fmaps, proposals


def torchvisions(fmaps, proposals, out_size=7):
    levels = ROIAlign().assign_levels(torch.cat(proposals))
    owner = torch.cat([torch.full_like(p[:, :1], i) for i, p in enumerate(proposals)])
    boxes = torch.cat([owner, torch.cat(proposals)], dim=1)
    out = boxes.new_zeros(len(boxes), fmaps[0].shape[1], out_size, out_size)
    for k, fmap in enumerate(fmaps, start=2):
        chosen = levels == k
        out[chosen] = torchvision.ops.roi_align(fmap, boxes[chosen], out_size, 0.5**k, 2, aligned=True)
    return out


@pytest.mark.parametrize("out_size", [7, 14])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torchvision(dtype, out_size):
    fmaps, proposals = scene(dtype)
    mine = ROIAlign(out_size)(fmaps, proposals, (203, 250))
    theirs = torchvisions(fmaps, proposals, out_size)
    assert len(ROIAlign().assign_levels(torch.cat(proposals)).unique()) >= 3
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    weights = torch.randn_like(mine)
    for ours, peer in zip(*(torch.autograd.grad((o * weights).sum(), fmaps) for o in (mine, theirs)), strict=True):
        torch.testing.assert_close(ours, peer, rtol=1e-4, atol=1e-4)


def test_samples_at_bin_centers():
    """On a map that is linear in x, the average over a bin is the value at the bin's center."""
    columns = torch.arange(8.0).expand(1, 1, 8, 8)  # stride 4: pixel x has the value x / 4 - 1/2
    aligned = ROIAlign(out_size=2, k_min=2, k_max=2)([columns], [torch.tensor([[6.0, 8, 22, 24]])], (32, 32))
    torch.testing.assert_close(aligned[0, 0], torch.tensor([[10 / 4 - 0.5, 18 / 4 - 0.5]] * 2))


def test_levels_by_the_formula():
    sides = torch.tensor([1.0, 111, 112, 223, 224, 447, 448, 5000])
    boxes = torch.stack([0 * sides, 0 * sides, sides, sides], dim=1)
    assert ROIAlign().assign_levels(boxes).tolist() == [2, 2, 3, 3, 4, 4, 5, 5]
    assert ROIAlign().assign_levels(torch.zeros(1, 4)).tolist() == [2]


def test_no_proposals():
    fmaps, _ = scene()
    assert ROIAlign()(fmaps, [torch.empty(0, 4)] * 2, (203, 250)).shape == (0, 5, 7, 7)


def test_an_image_without_proposals():
    fmaps, proposals = scene()
    aligned = ROIAlign()(fmaps, [torch.empty(0, 4), proposals[1]], (203, 250))
    torch.testing.assert_close(aligned, ROIAlign()(fmaps, proposals, (203, 250))[len(proposals[0]) :])


def test_a_fifth_map_is_not_used():
    fmaps, proposals = scene()
    both = [ROIAlign()(maps, proposals, (203, 250)) for maps in (fmaps, [*fmaps, torch.zeros(2, 5, 4, 4)])]
    assert torch.equal(*both)


def test_no_copy_of_the_map_per_roi():
    """What is kept for the backward pass grows with the output, not with regions × map."""
    fmaps, proposals = scene(count=256, channels=64)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        out = ROIAlign()(fmaps, proposals, (203, 250))
    all_maps = sum(f.nbytes for f in fmaps)
    assert sum(kept) < 3 * out.nbytes + 3 * all_maps


@pytest.mark.parametrize("index_type", [torch.int32, torch.int64])
def test_gradient_of_weighted_rows(index_type):
    """Rows that are read twice by one sum, by several sums, and never; against finite differences, and torch's own."""
    torch.manual_seed(0)
    table = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[0, 0, 6, 2], [2, 1, 0, 6], [6, 6, 6, 6]], dtype=index_type)
    weight = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda rows: weighted_rows(rows, index, weight), table)
    flow = torch.randn(3, 3, dtype=torch.float64)
    own = torch.nn.functional.embedding_bag(index, table, mode="sum", per_sample_weights=weight)
    both = [torch.autograd.grad(out, table, flow)[0] for out in (own, weighted_rows(table, index, weight))]
    torch.testing.assert_close(*both)
    assert not both[1][3:6].any()


def test_no_sums_give_no_gradient():
    table = torch.rand(4, 2, requires_grad=True)
    sums = weighted_rows(table, torch.empty(0, 16, dtype=torch.int32), torch.empty(0, 16))
    assert sums.shape == (0, 2)
    assert not torch.autograd.grad(sums.sum(), table)[0].any()


@pytest.mark.parametrize("regions", [3, 20])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_head_flattens_channel_by_channel(regions, layout):
    """With fewer regions than it is wide and with more, whatever the layout."""
    torch.manual_seed(0)
    head, grid = TwoMLPHead(5 * 9, 8), torch.randn(regions, 5, 3, 3).to(memory_format=layout)
    expected = head.fc2(head.fc1(grid.flatten(1)).relu()).relu()
    torch.testing.assert_close(head(grid), expected)


def test_head_and_predictor_start_as_promised():
    torch.manual_seed(0)
    predictor = FastRCNNPredictor(512, 81)
    assert predictor.cls.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert predictor.box.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not predictor.cls.bias.any() and not predictor.box.bias.any()
    logits, deltas = predictor(TwoMLPHead(4 * 9, 512)(torch.rand(3, 4, 3, 3)))
    assert logits.shape == (3, 81) and deltas.shape == (3, 324)


def test_ground_truth_joins_the_proposals():
    target = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([5])}
    rois, labels, matched = sample_rois(torch.tensor([[50.0, 50, 60, 60]]), target, 512, 0.25, 0.5)
    assert rois.tolist() == [[0, 0, 10, 10], [50, 50, 60, 60]]
    assert labels.tolist() == [5, 0] and matched.tolist() == [[0, 0, 10, 10]]


def test_a_quarter_is_positive_and_negatives_fill_up():
    near = torch.tensor([[0.0, 0, 10, 10]]).repeat(300, 1)
    far = torch.tensor([[50.0, 50, 60, 60]]).repeat(1000, 1)
    target = {"boxes": near[:1], "labels": torch.tensor([5])}
    _, labels, matched = sample_rois(torch.cat([near, far]), target, 512, 0.25, 0.5)
    assert (labels > 0).sum() == 128 and len(labels) == 512 and len(matched) == 128
    _, labels, _ = sample_rois(torch.cat([near[:3], far]), target, 512, 0.25, 0.5)
    assert (labels > 0).sum() == 4 and len(labels) == 512


def test_image_without_objects_is_all_background():
    target = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)}
    rois, labels, matched = sample_rois(torch.rand(20, 4), target, 512, 0.25, 0.5)
    assert len(rois) == 20 and not labels.any() and matched.shape == (0, 4)

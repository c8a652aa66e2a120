"""Head, selection and losses of the region proposal network."""

import math

import pytest
import torch

from frcnn_common import AnchorGenerator, RegionProposalNetwork, RPNHead
from frcnn_common.rpn import flatten_levels


def small_rpn(**options):
    torch.manual_seed(0)
    return RegionProposalNetwork(RPNHead(8), AnchorGenerator((16, 32), strides=(8, 16)), **options)


def maps(batch=2, side=64):
    torch.manual_seed(1)
    return [torch.randn(batch, 8, side // stride, side // stride) for stride in (8, 16)]


def test_head_starts_near_nothing():
    head = RPNHead(64, 3)
    assert head.cls.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert not head.cls.bias.any() and not head.box.bias.any() and not head.conv.bias.any()
    cls_outs, box_outs = head([torch.rand(2, 64, 5, 7)])
    assert cls_outs[0].shape == (2, 3, 5, 7) and box_outs[0].shape == (2, 12, 5, 7)


def test_image_without_objects_gives_finite_loss():
    model = small_rpn()
    _, losses = model(maps(), (64, 64), [{"boxes": torch.empty(0, 4)}] * 2)
    assert losses["rpn_box"].item() == 0 and losses["rpn_cls"].isfinite()
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_head_says_the_same_of_single_anchors(dtype):
    """The same numbers and gradients as at all anchors, in every corner of maps of any shape, one anchor twice."""
    torch.manual_seed(0)
    head = RPNHead(6, 3).to(dtype)
    torch.nn.init.normal_(head.conv.weight)
    features = [torch.randn(2, 6, *side, dtype=dtype, requires_grad=True) for side in ((5, 4), (1, 3), (1, 1))]
    images = torch.arange(2).repeat_interleave(3 * 24).repeat(2)
    anchors = torch.arange(3 * 24).repeat(4)
    cls_outs, box_outs = head(features)
    everywhere = flatten_levels(cls_outs, 1)[..., 0], flatten_levels(box_outs, 4)
    sources, found = [*features, *head.parameters()], []
    for logits, deltas in ([out[images, anchors] for out in everywhere], head.at(features, images, anchors)):
        assert logits.shape == (288,) and deltas.shape == (288, 4) and logits.dtype == deltas.dtype == dtype
        found.append([logits, deltas, *torch.autograd.grad(logits.sin().sum() + deltas.cos().sum(), sources)])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_losses_send_gradients_to_the_sampled_anchors_alone():
    """One anchor of a map of many: only the nine cells that it sees hear of it."""
    torch.manual_seed(0)
    model = RegionProposalNetwork(RPNHead(8, 1), AnchorGenerator((16,), (1.0,), (8,)), rpn_batch=1)
    torch.nn.init.uniform_(model.head.cls.weight)
    features = [torch.rand(1, 8, 9, 9, requires_grad=True)]
    _, losses = model(features, (72, 72), [{"boxes": torch.empty(0, 4), "generator": torch.Generator().manual_seed(3)}])
    losses["rpn_cls"].backward()
    rows, columns = features[0].grad.abs().sum(dim=(0, 1)).nonzero().unbind(1)
    assert 0 < len(rows) <= 9 and rows.max() - rows.min() <= 2 and columns.max() - columns.min() <= 2


def losses_over_all(model, anchors, logits, deltas, targets):
    """From what a head says of every anchor, `[B, A]` and `[B, A, 4]`."""
    sample = model.sample_anchors(anchors, targets)
    return model.compute_losses(logits[sample.places], deltas[sample.places], sample)


def test_losses_by_hand():
    """Two anchors, one object: both numbers follow from the definitions."""
    model = small_rpn()
    anchors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    targets = [{"boxes": torch.tensor([[1.0, 0, 11, 10]])}]
    logits, deltas = torch.tensor([[2.0, -1.0]]), torch.zeros(1, 2, 4)
    losses = losses_over_all(model, anchors, logits, deltas, targets)
    # positives: -log sigmoid(2), negatives: -log(1 - sigmoid(-1)); the goal is tx = 0.1, below beta = 1/9
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    torch.testing.assert_close(losses["rpn_cls"], torch.tensor(expected))
    torch.testing.assert_close(losses["rpn_box"], torch.tensor(0.5 * 0.1**2 * 9 / 4))


def test_losses_are_averaged_over_images():
    model = small_rpn()
    anchors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    targets = [{"boxes": torch.tensor([[1.0, 0, 11, 10]])}, {"boxes": torch.tensor([[50.0, 50, 60, 65]])}]
    logits, deltas = torch.tensor([[2.0, -1.0], [0.3, 0.7]]), torch.rand(2, 2, 4)
    both = losses_over_all(model, anchors, logits, deltas, targets)
    parts = [(logits[i : i + 1], deltas[i : i + 1], targets[i : i + 1]) for i in (0, 1)]
    single = [losses_over_all(model, anchors, *part) for part in parts]
    for name in ("rpn_cls", "rpn_box"):
        torch.testing.assert_close(both[name], (single[0][name] + single[1][name]) / 2)


def test_the_old_call_in_training_without_targets_gives_proposals_and_no_losses():
    """`rpn(features, image_size)`, as the notebooks of the older module call it on a network fresh from its maker."""
    proposals, losses = small_rpn()(maps(), (64, 64))
    expected, _ = small_rpn()(maps(), (64, 64), [{"boxes": torch.empty(0, 4)}] * 2)
    assert losses == {} and all(torch.equal(*pair) for pair in zip(proposals, expected, strict=True))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_training_refuses_another_number_of_targets(count):
    with pytest.raises(ValueError, match=f"each of the 2 images, got {count}"):
        small_rpn()(maps(), (64, 64), [{"boxes": torch.empty(0, 4)}] * count)


def test_evaluation_gives_no_losses():
    proposals, losses = small_rpn().eval()(maps(), (64, 64))
    assert losses == {} and len(proposals) == 2


def test_best_are_chosen_level_by_level():
    """With every score of the first level above those of the second, one top-k over all would never see the second."""
    model = small_rpn(pre_nms=5, post_nms=100, nms_thr=1.0, min_sz=0).eval()
    anchors = model.anchor_gen(maps(), (64, 64))
    logits = torch.cat([torch.linspace(2, 1, 192), torch.linspace(0, -1, 48)])[None]
    proposals = model.filter_proposals(anchors, logits, torch.zeros(1, 240, 4), [192, 48], [(64, 64)])
    assert len(proposals[0]) == 10


def test_suppression_stays_within_a_level():
    model = small_rpn(min_sz=0).eval()
    same = torch.tensor([[10.0, 10, 30, 30]]).repeat(4, 1)
    logits = torch.tensor([[4.0, 3, 2, 1]])
    proposals = model.filter_proposals(same, logits, torch.zeros(1, 4, 4), [2, 2], [(64, 64)])
    assert len(proposals[0]) == 2


def test_proposals_are_clipped_to_the_unpadded_image_and_large_enough():
    model = small_rpn(min_sz=9).eval()
    proposals, _ = model(maps(), (64, 64), image_sizes=[(64, 64), (40, 24)])
    assert proposals[1][:, [0, 2]].max() <= 24 and proposals[1][:, [1, 3]].max() <= 40
    for boxes in proposals:
        assert (boxes[:, 2:] - boxes[:, :2]).min() >= 9


def test_proposals_come_by_falling_score_and_detached():
    model = small_rpn(post_nms=7, min_sz=0)
    features = maps()
    proposals, _ = model(features, (64, 64), [{"boxes": torch.tensor([[1.0, 1, 30, 30]])}] * 2)
    assert [len(p) for p in proposals] == [7, 7] and not any(p.requires_grad for p in proposals)
    more, _ = small_rpn(post_nms=20, min_sz=0).eval()(features, (64, 64))
    assert torch.equal(proposals[0], more[0][:7])

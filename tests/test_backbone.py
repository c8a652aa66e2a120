"""Backbone and pyramid: shapes, what frozen means, checkpointing, and torchvision as the peer."""

import copy
import pickle
import warnings

import pytest
import torch
import torchvision

from frcnn_common import FPN, Bottleneck, FasterRCNN, ResNet50, backbone


def loaded(**options):
    """A small backbone that counts as loaded, so that it does not warn."""
    model = ResNet50(width=8, **options)
    model.load_state_dict(model.state_dict())
    return model


def test_shapes_at_full_width():
    with torch.no_grad():
        features = ResNet50().eval()(torch.rand(1, 3, 100, 75))
    assert [tuple(c.shape) for c in features] == [
        (1, 256, 25, 19), (1, 512, 13, 10), (1, 1024, 7, 5), (1, 2048, 4, 3),
    ]  # fmt: skip


def test_bottleneck_carries_the_stride_on_its_3x3():
    block = Bottleneck(8, 4, stride=2, downsample=torch.nn.Conv2d(8, 16, 1, 2))
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))
    assert block(torch.rand(1, 8, 9, 9)).shape == (1, 16, 5, 5)


@pytest.mark.slow
def test_same_weights_give_torchvisions_features():
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(0)
    peer = torchvision.models.resnet50()
    for norm in (m for m in peer.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    extractor = create_feature_extractor(peer.eval(), [f"layer{i}" for i in (1, 2, 3, 4)])
    images = torch.rand(2, 3, 97, 131)
    with torch.no_grad():
        mine = ResNet50(weights=peer.state_dict()).eval()(images)
        for c, expected in zip(mine, extractor(images).values(), strict=True):
            torch.testing.assert_close(c, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(("trainable", "frozen"), [(0, 5), (1, 4), (3, 2), (5, 0)])
def test_trainable_layers_count_from_the_end(trainable, frozen):
    model = ResNet50(width=8, trainable_layers=trainable)
    stages = [model.stem, model.layer1, model.layer2, model.layer3, model.layer4]
    assert [any(p.requires_grad for p in stage.parameters()) for stage in stages] == [False] * frozen + [
        True
    ] * trainable


def test_frozen_statistics_stay_fixed():
    model = loaded(trainable_layers=1).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.rand(2, 3, 64, 64))
    changed = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"layer4"}


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_a_convolution_and_its_live_norm(kernel, stride):
    """1 × 1 kernels take a way of their own in training: the same numbers and gradients."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 6, kernel, stride, padding=kernel // 2, bias=False)
    norm = torch.nn.BatchNorm2d(6)
    x = torch.randn(2, 4, 9, 7, requires_grad=True)
    both = [out(x) for out in (lambda x: norm(conv(x)), lambda x: backbone.conv_norm(x, conv, norm))]
    torch.testing.assert_close(*both)
    gradients = [torch.autograd.grad(out.sin().sum(), [x, conv.weight, norm.weight]) for out in both]
    for expected, value in zip(*gradients, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_norm_frozen_fixes_every_norm():
    model = loaded(norm="frozen").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.requires_grad for name, p in model.named_parameters() if ".bn" in name)


def test_frozen_random_backbone_warns_once():
    model = ResNet50(width=8, trainable_layers=1)
    images = torch.rand(2, 3, 64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.eval()(images)  # inference is not the place to complain
    model.train()
    with pytest.warns(UserWarning, match="no weights were loaded"):
        model(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(images)


def load_into_outer(model):
    outer = torch.nn.ModuleDict({"backbone": model})
    outer.load_state_dict(outer.state_dict())


@torch.no_grad()
def copy_in_place(model):
    for parameter in model.parameters():
        parameter.copy_(torch.rand_like(parameter))


def copy_into_data(model):
    model.stem[0].weight.data.copy_(torch.rand_like(model.stem[0].weight))


def warnings_in_training(model):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.train()(torch.rand(2, 3, 64, 64, dtype=model.stem[0].weight.dtype))
    return [str(w.message) for w in caught if "no weights were loaded" in str(w.message)]


@pytest.mark.parametrize(
    "load",
    [
        lambda model: model.load_state_dict(model.state_dict()),
        lambda model: model.load_state_dict(ResNet50(width=8).state_dict(), assign=True),
        load_into_outer,
        copy_in_place,
        copy_into_data,
        lambda model: model.requires_grad_(),
    ],
    ids=["state_dict", "assigned", "outer", "in place", "data", "nothing frozen"],
)
def test_no_warning_where_weights_came_by_any_route(load):
    model = ResNet50(width=8, trainable_layers=1)
    load(model)
    for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert warnings_in_training(same) == []


def test_torchvisions_weights_are_a_route():
    model = ResNet50(trainable_layers=1, weights=torchvision.models.resnet50().state_dict())
    assert warnings_in_training(model) == []


@pytest.mark.parametrize(
    "change",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: model.double(),
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: model.requires_grad_(False),
    ],
    ids=["copied", "pickled", "converted", "laid out anew", "frozen"],
)
def test_what_brings_no_weights_is_no_route(change):
    model = change(ResNet50(width=8, trainable_layers=1))
    assert len(warnings_in_training(model)) == 1 and warnings_in_training(model) == []


def test_a_state_dict_without_the_backbone_is_no_route():
    model = FasterRCNN(3, width=8, fpn_channels=8, fc_dim=8)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("backbone.")}
    model.load_state_dict(state, strict=False)
    assert len(warnings_in_training(model.backbone)) == 1
    model.load_state_dict(model.state_dict())
    assert warnings_in_training(model.backbone) == []


def test_the_warning_costs_no_copy_and_the_model_pickles():
    model = FasterRCNN(3, width=8, fpn_channels=8, fc_dim=8, trainable_layers=1).eval()
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    assert kept == []
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        (expected,), _ = model(images)
        for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            (found,), _ = same(images)
            assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_model_without_numbers_can_be_made():
    with torch.device("meta"):
        model = ResNet50(width=8, trainable_layers=1)
    model.to_empty(device="cpu").load_state_dict(ResNet50(width=8).state_dict())
    assert warnings_in_training(model) == []


@pytest.fixture
def checkpointed(monkeypatch):
    stages = []

    def spy(stage, *args, **kwargs):
        stages.append(stage)
        return torch.utils.checkpoint.checkpoint(stage, *args, **kwargs)

    monkeypatch.setattr(backbone, "checkpoint", spy)
    return stages


def test_checkpoint_only_where_activations_are_kept(checkpointed):
    images = torch.rand(2, 3, 64, 64)
    model = loaded(trainable_layers=1).train()
    model(images)
    assert checkpointed == [model.layer4]  # layer 3 is frozen: it keeps nothing

    checkpointed.clear()
    with torch.no_grad():
        model.eval()(images)
    loaded(trainable_layers=0).train()(images)
    loaded(trainable_layers=5, checkpoint=False).train()(images)
    assert checkpointed == []

    everything = loaded(trainable_layers=5).train()
    everything(images)
    assert checkpointed == [everything.layer3, everything.layer4]


def test_recomputation_counts_batches_once():
    torch.manual_seed(0)
    plain, recomputing = ResNet50(width=8, checkpoint=False), ResNet50(width=8)
    recomputing.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 64)
    for model in (plain, recomputing):
        model.train()(images)[-1].square().sum().backward()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, recomputing.state_dict()[key]), key
    for (name, p), q in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


@pytest.mark.parametrize("options", [{"trainable_layers": 6}, {"norm": "group"}])
def test_wrong_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ResNet50(width=8, **options)


def test_pyramid_equals_torchvision_on_odd_sizes():
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    mine, peer = FPN((8, 16, 32, 64), 12), FeaturePyramidNetwork([8, 16, 32, 64], 12, LastLevelMaxPool())
    for ours, theirs in ((mine.lateral, peer.inner_blocks), (mine.output, peer.layer_blocks)):
        for conv, block in zip(ours, theirs, strict=True):
            block[0].load_state_dict(conv.state_dict())
    maps = tuple(torch.rand(2, c, h, w) for c, h, w in ((8, 27, 33), (16, 14, 17), (32, 7, 9), (64, 4, 5)))
    expected = peer({str(i): c for i, c in enumerate(maps)}).values()
    for level, theirs in zip(mine(maps), expected, strict=True):
        torch.testing.assert_close(level, theirs)


def test_a_trained_block_starts_as_its_shortcut():
    block = ResNet50(width=8).layer1[1]
    x = torch.rand(1, 32, 5, 5)
    torch.testing.assert_close(block(x), x)
    frozen = ResNet50(width=8, trainable_layers=1)
    assert frozen.layer1[1].bn3.weight.all() and not frozen.layer4[1].bn3.weight.any()

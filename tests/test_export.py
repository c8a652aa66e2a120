"""Graphs for programs without PyTorch: onnxruntime computes what the model computes, and finds what it finds."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from frcnn_common import AnchorGenerator, FasterRCNN
from frcnn_common.cli import app
from frcnn_common.constants import COURSE, TORCHVISION
from frcnn_common.export import TOLERANCE, export_onnx, export_settings, stage_differences
from frcnn_common.graphs import Graph, detector_graph, picture_graph, regions_graph
from frcnn_common.inference import SHIPPED, Detector
from frcnn_common.recipes import RECIPES
from frcnn_common.rpn import flatten_levels
from frcnn_common.samples import to_input

NARROW = {"width": 4, "fpn_channels": 16, "fc_dim": 32}
STANDARD_OPS = {
    "Add", "And", "BatchNormalization", "Cast", "Concat", "ConstantOfShape", "Conv", "Div", "Exp", "Flatten",
    "Gather", "GatherND", "Gemm", "GreaterOrEqual", "Identity", "Less", "Max", "MaxPool", "Min", "Mul",
    "NonMaxSuppression", "NonZero", "Range", "Relu", "Reshape", "Resize", "RoiAlign", "Shape", "Sigmoid",
    "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "TopK", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


def lively(**options):
    """A model with random weights that tells classes apart and finds something."""
    torch.manual_seed(3)
    model = FasterRCNN(5, **NARROW | options)
    nn.init.normal_(model.predictor.box.weight, std=0.1)
    nn.init.normal_(model.predictor.cls.weight, std=0.1)
    nn.init.normal_(model.rpn.head.cls.weight, std=0.02)
    nn.init.normal_(model.rpn.head.box.weight, std=0.02)
    model.predictor.cls.bias.data = torch.tensor([0.0, 1.0, 0.5, 0.0, 0.0])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return Detector(model.cpu(), 96, "lively", ("__background__", "a", "b", "c", "d"))


def tiny():
    detector = Detector.load("tiny")
    detector.model.cpu()
    return detector


MODELS = {
    "the shipped one": tiny,
    "random weights": lively,
    "torchvision's conventions": lambda: lively(conventions=TORCHVISION),
    "other options": lambda: lively(
        anchor_sizes=(9, 18, 36, 72, 144), box_weights=(4.0, 4.0, 2.0, 2.0), pre_nms=50, post_nms=30, nms_thr=0.3
    ),
}


def load(graph):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = graph if isinstance(graph, str) else graph.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def look(session, **inputs):
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.fixture(scope="module", params=MODELS)
def exported(request):
    """A detector with its three graphs, loaded."""
    detector = MODELS[request.param]()
    settings = export_settings(detector)
    graphs = [make(detector.model, settings) for make in (picture_graph, regions_graph, detector_graph)]
    return detector, *map(load, graphs)


def difference(found, expected):
    """As in `stage_differences`."""
    expected = expected.detach().numpy()
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return float(np.abs(found - expected).max(initial=0) / max(1, np.abs(expected).max(initial=0)))


@pytest.mark.parametrize("shape", [(1, 192, 192), (2, 96, 160), (1, 33, 47), (1, 32, 32), (3, 65, 98)])
@torch.no_grad()
def test_both_graphs_compute_what_the_model_computes_at_any_size(exported, shape):
    """Also for several pictures, and where no side is a multiple of anything."""
    detector, picture, regions, _ = exported
    model, (count, height, width) = detector.model, shape
    images = torch.randn(count, 3, height, width)
    features = model.fpn(model.backbone(images))
    logits, deltas = map(flatten_levels, model.rpn.head(features), (1, 4))
    found = look(picture, picture=images.numpy())
    assert difference(found["logits"], logits[..., 0]) < TOLERANCE
    assert difference(found["deltas"], deltas) < TOLERANCE
    corners = torch.rand(30, 2, 2).sort(dim=1).values * torch.tensor([width, height])
    boxes = list(corners.flatten(1).split([30 - count + 1] + [1] * (count - 1)))
    expected = model.predictor(model.box_head(model.roi_align(features, boxes, (height, width))))
    fed = {f"p{k}": features[k - 2].contiguous().numpy() for k in range(2, 6)}
    assert all(difference(found[name], torch.from_numpy(value)) < TOLERANCE for name, value in fed.items())
    images = np.repeat(np.arange(count), [len(b) for b in boxes])
    found = look(regions, **fed, regions=torch.cat(boxes).numpy(), images=images)
    assert difference(found["class_logits"], expected[0]) < TOLERANCE
    assert difference(found["class_deltas"], expected[1].unflatten(1, (-1, 4))) < TOLERANCE


def test_regions_of_all_sizes_and_places_are_aligned_as_in_the_model(exported):
    """On each level, at the bounds between levels, without area, and beyond the picture's edges."""
    detector, _, regions, _ = exported
    model = detector.model
    maps = [torch.randn(1, model.fpn.output[0].out_channels, 256 // 2**k, 320 // 2**k) for k in range(2, 6)]
    sides = torch.tensor([0.0, 1.0, 30.0, 111.9, 112.0, 112.1, 223.9, 224.0, 448.0, 500.0])
    corner = torch.tensor([[-40.0, -9.0], [3.0, 5.0], [200.5, 100.25], [330.0, 10.0]])
    boxes = torch.cat([torch.cat([corner, corner + side], dim=1) for side in sides])
    with torch.no_grad():
        expected = model.predictor(model.box_head(model.roi_align(maps, [boxes], (256, 320))))
    fed = {f"p{k + 2}": fmap.numpy() for k, fmap in enumerate(maps)}
    found = look(regions, **fed, regions=boxes.numpy(), images=np.zeros(len(boxes), np.int64))
    assert difference(found["class_logits"], expected[0]) < TOLERANCE


def test_no_regions_give_no_classes(exported):
    detector, _, regions, _ = exported
    rows, channels = len(detector.names), detector.model.fpn.output[0].out_channels
    maps = {f"p{k}": np.zeros((1, channels, 8, 8), np.float32) for k in range(2, 6)}
    found = look(regions, **maps, regions=np.zeros((0, 4), np.float32), images=np.zeros(0, np.int64))
    assert found["class_logits"].shape == (0, rows) and found["class_deltas"].shape == (0, rows, 4)


def in_rows(found):
    """Boxes, scores and labels side by side, so scaled that a wrong one is far away."""
    return torch.cat([found["boxes"], 100 * found["scores"][:, None], 100 * found["labels"][:, None]], dim=1)


def alike(ours, theirs):
    """The share of rows that have an equal on the other side: in noise many scores are close, and one may turn."""
    near = torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist") < 0.01
    return torch.cat([near.any(dim=0), near.any(dim=1)]).double().mean().item()


@pytest.mark.parametrize(("sides", "size"), [((192, 192), (192, 192)), ((96, 160), (90, 131)), ((65, 98), (65, 98))])
@torch.no_grad()
def test_the_one_graph_finds_what_the_model_finds(exported, sides, size):
    """Boxes are clipped to the size without padding, which is an input."""
    detector, _, _, whole = exported
    image = torch.randn(1, 3, *sides)
    (expected,), (proposals,) = detector.model(image, image_sizes=[size])
    found = look(whole, picture=image.numpy(), size=np.float32(size))
    assert len(proposals) and len(expected["boxes"])
    assert alike(torch.from_numpy(found["proposals"]), proposals) > 0.98
    ours, theirs = (in_rows(one) for one in (expected, {key: torch.from_numpy(found[key]) for key in expected}))
    assert alike(ours, theirs) > 0.98 and (found["scores"][1:] <= found["scores"][:-1]).all()


def test_a_picture_without_any_proposal_or_detection():
    for change in ({"min_sz": 1e6}, {"score_thr": 0.9999}):
        detector = lively(**change)
        whole = load(detector_graph(detector.model, export_settings(detector)))
        found = look(whole, picture=np.ones((1, 3, 64, 64), np.float32), size=np.float32([64, 64]))
        assert found["boxes"].shape == (0, 4) and found["scores"].shape == found["labels"].shape == (0,)


def found_in_scenes(count):
    detector = tiny()
    whole = load(detector_graph(detector.model, export_settings(detector)))
    for image, _ in RECIPES["openmoji-tiny"].dataset("val", count).pictures():
        batch = to_input(image, detector.img_size)[None]
        with torch.no_grad():
            (expected,), _ = detector.model(batch)
        yield expected, look(whole, picture=batch.numpy(), size=np.float32(batch.shape[2:]))


@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.long)])
def test_the_same_detections_in_scenes(count):
    scenes = list(found_in_scenes(count))
    assert len(scenes) == count and sum(len(expected["labels"]) for expected, _ in scenes) > 5 * count
    for expected, found in scenes:
        assert found["labels"].tolist() == expected["labels"].tolist()
        assert difference(found["scores"], expected["scores"]) < TOLERANCE
        assert difference(found["boxes"], expected["boxes"]) < TOLERANCE


# ------------------------------------------------------------------------------------------------ files


def test_the_files_hold_the_weights_once_and_in_half_precision(tmp_path):
    """What is stored as halves comes back to the bit; a model with other numbers keeps them."""
    files = export_onnx(tmp_path / "tiny.onnx", tiny(), stages=True)
    assert [path.name for path in files] == ["tiny-picture.onnx", "tiny-regions.onnx"]
    (whole,) = export_onnx(tmp_path / "tiny.onnx", tiny())
    shipped, state = SHIPPED.stat().st_size, tiny().model.state_dict()
    assert sum(path.stat().st_size for path in files) < 1.05 * shipped and whole.stat().st_size < 1.05 * shipped
    stored = {a.name: onnx.numpy_helper.to_array(a) for path in files for a in onnx.load(path).graph.initializer}
    for name, value in state.items():
        if "num_batches" not in name:
            assert torch.equal(torch.from_numpy(stored[name].copy()).to(value.dtype), value), name
    other = Graph()
    other.weight("thirds", torch.full((2, 2), 1 / 3))
    assert other.arrays["thirds"].dtype == np.float32 and not other.nodes


def test_nothing_but_standard_operations_that_old_runtimes_know(tmp_path):
    for path in [*export_onnx(tmp_path / "a.onnx", lively()), *export_onnx(tmp_path / "a.onnx", lively(), stages=True)]:
        model = onnx.load(path)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)] and model.ir_version == 8
        assert {node.op_type for node in model.graph.node} <= STANDARD_OPS
        assert all(node.domain == "" for node in model.graph.node)


@pytest.mark.parametrize("conventions", [COURSE, TORCHVISION])
def test_a_file_says_where_the_anchors_are(tmp_path, conventions):
    """Laid out by the settings alone, they are the generator's."""
    detector = lively(conventions=conventions)
    (path,) = export_onnx(tmp_path / "a.onnx", detector)
    properties = load(str(path)).get_modelmeta().custom_metadata_map
    settings = json.loads(properties["frcnn_common"])
    assert settings == export_settings(detector) and settings["names"] == ["__background__", "a", "b", "c", "d"]
    maps, anchors = [torch.empty(1, 1, math.ceil(70 / 2**k), math.ceil(100 / 2**k)) for k in range(2, 7)], []
    for fmap, stride, base in zip(maps, settings["strides"], settings["anchors"], strict=True):
        (rows, columns), steps = fmap.shape[2:], (stride, stride)
        if settings["whole_steps"]:
            steps = 70 // rows, 100 // columns
        y, x = np.indices((rows, columns)) + settings["anchor_offset"]
        centers = np.stack([x * steps[1], y * steps[0]] * 2, axis=-1)
        anchors.append((centers[:, :, None] + np.array(base)).reshape(-1, 4))
    assert np.abs(np.concatenate(anchors) - detector.model.rpn.anchor_gen(maps, (70, 100)).numpy()).max() < 1e-4


def test_a_fixed_size_is_the_only_one(tmp_path):
    (path,) = export_onnx(tmp_path / "a.onnx", lively(), fixed=True)
    session = load(str(path))
    assert session.get_inputs()[0].shape == [1, 3, 96, 96]
    assert len(look(session, picture=np.ones((1, 3, 96, 96), np.float32), size=np.float32([96, 96]))["proposals"])
    with pytest.raises(Exception, match="96"):
        look(session, picture=np.ones((1, 3, 64, 64), np.float32), size=np.float32([64, 64]))
    with pytest.raises(ValueError, match="there is none to fix"):
        export_onnx(tmp_path / "b.onnx", Detector(lively().model, None), fixed=True)


class Doubled(FasterRCNN):
    """A model whose own layers compute something else than the graph."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.box_head.register_forward_hook(lambda module, inputs, output: 2 * output)


def test_a_model_that_computes_something_else_is_refused_and_no_file_changes(tmp_path):
    detector = lively()
    other = Doubled(5, **NARROW)
    other.load_state_dict(detector.model.state_dict())
    detector.model = other.eval()
    (tmp_path / "a.onnx").write_bytes(b"older")
    with pytest.raises(ValueError, match="onnxruntime computes other class_logits than Doubled: by "):
        export_onnx(tmp_path / "a.onnx", detector)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


def test_regions_that_onnx_has_not_got_are_refused(tmp_path):
    detector = lively(conventions=replace(COURSE, roi_offset=0.0))
    with pytest.raises(ValueError, match=r"roi_offset=0.0 and min_roi=0.0; it has \(0.5, 0.0\) and \(0.0, 1.0\)"):
        export_onnx(tmp_path / "a.onnx", detector)
    assert not list(tmp_path.iterdir())


def test_a_model_in_training_or_in_double_precision_is_left_as_it_is(tmp_path):
    detector = lively()
    detector.model.double().train()
    export_onnx(tmp_path / "a.onnx", detector)
    assert detector.model.training and detector.model.predictor.cls.weight.dtype == torch.float64


def test_the_comparison_measures_a_difference():
    detector = lively()
    graphs = [make(detector.model, export_settings(detector)) for make in (picture_graph, regions_graph)]
    assert set(stage_differences(detector.model, *graphs, 64)) == {
        "logits", "deltas", "p2", "p3", "p4", "p5", "class_logits", "class_deltas"
    }  # fmt: skip
    assert max(stage_differences(detector.model, *graphs, 64).values()) < TOLERANCE
    detector.model.rpn.head.box.bias.data += 0.5
    wrong = stage_differences(detector.model, *graphs, 64)
    assert [name for name, value in wrong.items() if value > TOLERANCE] == ["deltas"]


# ---------------------------------------------------------------------------------------------- command

run = CliRunner().invoke


def test_the_command_writes_one_file_or_two(tmp_path):
    done = run(app, ["export", "--onnx", str(tmp_path / "new" / "a.onnx")])
    assert done.exit_code == 0 and done.output.startswith(f"{tmp_path / 'new' / 'a.onnx'}: 7.")
    done = run(app, ["export", "--onnx", str(tmp_path / "new" / "a.onnx"), "--stages", "--fixed"])
    assert done.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a-picture.onnx", "a-regions.onnx", "a.onnx"]
    assert load(str(tmp_path / "new" / "a-picture.onnx")).get_inputs()[0].shape[2:] == [tiny().img_size] * 2


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra_one_line_says_how_to_get_it(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    done = run(app, ["export", "--onnx", str(tmp_path / "a.onnx")])
    wanted = f"frcnn: export needs the package {package}: pip install 'frcnn-common[export]'\n"
    assert (done.exit_code, done.output) == (1, wanted)
    assert not list(tmp_path.iterdir())


def test_no_file_that_is_read_is_written_over(tmp_path):
    """Whatever it is called."""
    weights = tmp_path / "a.onnx"
    weights.write_bytes(SHIPPED.read_bytes())
    for arguments, named in (
        (["--onnx", str(weights), "--weights", str(weights)], "would be written over"),
        (["--onnx", str(tmp_path / "weights.safetensors")], "should end in .onnx"),
    ):
        done = run(app, ["export", *arguments])
        assert done.exit_code == 1 and named in done.output and done.output.count("\n") == 1
    assert weights.read_bytes() == SHIPPED.read_bytes() and len(list(tmp_path.iterdir())) == 1


def test_anchors_that_somebody_has_changed_are_exported_as_they_are():
    detector = lively()
    detector.model.rpn.anchor_gen = AnchorGenerator((20, 40, 80, 160, 320))
    base = np.array(export_settings(detector)["anchors"])
    assert np.allclose(np.sqrt((base[..., 2:] - base[..., :2]).prod(-1)), [[20], [40], [80], [160], [320]])

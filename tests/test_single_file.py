"""The single file works alone: in a process that cannot import the package, it trains a step and detects."""

import subprocess
import sys
import sysconfig

import pytest

from tools import single_file

CONTRACT = [
    "IMG_SIZE",
    "NUM_CLASSES",
    "DEVICE",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "COCO_NAMES",
    "box_iou",
    "encode_boxes",
    "decode_boxes",
    "nms",
    "batched_nms",
    "COCOStreamDataset",
    "frcnn_collate_fn",
    "Bottleneck",
    "ResNet50",
    "FPN",
    "AnchorGenerator",
    "RPNHead",
    "RegionProposalNetwork",
    "ROIAlign",
    "TwoMLPHead",
    "FastRCNNPredictor",
    "FasterRCNN",
]

TRAIN_AND_DETECT = """
import importlib.util, sys
sys.path.append({packages!r})  # torch and the rest; with -S no .pth file is read, so no editable install is found
assert importlib.util.find_spec("frcnn_common") is None, "the package is importable"
sys.path.insert(0, {folder!r})
import torch
import frcnn_common as fc
assert fc.__file__ == {folder!r} + "/frcnn_common.py", fc.__file__
for name in {names!r}:
    assert name in fc.__all__ and hasattr(fc, name), name

torch.set_num_threads(1)
torch.manual_seed(0)
model = fc.FasterRCNN(5, width=16, fpn_channels=32, fc_dim=64, trainable_layers=5)
images = torch.randn(2, 3, 128, 160)
targets = [
    {{"boxes": torch.tensor([[20.0, 30.0, 90.0, 100.0]]), "labels": torch.tensor([2])}},
    {{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}},
]
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
losses = model.train()(images, targets)
assert sorted(losses) == ["roi_box", "roi_cls", "rpn_box", "rpn_cls"], losses
sum(losses.values()).backward()
optimizer.step()
assert all(torch.isfinite(p).all() for p in model.parameters())

with torch.no_grad():
    results, proposals = model.eval()(images)
assert len(results) == len(proposals) == 2
assert sorted(results[0]) == ["boxes", "labels", "scores"] and results[0]["boxes"].shape[1] == 4
assert not [m for m in sys.modules if m.startswith("frcnn_common.")]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    single_file.main(folder / "frcnn_common.py")
    return folder


def test_trains_and_detects_alone(folder):
    code = TRAIN_AND_DETECT.format(packages=sysconfig.get_path("purelib"), folder=str(folder), names=CONTRACT)
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_each_public_name_once(folder):
    public = [name for module in single_file.in_order() for name in module.public]
    assert len(public) == len(set(public))
    assert set(CONTRACT) <= set(public)


def test_core_imports_nothing_above_it(tmp_path, monkeypatch):
    (tmp_path / "boxes.py").write_text("from .plots import show\n")
    monkeypatch.setattr(single_file, "PACKAGE", tmp_path)
    with pytest.raises(SystemExit, match="plots stands above the core"):
        list(single_file.in_order(["boxes"]))


def test_two_modules_may_not_bind_one_name(tmp_path, monkeypatch):
    for name in ("boxes", "rpn"):
        (tmp_path / f"{name}.py").write_text("def _clamp(x):\n    return x\n")
    monkeypatch.setattr(single_file, "PACKAGE", tmp_path)
    with pytest.raises(SystemExit, match=r"boxes.py and rpn.py both define _clamp"):
        single_file.check_names(single_file.in_order(["boxes", "rpn"]))

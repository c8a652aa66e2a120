"""On a GPU: the numbers of the processor and of torchvision's CUDA kernels, and as few waits as torch itself counts.

Where two devices can be compared, the processor stands in for the GPU as well, so that each comparison is known to run.
"""

import copy
import importlib
import json
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
import torchvision
from strategies import arrange
from test_device import TINY, batch, model

from frcnn_common import TORCHVISION, ROIAlign
from frcnn_common.engine import Trainer
from frcnn_common.nms import batched_nms, nms

EACH_DEVICE = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


@pytest.fixture(params=[False, True], ids=["TF32 off", "TF32 on"])
def tolerance(request):
    """With TF32, convolutions and products have 10 bits of mantissa: a thousandth, rather than 23."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = request.param
    yield 2e-2 if request.param else 1e-4
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


@EACH_DEVICE
@pytest.mark.parametrize("layout", ["scattered", "clustered", "one pile", "chain"])
def test_suppression_is_torchvisions(device, layout):
    boxes, scores = arrange(layout, 3000, 0).float(), torch.rand(3000)
    groups = torch.arange(3000) % 3
    there = boxes.to(device), scores.to(device)
    kept = nms(*there, 0.5)
    assert kept.device.type == device and torch.equal(kept.cpu(), torchvision.ops.nms(boxes, scores, 0.5))
    assert torch.equal(kept, torchvision.ops.nms(*there, 0.5))
    assert torch.equal(batched_nms(*there, groups.to(device), 0.5).cpu(), batched_nms(boxes, scores, groups, 0.5))


@EACH_DEVICE
def test_roi_align_and_its_gradient_are_torchvisions(device):
    maps = [torch.randn(2, 16, side, side, device=device, requires_grad=True) for side in (64, 32, 16, 8)]
    rois = [(100 * torch.rand(20, 2)).repeat(1, 2).to(device) for _ in range(2)]
    for boxes in rois:
        boxes[:, 2:] += 10 + 100 * torch.rand(20, 2, device=device)
    pool = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    mine = ROIAlign(conventions=TORCHVISION)(maps, rois, (256, 256))
    theirs = pool({str(n): m for n, m in enumerate(maps)}, rois, [(256, 256)] * 2)
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    flow = torch.randn_like(mine)
    for a, b in zip(*(torch.autograd.grad(out, maps, flow) for out in (mine, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@EACH_DEVICE
def test_maps_and_head_outputs_are_those_of_the_processor(device, tolerance):
    here, images = model(norm="frozen").eval(), batch(2)[0]
    there = copy.deepcopy(here).to(device)
    found = []
    for network, pictures in ((here, images), (there, images.to(device))):
        with torch.no_grad():
            maps = network.fpn(network.backbone(pictures))
            found.append([*maps, *(out for outs in network.rpn.head(maps) for out in outs)])
    for expected, value in zip(*found, strict=True):
        assert (value.cpu() - expected).norm() <= tolerance * expected.norm()


@EACH_DEVICE
@pytest.mark.parametrize("trained", [1, 5])
def test_losses_are_finite_and_fall_on_the_device(device, trained, tolerance):
    """Sampling draws other numbers on a GPU, so no step can be compared with the processor's; the course of some can."""
    torch.manual_seed(0)
    recipe = replace(TINY, lr=1e-3, warmup_steps=1)
    images, targets = batch(2)
    trainer = Trainer(model(trainable_layers=trained).to(device).train(), recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["frcnn_common.engine"], "DEVICE", torch.device(device))
        losses = [trainer.train_step([(images, targets)])["loss"] for _ in range(6)]
    assert losses[-1] < losses[0]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_trains(dtype):
    trainer = Trainer(model().cuda().train(), replace(TINY, amp_dtype=dtype, lr=1e-3, warmup_steps=1))
    losses = [trainer.train_step([batch(2)])["loss"] for _ in range(6)]
    assert losses[-1] < losses[0]


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 5])
def test_waits_as_torch_counts_them(count):
    images, targets = batch(count)
    trainer, there = Trainer(model().cuda().train(), TINY), images.cuda()
    detector = model().cuda().eval()

    def detect():
        with torch.no_grad():
            detector(there)

    for work, most in ((lambda: trainer.train_step([(images, targets)]), 12), (detect, 10)):
        work()  # what is set up once may wait
        with warnings.catch_warnings(record=True, action="always") as caught:
            torch.cuda.set_sync_debug_mode("warn")
            work()
            torch.cuda.set_sync_debug_mode("default")
        assert len([w for w in caught if "synchronizing" in str(w.message)]) <= most


# --- The script of `make gpu`, as far as it goes without a GPU --------------------------------------------------------
@pytest.fixture
def script(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.import_module("gpu")


def test_the_pages_say_that_there_was_no_run(script, tmp_path):
    assert "no run on a GPU yet" in script.as_markdown(tmp_path / "none.json")


def test_packages_are_named_that_are_missing(script, monkeypatch):
    assert script.missing() == []
    monkeypatch.setitem(script.PACKAGES, "no_such_module", "some-package")
    assert script.missing() == ["some-package"]


def test_a_command_is_ended_when_the_time_is_over(script):
    code, output = script.call(["-c", "print('begun', flush=True); import time; time.sleep(10**6)"], deadline=0)
    assert code == -1 and output.endswith("the time was over")


@pytest.mark.slow
def test_the_rehearsal_passes_and_the_pages_can_show_it(root, script, tmp_path):
    """Steps of the large recipe from a Hub, a run that is killed and resumed, and a row of the benchmark."""
    out = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--rehearse", "--minutes", "600", "--out", out]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads(out.read_text(encoding="utf-8"))
    assert [part["name"] for part in run["parts"]] == list(script.REHEARSED) and run["rehearsal"]
    page = script.as_markdown(out)
    assert page.count("| passed |") == 3 and "NMS, 2,000 boxes" in page
    assert run["parts"][0]["found"]["bfloat16"]["estimate"] > 10**6

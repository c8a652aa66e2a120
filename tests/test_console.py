"""What a command says when it cannot go on, whatever it writes to: one line, an exit code, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

from frcnn_common.console import one_line_errors, printable

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")


def frcnn(root, *arguments, **options):
    """The program in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"} | options.pop("environment", {})
    command = [sys.executable, "-m", "frcnn_common.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, env=environment, check=False, timeout=3600, **pipes)


def told(error, capsys):
    """What is said of an error."""
    with pytest.raises(typer.Exit) as caught, one_line_errors():
        raise error
    assert caught.value.exit_code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("frcnn: ")
    return said


def test_memory_that_runs_out_is_no_fault_of_the_library(capsys):
    assert "not enough memory: none is left" in told(MemoryError(), capsys)
    assert "not enough memory: CUDA out of memory" in told(torch.OutOfMemoryError("CUDA out of memory. 2 GiB"), capsys)
    refused = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
    assert "not enough memory" in told(RuntimeError(refused), capsys)


def test_another_error_of_the_runtime_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="a fault of ours"), one_line_errors():
        raise RuntimeError("a fault of ours")


KILLED = """
import os, signal, sys
import typer
from torch.utils.data import DataLoader, IterableDataset
from frcnn_common.console import one_line_errors
class Hungry(IterableDataset):
    def __iter__(self):
        os.kill(os.getpid(), signal.SIGKILL)
        yield 1
try:
    with one_line_errors():
        next(iter(DataLoader(Hungry(), num_workers=1)))
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


def test_a_worker_that_is_killed_is_named_with_the_likely_cause(root):
    done = subprocess.run(
        [sys.executable, "-c", KILLED], env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True,
        check=False, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("frcnn: process ") and "which reads the data, " in done.stderr
    assert "memory" in done.stderr


@needs_full
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_full_is_one_line(root, unbuffered):
    with open("/dev/full", "w") as full:
        done = frcnn(root, "info", stdout=full, environment={"PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 1
    assert done.stderr.decode() == "frcnn: [Errno 28] No space left on device: 'standard output'\n"


def test_an_output_that_nobody_reads_is_no_error(root):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        done = frcnn(root, "info", stdout=pipe, environment={"PYTHONUNBUFFERED": ""})
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_terminal_that_is_not_of_utf8_gets_all_pictures(root, tmp_path):
    for name in ("a.png", "猫.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    arguments = ("detect", tmp_path / "a.png", tmp_path / "猫.png", "--out", tmp_path / "out")
    for encoding in ("latin-1", "ascii"):
        done = frcnn(root, *arguments, environment={"PYTHONIOENCODING": encoding})
        assert done.returncode == 0, done.stderr.decode()
        lines = done.stdout.decode("latin-1").splitlines()
        assert len(lines) == 2 and "nothing" in lines[0], lines
    assert " -> " in lines[0] or " → " in done.stdout.decode()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "猫.png"]


def test_printable_keeps_one_line():
    assert printable("a\nb\x1b[31mc") == "a b [31mc"

"""A file is there as a whole or not at all, nothing is written over what is read, and a folder has one user."""

import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from frcnn_common.files import (
    describe_files,
    errors_of,
    files_below,
    only_user,
    refuse_overwriting,
    strict_json,
    write_atomically,
)


@contextmanager
def full_disk(size=1000):
    """No file can become larger than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_folder_is_made_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "deeper" / "a.bin"
    write_atomically(path, lambda file: file.write(b"whole"))
    write_atomically(str(path), lambda file: file.write(b"another"))
    assert path.read_bytes() == b"another" and os.listdir(path.parent) == ["a.bin"]


@pytest.mark.parametrize("moment", ["while it writes", "when the bytes reach the disk", "when it takes its name"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, moment):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    def write(file):
        file.write(b"half")
        if moment == "while it writes":
            fail()

    if moment != "while it writes":
        monkeypatch.setattr(os, "fsync" if "disk" in moment else "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    seen = []
    write_atomically(path, lambda file: (file.write(b"new"), file.flush(), seen.append(path.read_bytes())))
    assert seen == [b"old"] and path.read_bytes() == b"new"


@pytest.mark.parametrize("content", [b"." * 5000, torch.zeros(5000)], ids=["bytes", "torch"])
def test_a_full_disk_names_the_file(tmp_path, content):
    """Also behind the error that torch's own writer raises then."""
    path = tmp_path / "a.bin"
    write = (lambda file: file.write(content)) if isinstance(content, bytes) else lambda file: torch.save(content, file)
    with full_disk(), pytest.raises(OSError, match=f"'{path}'") as caught:
        write_atomically(path, write)
    assert caught.value.errno == errno.EFBIG and os.listdir(tmp_path) == []


def test_an_error_that_is_none_of_the_disk_stays_as_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), errors_of("a.bin"):
        raise ZeroDivisionError
    with pytest.raises(OSError, match="^in words alone$"), errors_of("a.bin"):
        raise OSError("in words alone")
    with pytest.raises(PermissionError, match="Permission denied: 'a.bin'"), errors_of("a.bin"):
        raise PermissionError(errno.EACCES, "Permission denied", "a.bin.123.partial")


def test_numbers_that_are_none_become_null():
    value = {"AP": math.nan, "rows": [(math.inf, -math.inf, 0.5), "NaN"], "n": 1, "deep": {"x": math.nan}, "b": True}
    text = strict_json(value)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "AP": None, "rows": [[None, None, 0.5], "NaN"], "n": 1, "deep": {"x": None}, "b": True,
    }  # fmt: skip
    assert strict_json({"a": [1]}, indent=1) == json.dumps({"a": [1]}, indent=1)


def test_files_of_a_folder_are_described_without_being_opened(tmp_path):
    (tmp_path / "deeper").mkdir()
    for name, size in {"a.JPG": 3, "deeper/b.jpg": 4, "c.json": 5, "log.jsonl": 6}.items():
        (tmp_path / name).write_bytes(b"." * size)
        (tmp_path / name).chmod(0)
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "missing")
    first = describe_files(tmp_path, {".jpg", ".json"})
    assert list(first) == [".jpg", ".json"] and first[".jpg"].startswith("2 files, 7 bytes, names and sizes ")
    (tmp_path / "deeper" / "b.jpg").rename(tmp_path / "deeper" / "d.jpg")
    other = describe_files(tmp_path, {".jpg", ".json"})
    assert other[".json"] == first[".json"] and other[".jpg"] != first[".jpg"]
    assert describe_files(tmp_path / "missing", {".jpg"}) == {}


SCENES = """
import os
from frcnn_common.openmoji import scene_stream
print(next(iter(scene_stream("val")))["image_id"])
"""


@pytest.mark.parametrize("variable", ["HOME", "HF_HOME"])
def test_scenes_need_no_folder_that_can_be_written(root, tmp_path, variable):
    """A file in the place of the home folder: nobody can make a folder in it, whatever their rights."""
    (tmp_path / "file").touch()
    taken = ("HF_HOME", "XDG_CACHE_HOME", "HF_DATASETS_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in taken}
    environment |= {variable: str(tmp_path / "file"), "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SCENES], env=environment, capture_output=True, text=True, check=False, timeout=3600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0\n" and os.listdir(tmp_path) == ["file"]


def test_links_are_replaced_and_not_followed(tmp_path):
    outside, path = tmp_path / "outside", tmp_path / "a.bin"
    outside.write_bytes(b"keep")
    for name in (path.name, f"{path.name}.{os.getpid()}.partial"):
        (tmp_path / name).symlink_to(outside)
    write_atomically(path, lambda file: file.write(b"new"))
    assert outside.read_bytes() == b"keep" and path.read_bytes() == b"new" and not path.is_symlink()


def test_no_spelling_of_an_input_is_an_output(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    picture, other = tmp_path / "in" / "a.png", tmp_path / "in" / "b.png"
    picture.write_bytes(b"a")
    other.write_bytes(b"b")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "c.png").symlink_to(picture)
    (tmp_path / "hard.png").hardlink_to(picture)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "./in/../in/a.png", tmp_path / "in" / "a.png", "link/a.png", "c.png", "hard.png"):
        with pytest.raises(ValueError, match=f"{name} would be written over, but it is read, as .*a.png"):
            refuse_overwriting(["in/b.png", name], [picture])
    with pytest.raises(ValueError, match="c.png would be written over"):  # the link itself is what is read
        refuse_overwriting(["./c.png"], ["c.png"])
    refuse_overwriting(["in/b.png", "new.png", "nowhere/new.png", "dangling.png"], [picture, "missing.png"])


def test_files_below_are_found_through_links_and_once(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("a/2", "a/1", "a/b/3", "elsewhere/4"):
        (tmp_path / name).touch()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "b" / "loop").symlink_to(tmp_path / "a")
    found = [str(path.relative_to(tmp_path / "a")) for path in files_below(tmp_path / "a")]
    assert found == ["1", "2", "b/3", "link/4"] and list(files_below(tmp_path / "nowhere")) == []


HOLD = """
import os, sys, time
from frcnn_common.files import only_user
with only_user(sys.argv[1]):
    if os.fork():
        print("in", flush=True)
        sys.stdin.read()
    else:
        time.sleep(3600)  # a worker that outlives the process
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_a_folder_is_free_as_soon_as_its_user_is_dead(root, tmp_path):
    command, environment = [sys.executable, "-c", HOLD, tmp_path / "run"], os.environ | {"PYTHONPATH": str(root)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            assert process.stdout.readline() == "in\n"
            message = f"{tmp_path}/run is in use by another run, process {process.pid}"
            with pytest.raises(ValueError, match=message), only_user(tmp_path / "run"):
                pass
            process.kill()
            process.wait()
            for _ in range(2):
                with (
                    only_user(tmp_path / "run"),
                    pytest.raises(ValueError, match="another run of this process"),
                    only_user(tmp_path / "." / "run"),
                ):
                    pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)

"""A file is there as a whole or not at all."""

import os

import pytest

from frcnn_common.files import write_atomically


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


def test_links_are_replaced_and_not_followed(tmp_path):
    outside, path = tmp_path / "outside", tmp_path / "a.bin"
    outside.write_bytes(b"keep")
    for name in (path.name, f"{path.name}.{os.getpid()}.partial"):
        (tmp_path / name).symlink_to(outside)
    write_atomically(path, lambda file: file.write(b"new"))
    assert outside.read_bytes() == b"keep" and path.read_bytes() == b"new" and not path.is_symlink()

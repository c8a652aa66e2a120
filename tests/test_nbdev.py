"""What users of nbdev are used to: its commands, hooks and merge driver leave the tree as `make sync` wants it."""

import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from importlib.metadata import distribution
from pathlib import Path

import nbformat
import pytest
from nbdev.clean import clean_jupyter

from tools import notebooks

BIN = Path(sys.executable).parent
BOXES = "nbs/api/03_boxes.ipynb"


class Clone:
    """A repository in a temporary folder, and a home of its own for what nbdev writes there."""

    def __init__(self, folder, home):
        self.folder = folder
        home.mkdir(exist_ok=True)
        self.environment = os.environ | {
            "HOME": str(home),
            "JUPYTER_DATA_DIR": str(home / "jupyter"),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{f"GIT_{who}_{what}": "someone" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }

    def run(self, *command, succeeds=True):
        """What a command prints; it must succeed, unless it must not."""
        options = {"cwd": self.folder, "env": self.environment, "capture_output": True, "text": True}
        done = subprocess.run(command, check=False, **options)
        assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit(self, message):
        """Commit what has changed."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def check(self):
        """Nothing is changed or new, and `make sync` has nothing to say."""
        assert self.run("git", "status", "--porcelain") == ""
        self.run(sys.executable, "tools/notebooks.py", "sync")

    def edit(self, change):
        """Change the cells of the notebook on boxes, as somebody does in Jupyter, and export it."""
        nb = notebooks.read(self.folder / BOXES)
        change({cell["id"]: cell for cell in nb["cells"]})
        (self.folder / BOXES).write_text(notebooks.tidied(nb), encoding="utf-8")
        self.run("nbdev_export")
        self.commit("edited")


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """The working tree as a repository with one commit."""
    folder = tmp_path_factory.mktemp("origin")
    notebooks.copy_tree(folder)
    origin = Clone(folder, tmp_path_factory.mktemp("home"))
    origin.run("git", "init", "--quiet", "--initial-branch=main")
    origin.commit("everything")
    return origin


@pytest.fixture
def clone(origin, tmp_path):
    """Clone it under a name."""

    def make(name="clone"):
        origin.run("git", "clone", "--quiet", str(origin.folder), str(tmp_path / name))
        return Clone(tmp_path / name, tmp_path / "home")

    return make


# ------------------------------------------------------------------------------------------- commands


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["nbdev_export"], ""),
        (["nbdev_clean"], ""),
        (["nbdev_test", "--path", BOXES], "Success."),
        (["nbdev_test", "--path", "nbs/chapters"], "No files were eligible for testing"),
        (["nbdev_trust"], ""),
        (["nbdev_prepare"], "Success."),
    ],
    ids=["export", "clean", "test", "test of chapters", "trust", "prepare"],
)
def test_a_command_changes_nothing(clone, command, says):
    here = clone()
    assert says in here.run(*command)
    here.check()


def test_a_notebook_saved_in_jupyter_is_clean(root, tmp_path, monkeypatch):
    """By nbdev's hook: run again in order, with what Jupyter notes in the metadata."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    stored = (root / BOXES).read_text(encoding="utf-8")
    path = tmp_path / "nbs" / "boxes.ipynb"
    path.parent.mkdir()
    path.write_text(stored, encoding="utf-8")
    (tmp_path / "settings.ini").write_text((root / "settings.ini").read_text(encoding="utf-8"), encoding="utf-8")
    nb = nbformat.reads(stored, as_version=4)
    nb.metadata.language_info = {"name": "python", "version": "3.11.2"}
    nb.metadata.kernelspec.display_name = "Python 3 (ipykernel)"
    for count, cell in enumerate(cell for cell in nb.cells if cell.cell_type == "code"):
        cell.execution_count = count + 1
        cell.metadata.collapsed = False
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count + 1
    clean_jupyter(path=str(path), model={"type": "notebook", "content": nb})
    nbformat.write(nb, path)
    assert path.read_text(encoding="utf-8") == stored


def test_each_command_of_nbdev_is_explained_or_not_used(root):
    """`nbdev_help` explains itself, and `nbdev_filter` is a part of the Quarto site."""
    patterns = set(re.findall(r"`(nbdev_[a-z_*]+)", (root / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    commands = {script.name for script in distribution("nbdev").entry_points if script.name.startswith("nbdev_")}
    assert len(commands) > 20
    unnamed = {name for name in commands if not any(fnmatch(name, pattern) for pattern in patterns)}
    assert unnamed <= {"nbdev_help", "nbdev_filter"}


# ---------------------------------------------------------------------------------- hooks and merging


def shown(clone, commit):
    """The notebook on boxes in a commit."""
    return clone.run("git", "show", f"{commit}:{BOXES}")


def conflict(tmp_path, *versions):
    """Whether git alone cannot merge three versions: the common one in the middle."""
    paths = [tmp_path / f"{number}.ipynb" for number in range(3)]
    for path, text in zip(paths, versions, strict=True):
        path.write_text(text, encoding="utf-8")
    done = subprocess.run(["git", "merge-file", "-p", *paths], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode else None


def cells_of(clone):
    return notebooks.read(clone.folder / BOXES)["cells"]


@pytest.fixture(scope="module")
def ids(root):
    """Three cells of the notebook on boxes: one that exports, prose below it, and an example that prints."""
    cells = notebooks.read(root / BOXES)["cells"]
    exports = next(n for n, cell in enumerate(cells) if notebooks.source(cell).startswith("#| export\ndef "))
    prose = next(n for n in range(exports, len(cells)) if cells[n]["cell_type"] == "markdown")
    prints = next(n for n in range(exports, len(cells)) if cells[n].get("outputs"))
    return [cells[n]["id"] for n in (exports, prose, prints)]


def adds_a_comment(cell, text):
    """An edit of a cell that exports: a comment in its last line."""

    def change(cells):
        cells[cell]["source"] = notebooks.source(cells[cell]) + f"  # {text}"

    return change


@pytest.mark.slow
def test_two_edit_different_cells_and_run_the_notebook(clone, ids, tmp_path):
    """Both results of one example have changed: text that git cannot merge, and nobody has to."""
    ours, theirs = clone("ours"), clone("theirs")
    exports, prose, prints = ids
    say = [{"name": "stdout", "output_type": "stream", "text": text} for text in ("1 from us\n", "2 from them\n")]

    def edit_code(cells):
        adds_a_comment(exports, "ours")(cells)
        cells[prints]["outputs"] = say[:1]

    def edit_prose(cells):
        cells[prose]["source"] = "Prose of theirs."
        cells[prints]["outputs"] = say[1:]

    for person in (ours, theirs):
        assert "Hooks are installed." in person.run("nbdev_install_hooks")
        person.check()
    theirs.edit(edit_prose)
    ours.edit(edit_code)
    ours.run("git", "fetch", "--quiet", str(theirs.folder), "main")
    assert conflict(tmp_path, shown(ours, "HEAD"), shown(ours, "HEAD~"), shown(ours, "FETCH_HEAD"))
    ours.run("git", "merge", "--no-edit", "FETCH_HEAD")
    ours.check()
    assert (ours.folder / "nbs/.last_checked").exists()  # the hook behind a merge has run
    merged = {cell["id"]: cell for cell in cells_of(ours)}
    assert notebooks.source(merged[exports]).endswith("# ours")
    assert notebooks.source(merged[prose]) == "Prose of theirs."
    assert merged[prints]["outputs"][0]["text"] == ["1 from us\n"]
    assert (ours.folder / "frcnn_common/boxes.py").read_text(encoding="utf-8").count("# ours\n") == 1


def resolve(clone, side):
    """Take a side of what `nbdev_fix` has left, as one does in Jupyter: delete the marks, and what is between."""
    nb, kept, where = notebooks.read(clone.folder / BOXES), [], "both"
    for cell in nb["cells"]:
        mark = notebooks.CONFLICT.match(notebooks.source(cell))
        if mark:
            where = {"<": "ours", "=": "theirs", ">": "both"}[mark[0][1]]
        elif where in ("both", side):
            kept.append(cell)
    (clone.folder / BOXES).write_text(json.dumps(nb | {"cells": kept}), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("hooks", [True, False], ids=["merge driver", "nbdev_fix"])
def test_two_edit_the_same_cell(clone, ids, hooks):
    """Both versions stand in the notebook, between marks; the module is not merged but exported."""
    ours, theirs = clone("ours"), clone("theirs")
    if hooks:
        ours.run("nbdev_install_hooks")
    theirs.edit(adds_a_comment(ids[0], "theirs"))
    ours.edit(adds_a_comment(ids[0], "ours"))
    ours.run("git", "fetch", "--quiet", str(theirs.folder), "main")
    told = ours.run("git", "merge", "--no-edit", "FETCH_HEAD", succeeds=False)
    assert f"CONFLICT (content): Merge conflict in {BOXES}" in told
    sync = (sys.executable, "tools/notebooks.py", "sync")
    if not hooks:
        assert f"nbdev_fix {BOXES}" in ours.run(*sync, succeeds=False)
        assert "conflict remains" in ours.run("nbdev_fix", BOXES, succeeds=False)
    marks = [cell for cell in cells_of(ours) if notebooks.CONFLICT.match(notebooks.source(cell))]
    assert [notebooks.source(cell)[1] for cell in marks] == ["<", "=", ">"]
    assert "`<<<<<<< HEAD`, is left from a merge" in ours.run(*sync, succeeds=False)
    resolve(ours, "theirs")
    ours.run("nbdev_clean")
    ours.run("nbdev_export")
    ours.commit("merged")
    ours.check()
    assert [line for line in (ours.folder / "frcnn_common/boxes.py").read_text().splitlines() if "# theirs" in line]
    assert "# ours" not in (ours.folder / "frcnn_common/boxes.py").read_text()

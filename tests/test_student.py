"""The chapters for those who fill them in: they run with nothing filled in, and with every solution pasted in."""

import json
import math
import os
import re

import pytest
import torch

from tools import notebooks, student

CHAPTERS = [
    path
    for path in sorted((notebooks.ROOT / "nbs/chapters").glob("0[1-6]_*.ipynb"))
    if student.has_solutions(notebooks.read(path))
]
TRAINS = "05_training"  # for minutes, as it does among the notebooks
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def solutions(path):
    """The cells in which a chapter defines the parts that its reader writes, by the part's name."""
    cells = notebooks.read(path)["cells"]
    written = [notebooks.source(cell) for cell in cells if "solution" in cell["metadata"].get("tags", [])]
    return {student.defined(code): code for code in written}


@pytest.fixture(scope="module")
def editions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    student.main(folder)
    return folder


@each_chapter
def test_with_the_solutions_pasted_in_every_check_is_passed(path):
    from frcnn_common import lessons

    names = {"math": math, "torch": torch, "nn": torch.nn, "F": torch.nn.functional}
    names |= {name: part.right for name, part in lessons.PARTS.items()}  # those of other chapters
    for name, code in solutions(path).items():
        exec(compile(code, str(path), "exec"), names)  # noqa: S102 - as the notebook does
        answer = lessons.check(name, names[name])
        assert answer, answer.message
        assert answer.part is names[name]
        names[name] = answer.part


@each_chapter
def test_each_part_of_a_chapter_is_asked_for_shown_as_a_stub_and_checked(path):
    from frcnn_common.lessons import PARTS, stub

    number = int(path.stem[:2])
    text = [notebooks.source(cell) for cell in notebooks.read(path)["cells"]]
    asked = solutions(path)
    missing = {name for name, part in PARTS.items() if part.chapter == number} - {*asked}
    assert not missing
    for name in asked:
        assert any(f"```python\n{stub(name).rstrip()}\n```" in cell for cell in text), name
        assert any(re.search(rf"^{name} = check\(\"{name}\", {name}\)\.part$", cell, re.MULTILINE) for cell in text)


def own_parts(folder):
    """The parts that are not the library's, of those that chapter 6 finds in a folder."""
    from frcnn_common.lessons import PARTS, my_parts

    my = my_parts(folder)
    return {name for name, part in PARTS.items() if getattr(my, name) is not part.right}


def test_the_detector_at_the_end_is_made_of_the_solutions():
    from frcnn_common.lessons import PARTS

    numbers, asked = {int(path.stem[:2]) for path in CHAPTERS}, {name for path in CHAPTERS for name in solutions(path)}
    assert own_parts(CHAPTERS[0].parent) == asked >= {name for name, p in PARTS.items() if p.chapter in numbers}


def test_the_detector_at_the_end_of_an_edition_is_made_of_what_its_reader_wrote(editions, tmp_path):
    from frcnn_common.lessons import stub

    assert own_parts(editions) == set()
    for path in CHAPTERS:
        nb, written = json.loads((editions / path.name).read_text()), solutions(path)
        for cell in nb["cells"]:
            for name, code in written.items():
                if notebooks.source(cell).strip() == stub(name).strip():
                    cell["source"] = code.splitlines(keepends=True)
        (tmp_path / path.name).write_text(json.dumps(nb))
    assert own_parts(tmp_path) == {name for path in CHAPTERS for name in solutions(path)}


@each_chapter
def test_an_edition_holds_stubs_and_no_solution(path, editions):
    from frcnn_common.lessons import stub

    nb = json.loads((editions / path.name).read_text())
    text = "\n".join(map(notebooks.source, nb["cells"]))
    for name, code in solutions(path).items():
        assert stub(name).rstrip() in text and code.rstrip() not in text, name
    for mark in ("{solution", "{exercise", "{term}", "{numref}", "{cite", "{eq}", "{math}", "NBVAL", "#| "):
        assert mark not in text, mark
    assert not re.search(r"\]\((?!https?:)[^)]*\.(ipynb|md)", text)
    assert "%pip install" in notebooks.source(nb["cells"][0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.long if path.stem == TRAINS else ()) for path in CHAPTERS],
    ids=lambda path: path.stem,
)
def test_an_edition_runs_from_top_to_end_with_nothing_filled_in(path, editions):
    import nbformat
    from nbclient import NotebookClient

    nb = nbformat.read(editions / path.name, as_version=4)
    kernel = os.environ | {"OMP_NUM_THREADS": "1"}
    NotebookClient(nb, timeout=notebooks.HOURS, kernel_name="python3").execute(cwd=str(editions), env=kernel)
    said = "".join(o.get("text", "") for cell in nb.cells if cell.cell_type == "code" for o in cell.outputs)
    for name in solutions(path):
        assert f"{name}: not written yet." in said

"""Write notebooks that run alone, where nothing but Python and a network is at hand, and the package that they install.

python tools/colab.py [FOLDER [ADDRESS]]      by default _build/extra, and the site's address

Beside the site lie `frcnn_common-….whl` and, for each page of `nbs/`, `colab/nbs/….ipynb`. Its first cell installs that
package, the solutions are in folded cells, and what only this book's builder understands is put into plain Markdown.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools import notebooks, student


def build_wheel(folder):
    """The package as a wheel, built in a copy, for setuptools leaves much behind."""
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    with tempfile.TemporaryDirectory() as copy:
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(notebooks.ROOT / name, copy)
        shutil.copytree(notebooks.ROOT / "frcnn_common", Path(copy) / "frcnn_common")
        command = [sys.executable, "-c", build, str(folder.resolve())]
        subprocess.run(command, cwd=copy, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": ""})


def for_colab(nb, first, site, place):
    """A page as a notebook that runs alone; `place` is the folder that its links start from."""
    cells = [student.cell("code", first, "install")]
    for old in nb["cells"]:
        text = student.source(old)
        if old["cell_type"] == "markdown":
            text = student.SOLUTION.sub(lambda mark: "**A solution**" if mark[2] == "start" else "", text)
            text = student.plain(text, site, place)
            cells += [student.cell("markdown", text, old["id"])] * bool(text)
        elif not text.startswith("#| touch:"):  # data for the site's script
            folded = {"hide-input", "solution"} & {*old["metadata"].get("tags", [])}
            cells.append(student.cell("code", student.MARKS.sub("", text), old["id"], folded=bool(folded)))
    return {"cells": cells, "metadata": nb["metadata"], "nbformat": 4, "nbformat_minor": 5}


def main(folder=notebooks.ROOT / "_build/extra", site=None):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    build_wheel(folder)
    site = site or student.site_address()
    for path in notebooks.notebooks():
        place = path.parent.relative_to(notebooks.ROOT).as_posix()
        made = for_colab(notebooks.read(path), student.install(site), site, place)
        target = folder / "colab" / place / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Write the chapters for those who fill them in.

python tools/student.py [FOLDER]      the default folder is _build/extra/student

A cell tagged `solution` becomes the stub of the part that it defines, the solutions of exercises are left out, and the
first cell finds the package or installs it. What only this book's builder understands is put into plain Markdown.
"""

import ast
import configparser
import json
import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ROOT / "nbs/chapters"
INSTALL = """\
# Finds the package, or installs it.
try:
    import frcnn_common
except ImportError:
    %pip install --quiet "git+{url}@v{version}"
"""
EXERCISE = re.compile(r"```\{exercise\} ([^\n]*)\n(?::\w+:[^\n]*\n)*\n?(.*?)\n```", re.DOTALL)
SOLUTION = re.compile(r"(`{3,})\{solution-(start|end)\}[^`]*\1")
MATH = re.compile(r"```\{math\}\n(?::label:[^\n]*\n)?(.*?)\n```", re.DOTALL)
STUB = re.compile(r"\n*```python\n(?:def|class) .*?\n```", re.DOTALL)  # the cell below begins with it
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)\.(?:ipynb|md)(#[^)]*|)\)")
MARKS = re.compile(r"^#\s?\|.*\n?|^# ?NBVAL_\w+[ \t]*\n?", re.MULTILINE)
ROLES = [
    (re.compile(r"\s*\{cite:[pt]\}`[^`]*`"), ""),
    (re.compile(r"(^|[.:!?]\s+)\{numref\}`[^`]*`", re.MULTILINE), r"\1The figure"),
    (re.compile(r"\{numref\}`[^`]*`"), "the figure"),
    (re.compile(r"\{eq\}`[^`]*`"), "the equation above"),
    (re.compile(r"\{(?:term|ref|doc)\}`([^`<]*?)\s*<[^`]*>`"), r"\1"),
    (re.compile(r"\{term\}`([^`]*)`"), r"*\1*"),
    (re.compile(r"\{ref\}`[^`]*`"), "an exercise"),
    (re.compile(r"\{doc\}`(?:[^`]*/)?([^`/]*)`"), r"`\1`"),
    (re.compile(r"\{py:\w+\}`(?:[\w.]*\.)?(\w+)`"), r"`\1`"),
]


def source(cell):
    return "".join(cell["source"])


def has_solutions(nb):
    return any("solution" in cell["metadata"].get("tags", []) for cell in nb["cells"])


def defined(code):
    """The function or class that a cell defines."""
    return next(node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef))


def outside(text, inside):
    """The part of a text that is outside solutions, and whether the text ends inside one."""
    kept, start = [], 0
    for mark in SOLUTION.finditer(text):
        if not inside:
            kept.append(text[start : mark.start()])
        inside, start = mark[2] == "start", mark.end()
    return "".join([*kept, "" if inside else text[start:]]), inside


def plain(text, site):
    """Markdown without this book's directives and roles; its links lead to the site."""
    text = STUB.sub("", MATH.sub(r"$$\n\1\n$$", EXERCISE.sub(r"**\1** \2", text)))
    for role, replacement in ROLES:
        text = role.sub(replacement, text)
    return LINK.sub(
        lambda link: f"]({site}/{posixpath.normpath('nbs/chapters/' + link[1])}.html{link[2]})", text
    ).strip()


def cell(kind, text, original, folded=False):
    """A cell of the notebook to write."""
    more = {"execution_count": None, "outputs": []} if kind == "code" else {}
    metadata = {"jupyter": {"source_hidden": True}} if folded else {}
    return {"cell_type": kind, "id": original, "metadata": metadata, "source": text.splitlines(keepends=True)} | more


def for_students(nb, install, site):
    """A chapter with stubs in place of solutions."""
    from frcnn_common.lessons import stub

    cells, inside = [cell("code", install, "install")], False
    for old in nb["cells"]:
        text = source(old)
        if old["cell_type"] == "markdown":
            text, inside = outside(text, inside)
            text = plain(text, site)
            cells += [cell("markdown", text, old["id"])] * bool(text)
            cells += [cell("code", "# yours", f"yours-{old['id']}")] * inside
        elif not inside and not text.startswith("#| touch:"):  # data for the site's script
            tags = old["metadata"].get("tags", [])
            text = stub(defined(text)) if "solution" in tags else MARKS.sub("", text)
            cells.append(cell("code", text, old["id"], folded="hide-input" in tags))
    return {"cells": cells, "metadata": nb["metadata"], "nbformat": 4, "nbformat_minor": 5}


def main(folder=ROOT / "_build/extra/student"):
    """Write every chapter that has solutions."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    url, version, host, base = (settings["DEFAULT"][key] for key in ("git_url", "version", "doc_host", "doc_baseurl"))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(CHAPTERS.glob("0[1-6]_*.ipynb")):
        nb = json.loads(path.read_text(encoding="utf-8"))
        if has_solutions(nb):
            made = for_students(nb, INSTALL.format(url=url, version=version), host + base)
            (folder / path.name).write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

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
# Finds the package, or installs the one that this notebook was made with.
try:
    import frcnn_common
except ImportError:
    %pip install --quiet {site}/frcnn_common-{version}-py3-none-any.whl
"""
EXERCISE = re.compile(r"```\{exercise\} ?([^\n]*)\n(?::\w+:[^\n]*\n)*\n?(.*?)\n```", re.DOTALL)
SOLUTION = re.compile(r"(`{3,})\{solution-(start|end)\}[^`]*\1")
MATH = re.compile(r"```\{math\}\n(?::label:[^\n]*\n)?(.*?)\n```", re.DOTALL)
STUB = re.compile(r"\n*```python\n(?:def|class) .*?\n```", re.DOTALL)  # the cell below begins with it
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)\.(?:ipynb|md)(#[^)]*|)\)")
MARKS = re.compile(r"^#\s?\|.*\n?|^# ?NBVAL_\w+[ \t]*\n?", re.MULTILINE)
ROLES = [
    (re.compile(r"```\{seealso\}\n(.*?)\n```", re.DOTALL), r"See also: \1"),
    (re.compile(r"^\([\w-]+\)=\n", re.MULTILINE), ""),
    (re.compile(r"\s*\{cite:[pt]\}`[^`]*`"), ""),
    (re.compile(r"(^|[.:!?]\s+)\{numref\}`[^`]*`", re.MULTILINE), r"\1The figure"),
    (re.compile(r"\{numref\}`[^`]*`"), "the figure"),
    (re.compile(r"\{eq\}`[^`]*`"), "the equation above"),
    (re.compile(r"\{(?:term|ref|doc|py:\w+)\}`([^`<]*?)\s*<[^`]*>`"), r"\1"),
    (re.compile(r"\{term\}`([^`]*)`"), r"*\1*"),
    (re.compile(r"\{ref\}`[^`]*`"), "an exercise"),
    (re.compile(r"\{doc\}`(?:[^`]*/)?([^`/]*)`"), r"`\1`"),
    (re.compile(r"\{py:\w+\}`~?(?:[\w.]*\.)?(\w+)`"), r"`\1`"),
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


def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def site_address():
    return settings()["doc_host"] + settings()["doc_baseurl"]


def install(site):
    """A first cell that brings the package along, from where the site lies; `tools/colab.py` puts it there."""
    return INSTALL.format(site=site, version=settings()["version"])


def plain(text, site, place="nbs/chapters"):
    """Markdown without this book's directives and roles; its links lead to the site."""
    text = MATH.sub(r"$$\n\1\n$$", EXERCISE.sub(lambda found: f"**{found[1] or 'Exercise.'}** {found[2]}", text))
    for role, replacement in ROLES:
        text = role.sub(replacement, text)
    return LINK.sub(lambda link: f"]({site}/{posixpath.normpath(f'{place}/{link[1]}')}.html{link[2]})", text).strip()


def cell(kind, text, original, folded=False):
    """A cell of the notebook to write."""
    more = {"execution_count": None, "outputs": []} if kind == "code" else {}
    metadata = {"jupyter": {"source_hidden": True}} if folded else {}
    return {"cell_type": kind, "id": original, "metadata": metadata, "source": text.splitlines(keepends=True)} | more


def for_students(nb, first, site):
    """A chapter with stubs in place of solutions."""
    from frcnn_common.lessons import stub

    cells, inside = [cell("code", first, "install")], False
    for old in nb["cells"]:
        text = source(old)
        if old["cell_type"] == "markdown":
            text, inside = outside(text, inside)
            text = STUB.sub("", plain(text, site)).strip()
            cells += [cell("markdown", text, old["id"])] * bool(text)
            cells += [cell("code", "# yours", f"yours-{old['id']}")] * inside
        elif not inside and not text.startswith("#| touch:"):  # data for the site's script
            tags = old["metadata"].get("tags", [])
            text = stub(defined(text)) if "solution" in tags else MARKS.sub("", text)
            cells.append(cell("code", text, old["id"], folded="hide-input" in tags))
    return {"cells": cells, "metadata": nb["metadata"], "nbformat": 4, "nbformat_minor": 5}


def main(folder=ROOT / "_build/extra/student"):
    """Write every chapter that has solutions."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(CHAPTERS.glob("0[1-6]_*.ipynb")):
        nb = json.loads(path.read_text(encoding="utf-8"))
        if has_solutions(nb):
            made = for_students(nb, install(site_address()), site_address())
            (folder / path.name).write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

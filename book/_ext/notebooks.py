"""Sphinx extension: the nbdev notebooks of this project as pages of a book.

- An API page gets the signature and docstring of each public name, as a cross-reference target, above its source.
- Directives of nbdev and nbval are not shown; `#| label:` and `#| fig-cap:` make a cell's picture a numbered figure,
  `#| fig-alt:`, with or without them, says what is seen there to those who do not see it. A text goes on in indented
  lines `#|   …`.
- A cell tagged `solution` is folded: the reader is to write it, and finds a notebook to do so below the title.
- A cell `#| touch: NAME` hands data to the script of the figure above it, and is not shown: see `figures.py`.
- A figure of several panels is marked as wide, so that it scrolls on a phone.
- A notebook is executed again when the library, the recipe, torch or the chapter before it has changed.
"""

import ast
import hashlib
import json
import os
import re
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, get_origin, get_type_hints

from docutils import nodes
from PIL import Image

DIRECTIVE = re.compile(r"^#\s?\|.*\n?|^# ?NBVAL_\w+[ \t]*\n?", re.MULTILINE)
DEFAULT_EXP = re.compile(r"^#\s?\|\s*default_exp\s+(\S+)", re.MULTILINE)
EXPORT = re.compile(r"^#\s?\|\s*export\s*$", re.MULTILINE)
HIDE = re.compile(r"^#\s?\|\s*hide\s*$", re.MULTILINE)
FIGURE = re.compile(r"^#\s?\|\s*(label|fig-cap|fig-alt):\s*(.+(?:\n#\s?\|\s{2,}.+)*)$", re.MULTILINE)
TOUCH = re.compile(r"^#\s?\|\s*touch:\s*(\w+)$", re.MULTILINE)
STUDENT = (
    'To fill in yourself: <a href="../../student/{0}.ipynb" download>this chapter as a notebook with stubs</a> '
    "in place of solutions."
)
OWN_NAME = re.compile(r"(\{py:\w+\}`)(?=frcnn_common\.)")  # shown without its module
TORCH_PATH = re.compile(r"\btorch\.(nn|optim(?:\.lr_scheduler)?|utils\.data)\.(?:[a-z_]+\.)+(?=[A-Z])")


def code_cells(path):
    """The sources of a notebook's code cells."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


# --- What a page shows ------------------------------------------------------------------------------------------------
def on_source_read(app, docname, source):
    """Turn a page, as it is written, into the one to show."""
    if app.env.doc2path(docname).endswith(".ipynb"):
        notebook = json.loads(source[0])
        fingerprint = {"cell_type": "code", "id": "fingerprint", "source": note_digest(app, docname)}
        fingerprint |= {"metadata": {"tags": ["remove-cell"]}, "execution_count": None, "outputs": []}
        cells = [fingerprint, *shown_cells(notebook["cells"])]
        if any("solution" in cell["metadata"].get("tags", []) for cell in cells):
            text = STUDENT.format(Path(docname).name)
            cells.insert(2, {"cell_type": "markdown", "id": "student", "metadata": {}, "source": text})
        notebook["cells"] = cells
        source[0] = json.dumps(notebook)
    else:
        source[0] = OWN_NAME.sub(r"\1~", source[0])
        if "{code-cell}" in source[0]:  # a notebook written as text: the fingerprint goes below its front matter
            cell = f"---\n\n```{{code-cell}} python\n:tags: [remove-cell]\n{note_digest(app, docname)}\n```\n"
            source[0] = re.sub(r"(?<=\n)---\n", lambda _: cell, source[0], count=1)


def shown_cells(cells):
    """The cells of a notebook, without directives and with the documentation of what they export."""
    module = ""
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            yield cell | {"source": OWN_NAME.sub(r"\1~", source)}
            continue
        if found := DEFAULT_EXP.search(source):
            module = f"frcnn_common.{found[1]}"
            continue
        entries = documentation(module, source) if module and EXPORT.search(source) else []
        if entries:
            text = "```{eval-rst}\n" + "\n\n".join(entries) + "\n```"
            yield {"cell_type": "markdown", "id": f"documentation-{number}", "metadata": {}, "source": text}
        tags = cell["metadata"].get("tags", []) + ["remove-cell"] * bool(HIDE.search(source))
        if touch := TOUCH.search(source):
            tags += ["remove-input", f"touch-{touch[1]}"]
        shown = cell | {"source": DIRECTIVE.sub("", source), "metadata": {"tags": tags}}
        if "solution" in tags:
            shown["metadata"] = {"tags": [*tags, "hide-input"], "mystnb": {"code_prompt_show": "Show a solution"}}
        if figure := {key: re.sub(r"\n#\s?\|\s+", " ", text) for key, text in FIGURE.findall(source)}:
            more = shown["metadata"]["mystnb"] = {}
            if "label" in figure:
                more["figure"] = {"name": figure["label"], "caption": figure["fig-cap"]}
            if "fig-alt" in figure:
                more["image"] = {"alt": figure["fig-alt"]}
        yield shown


def documentation(module, source):
    """A Sphinx directive for each public name that a cell defines."""
    entries = []
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else node
        name = getattr(target, "id", getattr(target, "name", "_"))
        if name.startswith("_"):
            continue
        if isinstance(node, ast.FunctionDef):
            entries.append(f".. autofunction:: {module}.{name}")
        elif isinstance(node, ast.ClassDef):
            entries.append(f".. autoclass:: {module}.{name}\n   :members:")
        elif name.isupper():
            entries.append(f".. py:data:: {name}\n   :module: {module}")
    return entries


def mend_signature(app, what, name, obj, options, signature, returns):
    """Write the documented `torch.nn.Module` for `torch.nn.modules.module.Module`, and Python for `<factory>`."""
    return tuple(
        text and TORCH_PATH.sub(r"torch.\1.", text).replace("<factory>", "...") for text in (signature, returns)
    )


def plain_types(app, obj, bound_method):
    """In a signature write `int` for the command line's `Annotated[int, Option(…)]`."""
    if any(get_origin(hint) is Annotated for hint in getattr(obj, "__annotations__", {}).values()):
        obj.__annotations__ = get_type_hints(obj)


# --- When a page is executed ------------------------------------------------------------------------------------------
def digest(root, docname):
    """Fingerprint of everything, beside its own cells, that the results on a page depend on.

    As a comment in an invisible first cell it makes jupyter-cache, which looks a notebook up by its code, execute it.
    """
    parts = [os.environ.get("FRCNN_RECIPE", ""), version("torch")]
    parts += [path.read_text(encoding="utf-8") for path in sorted((root / "frcnn_common").glob("*.py"))]
    parts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / "frcnn_common").glob("*.safetensors")]
    if docname.endswith("06_inference"):  # is made of all chapters' parts, and measures what chapter 5 has trained
        for path in sorted((root / "nbs/chapters").glob("0[1-5]_*.ipynb")):
            parts += code_cells(path)
        parts.append(str(any((root / "_build/checkpoints").glob("*.pt"))))
    if docname.endswith("book/speed"):  # shows what `make bench` has measured
        parts.append((root / "benchmarks/results.json").read_text(encoding="utf-8"))
    if docname.endswith("book/results"):  # shows what was trained and tried
        parts += [path.read_text(encoding="utf-8") for path in sorted((root / "book/_data").glob("*.json"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def note_digest(app, docname):
    """Remember a page's digest for the next build, and give it as a line of code."""
    app.env.metadata[docname]["digest"] = digest(Path(app.srcdir), docname)
    return f"# {app.env.metadata[docname]['digest']}"


def outdated(app, env, added, changed, removed):
    """Read a page again whose fingerprint has changed, though its file has not."""
    old = {docname: metadata["digest"] for docname, metadata in env.metadata.items() if "digest" in metadata}
    return [docname for docname in old if old[docname] != digest(Path(app.srcdir), docname)]


def forget_after_warnings(app, exception):
    """Read every page anew after a build with warnings, for an unchanged page would not repeat its warning."""
    if app._warncount:
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)


MEASURED = {"book/results", "book/speed"}  # pages that show what files hold


def add_execution_note(app, doctree, docname):
    """End the page of a notebook with when its results were computed, and how long that took."""
    executed = getattr(app.env, "nb_metadata", {}).get(docname, {}).get("exec_data")
    if executed and executed["runtime"] is not None:
        when = datetime.fromtimestamp(executed["mtime"]).strftime("%Y-%m-%d %H:%M")
        text = f"Everything on this page was computed on {when} in {executed['runtime']:.0f} s."
        if docname in MEASURED:
            text = f"This page was made on {when} of measurements from another day, which stands above."
        doctree.append(nodes.paragraph(text=text, classes=["executed"]))


def mark_wide_figures(app, doctree, docname):
    """Figures of several panels, by their pixels: on a phone they scroll, see custom.css."""
    for figure in doctree.findall(nodes.figure):
        image = figure.next_node(nodes.image)
        if image and image["uri"].endswith(".png") and Image.open(Path(app.srcdir, image["uri"])).width > 800:
            figure["classes"].append("wide")


def setup(app):
    app.connect("source-read", on_source_read)
    app.connect("autodoc-before-process-signature", plain_types)
    app.connect("autodoc-process-signature", mend_signature)
    app.connect("env-get-outdated", outdated)
    app.connect("doctree-resolved", add_execution_note)
    app.connect("doctree-resolved", mark_wide_figures)
    app.connect("build-finished", forget_after_warnings)
    return {"parallel_read_safe": False, "parallel_write_safe": True}  # chapter 6 waits for chapter 5

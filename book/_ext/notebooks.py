"""Sphinx extension: shows the nbdev notebooks of this project as pages of a book.

- An API page gets the signature and docstring of each public name, as a cross-reference target, above its source.
- Directives of nbdev and nbval are not shown; `#| label:` and `#| fig-cap:` make a cell's picture a numbered figure.
- A notebook is executed again when the library, the recipe, torch or the chapter before it has changed.
- The repository's address comes from `settings.ini`; pages write it as `{{ repo }}`, `{{ repo_url }}` and `{{ site_url }}`.
"""

import ast
import configparser
import hashlib
import json
import os
import re
import textwrap
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

DIRECTIVE = re.compile(r"^#\s?\|.*\n?|^# ?NBVAL_\w+[ \t]*\n?", re.MULTILINE)
FIGURE = re.compile(r"^#\s?\|\s*(label|fig-cap):\s*(.+)$", re.MULTILINE)
OWN_NAME = re.compile(r"(\{py:\w+\}`)(?=frcnn_common\.)")
TORCH_PATH = re.compile(r"\btorch\.(nn|optim(?:\.lr_scheduler)?|utils\.data)\.(?:[a-z_]+\.)+(?=[A-Z])")
SECTIONS = {  # of the list of public names, each with its modules
    "Constants": ["constants"],
    "Box utilities": ["boxes"],
    "Data pipeline": ["data"],
    "Backbone": ["backbone"],
    "Detection head and model": ["rpn", "roi", "detector"],
}


def settings(root):
    """The `settings.ini` of the project, as a mapping."""
    parser = configparser.ConfigParser()
    parser.read(Path(root) / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def digest(root, docname):
    """Fingerprint of everything beside its own cells that the results on a page depend on."""
    root = Path(root)
    parts = [os.environ.get("FRCNN_RECIPE", ""), version("torch")]
    parts += [path.read_text(encoding="utf-8") for path in sorted((root / "frcnn_common").glob("*.py"))]
    if docname.endswith("06_inference"):  # detects with what chapter 5 has trained
        parts += [source for source in code_cells(root / "nbs/chapters/05_training.ipynb")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def code_cells(path):
    """The sources of a notebook's code cells."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


# --- Reading a page ---------------------------------------------------------------------------------------------------
def on_source_read(app, docname, source):
    """Turn a notebook, as it is written, into one to show; fill in addresses on a page of text."""
    if app.env.doc2path(docname).endswith(".ipynb"):
        notebook = json.loads(source[0])
        notebook["cells"] = [fingerprint_cell(app, docname), *shown_cells(notebook["cells"])]
        source[0] = json.dumps(notebook)
        return
    source[0] = OWN_NAME.sub(r"\1~", source[0])
    for name in ("repo", "repo_url", "site_url"):
        source[0] = source[0].replace("{{ %s }}" % name, app.config.html_context[name])
    if "{code-cell}" in source[0]:  # a notebook written as text: the fingerprint goes below its front matter
        cell = f"---\n\n```{{code-cell}} python\n:tags: [remove-cell]\n# {note_digest(app, docname)}\n```\n"
        source[0] = re.sub(r"(?<=\n)---\n", lambda _: cell, source[0], count=1)


def note_digest(app, docname):
    app.env.metadata[docname]["digest"] = digest(app.srcdir, docname)
    return app.env.metadata[docname]["digest"]


def fingerprint_cell(app, docname):
    """An invisible first cell: jupyter-cache looks up executed notebooks by the text of their code cells."""
    return code_cell("fingerprint", f"# {note_digest(app, docname)}", ["remove-cell"])


def code_cell(cell_id, source, tags=()):
    metadata = {"tags": list(tags)}
    return dict(
        cell_type="code", id=cell_id, execution_count=None, metadata=metadata, outputs=[], source=source
    )


def shown_cells(cells):
    """The cells of a notebook, without directives and with the documentation of what they export."""
    module = None
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            yield cell | {"source": OWN_NAME.sub(r"\1~", source)}
        elif found := re.match(r"#\s?\|\s*default_exp\s+(\S+)", source):
            module = f"frcnn_common.{found[1]}"
        else:
            if module and re.search(r"^#\s?\|\s*export\s*$", source, re.MULTILINE):
                if entries := documentation(module, source):
                    text = "```{eval-rst}\n" + "\n\n".join(entries) + "\n```"
                    yield dict(cell_type="markdown", id=f"documentation-{number}", metadata={}, source=text)
            hide = ["remove-cell"] if re.search(r"^#\s?\|\s*hide\s*$", source, re.MULTILINE) else []
            shown = code_cell(cell.get("id", str(number)), DIRECTIVE.sub("", source), hide)
            shown["metadata"]["tags"] += cell["metadata"].get("tags", [])
            if options := dict(FIGURE.findall(source)):
                shown["metadata"]["mystnb"] = {"figure": {"name": options["label"], "caption": options["fig-cap"]}}
            yield shown


def documentation(module, source):
    """A Sphinx directive for each public name that a cell defines."""
    entries = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            entries.append(f".. autofunction:: {module}.{node.name}")
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            entries.append(f".. autoclass:: {module}.{node.name}\n   :members:")
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            if not node.targets[0].id.startswith("_"):
                value = ast.unparse(node.value)
                shown = f"\n   :value: {value}" if len(value) <= 70 else ""
                entries.append(f".. py:data:: {module}.{node.targets[0].id}{shown}")
    return entries


def shorten_torch_names(app, what, name, obj, options, signature, returns):
    """Write `torch.nn.Module`, the documented name, for `torch.nn.modules.module.Module`, where the class is defined."""
    return tuple(text and TORCH_PATH.sub(r"torch.\1.", text) for text in (signature, returns))


def outdated(app, env, added, changed, removed):
    """Read a page again whose fingerprint has changed, though its file has not."""
    digests = {docname: metadata["digest"] for docname, metadata in env.metadata.items() if "digest" in metadata}
    return [docname for docname, old in digests.items() if old != digest(app.srcdir, docname)]


# --- Writing a page ---------------------------------------------------------------------------------------------------
def add_execution_note(app, doctree, docname):
    """End the page of a notebook with when its results were computed, and how long that took."""
    executed = getattr(app.env, "nb_metadata", {}).get(docname, {}).get("exec_data")
    if executed and executed["runtime"] is not None:
        when = datetime.fromtimestamp(executed["mtime"]).strftime("%Y-%m-%d %H:%M")
        text = f"Everything on this page was computed on {when} in {executed['runtime']:.0f} s."
        doctree.append(nodes.paragraph(text=text, classes=["executed"]))


def drop_thebe(app, pagename, templatename, context, doctree):
    """Leave out thebe, which Jupyter Book always adds: it would run code through another host."""
    files = context["script_files"]
    context["script_files"] = [f for f in files if "thebe" not in f"{f}{getattr(f, 'attributes', '')}"]


def forget_after_warnings(app, exception):
    """Read every page anew after a build with warnings: a page that stays as it was would not give its warning again."""
    if app._warncount:
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)


def set_addresses(app, config):
    """Give the theme, its buttons and the pages the repository's address."""
    project = settings(app.srcdir)
    config.html_baseurl = project["doc_host"] + project["doc_baseurl"] + "/"
    config.html_context.update(
        repo=project["repo"], repo_url=project["git_url"], site_url=config.html_baseurl.rstrip("/")
    )
    config.html_theme_options.update(
        repository_url=project["git_url"],
        repository_branch=project["branch"],
        use_edit_page_button=True,
        use_repository_button=True,
        use_issues_button=True,
    )


# --- The table of public names ----------------------------------------------------------------------------------------
def imported_names(path):
    """The names of `frcnn_common` that a notebook uses."""
    names = set()
    for source in code_cells(path):
        for node in ast.walk(ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("frcnn_common"):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "").startswith("frcnn_common"):
                names.add(node.attr)
    return names


def defined_names(path):
    """The public names that an exported module defines, in order, each with the first line of its docstring, or its value."""
    names = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = (ast.get_docstring(node) or "").split("\n")[0]
        elif isinstance(node, ast.Assign):
            value = f"`{textwrap.shorten(ast.unparse(node.value), 60, placeholder=' …')}`"
            names.update({target.id: value for target in node.targets if isinstance(target, ast.Name)})
    return {name: summary for name, summary in names.items() if not name.startswith("_")}


class PublicNames(SphinxDirective):
    """`public-names`: for each section its names, with their pages and the chapters that import them."""

    def run(self):
        root = Path(self.env.srcdir)
        chapters = sorted((root / "nbs/chapters").glob("[0-9]*.ipynb"))
        used = {path: imported_names(path) for path in chapters}
        for path in [*chapters, *(root / "frcnn_common").glob("*.py")]:
            self.env.note_dependency(str(path))
        promised = set(re.findall(r"\w+", (root / "frcnn_common/__init__.py").read_text(encoding="utf-8")))
        lines = []
        for section, modules in SECTIONS.items():
            lines += ["", f"**{section}**", "", "| name | what it is | used in chapter |", "|---|---|---|"]
            for module in modules:
                for name, summary in defined_names(root / f"frcnn_common/{module}.py").items():
                    if name not in promised:
                        continue
                    links = [f"[{int(p.stem[:2])}](/nbs/chapters/{p.name})" for p in chapters if name in used[p]]
                    name = f"{{py:obj}}`{name} <frcnn_common.{module}.{name}>`"
                    lines.append(f"| {name} | {summary} | {', '.join(links)} |")
        container = nodes.container(classes=["public-names"])
        self.state.nested_parse(StringList(lines), self.content_offset, container)
        return [container]


def setup(app):
    app.add_directive("public-names", PublicNames)
    app.connect("config-inited", set_addresses, priority=400)
    app.connect("source-read", on_source_read)
    app.connect("autodoc-process-signature", shorten_torch_names)
    app.connect("env-get-outdated", outdated)
    app.connect("doctree-resolved", add_execution_note)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", forget_after_warnings)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}

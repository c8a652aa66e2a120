"""Sphinx extension: the directive `public-names`, a table of what the package promises and of who uses it."""

import ast
import re
import textwrap
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from notebooks import code_cells
from sphinx.util.docutils import SphinxDirective

SECTIONS = {
    "Constants": ["constants"],
    "Box utilities": ["boxes", "nms"],
    "Data pipeline": ["data"],
    "Backbone": ["backbone"],
    "Detection head and model": ["anchors", "rpn", "roi", "detector"],
}


def used_names(path):
    """The names of `frcnn_common` that a notebook imports or reaches through the package."""
    names = set()
    for source in code_cells(path):
        for node in ast.walk(ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("frcnn_common"):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "frcnn_common":
                names.add(node.attr)
    return names


def defined_names(path):
    """What a module defines, in order: each name with the first line of its docstring, or with its value."""
    names = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = (ast.get_docstring(node) or "").split("\n")[0]
        elif isinstance(node, ast.Assign):
            value = textwrap.shorten(ast.unparse(node.value), 60, placeholder=" …")
            names.update({target.id: f"`{value}`" for target in node.targets if isinstance(target, ast.Name)})
    return names


class PublicNames(SphinxDirective):
    """For each section its names, each with a link to its description and to the chapters that use it."""

    def run(self):
        root = Path(self.env.srcdir)
        package = root / "frcnn_common"
        chapters = sorted((root / "nbs/chapters").glob("[0-9]*.ipynb"))
        for path in [*chapters, *package.glob("*.py")]:
            self.env.note_dependency(str(path))
        used = {path: used_names(path) for path in chapters}
        promised = set(re.findall(r"\w+", (package / "__init__.py").read_text(encoding="utf-8")))
        lines = []
        for section, modules in SECTIONS.items():
            lines += ["", f"**{section}**", "", "| name | what it is | used in chapter |", "|---|---|---|"]
            for module in modules:
                for name, summary in defined_names(package / f"{module}.py").items():
                    if name in promised and not name.startswith("_"):
                        links = [f"[{int(p.stem[:2])}](/nbs/chapters/{p.name})" for p in chapters if name in used[p]]
                        role = f"{{py:obj}}`{name} <frcnn_common.{module}.{name}>`"
                        lines.append(f"| {role} | {summary} | {', '.join(links)} |")
        table = nodes.container(classes=["public-names"])
        self.state.nested_parse(StringList(lines), self.content_offset, table)
        return [table]


def setup(app):
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

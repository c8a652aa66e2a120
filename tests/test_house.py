"""The rooms of the library: one subject a module, arrows that point down only, nothing that outgrows its page."""

import ast
import re

import pytest

from tools import notebooks

API = {path.stem[3:]: int(path.stem[:2]) for path in sorted((notebooks.ROOT / "nbs/api").glob("[0-9]*.ipynb"))}
PACKAGE = notebooks.ROOT / "frcnn_common"


def imported(tree):
    """The modules of the package that a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from [node.module] if node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("frcnn_common"):
            yield node.module.removeprefix("frcnn_common").lstrip(".") or "__init__"
        elif isinstance(node, ast.Import):
            yield from (a.name.partition(".")[2] or "__init__" for a in node.names if a.name.startswith("frcnn_common"))


@pytest.mark.parametrize("module", API)
def test_a_module_imports_only_modules_below_it(module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    assert [name for name in imported(tree) if API.get(name, 99) >= API[module]] == []


@pytest.mark.parametrize("module", API)
def test_a_module_fits_a_page(module):
    text = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    assert {c.name: c.end_lineno - c.lineno + 1 for c in classes if c.end_lineno - c.lineno + 1 > 200} == {}


@pytest.mark.parametrize("module", API)
def test_exported_code_imports_the_package_relatively(module):
    text = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    assert re.findall(r"^\s*(?:from|import) frcnn_common.*", text, re.MULTILINE) == []

"""While a page is executed, the build of the book says so."""

import re
import subprocess
import sys

import pytest
import yaml
from nbformat import v4

CONF = """
import sys
sys.path.insert(0, {extensions!r})
import progress
progress.EVERY = 0.5
extensions = ["myst_nb", "progress"]
nb_execution_mode = "cache"
nb_execution_cache_path = {cache!r}
root_doc = "page"
"""


@pytest.fixture
def build(root, tmp_path):
    """Build a book of one page with this cell, and return what Sphinx prints."""
    conf = CONF.format(extensions=str(root / "book/_ext"), cache=str(tmp_path / "cache"))
    (tmp_path / "conf.py").write_text(conf)

    def run(code):
        page = v4.new_notebook(cells=[v4.new_markdown_cell("# A page"), v4.new_code_cell(code)])
        page.metadata["kernelspec"] = {"name": "python3", "display_name": "python3"}
        (tmp_path / "page.ipynb").write_text(v4.writes(page))
        command = [sys.executable, "-m", "sphinx", "-b", "html", "--no-color", tmp_path, tmp_path / "out"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return run


@pytest.mark.slow
def test_the_build_says_which_page_since_when_and_how_long_it_took_last_time(build):
    first = re.findall(
        r"page: executing since (\d\d:\d\d:\d\d)(, for \d+ s)? \((.*)\)", build("import time; time.sleep(2)")
    )
    assert len(first) >= 2  # the beginning, and signs of life
    assert {(since, before) for since, _, before in first} == {(first[0][0], "never executed here before")}
    assert [bool(so_far) for _, so_far, _ in first] == [False] + [True] * (len(first) - 1)
    again = build("import time; time.sleep(1)")
    took = re.search(r"page: executing since [\d:]+ \(last time it took (\d+) s\)", again)
    assert int(took[1]) >= 2
    assert "executing since" not in build("import time; time.sleep(1)")  # from the cache


def test_only_hanging_ends_the_execution_of_a_page(root):
    """Four hours for a cell."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    assert config["execute"]["timeout"] == 4 * 3600
    assert "progress" in config["sphinx"]["local_extensions"]

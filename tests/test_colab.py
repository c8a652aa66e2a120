"""The notebooks that run alone: each in a fresh environment, without the repository, installs the package and runs."""

import functools
import json
import os
import re
import subprocess
import sysconfig
import threading
import venv
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tools import colab, notebooks

CHAPTERS = sorted((notebooks.ROOT / "nbs/chapters").glob("0*.ipynb"))
QUICK = "00_ten_minutes"
WORDS = re.compile(r"\{[a-z:]+\}`|`\{[a-z]+\}|^\([\w-]+\)=$|\]\((?!https?:|#)[^)]*\.(?:ipynb|md)", re.MULTILINE)
LINES = re.compile(r"^# ?NBVAL|^#\s?\|", re.MULTILINE)
RUN = """
import sys, nbformat
from nbclient import NotebookClient

nb = nbformat.read(sys.argv[1], as_version=4)
nb.cells.append(nbformat.v4.new_code_cell("print(frcnn_common.__file__)"))
nb.cells.insert(1, nbformat.v4.new_code_cell("import frcnn_common"))
NotebookClient(nb, timeout=14400, kernel_name="python3").execute()
print(nb.cells[-1].outputs[0].text)
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The part of the site that these notebooks need, on this machine."""
    folder = tmp_path_factory.mktemp("site")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        colab.main(folder, f"http://127.0.0.1:{http.server_port}")
        yield folder
        http.shutdown()


@pytest.fixture
def python(tmp_path):
    """A fresh environment: all packages that are installed here, but not this one."""
    venv.create(tmp_path / "env", symlinks=True)
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "frcnn" not in path.name:
            (packages / path.name).symlink_to(path)
    return tmp_path / "env/bin/python"


@pytest.mark.parametrize("name", [pytest.param(p.stem, marks=[pytest.mark.long] * (p.stem != QUICK)) for p in CHAPTERS])
def test_a_chapter_runs_alone_from_top_to_end(name, site, python, tmp_path):
    alone = tmp_path / "some/folder"
    alone.mkdir(parents=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_", "FRCNN_"))}
    more = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    command = [python, "-c", RUN, site / f"colab/nbs/chapters/{name}.ipynb"]
    done = subprocess.run(command, cwd=alone, env=kept | more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "env")


def test_every_notebook_becomes_one_that_brings_its_package_along(site):
    written = sorted((site / "colab").glob("nbs/*/*.ipynb"))
    assert [path.relative_to(site / "colab") for path in written] == sorted(
        path.relative_to(notebooks.ROOT) for path in notebooks.notebooks()
    )
    for path in written:
        nb = json.loads(path.read_text(encoding="utf-8"))
        (wheel,) = re.findall(r"%pip install .*/(\S+\.whl)", notebooks.source(nb["cells"][0]))
        assert (site / wheel).is_file()
        for kind, marks in (("markdown", WORDS), ("code", LINES)):
            text = "\n".join(notebooks.source(cell) for cell in nb["cells"] if cell["cell_type"] == kind)
            assert not marks.findall(text), path.name
        assert not any(cell.get("outputs") for cell in nb["cells"])

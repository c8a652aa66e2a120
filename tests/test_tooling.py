"""The commands that keep notebooks, package and site honest are themselves held to their word."""

import ast
import copy
import dis
import json
import re
import subprocess
import sys
import tomllib
import types
from configparser import ConfigParser
from importlib import import_module
from importlib.metadata import distribution

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from frcnn_common.openmoji import compose_scene
from tools import hero, notebooks


def run(*command, cwd):
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False)


# ------------------------------------------------------------------------------------------------ sync


@pytest.fixture
def clone(tmp_path):
    """A copy of the working tree that a test may damage."""
    notebooks.copy_tree(tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def sync_error(clone):
    done = run("tools/notebooks.py", "sync", cwd=clone)
    assert done.returncode != 0, "sync found nothing"
    return done.stderr


def edit(path, change):
    nb = notebooks.read(path)
    change(nb)
    path.write_text(json.dumps(nb))


def test_sync_sees_a_module_edited_by_hand(clone):
    with (clone / "frcnn_common" / "boxes.py").open("a") as module:
        module.write("\nEDITED = True\n")
    error = sync_error(clone)
    assert "frcnn_common/boxes.py" in error
    assert "make export tidy" in error


def test_sync_sees_an_untidy_notebook(clone):
    edit(clone / "nbs/api/00_constants.ipynb", lambda nb: nb["metadata"].update(widgets={}))
    assert "nbs/api/00_constants.ipynb" in sync_error(clone)


def test_sync_sees_two_notebooks_of_one_module(clone):
    (clone / "nbs/api/99_more_boxes.ipynb").write_bytes((clone / "nbs/api/03_boxes.ipynb").read_bytes())
    assert "03_boxes.ipynb and 99_more_boxes.ipynb both export to boxes" in sync_error(clone)


def test_sync_sees_a_module_without_a_notebook(clone):
    (clone / "frcnn_common/stray.py").write_text("x = 1\n")
    assert "frcnn_common/stray.py comes from no notebook" in sync_error(clone)


def test_sync_sees_a_chapter_that_exports(clone):
    (clone / "nbs/chapters").mkdir(exist_ok=True)
    (clone / "nbs/chapters/99_wrong.ipynb").write_bytes((clone / "nbs/api/03_boxes.ipynb").read_bytes())
    assert "99_wrong.ipynb is no page of the API and must not export" in sync_error(clone)


PRIVATE = {
    "text": lambda text: cell("print()", stream(text)),
    "html": lambda text: cell("table", result("<Table>", **{"text/html": f"<td>{text}</td>"})),
    "stderr": lambda text: cell("warn()", stream(f"{text}:3: UserWarning", "stderr")),
    "traceback": lambda text: cell("fail()", {"output_type": "error", "ename": "E", "evalue": "", "traceback": [text]}),
    "metadata": lambda text: cell("x = 1", papermill={"input": [text]}),
    "code": lambda text: cell(f"open({text!r})"),
    "prose": lambda text: {"cell_type": "markdown", "id": "prose", "metadata": {}, "source": f"It lies in `{text}`."},
}


def test_sync_sees_what_belongs_to_one_machine_wherever_it_is(clone):
    """Also where tidying would remove it: it is in the repository already."""
    name = "nbs/api/00_constants.ipynb"
    added = [make("/home/someone/data") | {"id": place} for place, make in PRIVATE.items()]
    edit(clone / name, lambda nb: nb["cells"].extend(added))
    edit(clone / name, lambda nb: nb["metadata"].update(path=str(clone)))
    places = ["metadata", *(f"cell {place}" for place in PRIVATE)]
    lines = sync_error(clone).splitlines()
    assert [line.partition(" stores")[0] for line in lines] == [f"{name}: {place}" for place in places]
    assert all("stores a path of this machine: '/" in line for line in lines)


# ------------------------------------------------------------------------------------------------ tidy


def cell(text, *outputs, **metadata):
    return {
        "cell_type": "code",
        "execution_count": 7,
        "id": f"id{abs(hash(text)) % 10**6}",
        "metadata": metadata,
        "outputs": list(outputs),
        "source": text,
    }


def stream(text, name="stdout"):
    return {"name": name, "output_type": "stream", "text": text}


def result(text, **more):
    return {
        "data": {"text/plain": text, **more},
        "execution_count": 7,
        "metadata": {"x": 1},
        "output_type": "execute_result",
    }


def made(*cells):
    return {"cells": list(cells), "metadata": {"widgets": {"state": {}}}, "nbformat": 4, "nbformat_minor": 5}


MADE = made(
    cell("x = 1"),
    cell("print(x)\nx", stream("1\n"), stream("2\n"), result("1"), collapsed=True, tags=["hide-input"]),
    cell("plot(); print(x)", stream("drawn"), result("<Figure>", **{"image/png": "aGk="})),
    cell("# NBVAL_IGNORE_OUTPUT\nprint(x)", stream("3\n")),
    cell("warn(); print(x)", stream("careful", "stderr"), stream("4\n")),
    {"cell_type": "markdown", "id": "prose", "metadata": {}, "source": "# Title\n> subtitle"},
)


def test_tidy_keeps_text_and_nothing_else():
    code = [c for c in json.loads(notebooks.tidied(copy.deepcopy(MADE)))["cells"] if c["cell_type"] == "code"]
    silent, text, picture, ignored, warned = code
    assert [c["execution_count"] for c in code] == [None] * 5
    assert silent["outputs"] == picture["outputs"] == ignored["outputs"] == []
    assert text["outputs"] == [
        {"name": "stdout", "output_type": "stream", "text": ["1\n", "2\n"]},
        {"data": {"text/plain": ["1"]}, "execution_count": None, "metadata": {}, "output_type": "execute_result"},
    ]
    assert text["metadata"] == {"tags": ["hide-input"]}
    assert [o["name"] for o in warned["outputs"]] == ["stdout"]


def test_tidy_keeps_no_data_of_a_figure():
    nb = made(cell("#| touch: iou\ntouch_data(a=1)", result("<data>", **{"text/html": "<script>…</script>"})))
    (data,) = json.loads(notebooks.tidied(nb))["cells"]
    assert data["outputs"] == []


def test_tidy_keeps_ids_and_fixes_the_metadata():
    tidy = json.loads(notebooks.tidied(copy.deepcopy(MADE)))
    assert [c["id"] for c in tidy["cells"]] == [c["id"] for c in MADE["cells"]]
    assert tidy["metadata"] == notebooks.KERNEL


def test_tidy_twice_is_tidy_once():
    once = notebooks.tidied(copy.deepcopy(MADE))
    assert notebooks.tidied(json.loads(once)) == once


SECRET = "what looks like a secret"
PATH = "a path of this machine"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("/root/data", PATH),
        ("/Users/me/x", PATH),
        ("file:///tmp/x", PATH),
        ("in /usr/lib/python3/site.py:3", PATH),
        ("C:\\Users\\me", PATH),
        ("'D:\\\\course\\\\data'", PATH),
        (f"{notebooks.ROOT}/book", PATH),
        ("<Thing at 0x7f01b2c3d4e5>", "an address in memory"),
        ("token hf_" + "a" * 34, SECRET),
        ("ghp_" + "a1" * 18, SECRET),
        ("AKIA" + "A1" * 8, SECRET),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", SECRET),
        ("https://me:" + "hunter2@example.org/", SECRET),
        ("API_KEY=" + "abcdef012345", SECRET),
        ("{'password': '" + "correct7horse'}", SECRET),
    ],
)
def test_tidy_refuses_what_belongs_to_one_machine(tmp_path, text, what):
    path = tmp_path / "made.ipynb"
    path.write_text(json.dumps(made(cell("print()", stream(text)))))
    with pytest.raises(SystemExit, match=f"made.ipynb: cell id.* stores {what}: ") as refused:
        notebooks.tidy([path])
    assert what != SECRET or text not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["https://example.org/home/x", "~/.cache/torch", "a/tmp/b", "x:\nfor", "token=os.environ['TOKEN']", "0xff"]
)
def test_tidy_keeps_what_belongs_to_all(tmp_path, text):
    path = tmp_path / "made.ipynb"
    path.write_text(json.dumps(made(cell("print()", stream(text)))))
    notebooks.tidy([path])
    assert text in "".join(notebooks.read(path)["cells"][0]["outputs"][0]["text"])


# ----------------------------------------------------------------------------------------------- nbval


def change_one_digit(nb):
    """Change the first digit of the first stored text."""
    for output in (o for c in nb["cells"] for o in c.get("outputs", [])):
        lines = output.get("text") or output.get("data", {}).get("text/plain") or []
        for n, line in enumerate(lines):
            if found := re.search(r"\d", line):
                lines[n] = line[: found.start()] + str((int(found[0]) + 1) % 10) + line[found.end() :]
                return
    raise AssertionError("no stored digit")


def run_nbval(clone, *options):
    """What pytest prints about the notebook on boxes, as from a reader's shell."""
    return run("-m", "pytest", "--nbval-current-env", "-q", *options, BOXES, cwd=clone).stdout


BOXES = "nbs/api/03_boxes.ipynb"


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--nbval", "--nbval-lax"])
def test_nbval_sees_one_changed_digit(clone, option):
    """Though the files hold no counts: also where only marked cells are compared."""

    def mark(nb):
        cell = next(c for c in nb["cells"] if c.get("outputs"))
        cell["source"] = ["# NBVAL_CHECK_OUTPUT\n", *cell["source"]]

    assert not [c for c in notebooks.read(clone / BOXES)["cells"] if c.get("execution_count")]
    edit(clone / BOXES, mark)
    edit(clone / BOXES, change_one_digit)
    assert re.search(r"^1 failed, \d+ passed", run_nbval(clone, option), re.MULTILINE)


@pytest.mark.slow
def test_nbval_does_not_wait_for_a_kernel_that_has_ended(clone):
    edit(clone / BOXES, lambda nb: nb["cells"].insert(2, cell("import os; os._exit(1)")))
    assert "the kernel has ended before its cell" in run_nbval(clone, "--nbval", "-x")


@pytest.mark.parametrize(("recipe", "option"), [("coco-r50", "--nbval-lax")])
def test_another_recipe_is_compared_laxly(monkeypatch, capsys, recipe, option):
    monkeypatch.setenv("FRCNN_RECIPE", recipe)
    notebooks.nbval()
    assert capsys.readouterr().out.split()[0] == option


@pytest.mark.parametrize("path", sorted((notebooks.ROOT / "nbs/chapters").glob("0[1-6]_*.ipynb")), ids=lambda p: p.stem)
def test_chapters_store_results_to_compare(path):
    """At least eight compared results in chapters 1-4, four in 5 and 6."""
    wanted = 4 if path.name[:2] in {"05", "06"} else 8
    stored = [c["id"] for c in notebooks.read(path)["cells"] if c.get("outputs")]
    assert len(stored) >= wanted, f"{path.name} stores {len(stored)} results"


def test_every_test_that_a_page_names_exists(root):
    named = [
        (path.name, *match)
        for path in [*root.glob("book/*.md"), *root.glob("nbs/*/*.ipynb")]
        for match in re.findall(r"(tests/\w+\.py)::(\w+)", path.read_text(encoding="utf-8"))
    ]
    assert named
    for page, file, name in named:
        functions = ast.walk(ast.parse((root / file).read_text(encoding="utf-8")))
        assert any(getattr(node, "name", "") == name for node in functions), f"{page}: {file}::{name}"


# -------------------------------------------------------------------- a busy machine, several processes


def test_no_test_looks_at_a_clock(root):
    """And no time-out of one is shorter than an hour: what the machine's speed decides is asserted nowhere."""
    for path in root.glob("tests/*.py"):
        text = path.read_text(encoding="utf-8").replace("perf_counter|", "")
        assert not re.search(r"\b(?:perf_counter|process_time|monotonic|time\.time)\(", text), path.name
        short = [number for number in re.findall(r"\btimeout=(\d+)", text) if int(number) < 3600]
        assert not short, f"{path.name}: a time-out of {short[0]} s"


def test_no_notebook_asserts_how_long_something_took(root):
    for path in notebooks.notebooks(root):
        for line in (line for cell in notebooks.read(path)["cells"] for line in notebooks.source(cell).splitlines()):
            assert not re.search(r"^\s*assert .*\b(?:seconds|minutes|milliseconds|took|perf_counter)\b", line), line


def test_only_hanging_ends_the_execution_of_a_notebook(root, monkeypatch, capsys):
    monkeypatch.delenv("FRCNN_RECIPE", raising=False)
    notebooks.nbval()
    assert re.findall(r"timeout=(\d+)", capsys.readouterr().out) == [str(notebooks.HOURS)] * 2
    assert notebooks.HOURS == 4 * 3600
    for name in ("ci", "gpu"):
        jobs = yaml.safe_load((root / f".github/workflows/{name}.yml").read_text())["jobs"].values()
        assert all(job.get("timeout-minutes", 240) >= 240 for job in jobs)


SHARED = """
import pytest
@pytest.mark.parametrize("difference", {differences})
def test_it(parity, difference):
    parity("a sum", difference, 0.5)
"""


def test_processes_that_share_the_tests_print_one_table_and_one_summary(root, tmp_path):
    (tmp_path / "conftest.py").write_text((root / "tests/conftest.py").read_text())
    for name, differences in (("test_a.py", [0.1, 0.25]), ("test_b.py", [0.125])):
        (tmp_path / name).write_text(SHARED.format(differences=differences))
    lines = run("-m", "pytest", "--numprocesses=2", "--dist=loadfile", cwd=tmp_path).stdout.splitlines()
    assert [line.split() for line in lines if line.startswith("a sum")] == [["a", "sum", "3", "0.25", "0.5"]]
    assert len([line for line in lines if re.fullmatch(r"=+ 3 passed in [\d.]+s =+", line)]) == 1
    assert lines[-1].startswith("=")


def test_the_tests_share_the_processors_each_file_as_a_whole(root):
    """With one thread each; the chapters first, which take longest."""
    makefile = (root / "Makefile").read_text()
    command = re.search(r"^PYTEST = (.*)$", makefile, re.MULTILINE)[1]
    for part in ("OMP_NUM_THREADS=1 ", "--numprocesses=$(WORKERS)", "--dist=loadfile", "--no-loadscope-reorder"):
        assert part in command
    recipe = re.search(r"^test:.*\n\t(.*)$", makefile, re.MULTILINE)[1]
    assert recipe.startswith("$(PYTEST) ") and recipe.endswith(" $(PAGES) tests")


# ------------------------------------------------------------------------- commands, workflows, imports


def make_targets(root):
    return set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", ".ci/run", *(f".github/workflows/{n}.yml" for n in ("audit", "ci", "gpu"))]
)
def test_each_make_target_that_is_named_exists(root, name):
    named = set(re.findall(r"(?:`|^|run: |\$ )make ([a-z-]+(?: [a-z-]+)*)", (root / name).read_text(), re.MULTILINE))
    targets = {target for line in named for target in line.split()}
    assert targets
    assert targets <= make_targets(root)


@pytest.mark.parametrize("name", ["audit", "ci", "gpu"])
def test_each_step_of_a_workflow_is_an_action_or_a_target(root, name):
    workflow = yaml.safe_load((root / f".github/workflows/{name}.yml").read_text())
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert re.fullmatch(r"make [a-z-]+", step.get("run", "make x")), step
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/x@v1")), step


def test_the_citation_and_the_changelog_say_what_the_settings_say(root):
    project = ConfigParser()
    project.read(root / "settings.ini", encoding="utf-8")
    settings = dict(project["DEFAULT"])
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    named = {"title": "title", "version": "version", "repository-code": "git_url"}
    assert {key: citation[key] for key in named} == {key: settings[name] for key, name in named.items()}
    assert citation["url"] == settings["doc_host"] + settings["doc_baseurl"]
    assert citation["authors"] == [{"name": settings["author"]}]
    assert citation["license"] == settings["license"].replace("apache2", "Apache-2.0")
    box = re.search(r"```bibtex\n(.*?)```", (root / "book/index.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    for text in (settings["title"], settings["author"], settings["copyright"][:4], "{{ package_version }}"):
        assert text in box
    latest = re.search(r"^## ([\d.]+)", (root / "book/changelog.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert latest == settings["version"]


def test_every_name_that_the_changelog_sends_elsewhere_is_there(root):
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.+) \|$", (root / "book/changelog.md").read_text(), re.MULTILINE)
    assert rows
    for old, new, names in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert name in import_module(f"frcnn_common.{new}").__all__, f"{name}: from {old} to {new}"


def test_readme_starts_with_the_two_commands(root):
    first = re.search(r"```\w*\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)[1]
    assert re.findall(r"^make (\w+)", first, re.MULTILINE) == ["book", "test"]


def test_ci_runs_the_readmes_test_command(root):
    script = (root / ".ci/run").read_text()
    assert script.splitlines()[-1] == "make test"
    subprocess.run(["bash", "-n", root / ".ci/run"], check=True)


def test_constraints_are_exact(root):
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert not [line for line in lines if re.match(r"nvidia|cuda|triton|frcnn", line)]
    pyproject = tomllib.loads((root / "pyproject.toml").read_text())
    assert set(pyproject["build-system"]["requires"]) <= set(lines)
    project = pyproject["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in lines}
    assert {re.match(r"[\w-]+", text)[0] for text in wanted} <= names


def installed(requirement):
    """The versions of all distributions that a requirement leads to in this environment, by name."""
    versions, seen, todo = {}, set(), [Requirement(requirement)]
    while todo:
        wanted = todo.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        found = distribution(wanted.name)
        versions[canonicalize_name(wanted.name)] = found.version.partition("+")[0]
        needs = map(Requirement, found.requires or ())
        contexts = [{"extra": extra} for extra in wanted.extras or {""}]
        todo += [n for n in needs if n.marker is None or any(map(n.marker.evaluate, contexts))]
    return versions


def test_everything_that_is_installed_is_pinned(root):
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (root / "constraints.txt").read_text(), re.MULTILINE)
    versions = {
        name: version
        for name, version in installed("frcnn-common[dev]").items()
        if not re.match(r"nvidia|cuda|triton|frcnn", name)
    }
    assert len(versions) > 100
    assert versions.items() <= {(canonicalize_name(name), version) for name, version in pins}


def test_the_audit_runs_every_week_and_takes_no_silence_for_an_answer(root):
    workflow = yaml.safe_load((root / ".github/workflows/audit.yml").read_text())
    triggers = workflow[True]  # YAML reads `on` so
    assert re.fullmatch(r"\d+ \d+ \* \* \d", triggers["schedule"][0]["cron"])
    assert "constraints.txt" in triggers["push"]["paths"] and "constraints.txt" in triggers["pull_request"]["paths"]
    assert re.search(r"^\t.*pip-audit --strict .*constraints.txt$", (root / "Makefile").read_text(), re.MULTILINE)


LIGHT_IMPORT = """
import sys, torch
before, seen, watched = set(sys.modules), [], {"open", "socket.connect"}
sys.addaudithook(lambda event, args: seen.append((event, str(args[0]))) if event in watched else None)
import frcnn_common
heavy = {"torchvision", "datasets", "matplotlib", "tqdm", "tensorboard", "torchdata", "safetensors", "huggingface_hub"}
print(sorted(heavy & (set(sys.modules) - before)))
print([(event, name) for event, name in seen if event != "open" or not name.endswith((".py", ".pyc", ".so"))])
"""


def test_import_is_light():
    """`import frcnn_common` loads no training stack and opens no data file and no connection."""
    done = subprocess.run([sys.executable, "-c", LIGHT_IMPORT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]


def test_the_landing_picture_shows_what_its_caption_says():
    scene = compose_scene(131, "val")
    _, _, kinds, missed = hero.verdict(scene)
    assert kinds == ["correct"] * 7 + ["background"] and not len(missed) and len(scene.names) == 7


@pytest.mark.parametrize("path", sorted(notebooks.ROOT.glob("nbs/chapters/*.ipynb")), ids=lambda path: path.stem)
def test_no_code_of_a_chapter_is_cut_off(path):
    """The site shows 88 columns without scrolling."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
    assert [line for line in lines if len(line) > 88] == []


def reads_and_writes(source):
    """The names that a cell reads before it has set them, and those that it sets."""
    code = [line for line in source.splitlines() if not line.startswith(("%", "!"))]
    reads, writes, bodies = set(), set(), [compile("\n".join(code), "cell", "exec")]
    for body in bodies:  # that of the cell comes first
        for step in dis.get_instructions(body):
            if step.opname == "STORE_NAME":
                writes.add(step.argval)
            elif step.opname in ("LOAD_NAME", "LOAD_GLOBAL") and step.argval not in writes:
                reads.add(step.argval)
        bodies += [part for part in body.co_consts if isinstance(part, types.CodeType)]
    return reads, writes


def hidden_changes(cells):
    """Names of the lesson that a folded cell sets anew, and a later cell reads: `(cell, name)`."""
    seen, changed = set(), {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        reads, writes = reads_and_writes(notebooks.source(cell))
        yield from ((number, name) for name in reads & changed.keys())
        folded = {"hide-input", "remove-input", "hide-cell", "remove-cell"} & {*cell["metadata"].get("tags", ())}
        folded = folded or notebooks.source(cell).startswith("#| touch")
        changed = {name: n for name, n in changed.items() if name not in writes}
        if folded:
            changed |= {name: number for name in writes & seen}
        else:
            seen |= writes


def test_a_change_in_a_folded_cell_is_found():
    cells = [cell(text) for text in ("x = 1", "x = 2", "print(x)")]
    assert not [*hidden_changes(cells)]
    cells[1]["metadata"]["tags"] = ["hide-input"]
    assert [*hidden_changes(cells)] == [(2, "x")]


@pytest.mark.parametrize("path", notebooks.notebooks(notebooks.ROOT), ids=lambda path: path.stem)
def test_a_folded_cell_changes_nothing_that_the_lesson_goes_on_with(path):
    assert not [*hidden_changes(notebooks.read(path)["cells"])]

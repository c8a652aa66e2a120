"""Keep the notebooks in order.

python tools/notebooks.py tidy [NOTEBOOK …]      normalize what is stored
python tools/notebooks.py execute [NOTEBOOK …]   run in place, then tidy
python tools/notebooks.py sync                   fail unless exporting and tidying would change nothing
python tools/notebooks.py nbval                  print the nbval options for this machine and recipe
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOURS = 4 * 3600  # seconds for one cell: guards against hanging, not against slowness
KERNEL = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
IGNORED = re.compile(r"^#(?:\s*NBVAL_IGNORE_OUTPUT\s*$|\|\s*touch:)", re.MULTILINE)  # or data for a figure
DEFAULT_EXP = re.compile(r"^#\|\s*default_exp\s+(\S+)", re.MULTILINE)
CONFLICT = re.compile(r"`(?:<{7}|={7}|>{7})")  # the cells between which nbdev_fix leaves both sides
EXPORTS = re.compile(r"^#\|\s*(?:default_exp|exporti?|exports)\b", re.MULTILINE)
ROOTS = "home|Users|root|tmp|var|private|mnt|opt|srv|usr|etc|content|kaggle|workspaces?"
PRIVATE = {
    "a path of this machine": re.compile(
        rf"(?<![\w.~-])(?:/(?:{ROOTS})/\w|{re.escape(str(ROOT))}\b)|\b[A-Z]:\\+(?:Users\b|\w+\\)", re.ASCII
    ),
    "an address in memory": re.compile(r"\b0x[0-9a-f]{8,}"),
    "what looks like a secret": re.compile(
        r"\b(?:hf_\w{30}|gh[pousr]_\w{36}|github_pat_\w{20}|glpat-[\w-]{20}|sk-[\w-]{20}|xox[abprs]-[\w-]{10}"
        r"|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{35})|PRIVATE KEY-----|://[^/\s:@]+:[^/\s@]+@|\bBearer [\w.-]{20}"
        r"|(?i:api[_-]?key|secret|passw(?:or)?d|token)[\"']?\s*[=:]\s*[\"']?(?=[\w+/.-]*\d)[\w+/.-]{12}"
    ),
}


def notebooks(root=ROOT):
    """Every notebook in reading order: the API's by number, the chapters, the how-to pages."""
    return [p for part in ("api", "chapters", "howto") for p in sorted((root / "nbs" / part).glob("[!_.]*.ipynb"))]


def read(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        name = Path(*Path(path).parts[-3:]).as_posix()
        sys.exit(f"{name} is not a notebook ({error}). If git left a conflict in it: nbdev_fix {name}")


def source(cell):
    return "".join(cell["source"])


# ------------------------------------------------------------------------------------------------ tidy


def is_picture(output):
    """Whether an output draws: an image, a widget or a video rather than text."""
    return any(not mime.startswith("text/") for mime in output.get("data", {}))


def stored_outputs(cell):
    """The outputs worth keeping: text, from a cell that draws nothing and whose text is compared."""
    outputs = [o for o in cell["outputs"] if o.get("name") != "stderr"]
    ignored = IGNORED.search(source(cell)) or "nbval-ignore-output" in cell["metadata"].get("tags", [])
    if ignored or any(map(is_picture, outputs)):
        return []
    kept = []
    for output in outputs:
        if kept and output["output_type"] == kept[-1]["output_type"] == "stream":
            kept[-1]["text"] = as_lines("".join([*kept[-1]["text"], *output["text"]]))
        else:
            kept.append(clean_output(output))
    return kept


def clean_output(output):
    kind = output["output_type"]
    if kind == "stream":
        return {"name": output["name"], "output_type": kind, "text": as_lines(output["text"])}
    if kind == "error":  # its traceback holds paths, and nbval does not compare it
        return {"ename": output["ename"], "evalue": output["evalue"], "output_type": kind, "traceback": []}
    data = {mime: as_lines(text) for mime, text in output["data"].items()}
    count = {"execution_count": None} if kind == "execute_result" else {}
    return {"data": data, "metadata": {}, "output_type": kind} | count


def as_lines(text):
    return "".join(text).splitlines(keepends=True)


def tidied(nb):
    """The notebook in its one canonical form, as text: what `nbdev_clean` writes, without what is not to be stored."""
    from nbdev.clean import clean_nb

    for cell in nb["cells"]:
        cell["source"] = as_lines(cell["source"])
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = stored_outputs(cell), None
    clean_nb(nb, allowed_cell_metadata_keys=["tags"], clean_ids=False)
    nb = {"cells": nb["cells"], "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def problems(nb):
    """What no notebook may hold, as sentences that name the cell."""
    for number, cell in enumerate(nb["cells"]):
        if CONFLICT.match(source(cell)):
            yield f"cell {number + 1}, {source(cell)}, is left from a merge: take one side, and delete the mark"
    yield from private_text(nb)


def texts(part):
    """Every text in a part of a notebook; the lines of one text together."""
    if isinstance(part, list) and all(isinstance(line, str) for line in part):
        part = "".join(part)
    if isinstance(part, str):
        yield part
    elif isinstance(part, list | dict):
        for value in part.values() if isinstance(part, dict) else part:
            yield from texts(value)


def private_text(nb):
    """What no source, output or metadata may hold, as `cell ID stores …` sentences that do not repeat all of it."""
    parts = {"metadata": nb["metadata"]} | {f"cell {cell.get('id', n)}": cell for n, cell in enumerate(nb["cells"])}
    for name, part in parts.items():
        for what, pattern in PRIVATE.items():
            if found := next(filter(None, map(pattern.search, texts(part))), None):
                yield f"{name} stores {what}: {found[0][:12]!r}"


def tidy(paths):
    """Tidy the notebooks in place; refuse to write one that holds what no notebook may."""
    for path in paths:
        text = tidied(read(path))
        if found := list(problems(json.loads(text))):
            sys.exit(f"{path}: " + "\n  ".join(found))
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")


# --------------------------------------------------------------------------------------------- execute


def execute(paths):
    """Run the notebooks in place, one fresh kernel each, and tidy each as it is done."""
    import nbformat
    from nbclient import NotebookClient

    for path in paths:
        start = time.perf_counter()
        nb = nbformat.read(path, as_version=4)
        options = {"timeout": HOURS, "startup_timeout": HOURS, "iopub_timeout": 600, "kernel_name": "python3"}
        NotebookClient(nb, resources={"metadata": {"path": path.parent}}, **options).execute()
        nbformat.write(nb, path)
        tidy([path])
        print(f"{time.perf_counter() - start:7.1f} s  {path.relative_to(ROOT)}", flush=True)


# ------------------------------------------------------------------------------------------------ sync


def module_problems(root):
    """Where notebooks and modules do not stand one to one."""
    owner = {}
    for path in notebooks(root):
        code = "\n".join(source(c) for c in read(path)["cells"] if c["cell_type"] == "code")
        if path.parent.name != "api" and EXPORTS.search(code):
            yield f"{path.name} is no page of the API and must not export"
        for module in DEFAULT_EXP.findall(code):
            if module in owner:
                yield f"{owner[module]} and {path.name} both export to {module}: one notebook, one module"
            owner.setdefault(module, path.name)
    for module in (root / "frcnn_common").glob("*.py"):
        if module.stem not in {"__init__", "_modidx", *owner}:
            yield f"frcnn_common/{module.name} comes from no notebook: delete it, or write its notebook"


def copy_tree(target):
    """Copy the working tree: what git tracks, and what is new and not ignored."""
    listed = subprocess.check_output(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(None, set(listed.split("\0"))):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def contents(root):
    return {p.relative_to(root): p.read_bytes() for d in ("nbs", "frcnn_common") for p in (root / d).rglob("*.*")}


def sync():
    """Fail, naming the files, unless exporting and tidying a copy of the working tree changes nothing in it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_tree(copy)
        found = list(module_problems(copy))
        for path in notebooks(copy):
            found += (f"{path.relative_to(copy)}: {problem}" for problem in problems(read(path)))
        if found:
            sys.exit("\n".join(found))
        before = contents(copy)
        subprocess.run([Path(sys.executable).parent / "nbdev_export"], cwd=copy, check=True)
        tidy(notebooks(copy))
        after = contents(copy)
    changed = sorted(str(p) for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    if changed:
        sys.exit("Notebooks and package disagree:\n  " + "\n  ".join(changed) + "\nMend it with: make export tidy")


# ----------------------------------------------------------------------------------------------- nbval


def nbval():
    """Print nbval's options: strict where the stored outputs were made, lax under another recipe or a GPU."""
    import torch

    strict = os.environ.get("FRCNN_RECIPE", "openmoji-tiny") == "openmoji-tiny" and not torch.cuda.is_available()
    patience = f"--nbval-cell-timeout={HOURS} --nbval-kernel-startup-timeout={HOURS}"
    print("--nbval" if strict else "--nbval-lax", f"--nbval-current-env {patience}")


if __name__ == "__main__":
    command, *names = sys.argv[1:] or [""]
    chosen = [Path(name).resolve() for name in names] or notebooks()
    actions = {"tidy": lambda: tidy(chosen), "execute": lambda: execute(chosen), "sync": sync, "nbval": nbval}
    actions.get(command, lambda: sys.exit(__doc__))()

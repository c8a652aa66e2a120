"""What every test has: the same random numbers in every run, one meaning of the marks, and the parity table."""

import math
from pathlib import Path

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

PARITY = pytest.StashKey[dict]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A long test is a slow one too, and one for a GPU is skipped where there is none."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="PyTorch sees no GPU"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root():
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent


def add_parity(rows, more):
    """Add to a table: the number of cases by row, the largest difference and the largest tolerance."""
    for row, (cases, difference, tolerance) in more.items():
        known, largest, bound = rows.get(row, (0, 0.0, 0.0))
        rows[row] = (known + cases, max(largest, difference), max(bound, tolerance))


def pytest_configure(config):
    config.stash[PARITY] = {}


def pytest_sessionfinish(session):
    """Of several processes that share the tests, each hands in its part of the table."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["parity"] = session.config.stash[PARITY]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Collect the parts; a process that has crashed has none."""
    add_parity(node.config.stash[PARITY], getattr(node, "workeroutput", {}).get("parity", {}))


@pytest.fixture(scope="session")
def parity(request):
    """`record(row, difference, tolerance, cases=1)` asserts the bound and adds to the table printed after the tests."""
    rows = request.config.stash[PARITY]

    def record(row, difference, tolerance, cases=1):
        add_parity(rows, {row: (cases, math.inf if math.isnan(difference) else difference, tolerance)})
        assert difference <= tolerance, f"{row}: differs by {difference:.3g}, allowed is {tolerance:.3g}"

    return record


def pytest_terminal_summary(terminalreporter, config):
    """The parity table, if a test compared anything."""
    rows = config.stash[PARITY]
    if rows:
        width = max(map(len, rows))
        terminalreporter.section("agreement with torchvision")
        terminalreporter.write_line(f"{'':{width}}  {'cases':>7}  {'largest difference':>18}  {'tolerance':>9}")
        for row, (cases, largest, tolerance) in rows.items():
            terminalreporter.write_line(f"{row:{width}}  {cases:7,}  {largest:18.2g}  {tolerance:9.2g}")

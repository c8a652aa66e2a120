"""What every test has: the same random numbers in every run, and one meaning of the two marks."""

from pathlib import Path

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A long test is a slow one too."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root():
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent


_PARITY = {}  # row: largest difference, tolerance, number of cases


@pytest.fixture
def parity():
    """A function that fails if a difference from a peer is too large, and remembers the largest of each row."""

    def record(row: str, difference: float, tolerance: float, cases: int):
        largest, _, total = _PARITY.get(row, (0.0, tolerance, 0))
        _PARITY[row] = max(largest, difference), tolerance, total + cases
        assert difference <= tolerance, f"{row}: differs by {difference}, allowed is {tolerance}"

    return record


def pytest_terminal_summary(terminalreporter):
    if _PARITY:
        terminalreporter.section("parity")
    for row, (largest, tolerance, cases) in _PARITY.items():
        terminalreporter.write_line(f"{row:60} {largest:9.2e} of {tolerance:.0e} {cases:6} cases")

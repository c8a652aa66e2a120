"""How nbval runs notebooks: which cells it compares, and how patiently it waits."""

import math
import time
from queue import Empty

from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

LATE = 600  # seconds for what a busy machine prints late
FIRST = "test_student.py"  # runs all chapters, one after the other: begun last, one processor would wait for it
get_message = RunningKernel.get_message


def pytest_itemcollected(item):
    """Have nbval compare exactly the cells that store something.

    nbval tells a cell that was run from one that was not by its `execution_count`. The files hold no counts, as
    nbdev writes them, so they are given here.
    """
    if isinstance(item, IPyNbCell):
        item.cell.execution_count = 1 if item.cell.outputs else None
        item.output_timeout = LATE


def pytest_collection_modifyitems(items):
    """Begin with the file that runs longest of those that would come last."""
    items.sort(key=lambda item: item.path.name != FIRST)


def get_message_while_alive(kernel, stream, timeout=None):
    """Wait for the next message of a kernel, and no longer than the kernel lives."""
    end = time.monotonic() + (math.inf if timeout is None else timeout)
    while kernel.is_alive():
        try:
            return get_message(kernel, stream, min(5, max(0, end - time.monotonic())))
        except Empty:
            if time.monotonic() >= end:
                raise
    raise RuntimeError("the kernel has ended before its cell")


RunningKernel.get_message = get_message_while_alive

"""Sphinx extension: while a page is executed, the build says which, since when, and how long it took last time.

A slow machine is no fault: a kernel may take its time to start, and to print what it has computed.
"""

import threading
import time
from contextlib import contextmanager
from datetime import datetime

from jupyter_cache import get_cache
from myst_nb.core.execute import cache
from sphinx.util import logging

EVERY = 60  # seconds between two signs of life
PATIENCE = {"startup_timeout": 3600, "iopub_timeout": 600}  # seconds: nbclient's own 60 and 4 are few on a busy machine
log = logging.getLogger(__name__)


def last_time(folder, path):
    """What is known of the latest execution of a notebook, in words."""
    records = [record for record in get_cache(folder).list_cache_records() if record.uri == path]
    if not records:
        return "never executed here before"
    return f"last time it took {max(records, key=lambda r: r.created).data['execution_seconds']:.0f} s"


@contextmanager
def announced(page, before):
    """Say that a page is being executed, at the beginning and as long as it goes on."""
    start, since, done = time.monotonic(), datetime.now().strftime("%H:%M:%S"), threading.Event()

    def remind():
        while not done.wait(EVERY):
            log.info(f"{page}: executing since {since}, for {time.monotonic() - start:.0f} s ({before})")

    log.info(f"{page}: executing since {since} ({before})")
    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    finally:
        done.set()
        reminder.join()


def setup(app):
    execute = cache.single_nb_execution

    def execute_announced(nb, **options):
        before = last_time(app.env.mystnb_config.execution_cache_path, app.env.doc2path(app.env.docname))
        with announced(app.env.docname, before):
            return execute(nb, **options, **PATIENCE)

    cache.single_nb_execution = execute_announced
    return {"parallel_read_safe": False, "parallel_write_safe": True}

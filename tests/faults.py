"""A Hub with faults, and streams that read from it.

    faults.py FIRST LAST      the random schedules of these seeds
    faults.py cases           every kind of fault by itself

Prints a line of JSON for each: what was delivered, and the error if there was one. Waiting is shortened to a
hundredth, for the libraries below are patient: `time.sleep` is the only thing that is not as a reader has it.
"""

import gc
import io
import json
import multiprocessing
import os
import random
import socket
import struct
import sys
import tempfile
import threading
import time
import warnings

from hub import Hub

ROWS, FILES, GROUP = 30, 5, 3
DATASET = "detection-datasets/coco"
sleep = time.sleep
waited = multiprocessing.Value("d", 0.0)  # seconds that all who read have waited, by their own clocks


def wait(seconds):
    """What those who read take for `time.sleep`."""
    with waited.get_lock():
        waited.value += seconds
    sleep(seconds / 100)


class Faults:
    """What goes wrong, and when: a fault for some of the numbered requests, given by kind.

    Parameters
    ----------
    plan : dict
        Kind by number of the request, from 0.
    forever : tuple, optional
        `(number, kind)`: from that request on, all have this fault.
    """

    stall = 2.4  # seconds, more than the client waits

    def __init__(self, plan=None, forever=None):
        self.plan, self.forever = plan or {}, forever
        self.count, self.happened, self.lock = 0, [], threading.Lock()

    def __call__(self, request):
        with self.lock:
            number, self.count = self.count, self.count + 1
        kind = self.plan.get(number)
        if self.forever and number >= self.forever[0]:
            kind = self.forever[1]
        if kind is None:
            return False
        self.happened.append(kind)
        return getattr(self, kind)(request)

    def refused(self, request):
        """The connection ends without an answer, as by a machine that nobody listens on."""
        return reset(request)

    def rate_limit(self, request):
        return status(request, 429, {"Retry-After": "3"})

    def error_500(self, request):
        return status(request, 500)

    def error_503(self, request):
        return status(request, 503)

    def error_504(self, request):
        return status(request, 504)

    def cut(self, request):
        """The connection is reset in the middle of the body."""
        return self.partly(request, honest=False) and reset(request)

    def short(self, request):
        """The body ends too early, and the server closes the connection politely."""
        return self.partly(request, honest=False)

    def truncated(self, request):
        """The server says itself that there is less than was asked for."""
        return self.partly(request, honest=True)

    def partly(self, request, honest):
        whole, request.wfile = request.wfile, io.BytesIO()
        request.answer()
        answer, request.wfile = request.wfile.getvalue(), whole
        head, _, body = answer.partition(b"\r\n\r\n")
        half = body[: len(body) // 2]
        if honest:
            head = head.replace(b"Content-Length: %d" % len(body), b"Content-Length: %d" % len(half))
        request.wfile.write(head + b"\r\n\r\n" + half)
        request.wfile.flush()
        request.close_connection = True
        return True

    def stalled(self, request):
        """Nothing comes until the client has lost its patience."""
        sleep(self.stall)
        return reset(request)


KINDS = ["refused", "rate_limit", "error_500", "error_503", "error_504", "cut", "short", "truncated", "stalled"]


def status(request, number, headers=None):
    request.send(number, b"", headers or {})
    return True


def reset(request):
    """End the connection with a reset."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RD)
    request.connection.close()
    return True


def coco_files(count=ROWS, parts=FILES, longest=64):
    """Scenes in parquet files with the Hub's columns, of several row groups each, by path."""
    import datasets

    from frcnn_common.openmoji import draw_scene, scene_stream

    rows = datasets.Dataset.from_list(
        [draw_scene(i, longest=longest) for i in range(count)], features=scene_stream().features
    )
    files = {}
    for part in range(parts):
        parquet = io.BytesIO()
        rows.shard(parts, part).to_parquet(parquet, batch_size=GROUP)
        files[f"data/train-{part:05}-of-{parts:05}.parquet"] = parquet.getvalue()
    return files


def start_hub(home, files=None, **options):
    """A Hub, and the variables that lead this process to it; before anything of Hugging Face is imported."""
    hub = Hub(DATASET, files or {}, **options)
    environment = hub.environment(home) | {"HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2"}
    os.environ.update({key: environment[key] for key in environment if key.startswith(("HF_", "NO_PROXY"))})
    time.sleep = wait
    os.register_at_fork(after_in_child=lambda: hub.socket.close())  # otherwise a loader's worker would keep it open
    return hub


def schedule(seed):
    """A random schedule: faults here and there, in some of them also one that never ends."""
    chance = random.Random(seed)
    length = chance.choice([20, 60])
    plan = {number: chance.choice(KINDS) for number in range(length) if chance.random() < chance.choice([0.1, 0.4])}
    forever = (chance.randrange(20), chance.choice(["refused", "error_503", "truncated"])) if seed % 4 == 3 else None
    return Faults(plan, forever), {"workers": chance.choice([0, 0, 2]), "shuffle": chance.choice([0, 4])}


def read(data, workers, state=None):
    """The numbers of the images that arrive, the error that ended it, and where to go on."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    from frcnn_common.hub import StreamError

    loader, seen, error = StatefulDataLoader(data, batch_size=None, num_workers=workers), [], None
    if state is not None:
        loader.load_state_dict(state)
    try:
        for _, target in loader:
            seen.append(int(target["image_id"]))
            state = loader.state_dict()
    except StreamError as caught:
        error = str(caught)
    del loader
    gc.collect()  # ends its workers here; a thread of the Hub that came upon them would wait for them
    return seen, error, state


def dataset(**options):
    from frcnn_common import COCOStreamDataset

    return COCOStreamDataset(img_size=16, metadata=True, **options)


def run(hub, seed):
    """Read through the faults of a seed; if that fails, go on when the Hub is well again."""
    hub.hook, options = schedule(seed)
    workers, shuffle = options["workers"], options["shuffle"]
    seen, error, state = read(dataset(shuffle=shuffle), workers)
    happened, hub.hook = hub.hook.happened, None
    later = read(dataset(shuffle=shuffle), workers, state)[0] if error else []
    return {"case": seed, "faults": happened, "seen": seen, "error": error, "later": later}


def run_case(hub, case):
    """One fault by its name, with no worker and with two."""
    whole, results = dict(hub.files), []
    for workers in (0, 2):
        revision, faults = "main", Faults()
        if case in KINDS:
            faults = Faults(dict.fromkeys((0, 2, 5), case))
        elif case == "away":
            faults = Away(hub)
        elif case == "missing shard":
            faults = Missing(f"data/train-{FILES - 2:05}")
        elif case == "corrupt page":
            path = f"data/train-{FILES - 2:05}-of-{FILES:05}.parquet"
            hub.files[path] = whole[path][:40] + bytes(400) + whole[path][440:]
        elif case == "unknown revision":
            revision = "gone"
        hub.hook = faults
        seen, error, _ = read(dataset(revision=revision), workers)
        hub.hook, hub.files = None, dict(whole)
        results.append({"case": case, "faults": faults.happened, "seen": seen, "error": error})
    return results


class Missing:
    """A file that is in the list, and not there."""

    def __init__(self, path):
        self.path, self.happened = path, []

    def __call__(self, request):
        if "/resolve/" not in request.where or self.path not in request.where:
            return False
        self.happened.append("missing")
        request.refuse("EntryNotFound")
        return True


class Away:
    """After ten requests nobody listens on the Hub's port any more, until readers have waited; open connections end."""

    def __init__(self, hub, seconds=20):
        self.hub, self.seconds = hub, seconds
        self.count, self.happened, self.lock = 0, [], threading.Lock()

    def __call__(self, request):
        with self.lock:
            self.count += 1
            if self.count == 11:
                self.happened.append("away")
                threading.Thread(target=self.leave_and_return, daemon=True).start()
        return self.count >= 11 and self.hub.hook is self and reset(request)

    def leave_and_return(self):
        self.hub.shutdown()
        self.hub.socket.close()
        start = waited.value
        while self.hub.hook is self and waited.value < start + self.seconds:
            sleep(0.01)
        if self.hub.hook is self:
            self.hub.hook = None
        self.hub.socket = socket.create_server(("127.0.0.1", self.hub.server_port), backlog=64)
        threading.Thread(target=self.hub.serve_forever, daemon=True).start()


CASES = [*KINDS, "away", "missing shard", "corrupt page", "unknown revision"]

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as home, start_hub(home) as hub:
        hub.files = coco_files()
        if sys.argv[1:] == ["cases"]:
            for case in CASES:
                for result in run_case(hub, case):
                    print(json.dumps(result), flush=True)
        else:
            for seed in range(int(sys.argv[1]), int(sys.argv[2])):
                print(json.dumps(run(hub, seed)), flush=True)

"""A Hugging Face Hub on the loopback, which the unmodified `load_dataset` streams a data set from.

`huggingface_hub` reads the address of the Hub when it is imported: start what streams in a process of its own, with
`Hub.environment`.
"""

import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "5eed" * 10


class Hub(ThreadingHTTPServer):
    """Serves the files of one data set at one commit as long as its `with` block lasts.

    Parameters
    ----------
    dataset : str
        Its id, `owner/name`.
    files : dict
        Bytes by path.
    commit : str
        What the branch `main` points to; there are no other revisions than these two.
    port : int
        Where to listen; by default anywhere.
    hook : callable, optional
        Called with each `Request` before it is answered. If it returns true, nothing more is sent: it has answered
        itself, or broken the connection.

    Attributes
    ----------
    requests : list of tuple
        `(method, path, range)` of every request so far; `range` is the header or None.
    """

    daemon_threads = True

    def __init__(self, dataset, files, *, commit=COMMIT, port=0, hook=None):
        super().__init__(("127.0.0.1", port), Request)
        self.dataset, self.files, self.commit, self.hook = dataset, files, commit, hook
        self.requests = []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def environment(self, home):
        """The variables of a process that uses this Hub and keeps its caches in the folder `home`."""
        mine = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE_"))}
        return mine | {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(home),
            "NO_PROXY": "127.0.0.1",
        }


class Request(BaseHTTPRequestHandler):
    """One request to a `Hub`."""

    protocol_version = "HTTP/1.1"  # connections stay open

    def do_GET(self):
        """Answer, unless the hook has."""
        self.where = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, self.where, self.headers.get("Range")))
        if not (self.server.hook and self.server.hook(self)):
            self.answer()

    do_HEAD = do_GET

    def answer(self):
        """What the Hub says when nothing is wrong."""
        dataset = self.server.dataset
        routes = {
            f"/api/datasets/{dataset}": self.send_info,
            f"/api/datasets/{dataset}/revision/([^/]+)": self.send_info,
            f"/api/datasets/{dataset}/tree/([^/]+)/?(.*)": self.send_tree,
            f"/datasets/{dataset}/resolve/([^/]+)/(.+)": self.send_file,
        }
        for pattern, send in routes.items():
            if match := re.fullmatch(pattern, self.where):
                revision, *rest = match.groups() or ["main"]
                known = revision in ("main", self.server.commit)
                return send(*rest) if known else self.refuse("RevisionNotFound")
        self.refuse("RepoNotFound")

    def send_info(self):
        """The data set: its commit and its files."""
        siblings = [{"rfilename": path} for path in self.server.files]
        self.send_json({"id": self.server.dataset, "sha": self.server.commit, "tags": [], "siblings": siblings})

    def send_tree(self, folder):
        """What is in a folder, and below it if that is asked for."""
        start = f"{folder}/" if folder else ""
        below = [path for path in self.server.files if path.startswith(start)]
        if not below:
            return self.refuse("EntryNotFound")
        whole = "true" in parse_qs(urlsplit(self.path).query.lower()).get("recursive", [])
        folders = sorted({os.path.dirname(path) for path in below} - {folder})
        entries = [{"type": "directory", "path": path, "oid": digest(path.encode())} for path in folders]
        for path in below:
            body = self.server.files[path]
            entries.append({"type": "file", "path": path, "size": len(body), "oid": digest(body)})
        self.send_json([entry for entry in entries if whole or "/" not in entry["path"].removeprefix(start)])

    def send_file(self, path):
        """A file, or the range of it that is asked for."""
        if path not in self.server.files:
            return self.refuse("EntryNotFound")
        body = self.server.files[path]
        headers = {"ETag": f'"{digest(body)}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self.send(200, body, headers)
        start, last = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
        self.send(206, body[start : last + 1], headers | {"Content-Range": f"bytes {start}-{last}/{len(body)}"})

    def refuse(self, code):
        """Say what does not exist."""
        self.send(404, b"", {"X-Error-Code": code})

    def send_json(self, value):
        """Answer with a value."""
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status, body, headers):
        """Answer; without the body if only the head is asked for."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("X-Repo-Commit", self.server.commit)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        """Print nothing: `Hub.requests` has it all."""


def digest(body):
    """A name for these bytes."""
    return hashlib.sha1(body).hexdigest()

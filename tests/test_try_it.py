"""What the page "Try it" loads: fetched from a registry, compared with its hash, listed with its size, or left out."""

import base64
import hashlib
import importlib.util
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from docutils import nodes
from PIL import Image

from frcnn_common.constants import COCO_NAMES
from frcnn_common.inference import Detector
from tools import try_it

VERSION, _ = try_it.pinned()
RUNTIME = {name: f"the file {name}".encode() for name in try_it.RUNTIME}


def archive(files):
    """A package as npm packs it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def registry(monkeypatch):
    """A registry on this machine that has the archive `sent`; `asked` lists what was asked for."""
    state = SimpleNamespace(asked=[], sent=archive(RUNTIME | {"ort.all.min.js": b"not wanted"}))

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(state.sent)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{http.server_port}/npm")
        yield state
        http.shutdown()


@pytest.fixture
def lock(tmp_path, registry):
    """A lock file that names what the registry sends at first."""
    digest = base64.b64encode(hashlib.sha512(registry.sent).digest()).decode()
    entry = {"version": VERSION, "integrity": f"sha512-{digest}"}
    path = tmp_path / "package-lock.json"
    path.write_text(json.dumps({"packages": {"node_modules/onnxruntime-web": entry}}))
    return path


def test_the_runtime_is_fetched_once_and_only_the_files_that_are_needed(tmp_path, registry, lock):
    for _ in range(2):
        folder = try_it.fetch_runtime(tmp_path / "try", lock)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == RUNTIME
    assert registry.asked == [f"/npm/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"]


def test_another_archive_than_the_pinned_one_is_refused(tmp_path, registry, lock):
    registry.sent = archive(RUNTIME | {"ort.wasm.min.js": b"something else"})
    with pytest.raises(ValueError, match="another onnxruntime-web"):
        try_it.fetch_runtime(tmp_path / "try", lock)
    assert not (tmp_path / "try").exists()


def test_without_a_registry_one_line_says_so_and_no_list_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    (tmp_path / "files.json").write_text("{}")
    try_it.main(tmp_path)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "stays a picture" in said and "http://127.0.0.1:9/" in said
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_lock_names_a_hash_and_no_host(root):
    text = (root / "tools/package-lock.json").read_text(encoding="utf-8")
    assert "http" not in text
    packages = json.loads(text)["packages"]
    wanted = json.loads((root / "tools/package.json").read_text(encoding="utf-8"))["dependencies"]
    assert packages[""]["dependencies"] == wanted == {"onnxruntime-web": VERSION}
    assert all(entry["integrity"].startswith("sha512-") for name, entry in packages.items() if name)


def test_everything_is_written_and_listed(tmp_path, registry, lock):
    tmp_path /= "try"
    (tmp_path / "onnxruntime-web-0.0.1").mkdir(parents=True)
    (tmp_path / "scene-999.jpg").write_bytes(b"of an earlier list")
    try_it.main(tmp_path, lock)
    folders = [path.name for path in tmp_path.iterdir() if path.is_dir()]
    assert folders == [f"onnxruntime-web-{VERSION}"] and not (tmp_path / "scene-999.jpg").exists()
    files, data = (json.loads((tmp_path / name).read_text()) for name in ("files.json", "data.json"))
    for entry in files.values():
        assert "file" not in entry or entry["bytes"] == (tmp_path / entry["file"]).stat().st_size
    assert len(data["scenes"]) == 20 and len(data["magma"]) == 64
    assert all(scene["boxes"] for scene in data["scenes"])
    pictures = [entry["file"] for kind in ("scenes", "backgrounds", "glyphs") for entry in data[kind]]
    assert files["pictures"]["bytes"] == sum((tmp_path / name).stat().st_size for name in set(pictures))
    assert len(set(pictures)) == len(pictures)
    known = [glyph["name"] for glyph in data["glyphs"] if glyph["known"]]
    unknown = [glyph["name"] for glyph in data["glyphs"] if not glyph["known"]]
    assert set(known) < set(COCO_NAMES) and len(unknown) == 24 and not set(unknown) & set(COCO_NAMES)
    for glyph in data["glyphs"]:
        with Image.open(tmp_path / glyph["file"]) as picture:
            assert max(picture.size) <= try_it.GLYPH_SIDE and picture.mode == "RGBA"
    assert data["detector"]["img_size"] == Detector.load("tiny").img_size and (tmp_path / "tiny-regions.onnx").exists()


@pytest.fixture(scope="module")
def extension():
    spec = importlib.util.spec_from_file_location("try_it_extension", try_it.ROOT / "book/_ext/try_it.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_static_where_the_detector_is_missing(tmp_path, extension):
    noted = []
    env = SimpleNamespace(srcdir=tmp_path, docname="book/try_it", note_dependency=noted.append)
    directive = SimpleNamespace(env=env)
    (still,) = extension.TryIt.run(directive)
    assert isinstance(still, nodes.paragraph) and "could not be reached" in still.astext()
    listed = tmp_path / "_build/extra/try/files.json"
    listed.parent.mkdir(parents=True)
    listed.write_text('{"wasm": {"file": "one.wasm", "bytes": 1}}')
    (live,) = extension.TryIt.run(directive)
    assert isinstance(live, nodes.raw) and '"base": "../try/"' in live.astext() and "one.wasm" in live.astext()
    assert noted == [str(listed)] * 2

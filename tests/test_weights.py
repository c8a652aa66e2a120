"""Published weights: found, fetched, checked, and translated. The server is one on this machine."""

import hashlib
import io
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn

from frcnn_common import COCO_IDS, COCO_NAMES, FasterRCNN, ResNet50, weights
from frcnn_common.weights import detector_from_torchvision, detector_to_torchvision, known_bn_eps, load_weights

CLS, BOX = "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"


def test_the_table_is_torchvisions():
    published = [*torchvision.models.ResNet50_Weights, FasterRCNN_ResNet50_FPN_Weights.COCO_V1]
    assert {entry.name: entry.url for entry in published} == weights.WEIGHTS_URLS


# ---------------------------------------------------------------------------------------------- files


class Server(ThreadingHTTPServer):
    """Serves `body` under every path, counts requests; may announce more bytes than it sends, or fail."""

    def __init__(self, body):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.announced, self.status, self.requests = body, len(body), 200, []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.announced))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_):
        pass


STATE = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.tensor([1.0, -1.0])}


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of a small file with its true hash in its name, published as COCO_V1; an empty cache."""
    body = saved(STATE)
    server = Server(body)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/models/small-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    monkeypatch.setitem(weights.WEIGHTS_URLS, "COCO_V1", url)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    server.cached = tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[1]
    yield server
    server.shutdown()
    server.server_close()


def assert_nothing_left(server):
    assert list(server.cached.parent.iterdir()) == []


def test_downloads_once_with_progress(server, capsys):
    state = load_weights("COCO_V1")
    assert state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)
    assert "100%" in capsys.readouterr().err
    assert server.cached.read_bytes() == server.body and list(server.cached.parent.iterdir()) == [server.cached]
    load_weights("COCO_V1")
    assert len(server.requests) == 1


def test_a_wrong_hash_is_named_and_leaves_nothing(server):
    server.body = server.body[:-1] + b"!"
    with pytest.raises(ValueError) as caught:
        load_weights("COCO_V1")
    expected = server.cached.stem.removeprefix("small-")
    assert server.cached.name in str(caught.value) and f'expected "{expected}"' in str(caught.value)
    assert_nothing_left(server)


def test_a_truncated_download_leaves_nothing(server):
    server.body = server.body[:-100]
    with pytest.raises(ValueError, match=f"did not send the whole {server.cached.name}"):
        load_weights("COCO_V1")
    assert_nothing_left(server)


@pytest.mark.parametrize("offline", [False, True])
def test_offline_the_error_says_which_file_to_put_where(server, offline, monkeypatch):
    if offline:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/models/{server.cached.name}"  # nobody listens
        monkeypatch.setitem(weights.WEIGHTS_URLS, "COCO_V1", url)
    server.status = 404
    with pytest.raises(ConnectionError) as caught:
        load_weights("COCO_V1")
    message = str(caught.value)
    assert weights.WEIGHTS_URLS["COCO_V1"] in message and ("refused" if offline else "404") in message
    assert f"Get {server.cached.name}" in message and f"put it into {server.cached.parent}" in message
    assert_nothing_left(server)


def test_a_broken_file_in_the_cache_is_named(server):
    server.cached.parent.mkdir(parents=True)
    server.cached.write_bytes(server.body[:-100])
    with pytest.raises(ValueError) as caught:
        load_weights("COCO_V1")
    expected = server.cached.stem.removeprefix("small-")
    assert str(server.cached) in str(caught.value) and f"should begin with {expected}" in str(caught.value)
    assert server.requests == []


def test_files_and_dicts_are_read_as_they_are(tmp_path):
    torch.save(STATE, tmp_path / "state.pth")
    save_file(STATE, tmp_path / "state.safetensors")
    for argument in (tmp_path / "state.pth", str(tmp_path / "state.safetensors"), STATE):
        state = load_weights(argument)
        assert state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a file of torch", "cannot be read"),
        (b"", "cannot be read"),
        (saved(STATE)[:-100], "cannot be read"),
        (saved({"model": STATE, "epoch": 3}), "no state dict of names and tensors; found: model, epoch"),
        (saved([1, 2]), "no state dict of names and tensors; found: list"),
    ],
)
def test_a_file_without_a_state_dict_is_named(tmp_path, content, message):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["IMAGENET1K_V3", "missing.pth", "."])
def test_a_name_that_is_no_file_lists_the_published_ones(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="IMAGENET1K_V1, IMAGENET1K_V2, COCO_V1") as caught:
        load_weights(name)
    assert f"no file {name}" in str(caught.value)


# ------------------------------------------------------------------------------------------ ImageNet


@pytest.mark.slow
@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_imagenet_weights_load_by_name_and_from_a_file(name, tmp_path, monkeypatch):
    """A made file under a true name, put where torch keeps its downloads. Old files have no batch counters."""
    state = torchvision.models.resnet50().state_dict()
    body = saved({key: value for key, value in state.items() if "num_batches" not in key or name.endswith("V2")})
    file = f"resnet50-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    monkeypatch.setitem(weights.WEIGHTS_URLS, name, f"http://127.0.0.1:9/{file}")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(body)
    for argument in (name, path):
        loaded = ResNet50(weights=argument).state_dict()
        assert len(loaded) == 318
        assert torch.equal(loaded["layer4.2.conv3.weight"], state["layer4.2.conv3.weight"])
        assert torch.equal(loaded["stem.0.weight"], state["conv1.weight"])
        assert torch.equal(loaded["stem.1.running_var"], state["bn1.running_var"])


def test_weights_of_another_backbone_are_refused():
    with pytest.raises(ValueError, match=r"Missing: layer1.0.bn3.bias, .* and \d+ more. Unknown: none"):
        ResNet50(weights=torchvision.models.resnet18().state_dict())


# ------------------------------------------------------------------------------------------- detector


@pytest.fixture(scope="module")
def peer_state():
    """The state dict of torchvision's model with 91 rows; class row r holds the number r, box number n holds n."""
    torch.manual_seed(0)
    state = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    state[f"{CLS}.weight"] = torch.arange(91.0)[:, None].repeat(1, 1024)
    state[f"{CLS}.bias"] = torch.arange(91.0)
    state[f"{BOX}.weight"] = torch.arange(364.0)[:, None].repeat(1, 1024)
    state[f"{BOX}.bias"] = torch.arange(364.0)
    return state


def test_91_rows_become_81(peer_state):
    ours = detector_from_torchvision(peer_state, bn_eps=1e-5, coco_rows=True)
    rows = ours["predictor.cls.weight"][:, 0]
    assert rows.tolist() == ours["predictor.cls.bias"].tolist() == [0, *COCO_IDS]
    # by COCO's list: 11 fire hydrant, 12 street sign (unused), 13 stop sign; 82 refrigerator, 83 blender, 84 book
    assert rows[[1, 11, 12, 73, 74, 80]].tolist() == [1, 11, 13, 82, 84, 90]
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert [names[int(row)] for row in rows] == list(COCO_NAMES)
    boxes = ours["predictor.box.weight"][:, 0]
    assert boxes[4 * 12 : 4 * 13].tolist() == [52, 53, 54, 55] and boxes[-4:].tolist() == [360, 361, 362, 363]
    assert torch.equal(boxes, ours["predictor.box.bias"]) and len(boxes) == 324


@pytest.mark.parametrize("num_classes", [2, 81, 90, 91])
def test_rows_of_ones_own_stay(peer_state, num_classes):
    state = peer_state | {f"{CLS}.{t}": peer_state[f"{CLS}.{t}"][:num_classes] for t in ("weight", "bias")}
    state |= {f"{BOX}.{t}": peer_state[f"{BOX}.{t}"][: 4 * num_classes] for t in ("weight", "bias")}
    ours = detector_from_torchvision(state, bn_eps=1e-5)
    assert torch.equal(ours["predictor.cls.weight"], state[f"{CLS}.weight"])
    back = detector_to_torchvision(ours, num_classes)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.slow
def test_whether_91_rows_are_cocos_is_known_by_the_file_or_said(peer_state, server, tmp_path):
    """The same 91 rows: of the published file, of a state dict, and of a state dict that is said to be COCO's."""
    server.body = saved(peer_state)
    digest = hashlib.sha256(server.body).hexdigest()
    weights.WEIGHTS_URLS["COCO_V1"] = f"http://127.0.0.1:{server.server_port}/detector-{digest[:8]}.pth"
    (tmp_path / "copy.pth").write_bytes(server.body)
    (tmp_path / "other.pth").write_bytes(server.body + b"!")

    def rows(source, **options):
        return len(FasterRCNN.from_torchvision(source, **options).predictor.cls.bias)

    assert rows(tmp_path / "copy.pth") == 81 and rows(tmp_path / "copy.pth", coco_rows=False) == 91
    assert rows(tmp_path / "other.pth", bn_eps=0.0) == rows(peer_state, bn_eps=1e-5) == 91
    assert rows(peer_state, bn_eps=1e-5, coco_rows=True) == 81
    two = peer_state | {f"{CLS}.{t}": peer_state[f"{CLS}.{t}"][:2] for t in ("weight", "bias")}
    with pytest.raises(ValueError, match="COCO's class rows are 91, these weights have 2"):
        detector_from_torchvision(two, bn_eps=0.0, coco_rows=True)


def test_the_way_back_writes_what_coco_never_uses(peer_state):
    back = detector_to_torchvision(detector_from_torchvision(peer_state, bn_eps=1e-5, coco_rows=True))
    unused = sorted(set(range(91)) - {0, *COCO_IDS})
    assert unused == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    expected = dict(peer_state)
    for key in (f"{CLS}.weight", f"{CLS}.bias", f"{BOX}.weight", f"{BOX}.bias"):
        rows = expected[key].clone().unflatten(0, (91, -1))
        rows[unused] = -1e4 if key == f"{CLS}.bias" else 0.0
        expected[key] = rows.flatten(0, 1)
    assert back.keys() == expected.keys() and all(torch.equal(back[key], expected[key]) for key in expected)
    fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).load_state_dict(back)


def test_only_81_rows_become_91(peer_state):
    ours = detector_from_torchvision(peer_state, bn_eps=1e-5, coco_rows=True)
    with pytest.raises(ValueError, match="a model of 81 classes has no 7 class rows"):
        detector_to_torchvision(ours, 7)


def test_epsilon_by_hand(peer_state):
    """Variance 3e-5 and epsilon 0: sqrt(4e-5 / 3e-5) = sqrt(4 / 3); epsilon 1e-5 changes nothing."""
    key = "backbone.body.layer2.0.downsample.1"
    state = peer_state | {f"{key}.running_var": torch.full((512,), 3e-5), f"{key}.weight": torch.full((512,), 2.0)}
    ours = detector_from_torchvision(state, bn_eps=0.0)
    folded = ours["backbone.layer2.0.downsample.1.weight"]
    torch.testing.assert_close(folded, torch.full((512,), 2 * (4 / 3) ** 0.5), rtol=1e-7, atol=0)
    same = detector_from_torchvision(state, bn_eps=1e-5)
    assert torch.equal(same["backbone.layer2.0.downsample.1.weight"], state[f"{key}.weight"])
    x = torch.rand(4, 512, 3, 3) * 0.1
    norm = {name: state[f"{key}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")}
    expected = torch.nn.functional.batch_norm(x, **norm, eps=0.0)
    mine = torch.nn.functional.batch_norm(x, **(norm | {"weight": folded}), eps=1e-5)
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bn_eps", [None, -1e-5])
def test_an_unknown_epsilon_is_asked_for(peer_state, bn_eps):
    with pytest.raises(ValueError, match=r"bn_eps=0.0 for torchvision's COCO_V1 .* bn_eps=1e-5 for any other"):
        FasterRCNN.from_torchvision(peer_state, bn_eps=bn_eps)


def test_the_epsilon_is_known_by_name_and_by_file(server, tmp_path):
    assert known_bn_eps("COCO_V1") == 0.0
    assert known_bn_eps("IMAGENET1K_V2") is None and known_bn_eps(STATE) is None
    (tmp_path / "copy.pth").write_bytes(server.body)
    (tmp_path / "other.pth").write_bytes(server.body + b"!")
    assert known_bn_eps(tmp_path / "copy.pth") == 0.0 and known_bn_eps(str(tmp_path / "other.pth")) is None


@pytest.mark.slow
def test_a_detector_by_name_has_its_epsilon_folded(peer_state, server):
    """Downloaded whole, in the published file's spelling: no counters, no `.0` in pyramid and RPN."""
    old = {key: value for key, value in peer_state.items() if "num_batches" not in key}
    old["rpn.head.conv.weight"] = old.pop("rpn.head.conv.0.0.weight")
    old["rpn.head.conv.bias"] = old.pop("rpn.head.conv.0.0.bias")
    old["backbone.fpn.inner_blocks.3.weight"] = old.pop("backbone.fpn.inner_blocks.3.0.weight")
    old["backbone.fpn.layer_blocks.0.bias"] = old.pop("backbone.fpn.layer_blocks.0.0.bias")
    server.body = saved(old)
    server.announced = len(server.body)
    digest = hashlib.sha256(server.body).hexdigest()
    weights.WEIGHTS_URLS["COCO_V1"] = f"http://127.0.0.1:{server.server_port}/detector-{digest[:8]}.pth"
    model = FasterRCNN.from_torchvision("COCO_V1", trainable_layers=5, norm="frozen")
    state = model.state_dict()
    assert len(state) == 348 and len(server.requests) == 1
    assert torch.equal(state["rpn.head.conv.weight"], old["rpn.head.conv.weight"])
    assert torch.equal(state["fpn.lateral.3.weight"], old["backbone.fpn.inner_blocks.3.weight"])
    assert torch.equal(state["fpn.output.0.bias"], old["backbone.fpn.layer_blocks.0.bias"])
    torch.testing.assert_close(state["backbone.stem.1.weight"], torch.full((64,), 1.00001**0.5))


def test_another_model_is_refused_by_the_names_of_its_keys(peer_state):
    state = {key: value for key, value in peer_state.items() if key != f"{BOX}.bias"} | {
        "mask_head.weight": torch.zeros(1)
    }
    with pytest.raises(ValueError, match=f"Missing: {BOX}.bias. Unknown: mask_head.weight"):
        detector_from_torchvision(state, bn_eps=0.0)

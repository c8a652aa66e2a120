"""COCO's category ids and results files: pycocotools reads what is written."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detections import boxes_at, prediction_of, random_image, target_of
from pycocotools.coco import COCO

from frcnn_common.coco_json import from_coco_ids, read_coco_results, to_coco_ids, write_coco_results
from frcnn_common.constants import COCO_IDS, COCO_NAMES


def test_coco_ids():
    assert len(COCO_IDS) == 80 and COCO_IDS[0] == 1 and COCO_IDS[-1] == 90 and list(COCO_IDS) == sorted(COCO_IDS)
    # from COCO's own category list
    known = {"stop sign": 13, "backpack": 27, "umbrella": 28, "handbag": 31, "wine glass": 46}
    known |= {"dining table": 67, "toilet": 70, "tv": 72, "refrigerator": 82, "book": 84}
    for name, coco_id in known.items():
        assert COCO_IDS[COCO_NAMES.index(name) - 1] == coco_id
    labels = torch.arange(1, 81)
    assert torch.equal(from_coco_ids(to_coco_ids(labels)), labels)
    assert to_coco_ids(labels.reshape(8, 10)).shape == (8, 10)
    for bad in (0, 81):
        with pytest.raises(ValueError, match=f"{bad} is not a label"):
            to_coco_ids(torch.tensor([1, bad]))
    with pytest.raises(ValueError, match="12 is not a COCO category id"):
        from_coco_ids(torch.tensor([12]))


def test_results_file_round_trip(tmp_path):
    rng = np.random.default_rng(3)
    predictions = [random_image(rng, 80, 9)[0] for _ in range(6)] + [prediction_of(boxes_at(), [], [])]
    ids = [139, 285, 632, 724, 776, 785, 802]
    write_coco_results(tmp_path / "results.json", predictions, ids)
    again = read_coco_results(tmp_path / "results.json", ids)
    for before, after in zip(predictions, again, strict=True):
        for key in before:
            assert torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype
    with pytest.raises(ValueError, match=r"results.json: entry 0 is of image"):
        read_coco_results(tmp_path / "results.json", [5])


def test_pycocotools_reads_the_results_file(tmp_path):
    target = target_of(boxes_at([10, 20, 40, 60]), [12])
    write_coco_results(tmp_path / "r.json", [prediction_of(target["boxes"], [12], [0.5])], [42])
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {"image_id": 42, "category_id": 13, "bbox": [10, 20, 30, 40], "score": 0.5}
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": [{"id": 42}], "categories": [{"id": 13}], "annotations": []}
        truth.createIndex()
        assert truth.loadRes(str(tmp_path / "r.json")).anns[1]["area"] == 1200


def test_a_write_that_fails_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_coco_results(path, [prediction_of(boxes_at([10, 20, 40, 60]), [12], [0.5])], [42])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="99 is not a label"):
        write_coco_results(path, [prediction_of(boxes_at([10, 20, 40, 60]), [99], [0.5])], [42])
    monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_coco_results(path, [prediction_of(boxes_at([0, 0, 1, 1]), [1], [0.1])], [42])
    assert path.read_bytes() == before and [p.name for p in Path(tmp_path).iterdir()] == ["results.json"]

"""Local data: which layout a folder has, its splits, COCO's JSON, parquet files, boxes that are not what was said."""

import json
import shutil

import datasets
import pytest
import torch
from PIL import Image
from test_stream import FEATURES

from frcnn_common import COCO_NAMES, COCOStreamDataset, folders
from frcnn_common.constants import COCO_IDS
from frcnn_common.folders import falls_to_val, folder_rows, read_folder
from frcnn_common.hub import StreamError
from frcnn_common.metrics import evaluate_detections
from frcnn_common.openmoji import draw_scene, scene_stream
from frcnn_common.recipes import RECIPES
from frcnn_common.samples import BadSample

SIZE = (100, 60)


def document(boxes, *, categories=((1, "cup"), (7, "spoon")), **columns):
    """COCO's JSON for as many pictures as there are lists of (category id, x, y, w, h)."""
    images = [{"id": 10 + i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]} for i in range(len(boxes))]
    annotations = [
        {"id": 100 * i + n, "image_id": 10 + i, "category_id": category, "bbox": list(box), "iscrowd": 0} | columns
        for i, rows in enumerate(boxes)
        for n, (category, *box) in enumerate(rows)
    ]
    names = [{"id": number, "name": name} for number, name in categories]
    return {"images": images, "annotations": annotations, "categories": names}


BOXES = [[(1, 60, 30, 40, 30), (7, 0, 0, 50, 20)], [(7, 70.5, 40, 20, 15)], []]


def write(folder, content, json_path="annotations/instances_train2017.json", pictures="train2017"):
    path = folder / json_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    (folder / pictures).mkdir(parents=True, exist_ok=True)
    for i in range(4):
        Image.new("RGB", SIZE, (60 * i, 0, 0)).save(folder / pictures / f"{i}.png")
    return folder


def read(folder, **options):
    data = COCOStreamDataset(source=folder, img_size=100, metadata=True, **options)
    return data, {int(target["image_id"]): target for _, target in data}


@pytest.mark.parametrize(
    ("json_path", "pictures"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train.json", "images/train"),
        ("train/_annotations.coco.json", "train"),
        ("train.json", "images"),
        ("train.json", "."),
    ],
)
def test_coco_json_where_the_usual_tools_put_it(tmp_path, json_path, pictures):
    data, targets = read(write(tmp_path, document(BOXES), json_path, pictures))
    assert data.names == ("__background__", "cup", "spoon") and sorted(targets) == [10, 11]
    scale = torch.tensor([1, 100 / 60] * 2)
    torch.testing.assert_close(targets[10]["boxes"], torch.tensor([[60.0, 30, 100, 60], [0, 0, 50, 20]]) * scale)
    torch.testing.assert_close(targets[11]["boxes"], torch.tensor([[70.5, 40, 90.5, 55]]) * scale)
    assert targets[10]["labels"].tolist() == [1, 2] and targets[10]["orig_size"].tolist() == [60, 100]


@pytest.mark.parametrize("name", ["val2017", "valid", "validation"])
def test_the_validation_split_has_three_names(tmp_path, name):
    write(tmp_path, document(BOXES), f"annotations/instances_{name}.json", name)
    assert len(read(tmp_path, split="val")[1]) == 2


def test_pictures_without_boxes_on_request(tmp_path):
    _, targets = read(write(tmp_path, document(BOXES)), keep_empty=True)
    assert sorted(targets) == [10, 11, 12] and targets[12]["boxes"].shape == (0, 4)


def test_cocos_own_ids_become_cocos_labels(tmp_path):
    """Also if the file has only some of them: 90 is the toothbrush, the 80th category."""
    names = dict(zip(COCO_IDS, COCO_NAMES[1:], strict=True))
    boxes = [[(90, 10, 10, 20, 20), (1, 60, 30, 20, 20), (13, 50, 40, 20, 20)]]
    few = [(number, names[number]) for number in (1, 13, 90)]
    data, targets = read(write(tmp_path, document(boxes, categories=few)))
    assert data.names == COCO_NAMES and targets[10]["labels"].tolist() == [80, 1, COCO_NAMES.index("stop sign")]
    other, targets = read(write(tmp_path, document(boxes, categories=[*few[:2], (90, "brush")])))
    assert other.names == ("__background__", "person", "stop sign", "brush")
    assert targets[10]["labels"].tolist() == [3, 1, 2]


def test_names_that_are_numbers_are_text(tmp_path):
    data, targets = read(write(tmp_path, document(BOXES, categories=((1, 5), (7, 0.5)))))
    assert data.names == ("__background__", "5", "0.5") and targets[10]["labels"].tolist() == [1, 2]


def test_crowds_of_a_json_are_ignored_where_they_overlap(tmp_path):
    content = document([[(1, 10, 10, 20, 20), (1, 50, 10, 40, 40)]])
    content["annotations"][1]["iscrowd"] = 1
    write(tmp_path, content, "annotations/instances_val2017.json", "val2017")
    write(tmp_path, content)
    assert [len(target["boxes"]) for target in read(tmp_path)[1].values()] == [1]
    (target,) = read(tmp_path, split="val")[1].values()
    assert target["iscrowd"].tolist() == [False, True]
    found = {"boxes": target["boxes"][[0, 1]], "labels": torch.tensor([1, 1]), "scores": torch.tensor([0.5, 0.9])}
    found["boxes"][1, 2:] -= 20  # within the crowd
    assert evaluate_detections([found], [target]).AP == pytest.approx(1.0)


BROKEN = {
    "no json": ("{", "is not COCO's JSON"),
    "other json": ([1, 2], "is not COCO's JSON"),
    "no annotations": ({key: document(BOXES)[key] for key in ("images", "categories")}, "'annotations' is missing"),
    "no categories": (document(BOXES, categories=()), "it lists no categories"),
    "a name that is none": (document(BOXES, categories=((1, None), (7, "spoon"))),
                            "category 1: the name of a class is None"),
    "no images": (document([]), "it lists no images"),
    "two images with one id": (document(BOXES) | {"images": document(BOXES)["images"][:1] * 2}, "two with the same id"),
    "two categories with one id": (document(BOXES, categories=((1, "cup"), (7, "spoon"), (1, "fork"))),
                                   "two categories have the same id"),
    "an id too large": (document(BOXES) | {"images": [document(BOXES)["images"][0] | {"id": 2**70}], "annotations": []},
                        "is not COCO's JSON"),
    "unknown category": (document([[(3, 0, 0, 9, 9)]]), "annotation 0 is of image 10 and category 3"),
    "three numbers": (document([[(1, 0, 0, 9)]]), r"annotation 0: bbox is \[0, 0, 9\], expected 4 numbers x y w h"),
    "a word": (document([[(1, "a", 0, 9, 9)]]), "annotation 0: bbox is .*expected 4 numbers"),
    "outside": (document(BOXES) | {"images": [{"id": 1, "file_name": "../../x.png", "width": 1, "height": 1}]},
                "image 1 is not in the folder"),
    "absolute": (document(BOXES) | {"images": [{"id": 1, "file_name": "/etc/x.png", "width": 1, "height": 1}]},
                 "image 1 is not in the folder: /etc/x.png"),
    "corners": (document([[(1, 60, 30, 95, 58), (1, 50, 20, 90, 60)]] * 3),
                "no xywh boxes: of 6, read as xyxy, 0% leave.*; read as xywh, 100% leave"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_json_is_refused_by_name(tmp_path, name):
    content, message = BROKEN[name]
    with pytest.raises(ValueError, match=message) as error:
        read(write(tmp_path, content))
    assert str(tmp_path) in str(error.value)


def test_folders_without_the_split_and_with_too_much(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="nothing of the split 'val' in .*which is COCO's JSON and has train; .*--val-share 0.2"
    ):
        read(write(tmp_path / "one", document(BOXES)), split="val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"nothing of .*val\*.parquet.*annotations/\*val\*.json.*VOC.*YOLO"):
        read(tmp_path / "empty", split="val")
    write(tmp_path, document(BOXES))
    shutil.copy(tmp_path / "annotations/instances_train2017.json", tmp_path / "train.json")
    with pytest.raises(ValueError, match="which of these.*train.json.*instances_train2017.json"):
        read(tmp_path)


def test_a_missing_picture_is_named(tmp_path, caplog):
    (write(tmp_path, document(BOXES)) / "train2017/1.png").unlink()
    with pytest.raises(BadSample, match=r"image 11 \(1.png\): no picture: .*train2017/1.png"):
        read(tmp_path)
    assert sorted(read(tmp_path, on_bad_sample="skip")[1]) == [10]
    assert "bad samples skipped: 1, " in caplog.messages[-1] and "1.png" in caplog.messages[-1]


def parquet(folder, boxes, name="data/train-00000-of-00001.parquet", **columns):
    """A parquet file with a picture of 100 × 60 pixels for each list of boxes, given as corners."""
    rows = [
        {
            "image_id": i,
            "image": Image.new("RGB", SIZE),
            "objects": {"bbox": [list(map(float, box)) for box in rows], "category": [0] * len(rows)} | columns,
            "width": SIZE[0],
            "height": SIZE[1],
        }
        for i, rows in enumerate(boxes)
    ]
    sizes = {key: datasets.Value("int64") for key in ("width", "height")}
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows, features=datasets.Features(FEATURES | sizes)).to_parquet(path)
    return folder


CORNERS = [[(60, 30, 95, 58)], [(50, 20, 90, 60), (10, 10, 30, 40)], [(70, 5, 80, 55)]]
SIZES = [[(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in row] for row in CORNERS]


@pytest.mark.parametrize(("boxes", "found"), [(CORNERS, "xyxy"), (SIZES, "xywh")])
@pytest.mark.parametrize("claim", [None, "right", "wrong"])
def test_the_boxes_of_a_parquet_file(tmp_path, boxes, found, claim):
    claimed = {None: None, "right": found, "wrong": {"xyxy": "xywh", "xywh": "xyxy"}[found]}[claim]
    parquet(tmp_path, boxes)
    if claim == "wrong":
        with pytest.raises(ValueError, match=f"these are no {claimed} boxes: of 4, read as xyxy, .*% leave"):
            read(tmp_path, box_format=claimed)
        return
    data, targets = read(tmp_path, box_format=claimed)
    assert data.box_format == found
    scale = torch.tensor([1, 100 / 60] * 2)
    for number, corners in enumerate(CORNERS):
        torch.testing.assert_close(targets[number]["boxes"], torch.tensor(corners).float() * scale)


def test_boxes_that_could_be_either_are_not_guessed(tmp_path):
    """Small boxes near the corner, whose right edges as sizes still fit."""
    parquet(tmp_path, [[(10, 10, 20, 20)], [(5, 6, 12, 14)]])
    with pytest.raises(ValueError, match="fit both formats: of 2, .*box_format='xyxy' or 'xywh'"):
        read(tmp_path)
    assert len(read(tmp_path, box_format="xyxy")[1]) == len(read(tmp_path, box_format="xywh")[1]) == 2


def test_shares_of_the_image_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be in pixels, but all 2 lie within 0…1"):
        read(parquet(tmp_path, [[(0.1, 0.1, 0.5, 0.9)], [(0.2, 0.2, 0.3, 0.4)]]))


def test_other_columns_are_refused(tmp_path):
    datasets.Dataset.from_dict({"picture": [1]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="train.parquet has other columns than the Hub's.*picture"):
        read(tmp_path)


@pytest.mark.parametrize("damage", ["page", "end", "empty"])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    path = parquet(tmp_path, CORNERS * 20) / "data/train-00000-of-00001.parquet"
    data = path.read_bytes()
    path.write_bytes({"page": data[:10] + bytes(390) + data[400:], "end": data[:-100], "empty": b""}[damage])
    with pytest.raises(StreamError, match=f"{tmp_path}, split train, .*Is the file whole"):
        read(tmp_path)


def test_odd_names_of_folders(tmp_path):
    parquet(tmp_path / "a [b] c*?", CORNERS)
    assert len(read(tmp_path / "a [b] c*?")[1]) == 3
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        read(tmp_path / "nowhere")


def test_the_picture_of_the_split_goes_first(tmp_path):
    """`images/0.png` of another split has the same name."""
    write(tmp_path, document(BOXES))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (7, 7)).save(tmp_path / "images/0.png")
    assert read(tmp_path)[1][10]["orig_size"].tolist() == [60, 100]


def test_areas_contradict_a_json_whose_boxes_fit_both_ways(tmp_path):
    """Small boxes near the corner, written as corners, with the areas of these."""
    content = document([[(1, 4, 4, 20, 20), (1, 5, 6, 12, 14)]])
    for annotation, area in zip(content["annotations"], (256, 56), strict=True):
        annotation["area"] = area
    with pytest.raises(ValueError, match="no xywh boxes: of 2, .*100% have exactly it"):
        read(write(tmp_path, content))


def test_a_recipe_knows_the_classes_of_its_splits_by_name(tmp_path):
    write(tmp_path, document(BOXES))
    write(tmp_path, document([[(7, 0, 0, 50, 20)]], categories=[(7, "spoon")]), "val.json", "val")
    recipe = RECIPES["openmoji-tiny"].with_data(tmp_path)
    assert recipe.names == ("__background__", "cup", "spoon") and recipe.model_options["num_classes"] == 3
    assert len(list(recipe.dataset("train"))) == 3  # one of them without a box
    val = recipe.dataset("val", metadata=True)  # a class that is not in it is no fault
    assert val.names == recipe.names and [t["labels"].tolist() for _, t in val] == [[2]]
    write(tmp_path, document([[(7, 0, 0, 50, 20)]], categories=[(7, "fork")]), "val.json", "val")
    with pytest.raises(ValueError, match="split val has other classes: fork; expected are cup, spoon"):
        recipe.dataset("val")


def test_a_folder_of_scenes_gives_the_samples_of_the_stream(tmp_path):
    """The embedded data as a folder, in the Hub's layout: the same samples as from memory."""
    rows = [draw_scene(i, "val", longest=64) for i in range(6)]
    table = datasets.Dataset.from_list(rows, features=scene_stream().features)
    for part in range(2):
        (tmp_path / "data").mkdir(exist_ok=True)
        table.shard(2, part).to_parquet(tmp_path / f"data/val-{part:05}-of-00002.parquet")
    expected = list(COCOStreamDataset("val", img_size=32, source=table.to_iterable_dataset(), metadata=True))
    data = COCOStreamDataset("validation", img_size=32, source=tmp_path, metadata=True)
    assert data.names == COCO_NAMES and data.box_format == "xyxy"
    for (image, target), (other, same) in zip(data, expected, strict=True):
        assert torch.equal(image, other) and target["image_id"] == same["image_id"]
        assert torch.equal(target["boxes"], same["boxes"]) and torch.equal(target["labels"], same["labels"])


def test_masks_of_the_same_name_are_not_the_pictures(tmp_path):
    write(tmp_path, document(BOXES), "annotations/train.json", "images/train")
    (tmp_path / "annotations" / "train").mkdir()
    for n in range(4):
        Image.new("L", (7, 7)).save(tmp_path / f"annotations/train/{n}.png")
    assert read(tmp_path)[1][10]["orig_size"].tolist() == [60, 100]
    (tmp_path / "images/train/0.png").unlink()
    with pytest.raises(BadSample, match=r"image 10 \(0.png\): no picture: .*images/train/0.png"):
        read(tmp_path)


def test_two_likely_pictures_are_listed(tmp_path):
    write(tmp_path, document(BOXES), "annotations/train.json", "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ValueError, match="train.json.*which of these is the picture 0.png.*/a/0.png, .*/b/0.png"):
        read(tmp_path)


def test_a_folder_that_is_a_link(tmp_path):
    write(tmp_path / "far", document(BOXES), "train.json", "images")
    (tmp_path / "near").mkdir()
    for name in ("train.json", "images"):
        (tmp_path / "near" / name).symlink_to(tmp_path / "far" / name)
    assert sorted(read(tmp_path / "near")[1]) == [10, 11]


def test_splits_are_whole_words(tmp_path):
    """`val` is in `festival`; and of two files with the word, both are named."""
    write(tmp_path, document(BOXES), "annotations/festival_train.json", "images")
    with pytest.raises(FileNotFoundError, match="nothing of the split 'val'"):
        folder_rows(tmp_path, "val")
    write(tmp_path, document(BOXES[:1]), "annotations/festival_val.json", "images")
    assert len(list(folder_rows(tmp_path, "train")[0])) == 3 and len(list(folder_rows(tmp_path, "val")[0])) == 1


def test_the_only_folder_in_a_folder_stands_for_it(tmp_path):
    write(tmp_path / "unpacked" / "mugs-v2", document(BOXES))
    assert len(list(folder_rows(tmp_path / "unpacked", "train")[0])) == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_json_in_any_unicode(tmp_path, encoding):
    content = document(BOXES, categories=((1, "Löffel"), (7, "スプーン")))
    path = write(tmp_path, content) / "annotations/instances_train2017.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert folder_rows(tmp_path, "train")[1][1:] == ("Löffel", "スプーン")


def test_boxes_that_overhang_are_clipped_and_counted(tmp_path):
    """More than a twentieth of them, which once was too many."""
    data, targets = read(write(tmp_path, document([[(1, 60, 30, 45, 33), (7, -2, 0, 50, 20)], [(7, 10, 10, 20, 15)]])))
    assert data.report.clipped_boxes == 2 and data.report.dropped_boxes == 0
    torch.testing.assert_close(targets[10]["boxes"][1, [0, 2]], torch.tensor([0.0, 48]))


@pytest.mark.parametrize("size", [-1, 0, None, 2.5, "100", float("nan"), 10**12])
def test_a_size_that_cannot_be_is_the_pictures(tmp_path, size):
    content = document(BOXES)
    content["images"][0]["width"] = size
    del content["images"][1]["height"]
    write(tmp_path, content)
    assert [t["orig_size"].tolist() for t in read(tmp_path)[1].values()] == [[60, 100]] * 2
    assert "images without a possible size, so that the picture's counts: 2" in read_folder(tmp_path, "train").notes[0]


@pytest.mark.parametrize("area", [-5, 0, 1e9, None, "12", [3], True, float("inf")])
def test_an_area_that_cannot_be_does_not_count(tmp_path, area):
    write(tmp_path, document([[(1, 10, 10, 20, 15)]], area=area), "val.json", "val")
    (target,) = read(tmp_path, split="val")[1].values()
    assert target["area"].tolist() == [300]


def test_names_and_ids_as_windows_and_scripts_write_them(tmp_path):
    content = document(BOXES)
    content["images"][0]["file_name"] = "deep\\0.png"
    for annotation in content["annotations"]:
        del annotation["id"]
    write(tmp_path, content)
    (tmp_path / "train2017/deep").mkdir()
    shutil.move(tmp_path / "train2017/0.png", tmp_path / "train2017/deep/0.png")
    assert sorted(read(tmp_path)[1]) == [10, 11]


def test_ap_by_size_counts_the_areas_of_outlines(tmp_path):
    """The peer reads the same JSON; by the boxes' areas the large objects would be others."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    chance = torch.Generator().manual_seed(3)
    boxes, found = [], []
    for _ in range(12):
        corner = torch.rand(5, 2, generator=chance) * torch.tensor([300.0, 200])
        boxes.append([(1 + 6 * (n % 2), *c, *(20 + 120 * torch.rand(2, generator=chance)).tolist())
                      for n, c in enumerate(corner.tolist())])  # fmt: skip
    content = document(boxes)
    for image in content["images"]:
        image.update(width=500, height=400)
    for annotation in content["annotations"]:
        annotation["id"] += 1  # the peer takes an id of 0 for none
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3] * (0.3 + 0.5 * (annotation["id"] % 2))
    write(tmp_path, content, "val.json", "val")
    for n in range(12):
        Image.new("RGB", (500, 400)).save(tmp_path / f"val/{n}.png")
    _, targets = read(tmp_path, split="val")
    results = []
    for number, target in targets.items():
        scale = torch.tensor([5, 4, 5, 4])
        target["boxes"] = target["boxes"] * scale
        shifted = target["boxes"] + 12 * torch.rand(5, 4, generator=chance)
        found.append({"boxes": shifted, "labels": target["labels"], "scores": torch.rand(5, generator=chance)})
        lists = (found[-1][key].tolist() for key in ("boxes", "labels", "scores"))
        for (x1, y1, x2, y2), label, score in zip(*lists, strict=True):
            results.append({"image_id": number, "category_id": {1: 1, 2: 7}[label], "bbox": [x1, y1, x2 - x1, y2 - y1],
                            "score": score})  # fmt: skip
    truth = COCO(str(tmp_path / "val.json"))
    peer = COCOeval(truth, truth.loadRes(results), "bbox")
    peer.evaluate(), peer.accumulate(), peer.summarize()
    numbers = evaluate_detections(found, [*targets.values()], num_classes=3, names=("", "cup", "spoon")).summary()
    assert [*numbers.values()] == pytest.approx(peer.stats.tolist(), abs=1e-4)
    without = [{k: v for k, v in target.items() if k != "area"} for target in targets.values()]
    assert evaluate_detections(found, without, num_classes=3, names=("", "cup", "spoon")).summary() != numbers


def test_training_has_no_areas(tmp_path):
    write(tmp_path, document(BOXES, area=100))
    assert all("area" not in target for target in read(tmp_path)[1].values())


def test_the_share_for_validation_by_hand():
    """The first eight bytes of a hash in sixteenths: `sha256 <<< "0 a"` begins with these."""
    import hashlib

    first = int(hashlib.sha256(b"0 picture").hexdigest()[:16], 16) / 2**64
    assert falls_to_val("deep/picture.jpg", first + 1e-9) and not falls_to_val("picture.png", first - 1e-9)
    names = [f"{n}.jpg" for n in range(4000)]
    chosen = {name for name in names if falls_to_val(name, 0.2)}
    assert 0.17 < len(chosen) / 4000 < 0.23
    assert chosen < {name for name in names if falls_to_val(name, 0.3)}
    assert chosen != {name for name in names if falls_to_val(name, 0.2, seed=1)}


@pytest.mark.parametrize("json_path", ["_annotations.coco.json", "train.json", "annotations/result.json"])
def test_a_folder_without_a_split_is_split_on_request(tmp_path, json_path):
    content = document([[(1, 10, 10, 20, 15)]] * 40)
    write(tmp_path, content, json_path, "images")
    for n in range(40):
        Image.new("RGB", SIZE).save(tmp_path / f"images/{n}.png")
    parts = {split: read(tmp_path, split=split, val_share=0.3)[1] for split in ("train", "val")}
    assert sorted([*parts["train"], *parts["val"]]) == list(range(10, 50))
    assert sorted(parts["val"]) == [10 + n for n in range(40) if falls_to_val(f"{n}.png", 0.3)]
    assert read(tmp_path, split="val", val_share=0.3, split_seed=5)[1].keys() != parts["val"].keys()
    assert len(read(tmp_path, val_share=0)[1]) == 40
    with pytest.raises(FileNotFoundError, match="nothing of the split 'val'.*val_share=0 gives it none of 40 pictures"):
        read(tmp_path, split="val", val_share=0)
    if json_path != "train.json":
        with pytest.raises(FileNotFoundError, match="nothing of the split 'train'.*has no splits.*val_share=0.2"):
            read(tmp_path)


def test_a_share_of_what_cannot_be_split(tmp_path):
    write(tmp_path, document(BOXES))
    write(tmp_path, document(BOXES), "annotations/instances_val2017.json", "val2017")
    with pytest.raises(ValueError, match="has a split 'val' of its own: leave out val_share"):
        read(tmp_path, val_share=0.2)
    with pytest.raises(ValueError, match="val_share is 1.5, expected 0 ≤ val_share < 1"):
        read(tmp_path, val_share=1.5)
    with pytest.raises(ValueError, match="val_share splits a folder, and me/data is none"):
        COCOStreamDataset(source="me/data", val_share=0.2)


def test_parquet_files_are_split_on_request(tmp_path):
    parquet(tmp_path, CORNERS * 10, name="pictures.parquet")
    parts = [sorted(read(tmp_path, split=split, val_share=0.3)[1]) for split in ("train", "val")]
    assert sorted(parts[0] + parts[1]) == list(range(30)) and parts[1] == [
        n for n in range(30) if falls_to_val(str(n), 0.3)
    ]


def test_a_recipe_splits_a_folder_once_for_all(tmp_path):
    write(tmp_path, document(BOXES), "all.json", "images")
    recipe = RECIPES["openmoji-tiny"].with_data(tmp_path, val_share=0.5)
    parts = [recipe.dataset(split, metadata=True) for split in ("train", "val")]
    numbers = [[int(target["image_id"]) for _, target in part] for part in parts]
    assert sorted(numbers[0] + numbers[1]) == [10, 11, 12] and numbers[1] == [
        10 + n for n in range(3) if falls_to_val(str(n), 0.5)
    ]


def test_another_layout_beside_the_one_that_is_read_is_named(tmp_path):
    """Even if nothing in it can be read."""
    write(tmp_path, document(BOXES), "train.json", "images/train")
    assert read_folder(tmp_path, "train").notes == []
    (tmp_path / "images/train/0.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "images/train/1.xml").write_text("<annotation></annotation>")
    data = read_folder(tmp_path, "train")
    assert data.layout == "COCO's JSON"
    assert data.notes == ["taken as COCO's JSON; also in the folder, and not read: YOLO, Pascal VOC"]
    (tmp_path / "images/train/1.xml").write_text("<annotation>")
    assert data.notes[0].replace(", Pascal VOC", "") == read_folder(tmp_path, "train").notes[0]


def test_a_folder_is_read_once_until_a_file_changes(tmp_path, monkeypatch):
    write(tmp_path, document(BOXES), "train.json", "images")
    seen = []
    reader = folders._READERS["COCO's JSON"]
    monkeypatch.setitem(folders._READERS, "COCO's JSON", (reader[0], lambda *args: seen.append(1) or reader[1](*args)))
    first, second = (read_folder(tmp_path, "train") for _ in range(2))
    assert len(seen) == 1 and first.notes is not second.notes
    rows = iter(first.rows)
    next(rows)
    assert [row["image_id"] for row in second.rows] == [10, 11, 12]  # a reader of one does not move the other
    (tmp_path / "train.json").write_text(json.dumps(document(BOXES[:1])) + " ")
    assert len(list(read_folder(tmp_path, "train").rows)) == 1 and len(seen) == 2
    (tmp_path / "images/9.png").write_bytes(b"")
    read_folder(tmp_path, "train")
    assert len(seen) == 3


def test_three_layouts_of_the_same_pictures_give_the_same_samples(tmp_path):
    """As COCO's JSON, as YOLO and as Pascal VOC, whose corners count from 1."""
    corners = [[(60, 30, 95, 58), (0, 0, 50, 20)], [(10, 10, 30, 40)], []]
    coco, yolo, voc = (tmp_path / name for name in ("coco", "yolo", "voc"))
    sizes = [[(1 + n, x1, y1, x2 - x1, y2 - y1) for n, (x1, y1, x2, y2) in enumerate(boxes)] for boxes in corners]
    write(coco, document(sizes, categories=((1, "cup"), (2, "spoon"))), "train.json", "images")
    for folder in (yolo / "labels", voc / "Annotations"):
        folder.mkdir(parents=True)
    shutil.copytree(coco / "images", yolo / "images")
    shutil.copytree(coco / "images", voc / "JPEGImages")
    (yolo / "images/3.png").unlink()
    (yolo / "data.yaml").write_text("train: images\nnames: [cup, spoon]")
    (voc / "ImageSets").mkdir()
    (voc / "ImageSets/train.txt").write_text("0\n1\n2")
    for number, boxes in enumerate(corners):
        lines, objects = [], []
        for n, (x1, y1, x2, y2) in enumerate(boxes):
            lines.append(f"{n} {(x1 + x2) / 200} {(y1 + y2) / 120} {(x2 - x1) / 100} {(y2 - y1) / 60}")
            box = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            objects.append(f"<object><name>{('cup', 'spoon')[n]}</name><bndbox>{box}</bndbox></object>")
        (yolo / f"labels/{number}.txt").write_text("\n".join(lines))
        (voc / f"Annotations/{number}.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
    expected = [target for _, target in COCOStreamDataset(source=coco, keep_empty=True)]
    assert [len(target["boxes"]) for target in expected] == [2, 1, 0]
    for folder in (yolo, voc):
        data = COCOStreamDataset(source=folder, keep_empty=True)
        assert data.names == ("__background__", "cup", "spoon")
        for (_, target), other in zip(data, expected, strict=True):
            torch.testing.assert_close(target["boxes"], other["boxes"], atol=1e-3, rtol=0)
            assert torch.equal(target["labels"], other["labels"])

"""What a report says of a folder, what it warns of, and what is on the sheet."""

import json
import re

import pytest
from PIL import Image
from test_folders import BOXES, document, parquet, write
from test_voc import CUP, xml
from test_voc import write as write_voc

from frcnn_common.folder_report import chosen_rows, contact_sheet, survey
from frcnn_common.openmoji import draw_scene


def splits(folder, train, val):
    """Two splits whose pictures differ."""
    for name, content in (("train", train), ("val", val)):
        write(folder, content, f"{name}.json", name)
    for n in range(4):
        Image.new("RGB", (100, 60), (9, 60 * n, 7)).save(folder / "val" / f"{n}.png")
    return folder


def warnings(folder, **options):
    return [line for line in survey(folder, **options).warnings if "few boxes" not in line]


def test_a_report_counts_by_hand(tmp_path):
    boxes = [[(1, 60, 30, 40, 30), (7, 0, 0, 50, 20), (7, 90, 0, 20, 20)], [(7, 5, 5, 0, 9)], []]
    report = survey(splits(tmp_path, document(boxes), document(BOXES)))
    train = report.splits["train"]
    assert (train.pictures, train.empty, train.dropped, train.clipped) == (3, 2, 1, 1)
    assert train.boxes == {"cup": 1, "spoon": 2} and train.labels == [{1, 2}, set(), set()]
    lines = str(report).splitlines()
    assert lines[0] == f"{tmp_path}: COCO's JSON, 2 classes"
    assert lines[1] == ("  train: 3 pictures, 2 of them without a box; 3 boxes (cup 1, spoon 2); "
                        "1 without area, dropped; 1 clipped")  # fmt: skip
    assert "warning: train has few boxes of cup 1, spoon 2: a class needs dozens" in lines


def test_nothing_is_wrong_with_a_sound_folder(tmp_path):
    many = document([[(1, 10 + n, 10, 20, 20), (7, 50, 10 + n, 30, 20)] for n in range(4)] * 1)
    assert warnings(splits(tmp_path, many, many)) == []
    assert survey(tmp_path, decode=True).faults == []


def test_pixels_twins_and_overhang(tmp_path):
    odd = document([[(1, 5, 5, 1, 20), (7, 9, 9, 20, 20), (7, 9, 9, 20, 20)], [(1, 90, 50, 20, 20)]])
    found = warnings(splits(tmp_path, odd, document(BOXES)))
    assert found[:2] == ["train has boxes of a pixel or less in 0.png", "train has the same box twice in 0.png"]
    odd = document([[(1, 90, 50, 20, 20)], [], []])
    found = warnings(splits(tmp_path, odd, document(BOXES)))
    assert found[0] == "train: 1 of 1 boxes stick out of their picture. Were pictures resized?"
    assert found[1] == "train: 2 of 3 pictures have no box"


@pytest.mark.parametrize("decode", [True, False])
def test_a_picture_in_both_splits_under_another_name(tmp_path, decode):
    folder = splits(tmp_path, document(BOXES), document(BOXES))
    (folder / "val/2.png").write_bytes((folder / "train/1.png").read_bytes())
    assert warnings(folder, decode=decode) == ["val has 1 of the pictures of train: 2.png"]


def test_pictures_of_parquet_files_are_compared_too(tmp_path):
    corners = [[(60, 30, 95, 58), (50, 20, 90, 60)]]
    parquet(tmp_path, corners)
    parquet(tmp_path, corners, name="data/val.parquet")
    assert warnings(tmp_path) == ["val has 1 of the pictures of train: 0"]


def test_all_faults_are_listed(tmp_path):
    folder = splits(tmp_path, document(BOXES), document(BOXES))
    (folder / "train/0.png").unlink()
    whole = (folder / "val/1.png").read_bytes()
    (folder / "val/1.png").write_bytes(whole[:-30])
    assert [fault.split(":")[0] for fault in survey(folder).faults] == ["train"]
    faults = survey(folder, decode=True).faults
    assert faults[0].startswith("train: image 10 (0.png): no picture") and "val: image 11 (1.png)" in faults[1]
    other = json.loads((folder / "val.json").read_text())
    other["categories"][0]["name"] = "fork"
    (folder / "val.json").write_text(json.dumps(other))
    assert "val has other classes: fork; expected are cup, spoon" in survey(folder).faults


def test_a_validation_split_that_cannot_be_read_is_a_fault(tmp_path):
    write(tmp_path, document(BOXES), "train.json", "train")
    (tmp_path / "val.json").write_text('{"images": 1, "annotations": 1, "categories": 1}')
    report = survey(tmp_path)
    assert report.splits["train"].pictures == 3 and "val.json is not COCO's JSON" in report.faults[0]
    whole = (tmp_path / "train.json").read_text()
    (tmp_path / "val.json").write_text(whole)
    (tmp_path / "train.json").write_text(whole[:100])
    with pytest.raises(ValueError, match="train.json is not COCO's JSON"):
        survey(tmp_path)


def test_what_a_split_was_read_from_is_said(tmp_path):
    write(tmp_path / "named", document(BOXES), "trainval.json", "images")
    write(tmp_path / "named", document(BOXES), "test.json", "images")
    assert survey(tmp_path / "named").notes == ["train: there is no 'train', 'trainval' stands for it",
                                                "val: there is no 'val', 'test' stands for it"]  # fmt: skip
    write(tmp_path / "flat", document([[(1, 10, 10, 20, 15)]] * 4), "all.json", "images")
    report = survey(tmp_path / "flat", val_share=0.5, split_seed=1)
    assert report.notes == ["the names of the pictures decide, with val_share=0.5 and the seed 1"]
    assert report.splits["train"].pictures + report.splits["val"].pictures == 4


def test_what_holds_of_both_splits_is_said_once(tmp_path):
    folder = write_voc(tmp_path, {"0": xml(CUP), "b": xml(CUP)}, lists={"train": "0", "val": "b"})
    renamed = "val: XML files that give their picture another name than their own, which counts: 1"
    assert survey(folder).notes == ["corners count from 1, as VOC's do", renamed]


def scenes_as(folder, layout, numbers_of, count=40):
    """The objects of drawn scenes in a layout, whose four numbers a function makes of corners; pictures are gray."""
    rows = [draw_scene(number, "train", categories=("cup", "spoon")) for number in range(count)]
    boxes = [[numbers_of(*box) for box in row["objects"]["bbox"]] for row in rows]
    for place in ("images", "labels"):
        (folder / place / "train").mkdir(parents=True)
    annotations, images = [], []
    for n, (row, numbers) in enumerate(zip(rows, boxes, strict=True)):
        sides = (row["width"], row["height"])
        Image.new("RGB", sides).save(folder / f"images/train/{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "width": sides[0], "height": sides[1]})
        annotations += [{"image_id": n, "category_id": 1, "bbox": box} for box in numbers]
        if layout == "YOLO":
            lines = ["0 " + " ".join(str(v / sides[i % 2]) for i, v in enumerate(box)) for box in numbers]
            (folder / f"labels/train/{n}.txt").write_text("\n".join(lines))
        if layout == "Pascal VOC":
            tags = [dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)) for box in numbers]
            texts = ["".join(f"<{tag}>{value}</{tag}>" for tag, value in one.items()) for one in tags]
            texts = [f"<object><name>cup</name><bndbox>{text}</bndbox></object>" for text in texts]
            (folder / f"labels/train/{n}.xml").write_text(f"<annotation>{''.join(texts)}</annotation>")
    if layout == "COCO's JSON":
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}
        (folder / "train.json").write_text(json.dumps(content))
    return folder


CORNERS = ("two corners", lambda x1, y1, x2, y2: [x1, y1, x2, y2])
SIZE = ("a corner, width and height", lambda x1, y1, x2, y2: [x1, y1, x2 - x1, y2 - y1])
CENTER = ("a center, width and height", lambda x1, y1, x2, y2: [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
RIGHT = {"YOLO": CENTER, "COCO's JSON": SIZE, "Pascal VOC": CORNERS}


@pytest.mark.parametrize("layout", RIGHT)
def test_right_numbers_raise_no_doubt(tmp_path, layout):
    report = survey(scenes_as(tmp_path, layout, RIGHT[layout][1]))
    train = report.splits["train"]
    assert report.layout == layout and train.boxes.total() > 100 and train.dropped == train.clipped == 0
    assert train.doubts == [] and not any("reach far" in line or "stick" in line for line in report.warnings)


@pytest.mark.parametrize(("layout", "written"), [("YOLO", CORNERS), ("YOLO", SIZE), ("COCO's JSON", CENTER)])
def test_numbers_of_another_reading_are_named(tmp_path, layout, written):
    """And nothing is said of resized pictures, which would look alike but for this."""
    (reading, numbers_of), (expected, _) = written, RIGHT[layout]
    report = survey(scenes_as(tmp_path, layout, numbers_of))
    (doubt,) = report.splits["train"].doubts
    assert re.fullmatch(rf"of \d+ boxes, \d+ reach far out of their picture; read as {reading}, 0 do\. "
                        rf"Were these written where {expected} belong\?", doubt)  # fmt: skip
    assert f"train: {doubt}" in report.warnings and not any("stick" in line for line in report.warnings)


def test_corners_in_a_json_are_refused_as_before(tmp_path):
    with pytest.raises(ValueError, match="these are no xywh boxes.*say box_format='xyxy'"):
        survey(scenes_as(tmp_path, "COCO's JSON", CORNERS[1]))


def test_pictures_that_were_resized_are_no_other_reading(tmp_path):
    """Boxes of pictures that were larger leave them however they are read."""
    folder = scenes_as(tmp_path, "COCO's JSON", lambda *box: [1.4 * v for v in SIZE[1](*box)])
    report = survey(folder)
    assert report.splits["train"].doubts == []
    assert any("stick out of their picture. Were pictures resized?" in line for line in report.warnings)


def test_a_folder_without_validation_is_said(tmp_path):
    write(tmp_path, document(BOXES))
    assert "nothing of the split 'val'" in survey(tmp_path).warnings[0]


def test_every_class_is_on_the_sheet_the_rarest_first():
    labels = [{1}] * 50 + [{1, 2}] + [set()] * 5 + [{3}] + [{1}] * 50
    chosen = chosen_rows(labels, 6)
    assert {50, 56} <= set(chosen) and len(chosen) == 6 and all(labels[n] for n in chosen)
    assert chosen_rows([set(), {1}, set()], 12) == [0, 1, 2] and chosen_rows([], 4) == []


def test_a_sheet_shows_the_boxes(tmp_path):
    """The only colors in black pictures are those of the boxes."""
    folder = write_voc(
        tmp_path / "own", {"a$b": xml(CUP), "b": xml((*CUP, 1)), "c": xml()}, lists={"train": ["a$b", "b", "c"]}
    )
    report = survey(folder)
    assert contact_sheet(report, tmp_path / "sheet.png") == 3
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    blue = sum(count for count, color in sheet.getcolors(1 << 24) if color == (0, 114, 178))
    assert blue > 100 and sheet.width > 900
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "sheet.png"]


def test_a_sheet_of_more_classes_than_colors_and_of_splits_that_differ(tmp_path):
    objects = [(f"class {n:02}", 10 + 5 * n, 10, 30 + 5 * n, 30) for n in range(13)]
    many = survey(write_voc(tmp_path / "many", {"a": xml(*objects)}, lists={"train": "a"}))
    assert contact_sheet(many, tmp_path / "many.png") == 1
    folder = splits(tmp_path / "two", document(BOXES[:1]), document(BOXES))
    content = json.loads((folder / "val.json").read_text())
    content["categories"].append({"id": 9, "name": "fork"})
    content["annotations"][0]["category_id"] = 9
    (folder / "val.json").write_text(json.dumps(content))
    report = survey(folder)
    assert "fork" in report.faults[0] and contact_sheet(report, tmp_path / "two.png") == 4

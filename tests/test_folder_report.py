"""What a report says of a folder, what it warns of, and what is on the sheet."""

import json

import pytest
from PIL import Image
from test_folders import BOXES, document, parquet, write
from test_voc import CUP, xml
from test_voc import write as write_voc

from frcnn_common.folder_report import chosen_rows, contact_sheet, survey


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
    assert "val: the names of the pictures decide, with val_share=0.5 and the seed 1" in report.notes
    assert report.splits["train"].pictures + report.splits["val"].pictures == 4


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

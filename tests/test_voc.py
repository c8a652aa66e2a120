"""Pascal VOC's XML: where corners begin, which list is which split, which picture is meant, and what is no XML."""

import pytest
import torch
from PIL import Image

from frcnn_common import COCOStreamDataset
from frcnn_common.folders import folder_rows, read_folder
from frcnn_common.voc import read_voc, read_xml

SIZE = (100, 60)


def xml(*objects, filename="0.jpg", size=SIZE, head="", more=""):
    """VOC's XML; an object is a name, four corners, and maybe whether it is difficult."""
    lines = [f"{head}<annotation><filename>{filename}</filename>"]
    lines += [f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"] if size else []
    for name, *corners, difficult in (found if len(found) == 6 else (*found, 0) for found in objects):
        keys = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        box = "".join(f"<{key}>{value}</{key}>" for key, value in keys)
        lines.append(
            f"<object><name>{name}</name><difficult>{difficult}</difficult>{more}<bndbox>{box}</bndbox></object>"
        )
    return "".join([*lines, "</annotation>"])


def write(folder, texts, *, lists=None, annotations="Annotations", pictures="JPEGImages", ending=".jpg"):
    """A folder with an XML file and a picture for each text, and lists of stems by name."""
    for place in {annotations, pictures}:
        (folder / place).mkdir(parents=True, exist_ok=True)
    for stem, text in texts.items():
        path = folder / annotations / f"{stem}.xml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        Image.new("RGB", SIZE, (90, 0, 0)).save(folder / pictures / f"{stem}{ending}", format="PNG")
    for name, lines in (lists or {}).items():
        (folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets/Main" / f"{name}.txt").write_text("\n".join(lines))
    return folder


def read(folder, split="train", **options):
    data = COCOStreamDataset(split, source=folder, img_size=100, metadata=True, keep_empty=True, **options)
    return data, {int(target["image_id"]): target for _, target in data}


CUP, SPOON = ("cup", 11, 11, 40, 30), ("spoon", 1, 21, 100, 60)
ALL = {"train": "abc"}


def test_corners_count_from_1_and_end_inside(tmp_path):
    """From 11 to 40 are the pixels 10…39, which end at 40; from 1 to 100 is the whole width."""
    data, targets = read(write(tmp_path, {"a": xml(CUP, SPOON)}, lists={"train": "a"}))
    assert data.names == ("__background__", "cup", "spoon") and targets[0]["labels"].tolist() == [1, 2]
    scale = torch.tensor([1, 100 / 60] * 2)
    torch.testing.assert_close(targets[0]["boxes"], torch.tensor([[10.0, 10, 40, 30], [0, 20, 100, 60]]) * scale)
    assert data.report.clipped_boxes == 0 and "count from 1" in read_folder(tmp_path, "train").notes[0]


def test_a_corner_at_0_anywhere_means_that_they_count_from_0(tmp_path):
    """In the other split, too: both have to be read in one way."""
    lists = {"train": "a", "val": "b"}
    folder = write(tmp_path, {"a": xml(CUP), "b": xml(("cup", 0, 5, 20, 20))}, lists=lists)
    (row,) = folder_rows(folder, "train")[0]
    assert row["objects"]["bbox"] == [[11, 11, 40, 30]]
    assert "count from 0" in read_folder(folder, "train").notes[0]


def test_a_box_of_one_pixel_is_no_box_without_area(tmp_path):
    _, targets = read(write(tmp_path, {"a": xml(("cup", 7, 9, 7, 9))}, lists={"train": "a"}))
    torch.testing.assert_close(targets[0]["boxes"], torch.tensor([[6, 8 / 0.6, 7, 9 / 0.6]]))


def test_difficult_objects_are_like_crowds(tmp_path):
    folder = write(tmp_path, {"a": xml((*CUP, 1), SPOON), "b": xml((*CUP, 1), SPOON)}, lists={"train": "a", "val": "b"})
    assert read(folder)[1][0]["labels"].tolist() == [2]
    assert read(folder, "val")[1][1]["iscrowd"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("lists", "train", "val"),
    [
        ({"train": "a", "val": "b", "trainval": "ab", "test": "c"}, "a", "b"),
        ({"trainval": "ab", "test": "c"}, "ab", "c"),
        ({"train": "ab", "test": "c", "cup_train": "c"}, "ab", "c"),
        ({"train": ["a 1", "b -1", ""], "val": ["c.jpg"]}, "ab", "c"),
    ],
)
def test_the_lists_in_a_stated_order(tmp_path, lists, train, val):
    folder = write(tmp_path, {stem: xml(CUP) for stem in "abc"}, lists=lists)
    for split, stems in (("train", train), ("val", val)):
        rows = folder_rows(folder, split)[0]
        assert [row["image"]["path"].rsplit("/", 1)[1] for row in rows] == [f"{stem}.jpg" for stem in stems]


def test_lists_for_outlines_and_persons_are_others(tmp_path):
    """The original has `Layout` and `Segmentation` beside `Main`, with lists of the same names."""
    folder = write(tmp_path, {stem: xml(CUP) for stem in "abc"}, lists={"train": "ab", "val": "c"})
    for place in ("Layout", "Segmentation"):
        (folder / "ImageSets" / place).mkdir()
        (folder / "ImageSets" / place / "train.txt").write_text("a")
    (folder / "SegmentationClass").mkdir()
    Image.new("P", SIZE).save(folder / "SegmentationClass" / "a.png")
    assert [row["image"]["path"][-5:] for row in folder_rows(folder, "train")[0]] == ["a.jpg", "b.jpg"]


def test_two_lists_of_one_name_are_an_error(tmp_path):
    for year, stem in (("VOC2007", "a"), ("VOC2012", "b")):
        write(tmp_path / year, {stem: xml(CUP)}, lists={"train": stem})
    with pytest.raises(ValueError, match="which of these is the list for 'train'.*VOC2007.*VOC2012"):
        folder_rows(tmp_path, "train")
    assert len(list(folder_rows(tmp_path / "VOC2012", "train")[0])) == 1


def test_folders_are_splits_where_there_are_no_lists(tmp_path):
    for split, stem in (("train", "a"), ("valid", "b"), ("test", "c")):
        write(tmp_path, {stem: xml(CUP)}, annotations=split, pictures=split)
    assert sorted(read(tmp_path)[1]) == [1] and sorted(read(tmp_path, "val")[1]) == [2]


def test_a_flat_folder_is_split_on_request(tmp_path):
    folder = write(tmp_path, {str(n): xml(CUP) for n in range(20)}, annotations=".", pictures=".")
    with pytest.raises(FileNotFoundError, match="which is Pascal VOC and has no splits.*--val-share"):
        folder_rows(folder, "train")
    parts = [set(read(folder, split, val_share=0.4)[1]) for split in ("train", "val")]
    assert parts[0] | parts[1] == set(range(20)) and not parts[0] & parts[1] and all(parts)


def test_classes_are_those_of_all_splits_by_the_alphabet(tmp_path):
    texts = {"a": xml(("zebra", *CUP[1:])), "b": xml(("ant", *CUP[1:]), ("Ähre", *CUP[1:]))}
    folder = write(tmp_path, texts, lists={"train": "a", "val": "b"})
    assert (
        folder_rows(folder, "train")[1] == folder_rows(folder, "val")[1] == ("__background__", "ant", "zebra", "Ähre")
    )


@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".png", ".Png"])
def test_any_ending_and_names_with_blanks(tmp_path, ending):
    stem = "my 1st picture.v2"
    _, targets = read(write(tmp_path, {stem: xml(CUP)}, lists={"train": [stem]}, ending=ending))
    assert len(targets) == 1


def test_a_file_name_that_lies_does_not_count(tmp_path):
    """Both annotations call their picture a.jpg. What has no picture of its own name is looked for by the other."""
    folder = write(tmp_path, {stem: xml(CUP, filename="a.jpg") for stem in "ab"}, lists={"train": "ab"})
    paths = [row["image"]["path"] for row in folder_rows(folder, "train")[0]]
    assert [path[-5:] for path in paths] == ["a.jpg", "b.jpg"]
    assert "another name than their own, which counts: 1" in read_folder(folder, "train").notes[1]
    (folder / "JPEGImages/b.jpg").rename(folder / "JPEGImages/c.jpg")
    (folder / "Annotations/b.xml").write_text(xml(CUP, filename="C:\\pictures\\c.jpg"))
    assert [row["image"]["path"][-5:] for row in folder_rows(folder, "train")[0]] == ["a.jpg", "c.jpg"]


def test_of_two_pictures_the_stated_one(tmp_path):
    folder = write(tmp_path, {"a": xml(CUP, filename="a.jpg")}, lists={"train": "a"})
    Image.new("L", SIZE).save(folder / "JPEGImages/a.png")
    assert [row["image"]["path"][-5:] for row in folder_rows(folder, "train")[0]] == ["a.jpg"]
    (folder / "Annotations/a.xml").write_text(xml(CUP, filename="other.jpg"))
    with pytest.raises(ValueError, match="which of these is the picture a.*a.jpg, .*a.png"):
        folder_rows(folder, "train")


@pytest.mark.parametrize("size", [None, (0, 0), (-1, 60), ("wide", "high")])
def test_a_size_that_is_none_is_the_pictures(tmp_path, size):
    _, targets = read(write(tmp_path, {"a": xml(CUP, size=size)}, lists={"train": "a"}))
    assert targets[0]["orig_size"].tolist() == [60, 100]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "iso-8859-1", "windows-1252", "utf-16", "shift-jis", "gb2312"]
)
def test_an_xml_file_in_any_encoding(tmp_path, encoding):
    name = {"shift-jis": "猫", "gb2312": "猫"}.get(encoding, "Löffel")
    head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n'
    path = tmp_path / "0.xml"
    path.write_bytes(xml((name, 1, 1, 2, 2), head=head).encode(encoding))
    assert read_voc(path, 0).objects == [(name, [1, 1, 2, 2], False)]


def test_an_encoding_that_is_stated_wrongly(tmp_path):
    path = tmp_path / "0.xml"
    path.write_bytes(xml(CUP, head='<?xml version="1.0" encoding="utf-16"?>').encode())
    assert read_voc(path, 0).objects[0][0] == "cup"
    path.write_bytes(xml(("Löffel", 1, 1, 2, 2), head='<?xml version="1.0" encoding="utf-8"?>').encode("latin-1"))
    with pytest.raises(ValueError, match="0.xml is no XML that can be read: 'utf-8' codec can't decode"):
        read_voc(path, 0)


BOMBS = {
    "entities": '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;">]><annotation>&c;</annotation>',
    "a file": '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>',
    "elsewhere": '<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><annotation/>',
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_refused(tmp_path, name, encoding):
    path = tmp_path / "0.xml"
    path.write_bytes(BOMBS[name].encode(encoding))
    with pytest.raises(ValueError, match=r"0.xml is no XML that can be read: it has a document type \(a\)"):
        read_xml(path)


FAULTS = {
    "cut off": (xml(CUP)[:-30], "a.xml is no XML that can be read: .*line 1"),
    "no name": (xml(("", 1, 1, 2, 2)), "a.xml, object 1 has no name"),
    "no box": (xml(CUP).replace("bndbox", "polygon"), r"a.xml, object 1 \(cup\) has no bndbox"),
    "no corner": (
        xml(SPOON, CUP).replace("<xmax>40</xmax>", ""),
        r"a.xml, object 2 \(cup\): xmax is '', expected a number",
    ),
    "a word": (xml(("cup", 1, "two", 3, 4)), "object 1 .cup.: ymin is 'two', expected a number"),
    "not finite": (xml(("cup", 1, "nan", 3, 4)), "object 1 .cup.: ymin is 'nan', expected a number"),
    "reversed": (xml(("cup", 30, 1, 20, 9)), "object 1 .cup.: xmin is 30 and xmax 20, expected min ≤ max: two corners"),
    "difficult": (xml((*CUP, "very")), "object 1 .cup.: difficult is 'very', expected 0 or 1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_by_file_object_and_value(tmp_path, name):
    text, message = FAULTS[name]
    with pytest.raises(ValueError, match=message) as error:
        folder_rows(write(tmp_path, {"a": text}, lists={"train": "a"}), "train")
    assert "\n" not in str(error.value)


def test_a_list_that_names_what_is_not_there(tmp_path):
    folder = write(tmp_path, {"a": xml(CUP)}, lists={"train": ["a", "b"]})
    with pytest.raises(ValueError, match="train.txt, line 2: 'b' names nothing here, expected one XML file"):
        folder_rows(folder, "train")


def test_parts_of_an_object_are_no_objects(tmp_path):
    part = "<part><name>handle</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    rows, names, _ = folder_rows(write(tmp_path, {"a": xml(CUP, more=part)}, lists={"train": "a"}), "train")
    assert names[1:] == ("cup",) and [row["objects"]["bbox"] for row in rows] == [[[10, 10, 40, 30]]]


def test_other_xml_files_do_not_count(tmp_path):
    folder = write(tmp_path, {"a": xml(CUP)}, lists={"train": "a"})
    (folder / "project.xml").write_text("<project/>")
    assert len(list(folder_rows(folder, "train")[0])) == 1
    with pytest.raises(ValueError, match="box_format is 'xywh', but the boxes of Pascal VOC are read as xyxy"):
        folder_rows(folder, "train", "xywh")


def test_pictures_without_objects_and_a_picture_that_is_missing(tmp_path):
    folder = write(tmp_path, {"a": xml(), "b": xml(CUP)}, lists={"train": "ab"})
    assert [len(target["boxes"]) for target in read(folder)[1].values()] == [0, 1]
    (folder / "JPEGImages/b.jpg").unlink()
    with pytest.raises(ValueError, match=r"image 1 \(.*jpg\): no picture: FileNotFoundError"):
        read(folder)

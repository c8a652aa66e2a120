"""YOLO's labels: lines, outlines and shares, the description and its paths from elsewhere, pictures without labels."""

import pytest
import torch
from PIL import Image

from frcnn_common import COCOStreamDataset
from frcnn_common.folders import folder_rows, read_folder
from frcnn_common.yolo import listed_names, read_labels

SIZE = (100, 60)


def write(folder, labels, *, pictures="images/train", texts="labels/train", ending=".jpg", description=None):
    """A picture for each name, and its labels, None for no file."""
    for place in (pictures, texts):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for name, text in labels.items():
        Image.new("RGB", SIZE, (0, 90, 0)).save(folder / pictures / f"{name}{ending}", format="PNG")
        if text is not None:
            (folder / texts / f"{name}.txt").write_text(text)
    if description:
        (folder / "data.yaml").write_text(description)
    return folder


def read(folder, split="train", **options):
    data = COCOStreamDataset(split, source=folder, img_size=100, metadata=True, keep_empty=True, **options)
    return data, [target for _, target in data]


LINE = "1 0.5 0.5 0.2 0.5\n"
NAMES = "names: [cup, spoon]\n"


def test_shares_become_pixels(tmp_path):
    """A fifth of 100 around 50, half of 60 around 30."""
    folder = write(tmp_path, {"a": LINE}, description=f"train: images/train\n{NAMES}")
    (row,) = folder_rows(folder, "train")[0]
    assert row["objects"]["bbox"] == [[40, 15, 60, 45]] and row["objects"]["category"] == [1]
    data, (target,) = read(folder)
    assert data.names == ("__background__", "cup", "spoon") and target["labels"].tolist() == [2]


def test_shares_count_in_the_picture_as_it_is_shown(tmp_path):
    folder = write(tmp_path, {"a": LINE}, description=f"train: images/train\n{NAMES}")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(folder / "images/train/a.jpg", exif=exif)
    (row,) = folder_rows(folder, "train")[0]
    assert (row["width"], row["height"]) == (60, 100) and row["objects"]["bbox"] == [[24, 25, 36, 75]]


def test_an_outline_becomes_the_box_around_it(tmp_path):
    path = tmp_path / "0.txt"
    path.write_text("0 0.1 0.2 0.5 0.1 0.3 0.9\n1 .1 .1 .2 .1 .2 .3 .1 .3\n")
    assert read_labels(path, 2) == [(0, [0.1, 0.1, 0.5, 0.9]), (1, [0.1, 0.1, 0.2, 0.3])]
    path.write_text("0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.9 0.9 1\n")
    assert read_labels(path, 1, keypoints=True) == [(0, [0.25, 0.25, 0.75, 0.75])]


def test_shares_outside_are_clipped_and_counted(tmp_path):
    """One box leaves the picture; one ends at its edge but for the last decimal."""
    folder = write(
        tmp_path, {"a": "0 0.95 0.5 0.2 0.5\n0 0.0833335 0.5 0.166668 0.5\n"}, description=f"train: images\n{NAMES}"
    )
    data, (target,) = read(folder)
    assert data.report.clipped_boxes == 1 and target["boxes"][0, 2] == 100 and target["boxes"][1, 0] == 0


def test_pictures_without_labels_or_with_an_empty_file_have_no_objects(tmp_path):
    folder = write(tmp_path, {"a": LINE, "b": "", "c": "\n \n", "d": None}, description=f"train: images/train\n{NAMES}")
    assert [len(target["boxes"]) for target in read(folder)[1]] == [1, 0, 0, 0]
    assert read_folder(folder, "train").notes == [
        "pictures without a label file, which count as pictures without objects: 1"
    ]


def test_labels_without_pictures_are_told(tmp_path):
    folder = write(tmp_path, {"a": LINE}, description=f"train: images/train\n{NAMES}")
    (folder / "labels/train/lost.txt").write_text(LINE)
    assert "label files without a picture: 1, such as " in read_folder(folder, "train").notes[0]
    (folder / "labels/train/a.txt").unlink()
    with pytest.raises(FileNotFoundError, match="nothing of the split"):
        folder_rows(folder, "train")


@pytest.mark.parametrize(
    ("pictures", "texts"),
    [
        ("images/train", "labels/train"),
        ("train/images", "train/labels"),
        ("Images/train", "Labels/train"),
        ("train", "train"),
        ("images/train", "images/train"),
        ("train", "labels/train"),
        ("images/cam 1/train", "labels/cam 1/train"),
    ],
)
@pytest.mark.parametrize("described", [True, False])
def test_where_the_usual_tools_put_pictures_and_labels(tmp_path, pictures, texts, described):
    write(tmp_path, {"my picture.v2": LINE}, pictures=pictures, texts=texts, ending=".JPG")
    write(tmp_path, {"other": LINE}, pictures=pictures.replace("train", "valid"), texts=texts.replace("train", "valid"))
    if described:
        (tmp_path / "data.yaml").write_text(f"train: {pictures}\nval: {pictures.replace('train', 'valid')}\n{NAMES}")
    for split in ("train", "val"):
        data, (target,) = read(tmp_path, split)
        assert len(target["boxes"]) == 1 and data.names[1:] == (("cup", "spoon") if described else ("0", "1"))


def test_lists_beside_the_folders_are_splits_if_one_is_for_training(tmp_path):
    write(tmp_path, {"a": LINE}, pictures="images", texts="labels")
    write(tmp_path, {"b": LINE}, pictures="images/deep", texts="labels/deep")
    (tmp_path / "valid.txt").write_text("images/deep/b.jpg\n")
    with pytest.raises(FileNotFoundError, match="which is YOLO and has no splits"):
        folder_rows(tmp_path, "val")
    (tmp_path / "train.txt").write_text("images/a.jpg\n")
    assert [row["image"]["path"][-5:] for row in folder_rows(tmp_path, "train")[0]] == ["a.jpg"]
    assert [row["image"]["path"][-5:] for row in folder_rows(tmp_path, "val")[0]] == ["b.jpg"]


PLACES = {
    "a folder": "train: images/train",
    "with a path": "path: .\ntrain: images/train",
    "of a notebook": "path: /content/datasets/mugs\ntrain: images/train",
    "absolute": "train: /home/me/mugs/images/train",
    "of Windows": "train: C:\\mugs\\images\\train",
    "up and down": "train: ../images/train",
    "a list": "train: [images/train, images/more]",
    "text": "train: train.txt",
    "texts": "train: [train.txt]",
    "not there": "path: ../datasets/mugs\ntrain: images/train\ntest:",
}


@pytest.mark.parametrize("name", PLACES)
def test_places_as_people_write_them(tmp_path, name):
    folder = write(tmp_path / "mugs", {"a": LINE, "b": LINE}, description=f"{PLACES[name]}\nval: images/val\n{NAMES}")
    write(folder, {"c": LINE}, pictures="images/val", texts="labels/val")
    write(folder, {"d": LINE}, pictures="images/more", texts="labels/more")
    (folder / "train.txt").write_text("./images/train/a.jpg\n\n/home/me/mugs/images/train/b.jpg\n")
    expected = ["a.jpg", "b.jpg", *["d.jpg"] * (name == "a list")]
    assert [row["image"]["path"][-5:] for row in folder_rows(folder, "train")[0]] == expected
    assert [row["image"]["path"][-5:] for row in folder_rows(folder, "val")[0]] == ["c.jpg"]


def test_places_that_are_not_there_are_named(tmp_path):
    folder = write(tmp_path, {"a": LINE}, description=f"train: train.txt\nval: images/val\n{NAMES}")
    (folder / "train.txt").write_text("images/train/a.jpg\nimages/train/b.jpg\n")
    with pytest.raises(ValueError, match="data.yaml: images/val is not in the folder"):
        folder_rows(folder, "val")
    with pytest.raises(ValueError, match="train.txt, line 2: 'images/train/b.jpg' is no picture in"):
        folder_rows(folder, "train")
    (folder / "data.yaml").write_text(f"train: [3]\n{NAMES}")
    with pytest.raises(ValueError, match="data.yaml: 3, expected a folder, a text file, or a list of them"):
        folder_rows(folder, "train")


def test_names_as_a_list_or_a_dict(tmp_path):
    path = tmp_path / "data.yaml"
    assert listed_names(path, {"names": ["cup", 5]}) == ["cup", "5"]
    assert listed_names(path, {"names": {1: "spoon", "0": " cup "}, "nc": 2}) == ["cup", "spoon"]
    for content, message in {
        (("names", (0, 2)),): "names has the numbers .0, 2., expected 0…1",
        (("names", ("a", "b")),): "names has the keys .'a', 'b'., expected numbers from 0 on",
    }.items():
        with pytest.raises(ValueError, match=message):
            listed_names(path, {key: dict.fromkeys(value, "x") for key, value in content})
    for names, message in {"cup": "expected a list or a dict", (): "expected a list or a dict"}.items():
        with pytest.raises(ValueError, match=message):
            listed_names(path, {"names": list(names) if names == () else names})
    with pytest.raises(ValueError, match="data.yaml: nc is 3, but there are 2 names"):
        listed_names(path, {"names": ["a", "b"], "nc": 3})
    with pytest.raises(ValueError, match=r"data.yaml, names, 1 \(in quotes\?\): the name of a class is False"):
        listed_names(path, {"names": ["yes", False]})


def test_a_list_of_names_beside_the_pictures(tmp_path):
    folder = write(tmp_path, {"a": LINE})
    (folder / "labels/train/classes.txt").write_text("cup\nspoon\n\n")
    (folder / "classes.txt").write_text("cup\r\nspoon")
    assert folder_rows(folder, "train")[1] == ("__background__", "cup", "spoon")
    assert read_folder(folder, "train").notes == []
    (folder / "classes.txt").write_text("spoon\ncup")
    with pytest.raises(ValueError, match="which of these has the names of the classes.*classes.txt.*classes.txt"):
        folder_rows(folder, "train")


def test_a_description_that_would_unfold_into_gigabytes(tmp_path):
    """Ten to the tenth entries, as long as nobody prints them."""
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    folder = write(tmp_path, {"a": LINE}, description="\n".join([*lines, "names: [*a9]", "train: images/train"]))
    with pytest.raises(ValueError, match="the name of a class is .*expected text") as error:
        folder_rows(folder, "train")
    assert len(str(error.value)) < 1000
    (folder / "data.yaml").write_text("\n".join([*lines, "names: [cup, spoon]", "train: [*a9]"]))
    with pytest.raises(ValueError, match="expected a folder, a text file, or a list of them"):
        folder_rows(folder, "train")


FAULTS = {
    "out of range": ("0 0.5 0.5 0.2 0.5\n2 0.5 0.5 0.2 0.5", "a.txt, line 2: the class is 2, expected one of 0…1"),
    "negative": ("-1 0.5 0.5 0.2 0.5", "a.txt, line 1: the class is -1, expected one of 0…1"),
    "half a class": ("0.5 0.5 0.5 0.2 0.5", "line 1: the class is 0.5"),
    "a name": ("cup 0.5 0.5 0.2 0.5", "line 1: 'cup 0.5 0.5 0.2 0.5', expected numbers"),
    "commas": ("0,0.5,0.5,0.2,0.5", "line 1: '0,0.5,0.5,0.2,0.5', expected numbers"),
    "too few": ("\n0 0.5 0.5 0.2", "line 2: 4 numbers, expected 5"),
    "a score": ("0 0.5 0.5 0.2 0.5 0.9", "line 1: 6 numbers, expected 5"),
    "pixels": ("0 320 240 64 96", "line 1: 320 is no share of the picture, expected 0…1"),
    "not finite": ("0 nan 0.5 0.2 0.5", "line 1: nan is no share"),
    "a negative size": ("0 0.5 0.5 -0.2 0.5", "line 1: width -0.2 and height 0.5, expected 0…1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_by_file_line_and_value(tmp_path, name):
    text, message = FAULTS[name]
    with pytest.raises(ValueError, match=message) as error:
        folder_rows(write(tmp_path, {"a": text}, description=f"train: images/train\n{NAMES}"), "train")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cup\ntrain: x", "data.yaml, line 2: no YAML: expected"),
        ("names: !!python/name:os.system", "no YAML: could not"),
    ],
)
def test_a_description_that_is_no_yaml(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        folder_rows(write(tmp_path, {"a": LINE}, description=text), "train")
    assert "\n" not in str(error.value)


def test_two_descriptions_are_an_error_unless_one_has_the_usual_name(tmp_path):
    folder = write(tmp_path, {"a": LINE})
    for name in ("one.yaml", "two.yml"):
        (folder / name).write_text(f"train: images/train\n{NAMES}")
    with pytest.raises(ValueError, match="which of these describes the folder.*one.yaml.*two.yml"):
        folder_rows(folder, "train")
    (folder / "data.yaml").write_text("train: images/train\nnames: [a, b]")
    assert folder_rows(folder, "train")[1] == ("__background__", "a", "b")


def test_a_picture_that_is_none_is_named_when_it_is_read(tmp_path):
    folder = write(tmp_path, {"a": LINE, "b": LINE}, description=f"train: images/train\n{NAMES}")
    (folder / "images/train/a.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"image 0 \(a.jpg\): no picture"):
        read(folder)
    data, targets = read(folder, on_bad_sample="skip")
    assert data.report.bad_samples == 1
    torch.testing.assert_close(targets[0]["boxes"], torch.tensor([[40.0, 25, 60, 75]]))

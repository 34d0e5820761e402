"""YOLO label files: rows, paths, faults."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from yolov7.config import InputError
from yolov7.data import label_rows
from yolov7.data.catalog import open_data, open_split
from yolov7.data.image_set import ImageSet
from yolov7.data.yolo_txt import find_images, label_paths

Write = Callable[..., Path]
BOX = "0 0.5 0.5 0.2 0.4\n"


def train_set(yaml: Path) -> ImageSet:
    return open_split(open_data(str(yaml)), "train")


def faults(image_set: ImageSet) -> list[str]:
    return [f"{Path(fault.path).name}: {fault.reason}" for fault in image_set.faults]


def test_a_mixed_file_is_read_row_by_row(yolo_folder: Write) -> None:
    rows = BOX + "1 0.1 0.2 0.3 0.2 0.3 0.6\n" + "0 0.5 0.5 0.9 0.5 0.9 0.9 0.5 0.9 0.45 0.7\n"
    found = train_set(yolo_folder(rows))
    np.testing.assert_allclose(found.objects.boxes, [[40, 15, 60, 35], [10, 10, 30, 30], [45, 25, 90, 45]], rtol=1e-5)
    assert found.objects.labels.tolist() == [0, 1, 0]
    polygons = found.objects_of(0).polygons
    assert [len(points) for points in polygons] == [0, 3, 5]
    np.testing.assert_allclose(polygons.of(1), [[10, 10], [30, 10], [30, 30]], rtol=1e-5)
    assert not found.faults


def test_images_without_objects_are_background(yolo_folder: Write) -> None:
    found = train_set(yolo_folder(BOX, "", None, "\n \n"))
    assert len(found) == 4
    assert found.background_count == 3
    assert not found.faults


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0 0.5 0.5 0.2", "4 columns; accepted: 5 columns (class cx cy w h), or an odd number from 7 on"),
        ("0 0.5 0.5 0.2 0.4 0.9", "6 columns; accepted: 5 columns"),
        ("0 0.1 0.2 0.3 0.2 0.3 0.6 0.1", "8 columns; accepted: 5 columns"),
        ("0 0.5 nan 0.2 0.4", "'nan' is not a finite number"),
        ("0 0.5 inf 0.2 0.4", "'inf' is not a finite number"),
        ("0 0.5 half 0.2 0.4", "'half' is not a number"),
        ("0.5 0.5 0.5 0.2 0.4", "class 0.5; accepted: a whole number"),
        ("0 0.5 1.2 0.2 0.4", "the value 1.2; accepted: 0 to 1 (fractions of width and height)"),
        ("0 320 240 100 80", "the value 320; accepted: 0 to 1 (fractions of width and height)"),
        ("0 -0.5 0.5 0.2 0.4", "the value -0.5; accepted: 0 to 1"),
    ],
)
def test_a_garbled_row_skips_the_image(yolo_folder: Write, row: str, reason: str) -> None:
    found = train_set(yolo_folder(BOX, BOX + row))
    assert [Path(path).name for path in found.paths] == ["p0.jpg"]
    assert len(found.faults) == 1
    assert faults(found)[0].startswith(f"p1.txt: line 2: {reason}")
    assert faults(found)[0].endswith("; the image is skipped")
    assert found.faults[0].skipped


@pytest.mark.parametrize("index", ["2", "-1", "80"])
def test_a_class_out_of_range_is_refused(yolo_folder: Write, index: str) -> None:
    yaml = yolo_folder(BOX + BOX.replace("0", index, 1))
    with pytest.raises(InputError, match=rf"labels/p0.txt, line 2: found class index {index}; accepted: 0 to 1$"):
        train_set(yaml)


def test_zero_size_and_repeated_objects_are_dropped(yolo_folder: Write) -> None:
    found = train_set(yolo_folder(BOX + "1 0.5 0.5 0 0.4\n" + BOX + "1 0.5 0.5 0.2 0.4\n"))
    assert found.objects.labels.tolist() == [0, 1]
    assert faults(found) == [
        "p0.txt: line 2: a box of zero size (0 x 20 px); the object is dropped",
        "p0.txt: line 3: the same class and box as an earlier one; the object is dropped",
    ]
    assert not any(fault.skipped for fault in found.faults)


def test_values_just_outside_and_boxes_over_the_border_are_clipped(yolo_folder: Write) -> None:
    found = train_set(yolo_folder("0 1.0009 0.5 0.2 1.0005\n1 -0.0009 0.5 0.4 0.2\n"))
    np.testing.assert_allclose(found.objects.boxes, [[90, 0, 100, 50], [0, 20, 20, 30]], rtol=1e-5)
    assert not found.faults


def test_a_label_file_that_is_no_text(yolo_folder: Write) -> None:
    yaml = yolo_folder(BOX, BOX)
    (yaml.parent / "labels" / "p1.txt").write_bytes(b"\x7fELF\x02\x00\x01\x80")
    found = train_set(yaml)
    assert len(found) == 1
    assert "p1.txt: cannot be read as text" in faults(found)[0]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty (0 bytes)"),
        (lambda path: path.write_text("no image"), "not an image that can be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "truncated JPEG (image file is truncated)"),
        (lambda path: Image.new("RGB", (9, 30)).save(path), "9 x 30 px; accepted: sides of at least 10 px"),
        (lambda path: Image.new("RGB", (30, 30)).save(path, format="GIF"), "an image in the format GIF"),
    ],
)
def test_a_bad_image_is_skipped(yolo_folder: Write, damage: Callable[[Path], object], reason: str) -> None:
    yaml = yolo_folder(BOX, BOX)
    path = yaml.parent / "images" / "p1.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (50, 100, 3), np.uint8)
    Image.fromarray(noise).save(path)
    damage(path)
    found = train_set(yaml)
    assert len(found) == 1
    assert faults(found)[0].startswith(f"p1.jpg: {reason}")
    assert faults(found)[0].endswith("; the image is skipped")


def test_bytes_behind_the_end_of_a_jpeg_are_no_fault(yolo_folder: Write) -> None:
    yaml = yolo_folder(BOX)
    path = yaml.parent / "images" / "p0.jpg"
    path.write_bytes(path.read_bytes() + b"\0" * 40)
    assert not train_set(yaml).faults


def test_no_objects_at_all_cannot_be_trained_on(yolo_folder: Write) -> None:
    source = open_data(str(yolo_folder(None, "")))
    assert len(open_split(source, "train")) == 2
    with pytest.raises(InputError, match="set.yaml, train: none of the 2 images has an object: there is nothing to"):
        open_split(source, "train", training=True)


def test_no_usable_image(yolo_folder: Write) -> None:
    yaml = yolo_folder("0 nan 0 0 0", "0 1 2")
    message = r"train: no usable image \(2 skipped\): .*p0.txt: line 1: 'nan' is not a finite number; .*p1.txt"
    with pytest.raises(InputError, match=message):
        train_set(yaml)


def test_ground_truth_is_built(yolo_folder: Write) -> None:
    truth = train_set(yolo_folder(BOX, "", BOX + "1 0.1 0.2 0.3 0.2 0.3 0.6\n")).ground_truth()
    assert [image["id"] for image in truth["images"]] == [1, 2, 3]
    assert truth["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in truth["annotations"]] == [
        (1, 1, 1), (2, 3, 1), (3, 3, 2)
    ]  # fmt: skip
    np.testing.assert_allclose(truth["annotations"][2]["bbox"], [10, 10, 20, 20], rtol=1e-5)
    assert truth["annotations"][2]["area"] == pytest.approx(400, rel=1e-5)
    assert truth["annotations"][2]["iscrowd"] == 0


# --- paths -----------------------------------------------------------------------------------------------------


def test_the_last_images_folder_is_replaced_then_the_first(tmp_path: Path) -> None:
    image = str(tmp_path / "images" / "x" / "images" / "a.jpg")
    last, first = tmp_path / "images" / "x" / "labels" / "a.txt", tmp_path / "labels" / "x" / "images" / "a.txt"
    first.parent.mkdir(parents=True)
    first.touch()
    assert label_paths([image]) == [str(first)]
    last.parent.mkdir(parents=True)
    last.touch()
    assert label_paths([image]) == [str(last)]


def test_labels_beside_the_images_where_there_is_no_labels_folder(tmp_path: Path) -> None:
    assert label_paths([str(tmp_path / "images" / "a.b.jpg")]) == [str(tmp_path / "images" / "a.b.txt")]
    assert label_paths([str(tmp_path / "photos" / "a.png")]) == [str(tmp_path / "photos" / "a.txt")]


def test_folders_are_searched_recursively_and_sorted(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "a/z.jpeg", "a/notes.txt", "c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    expected = [str(tmp_path / name) for name in ("a/z.jpeg", "b/2.PNG", "c.jpg")]
    assert find_images([tmp_path], []) == expected


def test_lists_of_images(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("sub/a.jpg", "b.jpg", "sub/ä ö.jpg"):
        (tmp_path / name).touch()
    file = tmp_path / "sub" / "list.txt"
    file.write_text(f"./a.jpg\n\nb.jpg\n{tmp_path}/b.jpg\nä ö.jpg\ngone.jpg\n", encoding="utf-8")
    found = [os.path.relpath(path, tmp_path) for path in find_images([file], [tmp_path])]
    assert found == ["sub/a.jpg", "b.jpg", "sub/ä ö.jpg", "gone.jpg"]


def test_missing_images_of_a_list_are_listed(yolo_folder: Write) -> None:
    yaml = yolo_folder(BOX)
    (yaml.parent / "all.txt").write_text("./images/p0.jpg\n./images/gone.jpg\n")
    yaml.write_text("train: all.txt\nnc: 1\n")
    found = train_set(yaml)
    assert len(found) == 1
    assert found.names == ("0",)
    assert "gone.jpg: missing, but named by" in faults(found)[0]


@pytest.mark.parametrize(("name", "message"), [("empty", "no image in this folder"), ("empty.txt", "an empty list")])
def test_nothing_there(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match=f"{name}: {message}"):
        find_images([tmp_path / name], [])


@pytest.mark.parametrize(
    ("stems", "ids"),
    [(["000012", "7"], [12, 7]), (["a", "7"], [1, 2]), (["07", "7"], [1, 2]), (["x/a", "y/a"], [1, 2])],
)
def test_image_ids(tmp_path: Path, stems: list[str], ids: list[int]) -> None:
    for stem in stems:
        (tmp_path / stem).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(tmp_path / f"{stem}.png")
    (tmp_path / "list.txt").write_text("".join(f"./{stem}.png\n" for stem in stems))
    (tmp_path / "set.yaml").write_text("train: list.txt\nnames: [a]\n")
    assert list(train_set(tmp_path / "set.yaml").image_ids) == ids


@pytest.mark.parametrize("text", ["1_0", "٣", "0.5_0", "0\u0663"])
def test_numbers_are_ascii_without_underscores(text: str) -> None:
    with pytest.raises(label_rows._LabelError, match="is not a number"):
        label_rows.check_row(["0", "0.5", "0.5", "0.1", text], 100)

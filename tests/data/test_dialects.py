"""Data sets as people's tools write them: what is understood, what is said, and that no class changes its meaning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_records import SHARED, write_image

from yolov7.config import InputError
from yolov7.config.options import ConvertOptions
from yolov7.data.catalog import open_data, open_split
from yolov7.data.convert import convert
from yolov7.data.image_set import ImageSet, category_ids
from yolov7.evaluation.coco import CocoBoxes, score_detections
from yolov7.keypoints import COCO_PERSON
from yolov7.structures import Instances

Write = Callable[..., Path]
BOX = "0 0.5 0.5 0.2 0.4\n"
CASES = SHARED / "cases"
TRAINS = {  # of ../shared/cases: what is said of them
    "roboflow_yolov7/data.yaml": "keys of other tools, which are not read: roboflow",
    "roboflow_yolov7_noblock/data.yaml": "'../train/images' was not found as it is written; taken: ",
    "roboflow_dict_names": "taken is its data.yaml",
    "ultra_ok_keys/my.yaml": "keys of other tools, which are not read: channels",
    "ultra_download/my.yaml": "script, which is never run, would make the folder '../datasets/blood'",
    "coco_valcats_differ_named/my.yaml": "its categories are taken by their names",
    "coco_names_swapped/my.yaml": "its categories are taken by their names, in the order of",
    "coco_bom/my.yaml": "", "coco_seg_none/my.yaml": "", "coco_size_str/my.yaml": "", "coco_float_ids/my.yaml": "",
    "coco_no_ann_id/my.yaml": "", "coco_bbox_missing_one/my.yaml": "", "ls_coco_backslash/my.yaml": "",
    "roboflow_coco": "no class is made of blood", "coco_dup_images/my.yaml": "",
    "objects365/my.yaml": "36 crowds (iscrowd=1) are no objects",
    "coco_keypoints_some/my.yaml": "none are read",
    "via_coco/my.yaml": "", "cvat_coco/my.yaml": "",
    "labels_polygon_over/my.yaml": "", "labels_upper_TXT/my.yaml": "", "list_dup_comment/my.yaml": "",
    "list_backslash/my.yaml": "", "yaml_winpath/my.yaml": "was not found; relative paths start from",
    "parent_images_labels/my.yaml": "", "folder_Images_Labels/my.yaml": "", "folder_annotations_name/my.yaml": "",
    "labelimg_flat/my.yaml": "", "yaml_names_numbers/my.yaml": "",
}
REFUSED = {
    "yaml_names_string/my.yaml": r"a list looks like this: names: \[RBC, WBC, Platelets\]",
    "val_no_labels/my.yaml": "val: none of the 2 images has a label file; that of the first was looked for as .*labels",
    "coco_yaml_string_json/my.yaml": "is JSON, not a list of images",
    "coco_annfile_keys/my.yaml": "found the keys img, ann; accepted: {images: FOLDER, annotations: FILE.json}",
    "pose_rows_no_key/my.yaml": r"accepted: `kpt_shape: \[2, 2\]` in the data set.s YAML",
    "coco_iscrowd1_all/my.yaml": r"none of the 4 images has an object: .* \(71 crowds are none\)",
}


def case(name: str) -> Path:
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases")
    return CASES / name


def opened(data: Path) -> dict[str, ImageSet]:
    source = open_data(str(data))
    return {split: open_split(source, split, training=split == "train", labelled=split == "val")
            for split in ("train", "val")}


@pytest.mark.parametrize("name", TRAINS)
def test_cases_that_train(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    splits = opened(case(name))
    assert all(len(image_set.objects) for image_set in splits.values())
    assert TRAINS[name] in caplog.text and "import" not in caplog.text  # no line of a script
    if not any(word in name for word in ("coco", "flat", "objects365")):  # the same six images
        assert [len(image_set) for image_set in splits.values()] == [4, 2]


@pytest.mark.parametrize("name", REFUSED)
def test_cases_that_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=REFUSED[name]):
        opened(case(name))


# --- no class is swapped or invented -----------------------------------------------------------------------------


def write_coco(folder: Path, split: str, names: dict[int, str], objects: dict[str, list[float]]) -> str:
    """One image with one object of each class; returns the entry of its split."""
    write_image(folder / split / "a.jpg")
    ids = {name: number for number, name in names.items()}
    content = {"images": [{"id": 1, "file_name": "a.jpg"}],
               "categories": [{"id": number, "name": name} for number, name in names.items()],
               "annotations": [{"id": place, "image_id": 1, "category_id": ids[name], "bbox": box}
                               for place, (name, box) in enumerate(objects.items(), 1)]}
    (folder / f"{split}.json").write_text(json.dumps(content))
    return f"{split}: {{images: {split}, annotations: {split}.json}}\n"


OBJECTS = {"cat": [1.0, 2, 10, 10], "dog": [20.0, 5, 10, 10], "bird": [40.0, 5, 9, 9]}


def left_of(image_set: ImageSet) -> dict[str, float]:
    """The left side of the box of each class."""
    return {image_set.names[label]: float(box[0])
            for label, box in zip(image_set.objects.labels, image_set.objects.boxes, strict=True)}


@pytest.mark.parametrize("names", ["", "names: [dog, bird, cat]\n"])
@pytest.mark.parametrize("val", [{1: "cat", 2: "dog", 3: "bird"}, {7: "dog", 2: "bird", 5: "cat"}])
def test_categories_are_mapped_by_name(names: str, val: dict[int, str], tmp_path: Path) -> None:
    text = write_coco(tmp_path, "train", {1: "cat", 2: "dog", 3: "bird"}, OBJECTS)
    text += write_coco(tmp_path, "val", val, OBJECTS)
    (tmp_path / "set.yaml").write_text(text + names)
    splits = opened(tmp_path / "set.yaml")
    assert splits["train"].names == splits["val"].names
    ids = {name: number for number, name in val.items()}
    for image_set in splits.values():
        assert left_of(image_set) == {name: box[0] for name, box in OBJECTS.items()}
    assert dict(zip(splits["val"].names, splits["val"].category_ids, strict=True)) == ids  # what a server expects
    truth = splits["val"].ground_truth()
    assert {a["category_id"] for a in truth["annotations"]} == set(ids.values())


def test_other_names_rename_by_position_and_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    same = {1: "cat", 2: "dog", 3: "bird"}
    text = write_coco(tmp_path, "train", same, OBJECTS) + write_coco(tmp_path, "val", same, OBJECTS)
    (tmp_path / "set.yaml").write_text(text + "names: [Katze, Hund, Vogel]\n")
    assert left_of(opened(tmp_path / "set.yaml")["val"]) == {"Katze": 1, "Hund": 20, "Vogel": 40}
    assert "its categories are renamed: cat -> Katze, dog -> Hund, bird -> Vogel" in caplog.text
    (tmp_path / "set.yaml").write_text(text + "names: [cat, Hund, Vogel]\n")
    assert left_of(opened(tmp_path / "set.yaml")["train"]) == {"cat": 1, "Hund": 20, "Vogel": 40}
    assert caplog.messages[-1].endswith("its categories are renamed: dog -> Hund, bird -> Vogel")


@pytest.mark.parametrize(("val", "names", "message"), [
    ({1: "dog", 2: "cat", 3: "bird"}, "names: [x, y, z]\n", "would not mean the same in both"),
    ({1: "cat", 2: "dog", 3: "bird"}, "names: [Hund, cat, Vogel]\n", "the same names in any order, or other names at"),
    ({1: "cat", 2: "dog", 3: "fish"}, "", "accepted: the same in both, in any order"),
])
def test_doubtful_names_are_refused(val: dict[int, str], names: str, message: str, tmp_path: Path) -> None:
    objects = dict(zip(val.values(), OBJECTS.values(), strict=True))
    text = write_coco(tmp_path, "train", {1: "cat", 2: "dog", 3: "bird"}, OBJECTS)
    (tmp_path / "set.yaml").write_text(text + write_coco(tmp_path, "val", val, objects) + names)
    with pytest.raises(InputError, match=message):
        opened(tmp_path / "set.yaml")


def test_label_files_with_cocos_classes_have_cocos_numbers(yolo_folder: Write) -> None:
    """As detection writes them, so that COCO's server scores both."""
    names = open_data("coco").names
    file = yolo_folder("79 0.5 0.5 0.2 0.4\n0 0.5 0.5 0.2 0.4\n", names=str(list(names)))
    found = open_split(open_data(str(file)), "val")
    assert found.category_ids == category_ids(names) and found.category_ids[-1] == 90
    assert [row["category_id"] for row in found.ground_truth()["annotations"]] == [90, 1]
    assert category_ids(names[:79]) == tuple(range(1, 80))


# --- numbers in another dress ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_numbers_in_another_dress(encoding: str, tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "train" / "a.jpg")
    rows: list[dict[str, Any]] = [
        {"id": "5", "image_id": "1", "category_id": 3.0, "bbox": ["4", 6.0, "10", 20], "area": "12", "iscrowd": False},
        {"image_id": 1.0, "category_id": "3", "bbox": [30, 6, 10, 20], "area": "?", "iscrowd": "0"},
        {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": "no"}]
    content = {"images": [{"id": 1.0, "file_name": "a.jpg", "width": "64", "height": 48.0}], "annotations": rows,
               "categories": [{"id": "3", "name": "cat"}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_bytes(json.dumps(content).encode(encoding))
    found = open_split(open_data(str(tmp_path)), "train")
    assert found.objects.boxes.tolist() == [[4, 6, 14, 26], [30, 6, 40, 26]]
    np.testing.assert_array_equal(found.objects.area, [12, np.nan])
    (fault,) = found.faults
    assert "annotation '[2]': iscrowd is 'no'; accepted: 0 or 1; the object is dropped" in str(fault)
    truth = found.ground_truth()["annotations"]
    assert [(row["id"], row["image_id"], row["category_id"]) for row in truth] == [(1, 1, 3), (2, 1, 3)]


# --- the YAML ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "message"), [
    ("names: [cat, cat]", "'cat' stands twice"),
    ("names: ['', dog]", "the name of class 0 is empty"),
    ("names: []", "names: found a list"),
    ("names: [yes, no]", r"names\[0\]: found a switch \(True\); accepted: a text \(in quotes"),
    ("nc: -1", "nc: found -1; accepted: 1 to 100000"),
    ("nc: 1000000000", "nc: found 1000000000; accepted: 1 to 100000"),
    ("names: [cat]\nnamess: [cat]", "unknown key 'namess'"),
    ("names: [cat]\nval: []", "val: is empty; leave it out"),
])
def test_what_a_yaml_cannot_say(text: str, message: str, yolo_folder: Write) -> None:
    file = yolo_folder(BOX)
    file.write_text(f"train: images\n{text}\n")
    with pytest.raises(InputError, match=message):
        open_data(str(file))


def test_a_folder_with_several_data_sets_names_them(yolo_folder: Write) -> None:
    file = yolo_folder(BOX)
    (file.parent / "other.yml").write_text(file.read_text())
    (file.parent / "hyp.yaml").write_text("lr0: 0.1\n")
    with pytest.raises(InputError, match=r"several files of this folder are data sets; .*other.yml, .*set.yaml"):
        open_data(str(file.parent))
    (file.parent / "other.yml").unlink()
    assert open_data(str(file.parent)).names == ("cat", "dog")


# --- label files -------------------------------------------------------------------------------------------------


def test_values_a_little_outside_are_clipped(yolo_folder: Write) -> None:
    found = open_split(open_data(str(yolo_folder("0 0.5 0.5 1.0021 0.4\n", "1 0 0 1.0021 0 1 1\n"))), "train")
    assert not found.faults and found.objects.boxes.max() == 100
    found = open_split(open_data(str(yolo_folder("0 0.5 0.5 1.02 0.4\n", BOX))), "train")
    assert "the value 1.02; accepted: 0 to 1" in str(found.faults[0])


@pytest.mark.parametrize("folder", ["Labels", "LABELS", "annotations"])
@pytest.mark.parametrize("suffix", [".txt", ".TXT"])
def test_folders_of_labels(folder: str, suffix: str, yolo_folder: Write) -> None:
    file = yolo_folder(None, None)
    (file.parent / folder).mkdir()
    (file.parent / folder / f"p0{suffix}").write_text(BOX)
    assert open_split(open_data(str(file)), "train").offsets.tolist() == [0, 1, 1]


# --- text, whatever editor wrote it ------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_text_in_any_encoding(encoding: str, tmp_path: Path, yolo_folder: Write) -> None:
    yaml = yolo_folder(BOX, names="classes.txt")
    (yaml.parent / "classes.txt").write_bytes("Größe\r\nHöhe\r\n".encode(encoding))
    (yaml.parent / "labels" / "p0.txt").write_bytes("0 0.5 0.5 0.2 0.4\r\n1 0.5 0.5 0.4 0.4\r\n".encode(encoding))
    (yaml.parent / "list.txt").write_bytes("images/p0.jpg\r\n".encode(encoding))
    yaml.write_text("train: list.txt\nnames: classes.txt\n")
    found = open_split(open_data(str(yaml)), "train", training=True)
    assert found.names == ("Größe", "Höhe") and found.objects.labels.tolist() == [0, 1] and not found.faults


@pytest.mark.parametrize("text", ["1_0 0.5 0.5 0.2 0.4", "0 0.5 0.5 0.2 0.4_1", "٠ 0.5 0.5 0.2 0.4"])
def test_numbers_that_only_python_reads(text: str, yolo_folder: Write) -> None:
    found = open_split(open_data(str(yolo_folder(text, BOX))), "train")
    assert "is not a number; the image is skipped" in str(found.faults[0]) and len(found) == 1


# --- Darknet, and names in a text file ---------------------------------------------------------------------------


def darknet(folder: Path, prefix: str = "data/") -> Path:
    """As CVAT writes it: paths begin with a folder that is not there."""
    for name in ("a", "b"):
        write_image(folder / "obj_train_data" / f"{name}.jpg")
        (folder / "obj_train_data" / f"{name}.txt").write_text(BOX.replace("0", "1", 1))
    (folder / "obj.names").write_text("cat\ndog\n")
    (folder / "train.txt").write_text(f"{prefix}obj_train_data/a.jpg\n{prefix}obj_train_data/b.jpg\n")
    file = folder / "obj.data"
    file.write_text(f"classes = 2\ntrain  = {prefix}train.txt\nvalid={prefix}train.txt\nnames = {prefix}obj.names\n"
                    "backup = backup/\n")
    return file


@pytest.mark.parametrize("prefix", ["data/", "", "./", "data\\"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_darknet(prefix: str, as_folder: bool, tmp_path: Path) -> None:
    file = darknet(tmp_path, prefix)
    splits = opened(tmp_path if as_folder else file)
    assert [image_set.names for image_set in splits.values()] == [("cat", "dog")] * 2
    assert splits["train"].objects.labels.tolist() == [1, 1]


@pytest.mark.parametrize(("line", "message"), [
    ("classes = 3", r"classes is 3, but data/obj.names has 2 names"),
    ("classes = many", "classes: found 'many'; accepted: 1 to"),
    ("names = none.names", "names: 'none.names' was not found; looked for .*none.names"),
    ("clases = 2", "unknown key 'clases'; .*did you mean 'classes'"), ("nonsense", "accepted: key = value"),
])
def test_faults_of_darknet_files(line: str, message: str, tmp_path: Path) -> None:
    file = darknet(tmp_path)
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(InputError, match=message):
        open_data(str(file))


@pytest.mark.parametrize("layout", ["images/{}", "{}/images", "{}"])
def test_folders_whose_classes_stand_in_a_text_file(layout: str, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        folder = tmp_path / layout.format(split)
        write_image(folder / "a.jpg")
        labels = Path(str(folder).replace("images", "labels"))
        labels.mkdir(parents=True, exist_ok=True)
        (labels / "a.txt").write_text(BOX)
    (tmp_path / "classes.txt").write_text("cat\n")
    assert [len(image_set.objects) for image_set in opened(tmp_path).values()] == [1, 1]


def test_images_without_splits_say_what_is_missing(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.jpg")
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(InputError, match="classes.txt names its classes, but nothing says which images are for what"):
        open_data(str(tmp_path))


# --- key points in label files -----------------------------------------------------------------------------------


def pose(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


@pytest.mark.parametrize(("shape", "row", "expected"), [
    ("[2, 3]", "0 0.5 0.5 0.2 0.4 0.45 0.5 2 0.55 0.6 1", [[45, 25, 2], [55, 30, 1]]),
    ("[2, 3]", "0 0.5 0.5 0.2 0.4 0.45 0.5 2 0 0 0", [[45, 25, 2], [0, 0, 0]]),
    ("[2, 2]", "0 0.5 0.5 0.2 0.4 0.45 0.5 -1 -1", [[45, 25, 2], [0, 0, 0]]),
    ("[2, 2]", "0 0.5 0.5 0.2 0.4 0.45 0.5 0 0", [[45, 25, 2], [0, 0, 0]]),
    ("[2, 3]", "0 0.5 0.5 0.2 0.4", [[0, 0, 0], [0, 0, 0]]),
])
def test_key_points_that_the_yaml_announces(shape: str, row: str, expected: list[list[float]],
                                            yolo_folder: Write) -> None:
    yaml = yolo_folder(pose(row), BOX)
    yaml.write_text(f"{yaml.read_text()}kpt_shape: {shape}\nflip_idx: [1, 0]\nkpt_names: {{0: [left, right]}}\n")
    for _ in range(2):  # the second from the cache
        found = open_split(open_data(str(yaml)), "train")
        np.testing.assert_allclose(found.objects.keypoints[0], expected, rtol=1e-5)
        np.testing.assert_allclose(found.objects.boxes, [[40, 15, 60, 35]] * 2, rtol=1e-5)
        assert found.keypoint_names == ("left", "right") and found.keypoint_flip == (1, 0) and not found.faults


def test_key_points_that_are_left_out_are_listed(yolo_folder: Write) -> None:
    yaml = yolo_folder(pose("0 0.5 0.5 0.2 0.4 7 0.5 2 0.55 0.6 2", "0 0.5 0.5 0.3 0.4 0.4 0.5 3 -7 0.6 0"))
    yaml.write_text(f"{yaml.read_text()}kpt_shape: [2, 3]\n")
    for _ in range(2):
        found = open_split(open_data(str(yaml)), "train")
        np.testing.assert_allclose(found.objects.keypoints, [[[0, 0, 0], [55, 30, 2]], [[0, 0, 0]] * 2], rtol=1e-5)
        assert [str(fault).partition(": ")[2] for fault in found.faults] == [
            "line 1: labelled key points outside the image: 1; they are left out",
            "line 2: key points with a visibility other than 0, 1 and 2: 1; they are left out"]
        assert all(fault.kept for fault in found.faults)


def test_seventeen_points_without_a_name_are_a_person(yolo_folder: Write, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    row = pose(f"0 0.5 0.5 0.2 0.4 {'0.5 0.5 2 ' * 17}")
    yaml = yolo_folder(row)
    text = yaml.read_text()
    yaml.write_text(f"{text}kpt_shape: [17, 3]\n")
    assert open_split(open_data(str(yaml)), "train").keypoint_layout == COCO_PERSON
    assert "its 17 key points have no names (kpt_names); taken are those of COCO's person: nose, left_" in caplog.text
    for more in ("flip_idx: [1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]", "skeleton: [[1, 2]]",
                 f"kpt_names: [{', '.join(f'p{i}' for i in range(17))}]"):
        yaml.write_text(f"{text}kpt_shape: [17, 3]\n{more}\n")
        assert open_split(open_data(str(yaml)), "train").keypoint_layout.names != COCO_PERSON.names


@pytest.mark.parametrize(("keys", "message"), [
    ("kpt_shape: [3, 3]\nflip_idx: [1, 2, 0]", "point 0 becomes 1, and that one becomes 2; accepted: pairs"),
    ("kpt_shape: [3, 3]\nskeleton: [[1, 2, 3]]", "skeleton: found .*; accepted: pairs of key points"),
    ("kpt_shape: [3, 3]\nskeleton: [[0, 3]]", "found the key point 3; accepted: 0 to 2, as there are 3"),
    ("kpt_shape: [3, 3]\nskeleton: [[1, 4]]", "found the key point 4; accepted: 1 to 3, as there are 3"),
    ("kpt_shape: [3, 3]\nsigmas: [1, 2]", "accepted: 3 numbers above 0"),
    ("skeleton: [[1, 2]]\nkpt_sigmas: [1]", "skeleton and kpt_sigmas need kpt_shape"),
    ("kpt_shape: [2]", r"kpt_shape: found \[2\]; accepted"), ("kpt_shape: [0, 3]", "accepted: .number of key points"),
    ("kpt_shape: [2, 4]", "accepted"), ("kpt_shape: [2, 3]\nflip_idx: [0, 0]", "each number from 0 to 1 once"),
    ("flip_idx: [1, 0]", "need kpt_shape"), ("kpt_shape: [2, 3]\nkpt_names: [nose]", "found 1 names; accepted: 2"),
])
def test_faults_of_the_keys_of_key_points(keys: str, message: str, yolo_folder: Write) -> None:
    yaml = yolo_folder(BOX)
    yaml.write_text(f"{yaml.read_text()}{keys}\n")
    with pytest.raises(InputError, match=message):
        open_data(str(yaml))


RNG = np.random.default_rng(0)


def pose_rows(count: int, values: int) -> str:
    """Twelve rows of boxes with key points inside."""
    rows = []
    for _ in range(12):
        width, height = RNG.uniform(0.2, 0.4, 2)
        x, y = RNG.uniform(0.25, 0.7, 2)
        points = RNG.uniform(-0.5, 0.5, (count, 2)) * (width, height) + (x, y)
        parts = [[*point, RNG.integers(3)][:values] for point in points.tolist()]
        rows.append(" ".join(f"{value:.6g}" for value in (0, x, y, width, height, *sum(parts, []))))
    return pose(*rows)


@pytest.mark.parametrize(("count", "values"), [(1, 2), (1, 3), (2, 2), (4, 3), (5, 3), (17, 2), (17, 3)])
def test_key_points_that_nothing_announces_are_refused(count: int, values: int, yolo_folder: Write) -> None:
    with pytest.raises(InputError, match=rf"p0.txt: its rows have .* accepted: `kpt_shape: \[{count}, {values}\]`"):
        open_split(open_data(str(yolo_folder(pose_rows(count, values)))), "train")


@pytest.mark.parametrize("corners", [3, 4, 6])
def test_polygons_of_one_length_stay_polygons(corners: int, yolo_folder: Write) -> None:
    rows = []
    for _ in range(12):
        angles = np.sort(RNG.uniform(0, 2 * np.pi, corners))
        points = RNG.uniform(0.2, 0.7, 2) + 0.08 * np.stack((np.cos(angles), np.sin(angles)), axis=1)
        rows.append(" ".join(["0", *(f"{value:.6f}" for value in points.ravel().tolist())]))
    found = open_split(open_data(str(yolo_folder(pose(*rows)))), "train")
    assert len(found.objects) == 12 and found.objects.has_polygon.all()


# --- numbers of images -------------------------------------------------------------------------------------------


def test_results_and_converted_sets_have_the_same_numbers(yolo_folder: Write, tmp_path: Path) -> None:
    """Whatever images are called, and whichever cannot be used: pycocotools refuses other ids."""
    yaml = yolo_folder(BOX, BOX, BOX)
    (tmp_path / "images" / "p1.jpg").write_bytes(b"no image")
    image_set = open_split(open_data(str(yaml)), "val")
    assert image_set.image_ids == (1, 3)
    convert(ConvertOptions(data=str(yaml), to="coco", output=str(tmp_path / "converted"), splits=("val",)))
    content = json.loads((tmp_path / "converted" / "annotations" / "instances_val.json").read_text())
    assert [image["id"] for image in content["images"]] == [1, 3]
    evaluator = CocoBoxes()
    found = Instances(torch.tensor([[40.0, 15, 60, 35]]), torch.ones(1), torch.zeros(1).long())
    for index in range(2):
        evaluator.add(found, image_set, index)
    assert [(row["image_id"], row["file_name"]) for row in evaluator.predictions] == [(1, "p0.jpg"), (3, "p2.jpg")]
    assert score_detections(content, evaluator.predictions, [1, 3]).stats[0] == 1


# --- COCO JSON as tools write it ---------------------------------------------------------------------------------


def coco_files(folder: Path, train: dict[str, Any], val: dict[str, Any] | None = None) -> Path:
    for split, content in (("train", train), ("val", val or train)):
        for image in content["images"]:
            write_image(folder / split / Path(image.get("file_name", image.get("coco_url"))).name)
        (folder / f"{split}.json").write_text(json.dumps(content))
    file = folder / "set.yaml"
    file.write_text("".join(f"{split}: {{images: {split}, annotations: {split}.json}}\n" for split in ("train", "val")))
    return file


def coco_of(images: list[dict[str, Any]], annotations: list[tuple[int, int, list[float]]],
            *categories: dict[str, Any]) -> dict[str, Any]:
    rows = [{"id": n, "image_id": image, "category_id": category, "bbox": box}
            for n, (image, category, box) in enumerate(annotations, 1)]
    return {"images": images, "annotations": rows, "categories": list(categories) or [{"id": 1, "name": "cat"}]}


A, B = [1.0, 2, 10, 10], [30.0, 2, 10, 20]


def test_two_images_of_one_file_become_one(tmp_path: Path) -> None:
    images = [{"id": 5, "file_name": "a.jpg"}, {"id": 9, "file_name": "./a.jpg"}, {"id": 7, "file_name": "b.jpg"}]
    found = opened(coco_files(tmp_path, coco_of(images, [(5, 1, A), (9, 1, A), (9, 1, B), (7, 1, A)])))["val"]
    assert found.image_ids == (5, 7) and np.diff(found.offsets).tolist() == [2, 1]
    assert "of the second's objects 1 are new, 1 the first has as well" in str(found.faults[0])
    truth = found.ground_truth()  # read by itself: the same
    assert [(row["image_id"], row["bbox"]) for row in truth["annotations"]] == [(5, A), (5, B), (7, A)]


HEADING = {"id": 0, "name": "things", "supercategory": "none"}
CAT, DOG = ({"id": n, "name": name, "supercategory": "things"} for n, name in ((1, "cat"), (2, "dog")))


def test_a_heading_without_objects_is_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    content = coco_of([{"id": 5, "file_name": "a.jpg"}], [(5, 1, A)], HEADING, CAT, DOG)
    for _ in range(2):  # the second from the cache
        splits = opened(coco_files(tmp_path, content))
        assert splits["train"].names == ("cat", "dog") and splits["val"].category_ids == (1, 2)
        assert splits["train"].objects.labels.tolist() == [0] and "no class is made of things" in caplog.text
        assert [c["name"] for c in splits["val"].ground_truth()["categories"]] == ["cat", "dog"]
    assert "train: no object is of dog" in caplog.text  # an unused class stays


def test_a_heading_that_one_split_uses_is_a_class(tmp_path: Path) -> None:
    images = [{"id": 5, "file_name": "a.jpg"}]
    train = coco_of(images, [(5, 1, A), (5, 0, B)], HEADING, CAT)
    splits = opened(coco_files(tmp_path, train, coco_of(images, [(5, 1, A)], HEADING, CAT)))
    assert {image_set.names for image_set in splits.values()} == {("things", "cat")}


def test_a_heading_that_the_yaml_names_is_a_class(tmp_path: Path) -> None:
    file = coco_files(tmp_path, coco_of([{"id": 5, "file_name": "a.jpg"}], [(5, 1, A)], HEADING, CAT))
    file.write_text(f"{file.read_text()}names: [things, cat]\n")
    assert opened(file)["train"].names == ("things", "cat")
    file.write_text(file.read_text().replace("things, ", ""))
    assert opened(file)["train"].names == ("cat",)


def test_lvis(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    images = [{"id": 5, "coco_url": "http://images.cocodataset.org/train2017/000000000005.jpg", "width": 64,
               "height": 48, "neg_category_ids": [1], "not_exhaustive_category_ids": []}]
    categories = [{"id": n, "name": name, "frequency": "r"} for n, name in ((3, "cat"), (9, "dog"))]
    found = opened(coco_files(tmp_path, coco_of(images, [(5, 9, A)], *categories)))["train"]
    assert found.names == ("cat", "dog") and found.objects.labels.tolist() == [1]
    assert "has the categories and addresses of LVIS; it is scored as COCO is" in caplog.text


@pytest.mark.parametrize("name", ["/home/me/images/a.jpg", "C:\\data\\a.jpg", "train/a.jpg", "images\\a.jpg"])
def test_file_names_with_folders_that_are_elsewhere(name: str, tmp_path: Path) -> None:
    file = coco_files(tmp_path, coco_of([{"id": 5, "file_name": "a.jpg"}], [(5, 1, A)]))
    for split in ("train", "val"):
        text = (tmp_path / f"{split}.json").read_text()
        (tmp_path / f"{split}.json").write_text(text.replace('"a.jpg"', json.dumps(name)))
    assert [len(image_set.objects) for image_set in opened(file).values()] == [1, 1]


def test_names_that_without_folders_would_be_one_stay_apart(tmp_path: Path) -> None:
    images = [{"id": 5, "file_name": "x/a.jpg"}, {"id": 6, "file_name": "y/a.jpg"}]
    with pytest.raises(InputError, match="no usable image"):
        opened(coco_files(tmp_path, coco_of(images, [(5, 1, A), (6, 1, B)])))


# --- corners where sizes belong ----------------------------------------------------------------------------------


def corners(count: int, limit: tuple[int, int]) -> np.ndarray:
    """Boxes of any place in an image, as two corners, float64 ``[count, 4]``."""
    first = RNG.uniform(0, 0.8, (count, 2))
    return np.concatenate((first, first + RNG.uniform(0.05, 0.2, (count, 2))), axis=1) * np.tile(limit, 2)


def test_corners_in_label_files_are_refused(yolo_folder: Write) -> None:
    rows = [f"0 {' '.join(f'{value:.6f}' for value in row)}" for row in corners(20, (1, 1)).tolist()]
    with pytest.raises(InputError, match=r"p0.txt, line 1: .* read as two corners .*; accepted: centre and size"):
        open_split(open_data(str(yolo_folder(pose(*rows)))), "train")


def test_corners_in_coco_json_are_refused(tmp_path: Path) -> None:
    boxes = [(5, 1, row) for row in corners(20, (64, 48)).tolist()]
    with pytest.raises(InputError, match=r"train.json, annotations: the `bbox` of all 20 objects reads as two corners"):
        opened(coco_files(tmp_path, coco_of([{"id": 5, "file_name": "a.jpg"}], boxes)))


@pytest.mark.parametrize("elsewhere", ["/content/set/images", "C:\\Users\\me\\set\\images", "//server/share/images"])
def test_paths_of_another_machine(elsewhere: str, yolo_folder: Write, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    yaml = yolo_folder(BOX, BOX)
    sign = "\\" if "\\" in elsewhere else "/"
    (yaml.parent / "list.txt").write_text(f"{elsewhere}{sign}p0.jpg\n{elsewhere}{sign}p1.jpg\n" * 2)
    yaml.write_text(f"train: '{elsewhere}'\nval: list.txt\nnames: [cat]\n")
    assert [len(image_set) for image_set in opened(yaml).values()] == [2, 2]
    assert "was not found as it is written; taken: " in caplog.text
    assert "4 images were not found as they are written" in caplog.text
    assert "2 images are named more than once; each is taken once" in caplog.text


@pytest.mark.parametrize(("key", "meant"), [("validation", "val"), ("classes", "names"), ("root", "path")])
def test_keys_that_mean_one_of_ours(key: str, meant: str, yolo_folder: Write) -> None:
    yaml = yolo_folder(BOX)
    yaml.write_text(f"train: images\n{key}: images\n" + ("names: [cat]\n" if meant != "names" else ""))
    with pytest.raises(InputError, match=f"unknown key '{key}'; did you mean '{meant}'"):
        open_data(str(yaml))

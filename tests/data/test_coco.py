"""COCO JSON: what is read, joined, dropped, listed and refused."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as run_lengths

from yolov7.config import InputError
from yolov7.data.catalog import open_data, open_split
from yolov7.data.coco_annotations import join_polygons, read_polygon
from yolov7.data.coco_content import read_annotations
from yolov7.data.image_set import ImageSet, report_faults
from yolov7.keypoints import KeypointLayout

Write = Callable[..., Path]


def train_set(folder: Path) -> ImageSet:
    return open_split(open_data(str(folder)), "train")


def only_fault(image_set: ImageSet) -> tuple[str, bool]:
    assert len(image_set.faults) == 1, image_set.faults
    return str(image_set.faults[0]), image_set.faults[0].skipped


def test_boxes_labels_and_ids(coco_folder: Write) -> None:
    folder = coco_folder([[{"bbox": [4, 6, 10, 20]}, {"bbox": [30, 10, 8, 8], "category_id": 7}], []])
    found = train_set(folder)
    assert found.names == ("cat", "dog")  # by id, not by place
    assert found.category_ids == (3, 7)
    assert found.image_ids == (1, 2)
    assert found.sizes.tolist() == [[48, 64], [48, 64]]
    assert found.offsets.tolist() == [0, 2, 2]
    assert found.objects.boxes.tolist() == [[4, 6, 14, 26], [30, 10, 38, 18]]
    assert found.objects.labels.tolist() == [0, 1]
    assert found.objects.polygons.offsets.tolist() == [0, 0, 0]
    assert found.background_count == 1
    assert (found.objects.boxes.dtype, found.objects.labels.dtype) == (np.float32, np.int64)
    assert found.sizes.dtype == np.int32


def test_boxes_over_the_border_are_clipped(coco_folder: Write) -> None:
    found = train_set(coco_folder([[{"bbox": [-5, 40, 20, 20]}]]))
    assert found.objects.boxes.tolist() == [[0, 40, 15, 48]]
    assert not found.faults


def test_crowds_are_no_objects_and_no_fault(coco_folder: Write) -> None:
    found = train_set(coco_folder([[{"bbox": [4, 6, 10, 20]}, {"bbox": [0, 0, 60, 40], "iscrowd": 1}]]))
    assert found.objects.boxes.tolist() == [[4, 6, 14, 26]]
    assert not found.faults
    assert len(found.ground_truth()["annotations"]) == 2


def test_crowds_are_kept_where_they_are_asked_for(coco_folder: Write) -> None:
    crowd = {"bbox": [40, 30, 60, 40], "iscrowd": 1, "area": 70.5, "segmentation": {"counts": [1], "size": [1, 1]}}
    broken = [{"bbox": bbox, "iscrowd": 1} for bbox in ([1, 2, 0, 4], [90, 90, 5, 5], None)]
    source = open_data(str(coco_folder([[{"bbox": [4, 6, 10, 20]}, crowd, crowd, *broken], [crowd]])))
    found = open_split(source, "train", crowds=True)
    assert found.objects.crowd.tolist() == [False, True, True, True]
    assert found.offsets.tolist() == [0, 3, 4]
    assert found.objects.boxes.tolist() == [[4, 6, 14, 26], *[[40, 30, 64, 48]] * 3]  # clipped as others are
    assert found.objects.areas.tolist() == [1, *[70.5] * 3]
    assert not found.objects.polygons.points.size and not found.faults  # a fault of a crowd is no fault
    without = open_split(source, "train")
    assert (without.offsets.tolist(), without.objects.crowd.tolist()) == ([0, 1, 1], [False])
    with pytest.raises(InputError, match="none of the 1 images has an object"):
        open_split(open_data(str(coco_folder([[crowd]], split="val"))), "val", training=True)


@pytest.mark.parametrize(
    ("bbox", "message"),
    [
        ([4, 6, 0, 20], "annotation 2: a box of zero size (0 x 20 px); the object is dropped"),
        ([4, 6, 5, -3], "annotation 2: a box of zero size (5 x -3 px); the object is dropped"),
        ([70, 6, 5, 5], "annotation 2: a box outside the image of 64 x 48 px; the object is dropped"),
        ([1, 2, 3, 4], "annotation 2: the same class and box as an earlier one; the object is dropped"),
    ],
)
def test_a_bad_object_is_dropped_and_listed(coco_folder: Write, bbox: list[float], message: str) -> None:
    found = train_set(coco_folder([[{"bbox": [1, 2, 3, 4]}, {"bbox": bbox}]]))
    assert found.objects.boxes.tolist() == [[1, 2, 4, 6]]
    text, skipped = only_fault(found)
    assert text.endswith(f"train.json: {message}")
    assert not skipped
    assert len(found.ground_truth()["annotations"]) == 2


@pytest.mark.parametrize("bbox", [[1, 2, 3], [1, 2, float("nan"), 4], [1, "x", 3, 4], None, [1, 2, float("inf"), 4]])
def test_a_garbled_box_costs_its_object(coco_folder: Write, bbox: Any) -> None:
    found = train_set(coco_folder([[{"bbox": bbox}], [{"bbox": [1, 2, 3, 4]}]]))
    assert found.image_ids == (1, 2) and found.offsets.tolist() == [0, 0, 1]
    text, skipped = only_fault(found)
    assert f"annotation 1: bbox is {bbox!r}; accepted: four numbers x, y, width, height; the object is drop" in text
    assert not skipped


def test_a_missing_image_is_skipped_and_listed(coco_folder: Write) -> None:
    folder = coco_folder([[{"bbox": [1, 2, 3, 4]}], [{"bbox": [1, 2, 3, 4]}]])
    (folder / "images" / "train" / "1.jpg").unlink()
    found = train_set(folder)
    assert found.image_ids == (2,)
    text, skipped = only_fault(found)
    assert f"1.jpg: missing, but named by {folder}/annotations/train.json; the image is skipped" in text
    assert skipped


def test_two_images_with_one_id(coco_folder: Write) -> None:
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 1, "file_name": "2.jpg"}]
    found = train_set(coco_folder([[{"bbox": [1, 2, 3, 4]}], []], images=images))
    assert found.image_ids == (1,)
    assert "has two images with the id 1; the second is skipped" in only_fault(found)[0]


def test_an_object_of_no_image_is_listed(coco_folder: Write) -> None:
    found = train_set(coco_folder([[{"bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4], "image_id": 9}]]))
    assert len(found.objects) == 1
    assert "annotation 2: image_id 9 is not in `images`; the object is dropped" in only_fault(found)[0]


def test_unknown_category(coco_folder: Write) -> None:
    folder = coco_folder([[{"bbox": [1, 2, 3, 4], "category_id": 5}]])
    with pytest.raises(InputError, match=r"train.json, annotation 1: found category_id 5; accepted: .*: 3, 7$"):
        train_set(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": []}, "`categories` is empty; accepted: at least one class"),
        ({"images": 3}, "images: holds a int; accepted: a list"),
        ({"images": [{"id": 1}]}, r"images\[0\]: the key 'file_name' is missing"),
        ({"annotations": {"id": 1}}, "annotations: holds a dict; accepted: a list"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "categories: the id 1 stands twice"),
        ({"categories": [{"id": "x", "name": "a"}]}, "found the id 'x'; accepted: whole numbers"),
    ],
)
def test_a_wrong_structure_is_refused(coco_folder: Write, changes: dict[str, Any], message: str) -> None:
    folder = coco_folder([[{"bbox": [1, 2, 3, 4]}]], **changes)
    with pytest.raises(InputError, match=message):
        train_set(folder)


def test_a_missing_key_is_named(coco_folder: Write) -> None:
    folder = coco_folder([[]])
    (folder / "annotations" / "train.json").write_text('{"image": [], "categories": []}')
    with pytest.raises(InputError, match="train.json: the key 'images' is missing; did you mean 'image'?"):
        train_set(folder)


def test_broken_json(coco_folder: Write) -> None:
    folder = coco_folder([[]])
    (folder / "annotations" / "train.json").write_text('{"images": [')
    with pytest.raises(InputError, match="train.json: is not valid JSON: "):
        train_set(folder)


def test_no_usable_image_says_why(coco_folder: Write) -> None:
    folder = coco_folder([[{"bbox": [1, 2, 3, 4]}]])
    (folder / "images" / "train" / "1.jpg").write_bytes(b"")
    message = r"train.json: no usable image \(1 skipped\): .*1.jpg: the file is empty \(0 bytes\); the image is sk"
    with pytest.raises(InputError, match=message):
        train_set(folder)


def test_annotations_may_be_absent(coco_folder: Write) -> None:
    folder = coco_folder([[], []], split="test")
    file = folder / "annotations" / "test.json"
    content = json.loads(file.read_text())
    del content["annotations"]
    file.unlink()
    (folder / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content))
    found = open_split(open_data(str(folder)), "test")
    assert len(found) == 2
    assert len(found.objects) == 0


# --- polygons --------------------------------------------------------------------------------------------------


def area(points: np.ndarray) -> float:
    x, y = points[:, 0], points[:, 1]
    return abs(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))) / 2


def test_parts_are_joined_at_the_closest_vertices() -> None:
    first, second = [0, 0, 10, 0, 10, 10, 0, 10], [20, 0, 24, 0, 24, 8, 20, 8]
    joined = join_polygons([first, second])
    assert joined.tolist() == [
        [0, 0], [10, 0], [20, 0], [24, 0], [24, 8], [20, 8], [20, 0], [10, 0], [10, 10], [0, 10]
    ]  # fmt: skip
    assert area(joined) == 100 + 32


@pytest.mark.parametrize(
    "segmentation", [None, [], {"counts": "abc", "size": [4, 4]}, [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [["a"] * 6]]
)
def test_no_polygon_is_a_box_only(segmentation: Any) -> None:
    assert join_polygons(segmentation).shape == (0, 2)


def test_polygons_stand_beside_their_objects(coco_folder: Write) -> None:
    square = [10, 10, 20, 10, 20, 20, 64.75, 20]  # its last point lies outside, by less than a pixel
    objects = [
        {"bbox": [1, 2, 3, 4]},
        {"bbox": [10, 10, 10, 10], "segmentation": [square]},
        {"bbox": [5, 5, 9, 9], "segmentation": {"counts": [1, 2], "size": [48, 64]}},
    ]
    found = train_set(coco_folder([objects]))
    assert found.objects.polygons.offsets.tolist() == [0, 0, 4, 4]
    polygons = found.objects_of(0).polygons
    assert [len(points) for points in polygons] == [0, 4, 0]
    assert polygons.of(1).tolist() == [[10, 10], [20, 10], [20, 20], [64, 20]]


# --- real files ------------------------------------------------------------------------------------------------


def test_bccd(bccd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = open_data(str(bccd))
    train, val, test = (open_split(source, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (205, 87, 72)
    assert train.names == ("RBC", "WBC", "Platelets")
    assert (len(train.objects), len(val.objects)) == (2804, 1137)  # one of zero size in each
    assert train.sizes.tolist() == [[480, 640]] * 205
    assert len(val.ground_truth()["annotations"]) == 1138
    with caplog.at_level(logging.WARNING):
        report_faults(train, tmp_path)
    text = (tmp_path / "faults_train.txt").read_text()
    reason = "annotation 2288: a box of zero size (0 x 0 px); the object is dropped"
    assert text == f"{bccd}/annotations/train.json: {reason}\n"
    assert "train: 205 images (0 without objects), 2804 objects; skipped: 0 images, dropped: 1 obj" in caplog.text
    assert text.strip() in caplog.text


def test_coco_mini(coco_mini: Path) -> None:
    found = open_split(open_data(str(coco_mini)), "val")
    content = json.loads((coco_mini / "annotations" / "instances_val2017.json").read_text())
    assert len(found.names) == 80
    assert found.category_ids[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13)
    assert len(found.objects) == sum(not a["iscrowd"] for a in content["annotations"])
    assert (np.diff(found.objects.polygons.offsets) > 0).all()
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    assert found.sizes.tolist() == [sizes[image_id] for image_id in found.image_ids]
    assert found.ground_truth() == content


def test_json_and_txt_agree(coco_mini: Path, tmp_path: Path) -> None:
    shutil.copytree(coco_mini / "labels" / "val2017", tmp_path / "labels" / "val2017")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "val2017").symlink_to(coco_mini / "images" / "val2017")
    yaml = tmp_path / "mini.yaml"
    yaml.write_text("val: images/val2017\nnc: 80\n")
    by_text = open_split(open_data(str(yaml)), "val")
    by_json = open_split(open_data(str(coco_mini)), "val")
    order = [by_json.image_ids.index(image_id) for image_id in by_text.image_ids]
    for i, j in enumerate(order):
        objects, expected = by_text.objects_of(i), by_json.objects_of(j)
        assert sorted(objects.labels.tolist()) == sorted(expected.labels.tolist())
        np.testing.assert_allclose(np.sort(objects.boxes, axis=0), np.sort(expected.boxes, axis=0), atol=0.01)


# --- keypoints -------------------------------------------------------------------------------------------------

PEOPLE = [{"id": 3, "name": "person", "keypoints": ["nose", "tail"]}, {"id": 7, "name": "dog"}]


def test_keypoints_stand_beside_their_objects(coco_folder: Write) -> None:
    points = [5, 6, 2, 40, 30, 0]  # where a point is not labelled, its place says nothing
    objects = [{"bbox": [1, 2, 30, 40]}, {"bbox": [4, 6, 10, 20], "keypoints": points, "num_keypoints": 1}]
    found = train_set(coco_folder([[], objects], categories=PEOPLE))
    assert found.keypoint_names == ("nose", "tail")
    assert found.objects.keypoints.dtype == np.float32
    assert found.objects.keypoints.tolist() == [[[0, 0, 0], [0, 0, 0]], [[5, 6, 2], [0, 0, 0]]]
    assert found.objects_of(0).keypoints.shape == (0, 2, 3)
    assert found.objects_of(1).keypoints.tolist() == found.objects.keypoints.tolist()
    assert not found.faults


def test_without_keypoints_there_are_no_columns(coco_folder: Write) -> None:
    found = train_set(coco_folder([[{"bbox": [1, 2, 30, 40]}]]))
    assert found.objects.keypoints.shape == (1, 0, 3)
    assert found.keypoint_names == ()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([5, 6, 2], "found 3 values; accepted: 6 numbers (x, y, visibility for each)"),
        ([5, 6, 2, "a", 5, 1], "found 6 values; accepted: 6 numbers"),
        (None, "found None; accepted: 6 numbers"),
        ([5, 6, 2, 10, 10, 3], "found a visibility other than 0, 1 and 2"),
    ],
)
def test_bad_keypoints_are_listed_and_zero(coco_folder: Write, points: Any, message: str) -> None:
    found = train_set(coco_folder([[{"bbox": [4, 6, 10, 20], "keypoints": points}]], categories=PEOPLE))
    assert found.objects.boxes.tolist() == [[4, 6, 14, 26]]
    assert not found.objects.keypoints.any()
    assert found.faults[0].kept
    assert f"train.json: annotation 1: keypoints: {message}" in only_fault(found)[0]


@pytest.mark.parametrize("points", [[5, 6, 2, 70, 10, 1], [5, 6, 2, 10, -1, 1]])
def test_a_point_outside_the_image_costs_itself(coco_folder: Write, points: list[int]) -> None:
    found = train_set(coco_folder([[{"bbox": [4, 6, 10, 20], "keypoints": points}]], categories=PEOPLE))
    assert found.objects.keypoints.tolist() == [[[5, 6, 2], [0, 0, 0]]]
    text = "annotation 1: keypoints: labelled points outside the image of 64 x 48 px: 1; they are left out"
    assert only_fault(found)[0].endswith(text) and found.faults[0].kept


def test_what_categories_say_of_key_points(coco_folder: Write, caplog: pytest.LogCaptureFixture) -> None:
    names = {"keypoints": ["nose", "left_eye", "right_eye"]}
    more = names | {"skeleton": [[1, 2], [1, 3]], "sigmas": [0.02, 0.03, 0.03]}
    categories = [{"id": 3, "name": "cat"} | more, {"id": 7, "name": "dog"} | names]
    points = [{"bbox": [4, 6, 10, 20], "keypoints": [5, 6, 2] * 3, "category_id": i} for i in (3, 7)]
    folder = coco_folder([points], categories=categories)
    for _ in range(2):  # the second time from the cache
        found = train_set(folder)
        assert found.keypoint_limbs == ((0, 1), (0, 2)) and found.keypoint_flip == (0, 2, 1)
        assert found.keypoint_sigmas == (0.02, 0.03, 0.03)
        assert (found.objects.keypoints[:, 0] == (5, 6, 2)).all() and found.objects.labels.tolist() == [0, 1]
    categories[0]["skeleton"] = [[1, 4]]
    assert train_set(coco_folder([points], categories=categories)).keypoint_limbs == ()
    assert "skeleton: found the key point 4; accepted: 1 to 3, as there are 3; no limbs are drawn" in caplog.text


def test_key_points_that_only_the_yaml_names(coco_folder: Write) -> None:
    folder = coco_folder([[{"bbox": [4, 6, 10, 20], "keypoints": [5, 6, 2, 8, 9, 1]}]])
    yaml = folder / "set.yaml"
    splits = "train: {images: images/train, annotations: annotations/train.json}\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\n"
    yaml.write_text(splits + "kpt_names: [a, b]\nskeleton: [[1, 2]]\nsigmas: [0.1, 0.2]\n")
    for _ in range(2):
        found = open_split(open_data(str(yaml)), "train")
        assert found.keypoint_layout == KeypointLayout(("a", "b"), ((0, 1),), (1, 0), (0.1, 0.2))
        assert found.objects.keypoints.tolist() == [[[5, 6, 2], [8, 9, 1]]]
    coco_folder([[{"bbox": [4, 6, 10, 20], "keypoints": [5, 6, 2]}]], categories=[
        {"id": 3, "name": "cat", "keypoints": ["nose"]}])
    with pytest.raises(InputError, match=r"have 1 key points \(nose\), but kpt_shape in .*set.yaml says 2"):
        open_split(open_data(str(yaml)), "train")


def test_an_outline_that_leaves_the_image_is_cut_off_where_it_ends(coco_folder: Write) -> None:
    outline = [30, 10, 94, 42, 30, 42]  # its edge leaves the image of 64 x 48 at (64, 27)
    found = train_set(coco_folder([[{"bbox": [30, 10, 34, 32], "segmentation": [outline]}]]))
    polygon = found.objects.polygons.of(0).tolist()
    assert [64, 27] in polygon and [64, 42] in polygon and len(polygon) == 4


def test_objects_that_are_kept_are_not_counted_as_dropped(
    coco_folder: Write, caplog: pytest.LogCaptureFixture
) -> None:
    objects = [{"bbox": [4, 6, 10, 20], "keypoints": []}, {"bbox": [4, 6, 0, 0]}]
    report_faults(train_set(coco_folder([objects], categories=PEOPLE)), None)
    assert "skipped: 0 images, dropped: 1 objects, kept without a polygon or key points: 1; the first:" in caplog.text


def test_differing_keypoints_are_not_read(coco_folder: Write, caplog: pytest.LogCaptureFixture) -> None:
    categories = [*PEOPLE, {"id": 9, "name": "cat", "keypoints": ["tail", "nose"]}]
    found = train_set(coco_folder([[{"bbox": [4, 6, 10, 20]}]], categories=categories))
    assert "'cat' has the key points tail, nose, but 'person' has nose, tail: none are read" in caplog.text
    assert found.keypoint_names == () and len(found.objects) == 1


# --- run-length masks ------------------------------------------------------------------------------------------


def run_length_mask(mask: np.ndarray, compressed: bool) -> dict[str, Any]:
    if compressed:
        encoded = run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
    return {"size": list(mask.shape), "counts": np.diff(edges, prepend=0).tolist()}


@pytest.mark.parametrize("compressed", [True, False])
def test_run_length_masks_become_polygons(coco_folder: Write, compressed: bool) -> None:
    mask = np.zeros((48, 64), bool)
    mask[10:20, 30:50] = True
    mask[40:48, 0:64] = True
    found = train_set(coco_folder([[{"bbox": [0, 10, 64, 38], "segmentation": run_length_mask(mask, compressed)}]]))
    assert not found.faults
    polygon = found.objects.polygons.of(0)
    assert area(polygon) == pytest.approx(mask.sum(), rel=0.002)
    np.testing.assert_allclose([*polygon.min(0), *polygon.max(0)], [0, 10, 64, 48], atol=1 / 200)


def test_many_masks_are_read_as_pycocotools_reads_them() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        mask = np.kron(rng.random((rng.integers(1, 9), rng.integers(1, 9))) < 0.5, np.ones((31, 17))) > 0
        painted = np.zeros(mask.shape, np.uint8)
        polygon = read_polygon(run_length_mask(mask, compressed=True), mask.shape)
        hull = np.zeros(mask.shape, bool) if not mask.any() else mask
        if len(polygon):
            cv2.fillPoly(painted, [np.round(polygon - 0.5).astype(np.int32)], 1)
        assert (painted.astype(bool) | ~hull).all()  # every pixel of the mask lies in its polygon


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"size": [48, 64], "counts": [10, 5]}, "whose counts do not fill 64 x 48 px"),
        ({"size": [48, 64], "counts": [10, -5, 3067]}, "whose counts do not fill 64 x 48 px"),
        ({"size": [48, 64], "counts": "99999"}, "whose counts do not fill 64 x 48 px"),
        ({"size": [48, 64], "counts": "PPPPPPPPPPPP"}, "that ends within a count"),
        ({"size": [48, 64], "counts": "\u00e9"}, "with characters that no count has"),
        ({"size": [48, 64]}, "whose counts do not fill 64 x 48 px"),
        ({"size": [64, 48], "counts": [3072]}, r"of the size [64, 48]; accepted: [48, 64]"),
        ({"counts": [3072]}, "of the size None; accepted: [48, 64]"),
    ],
)
def test_a_broken_mask_leaves_a_box(coco_folder: Write, mask: dict[str, Any], message: str) -> None:
    found = train_set(coco_folder([[{"bbox": [4, 6, 10, 20], "segmentation": mask}]]))
    assert found.objects.boxes.tolist() == [[4, 6, 14, 26]]
    assert found.objects.polygons.points.shape == (0, 2)
    text = f"annotation 1: a run-length mask {message}; the object is a box only"
    assert only_fault(found)[0].endswith(text)


def test_annotations_are_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    for path in (tmp_path / "fifo.json", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="is not a regular file"):
            read_annotations(path)

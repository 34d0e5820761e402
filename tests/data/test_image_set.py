"""Some classes of a data set, or all as one: objects, and what they are scored against."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_records import NO_POLYGON, ImageRecord, ObjectRecord, build_image_set

from yolov7.config import InputError
from yolov7.data.catalog import open_data, open_split
from yolov7.data.image_set import ImageSet, choose_classes, class_indices, class_names, merge_classes, select_classes
from yolov7.evaluation.coco import score_detections

Write = Callable[..., Path]
CAT, DOG, COW = {"category_id": 3}, {"category_id": 7}, {"category_id": 5}
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 5, "name": "cow"}]
TRIANGLE = [[20, 20, 30, 20, 30, 30]]


@pytest.fixture
def animals(coco_folder: Write) -> ImageSet:
    """Three images: a dog, a cat and a crowd of cats; a cow; nothing."""
    first = [{"bbox": [1, 2, 3, 4]} | DOG, {"bbox": [20, 20, 10, 10], "segmentation": TRIANGLE} | CAT,
             {"bbox": [40, 0, 20, 20], "iscrowd": 1} | CAT]
    folder = coco_folder([first, [{"bbox": [5, 5, 9, 9]} | COW], []], categories=CATEGORIES)
    return open_split(open_data(str(folder)), "train")


def test_classes_by_name_or_number() -> None:
    assert class_indices(("dog", "0"), ("cat", "dog")) == (1, 0)
    assert class_indices(("1",), ("1", "0")) == (0,)  # a name comes first
    with pytest.raises(InputError, match="--classes: unknown class 'dgo'; accepted: cat, dog; did you mean 'dog'"):
        class_indices(("dgo",), ("cat", "dog"))
    with pytest.raises(InputError, match="unknown class '2'; accepted: cat, dog or 0 to 1"):
        class_indices(("2",), ("cat", "dog"))


def test_objects_of_other_classes_go_and_all_images_stay(animals: ImageSet) -> None:
    found = select_classes(animals, ("dog", "cat"))
    assert found.paths == animals.paths
    assert (found.names, found.category_ids) == (("cat", "dog"), (3, 7))  # in the order of the data set
    assert found.offsets.tolist() == [0, 2, 2, 2]
    assert found.objects.labels.tolist() == [1, 0]
    assert found.objects.boxes.tolist() == [[1, 2, 4, 6], [20, 20, 30, 30]]
    assert found.objects.polygons.offsets.tolist() == [0, 0, 3]
    assert len(found.objects.keypoints) == 2
    assert found.objects_of(0).polygons.of(1).ravel().tolist() == TRIANGLE[0]
    assert found.background_count == 2


def test_polygons_follow_their_objects(animals: ImageSet) -> None:
    found = select_classes(animals, ("cat",))
    assert found.objects.polygons.points.ravel().tolist() == TRIANGLE[0]
    assert found.objects.polygons.offsets.tolist() == [0, 3]
    assert len(select_classes(animals, ("dog",)).objects.polygons.points) == 0


def test_other_categories_are_not_scored_and_crowds_stay(animals: ImageSet) -> None:
    truth = select_classes(animals, ("cat", "dog")).ground_truth()
    assert {category["id"] for category in truth["categories"]} == {3, 7}
    assert [(a["category_id"], a["iscrowd"]) for a in truth["annotations"]] == [(7, 0), (3, 0), (3, 1)]


def test_a_perfect_detector_of_some_classes_scores_one(animals: ImageSet) -> None:
    found = select_classes(animals, ("cat", "dog"))
    boxes = [(7, [1, 2, 3, 4]), (3, [20, 20, 10, 10])]
    perfect = [{"image_id": 1, "category_id": i, "bbox": box, "score": 0.9} for i, box in boxes]
    scores = [score_detections(s.ground_truth(), perfect, s.image_ids).AP for s in (found, animals)]
    assert scores == pytest.approx([1, 2 / 3])


def test_all_classes_as_one(animals: ImageSet) -> None:
    found = merge_classes(animals, "animal")
    assert (found.names, found.category_ids, found.objects.labels.tolist()) == (("animal",), (1,), [0, 0, 0])
    truth = found.ground_truth()
    assert truth["categories"] == [{"id": 1, "name": "animal"}]
    assert [(a["category_id"], a["iscrowd"]) for a in truth["annotations"]] == [(1, 0), (1, 0), (1, 1), (1, 0)]


def test_some_classes_as_one(animals: ImageSet) -> None:
    found = choose_classes(animals, ("cow", "dog"), single_cls=True)
    assert (found.names, found.offsets.tolist()) == (("object",), [0, 1, 2, 2])
    assert [a["bbox"] for a in found.ground_truth()["annotations"]] == [[1, 2, 3, 4], [5, 5, 9, 9]]


def test_label_files_are_scored_by_their_chosen_classes(yolo_folder: Write) -> None:
    folder = yolo_folder("0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.2 0.2\n")
    found = open_split(open_data(str(folder)), "train")
    assert [a["category_id"] for a in select_classes(found, ("dog",)).ground_truth()["annotations"]] == [2]
    assert [a["category_id"] for a in merge_classes(found).ground_truth()["annotations"]] == [1, 1]


@pytest.mark.parametrize(("classes", "single", "names"), [
    ((), False, ("a", "b", "c")), (("2", "a"), False, ("a", "c")), (("c",), True, ("object",)), ((), True, ("object",)),
])  # fmt: skip
def test_names_are_known_beforehand(classes: tuple[str, ...], single: bool, names: tuple[str, ...]) -> None:
    assert class_names(("a", "b", "c"), classes, single) == names


def test_no_object_of_the_classes(coco_folder: Write) -> None:
    found = open_split(open_data(str(coco_folder([[{"bbox": [1, 2, 3, 4]} | DOG]]))), "train")
    message = "none of the 1 objects of the split 'train' is of cat; accepted: classes with objects: dog"
    with pytest.raises(InputError, match=message):
        select_classes(found, ("cat",))


def test_images_without_any_object_may_be_evaluated(coco_folder: Write) -> None:
    found = open_split(open_data(str(coco_folder([[]], split="test"))), "test")
    assert len(select_classes(found, ("cat",))) == 1


def test_bccd(bccd: Path) -> None:
    val = open_split(open_data(str(bccd)), "val")
    content = json.loads((bccd / "annotations" / "val.json").read_text())
    kept = select_classes(val, ("WBC", "Platelets"))
    wanted = {kept.category_ids[i] for i in range(2)}
    assert {c["name"] for c in content["categories"] if c["id"] in wanted} == {"WBC", "Platelets"}
    assert kept.ground_truth()["annotations"] == [a for a in content["annotations"] if a["category_id"] in wanted]
    assert len(kept.objects) == sum(a["category_id"] in wanted and a["area"] > 0 for a in content["annotations"])
    mask = np.isin(val.objects.labels, class_indices(kept.names, val.names))
    np.testing.assert_array_equal(kept.objects.boxes, val.objects.boxes[mask])


def test_ground_truth_of_label_files_has_masks_and_key_points() -> None:
    square = np.array([(2, 2), (20, 2), (20, 20), (2, 20)], np.float32)
    points = np.array([(3, 4, 2), (5, 6, 1), (0, 0, 0)], np.float32)
    items = [ObjectRecord((2, 2, 20, 20), 0, square, points), ObjectRecord((1, 1, 9, 9), 0, NO_POLYGON)]
    image_set = build_image_set([ImageRecord("a.jpg", 1, (48, 64), items)], ("cat",), (1,), [], annotation_file=None,
                                split="val", keypoint_names=("nose", "left_eye", "right_eye"))
    first, second = image_set.ground_truth()["annotations"]
    assert first["keypoints"] == [3, 4, 2, 5, 6, 1, 0, 0, 0] and first["num_keypoints"] == 2
    assert first["segmentation"] == [square.ravel().tolist()] and "segmentation" not in second
    assert second["num_keypoints"] == 0
    plain = image_set.ground_truth(shapes=False)
    assert "segmentation" not in plain["annotations"][0]
    assert plain["categories"] == [{"id": 1, "name": "cat"}]
    named = image_set.ground_truth()["categories"]
    assert named == [{"id": 1, "name": "cat", "keypoints": ["nose", "left_eye", "right_eye"]}]

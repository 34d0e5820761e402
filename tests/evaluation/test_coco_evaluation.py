"""COCO scoring against pycocotools itself."""

import contextlib
import copy
import io
import json
import os
import pickle
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_records import NO_POLYGON, ImageRecord, ObjectRecord, build_image_set
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolov7.config import InputError
from yolov7.data.image_set import ImageSet
from yolov7.evaluation.coco import CocoBoxes, CocoResult, score_detections, to_coco, write_predictions
from yolov7.structures import Instances

COCO_MINI = Path(__file__).parents[2].parent / "shared" / "data" / "coco-mini" / "annotations"
Json = dict[str, Any]


def oracle(ground_truth: Json, detections: list[Json], image_ids: list[Any]) -> COCOeval:
    """pycocotools as its users call it."""
    coco = COCO()
    coco.dataset = copy.deepcopy(ground_truth)
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(detections)), "bbox")
    evaluation.params.imgIds = image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def around(ground_truth: Json, seed: int) -> list[Json]:
    """Random detections: shaken and relabelled ground truth, doubles, misses and boxes out of nowhere."""
    r = np.random.RandomState(seed)
    categories = [c["id"] for c in ground_truth["categories"]]
    found = []
    for annotation in ground_truth["annotations"]:
        left, top, width, height = annotation["bbox"]
        for _ in range(r.randint(0, 4)):
            shake = r.standard_normal(4) * 0.12
            size = np.array([width, height])
            box = [*((left, top) + shake[:2] * size), *(size * np.exp(shake[2:]))]
            category = annotation["category_id"] if r.random_sample() < 0.85 else categories[r.randint(len(categories))]
            found.append((annotation["image_id"], category, box))
    for _ in range(200):
        image = ground_truth["images"][r.randint(len(ground_truth["images"]))]
        found.append((image["id"], categories[r.randint(len(categories))], list(r.uniform(1, 300, 4))))
    scores = np.round(r.random_sample(len(found)), r.randint(1, 6))  # few decimals: many equal scores
    return [
        {"image_id": image, "category_id": category, "bbox": [round(float(v), 3) for v in box], "score": float(score)}
        for (image, category, box), score in zip(found, scores, strict=True)
    ]


def crowded(seed: int, images: int = 12, classes: int = 5) -> Json:
    """A random data set with iscrowd=1, areas smaller than boxes, empty images and a class without objects."""
    r = np.random.RandomState(seed)
    annotations = []
    for number in range(1, images * 6):
        width, height = np.exp(r.uniform(1.5, 5.5, 2))
        box = [*r.uniform(0, 400, 2).tolist(), float(width), float(height)]
        annotations.append({
            "id": number,
            "image_id": int(r.randint(1, images)) * 10,  # the last image stays empty
            "category_id": int(r.randint(1, classes)) * 7,  # the last class, too
            "bbox": box,
            "area": box[2] * box[3] * 0.7,
            "iscrowd": int(r.random_sample() < 0.1),
        })
    return {
        "images": [{"id": 10 * i} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": 7 * c, "name": f"class {c}"} for c in range(classes, 0, -1)],
    }


def small() -> Json:
    """Two images, two classes, one object each."""
    boxes = {1: [10.0, 10.0, 40.0, 40.0], 2: [50.0, 20.0, 100.0, 120.0]}
    return {
        "images": [{"id": i} for i in boxes],
        "annotations": [{"id": i, "image_id": i, "category_id": i, "bbox": box} for i, box in boxes.items()],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def perfect(ground_truth: Json) -> list[Json]:
    keys = ("image_id", "category_id", "bbox")
    return [{**{key: a[key] for key in keys}, "score": 0.9} for a in ground_truth["annotations"]]


def assert_equals_oracle(ground_truth: Json, detections: list[Json], image_ids: list[Any]) -> CocoResult:
    result = score_detections(ground_truth, detections, image_ids)
    expected = oracle(ground_truth, detections, image_ids)
    assert result.stats == tuple(expected.stats)
    precision = expected.eval["precision"][:, :, :, 0, 2]  # [10, 101, C]
    for index, row in enumerate(result.per_class):
        mean = precision[:, :, index].mean() if row.objects else -1
        assert astuple(row)[3:5] == pytest.approx((mean, precision[0, :, index].mean()), abs=1e-12)
    return result


@pytest.mark.untraced
@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="needs ../shared/data/coco-mini")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_mini_equals_pycocotools(split: str, seed: int) -> None:
    ground_truth = json.loads((COCO_MINI / f"instances_{split}.json").read_text())
    detections = around(ground_truth, seed)
    image_ids = [image["id"] for image in ground_truth["images"]]
    result = assert_equals_oracle(ground_truth, detections, image_ids)
    assert result.images == len(image_ids)
    assert result.objects == sum(not a["iscrowd"] for a in ground_truth["annotations"])
    assert len(result.per_class) == 80
    assert 0.05 < result.AP < result.AP50 < 1


def part_of(ground_truth: Json, seed: int) -> tuple[Json, list[Json]]:
    """Some images of a data set, and detections; by the seed with more iscrowd=1, without objects, classes or finds."""
    r = np.random.RandomState(seed)
    images = [ground_truth["images"][i] for i in r.choice(len(ground_truth["images"]), r.randint(1, 9), replace=False)]
    kept = {image["id"] for image in images}
    annotations = [dict(a) for a in ground_truth["annotations"] if a["image_id"] in kept]
    for annotation in annotations:
        annotation["iscrowd"] = int(annotation["iscrowd"] or (seed % 2 and r.random_sample() < 0.2))
    chosen = {c["id"] for c in ground_truth["categories"] if seed % 5 or r.random_sample() < 0.5}  # some may be empty
    part = {"images": images, "categories": ground_truth["categories"],
            "annotations": [] if seed % 20 == 7 else [a for a in annotations if a["category_id"] in chosen]}
    whole = {**part, "annotations": annotations}
    return part, [] if seed % 20 == 13 else around(whole, seed)[:: r.randint(1, 4)]


@pytest.mark.untraced
@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="needs ../shared/data/coco-mini")
@pytest.mark.parametrize("tens", range(20))
def test_two_hundred_random_sets_equal_pycocotools(tens: int) -> None:
    ground_truth = json.loads((COCO_MINI / f"instances_{('train', 'val')[tens % 2]}2017.json").read_text())
    for seed in range(10 * tens, 10 * tens + 10):
        part, detections = part_of(ground_truth, seed)
        ids = [image["id"] for image in part["images"]]
        result = score_detections(part, detections, ids)
        if not detections:  # pycocotools refuses an empty list
            assert result.AP == 0 and result.stats[0] == (0.0 if result.objects else -1.0)
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            assert result.stats == tuple(oracle(part, detections, ids).stats), seed


@pytest.mark.parametrize("seed", range(8))
def test_random_sets_equal_pycocotools(seed: int) -> None:
    ground_truth = crowded(seed)
    detections = around(ground_truth, seed)
    before = copy.deepcopy((ground_truth, detections))
    result = assert_equals_oracle(ground_truth, detections, [image["id"] for image in ground_truth["images"]])
    assert (ground_truth, detections) == before
    assert [row.name for row in result.per_class] == [f"class {c}" for c in range(1, 6)]  # in the order of ids
    assert result.per_class[-1].objects == 0
    assert result.per_class[-1].AP == -1


def test_only_the_evaluated_images_count() -> None:
    ground_truth = crowded(20)
    detections = around(ground_truth, 20)
    evaluated = [image["id"] for image in ground_truth["images"]][2:7]
    result = assert_equals_oracle(ground_truth, detections, evaluated)
    assert result.images == 5
    everything = score_detections(ground_truth, detections, [i["id"] for i in ground_truth["images"]])
    assert everything.stats != result.stats


def test_hand_made_set() -> None:
    ground_truth = small()
    detections = perfect(ground_truth)
    detections[1]["bbox"] = [50.0, 20.0, 100.0, 75.0]  # IoU 0.625: right at 0.50, 0.55 and 0.60
    result = score_detections(ground_truth, detections, [1, 2])
    cat, dog = result.per_class
    assert astuple(cat)[:3] == ("cat", 1, 1)
    assert astuple(cat)[3:] == pytest.approx((1, 1, 1, 1))
    assert astuple(dog)[:3] == ("dog", 1, 1)
    assert astuple(dog)[3:] == pytest.approx((0.3, 1, 0, 0.3))
    headline = (result.AP, result.AP50, result.AP75)
    assert headline == pytest.approx((0.65, 1, 0.5))
    assert result.stats[3:6] == pytest.approx((-1, 1, 0.3))  # no small objects, the cat is medium, the dog large


def test_no_detections_score_zero() -> None:
    result = score_detections(small(), [], [1, 2])
    assert result.stats == (0, 0, 0, -1, 0, 0, 0, 0, 0, -1, 0, 0)
    assert result.AP == result.AP50 == result.AP75 == 0


@pytest.mark.parametrize(
    "ground_truth",
    [
        {**small(), "annotations": []},
        {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]},
        {"images": [{"id": 1}, {"id": 2}]},
        {},
    ],
    ids=["no_objects", "no_annotations_key", "images_only", "empty"],
)
@pytest.mark.parametrize("detections", [[], perfect(small())], ids=["no_detections", "detections"])
def test_no_ground_truth_is_nothing_to_measure(ground_truth: Json, detections: list[Json]) -> None:
    result = score_detections(ground_truth, detections, [1, 2])
    assert result.stats == (-1,) * 12
    assert result.AP == result.AP50 == result.AP75 == result.objects == 0
    assert "nothing to measure" in result.text()


def test_no_images() -> None:
    result = score_detections(small(), perfect(small()), [])
    assert result.stats == (-1,) * 12
    assert result.images == 0


def test_missing_area_and_iscrowd_are_filled_in() -> None:
    bare = crowded(3)
    for annotation in bare["annotations"]:
        annotation.update(area=annotation["bbox"][2] * annotation["bbox"][3], iscrowd=0)
    detections, image_ids = around(bare, 3), [image["id"] for image in bare["images"]]
    complete = assert_equals_oracle(bare, detections, image_ids)
    for annotation in bare["annotations"]:
        del annotation["area"], annotation["iscrowd"], annotation["id"]
    assert score_detections(bare, detections, image_ids).stats == complete.stats


def test_an_object_with_id_zero_can_be_found() -> None:
    ground_truth = small()
    for annotation in ground_truth["annotations"]:
        annotation["id"] -= 1
    assert score_detections(ground_truth, perfect(ground_truth), [1, 2]).stats[0] == pytest.approx(1)


def test_image_ids_may_be_texts() -> None:
    numbered, named = crowded(4), crowded(4)
    detections = around(numbered, 4)
    renamed = [{**d, "image_id": f"image-{d['image_id']:04d}"} for d in detections]
    for entry in named["images"]:
        entry["id"] = f"image-{entry['id']:04d}"
    for entry in named["annotations"]:
        entry["image_id"] = f"image-{entry['image_id']:04d}"
    result = score_detections(named, renamed, [image["id"] for image in named["images"]])
    assert result.stats == score_detections(numbered, detections, [i["id"] for i in numbered["images"]]).stats


def test_texts_and_numbers_may_be_mixed() -> None:
    ground_truth = small()
    ground_truth["images"][1]["id"] = ground_truth["annotations"][1]["image_id"] = "b"
    assert score_detections(ground_truth, perfect(ground_truth), [1, "b"]).stats[0] == pytest.approx(1)


def test_unknown_images_are_refused() -> None:
    with pytest.raises(InputError, match="2 of 3 evaluated images are not in its images, first the id '1'.* like 1"):
        score_detections(small(), [], [1, "1", "2"])


def test_an_annotation_without_box_is_refused() -> None:
    ground_truth = small()
    del ground_truth["annotations"][0]["bbox"]
    with pytest.raises(InputError, match=r"has the bbox None; accepted: \[left, top, width, height\]"):
        score_detections(ground_truth, [], [1, 2])


def test_detections_of_unknown_categories_are_ignored_as_by_pycocotools() -> None:
    ground_truth = crowded(5)
    stray = [{"image_id": 10, "category_id": 999, "bbox": [0.0, 0, 50, 50], "score": 1.0}]
    assert_equals_oracle(ground_truth, around(ground_truth, 5) + stray, [i["id"] for i in ground_truth["images"]])


def test_the_terminal_stays_silent(capsys: pytest.CaptureFixture[str]) -> None:
    score_detections(small(), perfect(small()), [1, 2])
    assert capsys.readouterr().out == ""


def test_text_names_the_numbers_and_the_classes() -> None:
    ground_truth = small()
    ground_truth["categories"].append({"id": 3, "name": "unicorn"})
    lines = score_detections(ground_truth, perfect(ground_truth), [1, 2]).text().splitlines()
    assert len([line for line in lines[:12] if line]) == 12
    assert lines[0].split() == ["AP", "1.000", "IoU", "0.50:0.95"]
    assert lines[3].split()[:2] == ["APs", "-"]
    assert lines[13].split() == ["class", "images", "objects", "AP", "AP50", "AP75", "AR100"]
    assert lines[14].split() == ["all", "2", "2", "1.000", "1.000", "1.000", "1.000"]
    assert lines[15].split() == ["cat", "1", "1", "1.000", "1.000", "1.000", "1.000"]
    assert lines[-1] == "without objects, not counted (1): unicorn"


def test_to_coco_rounds_and_maps() -> None:
    boxes = torch.tensor([[10.12345, 20.5, 30.98765, 60.0], [0, 0, 1, 2]])
    detections = Instances(boxes, torch.tensor([0.1234567, 1.0]), torch.tensor([1, 0]))
    assert to_coco(detections, 42, [5, 90]) == [
        {"image_id": 42, "category_id": 90, "bbox": [10.123, 20.5, 20.864, 39.5], "score": 0.12346},
        {"image_id": 42, "category_id": 5, "bbox": [0, 0, 1, 2], "score": 1},
    ]
    assert to_coco(Instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long()), 1, []) == []


def test_predictions_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "predictions.json"
    write_predictions(path, perfect(small()))
    assert json.loads(path.read_text()) == perfect(small())

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_predictions(path, [])
    assert json.loads(path.read_text()) == perfect(small())
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.json"]


def image_set(ground_truth: Json) -> ImageSet:
    """The objects of a COCO dictionary."""
    records = []
    for image in ground_truth["images"]:
        found = [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]]
        objects = [ObjectRecord((x, y, x + w, y + h), a["category_id"] - 1, NO_POLYGON)
                   for a in found for x, y, w, h in [a["bbox"]]]
        records.append(ImageRecord(f"{image['id']}.jpg", image["id"], (200, 200), objects))
    names = tuple(category["name"] for category in ground_truth["categories"])
    return build_image_set(records, names, tuple(range(1, len(names) + 1)), (), annotation_file=None, split="val")


def test_the_evaluator_gives_what_scoring_gives(tmp_path: Path) -> None:
    """Collected by two processes, merged, scored, and sent to another one: that one has no use for the predictions."""
    truth = small()
    data = image_set(truth)
    found = [Instances(torch.tensor([[10.0, 10, 50, 50]]), torch.tensor([0.9]), torch.tensor([0])),
             Instances(torch.tensor([[50.0, 20, 150, 95]]), torch.tensor([0.8]), torch.tensor([1]))]
    own, other = CocoBoxes(), CocoBoxes()
    own.add(found[0], data, 0)
    other.add(found[1], data, 1)
    own.merge(pickle.loads(pickle.dumps(other)))
    result = own.result(data)
    expected = perfect(truth)
    expected[1] |= {"bbox": [50.0, 20.0, 100.0, 75.0], "score": 0.8}
    assert list(result.predictions) == expected
    assert result == score_detections(truth, expected, [1, 2]) and result.stats[0] == pytest.approx(0.65)
    assert result.metrics() == {"AP": result.AP, "AP50": result.AP50, "AP75": result.AP75}
    assert result.fitness == 0.9 * result.AP + 0.1 * result.AP50
    assert result.table() == {"stats": list(result.stats), "images": 2,
                              "per_class": [vars(row) for row in result.per_class]}
    result.write(tmp_path, data.names, data)
    assert json.loads((tmp_path / "predictions.json").read_text()) == expected
    sent = pickle.loads(pickle.dumps(result))
    assert sent == result and not sent.predictions

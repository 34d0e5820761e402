"""COCO scoring of masks and key points against pycocotools itself."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_records import NO_POLYGON, ImageRecord, ObjectRecord, build_image_set
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolov7.config import InputError
from yolov7.data.catalog import open_data, open_split
from yolov7.data.coco_annotations import join_parts
from yolov7.data.image_set import ImageSet
from yolov7.evaluation import coco_scoring
from yolov7.evaluation.coco import CocoEvaluator, CocoKeypoints, CocoMasks, CocoResult, score_detections
from yolov7.evaluation.coco_scoring import segmentation_rle
from yolov7.keypoints import COCO_PERSON
from yolov7.masks import masks_of_rles
from yolov7.structures import Instances

COCO_MINI = Path(__file__).parents[2].parent / "shared" / "data" / "coco-mini" / "annotations"
GOLDEN = Path(__file__).parents[1] / "golden" / "pose"
needs_coco_mini = pytest.mark.skipif(not COCO_MINI.is_dir(), reason="needs ../shared/data/coco-mini")
Json = dict[str, Any]
FILES = {"segm": "instances", "keypoints": "person_keypoints"}
SPLITS = ("train2017", "val2017")


def oracle(kind: str, truth: Json, detections: list[Json], image_ids: list[Any], sigmas: Any = None) -> COCOeval:
    """pycocotools as its users call it."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(detections)), kind)
        evaluation.params.imgIds = image_ids
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def read(kind: str, split: str) -> Json:
    return json.loads((COCO_MINI / f"{FILES[kind]}_{split}.json").read_text())  # type: ignore[no-any-return]


def rle_of(pixels: np.ndarray) -> Json:
    rle = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": list(pixels.shape), "counts": rle["counts"].decode()}


def shaken_masks(truth: Json, seed: int) -> list[Json]:
    """Masks moved, eaten at, doubled, missed and relabelled; some without a pixel, some out of nowhere."""
    r = np.random.RandomState(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    categories = [category["id"] for category in truth["categories"]]
    found = []
    for annotation in truth["annotations"]:
        size = sizes[annotation["image_id"]]
        pixels = coco_mask.decode([segmentation_rle(annotation["segmentation"], size)])[..., 0]
        for _ in range(r.randint(0, 4)):
            moved = np.roll(pixels, (r.normal(0, 3, 2)).astype(int), (0, 1))
            if r.random_sample() < 0.3:
                moved[:, :: r.randint(2, 9)] = 0
            if r.random_sample() < 0.03:
                moved[:] = 0
            category = annotation["category_id"] if r.random_sample() < 0.85 else categories[r.randint(len(categories))]
            found.append((annotation["image_id"], category, rle_of(moved)))
    for _ in range(40):
        image, category = truth["images"][r.randint(len(sizes))]["id"], categories[r.randint(len(categories))]
        found.append((image, category, rle_of(r.random_sample(sizes[image]) < 0.02)))
    scores = np.round(r.random_sample(len(found)), r.randint(1, 6)).tolist()  # few decimals: many equal scores
    return [{"image_id": image, "category_id": category, "segmentation": rle, "score": score}
            for (image, category, rle), score in zip(found, scores, strict=True)]


def shaken_keypoints(truth: Json, seed: int) -> list[Json]:
    """Key points of all people, and of other objects out of nowhere, shaken by one, three or eight pixels."""
    r = np.random.RandomState(seed)
    found = []
    for annotation in truth["annotations"]:
        for _ in range(r.randint(0, 4)):
            points = np.array(annotation["keypoints"], float).reshape(-1, 3)
            if not points[:, 2].any():
                left, top, width, height = annotation["bbox"]
                points[:, :2] = (left, top) + r.uniform(-0.5, 1.5, (len(points), 2)) * (width, height)
            points[:, :2] += r.standard_normal((len(points), 2)) * r.choice([1, 3, 8])
            points[:, 2] = r.random_sample(len(points))
            found.append((annotation["image_id"], annotation["category_id"], points.round(3).ravel().tolist()))
    scores = np.round(r.random_sample(len(found)), r.randint(1, 6)).tolist()
    return [{"image_id": image, "category_id": category, "keypoints": values, "score": score}
            for (image, category, values), score in zip(found, scores, strict=True)]


SHAKEN: dict[str, Callable[[Json, int], list[Json]]] = {"segm": shaken_masks, "keypoints": shaken_keypoints}


def part_of(truth: Json, seed: int) -> Json:
    """Some images of a data set, by the seed with more crowds."""
    r = np.random.RandomState(seed)
    images = [truth["images"][i] for i in r.choice(len(truth["images"]), r.randint(6, 25), replace=False)]
    kept = {image["id"] for image in images}
    annotations = [dict(a) for a in truth["annotations"] if a["image_id"] in kept]
    for annotation in annotations:
        annotation["iscrowd"] = int(annotation["iscrowd"] or (seed % 2 and r.random_sample() < 0.2))
    return {**truth, "images": images, "annotations": annotations}


def check(kind: str, truth: Json, detections: list[Json], sigmas: tuple[float, ...]) -> CocoResult:
    ids = [image["id"] for image in truth["images"]]
    before = copy.deepcopy((truth, detections))
    result = score_detections(truth, detections, ids, kind, None, sigmas)
    expected = oracle(kind, truth, detections, ids)
    assert result.stats == tuple(expected.stats.tolist())
    precision = expected.eval["precision"][..., 0, -1]
    for index, row in enumerate(result.per_class):
        present = precision[:, :, index][precision[:, :, index] > -1]
        assert (float(present.mean()) if present.size else -1) == row.AP
    assert (truth, detections) == before
    return result


@pytest.mark.untraced
@needs_coco_mini
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", FILES)
def test_coco_mini_equals_pycocotools(kind: str, split: str, seed: int) -> None:
    truth = read(kind, split)
    result = check(kind, truth, SHAKEN[kind](truth, seed), COCO_PERSON.sigmas)
    assert 0.05 < result.AP < result.AP50 < 1 and result.kind == kind
    counted = [a for a in truth["annotations"] if not a["iscrowd"] and (kind == "segm" or a["num_keypoints"])]
    assert result.objects == len(counted)


@needs_coco_mini
@pytest.mark.parametrize("plain", [False, True], ids=["compiled", "pycocotools"])
@pytest.mark.parametrize("kind", FILES)
def test_random_parts_equal_pycocotools(kind: str, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:
        monkeypatch.setattr(coco_scoring, "_compiled_evaluation", coco_scoring._plain_evaluation)
    for seed in range(3 if plain else 8):
        truth = part_of(read(kind, SPLITS[seed % 2]), seed)
        check(kind, truth, SHAKEN[kind](truth, seed), COCO_PERSON.sigmas)


def people(count: int, seed: int, images: int = 9) -> Json:
    """Invented animals with so many key points, some without any."""
    r = np.random.RandomState(seed)
    annotations = []
    for number in range(1, 5 * images):
        left, top, width, height = *r.uniform(0, 300, 2), *np.exp(r.uniform(3, 5.5, 2))
        points = np.concatenate(((left, top) + r.random_sample((count, 2)) * (width, height),
                                 r.randint(0, 3, (count, 1))), axis=1) * (r.random_sample() < 0.8)
        points[points[:, 2] == 0] = 0
        annotations.append({"id": number, "image_id": int(r.randint(1, images)),
                            "iscrowd": int(r.random_sample() < 0.1), "category_id": int(r.randint(1, 3)),
                            "area": width * height * 0.6,
                            "bbox": [left, top, width, height], "keypoints": points.ravel().tolist(),
                            "num_keypoints": int((points[:, 2] > 0).sum())})
    return {"images": [{"id": i, "width": 640, "height": 640} for i in range(1, images + 1)],
            "annotations": annotations, "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]}


@pytest.mark.parametrize("count", [1, 5, 17, 30])
def test_other_key_points_have_other_sigmas(count: int) -> None:
    truth, sigmas = people(count, count), tuple(np.linspace(0.03, 0.12, count).tolist())
    found, ids = shaken_keypoints(truth, 3), [image["id"] for image in truth["images"]]
    result = score_detections(truth, found, ids, "keypoints", sigmas=sigmas)
    assert result.stats == tuple(oracle("keypoints", truth, found, ids, sigmas).stats.tolist())
    assert [row.name for row in result.per_class] == ["dog", "cat"] and 0 < result.AP < 1


def test_golden_pose_post_oks_stats() -> None:
    golden = json.loads((GOLDEN / "oks.json").read_text())
    truth = {"categories": [{"id": 1, "name": "person"}], **golden["ground_truth"]}
    ids = [image["id"] for image in truth["images"]]
    result = score_detections(truth, golden["detections"], ids, "keypoints", sigmas=COCO_PERSON.sigmas)
    assert result.stats == pytest.approx(tuple(golden["stats"].values()), abs=1e-12)
    assert [name.replace("m", "_medium").replace("l", "_large") for name in result.numbers] == list(golden["stats"])
    assert (result.stats[0], result.stats[2]) == (result.AP, result.AP75)


# --- what annotations may lack -----------------------------------------------------------------------------------


def square(number: int, **changes: Any) -> Json:
    """An object of 20 x 20 px in an image of 60 x 80."""
    box = [[10, 10, 30, 10, 30, 30, 10, 30]]
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "segmentation": box, **changes}


def scored(annotations: list[Json], found: list[np.ndarray], **changes: Any) -> CocoResult:
    truth = {"images": [{"id": 1}], "annotations": annotations, "categories": [{"id": 1, "name": "cat"}], **changes}
    rows = [{"image_id": 1, "category_id": 1, "segmentation": rle_of(pixels), "score": 0.9 - 0.1 * index}
            for index, pixels in enumerate(found)]
    return score_detections(truth, rows, [1], "segm", {1: (60, 80)})


def at(x: int, y: int) -> np.ndarray:
    pixels = np.zeros((60, 80), bool)
    pixels[y : y + 20, x : x + 20] = True
    return pixels


RUNS = {"size": [60, 80], "counts": [10 * 60 + 10, *[20, 40] * 19, 20, 60 * 80 - 10 * 60 - 10 - 20 * 20 - 19 * 40]}


@pytest.mark.parametrize("segmentation", [RUNS, rle_of(at(10, 10))], ids=["counts", "text"])
def test_run_lengths_and_areas_that_are_not_stated(segmentation: Json) -> None:
    result = scored([square(1, segmentation=segmentation)], [at(10, 10)])
    assert result.stats[:4] == pytest.approx((1, 1, 1, 1))
    assert result.numbers["APs"] == (pytest.approx(1), "small: area below 32 x 32 px")


@pytest.mark.parametrize("segmentation", [
    None, [], [[1, 2, 3, 4]], [["a"] * 6], "text", {"size": [60, 80], "counts": [3]},
    {"size": [60, 80], "counts": "5o"}, {"size": [80, 60], "counts": [4800]}, {"counts": [4800]}],
    ids=lambda value: str(value)[:30])
def test_an_object_without_a_mask_is_neither_missed_nor_wrong(segmentation: Any) -> None:
    known, unknown = square(1), square(2, segmentation=segmentation, bbox=[50, 10, 20, 20])
    result = scored([known, unknown], [at(50, 10), at(10, 10)])  # the first one lies where no mask is known
    assert result.stats[0] == pytest.approx(1) and result.objects == 1
    assert scored([unknown], []).stats[0] == -1


def test_no_detections_and_no_objects() -> None:
    assert scored([square(1)], []).AP == 0 and scored([square(1)], []).stats[0] == 0
    assert scored([], [at(1, 1)]).stats[0] == -1
    lines = scored([], [at(1, 1)]).text().splitlines()
    assert lines[0] == "masks:" and "The images have no objects: nothing to measure." in lines


# --- evaluators --------------------------------------------------------------------------------------------------


def collected(evaluator: CocoEvaluator, image_set: ImageSet, found: list[Instances]) -> CocoResult:
    for index, instances in enumerate(found):
        evaluator.add(instances, image_set, index)
    return pickle.loads(pickle.dumps(evaluator)).result(image_set)  # type: ignore[no-any-return]


def instances(boxes: np.ndarray, labels: np.ndarray, **columns: Any) -> Instances:
    return Instances(torch.from_numpy(boxes.astype(np.float32)), torch.full((len(labels),), 0.9),
                     torch.from_numpy(labels.astype(np.int64)), extra=columns)


def perfect(image_set: ImageSet, kind: str) -> list[Instances]:
    """The annotations themselves as detections, without crowds and objects whose key points nobody labelled."""
    truth, found = image_set.ground_truth(), []
    label_of = {category: label for label, category in enumerate(image_set.category_ids)}
    for image_id, size in zip(image_set.image_ids, image_set.sizes.tolist(), strict=True):
        rows = [a for a in truth["annotations"] if a["image_id"] == image_id and not a["iscrowd"]
                and a.get("num_keypoints", 1)]
        corners = np.array([a["bbox"] for a in rows], float).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = np.array([label_of[a["category_id"]] for a in rows], int)
        if kind == "segm":
            rles = [segmentation_rle(a["segmentation"], tuple(size)) for a in rows]
            found.append(instances(corners, labels, masks=masks_of_rles(rles, tuple(size))))
        else:
            points = np.array([a["keypoints"] for a in rows], np.float32).reshape(len(rows), 17, 3)
            found.append(instances(corners, labels, keypoints=torch.from_numpy(points)))
    return found


@needs_coco_mini
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", FILES)
def test_the_annotations_themselves_are_perfect(kind: str, split: str, tmp_path: Path) -> None:
    source = str(COCO_MINI.parent)
    if kind == "keypoints":
        source = str(tmp_path / "people.yaml")
        images = COCO_MINI.parent / "images"
        files = {name: {"images": f"{images / name}2017",
                        "annotations": f"{COCO_MINI}/person_keypoints_{name}2017.json"} for name in ("train", "val")}
        Path(source).write_text(json.dumps(files))  # which is YAML, too
    image_set = open_split(open_data(source), split)
    evaluator = CocoMasks() if kind == "segm" else CocoKeypoints()
    result = collected(evaluator, image_set, perfect(image_set, kind))
    assert result.stats[0] == pytest.approx(1, abs=1e-12) and result.stats[2] == pytest.approx(1, abs=1e-12)
    assert result.fitness == pytest.approx(1)
    result = collected(type(evaluator)(counts=False), image_set, perfect(image_set, kind))
    assert result.fitness is None
    evaluator.result(image_set).write(tmp_path, image_set.names, image_set)
    written = json.loads((tmp_path / f"predictions_{kind}.json").read_text())
    assert set(written[0]) == {"image_id", "category_id", "score", "segmentation" if kind == "segm" else "keypoints"}
    ids = list(image_set.image_ids)
    assert oracle(kind, read(kind, f"{split}2017"), written, ids).stats[0] == evaluator.result(image_set).stats[0]


def ring(x: int, y: int, side: int) -> np.ndarray:
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], np.float32)


def label_set() -> ImageSet:
    """As label files give it: two parts in one line, a hole, a box alone."""
    two, hole = join_parts([ring(5, 5, 10), ring(40, 5, 20)]), join_parts([ring(10, 30, 40), ring(20, 40, 20)])
    points = np.array([[20, 40, 2], [0, 0, 0], [48, 60, 1]], np.float32)
    records = [ObjectRecord((5, 5, 60, 25), 0, two), ObjectRecord((10, 30, 50, 70), 1, hole, points),
               ObjectRecord((70, 10, 90, 30), 0, NO_POLYGON)]
    return build_image_set([ImageRecord("1.jpg", 1, (80, 100), records), ImageRecord("2.jpg", 2, (80, 100), [])],
                           ("cat", "dog"), (1, 2), (), annotation_file=None, split="val",
                           keypoint_names=("a", "b", "c"))


def test_label_files_give_parts_holes_and_key_points() -> None:
    two, hole, box = label_set().ground_truth()["annotations"]
    assert sorted(map(sorted, two["segmentation"])) == sorted(sorted(r.ravel().tolist()) for r in
                                                              (ring(5, 5, 10), ring(40, 5, 20)))
    pixels = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(hole["segmentation"], 80, 100)))
    assert pixels.sum() == 1600 - 400 and pixels[35, 15] and not pixels[45, 25]
    assert "segmentation" not in box and box["num_keypoints"] == two["num_keypoints"] == 0
    assert hole["keypoints"] == [20, 40, 2, 0, 0, 0, 48, 60, 1] and hole["num_keypoints"] == 2
    assert [set(a) & {"segmentation", "keypoints"} for a in label_set().ground_truth(shapes=False)["annotations"]] == [
        set()] * 3


def test_label_files_are_scored() -> None:
    data = label_set()
    pixels = np.zeros((3, 80, 100), bool)
    pixels[0, 5:15, 5:15] = pixels[0, 5:25, 40:60] = True
    pixels[1, 30:70, 10:50] = True
    pixels[1, 40:60, 20:40] = False
    pixels[2, 12:28, 72:88] = True  # where only a box is known
    points = torch.tensor([[[0.0, 0, 0]] * 3, [[20, 40, 0.9], [3, 3, 0.1], [48, 60, 0.8]], [[0.0, 0, 0]] * 3])
    masks = masks_of_rles([rle_of(image) for image in pixels], (80, 100))
    boxes = np.array([[5, 5, 60, 25], [10, 30, 50, 70], [70, 10, 90, 30]])
    found = instances(boxes, np.array([0, 1, 0]), masks=masks, keypoints=points)
    result = collected(CocoMasks(), data, [found, found[:0]])
    assert result.stats[0] == pytest.approx(1) and result.objects == 2 and result.images == 2
    assert [result.numbers[name][0] for name in ("APs", "APm")] == pytest.approx([1, 1])  # 500 and 1200 px
    keypoints = collected(CocoKeypoints(), data, [found, found[:0]])
    assert keypoints.stats[0] == pytest.approx(1) and keypoints.objects == 1
    lines = keypoints.text().splitlines()
    assert lines[0] == "key points:" and lines[1].split()[:4] == ["AP", "1.000", "OKS", "0.50:0.95"]
    assert ["class", "images", "objects", "AP", "AP50", "AP75", "AR20"] in [line.split() for line in lines]
    assert keypoints.metrics() == {"AP": keypoints.AP, "AP50": keypoints.AP50, "AP75": keypoints.AP75}


def test_other_key_points_than_those_of_the_data_are_refused() -> None:
    found = instances(np.zeros((1, 4)), np.zeros(1), keypoints=torch.zeros(1, 17, 3))
    with pytest.raises(InputError, match=r"finds 17 of an object, but those of the split 'val' have 3"):
        CocoKeypoints().add(found, label_set(), 0)

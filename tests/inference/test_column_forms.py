"""Masks and key points in text files, JSON, COCO's results, tables and crops; and the flag that cuts crops out."""

from __future__ import annotations

import csv
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import micro_tasks
import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from yolov7 import cli
from yolov7.config.options import DetectOptions
from yolov7.data.images import cv2
from yolov7.data.video import Frame
from yolov7.inference.column_forms import MAX_LINES, coco_values, json_values, label_values, polygon_of, table_columns
from yolov7.inference.writers import COLUMNS, Result, json_record, label_text, open_writers
from yolov7.masks import Masks, masks_from
from yolov7.structures import Instances

NAMES = ("cat", "dog")
SIZE = (60, 80)  # height, width
EVERY = DetectOptions(save_txt=True, save_json=True, save_jsonl=True, save_coco=True, save_csv=True, save_crop=True,
                      nosave=True)


def disk(side: int, hole: int = 0) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    radius = x * x + y * y
    return (radius <= (side / 2) ** 2) & (radius >= (hole / 2) ** 2)


def segmented(*parts: tuple[int, int, np.ndarray], boxes: torch.Tensor | None = None) -> Instances:
    """Objects with masks at (left, top)."""
    windows = [(left, top, left + pixels.shape[1], top + pixels.shape[0]) for left, top, pixels in parts]
    masks = masks_from(windows, [pixels for _, _, pixels in parts], SIZE)
    count = len(parts)
    return Instances(torch.tensor(windows, dtype=torch.float32).reshape(-1, 4) if boxes is None else boxes,
                     torch.linspace(0.875, 0.5, count), torch.arange(count) % 2, NAMES, {"masks": masks})


def posed(count: int = 2) -> Instances:
    column = torch.tensor([[[10.0, 20, 0.9], [30.25, 40, 0.4], [70, 59, 0.5]],
                           [[0, 0, 0.1], [80, 60, 0.75], [12.3456, 1, 0.123456]]])[:count]
    boxes = torch.tensor([[10.0, 20, 40, 50], [5, 6, 70, 58]])[:count]
    return Instances(boxes, torch.tensor([0.875, 0.5])[:count], torch.tensor([1, 0])[:count], NAMES,
                     {"keypoints": column}, {"keypoints": ("head", "tail, end", "paw")})


def write(folder: Path, found: Instances, options: DetectOptions = EVERY) -> None:
    image = np.full((*SIZE, 3), 90, np.uint8)
    with ExitStack() as stack:
        for writer in open_writers(options, folder, NAMES, stack):
            writer(Result(Frame(image, "/in/a.png", "a", 0, None, 0.0), found, {}))


def filled(line: np.ndarray) -> np.ndarray:
    """The pixels whose centres lie inside a closed line by the even-odd rule: edges walked both ways cancel."""
    y, x = (np.mgrid[: SIZE[0], : SIZE[1]] + 0.5)[..., None]
    (x1, y1), (x2, y2) = line.T, np.roll(line, -1, axis=0).T
    with np.errstate(divide="ignore", invalid="ignore"):
        crosses = ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) / (y2 - y1) * (x2 - x1))
    inside: np.ndarray = crosses.sum(-1) % 2 == 1
    return inside


# --- text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [
    disk(21), disk(31, 12), np.eye(7, dtype=bool), np.kron(np.indices((3, 3)).sum(0) % 2 == 0, np.ones((6, 6), bool)),
    np.hstack((disk(25, 9), np.zeros((25, 4), bool), disk(25, 15)))], ids=["one", "hole", "corners", "parts", "both"])
def test_a_polygon_row_fills_to_the_mask(pixels: np.ndarray) -> None:
    found = segmented((11, 7, pixels))
    (text,) = label_text(found, (*SIZE, 3), with_score=False).splitlines()
    label, *numbers = text.split()
    line = np.array(numbers, float).reshape(-1, 2) * (SIZE[1], SIZE[0])
    assert label == "0" and np.array_equal(filled(np.round(line, 3)), found.extra["masks"].dense()[0].numpy())


def test_rows_of_masks_have_the_box_where_the_mask_is_empty_and_the_score_last() -> None:
    boxes = torch.tensor([[8.0, 6, 40, 36], [0, 0, 80, 60]])
    found = segmented((0, 0, np.zeros((0, 0), bool)), (10, 10, np.ones((10, 20), bool)), boxes=boxes)
    square, box = label_text(found, SIZE, with_score=True).splitlines()
    assert box == "0 0.3 0.35 0.4 0.5 0.875"
    assert square.split()[0] == "1" and square.split()[-1] == "0.5" and len(square.split()) == 10
    assert label_text(found[:0], SIZE, True) == ""


def test_masks_of_very_many_parts_have_the_longest() -> None:
    dots = np.zeros((60, 80), bool)
    dots[::2, ::2] = True  # 1200 parts
    dots[30:50, 30:50] = disk(20)
    masks = segmented((0, 0, dots)).extra["masks"]
    line = polygon_of(masks, 0)
    assert len(masks.polygons(0)) > MAX_LINES and filled(line)[35:45, 35:45].all()


def test_pose_rows_are_labels() -> None:
    """Box, then x y v of each point: 2 where it is seen, zeros where not; readable as a training set."""
    second, first = label_text(posed(), SIZE, with_score=False).splitlines()
    assert first == "1 0.3125 0.583333 0.375 0.5 0.125 0.333333 2 0 0 0 0.875 0.983333 2"
    assert second.endswith(" 0 0 0 1 1 2 0 0 0")
    outside = posed(1)
    outside.extra["keypoints"][0, 0, 0] = 80.5
    assert label_values(outside, SIZE)[0][4:7] == [0, 0, 0]
    assert label_text(posed(), SIZE, with_score=True).splitlines()[1].endswith(" 2 0.875")


# --- JSON and tables ---------------------------------------------------------------------------------------------


def test_masks_in_json_are_run_lengths() -> None:
    found = segmented((11, 7, disk(31, 12)), (0, 0, np.zeros((0, 0), bool)))
    record = json.loads(json_record("a", 0, None, (*SIZE, 3), found))
    first, second = (entry["segmentation"] for entry in record["detections"])
    assert first["size"] == list(SIZE) and isinstance(first["counts"], str)
    assert np.array_equal(coco.decode(first), found.extra["masks"].dense()[0].numpy())
    assert coco.area(second) == 0 and "masks" not in record["detections"][0]


def test_key_points_in_json() -> None:
    record = json.loads(json_record("a", 0, None, (*SIZE, 3), posed()))
    assert record["detections"][0]["keypoints"] == [[10, 20, 0.9], [30.25, 40, 0.4], [70, 59, 0.5]]
    assert record["detections"][1]["keypoints"][2] == [12.35, 1, 0.12346]
    assert json_values(posed(0)) == {"keypoints": []}


def test_coco_results() -> None:
    masks, points = coco_values(segmented((11, 7, disk(31, 12)))), coco_values(posed())
    assert list(masks[0]) == ["segmentation"] and coco.area(masks[0]["segmentation"]) == disk(31, 12).sum()
    assert points[0] == {"keypoints": [10, 20, 0.9, 30.25, 40, 0.4, 70, 59, 0.5]}
    assert coco_values(Instances(torch.zeros(1, 4), torch.ones(1), torch.zeros(1).long())) == [{}]


def test_tables_have_areas_and_names_of_points(tmp_path: Path) -> None:
    assert table_columns(segmented((11, 7, disk(31, 12)))) == {"masks_area": [disk(31, 12).sum()]}
    write(tmp_path, posed())
    with open(tmp_path / "detections.csv", newline="", encoding="utf-8") as stream:
        head, first, _ = csv.reader(stream)
    points = [f"{name}_{kind}" for name in ("head", "tail, end", "paw") for kind in ("x", "y", "score")]
    assert head == [*COLUMNS, *points] and " ".join(first[-9:]) == "10.0 20.0 0.9 30.25 40.0 0.4 70.0 59.0 0.5"


def test_every_file_of_masks(tmp_path: Path) -> None:
    write(tmp_path, segmented((11, 7, disk(31, 12))))
    assert {path.name for path in tmp_path.rglob("*.*")} == {
        "a.txt", "a_1.jpg", "detections.json", "detections.jsonl", "detections.csv", "predictions.json"}
    (row,) = json.loads((tmp_path / "predictions.json").read_text())
    assert row["bbox"] == [11, 7, 31, 31] and coco.area(row["segmentation"]) == disk(31, 12).sum()


# --- crops -------------------------------------------------------------------------------------------------------


def test_crops_by_masks_are_transparent_outside(tmp_path: Path) -> None:
    boxes = torch.tensor([[9.5, 5, 45, 70], [0, 0, 20, 20]])
    found = segmented((11, 7, disk(31, 12)), (0, 0, np.zeros((0, 0), bool)), boxes=boxes)
    write(tmp_path, found, DetectOptions(nosave=True, save_crop=True, crop_masks=True))
    crop = cv2.imread(str(tmp_path / "crops" / "cat" / "a_1.png"), cv2.IMREAD_UNCHANGED)
    assert crop.shape == (55, 36, 4) and (crop[..., :3] == 90).all()
    assert np.array_equal(crop[2:33, 2:33, 3] == 255, disk(31, 12)) and (crop[..., 3] > 0).sum() == disk(31, 12).sum()
    assert not cv2.imread(str(tmp_path / "crops" / "dog" / "a_2.png"), cv2.IMREAD_UNCHANGED)[..., 3].any()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of both tasks, and images."""
    folder = tmp_path_factory.mktemp("files")
    for head in micro_tasks.NAMES:
        micro_tasks.write_weights(folder / f"{head}.pt", head, bias=3.0)
    micro_tasks.write_images(folder / "images")
    return folder


def detect(files: Path, head: str, folder: Path, *flags: str) -> int:
    return cli.main(["detect", "--weights", str(files / f"{head}.pt"), "--source", str(files / "images"), "--device",
                     "cpu", "--precision", "fp32", "--conf-thres", "0.05", "--max-det", "5", "--project", str(folder),
                     *flags])


@pytest.mark.parametrize(("head", "flags", "message"), [
    ("PoseHead", ("--save-crop", "--crop-masks"), "--crop-masks: cuts objects out by their masks, and a model with the "
     "head PoseHead finds none; accepted with a model of instance segmentation"),
    ("SegmentHead", ("--crop-masks",), "--crop-masks: says how crops are cut out; accepted with --save-crop")])
def test_crops_that_cannot_be_cut_out(head: str, flags: tuple[str, ...], message: str, files: Path, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    assert detect(files, head, tmp_path, *flags) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "exp").exists()


def test_detection_of_both_tasks_writes_everything(files: Path, tmp_path: Path) -> None:
    flags = ("--save-txt", "--save-json", "--save-jsonl", "--save-coco", "--save-csv", "--save-crop")
    with micro_tasks.finished_tasks():
        assert detect(files, "SegmentHead", tmp_path / "masks", *flags, "--crop-masks") == 0
        assert detect(files, "PoseHead", tmp_path / "points", *flags) == 0

    def rows(name: str) -> list[dict[str, Any]]:
        return json.loads((tmp_path / name / "exp" / "predictions.json").read_text())  # type: ignore[no-any-return]

    assert len(rows("masks")) == len(rows("points")) == 10
    assert all(row["segmentation"]["size"] == [120, 160] for row in rows("masks"))
    assert any(coco.area(row["segmentation"]) > 0 for row in rows("masks"))
    assert all(len(row["keypoints"]) == 12 for row in rows("points"))
    assert len(list((tmp_path / "masks").rglob("crops/*/*.png"))) == 10
    head = (tmp_path / "points" / "exp" / "detections.csv").read_text().splitlines()[0]
    assert head.split(",")[9:12] == ["head_x", "head_y", "head_score"]
    assert isinstance(segmented((1, 1, disk(3))).extra["masks"], Masks)

"""Tiles: they cover an image, objects at seams are found once, whole, with their masks and key points."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import micro_tasks
import numpy as np
import pytest
import torch

import yolov7
from yolov7 import cli
from yolov7.data.catalog import open_data, open_split
from yolov7.data.images import encode_image
from yolov7.data.synthetic import generate
from yolov7.evaluation.by_image import evaluate_images
from yolov7.evaluation.coco import CocoBoxes
from yolov7.inference.nms import NMSOptions
from yolov7.inference.tiles import TiledPredictor, Tiling, merged
from yolov7.masks import masks_from
from yolov7.structures import Instances

NAMES = ("a", "b")
Scene = list[tuple[tuple[int, int, int, int], int]]  # boxes and labels


@pytest.mark.parametrize("side", [50, 100, 101, 179, 180, 500, 3001])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_tiles_cover_everything_and_share_enough(side: int, overlap: float) -> None:
    windows = Tiling(100, overlap).windows(80, side)
    assert windows[0][0] == 0 and windows[-1][2] == side
    assert all(x1 - x0 == min(100, side) and (y0, y1) == (0, 80) for x0, y0, x1, y1 in windows)
    for (_, _, end, _), (start, _, _, _) in zip(windows[:-1], windows[1:], strict=True):
        assert end - start >= 100 * overlap - 1
    assert len(windows) <= side / max(100 * (1 - overlap), 1) + 2


class Seer:
    """A predictor that sees every object of a scene, or the part of it that is in the image, as masks and boxes.

    The first pixel of an image says where it was cut out: see `field`.
    """

    names = NAMES

    def __init__(self, scene: Scene, jitter: float = 0.0, largest: int = 10**6, most: int = 300) -> None:
        self.scene, self.jitter, self.largest = scene, jitter, largest
        self.options = NMSOptions(max_detections=most)
        self.rng = np.random.default_rng(0)
        self.batches: list[int] = []

    def timed(self, images: Sequence[np.ndarray]) -> tuple[list[Instances], dict[str, float]]:
        self.batches.append(len(images))
        return [self._seen(image) for image in images], {"input": 1.0, "network": 1.0, "nms": 1.0}

    def _seen(self, image: np.ndarray) -> Instances:
        height, width = image.shape[:2]
        x, y, high = image[0, 0].tolist()
        x, y = x + 256 * (high // 16), y + 256 * (high % 16)
        boxes, scores, labels, windows, pixels = [], [], [], [], []
        for (x0, y0, x1, y1), label in self.scene:
            left, top, right, bottom = (max(x0 - x, 0), max(y0 - y, 0), min(x1 - x, width), min(y1 - y, height))
            if right - left < 4 or bottom - top < 4 or max(x1 - x0, y1 - y0) * 100 / max(height, width) < 3 or \
                    max(right - left, bottom - top) > self.largest:
                continue
            moved = np.array([left, top, right, bottom]) + self.rng.normal(0, self.jitter, 4)
            boxes.append(moved.tolist())
            scores.append(0.5 + 0.4 * (right - left) * (bottom - top) / ((x1 - x0) * (y1 - y0)))
            labels.append(label)
            windows.append((left, top, right, bottom))
            pixels.append(np.ones((bottom - top, right - left), bool))
        extra = {"masks": masks_from(windows, pixels, (height, width)),
                 "keypoints": torch.tensor([[[w[0], w[1], 1.0], [w[2], w[3], 1.0]] for w in windows]).reshape(-1, 2, 3)}
        found = Instances(torch.tensor(boxes).reshape(-1, 4).float(), torch.tensor(scores).float(),
                          torch.tensor(labels, dtype=torch.int64), NAMES, extra)
        return found[found.scores.argsort(descending=True)]


def field(height: int, width: int) -> np.ndarray:
    """An image whose pixels say where they are."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack((x % 256, y % 256, x // 256 * 16 + y // 256), 2).astype(np.uint8)


def found_in(scene: Scene, tiling: Tiling, height: int = 500, width: int = 700, **more: float) -> Instances:
    seer = Seer(scene, **more)  # type: ignore[arg-type]
    (found,) = TiledPredictor(seer, tiling)([field(height, width)])  # type: ignore[arg-type]
    return found


def test_every_object_once_wherever_it_stands() -> None:
    """Objects all over the image, at seams, at corners of tiles, at the border: each once, in its own place."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        scene: Scene = []
        for _ in range(60):
            x, y = (int(value) for value in rng.uniform((0, 0), (660, 460)))
            box = (x, y, x + int(rng.integers(12, 40)), y + int(rng.integers(12, 40)))
            if all(box[2] < b[0] - 2 or box[0] > b[2] + 2 or box[3] < b[1] - 2 or box[1] > b[3] + 2 for b, _ in scene):
                scene.append((box, int(rng.integers(2))))
        tiling = Tiling(200, 0.25)
        found = found_in(scene, tiling, jitter=0.4)
        assert len(tiling.windows(500, 700)) > 10 and len(found) == len(scene)
        truth = torch.tensor([box for box, _ in scene]).float()
        distances = (found.boxes[:, None] - truth).abs().amax(2)
        assert sorted(distances.argmin(1).tolist()) == list(range(len(scene)))
        assert distances.amin(1).max() < 3  # whole, not a part
        nearest = distances.argmin(1).tolist()
        assert found.labels.tolist() == [scene[place][1] for place in nearest]
        for row, place in enumerate(nearest):
            x0, y0, x1, y1 = scene[place][0]
            assert found.extra["masks"].area[row] == (x1 - x0) * (y1 - y0)
            assert found.extra["keypoints"][row, :, :2].tolist() == [[x0, y0], [x1, y1]]


def test_objects_larger_than_the_overlap_are_put_together() -> None:
    """The whole image does not see it: what the tiles see of it is one object, box and mask."""
    for box in ((120, 150, 460, 230), (40, 40, 600, 90), (300, 20, 350, 480)):
        found = found_in([(box, 1)], Tiling(200, 0.25), largest=200)
        assert len(found) == 1 and found.boxes[0].tolist() == list(box)
        assert found.extra["masks"].area.tolist() == [(box[2] - box[0]) * (box[3] - box[1])]
        assert found.labels.tolist() == [1]


def test_large_objects_are_seen_as_a_whole() -> None:
    found = found_in([((50, 50, 650, 450), 0), ((300, 200, 340, 240), 1)], Tiling(200, 0.25))
    assert sorted(found.labels.tolist()) == [0, 1]
    assert found.boxes[found.labels == 0].tolist() == [[50, 50, 650, 450]]


def test_neighbours_stay_two_and_classes_apart() -> None:
    side_by_side: Scene = [((180, 100, 205, 125), 0), ((206, 100, 231, 125), 0)]
    assert len(found_in(side_by_side, Tiling(200, 0.25))) == 2
    same_place: Scene = [((180, 100, 220, 140), 0), ((180, 100, 220, 140), 1)]
    assert len(found_in(same_place, Tiling(200, 0.25))) == 2


def test_small_images_are_not_cut_and_many_tiles_come_in_batches() -> None:
    seer = Seer([((10, 10, 50, 50), 0)])
    (found,) = TiledPredictor(seer, Tiling(700))([field(500, 700)])  # type: ignore[arg-type]
    assert seer.batches == [1] and found.boxes.tolist() == [[10, 10, 50, 50]]
    seer = Seer([])
    (found,), spent = TiledPredictor(seer, Tiling(60, 0.5)).timed([field(500, 700)])  # type: ignore[arg-type]
    assert max(seer.batches) == 64 and len(seer.batches) > 4 and len(found) == 0 and spent["network"] > 4


def test_most_detections() -> None:
    scene: Scene = [((20 * n, 20 * m, 20 * n + 15, 20 * m + 15), 0) for n in range(20) for m in range(15)]
    found = found_in(scene, Tiling(200, 0.25), most=50)
    assert len(found) == 50 and bool((found.scores.diff() <= 0).all())


def test_nothing_found_keeps_its_columns() -> None:
    empty = Instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), NAMES,
                      {"masks": masks_from([], [], (10, 10)), "keypoints": torch.zeros(0, 2, 3)})
    found = merged([empty, empty], [(0, 0, 10, 10), (5, 0, 15, 10)], (10, 15))
    assert len(found) == 0 and found.extra["masks"].size == (10, 15)


def test_evaluation_in_tiles_scores_what_is_found(tmp_path: Path) -> None:
    """Small objects in large images: perfect in tiles, not seen at all in the whole."""
    generate(tmp_path / "shapes", train=1, val=2)
    image_set = open_split(open_data(str(tmp_path / "shapes")), "val")
    path = tmp_path / "field.png"
    path.write_bytes(encode_image(field(500, 700), ".png"))
    boxes = np.array([[180, 90, 204, 110], [20, 30, 44, 50], [600, 400, 620, 424]], np.float32)
    objects = image_set.objects[:3]
    objects = replace(objects, boxes=boxes, labels=np.array([0, 1, 0]), area=np.full(3, 480.0))
    large = replace(image_set, paths=(str(path),), image_ids=(1,), sizes=np.array([[500, 700]], np.int32),
                    offsets=np.array([0, 3]), objects=objects, names=NAMES, category_ids=(1, 2), annotation_file=None)
    scene: Scene = [((180, 90, 204, 110), 0), ((20, 30, 44, 50), 1), ((600, 400, 620, 424), 0)]
    seer = Seer(scene)
    tiled = evaluate_images(TiledPredictor(seer, Tiling(200)), large, [CocoBoxes()])  # type: ignore[arg-type]
    assert pytest.approx(1) == tiled.boxes.AP and tiled.times.summary()["end to end"]["mean"] > 0
    gone = replace(large, paths=(str(tmp_path / "gone.png"),))
    assert evaluate_images(seer, gone, [CocoBoxes()]).left_out


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro_tasks.write_weights(tmp_path_factory.mktemp("weights") / "w.pt", "SegmentHead", bias=2)


def test_commands_and_python_agree(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = micro_tasks.write_images(tmp_path / "images")
    words = ["--weights", str(weights), "--device", "cpu", "--conf-thres", "0.02", "--max-det", "30", "--tile", "64",
             "--overlap", "0.25", "--project", str(tmp_path), "--precision", "fp32"]
    assert cli.main(["detect", *words, "--source", str(images), "--save-json", "--nosave"]) == 0
    found = json.loads((tmp_path / "exp" / "detections.json").read_text())
    model = yolov7.load(weights, device="cpu", precision="fp32")
    for record in found:
        result = model(record["path"], conf=0.02, max_det=30, tile=64, overlap=0.25)
        assert [one["label"] for one in record["detections"]] == result.labels.tolist()
        assert np.allclose([one["box"] for one in record["detections"]], result.boxes.numpy(), atol=0.01)
        assert result.extra["masks"].size == (120, 160) and len(result)
    plain = model(found[0]["path"], conf=0.02, max_det=30)
    assert len(plain) != len(result) or not torch.equal(plain.boxes, result.boxes)
    streamed = list(model.stream(images, conf=0.02, max_det=30, tile=64, overlap=0.25))
    assert [len(one) for one in streamed] == [len(record["detections"]) for record in found]


def test_test_in_tiles(weights: Path, tmp_path: Path) -> None:
    generate(tmp_path / "shapes", train=1, val=2)
    words = ["test", "--weights", str(weights), "--data", str(tmp_path / "shapes"), "--device", "cpu", "--precision",
             "fp32", "--classes", "circle", "--project", str(tmp_path / "out")]
    assert cli.main([*words, "--tile", "96"]) == 2  # the weights have other classes
    single = micro_tasks.NAMES["SegmentHead"]
    (tmp_path / "set.yaml").write_text(f"val: {tmp_path / 'shapes' / 'images' / 'val'}\nnames: {list(single)}\n")
    words = ["test", "--weights", str(weights), "--data", str(tmp_path / "set.yaml"), "--device", "cpu", "--precision",
             "fp32", "--conf-thres", "0.05", "--tile", "128", "--project", str(tmp_path / "out")]
    labels = tmp_path / "shapes" / "labels" / "val"
    labels.mkdir(parents=True)
    for path in (tmp_path / "shapes" / "images" / "val").iterdir():
        (labels / f"{path.stem}.txt").write_text("0 0.5 0.5 0.3 0.3\n")
    assert cli.main(words) == 0
    settings = json.loads((tmp_path / "out" / "exp" / "results.json").read_text())["settings"]
    assert settings["tile"] == 128 and settings["overlap"] == 0.2


def test_bad_flags(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["detect", "--weights", str(weights), "--source", str(tmp_path)]
    for flags, message in ((["--tile", "8"], "at least 32"), (["--overlap", "1"], "0 to 0.9")):
        assert cli.main([*words, *flags]) == 2
        assert message in capsys.readouterr().err

"""The built-in data set: deterministic, honest, complete, never half-written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from yolov7.config import InputError
from yolov7.data import synthetic
from yolov7.data.generated import STAMP
from yolov7.data.images import load_image
from yolov7.data.synthetic import CLASSES, generate, paint

TRAIN, VAL = 48, 12


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "shapes"
    generate(folder, TRAIN, VAL)
    return folder


def content(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def annotations(folder: Path, split: str = "train") -> dict:
    return json.loads((folder / "annotations" / f"{split}.json").read_text())


def boxes_of(folder: Path) -> list[np.ndarray]:
    """xyxy boxes of each image."""
    coco = annotations(folder)
    boxes: dict[int, list] = {image["id"]: [] for image in coco["images"]}
    for item in coco["annotations"]:
        x, y, width, height = item["bbox"]
        boxes[item["image_id"]].append((x, y, x + width, y + height))
    return [np.array(b) for b in boxes.values()]


# --- the images ----------------------------------------------------------------------------------------------


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    generate(tmp_path / "first", 3, 2, seed=5)
    generate(tmp_path / "second", 3, 2, seed=5)
    generate(tmp_path / "third", 3, 2, seed=6)
    first, second, third = (content(tmp_path / name) for name in ("first", "second", "third"))
    assert len(first) == 3 + 2 + 2 + 1
    assert first == second
    assert all(first[name] != third[name] for name in first)


def test_an_image_depends_on_seed_split_and_index_alone(shapes: Path, tmp_path: Path) -> None:
    generate(tmp_path / "fewer", 2, 1)
    for name in ("images/train/000002.jpg", "images/val/000001.jpg"):
        assert (tmp_path / "fewer" / name).read_bytes() == (shapes / name).read_bytes()
    images = [paint(*where)[0] for where in ((0, "train", 0), (0, "train", 1), (0, "val", 0), (1, "train", 0))]
    assert len({image.tobytes() for image in images}) == len(images)


def test_sizes_and_format_of_the_images(shapes: Path) -> None:
    coco = annotations(shapes)
    sizes = set()
    for image in coco["images"]:
        pixels = load_image(shapes / "images" / "train" / image["file_name"])
        assert pixels.shape == (image["height"], image["width"], 3)
        sizes.add(pixels.shape[:2])
    assert {max(size) for size in sizes} == {320}
    assert len(sizes) >= 3


def test_six_balanced_classes(shapes: Path) -> None:
    coco = annotations(shapes)
    assert [category["id"] for category in coco["categories"]] == [1, 2, 3, 4, 5, 6]
    assert tuple(category["name"] for category in coco["categories"]) == CLASSES
    counts = np.bincount([item["category_id"] for item in coco["annotations"]], minlength=7)[1:]
    assert counts.sum() >= 5 * TRAIN
    assert counts.min() > 0.7 * counts.max()


def test_a_fifth_of_the_objects_is_under_32_pixels(shapes: Path) -> None:
    boxes = np.concatenate(boxes_of(shapes))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert 0.2 <= (np.sqrt(width * height) < 32).mean() <= 0.45
    assert min(width.min(), height.min()) >= 5


def test_objects_overlap_and_leave_the_image(shapes: Path) -> None:
    images = annotations(shapes)["images"]
    overlapping, truncated, total = 0, 0, 0
    for image, boxes in zip(images, boxes_of(shapes), strict=True):
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        shared = (np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - low).clip(0).prod(axis=-1)
        overlapping += int((np.triu(shared, 1) > 0).any())
        truncated += int(((boxes[:, :2] == 0) | (boxes[:, 2:] == (image["width"], image["height"]))).any(axis=1).sum())
        total += len(boxes)
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= (image["width"], image["height"])).all()
    assert overlapping > 0.3 * len(images)
    assert 0.05 * total < truncated < 0.4 * total


def test_objects_differ_in_colour_from_what_they_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    contrasts: list[float] = []
    colours = synthetic._colours

    def spy(rng: np.random.Generator, label: int, behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pair = colours(rng, label, behind)
        contrasts.extend(float(np.linalg.norm(colour - behind)) for colour in pair)
        return pair

    monkeypatch.setattr(synthetic, "_colours", spy)
    for index in range(10):
        paint(0, "val", index)
    assert min(contrasts) > synthetic.MIN_CONTRAST - 0.01


# --- the annotations -------------------------------------------------------------------------------------------


def test_boxes_and_areas_are_those_of_the_polygons(shapes: Path) -> None:
    for item in annotations(shapes)["annotations"]:
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in item["segmentation"]])
        low, high = points.min(axis=0), points.max(axis=0)
        assert item["bbox"] == [*low, *(high - low)]
        assert 0 < item["area"] <= item["bbox"][2] * item["bbox"][3]
        assert item["iscrowd"] == 0


def rectangle(top: int, left: int, bottom: int, right: int) -> synthetic._Shape:
    """A shape that fills its window, in pixels of the canvas (twice those of the image)."""
    mask = np.ones((bottom - top, right - left), bool)
    return synthetic._Shape((slice(top, bottom), slice(left, right)), mask, float(mask.size), 10.0, 0.0, 0)


def test_a_polygon_runs_along_the_edges_of_visible_pixels() -> None:
    canvas = synthetic._Canvas(np.zeros((40, 60, 3), np.uint8))
    rng = np.random.default_rng(0)
    canvas.add(rng, rectangle(10, 8, 20, 28))
    assert np.concatenate(canvas.polygons(0)).min(axis=0).tolist() == [4, 5]
    assert np.concatenate(canvas.polygons(0)).max(axis=0).tolist() == [14, 10]
    hider = rectangle(0, 22, 30, 40)
    assert canvas.fits(hider)
    canvas.add(rng, hider)
    assert np.concatenate(canvas.polygons(0)).max(axis=0).tolist() == [11, 10]
    assert canvas.visible.tolist() == [140, 540]
    assert not canvas.fits(rectangle(10, 8, 20, 28))


def test_what_is_seen_through_a_ring_is_not_the_ring(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    coco = COCO(str(shapes / "annotations" / "train.json"))
    capsys.readouterr()
    rings = coco.loadAnns(coco.getAnnIds(catIds=[CLASSES.index("ring") + 1]))
    full = np.pi / 4 * (1 - 0.58**2)  # of the box, where a ring is neither cut nor hidden
    whole = [ring for ring in rings if abs(ring["area"] / np.prod(ring["bbox"][2:]) / full - 1) < 0.1]
    assert len(whole) > len(rings) / 3
    for ring in whole:
        x, y, width, height = ring["bbox"]
        mask = coco.annToMask(ring)
        assert mask.sum() == pytest.approx(ring["area"], rel=0.1)
        assert not mask[round(y + height / 2), round(x + width / 2)]


def test_masks_are_the_visible_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    from pycocotools import mask as rle

    canvases: list[synthetic._Canvas] = []

    class Kept(synthetic._Canvas):
        def __init__(self, pixels: np.ndarray) -> None:
            super().__init__(pixels)
            canvases.append(self)

    monkeypatch.setattr(synthetic, "_Canvas", Kept)
    ratios = []
    for index in range(8):
        image, objects = paint(0, "train", index)
        height, width = image.shape[:2]
        visible = canvases.pop().object_index.reshape(height, 2, width, 2)  # each pixel has four of the canvas
        for number, (_, polygons) in enumerate(objects):
            encoded = rle.merge(rle.frPyObjects([polygon.ravel().tolist() for polygon in polygons], height, width))
            mask, truth = rle.decode(encoded).astype(bool), (visible == number).sum((1, 3)) >= 2
            ratios.append((mask & truth).sum() / (mask | truth).sum())
    assert np.mean(ratios) > 0.96 and min(ratios) > 0.85


def test_every_object_stays_at_least_half_visible() -> None:
    for index in range(10):
        rng = np.random.default_rng(index)
        canvas = synthetic._Canvas(np.full((480, 640, 3), 128, np.uint8))
        for label in range(len(CLASSES)):
            synthetic._place(rng, canvas, label)
        for number, shape in enumerate(canvas.shapes):
            visible = (canvas.object_index == number).sum()
            assert visible == canvas.visible[number]
            assert visible >= synthetic.MIN_INSIDE * shape.area


def test_pycocotools_reads_the_annotations(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    coco = COCO(str(shapes / "annotations" / "val.json"))
    capsys.readouterr()
    assert len(coco.getImgIds()) == VAL
    for item in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(item)
        assert mask.sum() == pytest.approx(item["area"], rel=0.1)
        rows, columns = np.nonzero(mask)
        x, y, width, height = item["bbox"]
        found = np.array((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        assert np.abs(found - (x, y, x + width, y + height)).max() < 4  # thin tips


# --- the files -------------------------------------------------------------------------------------------------


def test_a_complete_set_is_left_alone(shapes: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shapes.rglob("*")}
    generate(shapes, TRAIN, VAL)
    assert {path: path.stat().st_mtime_ns for path in shapes.rglob("*")} == before


@pytest.mark.parametrize("damage", ["image", "annotations", "seed", "count", "version"])
def test_a_damaged_or_stale_set_is_rebuilt(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shapes"
    generate(folder, 3, 1, seed=1 if damage == "seed" else 0)
    if damage == "image":
        (folder / "images" / "train" / "000002.jpg").unlink()
    elif damage == "annotations":
        (folder / "annotations" / "val.json").unlink()
    elif damage == "version":
        monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    generate(folder, 4 if damage == "count" else 3, 1)
    assert len(list(folder.rglob("*.jpg"))) == (5 if damage == "count" else 4)
    assert len(annotations(folder)["images"]) == (4 if damage == "count" else 3)
    stamp = json.loads((folder / STAMP).read_text())
    assert (stamp["seed"], stamp["version"]) == (0, synthetic.VERSION)
    assert list(tmp_path.iterdir()) == [folder]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_annotation", interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "shapes", 2, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(InputError, match="is not a generated data set"):
        generate(tmp_path, 1, 1)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="the data set cannot be written: Not a directory"):
        generate(tmp_path / "file" / "shapes", 1, 1)

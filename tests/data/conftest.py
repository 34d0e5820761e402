"""Small data sets for the tests of this room."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_records import NO_POLYGON, ImageRecord, ObjectRecord, build_image_set, write_image
from PIL import Image

from yolov7.data.image_set import ImageSet

COLOURS = ((220, 30, 30), (30, 200, 40), (40, 60, 230))  # one by class: told apart in any mosaic
BACKGROUND = (0, 0, 0)


@pytest.fixture
def coco_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set in COCO layout with one image for each entry of ``boxes`` (a list of annotations)."""

    def write(boxes: list[list[dict[str, Any]]], split: str = "train", **changes: Any) -> Path:
        images, annotations = [], []
        for number, objects in enumerate(boxes, 1):
            write_image(tmp_path / "images" / split / f"{number}.jpg")
            images.append({"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48})
            for item in objects:
                row = {"id": len(annotations) + 1, "image_id": number, "category_id": 3, "iscrowd": 0, "area": 1.0}
                annotations.append(row | item)
        categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
        content = {"images": images, "annotations": annotations, "categories": categories} | changes
        file = tmp_path / "annotations" / f"{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
        return tmp_path

    return write


@pytest.fixture
def yolo_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set with label files, one image for each text (``None``: no label file); returns its YAML."""

    def write(*texts: str | None, names: str = "[cat, dog]") -> Path:
        for number, text in enumerate(texts):
            write_image(tmp_path / "images" / f"p{number}.jpg", 100, 50)
            if text is not None:
                file = tmp_path / "labels" / f"p{number}.txt"
                file.parent.mkdir(exist_ok=True)
                file.write_text(text)
        yaml = tmp_path / "set.yaml"
        yaml.write_text(f"train: images\nval: images\nnames: {names}\n")
        return yaml

    return write


@pytest.fixture
def squares(tmp_path: Path) -> Callable[..., ImageSet]:
    """Lossless images with coloured rectangles on black, the colour by the class, with or without polygons."""

    def make(count: int = 6, polygons: str = "none", long_side: int = 128) -> ImageSet:
        rng, records = np.random.default_rng(5), []
        for i in range(count):
            height, width = (long_side, long_side * 3 // 4) if i % 2 else (long_side * 5 // 8, long_side)
            pixels, objects = np.zeros((height, width, 3), np.uint8), []
            for slot in range(2):  # one in the left half, one in the right half
                w, h = rng.integers(20, width // 2 - 4), rng.integers(20, height - 4)
                x, y = slot * (width // 2) + rng.integers(2, width // 2 - w), rng.integers(2, height - h)
                label = int(rng.integers(3))
                pixels[y : y + h, x : x + w] = COLOURS[label]
                corners = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], np.float32)
                has_polygon = polygons == "all" or (polygons == "mixed" and i % 2 == 0)
                polygon = corners if has_polygon else NO_POLYGON
                objects.append(ObjectRecord((x, y, x + w, y + h), label, polygon))
            path = tmp_path / f"squares_{i}.png"
            Image.fromarray(pixels).save(path)
            records.append(ImageRecord(str(path), i, (height, width), objects))
        return build_image_set(
            records, ("red", "green", "blue"), (1, 2, 3), [], annotation_file=None, split="train"
        )

    return make

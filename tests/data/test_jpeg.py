"""The faster decoder of JPEG files gives OpenCV's pixels, or leaves a file to it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from yolov7.data import images
from yolov7.data.images import cv2, decode_content

pytest.importorskip("simplejpeg")

WAYS: dict[str, dict[str, Any]] = {
    "usual": {}, "progressive": {"progressive": True}, "4:4:4": {"subsampling": 0}, "4:2:2": {"subsampling": 1},
    "low quality": {"quality": 20}, "optimized": {"optimize": True}, "restarts": {"restart_marker_blocks": 3}}


def jpeg(way: str, mode: str = "RGB", size: tuple[int, int] = (83, 61)) -> bytes:
    rng = np.random.default_rng(0)
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8), (0, 0), 2)
    file = BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **WAYS[way])
    return file.getvalue()


def by_opencv(content: bytes, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setattr(images, "simplejpeg", None)
        return decode_content(content)


@pytest.mark.parametrize("size", [(83, 61), (10, 10), (640, 17), (16, 16)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("way", WAYS)
def test_the_same_pixels(way: str, mode: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    content = jpeg(way, mode, size)
    found = images._decode_jpeg(content)
    assert found is not None and found.shape == (size[1], size[0], 3)
    np.testing.assert_array_equal(found, by_opencv(content, monkeypatch))


def test_what_is_not_sound_is_left_to_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = bytearray(jpeg("usual"))
    damaged[len(damaged) // 2 : len(damaged) // 2 + 40] = bytes(40)
    for content in (bytes(damaged), jpeg("usual", "CMYK")):
        np.testing.assert_array_equal(decode_content(content), by_opencv(content, monkeypatch))


@pytest.mark.parametrize("folder", ["coco-mini/images/train2017", "coco-mini/images/val2017", "bccd"])
def test_the_same_pixels_of_real_images(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[3] / "shared" / "data" / folder
    if not root.is_dir():
        pytest.skip(f"needs the real images of {folder} in ../shared/data")
    files = sorted(root.rglob("*.jpg"))[:60]
    assert files
    for file in files:
        content = file.read_bytes()
        np.testing.assert_array_equal(decode_content(content), by_opencv(content, monkeypatch), str(file))


def test_words_of_exif_count_in_their_own_segment_alone() -> None:
    content = jpeg("usual")
    comment = b"\xff\xfe\x00\x08Exif\0\0"
    assert images.common_jpeg_size(content) == (83, 61)
    assert images.common_jpeg_size(content[:2] + comment + content[2:]) == (83, 61)
    file = BytesIO()
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(file, "JPEG", exif=exif)
    assert images.common_jpeg_size(file.getvalue()) is None
    assert decode_content(file.getvalue()).shape == (30, 20, 3)

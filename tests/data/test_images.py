"""Decoding, orientation, resizing and the letterbox."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from yolov7.config import InputError
from yolov7.data.images import check_image, letterbox, load_image, resize_long_side

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "post" / "letterbox.json").read_text())


def gradient(height: int = 24, width: int = 36) -> np.ndarray:
    """Every corner has a colour of its own."""
    y, x = np.mgrid[:height, :width]
    return np.stack((x * 255 // width, y * 255 // height, np.full_like(x, 60)), axis=-1).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_images_are_decoded_to_rgb(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ä image 图.{suffix}"
    Image.fromarray(gradient()).save(path, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(load_image(path), gradient())
    assert check_image(path) == (24, 36)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"x.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(gradient()).save(path, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    image = load_image(path)
    assert image.shape == expected.shape == (*check_image(path), 3)
    assert np.abs(image.astype(int) - expected).max() <= 3
    assert image.flags.c_contiguous


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "P", "CMYK"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = gradient()[..., 0]
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(grey).convert("L" if mode == "P" else "RGB").convert(mode).save(path)
    image = load_image(path)
    assert image.shape == (24, 36, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - grey[..., None]).max() <= (6 if mode == "CMYK" else 1)


def test_faults_are_one_sentence(tmp_path: Path) -> None:
    empty, text, cut = (tmp_path / name for name in ("empty.jpg", "text.jpg", "cut.jpg"))
    empty.touch()
    text.write_text("hello")
    noise = np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"empty.jpg: the file is empty \(0 bytes\)$"):
        load_image(empty)
    with pytest.raises(InputError, match=r"text.jpg: not an image that can be read; accepted: BMP, JPEG"):
        load_image(text)
    with pytest.raises(InputError, match=r"cut.jpg: truncated JPEG"):
        load_image(cut)
    with pytest.raises(InputError, match=r"gone.jpg: cannot be read: No such file"):
        load_image(tmp_path / "gone.jpg")
    with pytest.raises(InputError, match=r"cannot be read: Is a directory"):
        load_image(tmp_path)


def test_truncated_png(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(gradient(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:-80])
    with pytest.raises(InputError, match="truncated PNG"):
        load_image(path)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [("libGL.so.1: cannot open shared object file", "apt-get install libgl1 libglib2.0-0"),
     ("No module named 'cv2'", "pip install opencv-python")],
)
def test_opencv_that_does_not_import_is_explained(tmp_path: Path, reason: str, advice: str) -> None:
    (tmp_path / "cv2.py").write_text(f"raise ImportError({reason!r})")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from yolov7.config import InputError\n"
        "try:\n    import yolov7.data.images\n"
        "except InputError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"OpenCV cannot be imported ({reason})")
    assert advice in done.stdout


# --- size ------------------------------------------------------------------------------------------------------


def test_training_rounds_and_evaluation_truncates() -> None:
    image = np.zeros((333, 500, 3), np.uint8)
    assert resize_long_side(image, 640, training=False).shape[:2] == (426, 640)
    assert resize_long_side(image, 641, training=True).shape[:2] == (427, 641)
    assert resize_long_side(image, 641, training=False).shape[:2] == (426, 641)
    assert resize_long_side(image, 500, training=True) is image


def test_evaluation_shrinks_by_area() -> None:
    stripes = np.zeros((40, 40, 3), np.uint8)
    stripes[:, ::4] = 200
    assert set(np.unique(resize_long_side(stripes, 10, training=False))) == {50}
    assert 50 not in np.unique(resize_long_side(stripes, 10, training=True))


def case_name(case: dict) -> str:
    flags = ("-auto" if case["auto"] else "") + ("-up" if case["scaleup"] else "")
    return f"{case['h']}x{case['w']}-{case['size']}{flags}"


@pytest.mark.parametrize("case", GOLDEN, ids=case_name)
def test_golden_post_letterbox(case: dict) -> None:
    image = np.zeros((case["h"], case["w"], 3), np.uint8)
    boxed, gain, pad = letterbox(image, case["size"], case["stride"], auto=case["auto"], scale_up=case["scaleup"])
    assert boxed.shape == (case["out_h"], case["out_w"], 3)
    assert gain == pytest.approx((case["ratio_w"], case["ratio_h"]), rel=1e-12)
    assert pad == pytest.approx((case["pad_w"], case["pad_h"]), rel=1e-12)


@pytest.mark.parametrize(
    ("size", "shape", "pad", "rows"),
    [((375, 500), (480, 640), 0, (0, 0)), ((427, 640), (448, 640), 10.5, (10, 11)),
     ((333, 500), (448, 640), 11, (11, 11)), ((641, 1000), (416, 640), 3, (3, 3))],
)
def test_letterbox_pads_with_grey(
    size: tuple[int, int], shape: tuple[int, int], pad: float, rows: tuple[int, int]
) -> None:
    boxed, _, (left, top) = letterbox(np.zeros((*size, 3), np.uint8), 640)
    assert boxed.shape[:2] == shape
    assert (left, top) == (0, pad)
    grey = (boxed == 114).all(-1).all(-1)
    assert (int(grey[: shape[0] // 2].sum()), int(grey[shape[0] // 2 :].sum())) == rows


@pytest.mark.parametrize("size", [(427, 640), (641, 1000), (50, 30), (1000, 333)])
def test_letterbox_can_be_undone(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    height, width = size
    image[height // 4 : height // 2, width // 4 : width // 2] = 255
    boxed, gain, pad = letterbox(image, (640, 512), auto=False)
    rows, columns = np.flatnonzero((boxed == 255).any((1, 2))), np.flatnonzero((boxed == 255).any((0, 2)))
    found = np.array([columns[0] - pad[0], rows[0] - pad[1], columns[-1] + 1 - pad[0], rows[-1] + 1 - pad[1]])
    expected = np.array([width // 4, height // 4, width // 2, height // 2])
    assert np.abs(found / (gain * 2) - expected).max() <= 1 / min(gain[0], 1)

"""The letterbox of a device against OpenCV's: to the bit, whatever the size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolov7.data.device_letterbox import letterbox_on_device, resize
from yolov7.data.images import cv2, letterbox

SIZES = [(480, 640, 360, 480), (720, 1280, 360, 640), (333, 500, 426, 640), (100, 37, 640, 237), (3, 5, 384, 640),
         (1280, 1280, 640, 640), (1, 1, 64, 64), (1, 700, 1, 640), (641, 427, 640, 426), (64, 64, 64, 64)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("height", "width", "new_height", "new_width"), SIZES)
def test_pixels_are_those_of_opencv(height: int, width: int, new_height: int, new_width: int, device: str) -> None:
    image = noise(height, width)
    expected = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    found = resize(torch.from_numpy(image).to(device), (new_height, new_width))
    np.testing.assert_array_equal(found.cpu().numpy(), expected)


def test_sizes_that_nobody_chose() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        (height, width), gain = rng.integers(1, 500, 2), rng.uniform(0.1, 3)
        size = max(round(height * gain), 1), max(round(width * gain), 1)
        image = noise(height, width)
        expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(resize(torch.from_numpy(image), size).numpy(), expected, str((image.shape, size)))


@pytest.mark.parametrize("auto", [True, False])
@pytest.mark.parametrize(("height", "width"), [(480, 640), (375, 500), (640, 427), (640, 640), (31, 900)])
def test_a_letterbox_is_the_same(height: int, width: int, auto: bool) -> None:
    image = noise(height, width)
    expected, gain, pad = letterbox(image, 320, 32, auto)
    found, own_gain, own_pad = letterbox_on_device(torch.from_numpy(image), 320, 32, auto)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)
    assert (own_gain, own_pad) == (gain, pad)

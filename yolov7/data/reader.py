"""Pictures of a set at the size at which they are used: from their files, or from a cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from yolov7.config import InputError
from yolov7.data.image_set import ImageSet
from yolov7.data.images import load_image, resize_long_side, resized_shape
from yolov7.data.picture_cache import PictureCache


class PictureReader:
    """Reads the pictures of a set with a long side of ``size`` pixels (see `resize_long_side`)."""

    def __init__(self, image_set: ImageSet, size: int, training: bool, cache: str = "off") -> None:
        self.image_set, self.size, self.training = image_set, size, training
        native = image_set.sizes.tolist()
        self.shapes = np.array([resized_shape(height, width, size, training) for height, width in native], np.int32)
        self._ratios = (self.shapes / image_set.sizes)[:, ::-1]
        self._cache = PictureCache(image_set, self.shapes, cache, self._load) if cache != "off" else None

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of a picture at that size, known without reading it."""
        height, width = self.shapes[index].tolist()
        return height, width

    def ratio(self, index: int | Sequence[int]) -> np.ndarray:
        """From native pixels to that size, x and y: ``[2]``, or ``[n, 2]`` for n pictures."""
        return self._ratios[index]

    def read(self, index: int) -> np.ndarray:
        """Pixels uint8 ``[h, w, 3]`` RGB, not to be written to. Raises `InputError` where they cannot be read."""
        cached = self._cache.get(index) if self._cache else None
        return self._load(index) if cached is None else cached

    def _load(self, index: int) -> np.ndarray:
        path, (height, width) = self.image_set.paths[index], self.image_set.sizes[index].tolist()
        native = load_image(path)
        if native.shape[:2] != (height, width):
            raise InputError(f"{path}: is {native.shape[1]} x {native.shape[0]} px, but was {width} x {height} px when "
                             "the data set was opened")
        return resize_long_side(native, self.size, self.training)

"""An image in any form in which Python programs hold one -> uint8 ``[H, W, 3]`` RGB."""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from yolov7.config import InputError
from yolov7.config.paths import check_path
from yolov7.data.images import decode_image, load_image
from yolov7.data.video import is_address, load_address, shown_address

PathLike = str | os.PathLike[str]
ImageLike = PathLike | bytes | BinaryIO | np.ndarray | Image.Image | Tensor
ENCODED = (bytes, bytearray, memoryview, io.RawIOBase, io.BufferedIOBase)  # a file's content, or an open file
MAX_ENCODED = 2**28  # bytes of an encoded image
IMAGE_DIMENSIONS, BATCH_DIMENSIONS = 3, 4  # of a tensor
ACCEPTED = ("accepted: a path, an address, the bytes of a file, an open file, an array uint8 [H, W, 3], a PIL image, a "
            "tensor [3, H, W]")


def is_one_image(images: object) -> bool:
    """Whether this is an image rather than several."""
    return isinstance(images, (str, os.PathLike, np.ndarray, Image.Image, *ENCODED)) or (
        isinstance(images, Tensor) and images.ndim != BATCH_DIMENSIONS)


def to_array(image: Any) -> tuple[np.ndarray, str]:
    """The pixels, and the path of a file ('' of what is in memory). Raises `InputError`."""
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        if is_address(path):
            return load_address(path), shown_address(path)
        check_path(path, "an image")
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(f"{path}: is not a regular file; accepted: an image, a folder alone, or a list "
                             "of images")
        return load_image(path), path
    if isinstance(image, ENCODED):
        return decode_image(_content(image), "the image's bytes"), ""
    if isinstance(image, Image.Image):
        return _from_pil(image), ""
    if isinstance(image, Tensor):
        return _from_tensor(image), ""
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image: found a {type(image).__name__}; {ACCEPTED}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"an image: found an array {image.dtype} {list(image.shape)}; accepted: uint8 [H, W, 3], "
                         "RGB")
    return image, ""


def _content(image: Any) -> bytes:
    if not isinstance(image, (bytes, bytearray, memoryview)):
        try:
            image = image.read(MAX_ENCODED + 1)
        except (OSError, ValueError) as error:  # closed; for writing only
            raise InputError(f"an image: the open file cannot be read: {error}") from None
    content = bytes(image or b"")
    if len(content) > MAX_ENCODED:
        raise InputError(f"an image: found more than {MAX_ENCODED >> 20} MiB of bytes; accepted: at most that")
    return content


def _from_pil(image: Image.Image) -> np.ndarray:
    """As the same file is read by its path: see `yolov7.data.images.load_image`."""
    upright = _loaded(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # older Pillow's 16 bits
        grey = (np.asarray(upright) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise InputError(f"an image: found a PIL image of mode {image.mode}, whose range is not known; accepted: 8 or "
                         "16 bits (scale it, then convert it to 'L')")
    if image.mode == "CMYK" and image.format == "JPEG":  # OpenCV rounds down
        ink = np.asarray(upright).astype(np.uint16)
        white = 255 - ink[:, :, 3:]
        return (white - (ink[:, :, :3] * white >> 8)).astype(np.uint8)
    return np.asarray(upright.convert("RGB"))


def _loaded(image: Image.Image) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
        upright.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"an image: the PIL image cannot be decoded: {error}") from None
    if not all(upright.size):
        raise InputError(f"an image: found a PIL image of {upright.width} x {upright.height} pixels")
    return upright


def _from_tensor(image: Tensor) -> np.ndarray:
    if image.ndim != IMAGE_DIMENSIONS or image.shape[0] != 3 or not image.numel():
        raise InputError(f"an image: found a tensor {list(image.shape)}; accepted: [3, H, W] or [B, 3, H, W], RGB")
    if image.is_meta:
        raise InputError("an image: found a tensor on the device meta, which holds no values")
    if image.layout != torch.strided or image.is_quantized:
        raise InputError("an image: found a sparse or quantized tensor; accepted: a dense one (tensor.to_dense(), "
                         "tensor.dequantize())")
    image = image.detach()
    if image.is_floating_point():
        if not 0 <= float(image.min()) <= float(image.max()) <= 1:
            raise InputError(f"an image: found floats from {float(image.min()):g} to {float(image.max()):g}; "
                             "accepted: 0 to 1, or uint8")
        image = (image.float() * 255).round()
    elif image.dtype != torch.uint8:
        raise InputError(f"an image: found a tensor of {image.dtype}; accepted: uint8, or floats in 0..1")
    return image.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()

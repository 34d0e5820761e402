"""Images: OpenCV's import, decoding to RGB, sizes from the header, letterbox.

(docs/reference.md, Image decoding, Letterbox.) Whoever needs OpenCV imports it from here (``from yolov7.data.images
import cv2``), so that a missing system library is explained in one place.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from yolov7.config import InputError
from yolov7.data.regular import length_of, open_regular, read_whole

try:
    import cv2
except ImportError as error:
    raise InputError(f"OpenCV cannot be imported ({error}); where a system library is missing, on Debian and Ubuntu "
                     "`apt-get install libgl1 libglib2.0-0` brings it; where the package is missing, `pip install "
                     "opencv-python`") from None

try:
    import simplejpeg
except ImportError:  # no wheel for this machine: OpenCV decodes everything
    simplejpeg = None  # type: ignore[assignment]

__all__ = [
    "FORMATS", "IMAGE_SUFFIXES", "MAX_PIXELS", "MIN_SIDE", "PAD_COLOUR", "Fit", "ImageError", "check_image", "cv2",
    "decode_content", "decode_image", "encode_image", "fit", "letterbox", "load_image", "resize_long_side",
    "resized_shape",
]

# Pillow warns of images of half the size that it refuses: no fault here
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

IMAGE_SUFFIXES = (".bmp", ".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".dng", ".webp", ".mpo")
FORMATS = ("BMP", "JPEG", "MPO", "PNG", "TIFF", "WEBP")  # as Pillow names what is inside such files
PAD_COLOUR = (114, 114, 114)
MIN_SIDE = 10  # pixels; smaller images are faults
MAX_PIXELS = 178_956_970  # Pillow's own limit, for every way to decode
MAX_BYTES = 3 << 29  # of a file: 16 bits and four channels of so many pixels, uncompressed
_ENDINGS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # last bytes of a whole file
_BYTES_AT_END = 8
MAX_WORK = 1 << 26  # bytes that a thread keeps to decode into: an image of 4096 x 4096
_WORK = threading.local()
_MANY_BYTES = 1 << 26  # from here on a file must not be much larger than its pixels
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG markers that begin a frame
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
_START_OF_SCAN, _EXIF, _ADOBE = 0xDA, 0xE1, 0xEE


def encode_image(image: np.ndarray, suffix: str, quality: int = 95) -> bytes:
    """An image uint8 ``[H, W, 3]`` RGB as a file of the format that the suffix names; ``quality`` is JPEG's.

    Of PNG also ``[H, W, 4]`` RGBA.
    """
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix.lower() in (".jpg", ".jpeg") else []
    swapped = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    ok, data = cv2.imencode(suffix, swapped, settings)
    assert ok, suffix
    return data.tobytes()


class ImageError(Exception):
    """Why an image cannot be used, without its name."""


# --- reading ---------------------------------------------------------------------------------------------------


def load_image(path: str | Path) -> np.ndarray:
    """Decode an image to uint8 ``[H, W, 3]`` RGB, upright.

    Alpha is dropped, grey is expanded, 16 bits become 8, all eight EXIF orientations are applied.
    Raises `InputError` for a file that is missing, empty, truncated, too large or not an image.
    """
    return decode_image(read_image_file(path), str(path))


def read_image_file(path: str | Path) -> bytes:
    """The content of an image's file. Raises `InputError`."""
    try:
        return _read(path)  # not cv2.imread: it cannot open every unicode path
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ImageError as error:
        raise InputError(f"{path}: {error}") from None


def load_for_warp(path: str | Path) -> np.ndarray:
    """`load_image`, or the same with a fourth channel of any value, valid until this thread calls this again.

    OpenCV warps four channels in half the time of three, and memory that was just used is still in the cache.
    """
    content = read_image_file(path)
    width, height = (_plain_jpeg(content) or (0, 0))[:2]
    length = 4 * width * height
    if simplejpeg is not None and 0 < length <= MAX_WORK:
        if len(getattr(_WORK, "memory", b"")) < length:
            _WORK.memory = np.empty(length, np.uint8)
        if (image := _decode_jpeg(content, "RGBX", _WORK.memory)) is not None:
            return image
    return decode_image(content, str(path))


def decode_image(content: bytes, name: str) -> np.ndarray:
    """`load_image` of a file's content, which messages call ``name``."""
    try:
        return decode_content(content)
    except ImageError as error:
        raise InputError(f"{name}: {error}") from None


def _read(path: str | Path) -> bytes:
    with open_regular(path, MAX_BYTES) as stream:
        length = length_of(stream)
        if length > _MANY_BYTES:
            with _open_header(stream) as header:
                width, height = header.size
            if length > _MANY_BYTES + 16 * width * height:
                raise ImageError(f"{length:,} bytes for an image of {width} x {height} px")
            stream.seek(0)
        return read_whole(stream, MAX_BYTES)


def check_image(path: str | Path) -> tuple[int, int]:
    """Height and width of an image as it is shown (EXIF orientation applied), read from its header.

    Only a file without its format's last bytes is decoded, to tell a truncated image from one with something
    behind its end. Raises `ImageError`.
    """
    try:
        with open_regular(path, MAX_BYTES) as stream:
            length = length_of(stream)
            if length == 0:
                raise ImageError("the file is empty (0 bytes)")
            stream.seek(max(length - _BYTES_AT_END, 0))
            ending = stream.read()
            stream.seek(0)
            with _open_header(stream) as header:
                _check_whole(header, ending)
                width, height = _stored_size(header)
                turned = _orientation(header) >= 5
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{width} x {height} px; accepted: sides of at least {MIN_SIDE} px")
    return (width, height) if turned else (height, width)


def _open_header(stream: object) -> Image.Image:
    try:
        header = Image.open(stream)  # type: ignore[arg-type]
    except Image.DecompressionBombError:
        raise ImageError(f"too large; accepted: up to {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except Exception:  # whatever a file of any content may raise
        raise ImageError(f"not an image that can be read; accepted: {', '.join(FORMATS)}") from None
    if header.format not in FORMATS:
        raise ImageError(f"an image in the format {header.format}; accepted: {', '.join(FORMATS)}")
    _check_pixels(*header.size)
    return header


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"too large; accepted: up to {MAX_PIXELS:,} pixels")


def _check_whole(header: Image.Image, ending: bytes) -> None:
    expected = _ENDINGS.get(header.format or "")
    if expected is None or ending.endswith(expected):
        return
    try:
        header.load()
    except Exception as error:  # whatever a file of any content may raise
        raise ImageError(f"truncated {header.format} ({str(error).split(' (')[0]})") from None


def _orientation(header: Image.Image) -> int:
    """EXIF orientation 1 ... 8; 1 is upright, from 5 on height and width change places."""
    if header.format == "PNG" and "exif" not in header.info:
        return 1  # Pillow would decode the whole image to look for it behind the pixels
    try:
        value = header.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block does not damage the image
        return 1
    return value if value in range(1, 9) else 1


def _stored_size(header: Image.Image) -> tuple[int, int]:
    """Width and height before any orientation is applied; some versions of Pillow apply that of a TIFF at once."""
    if header.format == "TIFF":
        tags = header.tag_v2  # type: ignore[attr-defined]
        return int(tags[ExifTags.Base.ImageWidth]), int(tags[ExifTags.Base.ImageLength])
    return header.size


def decode_content(content: bytes) -> np.ndarray:
    """`decode_image` without a name: raises `ImageError`."""
    if not content:
        raise ImageError("the file is empty (0 bytes)")
    orientation = 1
    if plain := _plain_jpeg(content):
        _check_pixels(*plain[:2])
        if (image := _decode_jpeg(content)) is not None:
            return image
    else:
        with _open_header(BytesIO(content)) as header:
            orientation = _orientation(header)
            _check_whole(header, content[-_BYTES_AT_END:])
            if header.format == "TIFF" and orientation > 1:  # OpenCV fails at some of them
                return _decode_with_pillow(header)
    try:
        # OpenCV knows the orientation of some formats only: it is applied below for all of them
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f"cannot be decoded ({error.err})") from None
    if image is None:
        raise ImageError("cannot be decoded")
    return _upright(image, orientation)


def _decode_jpeg(content: bytes, channels: str = "RGB", memory: np.ndarray | None = None) -> np.ndarray | None:
    """The pixels of a sound JPEG, the same bytes as OpenCV's in nine tenths of the time; None leaves it to OpenCV.

    They are written into ``memory``, where given.
    """
    if simplejpeg is None:
        return None
    try:
        image: np.ndarray = simplejpeg.decode_jpeg(content, channels, buffer=memory)
        return image
    except ValueError:  # what OpenCV decodes in its own way: CMYK, a part that is damaged
        return None


def common_jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a whole JPEG that every decoder reads as this one: of one or three channels, upright.

    None for anything else. Nothing but its header is looked at.
    """
    found = _plain_jpeg(content)
    return found[:2] if found and found[2] else None


def _plain_jpeg(content: bytes) -> tuple[int, int, bool] | None:
    """Width and height of a whole JPEG that says nothing of an orientation, and whether it is a common one.

    None for anything else. Pillow needs not open the file, which takes longer than some images take to decode.
    """
    if not (content.startswith(b"\xff\xd8\xff") and content.endswith(_ENDINGS["JPEG"])):
        return None
    place, size, common, is_rgb = 2, None, False, False
    while place + 10 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == _START_OF_SCAN:
            return (*size, common and not is_rgb) if size else None
        if marker == _EXIF and content.startswith(b"Exif\0", place + 4):
            return None
        if marker == _ADOBE and content.startswith(b"Adobe", place + 4):
            is_rgb = content[place + 15 : place + 16] == b"\0"  # without a transformation of the colours
        if marker in _FRAMES and size is None:
            height, width = (int.from_bytes(content[at : at + 2], "big") for at in (place + 5, place + 7))
            channels = content[place + 9]
            is_rgb |= content[place + 10 : place + 19 : 3] == b"RGB"
            size, common = (width, height), marker in _HUFFMAN_FRAMES and channels in (1, 3)
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None


def _decode_with_pillow(header: Image.Image) -> np.ndarray:
    try:
        return np.array(ImageOps.exif_transpose(header).convert("RGB"))
    except Exception as error:  # whatever a file of any content may raise
        raise ImageError(f"cannot be decoded ({error})") from None


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation: rows and columns change places from 5 on, then mirror."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


# --- size ------------------------------------------------------------------------------------------------------


def resized_shape(height: int, width: int, size: int, training: bool) -> tuple[int, int]:
    """Height and width with a long side of ``size``: rounded in training, truncated in evaluation.

    Both as the published numbers were made (docs/reference.md, Truncated resize).
    """
    ratio = size / max(height, width)
    whole = round if training else int
    return max(whole(height * ratio), 1), max(whole(width * ratio), 1)


def resize_long_side(image: np.ndarray, size: int, training: bool) -> np.ndarray:
    """Resize so that the longer side is ``size`` pixels.

    Evaluation truncates the other side and shrinks by area, as the published numbers were made;
    training rounds and interpolates linearly.
    """
    height, width = image.shape[:2]
    if max(height, width) == size:
        return image
    shape = resized_shape(height, width, size, training)
    shrink = cv2.INTER_LINEAR if training else cv2.INTER_AREA
    return cv2.resize(image, shape[::-1], interpolation=shrink if size < max(height, width) else cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Fit:
    """How an image comes into a shape: its size then (height, width), its gain, and the room that is left."""

    size: tuple[int, int]
    gain: tuple[float, float]  # x, y
    spare: tuple[int, int]  # height, width

    @property
    def pad(self) -> tuple[float, float]:
        """Left and top."""
        return self.spare[1] / 2, self.spare[0] / 2


def fit(size: tuple[int, int], shape: int | tuple[int, int], stride: int = 32, auto: bool = True,
        scale_up: bool = True) -> Fit:
    """How `letterbox` fits an image of this size (height, width)."""
    out_height, out_width = (shape, shape) if isinstance(shape, int) else shape
    height, width = size
    gain = min(out_height / height, out_width / width)
    if not scale_up:
        gain = min(gain, 1.0)
    new_width, new_height = max(round(width * gain), 1), max(round(height * gain), 1)
    spare_width, spare_height = out_width - new_width, out_height - new_height
    if auto:
        spare_width, spare_height = spare_width % stride, spare_height % stride
    return Fit((new_height, new_width), (gain, gain), (spare_height, spare_width))


def letterbox(image: np.ndarray, shape: int | tuple[int, int], stride: int = 32, auto: bool = True,
              scale_up: bool = True) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Fit an image into ``shape`` (height, width; a number is a square) and pad it with grey (114).

    ``auto`` pads only up to the next multiple of ``stride``; without ``scale_up`` a small image keeps its size.
    Returns the image, the gain (x, y) and the pad (left, top). The pad is fractional where the padding is odd:
    the pixels lie half a pixel higher or further left (docs/reference.md, Fractional pad).
    """
    found = fit((image.shape[0], image.shape[1]), shape, stride, auto, scale_up)
    if found.size != image.shape[:2]:
        image = cv2.resize(image, found.size[::-1], interpolation=cv2.INTER_LINEAR)
    height, width = found.spare
    left, top = width // 2, height // 2
    if width or height:
        image = cv2.copyMakeBorder(image, top, height - top, left, width - left, cv2.BORDER_CONSTANT, value=PAD_COLOUR)
    return image, found.gain, found.pad

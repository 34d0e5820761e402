"""Files that are no files, and small files that would be large: refused before they cost time or memory."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from yolov7.config import InputError
from yolov7.data import images
from yolov7.data.images import MAX_PIXELS, ImageError, check_image, load_image
from yolov7.data.regular import open_regular
from yolov7.data.yolo_txt import find_images, scan_labels

needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


@needs_fifo
@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [pipe, device])
def test_only_regular_files_are_read(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    kind = f"a {make.__name__}; accepted: a regular file"
    image = make(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match=f"cannot be read: {kind}"):
        check_image(image)
    with pytest.raises(InputError, match=f"a.jpg: cannot be read: {kind}"):
        load_image(image)
    Image.new("RGB", (40, 40)).save(tmp_path / "b.jpg")
    label = make(tmp_path / "b.txt")
    (finding,) = scan_labels([str(tmp_path / "b.jpg")], [str(label)], 1).findings
    assert finding.reason == f"cannot be read ({kind}); the image is skipped"
    with pytest.raises(InputError, match="list: is not a regular file; accepted: neither a folder nor a device"):
        find_images([make(tmp_path / "list")], [])


def test_a_file_is_read_up_to_a_size(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jpg"
    with open(path, "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InputError, match="1,099,511,627,776 bytes; accepted: up to 1,610,612,736"):
        load_image(path)
    Image.new("RGB", (40, 40)).save(path, "PNG")
    os.truncate(path, 1 << 30)
    with pytest.raises(InputError, match="1,073,741,824 bytes for an image of 40 x 40 px"):
        load_image(path)
    with pytest.raises(OSError, match="not a name of a file"):
        open_regular("a\0b", 1)


# --- sizes in headers ------------------------------------------------------------------------------------------


def jpeg(path: Path, width: int, height: int, frame: int = 0xC0, before: bytes = b"") -> Path:
    """A whole JPEG of another size than its header says: a few hundred bytes."""
    Image.new("RGB", (16, 16)).save(path, "JPEG")
    content = path.read_bytes()
    place = content.index(b"\xff\xc0")
    sizes = struct.pack(">HH", height, width)
    head = content[:2] + before + content[2:place]
    path.write_bytes(head + bytes((0xFF, frame)) + content[place + 2 : place + 5] + sizes + content[place + 9 :])
    return path


def png(path: Path, width: int, height: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 16)))
                     + chunk(b"IEND", b""))
    return path


def bmp(path: Path, width: int, height: int) -> Path:
    path.write_bytes(b"BM" + struct.pack("<IHHIIiiHHIIiiII", 4096, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
                     + bytes(4042))
    return path


def tiff(path: Path, width: int, height: int) -> Path:
    Image.new("RGB", (16, 16)).save(path, "TIFF")
    content = bytearray(path.read_bytes())
    first = struct.unpack("<I", content[4:8])[0]
    for entry in range(struct.unpack("<H", content[first : first + 2])[0]):
        place = first + 2 + 12 * entry
        tag = struct.unpack("<H", content[place : place + 2])[0]
        if tag in (256, 257):
            content[place + 2 : place + 12] = struct.pack("<HII", 4, 1, width if tag == 256 else height)
    path.write_bytes(content)
    return path


def webp(path: Path, width: int, height: int) -> Path:
    """A lossless image that is nearly nothing but its header."""
    data = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(100)
    chunk = b"WEBPVP8L" + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunk)) + chunk)
    return path


BOMBS: dict[str, Callable[[Path], Path]] = {
    "jpeg": lambda path: jpeg(path, 32_700, 32_700),
    "progressive jpeg": lambda path: jpeg(path, 32_700, 32_700, 0xC2),
    "arithmetic jpeg": lambda path: jpeg(path, 32_700, 32_700, 0xC9),
    "jpeg with a comment": lambda path: jpeg(path, 32_700, 32_700, before=b"\xff\xfe\x00\x06abcd"),
    "jpeg with fill bytes": lambda path: jpeg(path, 32_700, 32_700, before=b"\xff\xff\xff"),
    "jpeg with a word of EXIF": lambda path: jpeg(path, 32_700, 32_700, before=b"\xff\xfe\x00\x08Exif\0\0"),
    "narrow jpeg": lambda path: jpeg(path, 65_500, 2_733),
    "png": lambda path: png(path, 100_000, 100_000),
    "bmp": lambda path: bmp(path, 32_700, 32_700),
    "tiff": lambda path: tiff(path, 100_000, 100_000),
    "webp": lambda path: webp(path, 16_000, 16_000),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("pillows_limit", [True, False])
def test_a_large_header_is_refused_before_decoding(tmp_path: Path, kind: str, pillows_limit: bool,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a program that uses this one has done to Pillow's own limit."""
    path = BOMBS[kind](tmp_path / "bomb")
    assert path.stat().st_size < 5000
    monkeypatch.setattr(images.cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    if not pillows_limit:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for read in (check_image, load_image):
        with pytest.raises((ImageError, InputError), match=rf"too large; accepted: up to {MAX_PIXELS:,} pixels$"):
            read(path)


def test_the_size_of_a_plain_jpeg_is_that_of_pillow(tmp_path: Path) -> None:
    for name, options in {"a": {}, "b": {"progressive": True}, "c": {"comment": b"x" * 300, "dpi": (72, 72)}}.items():
        path = tmp_path / f"{name}.jpg"
        Image.fromarray(np.zeros((33, 70, 3), np.uint8)).save(path, **options)  # type: ignore[arg-type]
        assert images.common_jpeg_size(path.read_bytes()) == (70, 33)
        assert load_image(path).shape == (33, 70, 3)

"""Images and labels as they are found in the wild, whole data sets at a time."""

from __future__ import annotations

import logging
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_records import write_image
from PIL import Image

from yolov7.data import images
from yolov7.data.catalog import open_data, open_split
from yolov7.data.image_set import ImageSet
from yolov7.data.images import ImageError, check_image, load_image
from yolov7.data.yolo_txt import find_images

Write = Callable[..., Path]
BOX = "0 0.5 0.5 0.2 0.4\n"


def train_set(data: Path) -> ImageSet:
    return open_split(open_data(str(data)), "train")


def animated_gif(path: Path) -> None:
    frames = [Image.new("P", (40, 30), colour) for colour in (1, 2, 3)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


def huge_header(path: Path, side: int) -> None:
    """A PNG that says how large it is, and then nothing of it."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (animated_gif, "an image in the format GIF; accepted: BMP, JPEG, MPO, PNG, TIFF, WEBP"),
        (lambda path: write_image(path, 1, 500), "1 x 500 px; accepted: sides of at least 10 px"),
        (lambda path: write_image(path, 500, 1), "500 x 1 px; accepted: sides of at least 10 px"),
        (lambda path: huge_header(path, 20_000), "too large; accepted: up to 178,956,970 pixels"),
    ],
)
def test_an_image_that_is_refused(yolo_folder: Write, damage: Callable[[Path], object], reason: str) -> None:
    yaml = yolo_folder(BOX, BOX)
    damage(yaml.parent / "images" / "p1.jpg")
    found = train_set(yaml)
    assert len(found) == 1
    assert [f"{Path(fault.path).name}: {fault.reason}" for fault in found.faults] == [
        f"p1.jpg: {reason}; the image is skipped"
    ]


def test_a_large_header_is_refused_without_decoding_and_without_pillows_warning(tmp_path: Path) -> None:
    huge_header(tmp_path / "warned.png", 12_000)  # Pillow only warns of this one
    huge_header(tmp_path / "refused.png", 20_000)
    code = (
        "import sys\nfrom yolov7.data.images import ImageError, check_image\n"
        f"print(check_image({str(tmp_path / 'warned.png')!r}))\n"
        f"try:\n    check_image({str(tmp_path / 'refused.png')!r})\n"
        "except ImageError as error:\n    print(error)\n"
    )
    root = Path(images.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "(12000, 12000)\ntoo large; accepted: up to 178,956,970 pixels\n"
    assert done.stderr == ""


def test_a_side_of_twenty_thousand_pixels(yolo_folder: Write) -> None:
    yaml = yolo_folder(BOX)
    path = write_image(yaml.parent / "images" / "p0.jpg", 20_000, 40)
    found = train_set(yaml)
    assert found.sizes.tolist() == [[40, 20_000]]
    np.testing.assert_allclose(found.objects.boxes, [[8_000, 12, 12_000, 28]])
    assert load_image(path).shape == (40, 20_000, 3)


def test_a_truncated_jpeg_with_intact_header(yolo_folder: Write) -> None:
    yaml = yolo_folder(BOX, BOX)
    path = yaml.parent / "images" / "p0.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (50, 100, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    assert "p0.jpg: truncated JPEG (image file is truncated); the image is skipped" in str(train_set(yaml).faults[0])


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("L", "jpg"), ("RGBA", "png"), ("RGBA", "webp"),
                                              ("I;16", "png"), ("I;16", "tif"), ("1", "png"), ("LA", "png")])
def test_every_kind_of_pixel_is_read(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    if mode == "I;16":
        Image.fromarray(np.full((24, 36), 200 * 257, np.uint16)).save(path)
    else:
        Image.new("L", (36, 24), 255).convert("RGB").convert(mode).save(path)
    assert check_image(path) == (24, 36)
    assert load_image(path).mean() == pytest.approx(200 if mode == "I;16" else 255, abs=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_and_boxes_of_turned_images(yolo_folder: Write, orientation: int) -> None:
    yaml = yolo_folder("0 0.5 0.5 0.5 0.2\n")
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_image(yaml.parent / "images" / "p0.jpg", 100, 50, exif=exif)
    found = train_set(yaml)
    height, width = (100, 50) if orientation >= 5 else (50, 100)
    assert found.sizes.tolist() == [[height, width]]
    assert load_image(path).shape == (height, width, 3)
    np.testing.assert_allclose(found.objects.boxes, [[width / 4, height * 0.4, width * 0.75, height * 0.6]], rtol=1e-6)


# --- names and places ------------------------------------------------------------------------------------------


def test_other_suffixes_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jpg", "b.JPG"):
        write_image(tmp_path / name)
    animated_gif(tmp_path / "c.gif")
    for name in ("d.mp4", "e.MP4", "readme", "a.txt"):  # label files are no surprise
        (tmp_path / name).touch()
    with caplog.at_level(logging.INFO):
        assert [Path(path).name for path in find_images([tmp_path], [])] == ["a.jpg", "b.JPG"]
    text = f"{tmp_path}: 4 files with other suffixes are left out (.gif: 1, .mp4: 2, none: 1)"
    assert [record.message for record in caplog.records] == [text]


def test_a_cache_beside_the_images_holds_none(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / ".yolov7-cache" / "b.jpg")
    assert find_images([tmp_path], []) == [str(tmp_path / "a.jpg")]


def test_unicode_and_spaces_in_names(tmp_path: Path) -> None:
    root = tmp_path / "ein Ördner 图"
    for name in ("ä ö.jpg", "图片 1.jpg", "emoji 🐈.jpg"):
        write_image(root / "images" / name, 100, 50)
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / name).with_suffix(".txt").write_text(BOX)
    (root / "set.yaml").write_text("train: images\nnames: [ä]\n", encoding="utf-8")
    for _ in range(2):
        found = train_set(root / "set.yaml")
        assert len(found.objects) == 3
        assert any("emoji 🐈" in path for path in found.paths) and found.image_ids == (1, 2, 3)
        assert not found.faults


def test_linked_files_and_folders(tmp_path: Path) -> None:
    image = write_image(tmp_path / "real" / "a.jpg", 100, 50)
    label = tmp_path / "real" / "a.txt"
    label.write_text(BOX)
    for folder in ("images", "labels"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    (tmp_path / "set" / "images" / "one.jpg").symlink_to(image)
    (tmp_path / "set" / "labels" / "one.txt").symlink_to(label)
    (tmp_path / "set" / "images" / "folder").symlink_to(image.parent)
    (tmp_path / "set" / "labels" / "folder").symlink_to(image.parent)
    (tmp_path / "set" / "images" / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "set.yaml").write_text("train: set/images\nnc: 1\n")
    found = train_set(tmp_path / "set.yaml")
    assert [Path(path).name for path in found.paths] == ["a.jpg", "one.jpg"]
    assert len(found.objects) == 2
    assert "dangling.jpg: missing, but named by" in str(found.faults[0])
    label.write_text(BOX + "0 0.2 0.2 0.1 0.1\n")  # the link stays as it is: it is the file that counts
    assert len(train_set(tmp_path / "set.yaml").objects) == 4


# --- labels ----------------------------------------------------------------------------------------------------


def test_five_thousand_labels_in_an_image(yolo_folder: Write) -> None:
    rng = np.random.default_rng(0)
    centres = rng.uniform(0.1, 0.9, (5000, 2))
    found = train_set(yolo_folder("".join(f"{i % 2} {x} {y} 0.1 0.1\n" for i, (x, y) in enumerate(centres)), ""))
    assert found.offsets.tolist() == [0, 5000, 5000]
    np.testing.assert_allclose(found.objects.boxes[:, 0], centres[:, 0] * 100 - 5, atol=1e-4)


@pytest.mark.parametrize(
    ("stated", "shown"),
    [({"width": 48, "height": 64}, "48 x 64"), ({"width": 128, "height": 96}, "128 x 96"), ({"height": 47}, "64 x 47")],
)
def test_a_size_in_the_json_that_is_not_the_images(coco_folder: Write, stated: dict[str, int], shown: str) -> None:
    images = [{"id": 1, "file_name": "1.jpg"} | stated, {"id": 2, "file_name": "2.jpg"}]
    found = train_set(coco_folder([[{"bbox": [1, 2, 3, 4]}], [{"bbox": [1, 2, 3, 4]}]], images=images))
    assert found.image_ids == (2,)
    assert len(found.objects) == 1
    message = f"1.jpg: the JSON says {shown}, the image is 64 x 48; the image is skipped"
    assert [str(fault).endswith(message) for fault in found.faults] == [True]


def test_a_turned_image_whose_json_has_the_stored_size(coco_folder: Write) -> None:
    folder = coco_folder([[{"bbox": [1, 2, 3, 4]}], [{"bbox": [1, 2, 3, 4]}]])
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(folder / "images" / "train" / "1.jpg", exif=exif)
    (fault,) = train_set(folder).faults
    assert "1.jpg: the JSON says 64 x 48, the image is 48 x 64; the image is skipped" in str(fault)


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_ids_that_are_lists(coco_folder: Write, key: str) -> None:
    folder = coco_folder([[{"bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4], key: [1]}]])
    if key == "image_id":
        assert "annotation 2: image_id [1] is not in `images`" in str(train_set(folder).faults[0])
        return
    (fault,) = train_set(folder).faults
    assert "train.json: annotation 2: found the category_id [1]; accepted: a whole number; the object is" in str(fault)


def test_numbers_beyond_all_bounds(coco_folder: Write) -> None:
    polygon = [10**400, 2, 3, 4, 5, 6]
    folder = coco_folder([[{"bbox": [1, 2, 3, 4], "segmentation": [polygon]}], [{"bbox": [1, 2, 3, 10**400]}]])
    found = train_set(folder)
    assert found.image_ids == (1, 2) and len(found.objects) == 1
    assert found.objects.polygons.points.shape == (0, 2)
    assert "annotation 2: bbox is [1, 2, 3, 1000" in str(found.faults[0])


@pytest.mark.filterwarnings("ignore")  # Pillow says more about some of them
def test_damaged_images_are_faults_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "x"
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        Image.fromarray(rng.integers(0, 255, (24, 36, 3), np.uint8)).save(path, form, exif=exif)
        whole = path.read_bytes()
        for _ in range(100):
            content = bytearray(whole)
            for place in rng.integers(0, 300, 6):
                content[place] = rng.integers(256)
            path.write_bytes(content)
            try:
                height, width = check_image(path)
            except ImageError as error:
                assert "\n" not in str(error)
            else:
                assert min(height, width) >= 10

"""The label cache: what is read again, what never is, and where it stands."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_records import content_of, write_image

from yolov7.config import InputError
from yolov7.data import coco, label_cache, yolo_txt
from yolov7.data.catalog import open_data, open_split
from yolov7.data.image_set import ImageSet
from yolov7.data.label_cache import cache_folder

Write = Callable[..., Path]
BOX = "0 0.5 0.5 0.2 0.4\n"
POLYGON = "1 0.1 0.2 0.3 0.2 0.3 0.6\n"


def train_set(data: Path) -> ImageSet:
    return open_split(open_data(str(data)), "train")


def assert_same(found: ImageSet, expected: ImageSet) -> None:
    content = content_of(found)
    for name, value in content_of(expected).items():
        if isinstance(value, np.ndarray):
            assert content[name].dtype == value.dtype
            np.testing.assert_array_equal(content[name], value, err_msg=name)
        else:
            assert content[name] == value, name


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test alone."""
    monkeypatch.setenv("YOLOV7_CACHE_DIR", str(tmp_path / "caches"))
    return tmp_path / "caches"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, caches: Path) -> list[str]:
    """The names of the images that are scanned, and of the JSON files that are opened, from here on."""
    names: list[str] = []

    def watch(module: object, name: str) -> None:
        function = getattr(module, name)

        def watched(first: list[str] | Path, *rest: object, **options: object) -> object:
            names.extend([first.name] if isinstance(first, Path) else [Path(path).name for path in first])
            return function(first, *rest, **options)

        monkeypatch.setattr(module, name, watched)

    watch(yolo_txt, "scan_labels")
    watch(coco, "scan_headers")
    watch(coco, "read_annotations")
    return names


def reread(read: list[str], data: Path) -> tuple[ImageSet, list[str]]:
    read.clear()
    return train_set(data), read


# --- YOLO txt --------------------------------------------------------------------------------------------------


def test_nothing_is_read_twice(yolo_folder: Write, read: list[str]) -> None:
    yaml = yolo_folder(BOX + POLYGON, "", None, BOX + BOX, "0 nan 0 0 0")
    first = train_set(yaml)
    assert read == [f"p{i}.jpg" for i in range(5)]
    assert len(first.faults) == 2
    second, names = reread(read, yaml)
    assert names == []
    assert_same(second, first)


@pytest.mark.parametrize(
    ("change", "scanned"),
    [
        (lambda root: (root / "labels" / "p1.txt").write_text(POLYGON + BOX), ["p1.jpg"]),
        (lambda root: os.utime(root / "labels" / "p1.txt", ns=(1, 1)), ["p1.jpg"]),
        (lambda root: (root / "labels" / "p0.txt").unlink(), ["p0.jpg"]),
        (lambda root: (root / "labels" / "p2.txt").write_text(BOX), ["p2.jpg"]),
        (lambda root: write_image(root / "images" / "p1.jpg", 200, 100), ["p1.jpg"]),
        (lambda root: write_image(root / "images" / "a.jpg", 200, 100), ["a.jpg"]),
        (lambda root: (root / "images" / "p0.jpg").unlink(), []),
        (lambda root: (root / "images" / "p0.jpg").rename(root / "images" / "q.jpg"), ["q.jpg"]),
    ],
    ids=["label edited", "label touched", "label removed", "label added", "image edited", "image added",
         "image removed", "image renamed"],
)
def test_exactly_the_changed_entries_are_read_again(
    yolo_folder: Write, read: list[str], caches: Path, change: Callable[[Path], object], scanned: list[str]
) -> None:
    yaml = yolo_folder(BOX + POLYGON, POLYGON, None, BOX + BOX, "0 nan 0 0 0")
    train_set(yaml)
    change(yaml.parent)
    found, names = reread(read, yaml)
    assert names == scanned
    assert_same(reread(read, yaml)[0], found)
    assert read == []
    shutil.rmtree(caches)
    assert_same(found, train_set(yaml))


def test_labels_that_appear_between_two_starts_are_seen(yolo_folder: Write, read: list[str]) -> None:
    yaml = yolo_folder(None, None)
    assert len(train_set(yaml).objects) == 0
    labels = yaml.parent / "labels"
    labels.mkdir()
    (labels / "p0.txt").write_text(BOX)
    assert len(train_set(yaml).objects) == 1
    (yaml.parent / "images" / "p1.txt").write_text(BOX)  # beside the images: not where there is a labels folder
    assert len(train_set(yaml).objects) == 1
    shutil.rmtree(labels)
    assert len(train_set(yaml).objects) == 1


@pytest.mark.parametrize("names", ["[cat, dog, cow]", "[dog, cat]"])
def test_other_classes_make_it_stale(yolo_folder: Write, read: list[str], names: str) -> None:
    yaml = yolo_folder(BOX)
    train_set(yaml)
    yaml.write_text(yaml.read_text().replace("[cat, dog]", names))
    found, scanned = reread(read, yaml)
    assert scanned == ["p0.jpg"]
    assert ", ".join(found.names) in names


@pytest.mark.parametrize("name", ["VERSION", "RULES"])
def test_other_rules_make_it_stale(
    yolo_folder: Write, read: list[str], monkeypatch: pytest.MonkeyPatch, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    yaml = yolo_folder(BOX)
    train_set(yaml)
    monkeypatch.setattr(label_cache, name, 99)
    assert reread(read, yaml)[1] == ["p0.jpg"]
    assert not caplog.records


def test_what_could_not_be_opened_is_tried_again(yolo_folder: Write, read: list[str]) -> None:
    yaml = yolo_folder(BOX, BOX)
    label = yaml.parent / "labels" / "p0.txt"
    label.unlink()
    label.mkdir()
    found = train_set(yaml)
    assert "p0.txt: cannot be read (Is a directory); the image is skipped" in str(found.faults[0])
    assert reread(read, yaml)[1] == ["p0.jpg"]


def test_an_input_error_is_not_cached(yolo_folder: Write, read: list[str]) -> None:
    yaml = yolo_folder(BOX, "7 0.5 0.5 0.2 0.4\n")
    for _ in range(2):
        with pytest.raises(InputError, match="found class index 7"):
            train_set(yaml)


# --- COCO JSON -------------------------------------------------------------------------------------------------

ROW = {"bbox": [1, 2, 30, 40], "segmentation": [[1, 2, 31, 2, 31, 42]], "keypoints": [5, 6, 2]}
PEOPLE = {"categories": [{"id": 3, "name": "person", "keypoints": ["nose"]}]}


def test_an_unchanged_json_is_not_opened(coco_folder: Write, read: list[str]) -> None:
    folder = coco_folder([[ROW, {"bbox": [1, 2, 0, 4]}], [], [{"bbox": None}]], **PEOPLE)
    first = train_set(folder)
    assert read == ["train.json", "train.json", "1.jpg", "2.jpg", "3.jpg"]
    second, names = reread(read, folder)
    assert names == []
    assert_same(second, first)
    assert second.objects.keypoints.tolist() == [[[5, 6, 2]]]
    assert len(second.faults) == 2


def test_a_changed_json_is_read_but_not_the_images(coco_folder: Write, read: list[str]) -> None:
    folder = coco_folder([[ROW], []], **PEOPLE)
    train_set(folder)
    file = folder / "annotations" / "train.json"
    file.write_text(file.read_text().replace("30, 40", "20, 40"))
    found, names = reread(read, folder)
    assert set(names) == {"train.json"}
    assert found.objects.boxes.tolist() == [[1, 2, 21, 42]]


def test_a_changed_image_is_read_alone(coco_folder: Write, read: list[str]) -> None:
    folder = coco_folder([[ROW], []], **PEOPLE)
    first = train_set(folder)
    os.utime(folder / "images" / "train" / "2.jpg", ns=(1, 1))
    found, names = reread(read, folder)
    assert names == ["2.jpg"]
    assert_same(found, first)
    write_image(folder / "images" / "train" / "2.jpg", 48, 64)
    found, names = reread(read, folder)
    assert names == ["2.jpg", "train.json"]
    assert "2.jpg: the JSON says 64 x 48, the image is 48 x 64; the image is skipped" in str(found.faults[0])
    assert reread(read, folder)[0].faults == found.faults


# --- the file --------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (os.environ["BOMB"],))


def edit(file: Path, **arrays: object) -> None:
    """Replace arrays of a cache file."""
    with np.load(file) as content:
        np.savez(file, **{**content, **arrays})


def edit_header(file: Path, **values: object) -> None:
    with np.load(file) as content:
        header = json.loads(content["header"].tobytes()) | values
    edit(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8))


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"PK no zip"),
        lambda file: file.write_bytes(file.read_bytes()[:-300]),
        lambda file: file.write_bytes(file.read_bytes().replace(b"\x00\x00\x20\x41", b"\x00\x00\x21\x41")),
        lambda file: file.write_bytes(pickle.dumps(Bomb())),
        lambda file: np.save(file.open("wb"), np.zeros(3)),
        lambda file: edit(file, boxes=np.array([Bomb()], object)),
        lambda file: edit(file, header=np.array([Bomb()], object)),
        lambda file: edit(file, labels=np.array([5, 5])),
        lambda file: edit(file, labels=np.array([0])),
        lambda file: edit(file, offsets=np.array([0, 9, 2])),
        lambda file: edit(file, boxes=np.zeros((2, 4))),
        lambda file: edit(file, keys=np.frombuffer(b"a", np.uint8)),
        lambda file: edit_header(file, findings=[[7, True, "x"]]),
        lambda file: edit_header(file, findings=[["x"]]),
        lambda file: edit_header(file, described={"format": "another program's"}),
    ],
    ids=["empty", "no zip", "cut", "flipped bits", "a pickle", "another array", "pickled boxes", "pickled header",
         "unknown labels", "too few labels", "offsets", "wrong type", "keys", "faults", "short fault", "foreign"],
)
def test_a_damaged_file_is_ignored_with_one_warning_and_rebuilt(
    yolo_folder: Write, read: list[str], caches: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object],
) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    yaml = yolo_folder("0 0.1 0.5 0.2 0.4\n" + POLYGON, "")  # a box up to x = 20: 0x41a00000
    first = train_set(yaml)
    (file,) = caches.iterdir()
    whole = file.read_bytes()
    damage(file)
    if file.read_bytes() == whole:
        pytest.fail("nothing was damaged")
    caplog.clear()
    found, names = reread(read, yaml)
    assert_same(found, first)
    assert names == ["p0.jpg", "p1.jpg"]
    assert len(caplog.records) == 1
    assert f"{file}: is not a cache that can be read (" in caplog.text
    assert not (tmp_path / "exploded").exists()
    assert reread(read, yaml)[1] == []


def test_a_malicious_json_header_is_ignored(coco_folder: Write, read: list[str], caches: Path) -> None:
    folder = coco_folder([[ROW], []], **PEOPLE)
    first = train_set(folder)
    (file,) = caches.iterdir()
    with np.load(file) as content:
        extra = json.loads(content["header"].tobytes())["extra"]
    for key, value in {"ids": [1], "names": [[]], "keypoint_names": [], "category_ids": [None], "json": 0}.items():
        edit_header(file, extra=extra | {key: value})
        assert_same(train_set(folder), first)


def test_no_temporary_file_is_left(yolo_folder: Write, caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    assert len(train_set(yolo_folder(BOX))) == 1
    assert list(caches.iterdir()) == []


def test_two_processes_may_build_at_once(yolo_folder: Write, caches: Path) -> None:
    yaml = yolo_folder(*[BOX] * 30)
    code = (f"from pathlib import Path\nfrom yolov7.data.catalog import open_data, open_split\n"
            f"for _ in range(8):\n"
            f"    assert len(open_split(open_data({str(yaml)!r}), 'train').objects) == 30\n"
            f"    [file.unlink(missing_ok=True) for file in Path({str(caches)!r}).glob('*.npz')]\n")
    root = str(Path(label_cache.__file__).parents[2])
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE) for _ in range(2)]
    for process in started:
        _, text = process.communicate(timeout=100)
        assert (process.returncode, text) == (0, b"")
    train_set(yaml)
    assert len(list(caches.iterdir())) == 1


# --- places ----------------------------------------------------------------------------------------------------


def test_the_folder_beside_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("YOLOV7_CACHE_DIR")
    assert cache_folder(tmp_path) == tmp_path / ".yolov7-cache"
    assert (tmp_path / ".yolov7-cache").is_dir()


def test_the_users_cache_folder_where_the_data_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, yolo_folder: Write
) -> None:
    monkeypatch.delenv("YOLOV7_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    yaml, access = yolo_folder(BOX), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: ".yolov7-cache" not in str(path) and access(path, mode))
    assert cache_folder(tmp_path) == tmp_path / "home" / "yolov7"
    assert len(train_set(yaml)) == 1
    assert len(list((tmp_path / "home" / "yolov7").glob("labels_train_*.npz"))) == 1
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cache_folder(tmp_path) is None
    assert len(train_set(yaml)) == 1


def test_a_read_only_folder_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("YOLOV7_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    data = tmp_path / "data"
    data.mkdir(mode=0o555)
    assert cache_folder(data) == tmp_path / "home" / "yolov7"
    assert list(data.iterdir()) == []


def test_a_named_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("YOLOV7_CACHE_DIR", str(tmp_path / "file" / "x"))
    with caplog.at_level(logging.WARNING):
        assert cache_folder(tmp_path) is None
    assert f"YOLOV7_CACHE_DIR={tmp_path}/file/x: cannot be written to; nothing is cached" in caplog.text


def test_two_sets_never_share_a_file(yolo_folder: Write, caches: Path, tmp_path: Path) -> None:
    yaml = yolo_folder(BOX)
    shutil.copytree(tmp_path / "images", tmp_path / "other" / "images")
    other = tmp_path / "other" / "set.yaml"
    other.write_text(yaml.read_text())
    assert (len(train_set(yaml).objects), len(train_set(other).objects)) == (1, 0)
    open_split(open_data(str(yaml)), "val")
    assert len(list(caches.iterdir())) == 3


def test_a_moved_folder_keeps_its_cache(
    tmp_path: Path, yolo_folder: Write, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("YOLOV7_CACHE_DIR")
    yaml = yolo_folder(BOX, "0 0 0\n")
    train_set(yaml)
    moved = tmp_path.parent / f"{tmp_path.name} moved"
    tmp_path.rename(moved)
    found, names = reread(read, moved / "set.yaml")
    assert names == []
    assert found.paths == (str(moved / "images" / "p0.jpg"),)
    assert found.faults[0].path == str(moved / "labels" / "p1.txt")
    moved.rename(tmp_path)


def test_a_moved_json_keeps_its_cache(
    tmp_path: Path, coco_folder: Write, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("YOLOV7_CACHE_DIR")
    folder = coco_folder([[ROW], [{"bbox": None}]], **PEOPLE)
    train_set(folder)
    moved = tmp_path.parent / f"{tmp_path.name} moved"
    tmp_path.rename(moved)
    found, names = reread(read, moved)
    assert names == []
    assert str(moved / "annotations" / "train.json") in found.faults[0].path
    moved.rename(tmp_path)

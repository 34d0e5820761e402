"""The scan in several processes: the same as in one, and none of them is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_records import content_of
from PIL import Image

from yolov7.config import InputError
from yolov7.data import scan
from yolov7.data.catalog import open_data, open_split
from yolov7.data.image_set import ImageSet
from yolov7.data.label_rows import _LabelError, check_row, scan_labels
from yolov7.data.scan import Entries, fingerprints, join, map_chunks, take

Write = Callable[..., Path]
ROOT = Path(scan.__file__).parents[2]
ROWS = ["0 0.5 0.5 0.2 0.4\n", "1 0.1 0.2 0.3 0.2 0.3 0.6\n", "0 0.5 0.5 0 0.4\n", "1 nan 0 0 0\n", "", "x y\n"]


def processes_of(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    """Small data sets in these many processes."""
    monkeypatch.setattr(scan, "CHUNK", 7)
    monkeypatch.setattr(scan, "PARALLEL_FROM", 10)
    monkeypatch.setattr(scan, "available_cores", lambda: cores)


def assert_same(found: ImageSet | Entries, expected: ImageSet | Entries) -> None:
    content = content_of(found)
    for name, value in content_of(expected).items():
        np.testing.assert_array_equal(content[name], value, err_msg=name)


def process_number(paths: list[str]) -> int:
    time.sleep(0.01)
    return os.getpid()


def fail_at_one(paths: list[str]) -> int:
    if "20" in paths:
        raise InputError("20: is one too many")
    return len(paths)


def die(paths: list[str]) -> int:
    os._exit(1)


def test_yolo_txt_is_the_same_in_processes(
    yolo_folder: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    yaml = yolo_folder(*("".join(rng.choice(ROWS, 3, p=[0.4, 0.3, 0.1, 0.05, 0.1, 0.05])) for _ in range(60)))
    (yaml.parent / "images" / "p17.jpg").write_bytes(b"no image")
    found = {}
    for cores in (1, 3):
        processes_of(monkeypatch, cores)
        monkeypatch.setenv("YOLOV7_CACHE_DIR", str(tmp_path / f"cache {cores}"))
        found[cores] = open_split(open_data(str(yaml)), "train")
    assert len(found[1].faults) > 10
    assert found[1].faults == found[3].faults
    assert_same(found[3], found[1])


def test_coco_json_is_the_same_in_processes(
    coco_folder: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = coco_folder([[{"bbox": [1, 2, 3 * (i % 4), 4]}] for i in range(40)])
    (folder / "images" / "train" / "17.jpg").write_bytes(b"no image")
    (folder / "images" / "train" / "18.jpg").unlink()
    found = {}
    for cores in (1, 3):
        processes_of(monkeypatch, cores)
        monkeypatch.setenv("YOLOV7_CACHE_DIR", str(tmp_path / f"cache {cores}"))
        found[cores] = open_split(open_data(str(folder)), "train")
    assert len(found[1].faults) == 11
    assert found[1].faults == found[3].faults
    assert_same(found[3], found[1])


def test_only_many_files_start_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    processes_of(monkeypatch, 2)
    assert set(map_chunks(process_number, [["a"] * 9], "")) == {os.getpid()}
    assert os.getpid() not in map_chunks(process_number, [["a"] * 30], "")


def test_a_fault_of_the_user_arrives_as_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    processes_of(monkeypatch, 2)
    with pytest.raises(InputError) as caught:
        map_chunks(fail_at_one, [list(map(str, range(50)))], "")
    assert str(caught.value) == "20: is one too many"
    assert caught.value.__cause__ is None


def test_a_process_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    processes_of(monkeypatch, 2)
    with pytest.raises(RuntimeError, match="a process that reads the data ended unexpectedly"):
        map_chunks(die, [["a"] * 30], "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have started us without it
        "from pathlib import Path\n"
        "from yolov7.data import scan\n"
        "scan.PARALLEL_FROM = scan.CHUNK = 1\n"
        "scan.available_cores = lambda: 2\n"
        "def slow(paths):\n"
        f"    Path({str(tmp_path)!r}, str(os.getpid())).touch()\n"
        "    time.sleep(0.2)\n"
        "scan.map_chunks(slow, [['a'] * 500], '')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL) as parent:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        parent.send_signal(number)
        assert parent.wait(20) != 0
    wait_until(lambda: not any(is_alive(int(file.name)) for file in tmp_path.iterdir()))


def is_alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # waits for its parent, which may not care in a container


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("not within 20 seconds")


def test_fingerprints(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("abc")
    os.utime(file, ns=(5, 7))
    assert fingerprints([str(file), str(tmp_path / "b"), "\0"]).tolist() == [[3, 7], [-1, -1], [-1, -1]]


def test_the_fast_check_refuses_what_the_slow_one_refuses(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    words = ["0", "1", "2", "0.5", "-0.0005", "1.0005", "1.1", "nan", "inf", "x", "1e999"]
    image, label = tmp_path / "a.bmp", tmp_path / "a.txt"
    Image.new("RGB", (20, 20)).save(image)
    outcomes = set()
    for _ in range(600):
        weights = [0.3, 0.1, 0.02, 0.42, 0.04, 0.04, *[0.016] * 5]
        columns = rng.choice(words, rng.integers(4, 10), p=weights).tolist()
        label.write_text(" ".join(columns))
        expected, found = None, None
        try:
            check_row(columns, 2)
        except (InputError, _LabelError) as error:
            expected = str(error)
        try:
            findings = scan_labels([str(image)], [str(label)], 2).findings
            found = next((finding.reason for finding in findings if finding.skipped), None)
        except InputError as error:
            found = str(error)
        assert (found is None) == (expected is None), columns
        assert expected is None or expected in str(found)
        outcomes.add(expected)
    assert len(outcomes) > 8


def test_take_undoes_join(tmp_path: Path, yolo_folder: Write) -> None:
    yaml = yolo_folder(ROWS[0], ROWS[1] + ROWS[0], ROWS[2], ROWS[3], "")
    images = [str(yaml.parent / "images" / f"p{i}.jpg") for i in range(5)]
    labels = [str(yaml.parent / "labels" / f"p{i}.txt") for i in range(5)]
    parts = [scan_labels([image], [label], 2) for image, label in zip(images, labels, strict=True)]
    order = np.array([3, 1, 4, 0, 2])
    shuffled = take(join([parts[i] for i in order]), np.argsort(order))
    whole = scan_labels(images, labels, 2)
    assert_same(shuffled, whole)
    assert [finding.entry for finding in whole.findings] == [2, 3]

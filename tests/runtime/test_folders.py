"""Folders of results: one for each caller, the best weights in them, the lock of a training."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from yolov7.config import InputError
from yolov7.runtime import folders


def test_results_that_begin_together_have_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: folders.new_folder(str(tmp_path), "exp", False), range(8)))
    assert {path.name for path in made} == {"exp", *(f"exp{number}" for number in range(2, 9))}
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a file is in its place"):
        folders.new_folder(str(tmp_path), "file", True)


def test_weights_of_the_latest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--weights: not given, and no best.pt below 'runs/train'; train first"):
        folders.find_best("")
    for age, name in enumerate(("newer", "older")):
        path = Path("runs/train") / name / "weights" / "best.pt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    assert folders.find_best("") == Path("runs/train/newer/weights/best.pt")
    assert folders.find_weights([]) == [folders.find_best("")]
    assert folders.find_weights(["a.pt", "b.pt"]) == [Path("a.pt"), Path("b.pt")]


def test_a_folder_without_locks_is_claimed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no fcntl."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    (tmp_path / ".half.tmp").touch()
    with folders.claimed(tmp_path), folders.claimed(tmp_path):
        assert not (tmp_path / ".half.tmp").exists()


def test_a_disk_that_cannot_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                 caplog: pytest.LogCaptureFixture) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with folders.claimed(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
    assert "cannot be locked (No locks available): do not start a second training in it" in caplog.text


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", ["symlink", "dangling", "hard link", "pipe", "folder"])
def test_a_lock_that_is_no_file_of_its_own_is_refused(tmp_path: Path, make: str) -> None:
    """And what a link leads to stays as it is."""
    folder, target = tmp_path / "run", tmp_path / "precious"
    folder.mkdir()
    lock = folder / ".lock"
    if make != "dangling":
        target.write_text("content")
    if make in ("symlink", "dangling"):
        lock.symlink_to(target)
    elif make == "hard link":
        lock.hardlink_to(target)
    elif make == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(InputError, match=r"run/\.lock: "), folders.claimed(folder):
        pass
    assert not target.exists() if make == "dangling" else target.read_text() == "content"


def test_what_stands_in_a_lock_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_bytes(b"\xff" * 100)
    (tmp_path / ".folder.tmp").mkdir()
    with folders.claimed(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())

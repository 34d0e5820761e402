"""Data sets of tar files on a server: the samples of the local files, with little room, and when it goes away."""

from __future__ import annotations

import http.server
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from store import Proxy, store

from yolov7 import cli
from yolov7.config import InputError
from yolov7.config.recipe import read_recipe
from yolov7.data import mirror, remote
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import TrainingDataset
from yolov7.data.loader import EpochSampler, training_loader
from yolov7.data.mirror import open_mirror
from yolov7.data.remote import RemoteError, RemoteFolder, check_address
from yolov7.data.shard_list import parse_list
from yolov7.data.synthetic import generate
from yolov7.data.windows import windows_of

MICRO = str(Path(__file__).parents[1] / "micro.yaml")
ADDRESS = "s3://sets/shapes"
SMALL = ["--cfg", MICRO, "--img-size", "64", "--batch-size", "4", "--nominal-batch", "4", "--device", "cpu",
         "--precision", "fp32", "--shard-window", "3"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate(folder, train=44, val=5)
    assert cli.main(["data", "shard", "--data", str(folder), "--output", str(folder.parent / "tars"), "--images",
                     "4"]) == 0
    return folder.parent / "tars"


@pytest.fixture(scope="module")
def server() -> Iterator[Proxy]:
    with store() as proxy:
        yield proxy


@pytest.fixture
def bucket(server: Proxy, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """The data set on the server, and nothing of it here."""
    monkeypatch.setenv("YOLOV7_CACHE_DIR", str(tmp_path / "cache"))
    for file in sorted(shapes.rglob("*.*"), key=lambda path: path.suffix != ".tar"):
        if file.is_file():
            RemoteFolder(ADDRESS).upload(file, file.relative_to(shapes).as_posix())
    mirror._USED.clear()
    return server


def tars(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("remote/*/images/train/*.tar"))


def folder_of(tmp_path: Path) -> Path:
    return next((tmp_path / "cache" / "remote").iterdir())


def loader_of(data: str, window: int, workers: int, seed: int = 3, batch: int = 4):  # type: ignore[no-untyped-def]
    image_set = open_split(open_data(data), "train")
    windows = windows_of(image_set, window, seed)
    dataset = TrainingDataset(image_set, 64, read_recipe("p5").augment, seed, windows=windows)
    return training_loader(dataset, EpochSampler(len(image_set), batch, seed, windows=windows), workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_those_of_the_local_files(bucket: Proxy, shapes: Path, tmp_path: Path, workers: int,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sum(path.stat().st_size for path in shapes.glob("images/*/*.tar"))
    monkeypatch.setenv("YOLOV7_CACHE_ROOM", str(0.75 * whole / 2**30))
    local, far = loader_of(str(shapes), 3, 0), loader_of(ADDRESS, 3, workers)
    assert not tars(tmp_path / "cache")  # opening fetches none
    for epoch in range(2):
        for loader in (local, far):
            loader.batch_sampler.set_epoch(epoch)
        for one, other in zip(local, far, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.targets.boxes, other.targets.boxes)
            assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("images/*/*.tar")) <= 0.75 * whole
    far.close()
    assert 0 < len(tars(tmp_path / "cache")) < 11


def test_a_window_of_all_is_no_window(shapes: Path) -> None:
    image_set = open_split(open_data(str(shapes)), "train")
    plain = EpochSampler(len(image_set), 4, 7)
    windowed = EpochSampler(len(image_set), 4, 7, windows=windows_of(image_set, 11, 7))
    for epoch in range(3):
        plain.set_epoch(epoch)
        windowed.set_epoch(epoch)
        assert list(plain) == list(windowed)
    augment = read_recipe("p5").augment
    first = TrainingDataset(image_set, 64, augment, 7)
    second = TrainingDataset(image_set, 64, augment, 7, windows=windows_of(image_set, 50, 7))
    for position in range(20):
        one, other = first[1, position, position], second[1, position, position]
        np.testing.assert_array_equal(one.image, other.image)


def test_mosaics_stay_in_their_window(shapes: Path) -> None:
    image_set = open_split(open_data(str(shapes)), "train")
    windows = windows_of(image_set, 2, 5)
    dataset = TrainingDataset(image_set, 64, read_recipe("p5").augment, 5, windows=windows)
    read: set[int] = set()
    load = dataset.reader._load
    dataset.reader._load = lambda index, **how: (read.add(index), load(index, **how))[1]  # type: ignore[method-assign]
    for epoch in range(2):
        found = windows.of_epoch(epoch)
        assert sorted(found.order.tolist()) == list(range(len(image_set)))
        assert [len(files) for files in found.files] == [2] * 5 + [1]
        for position, index in enumerate(found.order.tolist()):
            read.clear()
            dataset[epoch, position, index]
            assert read <= set(found.partners(index).tolist())
    assert not np.array_equal(windows.of_epoch(0).order, windows.of_epoch(1).order)


def test_the_server_goes_away_three_times(bucket: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(remote, "CHUNK", 1 << 15)
    before = bucket.cuts
    found = open_mirror(ADDRESS)
    with caplog.at_level(logging.WARNING):
        for name in [name for name in found.files if "train" in name][:3]:
            bucket.cut_after = bucket.bytes + 40_000  # in the middle of the file
            assert found.provide(str(found.root / name))
    assert bucket.cuts == before + 3
    assert "trying again for 300 s" in caplog.text
    assert not list(tmp_path.rglob("*.tmp"))


def test_training_goes_on_after_kills(bucket: Proxy, shapes: Path, tmp_path: Path) -> None:
    """A run of the server's files that is killed and cut off, and one of local files, end with the same weights."""
    assert cli.main(["train", "--data", str(shapes), "--project", str(tmp_path), "--name", "local", *SMALL, "--epochs",
                     "2", "--workers", "0"]) == 0
    flags = ["train", "--data", ADDRESS, "--project", str(tmp_path), "--name", "far", *SMALL, "--epochs", "2",
             "--workers", "1"]
    folder = tmp_path / "far"
    for attempt in range(3):
        command = flags if not (folder / "weights" / "last.pt").is_file() else [
            "train", "--resume", str(folder), "--workers", "1"]
        if command is flags:
            shutil.rmtree(folder, ignore_errors=True)
        run = subprocess.Popen([sys.executable, "-m", "yolov7", *command], stderr=subprocess.DEVNULL)
        bucket.cut_for(1.5)
        if attempt < 2:
            wait_for(folder / "weights" / "last.pt", run)
            run.send_signal(signal.SIGKILL)
        run.wait(timeout=240)
    states = [torch.load(tmp_path / name / "weights" / "last.pt", weights_only=True)["model"]
              for name in ("local", "far")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def wait_for(path: Path, run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.is_file() and run.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_command_reads_them(bucket: Proxy, shapes: Path, tmp_path: Path,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "anchors", "--data", ADDRESS, "--cfg", "yolov7-tiny"]) == 0
    assert not tars(tmp_path / "cache")
    assert cli.main(["data", "check", "--data", ADDRESS]) == 0
    assert cli.main(["train", "--data", ADDRESS, "--project", str(tmp_path / "t"), *SMALL, "--epochs", "1",
                     "--workers", "0"]) == 0
    weights = str(tmp_path / "t" / "exp" / "weights" / "last.pt")
    assert cli.main(["test", "--weights", weights, "--project", str(tmp_path / "e"), "--device", "cpu", "--workers",
                     "0"]) == 0
    assert cli.main(["data", "shard", "--data", ADDRESS, "--check"]) == 0
    again = tmp_path / "again"
    assert cli.main(["data", "shard", "--data", ADDRESS, "--output", str(again), "--images", "4"]) == 0
    for file in shapes.rglob("*.tar"):
        assert (again / file.relative_to(shapes)).read_bytes() == file.read_bytes()
    assert "secret-of-a-test" not in "".join(capsys.readouterr())


def test_writing_to_a_server(bucket: Proxy, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = "s3://sets/written"
    assert cli.main(["data", "shard", "--data", str(shapes), "--output", target, "--images", "10"]) == 0
    assert len(open_split(open_data(target), "train")) == 44
    assert cli.main(["data", "shard", "--data", target, "--check"]) == 0
    assert cli.main(["data", "shard", "--data", str(shapes), "--output", target]) == 2
    assert "has a images/train/shards.json; accepted: a folder that is new or empty" in capsys.readouterr().err


def test_what_changed_on_the_server_is_fetched_anew(bucket: Proxy, shapes: Path, tmp_path: Path) -> None:
    found = open_mirror(ADDRESS)
    first = str(found.root / "images" / "val" / "000000.tar")
    found.provide(first)
    before = Path(first).read_bytes()
    generate(tmp_path / "other", train=4, val=3)
    assert cli.main(["data", "shard", "--data", str(tmp_path / "other"), "--output", str(tmp_path / "new")]) == 0
    for file in (tmp_path / "new").rglob("*.*"):
        if file.is_file():
            RemoteFolder(ADDRESS).upload(file, file.relative_to(tmp_path / "new").as_posix())
    image_set = open_split(open_data(ADDRESS), "val")
    assert len(image_set) == 3
    assert not Path(first).exists()
    assert open_mirror(ADDRESS).provide(first)
    assert Path(first).read_bytes() != before


def test_wrong_bytes_and_missing_files(bucket: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = open_mirror(ADDRESS)
    broken = tmp_path / "broken"
    broken.write_bytes(b"x" * found.files["images/train/000001.tar"][0])
    RemoteFolder(ADDRESS).upload(broken, "images/train/000001.tar")
    with pytest.raises(RemoteError, match=r"images/train/000001.tar: has other bytes than its list says"):
        found.provide(str(found.root / "images/train/000001.tar"))
    assert cli.main(["data", "shard", "--data", ADDRESS, "--check"]) == 1
    assert "1 faults in 13 tar files" in capsys.readouterr().err
    assert cli.main(["train", "--data", ADDRESS, "--project", str(tmp_path / "t"), *SMALL, "--epochs", "1",
                     "--workers", "1"]) == 1
    assert "000001.tar: has other bytes than its list says" in capsys.readouterr().err


def test_too_little_room(bucket: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("YOLOV7_CACHE_ROOM", "0.0000001")
    assert cli.main(["train", "--data", ADDRESS, "--project", str(tmp_path / "t"), *SMALL]) == 2
    said = capsys.readouterr().err
    assert "two windows of 3 tar files takes" in said and "$YOLOV7_CACHE_ROOM, in GiB" in said
    assert not (tmp_path / "t").exists()
    monkeypatch.setenv("YOLOV7_CACHE_ROOM", "much")
    assert cli.main(["data", "check", "--data", ADDRESS]) == 2
    assert "$YOLOV7_CACHE_ROOM: found 'much'; accepted: GiB of the disk" in capsys.readouterr().err


@pytest.mark.parametrize(("address", "said"), [
    ("pipe:cat x.tar", "would run a command; accepted: the address of a folder by s3, gs, http, https"),
    ("file:///etc", "accepted: the address of a folder by s3"),
    ("simplecache::s3://a/b", "accepted: the address of a folder by s3"),
    ("s3://key:hunter2@bucket/set", "must hold no user, password or key"),
    ("https://host/set?X-Amz-Signature=hunter2", "must hold no user, password or key"),
    ("s3://", "names no folder"), ("s3://a/../b", "names no folder"), ("ftp://host/set", "accepted: the address of"),
    ("memory://x", "accepted: the address of"), ("zip://x::s3://y", "accepted: the address of")])
def test_addresses_that_are_refused(address: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", "--data", address]) == 2
    found = capsys.readouterr().err
    assert said in found
    assert "hunter2" not in found
    if not address.startswith("pipe"):
        with pytest.raises(InputError):
            check_address(address, "--output")


def test_where_there_is_no_data_set(server: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("YOLOV7_CACHE_DIR", str(tmp_path / "cache"))
    for address in ("s3://sets/nothing", "s3://no-such-bucket/x"):
        assert cli.main(["data", "check", "--data", address]) == 2
        assert f"--data {address}: has none of images/train/shards.json" in capsys.readouterr().err
    monkeypatch.setattr(remote, "PATIENCE", 1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    remote._system.cache_clear()
    assert cli.main(["data", "check", "--data", "s3://sets/nothing"]) == 1
    assert "the server gave nothing for 1 s" in capsys.readouterr().err
    remote._system.cache_clear()


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
                                   ) -> None:
    monkeypatch.setenv("YOLOV7_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    remote._system.cache_clear()
    assert cli.main(["data", "check", "--data", "gs://bucket/set"]) == 2
    assert "gs://: needs gcsfs" in (said := capsys.readouterr().err) and "yolov7-framework[remote]" in said


@pytest.mark.parametrize("ranges", [False, True])
def test_a_plain_server(shapes: Path, tmp_path: Path, ranges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("YOLOV7_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "CHUNK", 1 << 16)
    handler = partial(Ranged if ranges else Quiet, directory=str(shapes))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{one.server_port}"
        local, far = (open_split(open_data(data), "train") for data in (str(shapes), f"{address}/"))
        first, second = (TrainingDataset(image_set, 64, read_recipe("p5").augment) for image_set in (local, far))
        for position in range(4):
            np.testing.assert_array_equal(first[0, position, position].image, second[0, position, position].image)
        one.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Ranged(Quiet):
    """One that knows ranges."""

    def do_GET(self) -> None:
        said = self.headers.get("Range")
        if not said:
            super().do_GET()
            return
        start, end = map(int, said.removeprefix("bytes=").split("-"))
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("Content-Length", str(len(content[start : end + 1])))
        self.end_headers()
        self.wfile.write(content[start : end + 1])


@pytest.mark.parametrize("change", [
    {"files": [{"name": "../x.tar", "bytes": 1, "sha256": "0" * 64, "images": 1}]}, {"files": 3}, {"annotations": None},
    {"files": [{"name": "x.tar", "bytes": -1, "sha256": "0" * 64, "images": 1}]}, {"split": 3},
    {"files": [{"name": "x.tar", "bytes": 1, "sha256": "zz", "images": 1}]}, {"files": [{"name": "x.tar"}]}])
def test_lists_of_another_form(shapes: Path, change: dict[str, object]) -> None:
    content = json.loads((shapes / "images" / "train" / "shards.json").read_text())
    parse_list(json.dumps(content).encode(), "here")
    with pytest.raises(InputError, match="here: is not a list of tar files"):
        parse_list(json.dumps({**content, **change}).encode(), "here")


def test_files_outside_of_the_set_are_not_read(bucket: Proxy, shapes: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    shutil.copy(Path(__file__).parents[2] / "docs" / "images" / next(
        path.name for path in (Path(__file__).parents[2] / "docs" / "images").iterdir()), secret)
    copy = tmp_path / "copy"
    shutil.copytree(shapes, copy)
    annotations = copy / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    for image, name in zip(content["images"], (str(secret), "000000.tar/../../../secret.png", "no.tar/x.jpg"),
                           strict=False):
        image["file_name"] = name
    annotations.write_text(json.dumps(content))
    listed = json.loads((copy / "images" / "train" / "shards.json").read_text())
    from yolov7.config import checksum

    listed["annotations"]["bytes"], listed["annotations"]["sha256"] = checksum(annotations)
    (copy / "images" / "train" / "shards.json").write_text(json.dumps(listed))
    for file in (annotations, copy / "images" / "train" / "shards.json"):
        RemoteFolder(ADDRESS).upload(file, file.relative_to(copy).as_posix())
    image_set = open_split(open_data(ADDRESS), "train")
    assert len(image_set) == 41
    assert [fault.reason for fault in image_set.faults] == [
        "is in none of the tar files of its data set; the image is skipped"] * 3


def test_two_processes_fetch_a_file_once(bucket: Proxy, tmp_path: Path) -> None:
    found = open_mirror(ADDRESS)
    name = "images/train/000003.tar"
    before = bucket.bytes
    code = (f"from yolov7.data.mirror import mirror_of; "
            f"assert mirror_of({str(found.root / name)!r}).provide({str(found.root / name)!r})")
    runs = [subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ)) for _ in range(3)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    assert bucket.bytes - before < 2 * found.files[name][0]

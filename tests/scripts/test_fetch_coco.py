"""Fetching COCO from a server of our own: whole, cut, wrong, damaged, malicious, and not at all."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from script_module import SCRIPTS, load_script

IMAGES = {f"train2017/{i:012}.jpg": bytes([i]) * 40_000 for i in range(5)}
FILES = {
    "zips/train2017.zip": IMAGES,
    "zips/val2017.zip": {"val2017/000000000009.jpg": b"nine"},
    "zips/test2017.zip": {"test2017/000000000007.jpg": b"seven"},
    "annotations/image_info_test2017.zip": {"annotations/image_info_test-dev2017.json": b"{}"},
    "annotations/annotations_trainval2017.zip": {"annotations/instances_train2017.json": b"[1]",
                                                 "annotations/instances_val2017.json": b"[2]"},
}


def make_zip(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(zipfile.ZipInfo(name), content)  # not of the time of day: the checksum is computed apart
    return stream.getvalue()


@dataclass
class Site:
    """What a server has, how it behaves, and what it was asked: (method, path, Range)."""

    archives: dict[str, bytes]
    ranges: bool = True
    cuts: int = 0  # how many more answers break off midway
    url: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def fetched(self) -> list[tuple[str, str | None]]:
        return [(path.rpartition("/")[2], span) for method, path, span in self.asked if method == "GET"]


def make_handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            span = self.headers.get("Range")
            site.asked.append((self.command, self.path, span))
            content = site.archives.get(self.path.lstrip("/"))
            if content is None:
                return self.send_error(404)
            start = int(span.removeprefix("bytes=").rstrip("-")) if span and site.ranges else 0
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[start:self.end(start, len(content))])

        def end(self, start: int, length: int) -> int:
            if not site.cuts:
                return length
            site.cuts -= 1
            return (start + length) // 2

        do_GET = do_HEAD = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module: without waiting, and with the checksums of our archives."""
    module: Any = load_script("fetch_coco")
    monkeypatch.setattr(module, "BACK_OFF", 0.0)
    monkeypatch.setattr(module, "CHUNK", 10_000)
    sources = {split: tuple(module.Source(source.path, source.md5 and checksum(make_zip(FILES[source.path])))
                            for source in entry) for split, entry in module.SOURCES.items()}
    monkeypatch.setattr(module, "SOURCES", sources)
    return module


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    site = Site({path: make_zip(files) for path, files in FILES.items()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def checksum(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def run(script: Any, site: Site, output: Path, *flags: str) -> int:
    return script.main(["--output", str(output), "--base-url", site.url, *flags])  # type: ignore[no-any-return]


def tree(output: Path) -> dict[str, bytes]:
    """Everything below a folder but the receipt."""
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*")
            if path.is_file() and path.name != ".fetched.json"}


def expected(*paths: str) -> dict[str, bytes]:
    return {name: content for path in paths for name, content in FILES[path].items()}


def test_fresh_fetch(script: Any, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(script, site, tmp_path) == 0
    assert tree(tmp_path) == expected("zips/train2017.zip", "zips/val2017.zip",
                                      "annotations/annotations_trainval2017.zip")
    receipt = json.loads((tmp_path / ".fetched.json").read_text())["train2017.zip"]
    assert receipt == {"md5": checksum(site.archives["zips/train2017.zip"]), "files": 5, "folders": {"train2017": 5}}
    out = capsys.readouterr().out
    assert "GiB are free" in out and out.endswith(f"python train.py --cfg yolov7 --data {tmp_path}\n")


def test_default_folder_is_the_data_set_of_that_name(
    script: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert script.main(["--base-url", site.url]) == 0
    assert (tmp_path / "datasets/coco/val2017/000000000009.jpg").read_bytes() == b"nine"
    assert capsys.readouterr().out.endswith("python train.py --cfg yolov7 --data coco\n")


def test_test_brings_its_annotations(
    script: Any, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(script, site, tmp_path, "--splits", "test") == 0
    assert tree(tmp_path) == expected("zips/test2017.zip", "annotations/image_info_test2017.zip")
    assert "--splits train val annotations" in capsys.readouterr().out.splitlines()[-1]


def test_second_run_asks_nothing(script: Any, site: Site, tmp_path: Path) -> None:
    flags = ("--splits", "val", "annotations", "test")
    assert run(script, site, tmp_path, *flags) == 0
    site.asked.clear()
    assert run(script, site, tmp_path, *flags) == 0
    assert site.asked == []


def test_missing_image_is_fetched_again(script: Any, site: Site, tmp_path: Path) -> None:
    run(script, site, tmp_path, "--splits", "train", "val")
    site.asked.clear()
    (tmp_path / "val2017/000000000009.jpg").unlink()
    assert run(script, site, tmp_path, "--splits", "train", "val") == 0
    assert site.fetched() == [("val2017.zip", None)]
    assert tree(tmp_path) == expected("zips/train2017.zip", "zips/val2017.zip")


def test_cut_connection_goes_on_where_it_stopped(script: Any, site: Site, tmp_path: Path) -> None:
    site.cuts = 1
    half = len(site.archives["zips/train2017.zip"]) // 2
    assert run(script, site, tmp_path, "--splits", "train") == 0
    assert site.fetched() == [("train2017.zip", None), ("train2017.zip", f"bytes={half}-")]
    assert tree(tmp_path) == IMAGES


def test_server_without_ranges_starts_from_zero(script: Any, site: Site, tmp_path: Path) -> None:
    site.cuts, site.ranges = 1, False
    assert run(script, site, tmp_path, "--splits", "train") == 0
    assert tree(tmp_path) == IMAGES


def test_many_cuts_end_the_run_and_the_next_goes_on(
    script: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "RETRIES", 1)
    site.cuts, site.ranges = 2, False  # from zero each time: the second cut brings nothing new
    assert run(script, site, tmp_path, "--splits", "train") == 1
    assert "run the same command again" in capsys.readouterr().err
    half = (tmp_path / "train2017.zip.part").stat().st_size
    site.ranges, site.cuts = True, 0
    assert run(script, site, tmp_path, "--splits", "train") == 0
    assert site.fetched()[-1] == ("train2017.zip", f"bytes={half}-")
    assert tree(tmp_path) == IMAGES


def test_retries_count_only_without_a_new_byte(
    script: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "RETRIES", 1)
    site.cuts = 6
    assert run(script, site, tmp_path, "--splits", "train") == 0
    assert len(site.fetched()) == 7


def test_part_longer_than_the_file_is_thrown_away(script: Any, site: Site, tmp_path: Path) -> None:
    (tmp_path / "val2017.zip.part").write_bytes(bytes(9999))
    assert run(script, site, tmp_path, "--splits", "val") == 0
    assert site.fetched() == [("val2017.zip", "bytes=9999-"), ("val2017.zip", None)]


def test_wrong_checksum(script: Any, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right, wrong = site.archives["zips/val2017.zip"], make_zip({"val2017/other.jpg": b"?"})
    site.archives["zips/val2017.zip"] = wrong
    assert run(script, site, tmp_path, "--splits", "val") == 1
    error = capsys.readouterr().err
    assert checksum(right) in error and checksum(wrong) in error
    assert tree(tmp_path) == {}
    site.archives["zips/val2017.zip"] = right
    assert run(script, site, tmp_path, "--splits", "val") == 0


@pytest.mark.parametrize("name", ["../evil", "/evil", "test2017/../../evil", "..\\evil", "C:evil", "//host/share/evil"])
def test_member_outside_is_refused(
    script: Any, site: Site, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site.archives["zips/test2017.zip"] = make_zip({"test2017/a.jpg": b"a", name: b"evil"})
    assert run(script, site, tmp_path / "coco", "--splits", "test") == 1
    assert "lies outside" in capsys.readouterr().err
    assert tree(tmp_path) == {}


def test_damaged_member(script: Any, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = make_zip({"test2017/a.jpg": b"first", "test2017/b.jpg": b"second"})
    site.archives["zips/test2017.zip"] = right.replace(b"second", b"secund")
    assert run(script, site, tmp_path, "--splits", "test") == 1
    assert "CRC-32" in capsys.readouterr().err
    assert tree(tmp_path) == {"test2017/a.jpg": b"first"}
    site.archives["zips/test2017.zip"] = right
    assert run(script, site, tmp_path, "--splits", "test") == 0
    assert (tmp_path / "test2017/b.jpg").read_bytes() == b"second"


def test_no_zip_at_all(script: Any, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.archives["zips/test2017.zip"] = b"<html>log in first</html>"
    assert run(script, site, tmp_path, "--splits", "test") == 1
    assert "cannot be unpacked" in capsys.readouterr().err
    assert tree(tmp_path) == {}


def test_interrupted_unpacking_goes_on(
    script: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    replace = script.os.replace

    def interrupt(source: Path, target: Path) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        replace(source, target)
        if target.suffix == ".jpg":
            written.append(target.name)

    monkeypatch.setattr(script.os, "replace", interrupt)
    assert run(script, site, tmp_path, "--splits", "train") == 130
    assert sorted(path.name for path in (tmp_path / "train2017").iterdir()) == written
    monkeypatch.setattr(script.os, "replace", replace)
    site.asked.clear()
    times = {name: (tmp_path / "train2017" / name).stat().st_mtime_ns for name in written}
    assert run(script, site, tmp_path, "--splits", "train") == 0
    assert site.asked == []  # the archive was whole
    assert times == {name: (tmp_path / "train2017" / name).stat().st_mtime_ns for name in written}
    assert tree(tmp_path) == IMAGES


def test_kept_archive(script: Any, site: Site, tmp_path: Path) -> None:
    assert run(script, site, tmp_path, "--splits", "val", "--keep-archives") == 0
    assert (tmp_path / "val2017.zip").read_bytes() == site.archives["zips/val2017.zip"]


def test_full_disk_is_refused_before_the_first_byte(
    script: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    assert run(script, site, tmp_path) == 1
    assert "0.00 GiB free; make room" in capsys.readouterr().err
    assert site.fetched() == []


def test_wrong_address_is_not_tried_again(
    script: Any, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del site.archives["zips/val2017.zip"]
    assert run(script, site, tmp_path, "--splits", "val") == 1
    assert "404 Not Found; check --base-url" in capsys.readouterr().err
    assert len(site.fetched()) == 1


@pytest.mark.parametrize("flags", [
    ["--splits", "trian"], ["--base-url", "ftp://host"], ["--base-url", "http://host:port"], ["--base-url", "host"],
    ["--output", str(SCRIPTS / "fetch_coco.py")],
])
def test_bad_input(script: Any, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.main(flags)
    assert flags[0] in capsys.readouterr().err

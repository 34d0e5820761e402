"""Fetch COCO 2017 into ``datasets/coco``, laid out as ``data/coco.yaml`` expects it.

After any interruption run the same command again: a download goes on where it stopped, files that are unpacked whole
stay, and an archive that ``.fetched.json`` calls finished is not fetched again. Needs tqdm and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import shlex
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

BASE_URL = "http://images.cocodataset.org"
DEFAULT_OUTPUT = Path("datasets", "coco")
DEFAULT_SPLITS = ("train", "val", "annotations")  # what training takes
RECEIPT = ".fetched.json"
CHUNK = 1 << 20  # bytes
TIMEOUT = 60.0  # seconds without a byte
RETRIES = 5  # in a row without a new byte
BACK_OFF = 2.0  # seconds before the first retry, doubled before each further one
BUSY = (408, 416, 429, 500, 502, 503, 504)  # answers worth another try; 416 comes when the kept part does not fit
BROKEN_CONNECTION = (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException, urllib.error.URLError)
BROKEN_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)  # the last: methods zipfile cannot read


@dataclass(frozen=True)
class Source:
    """An archive: its path below the base URL, and its MD5 where it is known."""

    path: str
    md5: str | None = None

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


# The test archives have no checksum that we know with certainty: there, each member's CRC-32 in the zip decides.
SOURCES = {
    "train": (Source("zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),),
    "val": (Source("zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),),
    "test": (Source("zips/test2017.zip"), Source("annotations/image_info_test2017.zip")),
    "annotations": (Source("annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"),),
}


class FetchError(Exception):
    """One sentence for the user; exit code 1."""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def gibibytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def part_of(archive: Path) -> Path:
    return archive.with_name(archive.name + ".part")


def byte_bar(total: int | None, what: str, initial: int = 0) -> tqdm[Any]:
    return tqdm(total=total, initial=initial, desc=what, unit="B", unit_scale=True, unit_divisor=1024,
                disable=None, leave=False)


def require_space(folder: Path, needed: int, what: str) -> None:
    """State the bytes that are needed and free; raises `FetchError` when they are too few."""
    free = shutil.disk_usage(folder).free
    say(f"{what}: needs {gibibytes(needed)}, {gibibytes(free)} are free")
    if needed > free:
        raise FetchError(f"{what}: needs {gibibytes(needed)} in {folder}, found {gibibytes(free)} free; "
                         "make room or choose another --output")


# --- receipts --------------------------------------------------------------------------------------------------


def read_receipts(output: Path) -> dict[str, dict[str, Any]]:
    """Finished archives by name: MD5, number of files, and how many of them lie in which folder."""
    try:
        content = json.loads((output / RECEIPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {name: entry for name, entry in entries
            if isinstance(entry, dict) and isinstance(entry.get("folders"), dict)}


def write_receipts(output: Path, receipts: dict[str, dict[str, Any]]) -> None:
    temporary = output / f"{RECEIPT}.tmp"
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump(receipts, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, output / RECEIPT)


def count_files(folder: Path) -> int:
    """Files in a folder, 0 where there is none."""
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(entry.is_file() and not entry.name.endswith(".part") for entry in entries)


def is_finished(source: Source, output: Path, receipts: dict[str, dict[str, Any]]) -> bool:
    """Whether the archive has a receipt and its folders hold as many files as all receipts together say.

    ``annotations`` is filled by two archives: a file missing there makes both unfinished.
    """
    entry = receipts.get(source.name)
    if entry is None or source.md5 not in (None, entry.get("md5")):
        return False
    expected: Counter[str] = Counter()
    for other in receipts.values():
        expected.update(other["folders"])
    return all(count_files(output / folder) >= expected[folder] for folder in entry["folders"])


# --- download --------------------------------------------------------------------------------------------------


def announced_size(url: str) -> int | None:
    """Content length by a HEAD request; None if the server does not tell."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10) as response:
            return int(response.headers["Content-Length"])
    except (*BROKEN_CONNECTION, TypeError, ValueError):
        return None  # the download itself retries, and says what is wrong


def span(response: Any) -> tuple[int, int | None]:
    """Where the body of an answer starts in the file, and the length of the file if it is told."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        place, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = place.partition("-")[0]
        return int(start) if start.isdigit() else -1, int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def receive(url: str, part: Path) -> None:
    """Fetch what ``part`` lacks over one connection; a server that ignores Range sends it from zero.

    Raises one of ``BROKEN_CONNECTION`` if the connection ends early; what has arrived is kept.
    """
    have = size_of(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        start, total = span(response)
        if start not in (0, have):
            part.unlink(missing_ok=True)
            raise ConnectionError(f"the server answered from byte {start}, not {have}")
        if total is not None:
            require_space(part.parent, total - start, f"{url}, from byte {start}")
        with open(part, "ab" if start else "wb") as stream, byte_bar(total, "fetching", start) as bar:
            while block := response.read(CHUNK):
                stream.write(block)
                bar.update(len(block))
    if total is not None and size_of(part) != total:  # reading in blocks does not raise by itself
        raise ConnectionError(f"closed after {size_of(part)} of {total} bytes")


def download(url: str, archive: Path) -> None:
    """Fetch ``archive`` by way of its ``.part`` file, with retries; raises `FetchError` when they are used up."""
    part = part_of(archive)
    best, failures = size_of(part), 0
    while True:
        try:
            receive(url, part)
            break
        except BROKEN_CONNECTION as error:
            if isinstance(error, urllib.error.HTTPError):
                if error.code not in BUSY:
                    raise FetchError(f"{url}: the server answered {error.code} {error.reason}; "
                                     "check --base-url") from None
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    part.unlink(missing_ok=True)
            failures = 1 if size_of(part) > best else failures + 1
            best = max(best, size_of(part))
            if failures > RETRIES:
                raise FetchError(f"{url}: the connection failed {failures} times ({error}), {size_of(part)} bytes are "
                                 "kept; run the same command again to go on") from None
            wait = BACK_OFF * 2 ** (failures - 1)
            say(f"{url}: {error}; trying again in {wait:g} s")
            time.sleep(wait)
    os.replace(part, archive)


def verify(archive: Path, expected: str | None) -> str:
    """The MD5 of an archive; one that differs from ``expected`` is removed and a `FetchError`."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(archive, "rb") as stream, byte_bar(size_of(archive), "checking") as bar:
        while block := stream.read(CHUNK):
            digest.update(block)
            bar.update(len(block))
    found = digest.hexdigest()
    if expected not in (None, found):
        archive.unlink()
        raise FetchError(f"{archive}: expected the MD5 {expected}, found {found}; the file was removed, run the same "
                         "command again to fetch it afresh")
    return found


# --- unpacking -------------------------------------------------------------------------------------------------


def is_inside(name: str) -> bool:
    """Whether a member's name stays below the folder it is unpacked in, on any system."""
    path = PureWindowsPath(name)  # knows drives and both slashes
    return bool(path.parts) and not path.drive and not path.root and ".." not in path.parts


def write_member(zipped: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, bar: tqdm[Any]) -> None:
    """Unpack one file under a hidden name and rename it; reading to the end checks its CRC-32."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    try:
        with zipped.open(member) as packed, open(temporary, "wb") as stream:
            while block := packed.read(CHUNK):
                stream.write(block)
                bar.update(len(block))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def unpack(archive: Path, output: Path) -> dict[str, int]:
    """Unpack what is not there in full size yet; returns the number of files by folder.

    Raises one of ``BROKEN_ARCHIVE`` for a damaged archive and, before anything is written, for one with a member
    outside of ``output``.
    """
    with zipfile.ZipFile(archive) as zipped:
        members = {member.filename: member for member in zipped.infolist() if not member.is_dir()}
        for name in members:
            if not is_inside(name):
                raise zipfile.BadZipFile(f"its member {name!r} lies outside of {output}")
        missing = [member for name, member in members.items() if not (output / name).is_file()
                   or size_of(output / name) != member.file_size]
        size = sum(member.file_size for member in missing)
        require_space(output, size, f"unpacking {len(missing)} of the {len(members)} files of {archive.name}")
        with byte_bar(size, "unpacking") as bar:
            for member in missing:
                write_member(zipped, member, output / member.filename, bar)
    return dict(Counter(str(PurePosixPath(name).parent) for name in members))


# --- the whole -------------------------------------------------------------------------------------------------


def check_space(sources: Sequence[Source], base_url: str, output: Path, keep_archives: bool) -> None:
    """State what is to be fetched, and refuse at once where it cannot fit.

    Images are packed but not made smaller, so that an archive's size is also about that of its files.
    """
    sizes, kept = [], 0
    for source in sources:
        if (output / source.name).is_file():
            continue  # only to be unpacked: that is checked from its directory
        size = announced_size(f"{base_url}/{source.path}")
        say(f"{source.name}: {'size unknown' if size is None else gibibytes(size)} to fetch")
        sizes.append(size or 0)
        kept += size_of(part_of(output / source.name))
    if any(sizes):
        archives = sum(sizes) if keep_archives else max(sizes)  # each is removed before the next is fetched
        require_space(output, max(sum(sizes) + archives - kept, 0), "archives and their files")


def fetch(source: Source, base_url: str, output: Path, keep_archives: bool) -> None:
    """Download, check and unpack one archive, then write its receipt."""
    archive = output / source.name
    if not archive.is_file():
        download(f"{base_url}/{source.path}", archive)
    md5 = verify(archive, source.md5)
    try:
        folders = unpack(archive, output)
    except BROKEN_ARCHIVE as error:
        archive.unlink()
        raise FetchError(f"{archive}: cannot be unpacked ({error}); it was removed, run the same command again to "
                         "fetch it afresh") from None
    if hasattr(os, "sync"):
        os.sync()  # the receipt must not reach the disk before the files
    entry = {"md5": md5, "files": sum(folders.values()), "folders": folders}
    write_receipts(output, read_receipts(output) | {source.name: entry})
    if not keep_archives:
        archive.unlink()
    say(f"{source.name}: done, {entry['files']} files")


def next_command(output: Path) -> str:
    """What to type when everything asked for is there."""
    receipts = read_receipts(output)
    missing = [split for split in DEFAULT_SPLITS if not all(
        is_finished(source, output, receipts) for source in SOURCES[split])]
    default = output.resolve() == DEFAULT_OUTPUT.resolve()
    folder = shlex.quote(str(output))
    if missing:
        return f"python scripts/fetch_coco.py --splits {' '.join(missing)}" + ("" if default else f" --output {folder}")
    return f"python train.py --cfg yolov7 --data {'coco' if default else folder}"


def web_address(text: str) -> str:
    """A ``--base-url`` without its last slash."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and len(text.split()) == 1
    except ValueError:  # a port that is no number
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"found {text!r}; accepted: an address with http:// or https://")
    return text.rstrip("/")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 when all is there, 1 after a failure, 2 for bad input, 130 when interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="folder (default: %(default)s)")
    parser.add_argument("--splits", nargs="+", choices=SOURCES, default=DEFAULT_SPLITS, metavar="SPLIT",
                        help=f"of {', '.join(SOURCES)}; test brings its annotations (default: all but test)")
    parser.add_argument("--keep-archives", action="store_true", help="do not remove archives once they are unpacked")
    parser.add_argument("--base-url", type=web_address, default=BASE_URL, help="mirror (default: %(default)s)")
    options = parser.parse_args(arguments)
    output: Path = options.output
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output {str(output)!r}: is no folder ({error.strerror}); accepted: one that can be written")
    try:
        receipts = read_receipts(output)
        wanted = [source for split in dict.fromkeys(options.splits) for source in SOURCES[split]]
        sources = [source for source in wanted if not is_finished(source, output, receipts)]
        check_space(sources, options.base_url, output, options.keep_archives)
        for source in sources:
            fetch(source, options.base_url, output, options.keep_archives)
    except (FetchError, OSError) as error:
        hint = "" if isinstance(error, FetchError) else "; run the same command again to go on"
        sys.stderr.write(f"error: {error}{hint}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; run the same command again to go on\n")
        return 130  # as a shell says it
    say(f"All there, in {output}. Next:\n{next_command(output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

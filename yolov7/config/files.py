"""YAML files, the files that travel with the package, and the one way to write a file."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolov7.config.errors import InputError, nearest, reason_of
from yolov7.config.paths import writing
from yolov7.config.plain_yaml import parse_yaml
from yolov7.config.schema import describe_value

PACKAGE = Path(__file__).parents[1]
SHIPPED = PACKAGE / "shipped" if (PACKAGE / "shipped").is_dir() else PACKAGE.parent  # wheel, or checkout
YAML_LIMIT = 4 << 20  # bytes
LONG_PATH = 1000  # characters
CHUNK = 1 << 20  # bytes read at once


def is_file(path: str | Path) -> bool:
    """Whether a regular file stands there; a name that no file can have is none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long; a NUL in it
        return False


def read_bytes(path: str | Path, limit: int) -> bytes:
    """The content of a regular file. Raises `InputError`, too, where it has more bytes than the limit.

    Devices, pipes and folders are refused before a byte is read: some have no end, and some never begin.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{shorten(path)}: is not a regular file; accepted: neither a folder nor a device or pipe")
        with open(path, "rb") as stream:
            # the whole of what is asked for is taken from memory before it is read
            content = stream.read(min(limit, os.fstat(stream.fileno()).st_size) + 1)
    except OSError as error:
        raise InputError(f"{shorten(path)}: cannot be read: {error.strerror or error}") from None
    except InputError:
        raise
    except ValueError:
        raise InputError(f"{shorten(path)!r}: is not a name of a file; accepted: one without a NUL character") from None
    if len(content) > limit:
        raise InputError(f"{shorten(path)}: is larger than {limit >> 20} MiB; accepted: at most that")
    return content


def checksum(path: str | Path) -> tuple[int, str]:
    """Length of a file in bytes and its SHA-256, whatever its size. Raises `OSError`."""
    digest, length = hashlib.sha256(), 0
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            length += len(chunk)
    return length, digest.hexdigest()


def shorten(path: str | Path) -> str:
    """A path as messages show it: long ones without their middle."""
    text = str(path)
    return text if len(text) <= LONG_PATH else f"{text[:LONG_PATH // 2]}...{text[-LONG_PATH // 2:]}"


def read_text(path: str | Path, limit: int, what: str = "text") -> str:
    """A regular file in UTF-8, with or without a byte-order mark (see `read_bytes`)."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not valid {what}: {reason_of(error)}; accepted: UTF-8") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping; raises `InputError`."""
    content = parse_yaml(read_text(path, YAML_LIMIT, "YAML"), str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {describe_value(content)}, expected keys with values")
    return content


def short_name(path: str | Path, prefixes: Sequence[str] = ()) -> str:
    """The name of a shipped file without folder, suffix and the first matching prefix."""
    name = Path(path).name.removesuffix(".yaml")
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)


def shipped_files(folder: str, prefixes: Sequence[str] = ()) -> dict[str, Path]:
    """Names of the YAML files that travel with the package in ``cfg`` or ``data``: all, or those with a prefix."""
    files = sorted((SHIPPED / folder).rglob("*.yaml"))
    return {short_name(path, prefixes): path for path in files if path.name.startswith(tuple(prefixes) or "")}


def shipped_file(name: str, shipped: dict[str, Path], prefixes: Sequence[str] = ()) -> Path | None:
    """The shipped file that ``yolov7``, ``yolov7.yaml`` or ``cfg/paper/yolov7.yaml`` names.

    None for a path to elsewhere: a wrong path is an error, not another file of the same name.
    """
    path = shipped.get(short_name(name, prefixes))
    folder = Path(name).parent
    return path if path and (folder == Path() or SHIPPED / folder == path.parent) else None


def find_yaml(name: str, folder: str, flag: str, prefixes: Sequence[str] = ()) -> Path:
    """The file that a flag names: an existing path first, then a shipped file by its name; raises `InputError`."""
    if is_file(name):
        return Path(name)
    shipped = shipped_files(folder, prefixes)
    if path := shipped_file(name, shipped, prefixes):
        return path
    found = "is not a regular file" if os.path.exists(name) else "no such file"
    raise InputError(
        f"{flag} {shorten(name)!r}: {found}, and none is shipped under that name; shipped: "
        f"{', '.join(shipped)}{nearest(short_name(name, prefixes), shipped)}")


@contextmanager
def atomic_path(path: str | Path, suffix: str = "") -> Iterator[Path]:
    """A temporary path beside ``path``, for a file or a folder, which becomes ``path`` when the block ends well.

    Otherwise what stands there is removed, and ``path`` stays as it was. A block that leaves nothing there changes
    nothing. The temporary name ends with ``suffix``, for writers that look at it. What the system
    refuses is a `RunError` that names ``path``, and an `OSError`, too.
    """
    path = Path(path)
    name = os.fsencode(path.name)[:200].decode(errors="ignore")  # the temporary one is longer
    temporary = path.with_name(f".{name}.{secrets.token_hex(4)}.tmp{suffix}")  # no link can wait there
    try:
        with writing(path, temporary):
            yield temporary
            _take_its_name(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif temporary.exists():
            temporary.unlink()


def _take_its_name(temporary: Path, path: Path) -> None:
    if temporary.is_dir() and path.is_dir():  # a folder cannot be renamed onto one that holds something
        old = temporary.with_name(f"{temporary.name}.old")
        os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    elif temporary.exists():
        os.replace(temporary, path)


def atomic_write(path: str | Path, content: bytes | memoryview | str) -> None:
    """Write a file under a temporary name, flush it to the disk, then rename it: a reader never sees half of it."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        stream.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())

"""YAML files, the files that travel with the package, and the one way to write a file."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from yolov7.config.errors import InputError, nearest
from yolov7.config.schema import describe_value

PACKAGE = Path(__file__).parents[1]
SHIPPED = PACKAGE / "shipped" if (PACKAGE / "shipped").is_dir() else PACKAGE.parent  # wheel, or checkout


class _StrictLoader(yaml.SafeLoader):
    """YAML without code and without silently overwritten keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise InputError(f"{self.name}, line {line}: the key {key.value!r} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping; raises `InputError`."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = yaml.load(stream, _StrictLoader)  # a SafeLoader: builds plain values only
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
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
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_files(folder, prefixes)
    if path := shipped_file(name, shipped, prefixes):
        return path
    raise InputError(
        f"{flag} {name!r}: no such file, and none is shipped under that name; shipped: "
        f"{', '.join(shipped)}{nearest(short_name(name, prefixes), shipped)}")


@contextmanager
def atomic_path(path: str | Path, suffix: str = "") -> Iterator[Path]:
    """A temporary path beside ``path``, for a file or a folder, which becomes ``path`` when the block ends well.

    Otherwise what stands there is removed, and ``path`` stays as it was. A block that leaves nothing there changes
    nothing. The temporary name ends with ``suffix``, for writers that look at it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp{suffix}")  # no link can wait there
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():  # a folder cannot be renamed onto one that holds something
            old = temporary.with_name(f"{temporary.name}.old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        elif temporary.exists():
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif temporary.exists():
            temporary.unlink()


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Write a file under a temporary name, flush it to the disk, then rename it: a reader never sees half of it."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())

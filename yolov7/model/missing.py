"""What a message says where weights are named that are not there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from yolov7.config import is_file, nearest, shipped_files
from yolov7.config.program import command

RELEASE = "https://github.com/WongKinYiu/yolov7/releases/tag/v0.1"
LICENCE = "GPL-3"
DEPLOYED = ("yolov7-tiny", "yolov7", "yolov7x", "yolov7-w6", "yolov7-e6", "yolov7-d6", "yolov7-e6e")
PUBLISHED = {f"{name}{form}.pt": name for name in DEPLOYED for form in ("", "_training")
             if (name, form) != ("yolov7-tiny", "_training")}  # file -> its model
PUBLISHED |= {f"{name}.pt": name for name in ("yolov7-seg", "yolov7-w6-pose")}
RUNS = "runs/train"
_LONGEST = 1000  # characters of a path
_LOOKED_AT = 1000  # entries of a folder


def no_weights(path: Path) -> str:
    """Why nothing can be read there, where such a file comes from, and what is there instead."""
    shown = repr(str(path)[:_LONGEST])
    if len(str(path)) > _LONGEST:
        return f"--weights {shown}: no such file"
    if os.path.exists(path):
        return f"--weights {shown}: is no regular file{_of_a_run(path)}"
    return f"--weights {shown}: no such file{_published(path) or _of_a_run(path)}"


def _published(path: Path) -> str:
    """Of a published file: the address, the licence, and what this project ships instead of it."""
    name = path.name
    meant = f"{name.removesuffix('.pth').removesuffix('.pt').lower().replace('_tiny', '-tiny')}.pt"
    if meant in PUBLISHED:
        other = "" if name == meant else f"; did you mean {meant!r}?"
        return (f"{other}; the reference implementation publishes {meant} under {LICENCE} in its release, {RELEASE}: "
                f"put it there, nothing is downloaded here. No weights are shipped; {_own(PUBLISHED[meant])}")
    if meant.removesuffix(".pt") in shipped_files("cfg"):
        return f", and nobody publishes weights of that model; {_own(meant.removesuffix('.pt'))}"
    guess = nearest(name, PUBLISHED) if "yolo" in meant else ""
    return f"{guess} ({LICENCE}, of {RELEASE})" if guess else ""


def _own(model: str) -> str:
    return f"weights of your own, under any licence: {command('train', cfg=model)}"


def _of_a_run(path: Path) -> str:
    """The places where a run may have such a file, of those that are there the newest."""
    is_run_file = path.name in ("best.pt", "last.pt")
    name = path.name if is_run_file else "best.pt"
    tried = [str(path / "weights" / name)]
    if is_run_file:
        tried = [str(path.parent / "weights" / name), f"{RUNS}/*/weights/{name}"]
    elif path.parent == Path() and not path.suffix:
        tried.append(f"{RUNS}/{path.name}/weights/{name}")
    elif path.suffix:
        return nearest(path.name, _names_beside(path))
    found = list(_files(tried[0])) or [file for pattern in tried[1:] for file in _files(pattern)]
    if found:
        newest = max(found, key=lambda file: file.stat().st_mtime)
        return f"; tried: {', '.join(tried)}; did you mean {str(newest)!r}?"
    return f"; tried: {', '.join(tried)}"


def _files(pattern: str) -> Iterable[Path]:
    head, star, tail = pattern.partition("/*/")
    folders = (folder / tail for folder in islice(Path(head).glob("*"), _LOOKED_AT)) if star else (Path(pattern),)
    return [file for file in folders if is_file(file)]


def _names_beside(path: Path) -> list[str]:
    try:
        return [entry.name for entry in islice(os.scandir(path.parent), _LOOKED_AT)]
    except (OSError, ValueError):
        return []

"""Files of weights before anything in them is believed: the archive they come in, and the values of their tensors."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolov7.config import InputError, reason_of
from yolov7.config.errors import shown
from yolov7.model.opcodes import check_pickle

MAX_FILE_SIZE = 8 << 30  # bytes; the largest unstripped checkpoint of the reference implementation has 1.4 GB
MAX_ENTRIES = 100_000
MAX_PICKLE = 64 << 20  # bytes of plain values; the reference implementation's checkpoints have below 2 MB
MAX_UNPACKED = 64 << 20  # bytes of all that is compressed in an archive that may compress
MAX_VALUES, MAX_LEVELS = 2_000_000, 64  # of what is no tensor; large checkpoints have some ten thousand in eight levels
BLOCK = 1 << 20
_MADE = re.compile(b"bytearray|\x96")  # bytes made by their count: a class, and an opcode
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip archive, which is what ``torch.save`` writes. Raises `InputError`."""
    try:
        with open(path, "rb") as stream:
            return stream.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def check_archive(path: Path, packed: bool = False) -> None:
    """Raise `InputError` for an archive that is damaged, or would grow when it is read.

    Every byte is read and compared with its checksum, which torch does not do. What ``torch.save`` writes is not
    compressed; with ``packed``, a little may be (TorchScript's code).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive, os.path.getsize(path), packed, path)
            for entry in archive.infolist():
                _read_through(archive, entry)
            if not packed:
                _check_pickles(archive, path)
    except InputError:
        raise
    except Exception as error:  # zipfile and zlib raise many kinds for a damaged archive
        raise InputError(f"{path}: is damaged or cut off, and so is not a weight file of this project or the reference "
                         f"implementation: {reason_of(error)}") from None


def _check_pickles(archive: zipfile.ZipFile, path: Path) -> None:
    for name in archive.namelist():
        if name.endswith("data.pkl") and _MADE.search(archive.read(name)):  # all else is looked at by torch
            check_pickle(archive, name, str(path))


def _read_through(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    with archive.open(entry) as stream:  # which compares the checksum at the end
        while stream.read(BLOCK):
            pass


def _check_entries(archive: zipfile.ZipFile, size: int, packed: bool, path: Path) -> None:
    entries = archive.infolist()
    if size > MAX_FILE_SIZE or len(entries) > MAX_ENTRIES:
        raise InputError(f"{path}: has {size} bytes in {len(entries)} parts; accepted: at most {MAX_FILE_SIZE >> 30} "
                         f"GiB in {MAX_ENTRIES}")
    if len({entry.filename for entry in entries}) < len(entries):
        raise InputError(f"{path}: two parts of the archive have one name; accepted: a file that torch.save wrote")
    unpacked = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
    if unpacked and (not packed or unpacked > MAX_UNPACKED):
        raise InputError(f"{path}: is compressed, to be {unpacked} bytes; accepted: a file as torch.save writes it")
    if sum(entry.file_size for entry in entries) - unpacked > size:
        raise InputError(f"{path}: its parts are larger than the file; accepted: a file that torch.save wrote")
    for entry in entries:
        if entry.filename.endswith(".pkl") and entry.file_size > MAX_PICKLE:
            raise InputError(f"{path}: {shown(entry.filename)} has {entry.file_size} bytes; accepted: at most "
                             f"{MAX_PICKLE >> 20} MiB")


# --- values -----------------------------------------------------------------------------------------------------


def check_values(content: Any, where: str) -> None:
    """Raise `InputError` for plain values that are nested too deep, or too many: one that stands in several places
    counts in each, as it would in a copy."""
    _count_values(content, 0, {}, where)


def _count_values(value: Any, depth: int, counted: dict[int, tuple[int, int]], where: str) -> tuple[int, int]:
    """How many values this is written out, and in how many levels; ``counted`` is what is known of others, by id."""
    if not isinstance(value, (dict, list, tuple, set, frozenset)):
        return 1, 0
    if id(value) not in counted:
        if depth >= MAX_LEVELS:
            raise InputError(f"{where}: holds values in more than {MAX_LEVELS} levels; accepted: a weight file")
        items = (*value, *value.values()) if isinstance(value, dict) else value
        parts = [_count_values(item, depth + 1, counted, where) for item in items]
        counted[id(value)] = 1 + sum(count for count, _ in parts), 1 + max((levels for _, levels in parts), default=0)
    count, levels = counted[id(value)]
    if count > MAX_VALUES or depth + levels > MAX_LEVELS:
        raise InputError(f"{where}: holds values that repeat each other, too many or too deep; accepted: a weight file")
    return count, levels


# --- tensors ---------------------------------------------------------------------------------------------------


def checked_tensors(state: Any, where: str) -> dict[str, Tensor]:
    """A state dict whose tensors are plain and finite, floating ones in float32. Raises `InputError`."""
    if not isinstance(state, Mapping):
        raise InputError(f"{where}: found {shown(state)}; accepted: a state dict, names with tensors")
    if odd := [key for key in state if not isinstance(key, str)]:
        raise InputError(f"{where}: found the name {shown(odd[0])}; accepted: a state dict, names with tensors")
    return {key: checked_tensor(value, f"{where}: {shown(key)}") for key, value in state.items()}


def checked_tensor(value: Any, where: str) -> Tensor:
    """A tensor of numbers that are finite, in float32 or as whole numbers. Raises `InputError`."""
    if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter) or not _is_plain(value):
        raise InputError(f"{where} holds {shown(type(value).__name__)}; accepted: a tensor of numbers")
    if value.dtype not in _DTYPES:
        if value.dtype.is_floating_point or value.dtype.is_complex:
            raise InputError(f"{where} is of type {value.dtype}; accepted: float32, float16, bfloat16, float64")
        return value
    value = value.detach()
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(f"{where} repeats its numbers; accepted: a tensor that holds each of them")
    plain: Tensor = value.float()
    if not bool(torch.isfinite(plain).all()):
        raise InputError(f"{where} holds numbers that are not finite (NaN or infinity); accepted: weights of a "
                         "training that went well")
    if where.endswith("running_var'") and bool((plain < 0).any()):
        raise InputError(f"{where} holds negative numbers; accepted: 0 or more")
    if where.endswith(("anchors'", "anchor_grid'")) and bool((plain <= 0).any()):
        raise InputError(f"{where} holds sides of {plain.min():g}; accepted: above 0")
    return plain


def _is_plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_meta and not value.is_quantized


def tensors_in(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """All tensors in lists and dictionaries of a checkpoint."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)) and depth < 8:
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item, depth + 1)

"""What a pickle would ask of memory, read from its opcodes: nothing is built.

torch's readers take room for what a file says of itself: for a value by its number, for bytes by their count, for a
tensor without looking whether its bytes are there.
"""

from __future__ import annotations

import pickletools
import zipfile
from typing import Any

from yolov7.config import InputError
from yolov7.config.errors import shown

_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
_SPARSE = 16  # a value's number beyond so many times the opcodes is none that a writer gives
_BYTES = {"HalfStorage": 2, "BFloat16Storage": 2, "FloatStorage": 4, "DoubleStorage": 8, "LongStorage": 8,
          "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1}
_MADE = ("builtins bytearray", "__builtin__ bytearray", "builtins bytes", "__builtin__ bytes")


def check_pickle(archive: zipfile.ZipFile, entry: str, where: str) -> None:
    """Raise `InputError` for a pickle in an archive of torch's that is damaged or asks for what is not there."""
    data = archive.read(entry)
    sizes = {item.filename: item.file_size for item in archive.infolist()}
    try:
        _walk(data, entry.removesuffix(".pkl"), sizes)
    except InputError as error:
        raise InputError(f"{where}, {shown(entry)}: {error}; accepted: a file that torch has written") from None
    except Exception:  # a damaged pickle raises many kinds
        raise InputError(f"{where}, {shown(entry)}: is damaged; accepted: a file that torch has written") from None


def _walk(data: bytes, folder: str, sizes: dict[str, int]) -> None:
    stack: list[list[Any]] = [[]]
    memo: dict[Any, Any] = {}
    argument: Any
    for count, (code, argument, _) in enumerate(pickletools.genops(data)):
        name = code.name
        if name in _PUTS:
            if int(argument) > _SPARSE * (count + _SPARSE):
                raise InputError(f"gives a value the number {shown(argument)}")
            memo[int(argument)] = stack[-1][-1] if stack[-1] else None
        elif name == "MARK":
            stack.append([])
        elif name == "TUPLE":
            values = tuple(stack.pop()) if len(stack) > 1 else ()
            stack[-1].append(values)
        elif name == "BINPERSID":
            _check_storage(stack[-1][-1], folder, sizes)
        else:
            if name == "GLOBAL" and argument in _MADE:
                raise InputError(f"makes {argument.split()[1]} by their count")
            stack[-1].append(memo.get(int(argument)) if name in _GETS else argument)


def _check_storage(found: Any, folder: str, sizes: dict[str, int]) -> None:
    """A persistent id: ("storage", type, key, device, elements)."""
    if not isinstance(found, tuple) or len(found) != 5 or found[0] != "storage":
        raise InputError(f"names the tensor {shown(found)}")
    kind, key, elements = str(found[1]).split()[-1], found[2], found[4]
    there = sizes.get(f"{folder}/{key}", -1)
    if type(elements) is not int or elements < 0 or elements * _BYTES.get(kind, 1) > there:
        raise InputError(f"a tensor has {shown(elements)} elements of {kind} in {there} bytes")

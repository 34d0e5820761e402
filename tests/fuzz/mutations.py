"""What is done to an input: to its bytes, to its tokens, and to any value of its tree.

Every function takes a `random.Random`, so that the same one makes the same input, and returns the input with a few
words on what was done to it.
"""

from __future__ import annotations

import json
import reprlib
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 28, 1 << 63, (1 << 64) - 1)
DIGITS = 5_000  # Python refuses to read numbers of more than 4,300 of them


class Raw(str):
    """A value of a YAML or JSON text that is written as it stands."""


class Drop:
    """Stands for a value that is left out."""


# --- bytes -------------------------------------------------------------------------------------------------------


def mutate_bytes(rng: Random, data: bytes) -> tuple[bytes, str]:
    """One to four changes at random places."""
    names = []
    for _ in range(rng.randint(1, 4)):
        change = rng.choice((_flip, _overwrite, _cut_out, _cut_off, _duplicate, _insert))
        data = change(rng, data)
        names.append(change.__name__.strip("_"))
    return data, "bytes: " + ", ".join(names)


def _place(rng: Random, data: bytes) -> int:
    """Headers more often than bodies."""
    return rng.randrange(max(1, min(len(data), rng.choice((32, 512, 1 << 62)))))


def _flip(rng: Random, data: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1:] if data else data


def _overwrite(rng: Random, data: bytes) -> bytes:
    place, width = _place(rng, data), rng.choice((1, 2, 4, 8))
    number = rng.choice(EXTREMES) & (1 << 8 * width) - 1
    return data[:place] + number.to_bytes(width, rng.choice(("big", "little"))) + data[place + width:]


def _cut_out(rng: Random, data: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + data[place + rng.choice((1, 2, 16, 300)):]


def _cut_off(rng: Random, data: bytes) -> bytes:
    return data[: rng.choice((0, 1, 10, len(data) // 2, len(data) - 1, _place(rng, data)))]


def _duplicate(rng: Random, data: bytes) -> bytes:
    place = _place(rng, data)
    part = data[place: place + rng.choice((1, 4, 64, 1000))]
    return data[:place] + part * rng.choice((2, 3, 50)) + data[place + len(part):]


def _insert(rng: Random, data: bytes) -> bytes:
    place = _place(rng, data)
    odd = rng.choice((b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b"\r\n", b"\n\n", b"\t", b"\xed\xa0\x80",
                      b"\x9b",
                      b"'", b'"', b"{", b"[", b"&a", b"*a", b"%", b"9" * 40, b"-", b"\xe2\x80\xa8", b"nan", b"1e999"))
    return data[:place] + odd + data[place:]


# --- values ------------------------------------------------------------------------------------------------------


def alias_bomb(levels: int = 12) -> str:
    """YAML that a program which walks or prints it takes for ten to the power of its levels."""
    parts = ["&a0 [x, x, x, x, x, x, x, x, x, x]"]
    parts += [f"&a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return f"[{', '.join(parts)}]"


YAML_ODD = (
    ".nan", ".inf", "-.inf", "-1", "0", "0.0", "-0.5", "1e400", "1e-320", "2147483648", "9223372036854775808",
    "18446744073709551616", "10000000", "1000000000", "9" * DIGITS, "[]", "{}", "[[]]", "null", "true", "''", "' '",
    "'-'", "'0'", "x", "[x]", "[Conv]", "{x: y}", "[1, [2, [3]]]", "[null]", "{null: null}", "{? [a] : b}", "{1: 2}",
    "{.nan: 1}", '"\\ud800"', '"\\e[31mred\\e[0m"', '"\\0"', '"a\\nb"', '"\\u202e"', "y" * 10_000, "n" * 300,
    "!!bool x", "!!int x", "!!float x", "!!binary x", "!!timestamp x", "!!set [a]", "!!omap [a]",
    "!!python/object/apply:os.getcwd []", "!x y",
    "2001-99-99", "2001-01-01", "0x_", "0b", "0o9", "1_0", "1:60", "12:30:45", "=", "~", "*missing", "&a [*a]", "<<",
    "[1", "{", "%", "@x", "`x", "[" * 3000 + "]" * 3000, "{a: " * 3000 + "1" + "}" * 3000, "[" + "0, " * 20_000 + "0]",
    "/dev/zero", "/dev/null", "..", ".", "/", "~root", "in", "in/fifo", "forward", "keys", "training", "parameters",
    "__class__", "\u0663", "'\u0000'", "1 x", "- x", "0.5", "3", "640", "yolov7-tiny")
JSON_ODD = (
    "NaN", "Infinity", "-Infinity", "-1", "0", "-0.0", "1e999", "1e-320", "2147483648", "9223372036854775808",
    "18446744073709551616", "9" * DIGITS, "1" + "0" * 300, "[]", "{}", "[[]]", "null", "true", '""', '" "', '"5"',
    '"no"', '"x"', "[1]", "[1, 2, 3, 4]", "[null, 1, 1, 1]", '[0, 0, "1", 1]', '{"x": 1}', '"\\ud800"', '"\\u001b[31m"',
    '"\\u0000"', '"a\\nb"', '"' + "y" * 10_000 + '"', '"' + "n" * 300 + '"', '"../../x.jpg"', '"/etc/passwd"',
    '"/dev/zero"', '"1.jpg"', "[" * 3000 + "]" * 3000, "[" * 200_000, '{"a":' * 3000 + "1" + "}" * 3000, "1_0", "0x1",
    "01", "1.", "'x'", '{"counts": [1, 2], "size": [3, 1]}', '{"counts": "x", "size": [64, 48]}',
    '{"counts": [], "size": [100000, 100000]}',
    '{"counts": [4294967296], "size": [65536, 65536]}', '{"counts": "PPPP9999", "size": [-1, 2]}', '{"size": [1, 1]}',
    "[[1, 2]]", "[[1, 2, 3, 4, 5]]", "[[NaN, 1, 2, 3, 4, 5]]", "[[1e300, 1, 2, 3, 4, 5]]", "0.5", "3", "1.5", "64")
TOKENS = ("nan", "inf", "-inf", "-1", "0", "1", "2147483648", "9223372036854775808", "9" * DIGITS, "1e400", "1e-320",
          "0x1", "1_0", "\u0663", "0.5", "1.5", "x", "", "\ufeff0", "0\0", "\x1b[31m", "0,5", "#", "+1", "1.0",
          "5.9999", "true", "\u2028", "\t", "0 0.5 0.5 0.2 0.2", "0.1 " * 5000, "y" * 10_000, "'", "[", "-0.0", "1e308",
          "0.0000001")


def odd_value(rng: Random) -> Any:
    """A Python value that nobody expects in a checkpoint; what stands in a file of plain values and tensors."""
    import torch

    deep: list[Any] = []
    wide: list[Any] = ["x"] * 10
    for _ in range(150):
        deep = [deep]
    for _ in range(8):
        wide = [wide] * 10  # ten to the ninth, for whoever prints it
    tensors = (torch.tensor([]), torch.tensor(float("nan")), torch.full((3,), float("inf")), torch.zeros(2, 3).half(),
               torch.ones(1, dtype=torch.bool), torch.zeros(0, 7), torch.arange(5), torch.tensor(1 + 2j),
               torch.ones(1).expand(1 << 20), torch.zeros(3).to_sparse(), torch.tensor([1.0]).bfloat16())
    return rng.choice((
        float("nan"), float("inf"), -1, 0, 1, 2, 0.5, 64.5, 1 << 31, 1 << 63, 1 << 64, 10 ** DIGITS, 10_000_000, "",
        "x", "\ud800", "\x1b[31mred", "a\nb", "\0", "y" * 10_000, "y" * 300, b"x", [], {}, (), None, True, [None], [[]],
        ["x"], {"x": 1}, {1: 2}, {"model": 3}, ("x",), {"x"}, [float("nan")] * 3, [1 << 63] * 3, ["x"] * 5000,
        ["\ud800"] * 6, ["\x1b[31m"] * 6, [""] * 6, ["x"] * 6, deep, wide, complex(1, 2), "../../x", "/dev/zero",
        "yolov7-tiny", *tensors))


def name_of(value: Any) -> str:
    """A few characters of a value, for the report."""
    if isinstance(value, int) and value.bit_length() > 200:
        return "a long number"
    return ascii(value if isinstance(value, str) else reprlib.repr(value))[:50]


# --- trees -------------------------------------------------------------------------------------------------------


def mutate_tree(rng: Random, tree: Any, odd: Callable[[Random], Any]) -> tuple[Any, str]:
    """A copy of dictionaries and lists in which one to three values, keys or places are others."""
    told = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = _pick(rng, tree)
        kind, value = rng.choice(("value",) * 6 + ("drop", "key", "twice", "swap")), odd(rng)
        tree = _changed(tree, path, lambda old, how=(kind, value): _other(rng, old, *how))
        tree = {} if tree is Drop else tree
        shown = name_of(value) if kind in ("value", "key") else ""
        told.append(f"{kind} {'.'.join(map(name_of, path)) or 'root'} {shown}")
    return tree, "; ".join(told)


def _pick(rng: Random, tree: Any) -> tuple[Any, ...]:
    """A way into the tree: every key of a level has the same chance, however much stands below the others."""
    path: list[Any] = []
    while isinstance(tree, (dict, list, tuple)) and tree and not (rng.random() < (0.25 if path else 0.03)):
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        path.append(key)
        tree = tree[key]
    return tuple(path)


def _changed(tree: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(tree)
    if isinstance(tree, dict):
        pairs = [(key, _changed(value, path[1:], change) if key == path[0] else value) for key, value in tree.items()]
        return type(tree)((key, value) for key, value in pairs if value is not Drop)
    items = [_changed(item, path[1:], change) if index == path[0] else item for index, item in enumerate(tree)]
    return type(tree)(item for item in items if item is not Drop)


def _other(rng: Random, old: Any, kind: str, value: Any) -> Any:
    if kind == "drop":
        return Drop
    if kind == "key" and isinstance(old, dict) and old:
        key = rng.choice(list(old))
        new = value if isinstance(value, (str, int, float, bool, type(None))) else "odd"
        return {new if name == key else name: entry for name, entry in old.items()}
    if kind == "twice" and isinstance(old, list):
        return old * rng.choice((2, 3, 100))
    if kind == "swap" and isinstance(old, (list, tuple)):
        return type(old)(reversed(old))
    return value


def yaml_text(tree: Any) -> str:
    """A tree as YAML in flow style, one key of the top a line."""
    if isinstance(tree, dict) and not isinstance(tree, Raw):
        return "\n".join(f"{_flow(key)}: {_flow(value)}" for key, value in tree.items()) + "\n"
    return _flow(tree) + "\n"


def _flow(tree: Any) -> str:
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, (list, tuple)):
        return "[" + ", ".join(map(_flow, tree)) + "]"
    return json.dumps(tree)


def mutate_yaml(rng: Random, tree: Any) -> tuple[bytes, str]:
    """Text of a YAML file: mostly with odd values, sometimes with odd bytes."""
    if rng.random() < 0.15:
        return mutate_bytes(rng, yaml_text(tree).encode())
    if rng.random() < 0.06:
        levels = rng.choice((5, 9, 12))
        key = rng.choice(list(tree))
        return yaml_text(tree | {key: Raw(alias_bomb(levels))}).encode(), f"alias bomb of {levels} levels at {key}"
    tree, told = mutate_tree(rng, tree, lambda rng: Raw(rng.choice(YAML_ODD)))
    return yaml_text(tree).encode("utf-8", "surrogatepass"), told


def mutate_json(rng: Random, tree: Any) -> tuple[bytes, str]:
    """Text of a JSON file, in several encodings."""
    if rng.random() < 0.15:
        return mutate_bytes(rng, json.dumps(tree).encode())
    tree, told = mutate_tree(rng, tree, lambda rng: Raw(rng.choice(JSON_ODD)))
    encoding = rng.choice(("utf-8",) * 8 + ("utf-8-sig", "utf-16"))
    return _flow(tree).encode(encoding, "surrogatepass"), f"{told} ({encoding})"


def mutate_lines(rng: Random, text: str) -> tuple[bytes, str]:
    """Lines of words: some words are others, or some bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, text.encode())
    rows, told = [line.split(" ") for line in text.splitlines()] or [[""]], []
    for _ in range(rng.randint(1, 3)):
        row, token = rng.choice(rows), rng.choice(TOKENS)
        row[rng.randrange(len(row))] = token
        told.append(name_of(token))
    body = rng.choice(("\n",) * 5 + ("\r\n", "\r", "\x0b")).join(map(" ".join, rows)) * rng.choice((1,) * 9 + (2000,))
    return body.encode("utf-8", "surrogatepass"), "words: " + ", ".join(told)


# --- images ------------------------------------------------------------------------------------------------------

SIDES = (0, 1, 20_000, 32_700, 65_500, 65_535)
LARGE_SIDES = (*SIDES, 100_000, 0x7FFFFFFF, 0xFFFFFFFF)


def mutate_image(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Another size in the header of an image, or other bytes."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, data)
    sides = SIDES if data[:2] in (b"\xff\xd8", b"GI") else LARGE_SIDES
    width, height = rng.choice(sides), rng.choice(sides)
    if rng.random() < 0.4:
        width = height = 32_700
    return with_size(data, width, height), f"header says {width} x {height}"


def with_size(data: bytes, width: int, height: int) -> bytes:
    """The same file with another size in its header."""
    if data[:2] == b"\xff\xd8":
        place = next(_jpeg_frames(data))
        return data[: place + 5] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + data[place + 9:]
    if data[:4] == b"\x89PNG":
        header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if data[:2] == b"BM":
        return data[:18] + struct.pack("<II", width, height) + data[26:]
    if data[:3] == b"GIF":
        return data[:6] + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) + data[10:]
    if data[:4] == b"RIFF" and data[12:16] == b"VP8 ":
        return data[:26] + struct.pack("<HH", width & 0x3FFF, height & 0x3FFF) + data[30:]
    if data[:4] == b"RIFF" and data[12:16] == b"VP8L":
        return data[:21] + struct.pack("<I", width & 0x3FFF | (height & 0x3FFF) << 14) + data[25:]
    return _tiff_size(data, width, height)


def _jpeg_frames(data: bytes) -> Iterator[int]:
    place = 2
    while place < len(data) - 9:
        if 0xC0 <= data[place + 1] <= 0xC2:
            yield place
        place += 2 + struct.unpack(">H", data[place + 2: place + 4])[0]


def _tiff_size(data: bytes, width: int, height: int) -> bytes:
    if data[:4] != b"II*\0":
        return data
    (start,) = struct.unpack("<I", data[4:8])
    changed = bytearray(data)
    for place in range(start + 2, start + 2 + 12 * struct.unpack("<H", data[start: start + 2])[0], 12):
        tag = struct.unpack("<H", data[place: place + 2])[0]
        if tag in (256, 257):
            changed[place + 2: place + 12] = struct.pack("<HII", 4, 1, (width, height)[tag - 256])
    return bytes(changed)

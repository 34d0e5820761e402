"""Files of torch: damage to their pickles and archives, and small ones that ask for much."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from random import Random

from .mutations import mutate_bytes

BOMB_SIZE = 3 << 30  # bytes of what a few megabytes unpack to


def hostile_pickles() -> dict[str, bytes]:
    """Small pickles that ask for much, or for what they should not get."""
    number = struct.pack("<I", 1 << 28)
    return {
        "LONG_BINPUT of 2^28": b"\x80\x02}r" + number + b".",
        "LONG_BINPUT of 2^31": b"\x80\x02}r" + struct.pack("<I", 0x7FFFFFFF) + b".",
        "BINBYTES8 of 2^40": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
        "BINUNICODE of 2^31": b"\x80\x02X" + struct.pack("<I", 0x7FFFFFFF) + b"x.",
        "BYTEARRAY8 of 2^33": b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b"x.",
        "FRAME of 2^40": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"}.",
        "LONG4 of 2^30": b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"x.",
        "a decimal number": b"I" + b"9" * 20_000 + b"\n.",
        "a list in a list": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
        "a tuple in a tuple": b"\x80\x02)" + b"\x85" * 100_000 + b".",
        "copies of copies": b"\x80\x02]" + b"".join(b"q" + bytes([i]) + b"]" + (b"h" + bytes([i]) + b"a") * 10
                                                   for i in range(9)) + b".",
        "os.system": b"\x80\x02cos\nsystem\nX\x0b\x00\x00\x00touch owned\x85R.",
        "builtins.bytearray": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R.",
        "getattr": b"\x80\x02c__builtin__\ngetattr\n}X\x03\x00\x00\x00get\x86R.",
        "models.yolo.Model": b"\x80\x02cmodels.yolo\nModel\n)\x81}X\x08\x00\x00\x00_modules}sb.",
        "a dictionary": b"\x80\x02}.", "nothing": b"", "a stop": b".", "no stop": b"\x80\x02}",
        "protocol 255": b"\x80\xff}."}


def mutate_pickle(rng: Random, data: bytes) -> tuple[bytes, str]:
    """An opcode of a pickle is another, or has another argument."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    places = [(code, place) for code, _, place in pickletools.genops(data) if place is not None]
    chosen = rng.randrange(len(places) - 1)
    (code, start), end = places[chosen], places[chosen + 1][1]
    odd = rng.choice((
        b"N", b"}", b"]", b")", b"K\xff", b"J\xff\xff\xff\xff", b"\x8a\x09" + b"\xff" * 8 + b"\0",
        b"G\x7f\xf8" + b"\0" * 6,
        b"X\x03\x00\x00\x00\xed\xa0\x80", b"X\x05\x00\x00\x00\x1b[31m", b"cos\nsystem\n", b"ctorch\nFloatStorage\n",
        b"cbuiltins\neval\n", b"r\0\0\0\x10", b"", b"0", b"2", b"(", b"R", b"Q", b"b", b"u", b"s", b"h\xff", b".",
        b"c" + b"m" * 5000 + b"\nx\n", b"cmodels.\x1b[31m\nx\n", b"ccollections\nOrderedDict\n", b"X\0\0\0\x7f",
        b"J\0\0\0\x7f", data[start:end] * 2, data[start:end] * 1000))
    return data[:start] + odd + data[end:], f"opcode {code.name} at {start} becomes {ascii(odd[:20])}"


def unzipped(data: bytes) -> dict[str, bytes]:
    """The members of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes], deflated: bool = False) -> bytes:
    """An archive with these members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=archive.compression)
    return stream.getvalue()


def mutate_zip(rng: Random, data: bytes) -> tuple[bytes, str]:
    """A member is left out, named otherwise, deflated, emptied, doubled, or lies about its size."""
    members = unzipped(data)
    name, kind = rng.choice(list(members)), rng.choice(("drop", "rename", "deflate", "empty", "bytes", "sizes",
                                                        "second"))
    if kind == "rename":
        members[rng.choice(("../../owned", "/owned", "\x1b[31m", "x" * 300, "archive/data.pkl"))] = members.pop(name)
    elif kind == "drop":
        members.pop(name)
    elif kind == "empty":
        members[name] = b""
    elif kind == "bytes":
        members[name], _ = mutate_bytes(rng, members[name])
    elif kind == "second":
        members["other/data.pkl"] = rng.choice(list(hostile_pickles().values()))
    made = zipped(members, kind == "deflate")
    if kind == "sizes":
        place = made.rfind(b"PK\1\2")  # of the last member
        made = made[: place + 20] + struct.pack("<II",
                                                *(rng.choice((0, 5, 0xFFFFFFF0)) for _ in "12")) + made[place + 28:]
    return made, f"zip: {kind} {name}"


def deflated_zeros(size: int = BOMB_SIZE) -> tuple[bytes, int]:
    """A raw deflate stream of so many zeros, and their checksum: what is repeated is packed once."""
    block = bytes(1 << 24)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    repeated = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum, count = 0, size // len(block)
    for _ in range(count):
        checksum = zlib.crc32(block, checksum)
    return repeated * count + packer.flush(), checksum


def deflated_bomb(name: str, size: int = BOMB_SIZE, before: dict[str, bytes] | None = None) -> bytes:
    """An archive of a few megabytes, one of whose members has gigabytes."""
    packed, checksum = deflated_zeros(size)
    stream = io.BytesIO(zipped(before or {}))
    with zipfile.ZipFile(stream, "a") as archive:
        entry = zipfile.ZipInfo(name)
        entry.compress_type, entry.CRC, entry.file_size, entry.compress_size = zipfile.ZIP_DEFLATED, checksum, size, \
            len(packed)
        entry.header_offset = archive.start_dir
        stream.seek(archive.start_dir)
        stream.write(entry.FileHeader())
        stream.write(packed)
        archive.start_dir = stream.tell()
        archive.filelist.append(entry)
        archive.NameToInfo[name] = entry
        archive._didModify = True
    return stream.getvalue()

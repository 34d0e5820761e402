"""Images that look alike: the same picture resized, compressed again or brightened, and frames of one film.

An image is reduced to 256 signs, whether it becomes brighter from each cell of a grid to the next (a difference hash).
Two images look alike where at most `NEAR` signs differ. Images in which hardly anything becomes brighter, such as plain
ones, are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from yolov7.data.images import cv2

SIDE = 16  # cells; one more across
BYTES = SIDE * SIDE // 8
BANDS = 16  # of 16 signs each: of images with fewer differences than bands, at least one band is the same
NEAR = 10  # signs of 256
CONTRAST = 2.0  # grey levels that count as brighter
MIN_SIGNS = 12  # that are set, or not set, of an image that is compared
_COUNTS = np.array([bin(value).count("1") for value in range(256)], np.uint8)
_SPREAD = np.arange(SIDE * SIDE) * 97 % (SIDE * SIDE)  # each sign once; those of a band stand all over the image


def difference_hash(image: np.ndarray) -> bytes:
    """The signs of an image uint8 ``[H, W, 3]`` RGB, packed."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.packbits(small[:, 1:] - small[:, :-1] > CONTRAST).tobytes()


def groups_of_near(hashes: Sequence[bytes], near: int = NEAR) -> list[list[int]]:
    """Groups of two or more images that look alike, each to at least one other of its group, by their places.

    ``near`` is below `BANDS`, so that no pair is missed. The largest group comes first.
    """
    signs = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, BYTES)
    counts = _COUNTS[signs].sum(1, dtype=np.int64)
    rows = np.flatnonzero((counts >= MIN_SIGNS) & (counts <= SIDE * SIDE - MIN_SIGNS))
    parent = list(range(len(hashes)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for members in _same_in_a_band(signs[rows]):
        if len({root(int(place)) for place in rows[members]}) > 1:
            for first, second in _chains(signs, rows[members], near):
                one, other = root(first), root(second)
                parent[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = {}
    for place in range(len(hashes)):
        groups.setdefault(root(place), []).append(place)
    return sorted((group for group in groups.values() if len(group) > 1), key=lambda group: (-len(group), group))


def _same_in_a_band(signs: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of signs ``[N, BYTES]``, two or more, that have a band in common; every pair that is near is in one."""
    bits = np.unpackbits(signs, axis=1)[:, _SPREAD]
    bands = np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint16).reshape(len(signs), BANDS)
    for band in range(BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        starts = np.flatnonzero(np.diff(bands[order, band], prepend=-1, append=1 << 17))
        yield from (order[first:end] for first, end in zip(starts[:-1], starts[1:], strict=True) if end - first > 1)


def _chains(signs: np.ndarray, members: np.ndarray, near: int) -> Iterator[tuple[int, int]]:
    """Pairs of near rows among these that connect all that are connected; each row is found once."""
    remaining = members
    while len(remaining):
        seeds, remaining = [int(remaining[0])], remaining[1:]
        while seeds and len(remaining):
            seed = seeds.pop()
            is_near = _COUNTS[signs[remaining] ^ signs[seed]].sum(1, dtype=np.int64) <= near
            found, remaining = remaining[is_near].tolist(), remaining[~is_near]
            yield from ((seed, other) for other in found)
            seeds += found

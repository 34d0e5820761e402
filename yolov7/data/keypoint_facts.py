"""What a data set says of its key points, from its YAML or from the categories of a COCO JSON file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from yolov7.config import InputError
from yolov7.config.schema import shown
from yolov7.data.formats import Keypoints
from yolov7.data.transforms import mirrored_order
from yolov7.keypoints import COCO_PERSON

logger = logging.getLogger(__name__)


def limbs_of(skeleton: Any, count: int, where: str) -> tuple[tuple[int, int], ...]:
    """COCO's ``skeleton``, pairs of points counted from 1, as indices; where a 0 is in it, it counts from 0.

    Raises `InputError` for anything else than pairs of ``count`` points.
    """
    pairs = [list(pair) if isinstance(pair, (list, tuple)) else pair for pair in skeleton or ()]
    if not all(isinstance(pair, list) and len(pair) == 2 and all(type(i) is int for i in pair) for pair in pairs):
        raise InputError(f"{where}: found {shown(skeleton)}; accepted: pairs of key points: [[1, 2], [2, 3]]")
    first = 0 if any(0 in pair for pair in pairs) else 1
    outside = [i for pair in pairs for i in pair if not first <= i < count + first]
    if outside:
        raise InputError(f"{where}: found the key point {outside[0]}; accepted: {first} to {count - 1 + first}, as "
                         f"there are {count}")
    return tuple((a - first, b - first) for a, b in pairs)


def check_flip(flip: Sequence[int], names: Sequence[str], where: str) -> None:
    """Raise `InputError` for an order that mirroring twice does not undo; say where names tell another one."""
    count = len(names)
    if not flip:
        return
    if sorted(flip) != list(range(count)):
        raise InputError(f"{where}: found {shown(list(flip))}; accepted: each number from 0 to {count - 1} once")
    odd = [i for i in range(count) if flip[flip[i]] != i]
    if odd:
        raise InputError(f"{where}: point {odd[0]} becomes {flip[odd[0]]}, and that one becomes {flip[flip[odd[0]]]}; "
                         "accepted: pairs that change places (mirroring twice changes nothing)")
    said = mirrored_order(tuple(names))
    if said != tuple(range(count)) and said != tuple(flip):
        place = next(i for i in range(count) if said[i] != flip[i])
        logger.warning("%s: %s changes places with %s, though their names say %s; flip_idx counts", where, names[place],
                       names[flip[place]], names[said[place]])


def check_sigmas(sigmas: Sequence[float], count: int, where: str) -> None:
    """Raise `InputError` for anything but one positive number of each key point."""
    if sigmas and (len(sigmas) != count or min(sigmas) <= 0):
        raise InputError(f"{where}: found {shown(list(sigmas))}; accepted: {count} numbers above 0, one of each key "
                         "point")


def with_known_flip(keypoints: Keypoints) -> Keypoints:
    """With the order of a mirrored image where names say it: ``left_eye`` and ``right_eye`` change places."""
    order = mirrored_order(keypoints.names)
    if keypoints.flip or order == tuple(range(len(order))):
        return keypoints
    return keypoints._replace(flip=order)


@cache
def person_if_unsaid(found: Keypoints, where: str) -> Keypoints:
    """The same, or COCO's person, where points without names are 17 and nothing says that they are others."""
    person = COCO_PERSON
    same = found.flip in ((), person.flip) and found.limbs in ((), person.limbs) and found.sigmas in ((), person.sigmas)
    if found.named or len(found.names) != len(person) or not same:
        return found
    logger.info("%s: its 17 key points have no names (kpt_names); taken are those of COCO's person: %s", where,
                ", ".join(person.names))  # once, not for every split
    return Keypoints(person.names, found.values, person.flip, person.limbs, person.sigmas)


# --- COCO JSON -------------------------------------------------------------------------------------------------


def keypoints_of_categories(categories: list[dict[str, Any]], file: Path) -> Keypoints:
    """What the categories of a JSON file say; without names where none has some, or where they differ.

    Beside COCO's ``keypoints`` and ``skeleton`` they may have ``flip_idx`` and ``sigmas``, as a data set's YAML.
    """
    having = [category for category in categories if category.get("keypoints")]
    for category in having:
        found, name = category["keypoints"], category["name"]
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise InputError(f"{file}, category {name!r}: found the key points {found!r}; accepted: a list of names")
    for category in having:
        names, found = having[0]["keypoints"], category["keypoints"]
        if found != names:
            logger.warning("%s, categories: %r has the key points %s, but %r has %s: none are read", file,
                           category["name"], ", ".join(found), having[0]["name"], ", ".join(names))
            return Keypoints()
    if not having:
        return Keypoints()
    facts = {key: next((category[key] for category in having if category.get(key)), ()) for key in
             ("skeleton", "flip_idx", "sigmas")}
    return with_known_flip(_checked(having[0]["keypoints"], facts, f"{file}, categories"))


def _checked(names: list[str], facts: dict[str, Any], where: str) -> Keypoints:
    """What cannot be used is said and left out: it is no part of COCO's format, or only drawn."""
    limbs: tuple[tuple[int, int], ...] = ()
    flip: tuple[int, ...] = ()
    sigmas: tuple[float, ...] = ()
    try:
        limbs = limbs_of(facts["skeleton"], len(names), f"{where}, skeleton")
    except InputError as error:
        logger.warning("%s; no limbs are drawn", error)
    if isinstance(facts["flip_idx"], (list, tuple)) and all(type(i) is int for i in facts["flip_idx"]):
        flip = tuple(facts["flip_idx"])
        check_flip(flip, names, f"{where}, flip_idx")
    if isinstance(facts["sigmas"], (list, tuple)) and all(type(v) in (int, float) for v in facts["sigmas"]):
        sigmas = tuple(map(float, facts["sigmas"]))
        check_sigmas(sigmas, len(names), f"{where}, sigmas")
    return Keypoints(tuple(names), 3, flip, limbs, sigmas)


def announced(found: Keypoints, said: Keypoints | None, file: Path, where: str) -> Keypoints:
    """What categories say, with what the data set's YAML says beside. Raises `InputError` where the numbers differ."""
    if said is None:
        return found
    if not found.names:
        return person_if_unsaid(said, where)
    if len(found.names) != len(said.names):
        raise InputError(f"{file}: its categories have {len(found.names)} key points ({', '.join(found.names)}), but "
                         f"kpt_shape in {where} says {len(said.names)}")
    named = said.names if said.named else found.names
    return Keypoints(named, 3, said.flip or found.flip, said.limbs or found.limbs, said.sigmas or found.sigmas)

"""A simple person in space: a skeleton in a plausible pose, seen from any side, as thick lines and marks of a face.

Lengths are parts of the height of a standing person. In space x goes to the person's left, y down, z to the front.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from yolov7.keypoints import COCO_PERSON

TORSO, NECK, HEAD_RADIUS = 0.28, 0.155, 0.105  # hips to shoulders, shoulders to the centre of the head
SHOULDER, HIP = 0.115, 0.075  # from the middle to the side
UPPER_ARM, FOREARM, THIGH, SHIN, FOOT = 0.155, 0.14, 0.23, 0.21, 0.06
SIDES = {"left": 1.0, "right": -1.0}
FROM_THE_SIDE = 0.75  # of the half width: the far shoulder and hip lie so deep behind the near ones
FACE = {"nose": (0, 0.08, 1.05), "eye": (0.42, -0.18, 0.85), "ear": (1.0, 0.0, 0.0)}  # in radii of the head, left ones


@dataclass(frozen=True)
class Part:
    """A thick line with round ends, or what lies between thick points, in pixels."""

    name: str
    line: np.ndarray  # float64 [K, 2]
    width: float
    colour: str  # name in a palette
    light: float = 1.0  # factor on the colour: far parts are darker
    filled: bool = False
    on_head: bool = False  # a mark: drawn inside of the head only, and without an edge


@dataclass(frozen=True)
class Body:
    """A person in pixels."""

    height: float  # of the standing person
    parts: tuple[Part, ...]  # far ones first
    points: np.ndarray  # float64 [17, 2], as COCO orders them
    owners: tuple[frozenset[str], ...]  # names of the parts that show each point; none where the head hides it


@dataclass(frozen=True)
class Limb:
    """Degrees that an arm or leg, and its lower half, are swung to the front and lifted to the side."""

    swing: float
    lift: float
    lower_swing: float
    lower_lift: float


Draw = Callable[..., float]


def random_body(rng: np.random.Generator, height: float, centre: np.ndarray) -> Body:
    """A person of this height in a random pose, facing anywhere, in pixels around this ``centre``."""
    joints = _joints(rng)
    yaw = np.radians(_random_yaw(rng))
    head_turn = yaw + np.radians(rng.uniform(-25, 25))
    joints |= {name: joints["head"] + _turned_back(np.array(place) * HEAD_RADIUS, head_turn - yaw)
               for name, place in _face().items()}
    names = list(joints)
    space = np.array([joints[name] for name in names])  # [J, 3]
    roll = np.radians(rng.normal(0, 5))
    x = space[:, 0] * np.cos(yaw) + space[:, 2] * np.sin(yaw)
    depth = space[:, 2] * np.cos(yaw) - space[:, 0] * np.sin(yaw)  # towards the viewer
    flat = np.stack((x * np.cos(roll) - space[:, 1] * np.sin(roll), x * np.sin(roll) + space[:, 1] * np.cos(roll)), 1)
    flat = (flat - (flat.min(0) + flat.max(0)) / 2) * height + centre
    view = _View(dict(zip(names, flat, strict=True)), dict(zip(names, depth.tolist(), strict=True)), height,
                 rng.uniform(0.85, 1.35))
    points = np.array([view.place[name] for name in COCO_PERSON.names])
    return Body(height, view.parts(), points, tuple(view.owners(name) for name in COCO_PERSON.names))


def _random_yaw(rng: np.random.Generator) -> float:
    """Degrees from facing the viewer: to the front, to either side or to the back."""
    towards = rng.choice([0, -80, 80, 180], p=[0.6, 0.07, 0.07, 0.26])
    return float(towards + rng.uniform(-30, 30))


def _turned_back(vector: np.ndarray, angle: float) -> np.ndarray:
    """Turned about the upright axis, as a larger yaw does."""
    x, y, z = vector
    return np.array((x * np.cos(angle) + z * np.sin(angle), y, z * np.cos(angle) - x * np.sin(angle)))


def _face() -> dict[str, tuple[float, float, float]]:
    """Places of nose, eyes, ears and hair around the centre of the head, in its radii."""
    pairs = {f"{side}_{name}": (sign * FACE[name][0], *FACE[name][1:]) for name in ("eye", "ear")
             for side, sign in SIDES.items()}
    return {"nose": FACE["nose"], **pairs, "hair": (0, -0.25, -0.6)}  # type: ignore[dict-item]


# --- pose --------------------------------------------------------------------------------------------------------


def _legs(rng: np.random.Generator) -> list[Limb]:
    """Left and right."""
    draw: Draw = rng.uniform
    kind = rng.choice(["stand", "walk", "run", "sit", "astride", "lift"], p=[0.32, 0.26, 0.12, 0.1, 0.12, 0.08])
    bent: list[tuple[float, float, float]]  # swing, lift, knee
    if kind == "walk":
        bent = [(draw(12, 35), draw(0, 5), draw(0, 20)), (draw(-28, -8), draw(0, 5), draw(5, 35))]
    elif kind == "run":
        bent = [(draw(40, 75), draw(0, 6), draw(40, 95)), (draw(-35, -10), draw(0, 6), draw(15, 80))]
    elif kind == "sit":
        bent = [(draw(70, 95), draw(3, 15), draw(60, 100)) for _ in SIDES]
    elif kind == "astride":
        bent = [(draw(-8, 8), draw(14, 32), draw(0, 12)) for _ in SIDES]
    elif kind == "lift":
        bent = [(draw(-5, 20), draw(30, 60), draw(0, 60)), (draw(-5, 5), draw(0, 8), draw(0, 8))]
    else:
        bent = [(draw(-7, 7), draw(2, 9), draw(0, 10)) for _ in SIDES]
    if rng.random() < 0.5:
        bent.reverse()
    return [Limb(swing, lift, swing - knee, lift * 0.6) for swing, lift, knee in bent]


def _arm(rng: np.random.Generator) -> Limb:
    draw: Draw = rng.uniform
    kind = rng.choice(["down", "swung", "raised", "aside", "waving", "akimbo"], p=[0.3, 0.24, 0.12, 0.12, 0.12, 0.1])
    if kind == "raised":
        swing, lift = draw(135, 172), draw(0, 25)
        return Limb(swing, lift, swing + draw(0, 30), lift - draw(0, 40))
    if kind == "aside":
        swing, lift = draw(-10, 25), draw(55, 100)
        return Limb(swing, lift, swing + draw(0, 20), lift + draw(-25, 35))
    if kind == "waving":
        swing, lift = draw(-5, 15), draw(50, 90)
        return Limb(swing, lift, swing, lift + draw(60, 100))
    if kind == "akimbo":
        swing, lift = draw(-25, 0), draw(35, 55)
        return Limb(swing, lift, swing + draw(0, 25), lift - draw(75, 100))
    swing, lift = (draw(-12, 12), draw(4, 16)) if kind == "down" else (draw(-45, 60), draw(2, 12))
    return Limb(swing, lift, swing + (draw(5, 30) if kind == "down" else draw(15, 100)), lift - draw(0, 12))


def _direction(swing: float, lift: float, side: float) -> np.ndarray:
    """From straight down: lifted to its side, then swung to the front."""
    a, b = np.radians(lift), np.radians(swing)
    return np.array((side * np.sin(a), np.cos(a) * np.cos(b), np.cos(a) * np.sin(b)))


def _joints(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Places in space of shoulders to ankles, hands, toes, neck and head; the middle of the hips is the origin."""
    pitch = np.radians(rng.normal(3, 6))
    up = np.array((0, -np.cos(pitch), np.sin(pitch)))
    neck = up * TORSO
    nod = pitch + np.radians(rng.uniform(-8, 15))
    joints = {"neck": neck, "head": neck + np.array((0, -np.cos(nod), np.sin(nod))) * NECK}
    for (side, sign), leg in zip(SIDES.items(), _legs(rng), strict=True):
        arm = _arm(rng)
        across = np.array((sign, 0, 0))
        shoulder, hip = neck + across * SHOULDER, across * HIP
        elbow = shoulder + UPPER_ARM * _direction(arm.swing, arm.lift, sign)
        forearm = _direction(arm.lower_swing, arm.lower_lift, sign)
        knee = hip + THIGH * _direction(leg.swing, leg.lift, sign)
        shin = _direction(leg.lower_swing, leg.lower_lift, sign)
        ankle = knee + SHIN * shin
        places = {"shoulder": shoulder, "elbow": elbow, "wrist": elbow + FOREARM * forearm,
                  "hand": elbow + (FOREARM + 0.025) * forearm, "hip": hip, "knee": knee, "ankle": ankle,
                  "toes": ankle + FOOT * _direction(leg.lower_swing + 80, 8, sign)}
        joints |= {f"{side}_{name}": place for name, place in places.items()}
    return joints


# --- view --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """Where each joint is in the picture."""

    place: dict[str, np.ndarray]  # pixels
    depth: dict[str, float]  # towards the viewer, in heights
    height: float  # pixels
    thickness: float  # factor

    def _part(self, name: str, joints: list[str], width: float, colour: str, filled: bool = False) -> Part:
        depth = float(np.mean([self.depth[joint] for joint in joints]))
        light = float(np.clip(0.9 + 2.2 * depth, 0.55, 1.1))
        line = np.array([self.place[joint] for joint in joints])
        return Part(name, line, width * self.thickness * self.height, colour, light, filled)

    def parts(self) -> tuple[Part, ...]:
        """Of the whole body, far ones first."""
        torso = ["left_shoulder", "right_shoulder", "right_hip", "left_hip"]
        found = [(0.0, [self._part("torso", torso, 0.1, "shirt", filled=True)]),
                 (self.depth["neck"], [self._part("neck", ["neck", "head"], 0.06, "skin")]),
                 (self.depth["head"] + 0.03, self._head())]
        for side in SIDES:
            for name, first, last, width, colour in (
                    ("upper_arm", "shoulder", "elbow", 0.068, "shirt"), ("forearm", "elbow", "wrist", 0.056, "sleeve"),
                    ("hand", "hand", "hand", 0.062, "skin"), ("thigh", "hip", "knee", 0.09, "trousers"),
                    ("shin", "knee", "ankle", 0.07, "trousers"), ("foot", "ankle", "toes", 0.06, "shoes")):
                joints = [f"{side}_{first}", f"{side}_{last}"]
                depth = 0.02 + (self.depth[joints[0]] + self.depth[joints[1]]) / 2
                found.append((depth, [self._part(f"{side}_{name}", joints, width, colour)]))
        found.sort(key=lambda item: item[0])
        return tuple(part for _, parts in found for part in parts)

    def _head(self) -> list[Part]:
        """The head, behind its far ear and below what can be seen of its face."""
        size = 2 * HEAD_RADIUS / self.thickness
        facing = (self.depth["head"] - self.depth["hair"]) / (0.6 * HEAD_RADIUS)  # -1: seen from behind
        hair = self._part("hair", ["hair", "hair"], (0.97 - 0.1 * facing) * size, "hair")
        fringe = np.array((0, 0.45 * max(facing, 0) * HEAD_RADIUS * self.height))  # what is behind is not seen
        face = [dataclasses.replace(hair, line=hair.line - fringe)]
        for side in SIDES:
            if self._is_near(f"{side}_eye", 0.1):
                face += [self._part(f"{side}_eye", [f"{side}_eye"] * 2, 0.3 * size, "white"),
                         self._part(f"{side}_pupil", [f"{side}_eye"] * 2, 0.15 * size, "dark")]
        marks = [dataclasses.replace(part, light=1.0, on_head=True) for part in face]
        ears = {side: self._part(f"{side}_ear", [f"{side}_ear"] * 2, 0.26 * size, "skin") for side in SIDES}
        near = [side for side in SIDES if self._is_near(f"{side}_ear", 0.25)]
        nose = [self._part("nose", ["nose", "nose"], 0.24 * size, "skin")]
        return [*(ears[side] for side in SIDES if side not in near), *(() if self._is_near("nose", -0.1) else nose),
                self._part("head", ["head", "head"], size, "skin"), *marks, *(ears[side] for side in near),
                *(nose if self._is_near("nose", -0.1) else ())]

    def _is_near(self, name: str, least: float) -> bool:
        """Whether a point of the head is so many radii of it nearer than its centre, at least."""
        return self.depth[name] - self.depth["head"] >= least * HEAD_RADIUS

    def owners(self, name: str) -> frozenset[str]:
        """The parts that show a key point."""
        side, _, joint = name.partition("_")
        if name == "nose":
            return frozenset(("nose", "head")) if self._is_near(name, -0.1) else frozenset()
        if joint == "eye":
            return frozenset(("head",)) if self._is_near(name, 0.1) else frozenset()
        if joint == "ear":
            return frozenset((name, "head")) if self._is_near(name, -0.25) else frozenset()
        both = {"shoulder": ("upper_arm",), "elbow": ("upper_arm", "forearm"), "wrist": ("forearm", "hand"),
                "hip": ("thigh",), "knee": ("thigh", "shin"), "ankle": ("shin", "foot")}[joint]
        owners = frozenset(f"{side}_{part}" for part in both)
        half = {"shoulder": SHOULDER, "hip": HIP}.get(joint)
        if half is None:
            return owners
        middle = (self.depth[f"left_{joint}"] + self.depth[f"right_{joint}"]) / 2
        return owners | {"torso"} if self.depth[name] - middle > -FROM_THE_SIDE * half else owners

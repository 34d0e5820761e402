"""Images that look alike are found however they were changed, others are not, and no pair is missed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from image_records import write_image

from yolov7.data.check import check_data
from yolov7.data.duplicates import BYTES, NEAR, difference_hash, groups_of_near
from yolov7.data.images import cv2, decode_image, encode_image, load_image
from yolov7.data.synthetic import generate


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    folder = tmp_path_factory.mktemp("shapes")
    generate(folder, train=30, val=2)
    return [load_image(path) for path in sorted((folder / "images" / "train").iterdir())]


def changed(image: np.ndarray) -> dict[str, np.ndarray]:
    return {"smaller": cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
            "larger": cv2.resize(image, None, fx=1.7, fy=1.7),
            "compressed": decode_image(encode_image(image, ".jpg", 40), "x"),
            "brighter": np.clip(image.astype(int) + 25, 0, 255).astype(np.uint8),
            "grey": np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)}


@pytest.mark.parametrize("way", ["smaller", "larger", "compressed", "brighter", "grey"])
def test_changed_images_look_alike(images: list[np.ndarray], way: str) -> None:
    pairs = [difference_hash(image) for image in images] + [difference_hash(changed(image)[way]) for image in images]
    groups = groups_of_near(pairs)
    assert groups == [[place, place + len(images)] for place in range(len(images))]


def test_different_images_do_not(images: list[np.ndarray]) -> None:
    assert groups_of_near([difference_hash(image) for image in images]) == []
    assert groups_of_near([difference_hash(np.full((40, 50, 3), grey, np.uint8)) for grey in (0, 90, 255)]) == []
    assert groups_of_near([]) == [] and groups_of_near([difference_hash(images[0])]) == []


def test_no_pair_is_missed_and_groups_are_chains() -> None:
    """Against the plain way, on signs that differ in 0 to 20 places."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2, (40, 256), np.uint8)
    signs = [base]
    for _ in range(5):
        copy = base.copy()
        for row in copy:
            row[rng.permutation(256)[: rng.integers(0, 20)]] ^= 1
        signs.append(copy)
    every = np.concatenate(signs)
    near = (every[:, None] != every).sum(2) <= NEAR
    reached = near.copy()
    for _ in range(8):
        reached = (reached.astype(int) @ reached) > 0
    expected = sorted({tuple(np.flatnonzero(row).tolist()) for row in reached if row.sum() > 1},
                      key=lambda group: (-len(group), group))
    assert groups_of_near([np.packbits(row).tobytes() for row in every]) == [list(group) for group in expected]
    assert len(expected) > 20


def test_many_images_of_one_film_take_no_time() -> None:
    frame = np.random.default_rng(1).integers(0, 256, BYTES, np.uint8)
    frames = [frame.tobytes()] * 3000
    started = time.monotonic()
    assert groups_of_near(frames) == [list(range(3000))]
    assert time.monotonic() - started < 60


def test_check_says_what_splits_share(images: list[np.ndarray], tmp_path: Path) -> None:
    for number, image in enumerate(images[:6]):
        folder = tmp_path / "images" / ("train" if number < 4 else "val")
        write_image(folder / f"{number}.png", 8, 8)
        (folder / f"{number}.png").write_bytes(encode_image(image, ".png"))
    (tmp_path / "images" / "val" / "again.jpg").write_bytes(encode_image(images[1], ".jpg", 70))
    (tmp_path / "set.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    for split in ("train", "val"):
        (tmp_path / "labels" / split).mkdir(parents=True)
        for path in (tmp_path / "images" / split).iterdir():
            (tmp_path / "labels" / split / f"{path.stem}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    facts = check_data(str(tmp_path / "set.yaml"))
    assert [[(split, Path(path).name) for split, path in group] for group in facts.alike] == [
        [("train", "1.png"), ("val", "again.jpg")]]
    assert facts.exit_code == 0  # to be looked at, no fault
    assert "images that look alike: 2 in 1 groups, 1 of them across splits" in facts.text()

"""``train --folds``, and the parts of a split."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import yolov7
from yolov7.config import InputError
from yolov7.data.catalog import open_data, open_split
from yolov7.data.image_set import ImageSet
from yolov7.data.subsets import choose_images, fold_of, share_of


@pytest.fixture
def train_set(shapes: Path) -> ImageSet:
    return open_split(open_data(str(shapes)), "train", training=True)


def objects_by_image(image_set: ImageSet) -> dict[Any, list[list[float]]]:
    return {image_id: image_set.objects_of(place).boxes.tolist() for place, image_id in enumerate(image_set.image_ids)}


def test_chosen_images_keep_their_objects(train_set: ImageSet) -> None:
    part = choose_images(train_set, np.array([5, 0, 7]))
    assert part.paths == tuple(train_set.paths[i] for i in (5, 0, 7)) and len(part.objects) == part.offsets[-1]
    whole = objects_by_image(train_set)
    assert objects_by_image(part) == {train_set.image_ids[i]: whole[train_set.image_ids[i]] for i in (5, 0, 7)}
    truth = part.ground_truth()  # of the JSON file
    assert {image["id"] for image in truth["images"]} == set(part.image_ids)
    assert {a["image_id"] for a in truth["annotations"]} <= set(part.image_ids)
    assert len(truth["annotations"]) == len(part.objects)


def test_shares_are_nested_and_the_same_for_all(train_set: ImageSet, caplog: pytest.LogCaptureFixture) -> None:
    half, quarter = share_of(train_set, 0.5), share_of(train_set, 0.25)
    assert len(half) == 6 and len(quarter) == 3 and set(quarter.paths) < set(half.paths)
    assert list(half.paths) == sorted(half.paths, key=train_set.paths.index)
    assert share_of(train_set, 1.0) is train_set and len(share_of(train_set, 1e-9)) == 1
    labels = np.repeat(np.arange(len(train_set)) % 6, np.diff(train_set.offsets))
    share_of(replace(train_set, objects=replace(train_set.objects, labels=labels)), 0.1)
    assert "1 images, in which no object is of: " in caplog.text


@pytest.mark.parametrize("folds", [2, 5, 12])
def test_every_image_is_held_out_once(train_set: ImageSet, folds: int) -> None:
    held = [fold_of(train_set, folds, fold, True) for fold in range(1, folds + 1)]
    assert sorted(path for part in held for path in part.paths) == sorted(train_set.paths)
    for fold, part in enumerate(held, 1):
        rest = fold_of(train_set, folds, fold, False)
        assert not set(rest.paths) & set(part.paths) and len(rest) + len(part) == len(train_set)
    assert max(map(len, held)) - min(map(len, held)) <= 1


def test_bad_folds(train_set: ImageSet) -> None:
    with pytest.raises(InputError, match="--folds 13"):
        fold_of(train_set, 13, 1, True)
    with pytest.raises(InputError, match="--fold 4"):
        fold_of(train_set, 3, 4, True)


def test_cross_validation(flags: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = yolov7.train(**{**flags, "device": "cpu", "epochs": 1, "folds": 2, "project": tmp_path, "name": "cv"})
    assert [row["fold"] for row in result.rows] == ["1", "2", "mean", "deviation"]
    assert result.rows[2]["AP"] == pytest.approx((result.rows[0]["AP"] + result.rows[1]["AP"]) / 2)
    with open(tmp_path / "cv" / "folds.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 4
    log = (tmp_path / "cv" / "fold2" / "train.log").read_text()
    assert "train: 6 images" in log and "val: 6 images" in log
    before = (tmp_path / "cv" / "fold1" / "results.csv").stat().st_mtime_ns
    yolov7.train(**{**flags, "device": "cpu", "epochs": 1, "folds": 2, "project": tmp_path, "name": "cv",
                    "exist_ok": True})
    assert (tmp_path / "cv" / "fold1" / "results.csv").stat().st_mtime_ns == before


@pytest.mark.parametrize(("more", "words"), [
    ({"folds": 1}, "at least 2"), ({"fold": 2}, "folds, which is missing"), ({"folds": 30}, "at most as many"),
    ({"folds": 2, "dry_run": True}, "dry run"), ({"fraction": 0.0}, "above 0"), ({"folds": 3, "fold": 4}, "1 to 3")])
def test_bad_flags(flags: dict[str, Any], tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        yolov7.train(**{**flags, "device": "cpu", "epochs": 1, "project": tmp_path, **more})
    assert words in str(caught.value)


def test_folds_are_no_matter_of_torchrun(flags: dict[str, Any], tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1"),
                        ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="under torchrun"):
        yolov7.train(**{**flags, "device": "cpu", "epochs": 1, "folds": 2, "project": tmp_path})

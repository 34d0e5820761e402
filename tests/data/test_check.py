"""`yolov7 data check`: the facts are those of the files, and a failing training shows the same."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_records import write_image

from yolov7.cli import main
from yolov7.data.check import check_data
from yolov7.data.outlines import run_lengths
from yolov7.data.shape_facts import ShapeFacts

Write = Callable[..., Path]
BOX, POLYGON = "0 0.5 0.5 0.2 0.4\n", "1 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.6\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two splits of different images with label files, nothing wrong."""
    for number, (split, text) in enumerate([("train", BOX + POLYGON), ("train", ""), ("val", BOX), ("val", POLYGON)]):
        write_image(tmp_path / "images" / split / f"{number}.png", 40 + number, 30)
        label = tmp_path / "labels" / split / f"{number}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text)
    file = tmp_path / "set.yaml"
    file.write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return file


def test_facts_of_a_good_set(data: Path) -> None:
    facts = check_data(str(data))
    train, val = facts.splits
    assert facts.exit_code == 0 and facts.names == ("cat", "dog") and not facts.shared
    assert (train.format, train.images, train.background, train.objects, train.polygons) == ("yolo", 2, 1, 2, 1)
    assert train.per_class == (1, 1) and train.sizes == ((40, 30), (41, 30), (41, 30))
    assert train.labels_in == (str(data.parent / "labels" / "train"),)
    assert (val.images, val.per_class, val.faults) == (2, (1, 1), ())


def damage(file: Path) -> None:
    """Cut out of the pixels: header and end are as they were."""
    content = file.read_bytes()
    middle = content.index(b"IDAT") + 6
    file.write_bytes(content[:middle] + bytes(20) + content[middle + 20 :])


def test_damaged_and_shared_images(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = data.parent / "images"
    damage(images / "val" / "2.png")
    shutil.copy(images / "train" / "0.png", images / "val" / "other name.png")
    facts = check_data(str(data))
    assert facts.exit_code == 1 and "2.png" in str(facts.splits[1].faults[0])
    assert facts.shared == (("train", str(images / "train" / "0.png"), "val", str(images / "val" / "other name.png")),)
    assert main(["data", "check", "--data", str(data)]) == 1
    text = capsys.readouterr().out
    assert "the same image in two splits: 1\n" in text and "faults: 1 (images skipped: 1," in text
    assert main(["data", "check", "--data", str(data), "--no-decode"]) == 0


def test_many_faults_are_shown_with_all(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data.parent / "labels" / "train" / "0.txt").write_text(BOX + "0 0.5 0.5 0 0.4\n" * 30)
    assert main(["data", "check", "--data", str(data)]) == 1
    assert "and 20 more: --all shows them" in (few := capsys.readouterr().out)
    assert main(["data", "check", "--data", str(data), "--all"]) == 1
    assert capsys.readouterr().out.count("zero size") == 30 and few.count("zero size") == 10


def test_what_cannot_be_used_is_said_as_training_says_it(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(data.parent / "labels" / "val")
    assert main(["data", "check", "--data", str(data)]) == 2
    checked = capsys.readouterr().out
    flags = ["--cfg", str(Path(__file__).parents[1] / "micro.yaml"), "--img-size", "64", "--device", "cpu"]
    assert main(["train", "--data", str(data), *flags, "--project", str(data.parent / "runs")]) == 2
    shown = capsys.readouterr()
    assert "val: none of the 2 images has a label file" in checked
    assert shown.err.removeprefix("error: ").strip() in checked and checked.strip() in shown.out


@pytest.mark.parametrize(("name", "message"), [("", "--data is missing"), ("no.yaml", "no such file or folder")])
def test_no_data(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", *(["--data", name] if name else [])]) == 2
    output = capsys.readouterr()
    assert message in output.out + output.err


# --- masks and key points --------------------------------------------------------------------------------------


def test_masks_and_key_points_are_counted(coco_folder: Callable[..., Path]) -> None:
    mask = np.zeros((48, 64), bool)
    mask[5:40, 6:30] = True
    mask[10:20, 10:20] = False
    names = {"id": 3, "name": "cat", "keypoints": ["nose", "tail"]}
    folder = coco_folder([[
        {"bbox": [6, 5, 24, 35], "segmentation": {"size": [48, 64], "counts": run_lengths(mask)},
         "keypoints": [10, 10, 2, 12, 12, 1]},
        {"bbox": [1, 1, 30, 30], "segmentation": [[1, 1, 9, 1, 9, 9], [20, 20, 31, 20, 31, 31]], "keypoints": [0] * 6},
        {"bbox": [2, 2, 10, 10], "keypoints": [5, 5, 2, 30, 5, 2]},
        {"bbox": [1, 1, 50, 40], "iscrowd": 1}]], categories=[names])
    facts = check_data(str(folder))
    shapes = facts.splits[0].shapes
    assert shapes == ShapeFacts(2, 1, 1, 1, 2, 1, 4, 1, ("1.jpg, object 3: tail lies 18 px outside",))
    text = facts.text()
    for line in ("masks: 2 objects, 1 of several parts, 1 with holes; without one, so that a mask term leaves them out",
                 "key points: 2 objects, 4 labelled, 1 of them occluded; objects without one: 1",
                 "key points that lie further outside of their box than 50% of its longer side: 1\n"
                 "    1.jpg, object 3: tail lies 18 px outside",
                 "key points: 2: nose, tail; which of them change places in a mirrored image is not known"):
        assert line in text
    assert facts.exit_code == 0


def test_counts_of_coco_mini(coco_mini: Path) -> None:
    facts = {item.split: item.shapes for item in check_data(str(coco_mini), decode=False).splits}
    assert (facts["train"].masks, facts["train"].several_parts, facts["train"].without_mask) == (731, 52, 0)
    assert (facts["val"].masks, facts["val"].several_parts) == (619, 37)  # the two parts of one more touch


def test_people_of_coco_mini(coco_mini: Path, tmp_path: Path) -> None:
    yaml = tmp_path / "people.yaml"
    yaml.write_text(f"path: {coco_mini}\n" + "".join(
        f"{split}: {{images: images/{split}2017, annotations: annotations/person_keypoints_{split}2017.json}}\n"
        for split in ("train", "val")))
    facts = {item.split: item.shapes for item in check_data(str(yaml), decode=False).splits}
    assert [(item.with_keypoints, item.labelled, item.occluded) for item in facts.values()] == [
        (86, 800, 102), (68, 652, 92)]
    assert not facts["train"].far_off and not facts["val"].far_off


@pytest.mark.parametrize(("keys", "row", "message"), [
    ("kpt_shape: [3, 3]\nflip_idx: [1, 2, 0]", "0 0.5 0.5 0.2 0.2" + " 0.5 0.5 2" * 3, "flip_idx: point 0 becomes 1"),
    ("kpt_shape: [4, 3]", "0 0.5 0.5 0.2 0.2" + " 0.5 0.5 2" * 3, "14 columns; accepted: 5 columns .*, or 17 with 4"),
    ("kpt_shape: [3, 3]", "0 0.5 0.5 0.2 0.2" + " 0 0 0" * 3, "key points: announced, but not one is labelled"),
    ("kpt_shape: [1, 3]", "0 0.5 0.5 0.2 0.2 1.2 0.5 2", "line 1: labelled key points outside the image: 1; they are"),
])
def test_faults_of_key_points(keys: str, row: str, message: str, yolo_folder: Callable[..., Path]) -> None:
    yaml = yolo_folder(f"{row}\n")
    yaml.write_text(f"{yaml.read_text()}{keys}\n")
    assert re.search(message, check_data(str(yaml), decode=False).text())

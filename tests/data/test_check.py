"""`yolov7 data check`: the facts are those of the files, and a failing training shows the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from image_records import write_image

from yolov7.cli import main
from yolov7.data.check import check_data

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

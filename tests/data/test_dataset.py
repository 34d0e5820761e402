"""What ``--data`` may name, and samples."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from yolov7.config import InputError, shipped_files
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import EvaluationDataset, TrainingDataset
from yolov7.data.image_set import ImageSet, report_faults
from yolov7.options import AugmentConfig
from yolov7.structures import Sample

Write = Callable[..., Path]
Squares = Callable[..., ImageSet]
BOX = {"bbox": [4, 6, 10, 20]}
QUIET = AugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0, mosaic=0, mixup=0, paste_in=0)


def assert_equal(first: Sample, second: Sample) -> None:
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert len(first.segments) == len(second.segments) == len(first.labels)
    for a, b in zip(first.segments, second.segments, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.meta == second.meta


# --- what --data names -----------------------------------------------------------------------------------------


def test_yaml_with_json(coco_folder: Write) -> None:
    folder = coco_folder([[BOX]])
    coco_folder([[BOX], [BOX]], split="val")
    file = folder / "pets.yaml"
    entry = "{images: images/%s, annotations: annotations/%s.json}"
    file.write_text(
        f"train: {entry % ('train', 'train')}\nval: {entry % ('val', 'val')}\n"
        "settings: {yolov7-tiny: {img_size: [320], epochs: 3}}\n"
    )
    source = open_data(str(file))
    assert (source.name, source.names) == ("pets", ("cat", "dog"))
    assert source.settings["yolov7-tiny"].img_size == (320,)
    assert len(open_split(source, "val")) == 2
    assert open_split(source, "train").annotation_file == str(folder / "annotations" / "train.json")
    with pytest.raises(InputError, match=r"pets.yaml: has no split 'test'; accepted: train, val$"):
        open_split(source, "test")


def test_names_of_the_yaml_replace_those_of_the_json(coco_folder: Write) -> None:
    folder = coco_folder([[BOX]])
    file = folder / "pets.yaml"
    split = "train: {images: images/train, annotations: annotations/train.json}\n"
    file.write_text(split + "nc: 2\nnames: {1: Hund, 0: Katze}\n")
    assert open_split(open_data(str(file)), "train").names == ("Katze", "Hund")
    file.write_text(split + "names: [a, b, c]\n")
    with pytest.raises(InputError, match=r"train.json: has 2 categories, but the data set names 3 classes"):
        open_split(open_data(str(file)), "train")
    file.write_text(split + "nc: 3\n")
    with pytest.raises(InputError, match=r"pets.yaml: nc is 3, but .*train.json has 2 categories"):
        open_data(str(file))


def test_splits_with_other_categories_are_refused(coco_folder: Write) -> None:
    folder = coco_folder([[BOX]])
    coco_folder([[BOX]], split="val", categories=[{"id": 3, "name": "cat"}, {"id": 7, "name": "horse"}])
    source = open_data(str(folder))
    with pytest.raises(InputError, match=r"train.json: has the categories cat, dog, but .*val.json has cat, horse"):
        open_split(source, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: a\nnc: 3\nnames: [a, b]\n", "set.yaml: nc is 3, but names has 2 entries"),
        ("train: a\nnames: {0: a, 2: b}\n", r"set.yaml, names: found the numbers \[0, 2\]; accepted: 0 to 1"),
        ("train: a\n", "set.yaml: the key 'names' is missing"),
        ("names: [a]\n", "set.yaml: has none of the keys train, val, test"),
        ("trian: a\nnames: [a]\n", "set.yaml: unknown key 'trian'; .*did you mean 'train'?"),
    ],
)
def test_faults_of_the_yaml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "set.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        open_data(str(tmp_path / "set.yaml"))


def test_missing_paths_name_the_key_the_places_and_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    file = tmp_path / "sets" / "a.yaml"
    file.write_text("train: pictures/train\nnames: [a]\ndownload: touch executed\n")
    with pytest.raises(InputError) as caught:
        open_split(open_data(str(file)), "train")
    assert str(caught.value) == (
        f"{file}, train: 'pictures/train' was not found; looked for {tmp_path}/sets/pictures/train, "
        f"{tmp_path}/work/pictures/train; to be had from (never fetched by itself): touch executed"
    )
    assert not (tmp_path / "work" / "executed").exists()
    file.write_text("path: [x, y]\ntrain: t\nnames: [a]\n")
    message = r"a.yaml, train: 't' was not found; looked for .*/sets/x/t, .*/work/x/t, .*/sets/y/t, .*/work/y/t$"
    with pytest.raises(InputError, match=message):
        open_split(open_data(str(file)), "train")


def test_relative_paths(yolo_folder: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = yolo_folder("0 0.5 0.5 0.2 0.4\n")
    assert len(open_split(open_data(str(file)), "train")) == 1  # beside the YAML
    (tmp_path / "sub").mkdir()
    other = tmp_path / "sub" / "other.yaml"
    other.write_text("path: [nowhere, .., /]\ntrain: [images, images]\nnames: [cat]\n")
    assert len(open_split(open_data(str(other)), "train")) == 1  # below `path`, once
    other.write_text("train: ./images\nnames: [cat]\n")
    monkeypatch.chdir(tmp_path)
    assert len(open_split(open_data("sub/other.yaml"), "train")) == 1  # in the working directory


@pytest.mark.parametrize(
    ("annotations", "pictures"),
    [("annotations/instances_train2017.json", "train2017"),
     ("annotations/instances_train2017.json", "images/train2017"), ("annotations/train.json", "images/train"),
     ("annotations/train.json", "train"),
     ("annotations/instances_train.json", "images"), ("annotations/train.json", "."),
     ("train/_annotations.coco.json", "train")],
)  # fmt: skip
def test_folders_in_coco_layout(coco_folder: Write, tmp_path: Path, annotations: str, pictures: str) -> None:
    folder, root = coco_folder([[BOX]]), tmp_path / "root"
    for old, new in (("annotations/train.json", annotations), ("images/train/1.jpg", f"{pictures}/1.jpg")):
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(root / new)
    source = open_data(str(root))
    assert source.name == "root"
    assert source.names == ("cat", "dog")
    assert open_split(source, "train").paths == (str(root / pictures / "1.jpg"),)


def test_a_folder_without_json_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no COCO JSON in this folder; looked for annotations/instances_train\*.json"):
        open_data(str(tmp_path))


def test_a_folder_with_two_files_for_a_split(coco_folder: Write) -> None:
    folder = coco_folder([[BOX]])
    (folder / "annotations" / "instances_train2014.json").write_text("{}")
    with pytest.raises(InputError, match=r"several files fit the split 'train': instances_train2014.json, train.json"):
        open_data(str(folder))


def test_a_folder_without_its_pictures(coco_folder: Write) -> None:
    folder = coco_folder([[BOX]])
    (folder / "images" / "train" / "1.jpg").unlink()
    source = open_data(str(folder))
    with pytest.raises(InputError, match=r"train.json: none of its first pictures \(1.jpg\) was found in: .*/images/t"):
        open_split(source, "train")


@pytest.mark.parametrize("name", ["hyp.scratch.tiny.yaml", "hyp.scratch.tiny"])
def test_recipes_are_no_data_sets(name: str) -> None:
    with pytest.raises(InputError, match=r"this is a recipe \(--hyp\); accepted: a data set: bccd, "):
        open_data(name)


def test_unknown_names_offer_the_nearest_data_set() -> None:
    with pytest.raises(InputError, match=r"--data 'shape': no such .*; did you mean 'shapes'\?$") as caught:
        open_data("shape")
    assert "shipped: bccd, " in str(caught.value)
    assert "hyp" not in str(caught.value)
    with pytest.raises(InputError, match=r"--data '/nowhere/bccd.yaml': no such file"):
        open_data("/nowhere/bccd.yaml")


def test_the_built_in_set_is_generated_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coco_folder: Write
) -> None:
    folders = []

    def generate(folder: Path) -> None:
        folders.append(folder)
        folder.parent.mkdir(exist_ok=True)
        if not folder.exists():
            coco_folder([[BOX]])
            coco_folder([[BOX]], split="val")
            folder.mkdir()
            for name in ("annotations", "images"):
                (tmp_path / name).rename(folder / name)

    monkeypatch.setattr("yolov7.data.synthetic.generate", generate)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        source = open_data("shapes")
        assert len(open_split(source, "train")) == 1
    assert folders == [tmp_path / "datasets" / "shapes"] * 2
    assert source.settings["yolov7-tiny"].nominal_batch


@pytest.mark.parametrize("name", [n for n in shipped_files("data") if not n.startswith("hyp.")])
def test_shipped_data_sets_are_well_formed(name: str) -> None:
    content = yaml.safe_load(shipped_files("data")[name].read_text())
    assert {"train", "val", "path"} <= set(content)
    assert len(content.get("names", ())) == content.get("nc", 0)
    if name == "coco":
        assert open_data("coco").names[79] == "toothbrush"


@pytest.mark.parametrize(("name", "pictures"), [("bccd", 205), ("coco-mini", 80)])
def test_shipped_data_sets_are_found(request: pytest.FixtureRequest, name: str, pictures: int) -> None:
    request.getfixturevalue(name.replace("-", "_"))
    assert len(open_split(open_data(name), "train")) == pictures


def test_faults_are_counted_shown_and_written(
    yolo_folder: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = "0 0.5 0.5 0.2 0.4\n"
    found = open_split(open_data(str(yolo_folder(good, *["0 1"] * 12, good * 3, ""))), "train")
    report_faults(found, tmp_path)
    lines = (tmp_path / "faults_train.txt").read_text().splitlines()
    assert len(lines) == 14
    message = caplog.messages[-1].splitlines()
    assert message[0] == (
        "train: 3 pictures (1 without objects), 2 objects; skipped: 12 pictures, dropped: 2 objects, "
        f"all in {tmp_path}/faults_train.txt; the first:"
    )
    assert [line.strip() for line in message[1:]] == lines[:10]
    with caplog.at_level(logging.INFO):
        report_faults(replace(found, faults=()), None)
    assert caplog.messages[-1] == "train: 3 pictures (1 without objects), 2 objects"


# --- samples ---------------------------------------------------------------------------------------------------


def test_a_training_sample_depends_on_its_key_alone(squares: Squares) -> None:
    augment = AugmentConfig(paste_in=0.5, copy_paste=0.5, mixup=0.5)
    first, second = (TrainingDataset(squares(outlined="mixed"), 96, augment, seed=7) for _ in range(2))
    keys = [(0, 0, 3), (0, 1, 5), (1, 0, 3), (4, 2, 0)]
    samples = [first[key] for key in keys]
    for key, sample in zip(reversed(keys), reversed(samples), strict=True):
        assert_equal(second[key], sample)
    other = TrainingDataset(squares(outlined="mixed"), 96, augment, seed=8)
    assert not np.array_equal(other[keys[0]].image, samples[0].image)
    assert not np.array_equal(samples[2].image, samples[0].image)


def test_samples_are_within_bounds(squares: Squares) -> None:
    augment = AugmentConfig(paste_in=0.5, copy_paste=0.5, mixup=0.5, mosaic=0.7, flipud=0.5, degrees=20, shear=5)
    dataset = TrainingDataset(squares(outlined="mixed"), 96, augment)
    for position in range(30):
        sample = dataset[0, position, position % len(dataset)]
        assert sample.image.shape == (96, 96, 3)
        assert sample.image.dtype == np.uint8
        assert (sample.boxes.dtype, sample.labels.dtype) == (np.float32, np.int64)
        assert len(sample.boxes) == len(sample.labels) == len(sample.segments)
        assert ((sample.boxes >= 0) & (sample.boxes <= 96)).all()
        assert (sample.boxes[:, 2:] - sample.boxes[:, :2] > 2).all()


def test_a_picture_without_objects_is_a_sample(yolo_folder: Write) -> None:
    image_set = open_split(open_data(str(yolo_folder("0 0.5 0.5 0.2 0.4\n", None))), "train")
    assert EvaluationDataset(image_set, 64)[1].boxes.shape == (0, 4)
    for augment in (QUIET, AugmentConfig()):
        assert TrainingDataset(image_set, 64, augment)[0, 0, 1].boxes.shape[1] == 4


def test_evaluation_sample(yolo_folder: Write) -> None:
    image_set = open_split(open_data(str(yolo_folder("0 0.5 0.5 0.2 0.4\n"))), "train")  # 100 x 50 px
    dataset = EvaluationDataset(image_set, 200, batch_shapes=np.array([[129, 224]]))
    sample = dataset[0]
    assert sample.image.shape == (129, 224, 3)
    assert sample.meta.size == (50, 100)
    assert sample.meta.gain == (2, 2)
    assert sample.meta.pad == (12, 14.5)  # fractional, though the pixels start in row 14
    np.testing.assert_allclose(sample.boxes, [[92, 44.5, 132, 84.5]])
    square = EvaluationDataset(image_set, 200)[0]
    assert square.image.shape == (200, 200, 3)
    assert square.meta.pad == (0, 50)


def test_evaluation_gain_is_that_of_the_height(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (500, 333)).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 1 1\n")
    (tmp_path / "set.yaml").write_text("val: .\nnames: [a]\n")
    sample = EvaluationDataset(open_split(open_data(str(tmp_path / "set.yaml")), "val"), 640)[0]
    assert sample.meta.gain == (426 / 333, 426 / 333)
    np.testing.assert_allclose(sample.boxes, [[0, 107, 640, 533]])


def test_without_mosaic_the_picture_is_letterboxed(squares: Squares) -> None:
    augment = replace(QUIET, translate=0, scale=0, fliplr=0)
    image_set = squares(outlined="all")
    sample = TrainingDataset(image_set, 256, augment)[0, 0, 0]
    assert (sample.image[0] == 114).all()
    boxes, labels, _ = image_set.objects(0)
    zoom = (sample.boxes[:, 2] - sample.boxes[:, 0]) / (boxes[:, 2] - boxes[:, 0]) / 2
    assert ((zoom >= 1) & (zoom <= 1.1)).all()
    assert sample.labels.tolist() == labels.tolist()


def test_an_unreadable_picture_is_replaced_and_counted(
    squares: Squares, caplog: pytest.LogCaptureFixture
) -> None:
    image_set = squares()
    dataset, again = (TrainingDataset(image_set, 96, replace(QUIET, mosaic=0)) for _ in range(2))
    Path(image_set.paths[2]).write_bytes(b"damaged since the start")
    sample = dataset[0, 4, 2]
    assert sample.meta.image_id != 2
    assert dataset.replaced == 1
    assert "squares_2.png: not a picture that can be read" in caplog.text
    assert "another sample takes its place (1 so far)" in caplog.text
    dataset[0, 5, 2]
    assert dataset.replaced == 2
    assert caplog.text.count("squares_2.png") == 1  # said once
    assert_equal(again[0, 4, 2], sample)
    mosaic = TrainingDataset(image_set, 96, AugmentConfig())
    assert mosaic[0, 0, 1].image.shape == (96, 96, 3)


def test_pictures_that_are_all_gone_end_the_run(squares: Squares) -> None:
    image_set = squares(2)
    dataset = TrainingDataset(image_set, 96, QUIET)
    for path in image_set.paths:
        Path(path).unlink()
    with pytest.raises(InputError, match=r"20 samples in a row cannot be read; the last: .*No such file"):
        dataset[0, 0, 0]
    with pytest.raises(InputError, match=r"squares_0.png: cannot be read: No such file"):
        EvaluationDataset(image_set, 96)[0]


def test_nothing_to_paste_is_said_once_and_costs_nothing(
    squares: Squares, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = TrainingDataset(squares(), 96, AugmentConfig(paste_in=1, copy_paste=1))
    assert [m for m in caplog.messages if "nothing is pasted" in m] == [
        "augment.paste_in is 1, but no object has an outline: nothing is pasted (as with --set augment.paste_in=0)",
        "augment.copy_paste is 1, but no object has an outline: nothing is pasted (as with --set augment.copy_paste=0)",
    ]
    monkeypatch.setattr("yolov7.data.paste.paste_in", lambda *_: pytest.fail("for nothing"))
    for position in range(5):
        dataset[0, position, 0]

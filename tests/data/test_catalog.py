"""What ``--data`` may name: YAML files, shipped names, folders; formats; what is wrong with a split."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from image_records import NO_POLYGON, ImageRecord, ObjectRecord, build_image_set, write_image

from yolov7.config import InputError, shipped_files
from yolov7.data.catalog import open_data, open_split
from yolov7.data.formats import Entry, Format, SplitSource, formats, register
from yolov7.data.image_set import ImageSet, report_faults

Write = Callable[..., Path]
BOX = {"bbox": [4, 6, 10, 20]}


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
    with pytest.raises(InputError, match=r"has 2 categories .cat, dog., but the data set names 3 classes .a, b, c"):
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
    file.write_text("train: images/train\nnames: [a]\ndownload: touch executed\n")
    with pytest.raises(InputError) as caught:
        open_split(open_data(str(file)), "train")
    assert str(caught.value) == (
        f"{file}, train: 'images/train' was not found; looked for {tmp_path}/sets/images/train, "
        f"{tmp_path}/work/images/train; its download script, which is never run, would make the folder"
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
    ("annotations", "images"),
    [("annotations/instances_train2017.json", "train2017"),
     ("annotations/instances_train2017.json", "images/train2017"), ("annotations/train.json", "images/train"),
     ("annotations/train.json", "train"),
     ("annotations/instances_train.json", "images"), ("annotations/train.json", "."),
     ("train/_annotations.coco.json", "train")],
)  # fmt: skip
def test_folders_in_coco_layout(coco_folder: Write, tmp_path: Path, annotations: str, images: str) -> None:
    folder, root = coco_folder([[BOX]]), tmp_path / "root"
    for old, new in (("annotations/train.json", annotations), ("images/train/1.jpg", f"{images}/1.jpg")):
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(root / new)
    source = open_data(str(root))
    assert source.name == "root"
    assert source.names == ("cat", "dog")
    assert open_split(source, "train").paths == (str(root / images / "1.jpg"),)


def test_a_folder_without_json_says_what_was_looked_for(tmp_path: Path) -> None:
    message = r"no annotations in this folder; looked for annotations/instances_train\*.json"
    with pytest.raises(InputError, match=message):
        open_data(str(tmp_path))


def test_a_folder_with_two_files_for_a_split(coco_folder: Write) -> None:
    folder = coco_folder([[BOX]])
    (folder / "annotations" / "instances_train2014.json").write_text("{}")
    with pytest.raises(InputError, match=r"several files fit the split 'train': instances_train2014.json, train.json"):
        open_data(str(folder))


def test_a_folder_without_its_images(coco_folder: Write) -> None:
    folder = coco_folder([[BOX]])
    (folder / "images" / "train" / "1.jpg").unlink()
    source = open_data(str(folder))
    with pytest.raises(InputError, match=r"train.json: none of its first images \(1.jpg\) was found in: .*/images/t"):
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


@pytest.mark.parametrize("name", [n for n in shipped_files("data") if not n.startswith(("hyp.", "space."))])
def test_shipped_data_sets_are_well_formed(name: str) -> None:
    content = yaml.safe_load(shipped_files("data")[name].read_text())
    assert {"train", "val", "path"} <= set(content)
    assert len(content.get("names", ())) == content.get("nc", 0)
    if name == "coco":
        assert open_data("coco").names[79] == "toothbrush"


@pytest.mark.parametrize(("name", "images"), [("bccd", 205), ("coco-mini", 80)])
def test_shipped_data_sets_are_found(request: pytest.FixtureRequest, name: str, images: int) -> None:
    request.getfixturevalue(name.replace("-", "_"))
    assert len(open_split(open_data(name), "train")) == images


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
        "train: 3 images (1 without objects), 2 objects; skipped: 12 images, dropped: 2 objects, "
        f"all in {tmp_path}/faults_train.txt; the first:"
    )
    assert [line.strip() for line in message[1:]] == lines[:10]
    with caplog.at_level(logging.INFO):
        report_faults(replace(found, faults=()), None)
    assert caplog.messages[-1] == "train: 3 images (1 without objects), 2 objects"


# --- formats ---------------------------------------------------------------------------------------------------


class Listed(Format):
    """A format of one file: every line names an image and boxes of the only class."""

    name = "listed"
    entries = "{list: FILE}"

    def claims(self, entry: Entry) -> bool:
        return isinstance(entry, dict) and set(entry) == {"list"}

    def layouts(self, split: str) -> list[str]:
        return [f"{split}.boxes"]

    def entry_of_folder(self, root: Path, split: str) -> Entry | None:
        return {"list": f"{split}.boxes"} if (root / f"{split}.boxes").is_file() else None

    def class_names(self, source: SplitSource) -> tuple[tuple[str, ...], str]:
        return ("thing",), str(self._file(source))

    def read(self, source: SplitSource, names: tuple[str, ...] | None) -> ImageSet:
        records = []
        for number, line in enumerate(self._file(source).read_text().splitlines()):
            path, *values = line.split()
            box = tuple(map(float, values))
            records.append(ImageRecord(str(source.find(path)), number, (48, 64), [ObjectRecord(box, 0, NO_POLYGON)]))
        return build_image_set(records, names or ("thing",), (1,), [], annotation_file=None, split=source.split)

    def _file(self, source: SplitSource) -> Path:
        assert isinstance(source.entry, dict)
        return source.find(source.entry["list"], "list")


def test_another_format_is_one_class_and_one_registration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "train.boxes").write_text("a.png 1 2 30 40\n")
    (tmp_path / "set.yaml").write_text("train: {list: train.boxes}\n")
    with pytest.raises(InputError, match=r"set.yaml, train: found the keys list; accepted: {images: FOLDER"):
        open_data(str(tmp_path / "set.yaml"))
    monkeypatch.setattr("yolov7.data.formats._FORMATS", list(formats()))
    register(Listed())
    for data in (tmp_path / "set.yaml", tmp_path):
        source = open_data(str(data))
        assert source.names == ("thing",)
        found = open_split(source, "train", training=True)
        assert found.paths == (str(tmp_path / "a.png"),)
        assert found.objects.boxes.tolist() == [[1, 2, 30, 40]]
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"looked for .*test.boxes"):
        open_data(str(empty))


def test_entries_that_no_format_claims(tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text("train: {images: a, annotation: b}\nnames: [a]\n")
    message = (r"set.yaml, train: found the keys images, annotation; accepted: {images: FOLDER, annotations: "
               r"FILE.json}, or a folder or a list of images, or several$")
    with pytest.raises(InputError, match=message):
        open_data(str(tmp_path / "set.yaml"))

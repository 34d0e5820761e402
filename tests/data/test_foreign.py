"""Formats of other tools: each is recognised and named with its command, whatever else is in the folder."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from image_records import SHARED, write_image

from yolov7.config import InputError, parse_arguments
from yolov7.config.options import ConvertOptions
from yolov7.config.program import inside_a_command
from yolov7.data.catalog import open_data, open_split
from yolov7.data.convert import convert
from yolov7.data.foreign.recognise import foreign_format

LABELME = {"version": "5.0", "flags": {}, "shapes": [{"label": "cat", "points": [[1, 1], [20, 20]],
                                                      "shape_type": "rectangle"}], "imagePath": "a.jpg"}
REGION = {"shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 20, "height": 30},
          "region_attributes": {"class": "cat"}}
VIA = {"a.jpg1": {"filename": "a.jpg", "size": 1, "regions": [REGION], "file_attributes": {}}}
VIA_CSV = 'filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n'
VOC = "<annotation><filename>a.jpg</filename><size><width>64</width></size></annotation>"
COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
LVIS = COCO | {"images": [{"id": 1, "coco_url": "http://x/val2017/a.jpg", "neg_category_ids": []}]}
SUPERVISELY = {"classes": [{"title": "cat", "shape": "rectangle"}], "tags": []}
CREATEML = [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 9, "y": 9, "width": 4,
                                                                               "height": 4}}]}]
LABEL_STUDIO = [{"id": 1, "annotations": [{"result": [{"from_name": "label", "value": {"rectanglelabels": ["cat"]}}]}]}]
OPEN_IMAGES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\na,xclick,/m/01,1,0.1,0.2,0.1,0.2\n"
FORMATS: dict[str, tuple[str, Any, str | None, str]] = {  # file, content, converter, name
    "labelme": ("data/a.json", LABELME, "labelme", "labelme"),
    "via": ("via_region_data.json", VIA, "via", "VIA"),
    "via project": ("p.json", {"_via_settings": {}, "_via_img_metadata": VIA}, "via", "VIA"),
    "via csv": ("via.csv", VIA_CSV, "via", "VIA"),
    "voc": ("VOCdevkit/VOC2012/Annotations/a.xml", VOC, "voc", "Pascal VOC"),
    "supervisely": ("meta.json", SUPERVISELY, "supervisely", "Supervisely"),
    "createml": ("_annotations.createml.json", CREATEML, "createml", "CreateML"),
    "open images": ("train-annotations-bbox.csv", OPEN_IMAGES, "csv", "Open Images"),
    "tensorflow": ("_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n", "csv", "CSV"),
    "retinanet": ("train.csv", "img/a.jpg,1,2,3,4,cat\n", "csv", "CSV"),
    "semicolons": ("x.csv", "image;label;x1;y1;x2;y2\n", "csv", "CSV"),
    "coco": ("labels.json", COCO, None, "COCO JSON"),
    "lvis": ("lvis_v1_val.json", LVIS, None, "LVIS"),
    "label studio": ("project-1.json", LABEL_STUDIO, None, "Label Studio"),
    "cvat": ("annotations.xml", '<?xml version="1.0"?><annotations><meta/></annotations>', None, "CVAT"),
    "tfrecord": ("train.tfrecord-00000-of-00002", "", None, "TFRecord"),
}


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.fixture(autouse=True)
def as_a_command() -> Iterator[None]:
    """Messages name commands of the command line."""
    with inside_a_command():
        yield


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_recognised(name: str, tmp_path: Path) -> None:
    place, content, converter, called = FORMATS[name]
    write_image(tmp_path / "a.jpg")
    file = write(tmp_path / place, content)
    for path in (tmp_path, file):
        found = foreign_format(path)
        assert found is not None and called in found.name and found.files == (str(file),)
        assert (found.command is None) == (converter is None)
        with pytest.raises(InputError, match=called):
            open_data(str(path))
    if found.command:
        arguments = shlex.split(found.command)
        assert arguments[1:5] == ["-m", "yolov7", "data", "convert"]
        options = parse_arguments(ConvertOptions, arguments[5:], "yolov7", "")
        assert options.from_ == converter and Path(options.data).exists() and options.to == "yolo"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\0" * 99, b"{", b"[" * 5000, b"\x80,\x81\n", b"a,b\n1,2"])
@pytest.mark.parametrize("suffix", ["json", "xml", "csv"])
def test_odd_files_are_no_format(content: bytes, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(content)
    os.mkfifo(tmp_path / f"b.{suffix}")
    (tmp_path / f"c.{suffix}").symlink_to("nowhere")
    (tmp_path / "d").symlink_to(tmp_path)
    assert foreign_format(tmp_path) is None
    assert foreign_format(tmp_path / "nothing") is None


@pytest.mark.parametrize("kind", ["voc", "labelme", "via", "csv", "supervisely", "createml"])
def test_odd_files_are_refused_in_one_sentence(kind: Any, tmp_path: Path) -> None:
    content = [b"", b"\xff\xfe", b"\0" * 99, b"{", b"[" * 5000,
               b"filename,class,xmin,ymin,xmax,ymax\n\x81,\x8d,1,2,3,4\n",
               b'{"a": {"filename": 1, "regions": 1}}', b'[{"image": [], "annotations": 1}]', b'{"shapes": {}}',
               b'{"shapes": [1, {"points": {}}], "imagePath": 3}', b'{"objects": [1], "tags": 1, "size": []}',
               b'{"objects": 1}', b'{"a": {"filename": "a.jpg", "regions": {"0": 3}}}', b'[1, null]', b'"x"',
               b"1" * 5000,
               b'{"classes": 3}', b"<annotation><object/><size/></annotation>", b'{"objects": [{"points": [1]}]}',
               b'{"_via_img_metadata": 3}', b"region_shape_attributes,filename\n[],a.jpg\n"]
    write_image(tmp_path / "a.jpg")
    for number, part in enumerate(content):
        for suffix in ("json", "xml", "csv"):
            for place in (f"{number}.{suffix}", f"ann/{number}.{suffix}", f"m{number}/meta.{suffix}"):
                (tmp_path / place).parent.mkdir(exist_ok=True)
                (tmp_path / place).write_bytes(part)
    os.mkfifo(tmp_path / f"pipe.{ {'voc': 'xml', 'csv': 'csv'}.get(kind, 'json')}")
    (tmp_path / "a.xml").write_text("<annotation><filename>a.jpg</filename><object><bndbox/></object></annotation>")
    with pytest.raises(InputError):
        convert(ConvertOptions(from_=kind, data=str(tmp_path), output=str(tmp_path / "out")))


def test_only_the_ends_of_a_few_files_are_read(tmp_path: Path) -> None:
    with open(tmp_path / "big.json", "wb") as stream:
        stream.truncate(5_000_000_000)
    for number in range(300):
        (tmp_path / f"n{number}").mkdir()
        write(tmp_path / f"n{number}" / "a.xml", "<annotations/>")
    assert foreign_format(tmp_path) is None


def test_the_format_of_most_files_counts(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", FORMATS["tensorflow"][1])
    for number in range(3):
        write(tmp_path / "Annotations" / f"{number}.xml", VOC)
    found = foreign_format(tmp_path)
    assert found and found.name == "Pascal VOC annotations"


YAMLS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "labelme": ("train: data\nval: data\n", lambda folder: write(folder / "data" / "a.json", LABELME), "labelme"),
    "voc": ("train: JPEGImages\nval: JPEGImages\n", lambda folder: write(folder / "Annotations" / "a.xml", VOC), "voc"),
    "via": ("train: {images: data, annotations: v.json}\n", lambda folder: write(folder / "v.json", VIA), "via"),
    "createml": ("train: {images: data, annotations: c.json}\n", lambda folder: write(folder / "c.json", CREATEML),
                 "createml"),
    "csv": ("train: boxes.csv\n", lambda folder: write(folder / "boxes.csv", OPEN_IMAGES), "csv"),
    "xml only": ("train: Annotations\n", lambda folder: write(folder / "Annotations" / "a.xml", VOC), "voc"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_what_a_yaml_names_is_recognised(name: str, tmp_path: Path) -> None:
    text, fill, converter = YAMLS[name]
    for folder in ("data", "JPEGImages"):
        write_image(tmp_path / folder / "a.jpg")
    fill(tmp_path)
    write(tmp_path / "set.yaml", text + "names: [cat]\n")
    with pytest.raises(InputError, match=f"yolov7 data convert --from {converter} "):
        open_split(open_data(str(tmp_path / "set.yaml")), "train", training=True)


@pytest.mark.parametrize(("name", "command"), [
    ("labelme", "--from labelme"), ("labelme/my.yaml", "--from labelme"), ("labelme/data", "--from labelme"),
    ("via", "--from via"), ("via/my.yaml", "--from via"), ("via/via_project.json", "--from via"),
    ("openimages_csv", "--from csv"), ("openimages_csv/train-annotations-bbox.csv", "--from csv")])  # fmt: skip
def test_cases(name: str, command: str) -> None:
    case = SHARED / "cases" / name
    if not case.exists():
        pytest.skip("needs ../shared/cases")
    with pytest.raises(InputError, match=f"yolov7 data convert {command} ") as error:
        open_split(open_data(str(case)), "train", training=True)
    assert "\n" not in str(error.value)

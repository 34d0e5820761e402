"""Other tools' formats to ours: boxes by hand, classes, splits, and what is left out of each."""

from __future__ import annotations

import base64
import io
import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_records import SHARED, write_image
from PIL import Image

from yolov7 import cli
from yolov7.config import InputError
from yolov7.config.options import ConvertOptions
from yolov7.data.catalog import open_data, open_split
from yolov7.data.convert import convert
from yolov7.data.foreign.records import box_around, ellipse

Rows = dict[str, list[tuple[str, list[float]]]]
LOG = pytest.LogCaptureFixture


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


@pytest.fixture
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is not there yet, outside of what is converted."""
    return tmp_path_factory.mktemp("out") / "set"


def opened(data: Path) -> dict[str, Rows]:
    """Class and box of every object by the stem of its image, for each split, as our catalogue reads them."""
    source = open_data(str(data))
    found: dict[str, Rows] = {}
    for split in source.splits:
        image_set = open_split(source, split)
        found[split] = {
            Path(path).stem: [(image_set.names[label], box.tolist()) for box, label in
                              zip(image_set.objects_of(i).boxes, image_set.objects_of(i).labels, strict=True)]
            for i, path in enumerate(image_set.paths)}
    return found


def converted(kind: Any, data: Path, output: Path, **options: Any) -> Rows:
    """All objects, after a check that label files and COCO JSON hold the same ones."""
    rows: list[Rows] = []
    for to in ("yolo", "coco"):
        options = {"val_fraction": 0.0} | options
        written = convert(ConvertOptions(from_=kind, data=str(data), to=to, output=str(output / to), **options))
        rows.append({stem: items for split in opened(written).values() for stem, items in split.items()})
    assert rows[0].keys() == rows[1].keys()
    for stem, items in rows[0].items():
        assert_boxes(items, rows[1][stem])
    return rows[0]


def assert_boxes(found: list[tuple[str, list[float]]], expected: list[tuple[str, list[float]]]) -> None:
    assert [name for name, _ in found] == [name for name, _ in expected]
    np.testing.assert_allclose([box for _, box in found], [box for _, box in expected], rtol=0, atol=1e-5)


# --- Pascal VOC --------------------------------------------------------------------------------------------------


def voc(*objects: tuple[str, float, float, float, float], extra: str = "", name: str = "", size: str = "64,48") -> str:
    width, height = size.split(",")
    found = "".join(f"<object><name>{n}</name>{extra}<bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
                    f"<ymax>{d}</ymax></bndbox></object>" for n, a, b, c, d in objects)
    return (f"<annotation><filename>{name}</filename><size><width>{width}</width><height>{height}</height>"
            f"</size>{found}</annotation>")


def test_voc_counts_pixels_from_one(tmp_path: Path, out: Path, caplog: LOG) -> None:
    caplog.set_level("INFO")
    write_image(tmp_path / "VOC" / "JPEGImages" / "a.jpg")
    write(tmp_path / "VOC" / "Annotations" / "a.xml", voc(("dog", 1, 1, 64, 48), ("cat", 11, 21.5, 20, 30.25)))
    for data, folder in (("VOC", "o1"), ("VOC/Annotations", "o2"), ("VOC/Annotations/a.xml", "o3")):
        assert_boxes(converted("voc", tmp_path / data, out / folder)["a"],
                     [("dog", [0, 0, 64, 48]), ("cat", [10, 20.5, 20, 30.25])])
    assert "the first pixel is 1 (as in the VOC devkit)" in caplog.text
    assert_boxes(converted("voc", tmp_path / "VOC", out / "o4", first_pixel=0)["a"],
                 [("dog", [1, 1, 64, 48]), ("cat", [11, 21.5, 20, 30.25])])


def test_voc_files_that_count_from_zero_are_told_by_a_corner(tmp_path: Path, out: Path, caplog: LOG) -> None:
    caplog.set_level("INFO")
    for name, box in (("a", (0, 2, 10, 12)), ("b", (5, 6, 10, 12))):
        write_image(tmp_path / f"{name}.jpg")
        write(tmp_path / f"{name}.xml", voc(("cat", *box)))
    found = converted("voc", tmp_path, out)
    assert found == {"a": [("cat", [0, 2, 10, 12])], "b": [("cat", [5, 6, 10, 12])]}
    assert "the first pixel is 0 (a corner is 0)" in caplog.text


def test_voc_lists_are_the_splits(tmp_path: Path, out: Path, caplog: LOG) -> None:
    caplog.set_level("INFO")
    for year in ("VOC2007", "VOC2012"):
        for stem in "abcd":
            write_image(tmp_path / year / "JPEGImages" / f"{stem}{year}.jpg")
            write(tmp_path / year / "Annotations" / f"{stem}{year}.xml", voc(("cat", 2, 2, 9, 9)))
    for file, text in (("VOC2007/ImageSets/Main/train.txt", "aVOC2007\nbVOC2007 \n"), ("VOC2007/ImageSets/Main/val.txt",
                       "cVOC2007\n"), ("VOC2012/ImageSets/Main/trainval.txt", "aVOC2012 1\n"),
                       ("VOC2012/ImageSets/Main/cat_train.txt", "dVOC2012 1\n")):
        write(tmp_path / file, text)
    written = convert(ConvertOptions(from_="voc", data=str(tmp_path), output=str(out)))
    found = opened(written)
    assert {split: sorted(rows) for split, rows in found.items()} == {
        "train": ["aVOC2007", "aVOC2012", "bVOC2007"], "val": ["cVOC2007"]}
    assert "left out: 4 images that no list in ImageSets/Main names" in caplog.text


def test_voc_difficult_objects_are_crowds(tmp_path: Path, out: Path, caplog: LOG) -> None:
    caplog.set_level("INFO")
    write_image(tmp_path / "a.jpg")
    objects = voc(("cat", 2, 2, 9, 9)).replace("</annotation>", "")
    objects += voc(("dog", 5, 5, 20, 20), extra="<difficult>1</difficult>").partition("</size>")[2]
    write(tmp_path / "a.xml", objects)
    out = convert(ConvertOptions(from_="voc", data=str(tmp_path), to="coco", output=str(out / "coco")))
    rows = json.loads((out / "annotations" / "instances_train.json").read_text())["annotations"]
    assert [(row["bbox"], row["iscrowd"]) for row in rows] == [([1, 1, 8, 8], 0), ([4, 4, 16, 16], 1)]
    convert(ConvertOptions(from_="voc", data=str(tmp_path), output=str(out / "yolo")))
    assert "1 objects marked difficult are crowds" in caplog.text
    assert "label files have no crowds: 1 are left out" in caplog.text
    assert (out / "yolo" / "labels" / "train" / "a.txt").read_text().count("\n") == 1


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]><annotation>&b;</annotation>'
BAD_XML = {"a bomb": (BOMB, "has a document type"), "a bomb in UTF-16": (BOMB.encode("utf-16"), "has a document type"),
           "broken": ("<annotation><object>", "is not valid XML"), "empty": ("", "is not valid XML"),
           "large": ("<annotation>" + " " * (5 << 20), "has 5 MB; accepted: up to 4 MB"),
           "unknown encoding": ('<?xml version="1.0" encoding="nope"?><annotation/>', "is not valid XML"),
           "no image": (voc(("cat", 2, 2, 9, 9), name="z.jpg"), "its image 'z.jpg' was not found"),
           "other size": (voc(("cat", 2, 2, 9, 9), size="48,64"), "says 48 x 64, the image is 64 x 48"),
           "no number": (voc(("cat", "x", 2, 9, 9)), "object 1: a coordinate is 'x'"),  # type: ignore[arg-type]
           "infinite": (voc(("cat", 2, 2, math.inf, 9)), "object 1: a coordinate is 'inf'"),
           "no name": (voc(("", 2, 2, 9, 9)), "object 1: the class is ''"),
           "no size": (voc(("cat", 9, 2, 8, 9)), "a box of zero size")}


@pytest.mark.parametrize("name", BAD_XML)
def test_what_is_wrong_with_an_xml_file_is_listed(name: str, tmp_path: Path, out: Path, caplog: LOG) -> None:
    content, reason = BAD_XML[name]
    for stem in ("bad" if name != "no image" else "q", "good"):
        write_image(tmp_path / "set" / f"{stem}.jpg")
    write(tmp_path / "set" / "bad.xml", content)
    write(tmp_path / "set" / "good.xml", voc(("cat", 2, 2, 9, 9)))
    found = opened(convert(ConvertOptions(from_="voc", data=str(tmp_path / "set"), output=str(out))))
    assert [row for rows in found.values() for row in rows["good" if "good" in rows else "bad"]]
    assert reason in (out / "faults_train.txt").read_text() + \
        "".join(file.read_text() for file in (out).glob("faults_val.txt"))
    assert "dropped" in caplog.text or "skipped" in caplog.text


# --- labelme -----------------------------------------------------------------------------------------------------


def shape(kind: str | None, points: Any, label: Any = "cat", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind} | more


SQUARE = [[10, 10], [20, 10], [20, 20], [10, 20]]


@pytest.mark.parametrize(("shapes", "expected"), [
    ([shape("rectangle", [[20.5, 30.25], [1, 2]])], [[1, 2, 20.5, 30.25]]),
    ([shape("polygon", [[1.125, 2], [30, 4], [8, 40.5]])], [[1.125, 2, 30, 40.5]]),
    ([shape(None, [[1, 2], [30, 4], [8, 40]])], [[1, 2, 30, 40]]),
    ([shape("circle", [[20, 20], [23, 24]])], [[15, 15, 25, 25]]),
    ([shape("mask", [[3, 4], [9, 10]], mask="")], [[3, 4, 10, 11]]),
    ([shape("polygon", SQUARE, group_id=1), shape("rectangle", [[40, 30], [44, 33]], group_id=1)], [[10, 10, 44, 33]]),
    ([shape("polygon", SQUARE, group_id=1), shape("rectangle", [[40, 30], [44, 33]], "dog", group_id=1)],
     [[10, 10, 20, 20], [40, 30, 44, 33]]),
    ([shape("rectangle", SQUARE), shape("line", SQUARE[:2]), shape("point", SQUARE[:1]),
      shape("rectangle", SQUARE, "__ignore__")], [[10, 10, 20, 20]]),
    ([shape("rectangle", SQUARE), shape("polygon", SQUARE[:2]), shape("rectangle", [[1]]), "x",
      shape("rectangle", [[1, None], [3, 4]]), shape("cube", SQUARE), shape("rectangle", SQUARE, None)],
     [[10, 10, 20, 20]]),
])  # fmt: skip
def test_labelme_shapes(shapes: list[Any], expected: list[list[float]], tmp_path: Path, out: Path) -> None:
    write_image(tmp_path / "images" / "a.jpg")
    write(tmp_path / "json" / "a.json", {"shapes": shapes, "imagePath": "..\\images\\a.jpg", "imageWidth": 64,
                                         "imageHeight": 48})
    found = converted("labelme", tmp_path, out)["a"]
    np.testing.assert_allclose([box for _, box in found], expected, rtol=0, atol=1e-5)


def test_labelme_polygons_stay_polygons(tmp_path: Path, out: Path) -> None:
    write_image(tmp_path / "a.jpg")
    points = [[1.25, 2.5], [30.125, 4], [8, 40.0625]]
    write(tmp_path / "a.json", {"shapes": [shape("polygon", points)], "imagePath": "a.jpg"})
    out = convert(ConvertOptions(from_="labelme", data=str(tmp_path), to="coco", output=str(out)))
    rows = json.loads((out / "annotations" / "instances_train.json").read_text())["annotations"]
    assert rows[0]["segmentation"] == [[1.25, 2.5, 30.125, 4, 8, 40.0625]]


def test_what_labelme_leaves_open_is_told(tmp_path: Path, out: Path, caplog: LOG) -> None:
    caplog.set_level("INFO")
    for stem in "abc":
        write_image(tmp_path / f"{stem}.jpg")
    rows = [shape("rectangle", SQUARE), shape("line", SQUARE[:2])]
    write(tmp_path / "a.json", {"shapes": rows, "imagePath": "elsewhere/a.png"})
    write(tmp_path / "b.json", "{")
    found = opened(convert(ConvertOptions(from_="labelme", data=str(tmp_path), output=str(out))))
    assert found == {"train": {"a": [("cat", [10, 10, 20, 20])]}}  # what it is called like stands beside it
    assert "left out: 1 shapes without area (line)" in caplog.text
    assert "left out: 1 images that no annotation names" in caplog.text and "b.json: is not valid JSON" in caplog.text
    rows = opened(convert(ConvertOptions(from_="labelme", data=str(tmp_path), output=str(out / "more"),
                                         background=True, val_fraction=0)))["train"]
    assert sorted(rows) == ["a", "c"] and not rows["c"]  # not b, whose annotation is broken


def test_an_image_inside_a_labelme_file_is_named(tmp_path: Path, out: Path) -> None:
    write(tmp_path / "a.json", {"shapes": [], "imagePath": "a.jpg", "imageData": "abc"})
    write_image(tmp_path / "other.jpg")
    with pytest.raises(InputError, match="'a.jpg' was not found below .* .the file holds a copy of it, as imageData"):
        convert(ConvertOptions(from_="labelme", data=str(tmp_path), output=str(out)))


# --- VIA ---------------------------------------------------------------------------------------------------------


def region(name: str, attributes: Any = None, **values: Any) -> dict[str, Any]:
    return {"shape_attributes": {"name": name} | values,
            "region_attributes": {"class": "cat"} if attributes is None else attributes}


REGIONS = [region("rect", x=1, y=2.5, width=20, height=30), region("circle", cx=30, cy=20, r=5.5),
           region("polygon", all_points_x=[1, 10, 5], all_points_y=[2, 3, 40]),
           region("ellipse", cx=30, cy=20, rx=10, ry=5), region("point", cx=1, cy=1)]
BOXES = [[1, 2.5, 21, 32.5], [24.5, 14.5, 35.5, 25.5], [1, 2, 10, 40], [20, 15, 40, 25]]


def via_csv(regions: list[dict[str, Any]]) -> str:
    def quoted(value: Any) -> str:
        return '"' + json.dumps(value).replace('"', '""') + '"'

    rows = [f"a.jpg,1,{quoted({})},{len(regions)},{place},{quoted(item['shape_attributes'])},"
            f"{quoted(item['region_attributes'])}" for place, item in enumerate(regions)]
    return "\n".join(["#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,"
                      "region_attributes", *rows])


@pytest.mark.parametrize("wrap", [
    lambda regions: {"a.jpg1": {"filename": "a.jpg", "size": 1, "regions": regions}},
    lambda regions: {"a.jpg1": {"filename": "a.jpg", "regions": dict(enumerate(regions))}},
    lambda regions: {"_via_settings": {}, "_via_img_metadata": {"a.jpg1": {"filename": "a.jpg", "regions": regions}}},
    via_csv], ids=["plain", "version 1", "project", "csv"])  # fmt: skip
def test_via_regions(wrap: Callable[[Any], Any], tmp_path: Path, out: Path) -> None:
    write_image(tmp_path / "images" / "a.jpg")
    content = wrap(REGIONS)
    file = write(tmp_path / ("v.csv" if isinstance(content, str) else "v.json"), content)
    for data, folder in ((tmp_path, "o1"), (file, "o2")):
        assert_boxes(converted("via", data, out / folder)["a"], [("cat", box) for box in BOXES])


def via(*attributes: Any) -> dict[str, Any]:
    regions = [region("rect", value, x=place, y=2, width=9, height=9) for place, value in enumerate(attributes)]
    return {"a.jpg1": {"filename": "a.jpg", "regions": regions}}


@pytest.mark.parametrize(("attributes", "options", "names"), [
    (({"class": "b", "colour": "red"}, {"class": "a"}), {}, ["b", "a"]),
    (({"kind": "b"}, {"kind": "a"}), {}, ["b", "a"]),
    (({"x": "b", "y": "1"}, {"x": "a", "y": "2"}), {"attribute": "y"}, ["1", "2"]),
    (({"class": {"a": False, "b": True}}, {"class": {"a": True}}), {}, ["b", "a"]),
    (({}, {}), {}, ["object", "object"]),
    (({}, {}), {"names": ("balloon",)}, ["balloon", "balloon"]),
    (({"class": "a"}, {}, {"class": ""}, {"class": {"a": True, "b": True}}), {}, ["a"]),
])  # fmt: skip
def test_classes_of_via(attributes: tuple[Any, ...], options: dict[str, Any], names: list[str], tmp_path: Path,
                        out: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path / "v.json", via(*attributes))
    assert [name for name, _ in converted("via", tmp_path, out, **options)["a"]] == names


@pytest.mark.parametrize(("options", "message"), [
    ({}, "--attribute is missing: regions have the attributes x, y; accepted"),
    ({"attribute": "z"}, "--attribute: unknown attribute of regions 'z'; accepted: x, y"),
])  # fmt: skip
def test_which_attribute_is_the_class_is_not_guessed(options: dict[str, Any], message: str, tmp_path: Path,
                                                     out: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path / "v.json", via({"x": "b", "y": "1"}))
    with pytest.raises(InputError, match=message):
        convert(ConvertOptions(from_="via", data=str(tmp_path), output=str(out), **options))


@pytest.mark.parametrize("turned", [0, 0.3, 1, math.pi / 2, 4])
def test_the_polygon_of_an_ellipse_has_its_box(turned: float) -> None:
    t = np.linspace(0, 2 * np.pi, 100_001)
    x, y = 9 * np.cos(t), 4 * np.sin(t)
    cosine, sine = math.cos(turned), math.sin(turned)
    every = np.column_stack((50 + x * cosine - y * sine, 40 + x * sine + y * cosine))
    np.testing.assert_allclose(box_around(ellipse((50, 40), (9, 4), turned)), box_around(every), atol=1e-6)


# --- CSV ---------------------------------------------------------------------------------------------------------

OPEN_IMAGES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"
TABLES: dict[str, tuple[str, list[tuple[str, list[float]]]]] = {
    "open images": (OPEN_IMAGES + "a,x,/m/02,1,0.25,0.5,0.125,0.75,0\n", [("/m/02", [16, 6, 32, 36])]),
    "tensorflow": ("filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,64,48,cat,1,2,20,30\n"
                   "a.jpg,64,48,dog,1.5,2.25,3,4\n", [("cat", [1, 2, 20, 30]), ("dog", [1.5, 2.25, 3, 4])]),
    "retinanet": ("sub/a.jpg,1,2,20,30,cat\n", [("cat", [1, 2, 20, 30])]),
    "vott": ('"image","xmin","ymin","xmax","ymax","label"\n"a.jpg",1.5,2,20,30,"cat"\n', [("cat", [1.5, 2, 20, 30])]),
    "semicolons": ("image_name;label;x_min;y_min;x_max;y_max\na.jpg;cat;1;2;20;30\n", [("cat", [1, 2, 20, 30])]),
    "sizes": ("image_id\tlabel\tx\ty\tw\th\na\tcat\t1\t2\t20\t30\n", [("cat", [1, 2, 21, 32])]),
    "one column": ('image_id,width,height,bbox,source\na,64,48,"[1.0, 2.0, 20.0, 30.5]",x\n',
                   [("object", [1, 2, 21, 32.5])]),
    "fractions": ("filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,0.25,0.5,0.75,1\n", [("cat", [16, 24, 48, 48])]),
    "accents": ("filename,class,xmin,ymin,xmax,ymax\na.jpg,Kühe,1,2,3,4\n", [("Kühe", [1, 2, 3, 4])]),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, encoding: str, tmp_path: Path, out: Path) -> None:
    text, expected = TABLES[name]
    write_image(tmp_path / "images" / "a.jpg")
    write(tmp_path / "boxes.csv", text.encode(encoding))
    assert_boxes(converted("csv", tmp_path, out)["a"], expected)


def test_open_images(tmp_path: Path, out: Path, caplog: LOG) -> None:
    """Splits by the files, names by the descriptions, groups as crowds, rows without an image counted."""
    caplog.set_level("INFO")
    for split in ("train", "validation"):
        write_image(tmp_path / split / f"{split}1.jpg")
        rows = [f"{split}1,x,/m/02,1,0,0.5,0,0.5,0", f"{split}1,x,/m/01,1,0.5,1,0.5,1,1", "zz,x,/m/01,1,0,1,0,1,0"]
        write(tmp_path / f"oidv6-{split}-annotations-bbox.csv", OPEN_IMAGES + "\n".join(rows))
    write(tmp_path / "class-descriptions-boxable.csv", "/m/01,Tortoise\n/m/02,Container\n/m/03,Magpie\n")
    out = convert(ConvertOptions(from_="csv", data=str(tmp_path), to="coco", output=str(out)))
    content = json.loads((out / "annotations" / "instances_val.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["Container", "Tortoise"]
    assert [(row["category_id"], row["bbox"], row["iscrowd"]) for row in content["annotations"]] == [
        (1, [0, 0, 32, 24], 0), (2, [32, 24, 32, 24], 1)]
    assert "its image 'zz' was not found" in (out / "faults_train.txt").read_text()


def test_rows_of_a_table_that_cannot_be_used_are_listed(tmp_path: Path, out: Path) -> None:
    for stem in "ab":
        write_image(tmp_path / f"{stem}.jpg")
    write(tmp_path / "x.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,64,48,cat,1,2,20,30\na.jpg\n"
          "a.jpg,64,48,cat,1,2,x,30\na.jpg,64,48,,1,2,20,30\na.jpg,64,48,cat,1,2,20,30\nb.jpg,99,48,cat,1,2,20,30\n")
    assert converted("csv", tmp_path, out) == {"a": [("cat", [1, 2, 20, 30])]}
    faults = (out / "yolo" / "faults_train.txt").read_text()
    for text in ("line 3: 1 columns", "line 4: a coordinate is 'x'", "line 5: the class is ''", "an earlier one",
                 "says 99 x 48, the image is 64 x 48"):
        assert text in faults


def test_retinanet_rows_without_a_box_and_order_of_classes(tmp_path: Path, out: Path) -> None:
    for stem in "ab":
        write_image(tmp_path / f"{stem}.jpg")
    write(tmp_path / "annotations.csv", "a.jpg,1,2,20,30,cat\nb.jpg,,,,,\n")
    write(tmp_path / "classes.csv", "dog,0\ncat,1\n")
    assert converted("csv", tmp_path, out) == {"a": [("cat", [1, 2, 20, 30])], "b": []}
    assert open_data(str(out / "coco")).names == ("dog", "cat")


# --- Supervisely, CreateML -----------------------------------------------------------------------------------------


def bitmap(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(np.dstack([mask * 255] * 4).astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(zlib.compress(file.getvalue())).decode()


def test_supervisely(tmp_path: Path, out: Path) -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    square = {"exterior": SQUARE, "interior": [[[12, 12], [14, 12], [14, 14]]]}
    objects = [{"classTitle": "dog", "geometryType": "rectangle", "points": {"exterior": [[1, 2], [30, 40]]}},
               {"classTitle": "cat", "geometryType": "polygon", "points": square},
               {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"data": bitmap(mask), "origin": [20, 10]}},
               {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"data": "AAAA", "origin": [20, 10]}},
               {"classTitle": "cat", "geometryType": "point", "points": {"exterior": [[1, 2]]}}]
    write(tmp_path / "meta.json", {"classes": [{"title": "dog", "shape": "any"}, {"title": "cat", "shape": "any"}]})
    for split in ("train", "val"):
        write_image(tmp_path / split / "img" / "a.b.jpg")
        write(tmp_path / split / "ann" / "a.b.jpg.json",
              {"size": {"width": 64, "height": 48}, "tags": [], "objects": objects})
    data = convert(ConvertOptions(from_="supervisely", data=str(tmp_path), output=str(out)))
    assert open_data(str(data)).names == ("dog", "cat")
    found = opened(data)
    assert list(found) == ["train", "val"]
    assert_boxes(found["val"]["a.b"], [("dog", [1, 2, 30, 40]), ("cat", [10, 10, 20, 20]), ("cat", [22, 11, 27, 14])])


def test_createml(tmp_path: Path, out: Path) -> None:
    write_image(tmp_path / "a.jpg")
    centre = {"x": 20, "y": 20.5, "width": 10, "height": 5}
    write(tmp_path / "_annotations.createml.json",
          [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": centre}, {"label": "cat"}]}])
    assert_boxes(converted("createml", tmp_path, out)["a"], [("cat", [15, 18, 25, 23])])


# --- classes, splits, images ---------------------------------------------------------------------------------------


def labelme(folder: Path, **labels: list[str]) -> Path:
    """An image with one box of each label."""
    for stem, found in labels.items():
        write_image(folder / f"{stem}.jpg")
        rows = [shape("rectangle", [[place, 2], [place + 9, 20]], label) for place, label in enumerate(found)]
        write(folder / f"{stem}.json", {"shapes": rows, "imagePath": f"{stem}.jpg"})
    return folder


@pytest.mark.parametrize(("labels", "wanted", "names"), [
    (["dog", " cat ", "Ant"], None, ("Ant", "cat", "dog")), (["10", "9", "2"], None, ("2", "9", "10")),
    (["dog", "cat"], ("dog", "horse", "cat"), ("dog", "horse", "cat"))])  # fmt: skip
def test_order_of_classes(labels: list[str], wanted: Any, names: tuple[str, ...], tmp_path: Path, out: Path) -> None:
    labelme(tmp_path, a=labels)
    converted("labelme", tmp_path, out, names=wanted)
    assert open_data(str(out / "yolo" / "data.yaml")).names == names


@pytest.mark.parametrize(("options", "message"), [
    ({"names": ("dog", "horse")}, "--names: the data has a class that is not among them: unknown class 'cat'"),
    ({"names": ("dog", "dog", "cat")}, "--names: 'dog' stands twice"),
    ({"images": "nowhere"}, "--images 'nowhere': no such folder"),
    ({"splits": ("test",)}, "--splits: unknown split 'test'; accepted: train"),
    ({"from_": "voc"}, "nothing of the format voc can be used; found labelme annotations .*"
     r"yolov7\.convert_data\(from_='labelme'"),
    ({"from_": None, "names": ("a",), "to": "coco"}, "--images, --names and --attribute go with --from"),
    ({"data": "nowhere"}, "--data 'nowhere': no such file or folder"),
    ({"data": "x.yaml"}, "is a data-set YAML; accepted with --from: the folder or the file"),
])  # fmt: skip
def test_what_cannot_be_converted(options: dict[str, Any], message: str, tmp_path: Path, out: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.yaml", "train: x\nnames: [cat]\n")
    before = sorted(labelme(tmp_path / "set", a=["dog", "cat"]).rglob("*"))
    with pytest.raises(InputError, match=message):
        convert(ConvertOptions(**{"from_": "labelme", "data": "set", "output": "out"} | options))
    assert not Path("out").exists() and sorted((tmp_path / "set").rglob("*")) == before


def test_folders_are_splits(tmp_path: Path, out: Path) -> None:
    for folder in ("train", "valid", "test2017/more"):
        labelme(tmp_path / folder, a=["cat"])
    found = opened(convert(ConvertOptions(from_="labelme", data=str(tmp_path), output=str(out))))
    assert {split: list(rows) for split, rows in found.items()} == {"train": ["a"], "val": ["a"], "test": ["a"]}


def test_a_split_is_made_by_the_seed(tmp_path: Path, out: Path, caplog: LOG) -> None:
    caplog.set_level("INFO")
    labelme(tmp_path, **{f"i{number}": ["cat"] for number in range(10)})
    chosen = []
    for place, (seed, fraction) in enumerate(((0, 0.2), (0, 0.2), (1, 0.2), (0, 0.5), (0, 0))):
        found = opened(convert(ConvertOptions(from_="labelme", data=str(tmp_path), output=str(out / f"o{place}"),
                                              seed=seed, val_fraction=fraction)))
        chosen.append(sorted(found.get("val", {})))
        assert len(found["train"]) == 10 - len(chosen[-1])
    assert chosen[0] == chosen[1] != chosen[2] and [len(stems) for stems in chosen] == [2, 2, 2, 5, 0]
    assert "2 of the 10 images of train, chosen at random, become val (--val-fraction 0.2 --seed 0" in caplog.text


def test_one_image_of_two_files(tmp_path: Path, out: Path, caplog: LOG) -> None:
    write_image(tmp_path / "a.jpg")
    for name, x in (("1.csv", 1), ("2.csv", 30)):
        write(tmp_path / name, f"filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,{x},2,{x + 9},30\n")
    assert_boxes(converted("csv", tmp_path, out)["a"], [("cat", [1, 2, 10, 30]), ("cat", [30, 2, 39, 30])])
    assert "1 images are named more than once" in caplog.text


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, out: Path) -> None:
    for folder, x in (("one", 1), ("two", 5)):
        write_image(tmp_path / "images" / folder / "a.jpg")
        write(tmp_path / "ann" / folder / "a.xml", voc(("cat", x, 2, 20, 20), name="a.jpg"))
    out = convert(ConvertOptions(from_="voc", data=str(tmp_path), output=str(out), val_fraction=0))
    assert opened(out)["train"] == {"a": [("cat", [0, 1, 20, 20])], "a_2": [("cat", [4, 1, 20, 20])]}
    write(tmp_path / "ann" / "a.xml", voc(("cat", 3, 3, 20, 20), name="a.jpg"))
    convert(ConvertOptions(from_="voc", data=str(tmp_path), output=str(out.parents[1] / "again"), val_fraction=0))
    assert "several images are called 'a.jpg'" in (out.parents[1] / "again" / "faults_train.txt").read_text()


def test_what_was_converted_before_is_not_taken_for_the_data(tmp_path: Path) -> None:
    labelme(tmp_path, a=["cat"])
    for to in ("coco", "yolo", "coco"):
        output = str(tmp_path / "mine" / f"{to}{len(list(tmp_path.iterdir()))}")
        convert(ConvertOptions(from_="labelme", data=str(tmp_path), to=to, output=output, copy=True))
    assert [len(rows) for rows in opened(Path(output)).values()] == [1]


def test_images_elsewhere(tmp_path: Path, out: Path) -> None:
    write_image(tmp_path / "far" / "deep" / "a.jpg")
    write(tmp_path / "set" / "a.xml", voc(("cat", 3, 3, 20, 20), name="C:\\x\\a.jpg"))
    assert converted("voc", tmp_path / "set", out, images=str(tmp_path / "far")) == {
        "a": [("cat", [2, 2, 20, 20])]}


def test_boxes_are_exact(tmp_path: Path, out: Path) -> None:
    """To the last digit that is written, not only to what float32 holds."""
    write_image(tmp_path / "a.jpg", 4000, 3000)
    write(tmp_path / "a.json", {"shapes": [shape("rectangle", [[1234.56789, 7.1234567], [3456.789012, 2999.000001]])],
                                "imagePath": "a.jpg"})
    out = convert(ConvertOptions(from_="labelme", data=str(tmp_path), to="coco", output=str(out)))
    content = json.loads((out / "annotations" / "instances_train.json").read_text())
    x, y, width, height = content["annotations"][0]["bbox"]
    assert (x, y) == (1234.56789, 7.123457) and x + width == pytest.approx(3456.789012, abs=2e-6)
    assert y + height == pytest.approx(2999.000001, abs=2e-6)


# --- ../shared/cases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name", "box"), [
    ("labelme", "labelme", [1, 1, 20, 20]), ("via", "via", [1, 2, 21, 32]),
    ("csv", "openimages_csv", [16, 12, 32, 24])])  # fmt: skip
def test_cases(kind: str, name: str, box: list[float], out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = SHARED / "cases" / name
    if not data.is_dir():
        pytest.skip("needs ../shared/cases")
    flags = ["--from", kind, "--data", str(data), "--output", str(out), "--background"]
    assert cli.main(["data", "convert", *flags]) == 0
    assert " -m yolov7 train --data " in capsys.readouterr().out
    rows = [item for split in opened(out / "data.yaml").values() for items in split.values()
            for item in items]
    assert len(rows) == (1 if kind == "csv" else 4)
    assert_boxes(rows, [("/m/01" if kind == "csv" else "RBC", box)] * len(rows))

"""COCO JSON to YOLO txt and back: what stays, to which precision, and what a failure leaves behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_records import NO_POLYGON, ImageRecord, ObjectRecord, build_image_set
from PIL import Image

from yolov7 import cli
from yolov7.config import InputError
from yolov7.config.options import ConvertOptions
from yolov7.data import convert as module
from yolov7.data.catalog import open_data, open_split
from yolov7.data.convert import convert, flat_names
from yolov7.data.image_set import ImageSet
from yolov7.data.label_rows import scan_labels
from yolov7.data.outlines import compressed, polygon_area, run_lengths
from yolov7.data.rasterize import fill_outline, rings_of

Write = Callable[..., Path]
CATEGORIES = [{"id": 7, "name": "Hund"}, {"id": 3, "name": "гриб, rot: 猫"}]
TRIANGLE = [20.25, 10.5, 40, 10.5, 40, 30.125]


def to(kind: Any, data: Path, output: Path, **options: Any) -> Path:
    return convert(ConvertOptions(data=str(data), to=kind, output=str(output), **options))


def objects(image_set: ImageSet) -> dict[str, list[tuple[Any, ...]]]:
    """Class name, box and points of the outline of every object by the name of its image, in order of class and box.

    Where several parts are joined is not compared.
    """
    found = {}
    for i, path in enumerate(image_set.paths):
        objects = image_set.objects_of(i)
        rows = zip(objects.boxes, objects.labels, objects.polygons, strict=True)
        found[Path(path).stem] = sorted(
            ((image_set.names[label], box.tolist(), points_of(polygon)) for box, label, polygon in rows),
            key=lambda row: (row[0], np.round(row[1], 2).tolist()))
    return found


def points_of(polygon: np.ndarray) -> list[float]:
    rings = rings_of(polygon)
    if len(rings) < 2:
        return polygon.ravel().tolist()
    return [value for point in sorted(np.concatenate(rings).tolist(), key=lambda point: np.round(point, 2).tolist())
            for value in point]


def assert_same_objects(first: ImageSet, second: ImageSet) -> None:
    ours, theirs = objects(first), objects(second)
    assert ours.keys() == theirs.keys()
    for stem, rows in ours.items():
        assert len(rows) == len(theirs[stem])
        for row, other in zip(rows, theirs[stem], strict=True):
            assert row[0] == other[0] and len(row[2]) == len(other[2])
            np.testing.assert_allclose(row[1] + row[2], other[1] + other[2], rtol=0, atol=1e-4)


def opened(data: Path, split: str = "train") -> ImageSet:
    found = open_split(open_data(str(data)), split)
    assert not found.faults
    return found


@pytest.fixture
def animals(coco_folder: Write) -> Path:
    boxes = [[{"bbox": [1.37, 2.01, 13.123456, 4.2]}, {"bbox": [20.25, 10.5, 19.75, 19.625], "category_id": 7,
                                                      "segmentation": [TRIANGLE]}], []]
    return coco_folder(boxes, categories=CATEGORIES)


def test_there_and_back(animals: Path, tmp_path: Path) -> None:
    yaml = to("yolo", animals, tmp_path / "ヨロ")
    assert_same_objects(opened(animals), opened(yaml))
    back = to("coco", yaml, tmp_path / "back")
    assert_same_objects(opened(animals), opened(back))
    assert opened(back).image_ids == (1, 2)
    assert opened(back).names == ("гриб, rot: 猫", "Hund")


def test_rows_of_label_files(animals: Path, tmp_path: Path) -> None:
    yaml = to("yolo", animals, tmp_path / "out")
    assert yaml == tmp_path / "out" / "data.yaml"
    box, polygon = (tmp_path / "out" / "labels" / "train" / "1.txt").read_text().splitlines()
    assert len(box.split()) == 5 and box.startswith("0 0.123933249 ")
    assert polygon == "1 0.31640625 0.21875 0.625 0.21875 0.625 0.627604167"
    assert (tmp_path / "out" / "labels" / "train" / "2.txt").read_text() == ""


def test_keys_of_the_json(animals: Path, tmp_path: Path) -> None:
    yaml = to("yolo", animals, tmp_path / "yolo")
    out = to("coco", yaml, tmp_path / "out")
    content = json.loads((out / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    assert content["images"][0] == {"id": 1, "file_name": "1.jpg", "height": 48, "width": 64}
    assert [c["id"] for c in content["categories"]] == [1, 2]
    box, triangle = content["annotations"]
    assert (box["id"], box["image_id"], box["category_id"], box["iscrowd"], box["segmentation"]) == (1, 1, 1, 0, [])
    assert box["area"] == pytest.approx(13.123456 * 4.2, abs=1e-3)
    assert triangle["area"] == pytest.approx(19.75 * 19.625 / 2, abs=1e-3)
    np.testing.assert_allclose(triangle["segmentation"], [TRIANGLE], atol=1e-4)


def test_boxes_only(animals: Path, tmp_path: Path) -> None:
    yaml = to("yolo", animals, tmp_path / "out", boxes=True)
    assert len(opened(yaml).objects.polygons.points) == 0
    np.testing.assert_allclose(opened(yaml).objects.boxes, opened(animals).objects.boxes, atol=1e-4)


def test_boxes_that_are_not_those_of_their_polygons_are_counted(coco_folder: Write, tmp_path: Path,
                                                                caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    folder = coco_folder([[{"bbox": [20, 10, 20, 21], "segmentation": [TRIANGLE]}, {"bbox": [1, 2, 3, 4]}]])
    yaml = to("yolo", folder, tmp_path / "out")
    assert "polygons whose box is not their object's: 1 (off by more than 0.0001 px, by 0.875 px" in caplog.text
    assert opened(yaml).objects.boxes.tolist()[0] == [20.25, 10.5, 40, 30.125]
    caplog.clear()
    yaml = to("yolo", folder, tmp_path / "boxes", boxes=True)
    assert "polygon" not in caplog.text and opened(yaml).objects.boxes.tolist()[0] == pytest.approx([20, 10, 40, 31])


@pytest.mark.parametrize("polygon", [[5, 5, 9, 5, 7, 5], TRIANGLE], ids=["flat", "of another object"])
def test_no_object_is_lost_to_its_polygon(coco_folder: Write, tmp_path: Path, polygon: list[float]) -> None:
    folder = coco_folder([[{"bbox": [20.25, 10.5, 19.75, 19.625], "segmentation": [TRIANGLE]},
                           {"bbox": [5, 5, 4, 4], "segmentation": [polygon]}]])
    found = opened(to("yolo", folder, tmp_path / "out"))
    np.testing.assert_allclose(found.objects.boxes, opened(folder).objects.boxes, atol=1e-4)


def test_large_images_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    side, corners = 20_000, np.sort(rng.uniform(0, 20_000, (500, 2, 2)), axis=1)
    shapes = [NO_POLYGON, *(rng.uniform(0, side, (12, 2)).astype(np.float32) for _ in range(20))]
    boxes = [*corners.reshape(-1, 4).tolist(), *((*o.min(0).tolist(), *o.max(0).tolist()) for o in shapes[1:])]
    polygons = [NO_POLYGON] * len(corners) + shapes[1:]
    items = [ObjectRecord(tuple(b), 0, o) for b, o in zip(boxes, polygons, strict=True)]
    records = [ImageRecord("a.jpg", 1, (side, side), items)]
    large = build_image_set(records, ("a",), (1,), [], annotation_file=None, split="train")
    file = tmp_path / "a.txt"
    file.write_text("\n".join(module._rows(large, 0, ConvertOptions(), module._Tally())))
    monkeypatch.setattr("yolov7.data.label_rows.read_headers", lambda paths: (large.sizes, []))
    read = scan_labels(["a.jpg"], [str(file)], 1)
    np.testing.assert_allclose(read.objects.boxes, large.objects.boxes, rtol=0, atol=1e-4)
    np.testing.assert_allclose(read.objects.polygons.points, large.objects.polygons.points, rtol=0, atol=1e-4)


# --- images --------------------------------------------------------------------------------------------------


def test_images_of_one_name_do_not_collide() -> None:
    paths = ["a/x.jpg", "b/x.jpg", "a/X.png", "a/x_2.jpg", "a/y.jfif", "c/x.jpg"]
    assert flat_names(paths) == ["x.jpg", "x_2.jpg", "X_3.png", "x_2_2.jpg", "y.jfif", "x_4.jpg"]


def test_label_files_follow_renamed_images(yolo_folder: Write, tmp_path: Path) -> None:
    yolo_folder("0 0.5 0.5 0.2 0.2\n", "1 0.5 0.5 0.4 0.4\n")
    for number in (0, 1):
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            (tmp_path / kind / str(number)).mkdir()
            (tmp_path / kind / f"p{number}.{suffix}").rename(tmp_path / kind / str(number) / f"same.{suffix}")
    out = to("coco", tmp_path / "set.yaml", tmp_path / "out", splits=("train",))
    found = opened(to("yolo", out, tmp_path / "again"))
    assert [Path(path).name for path in found.paths] == ["same.jpg", "same_2.jpg"]
    assert found.objects.labels.tolist() == [0, 1]


@pytest.mark.parametrize(("flags", "linked"), [({}, True), ({"link": True}, True), ({"copy": True}, False)])
def test_links_and_copies(animals: Path, tmp_path: Path, flags: dict[str, bool], linked: bool) -> None:
    to("yolo", animals, tmp_path / "out", **flags)
    files = (folder / "images" / "train" / "1.jpg" for folder in (animals, tmp_path / "out"))
    assert os.path.samefile(*files) == linked


def test_images_are_copied_where_they_cannot_be_linked(animals: Path, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert len(opened(to("yolo", animals, tmp_path / "out"))) == 2
    with pytest.raises(InputError, match=r"--link: .*1.jpg cannot be linked \(Invalid cross-device link\)"):
        to("yolo", animals, tmp_path / "linked", link=True)
    assert not (tmp_path / "linked").exists()


def test_a_link_to_an_image_becomes_the_image(animals: Path, tmp_path: Path) -> None:
    image = animals / "images" / "train" / "1.jpg"
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to("../../elsewhere.jpg")
    to("yolo", animals, tmp_path / "out")
    assert not (tmp_path / "out" / "images" / "train" / "1.jpg").is_symlink()


def test_crowds_that_are_left_out_are_counted(coco_folder: Write, tmp_path: Path,
                                              caplog: pytest.LogCaptureFixture) -> None:
    folder = coco_folder([[{"bbox": [1, 2, 3, 4]}, {"bbox": [5, 5, 20, 20], "iscrowd": 1}]])
    assert len(opened(to("yolo", folder, tmp_path / "out")).objects) == 1
    assert "label files have no crowds: 1 are left out" in caplog.text


# --- areas -----------------------------------------------------------------------------------------------------

SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10)]


@pytest.mark.parametrize("turned", [False, True])
def test_area_of_joined_parts(turned: bool) -> None:
    part = [(20, 10), (24, 10), (24, 18), (20, 18)][:: -1 if turned else 1]
    part = part[part.index((20, 10)) :] + part[: part.index((20, 10)) + 1]
    assert polygon_area(np.array([*SQUARE[:3], *part, *SQUARE[2:]], np.float32)) == 100 + 32


@pytest.mark.parametrize("turned", [False, True])
def test_area_of_a_hole(turned: bool) -> None:
    hole = [(2, 2), (4, 2), (4, 4), (2, 4)]
    hole = [hole[0], *hole[:0:-1], hole[0]] if turned else [*hole, hole[0]]
    assert polygon_area(np.array([SQUARE[0], *hole, *SQUARE], np.float32)) == 100 - 4


# --- keypoints -------------------------------------------------------------------------------------------------

NOSE = {"keypoints": [10.5, 20.25, 2, 0, 0, 0], "num_keypoints": 1}


def test_keypoints_there_and_back(coco_folder: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = {"keypoints": ["nose", "left_ear", "right_ear"], "skeleton": [[1, 2], [1, 3]], "sigmas": [0.1, 0.2, 0.2]}
    categories = [{"id": 3, "name": "cat"} | names, {"id": 7, "name": "dog"} | names]
    points = [10.123456, 20.25, 2, 0, 0, 0, 31.5, 11.3, 1]
    folder = coco_folder([[{"bbox": [1, 2, 30, 40], "keypoints": points, "segmentation": [TRIANGLE]},
                           {"bbox": [5, 2, 30, 40], "category_id": 7, "keypoints": [0] * 9}]], categories=categories)
    yaml = to("yolo", folder, tmp_path / "out")
    assert "key points or a polygon: 1 polygons are left out (--polygons writes them instead)" in caplog.text
    lines = (tmp_path / "out" / "labels" / "train" / "1.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [5 + 9, 5]
    back = to("coco", yaml, tmp_path / "back")
    for found in (opened(yaml), opened(back)):
        assert found.keypoint_layout == opened(folder).keypoint_layout
        assert found.keypoint_flip == (0, 2, 1) and found.keypoint_sigmas == (0.1, 0.2, 0.2)
        np.testing.assert_allclose(found.objects.keypoints, opened(folder).objects.keypoints, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.objects.boxes, opened(folder).objects.boxes, rtol=0, atol=1e-4)
    caplog.clear()
    polygons = opened(to("yolo", folder, tmp_path / "polygons", polygons=True))
    assert polygons.keypoint_names == () and polygons.objects.has_polygon.tolist() == [True, False]
    assert "--polygons: key points are left out" in caplog.text
    assert opened(to("yolo", folder, tmp_path / "boxes", boxes=True)).keypoint_names == ()


# --- parts and holes -------------------------------------------------------------------------------------------


def test_parts_and_holes_there_and_back(coco_folder: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mask = np.zeros((48, 64), bool)
    mask[5:40, 6:30] = True
    mask[10:20, 10:20] = False
    mask[2:9, 40:50] = True
    parts = [TRIANGLE, [2.5, 3.25, 8, 3, 5, 9.75]]
    folder = coco_folder([[
        {"bbox": [6, 2, 44, 38], "segmentation": {"size": [48, 64], "counts": compressed(run_lengths(mask))}},
        {"bbox": [2.5, 3, 37.5, 27.125], "segmentation": parts}]])
    yaml = to("yolo", folder, tmp_path / "yolo")
    assert "polygons whose box" not in caplog.text
    back = to("coco", yaml, tmp_path / "back")
    content = json.loads((back / "annotations" / "instances_train.json").read_text())
    holes, joined_parts = content["annotations"]
    assert holes["segmentation"] == {"size": [48, 64], "counts": compressed(run_lengths(mask))}
    assert holes["area"] == mask.sum()
    np.testing.assert_allclose(sorted(map(sorted, joined_parts["segmentation"])), sorted(map(sorted, parts)), atol=1e-4)
    for found in (opened(folder), opened(yaml), opened(back)):
        np.testing.assert_array_equal(fill_outline(found.objects.polygons.of(0), (48, 64)), mask)
        assert sorted(map(len, rings_of(found.objects.polygons.of(1)))) == [3, 3]
    again = opened(to("coco", to("yolo", back, tmp_path / "again"), tmp_path / "twice"))
    np.testing.assert_allclose(again.objects.polygons.points, opened(back).objects.polygons.points, atol=1e-4)


def test_keypoints_in_the_json(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    points = np.array(NOSE["keypoints"], np.float32).reshape(2, 3)
    items = [ObjectRecord((1, 2, 31, 42), 0, NO_POLYGON, points), ObjectRecord((1, 2, 3, 4), 0, NO_POLYGON)]
    records = [ImageRecord(str(tmp_path / "a.png"), 1, (48, 64), items)]
    image_set = build_image_set(records, ("cat",), (3,), [], annotation_file=None, split="train",
                                keypoint_names=("nose", "tail"))
    module._write_coco(image_set, tmp_path / "out", ConvertOptions(to="coco"), module._Tally())
    found = opened(tmp_path / "out")
    assert found.keypoint_names == ("nose", "tail")
    np.testing.assert_array_equal(found.objects.keypoints, image_set.objects.keypoints)
    assert [a["num_keypoints"] for a in found.ground_truth()["annotations"]] == [1, 0]


# --- faults ----------------------------------------------------------------------------------------------------


def test_an_output_that_is_not_empty_is_refused(animals: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    to("yolo", animals, tmp_path / "out")
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(InputError, match="exists; accepted: a folder that is new or empty"):
        to("yolo", animals, tmp_path / "out")
    assert sorted((tmp_path / "out").rglob("*")) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_nothing(animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        error: type[BaseException]) -> None:
    def fail(*_: Any) -> None:
        assert list(tmp_path.glob(".out.*.tmp/images/train/*"))  # half of it stands
        raise error

    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(module, "_write_yaml", fail)
    with pytest.raises(error):
        to("yolo", animals, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("flags", "message"), [
    ([], "--data is missing; accepted: a YAML file"),
    (["--data", "DATA"], "--to is missing; accepted: yolo, coco"),
    (["--data", "DATA", "--to", "yolo"], "--output is missing"),
    (["--data", "DATA", "--to", "yol"], "--to: found 'yol'; accepted: yolo, coco; did you mean 'yolo'?"),
    (["--data", "DATA", "--to", "coco", "--output", "o"], "train is in this format already; accepted: yolo"),
    (["--data", "DATA", "--to", "yolo", "--output", "o", "--splits", "tran"], "unknown split 'tran'; accepted: train;"),
    (["--data", "DATA", "--to", "yolo", "--output", "o", "--copy", "--link"], "--copy and --link exclude each other"),
])  # fmt: skip
def test_bad_flags(animals: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "convert", *(str(animals) if flag == "DATA" else flag for flag in flags)]) == 2
    assert message in capsys.readouterr().err


def test_commands_of_two_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "convrt"]) == 2
    assert "unknown command 'data convrt'; accepted: data check, data convert" in capsys.readouterr().err
    assert cli.main(["data"]) == 2
    assert "'data' is an incomplete command; accepted: data check, data convert" in capsys.readouterr().err
    for flags in (["--help"], ["data", "--help"]):
        assert cli.main(flags) == 0
        assert "data convert  Write a data set" in capsys.readouterr().out


def test_faulty_images_are_listed(animals: Path, tmp_path: Path) -> None:
    (animals / "images" / "train" / "2.jpg").write_bytes(b"")
    to("yolo", animals, tmp_path / "out")
    assert "2.jpg: the file is empty" in (tmp_path / "out" / "faults_train.txt").read_text()
    assert [path.name for path in (tmp_path / "out" / "images" / "train").iterdir()] == ["1.jpg"]


def test_sizes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "a.jpg", exif=exif)
    (tmp_path / "a.yaml").write_text("val: images\nnames: [a]\n")
    out = to("coco", tmp_path / "a.yaml", tmp_path / "out")
    content = json.loads((out / "annotations" / "instances_val.json").read_text())
    assert content["images"] == [{"id": 1, "file_name": "a.jpg", "height": 64, "width": 48}]


# --- real data -------------------------------------------------------------------------------------------------


def test_bccd_there_and_back(bccd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    yaml = to("yolo", bccd, tmp_path / "yolo")
    assert f"yolov7.train(data={str(yaml)!r})" in caplog.text
    back = to("coco", yaml, tmp_path / "coco")
    for split in ("train", "val", "test"):
        original = open_split(open_data(str(bccd)), split)
        assert_same_objects(original, opened(yaml, split))
        assert_same_objects(original, opened(back, split))


def test_coco_mini_there_and_back(coco_mini: Path, tmp_path: Path) -> None:
    yaml = to("yolo", coco_mini, tmp_path / "yolo", splits=("val",))
    back = to("coco", yaml, tmp_path / "coco")
    original = open_split(open_data(str(coco_mini)), "val")
    assert_same_objects(original, opened(yaml, "val"))
    assert_same_objects(original, opened(back, "val"))
    assert sorted(opened(back, "val").image_ids) == sorted(original.image_ids)


def test_areas_are_those_of_coco(coco_mini: Path, tmp_path: Path) -> None:
    back = to("coco", to("yolo", coco_mini, tmp_path / "yolo", splits=("val",)), tmp_path / "coco")
    truth = open_split(open_data(str(coco_mini)), "val").ground_truth()["annotations"]
    polygons = [a for a in truth if isinstance(a["segmentation"], list)]
    areas = [[a["area"] for a in rows] for rows in (polygons, opened(back, "val").ground_truth()["annotations"])]
    ours = np.sort(areas[1])
    for area in areas[0]:
        assert np.abs(ours - area).min() <= 1e-3 * area + 0.01

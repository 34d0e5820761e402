"""The page of a data set: its numbers are those of a simple count, and a browser shows it."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import opened

from yolov7 import cli
from yolov7.data.anchor_fit import TINY, native_sizes
from yolov7.data.box_facts import DOUBLED, GRID, HUGE, LONG, odd_objects, places
from yolov7.data.catalog import open_data, open_split
from yolov7.data.images import encode_image, load_image

HOSTILE = "<script>alert('x')</script>"
SIZE = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits with odd objects of every kind, a fault, a copy in another split, one that looks alike."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    boxes = {"train": [[(0, 10, 10, 20, 30), (1, 11, 10, 20, 30)], [(0, 0, 0, 160, 120), (0, 5, 5, 3, 90)],
                       [(1, 40, 40, 30, 30), (1, 41, 40, 30, 30)], []],
             "val": [[(0, 20, 20, 4, 4)], [(1, 10, 90, 120, 4)], [(0, 5, 5, 50, 50)]]}
    images = {}
    for split, lists in boxes.items():
        (folder / "images" / split).mkdir(parents=True)
        content: dict[str, Any] = {"images": [], "annotations": [],
                                   "categories": [{"id": 1, "name": HOSTILE}, {"id": 2, "name": "dog"}]}
        for number, objects in enumerate(lists):
            image = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
            images[split, number] = image
            (folder / "images" / split / f"{number}.png").write_bytes(encode_image(image, ".png"))
            content["images"].append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 120})
            content["annotations"] += [
                {"id": len(content["annotations"]) + place, "image_id": number, "category_id": label + 1,
                 "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": [[x, y, x + w, y, x + w, y + h]]}
                for place, (label, x, y, w, h) in enumerate(objects)]
        content["annotations"].append({"id": 999, "image_id": 0, "category_id": 1, "bbox": [500, 500, 9, 9],
                                       "area": 81, "iscrowd": 0})
        (folder / f"{split}.json").write_text(json.dumps(content))
    (folder / "images" / "val" / "1.png").write_bytes(encode_image(images["train", 1], ".png"))  # the same
    (folder / "images" / "val" / "2.png").write_bytes(encode_image(images["train", 2], ".png"))
    softer = np.clip(images["train", 2].astype(int) + 9, 0, 255).astype(np.uint8)
    (folder / "images" / "val" / "2.png").write_bytes(encode_image(softer, ".png"))
    (folder / "set.yaml").write_text("".join(
        f"{split}: {{images: images/{split}, annotations: {split}.json}}\n" for split in boxes))
    return folder / "set.yaml"


@pytest.fixture(scope="module")
def page(data: Path) -> Path:
    path = data.parent / "report.html"
    assert cli.main(["data", "check", "--data", str(data), "--report", str(path), "--img-size", str(SIZE)]) == 1
    return path


def tables(text: str) -> list[list[dict[str, str]]]:
    found = []
    for table in re.findall(r"<table>(.*?)</table>", text, re.DOTALL):
        heads = [unescape(head) for head in re.findall(r"<button[^>]*>(.*?)</button>", table, re.DOTALL)]
        rows = [[unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
                for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)]
        found.append([dict(zip(heads, row, strict=True)) for row in rows if row])
    return found


def test_numbers_are_those_of_the_files(data: Path, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    overview, *others = tables(text)
    contents = {split: json.loads((data.parent / f"{split}.json").read_text()) for split in ("train", "val")}
    assert [row["split"] for row in overview] == ["train", "val"]
    for row in overview:
        content = contents[row["split"]]
        good = [a for a in content["annotations"] if a["id"] != 999]
        assert int(row["images"]) == len(content["images"]) and int(row["objects"]) == len(good)
        assert int(row["with masks"]) == len(good) and int(row["faults"]) == 1
        assert int(row["without objects"]) == len({i["id"] for i in content["images"]} - {a["image_id"] for a in good})
    classes = next(table for table in others if table[0].keys() == {"class", "train", "val"})
    for place, row in enumerate(classes):
        for split, content in contents.items():
            assert int(row[split]) == sum(a["category_id"] == place + 1 and a["id"] != 999
                                          for a in content["annotations"])
    shared = next(table for table in others if "other split" in table[0])
    assert [(Path(row["image"]).name, Path(row["other image"]).name) for row in shared] == [("1.png", "1.png")]
    faults = next(table for table in others if "what is wrong" in table[0])
    assert len(faults) == 2 and all("outside the image" in row["what is wrong"] for row in faults)
    assert "Group 1: 2 images that look alike, in several splits" in text
    assert len(text) < 5_000_000 and HOSTILE not in text


def test_odd_objects_against_the_plain_way(data: Path, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for split in ("train", "val"):
        image_set = open_split(open_data(str(data)), split)
        found = {odd.kind: set(odd.rows.tolist()) for odd in odd_objects(image_set, SIZE)}
        expected: dict[str, set[int]] = {"tiny": set(), "huge": set(), "long": set(), "doubled": set()}
        for row, (x0, y0, x1, y1) in enumerate(image_set.objects.boxes.tolist()):
            height, width = image_set.sizes[image_set.image_index[row]].tolist()
            w, h = x1 - x0, y1 - y0
            if min(w, h) * SIZE / max(height, width) < TINY:
                expected["tiny"].add(row)
            if w * h / (height * width) > HUGE:
                expected["huge"].add(row)
            if max(w, h) / min(w, h) > LONG:
                expected["long"].add(row)
            for other in range(row):
                a0, b0, a1, b1 = image_set.objects.boxes[other].tolist()
                if image_set.image_index[other] != image_set.image_index[row] or \
                        image_set.objects.labels[other] != image_set.objects.labels[row]:
                    continue
                common = max(min(x1, a1) - max(x0, a0), 0) * max(min(y1, b1) - max(y0, b0), 0)
                if common / (w * h + (a1 - a0) * (b1 - b0) - common) > DOUBLED:
                    expected["doubled"].add(row)
        assert found == {kind: rows for kind, rows in expected.items() if rows}
        for kind, rows in found.items():
            assert f"{split}: {len(rows)} {kind}" in text
    assert {"tiny", "huge", "long", "doubled"} <= {kind for kind in ("tiny", "huge", "long", "doubled") if kind in text}


def test_places_and_sizes(data: Path) -> None:
    image_set = open_split(open_data(str(data)), "train")
    counts = places(image_set)
    assert counts.shape == (GRID, GRID) and counts.sum() == len(image_set.objects)
    x0, y0, x1, y1 = image_set.objects.boxes[0].tolist()
    assert counts[int((y0 + y1) / 2 / 120 * GRID), int((x0 + x1) / 2 / 160 * GRID)] >= 1
    assert np.allclose(native_sizes(image_set)[0], (x1 - x0, y1 - y0))


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(page: Path, width: int, scheme: str) -> None:
    with opened(page, width, scheme) as shown:
        headings = shown.locator("h2").all_text_contents()
        assert headings == ["Overview", "Classes", "Sizes", "Places", "Duplicates", "Faults", "Odd objects", "Samples"]
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 1)")
        assert shown.locator("svg").count() >= 8
        shown.keyboard.press("Tab")
        shown.keyboard.press("Enter")  # the link to the content
        assert shown.evaluate("location.hash") == "#content"


def test_bad_flags_and_unusable_sets(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", "--data", str(data), "--report", "report.pdf"]) == 2
    assert "an HTML file" in capsys.readouterr().err
    (tmp_path / "empty.yaml").write_text("train: nothing\nval: nothing\nnames: [a]\n")
    report = str(tmp_path / "r.html")
    assert cli.main(["data", "check", "--data", str(tmp_path / "empty.yaml"), "--report", report]) == 2
    assert "Overview" in (tmp_path / "r.html").read_text()


def test_an_image_that_goes_away_meanwhile(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from yolov7.config import InputError
    from yolov7.engine import thumbnails

    def gone(path: str) -> np.ndarray:
        raise InputError(f"{path}: no such file")

    monkeypatch.setattr(thumbnails, "load_image", gone)
    assert cli.main(["data", "check", "--data", str(data), "--report", str(tmp_path / "r.html")]) == 1
    assert "no such file" in (tmp_path / "r.html").read_text()
    assert load_image(str(data.parent / "images" / "train" / "0.png")).shape == (120, 160, 3)

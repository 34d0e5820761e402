"""The page of an evaluation: its numbers are those of the results, of masks and key points, too; a browser shows it."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import micro_tasks
import numpy as np
import pytest
from browser import opened

from yolov7 import cli
from yolov7.data.catalog import open_data, open_split
from yolov7.data.stick_figures import generate as generate_figures
from yolov7.engine.evaluation_report import calibration_error, calibration_rows, with_report
from yolov7.evaluation.error_kinds import KINDS, ErrorKindsResult
from yolov7.evaluation.evaluate import segment_evaluators

BOXES = ["Numbers", "Classes", "Curves at IoU 0.50", "Kinds of errors at IoU 0.50", "Confusion, IoU",
         "Worst images, IoU", "Score against size, IoU", "Calibration, IoU"]


def report_of(weights: Path, data: Path, project: Path, *more: str) -> Path:
    assert cli.main(["test", "--weights", str(weights), "--data", str(data), "--report", "--device", "cpu", "--workers",
                     "0", "--precision", "fp32", "--project", str(project), *more]) == 0
    return project / "exp"


@pytest.fixture(scope="module")
def boxes(run: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_of(run / "weights" / "best.pt", shapes, tmp_path_factory.mktemp("boxes"))


def cells_of(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading."""
    table = re.findall(r"<tbody>(.*?)</tbody>", text.split(f">{heading}</h", 1)[1], re.DOTALL)[0]
    return [[unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
            for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)]


def test_numbers_are_those_of_the_results(boxes: Path) -> None:
    text = (boxes / "report.html").read_text(encoding="utf-8")
    results = json.loads((boxes / "results.json").read_text())
    numbers = {row[0]: row[1] for row in cells_of(text, "COCO score, bbox")}
    for name in ("AP", "AP50", "AR100"):
        assert numbers[name] == f"{results['metrics'][name]['value']:.4g}"
    classes = cells_of(text, "Classes")
    assert [row[0] for row in classes] == list(results["classes"])
    kinds = {row[0]: row for row in cells_of(text, "Kinds of errors at IoU 0.50")}
    assert list(kinds) == list(KINDS)
    for kind, row in kinds.items():
        assert row[1] == f"{100 * results['kinds'][f'cost_of_{kind}']:.4g}"
    assert re.findall(r"<h2>(.*?)</h2>", text) == BOXES and len(text) < 5_000_000


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1600, "light")])
def test_in_a_browser(boxes: Path, width: int, scheme: str) -> None:
    with opened(boxes / "report.html", width, scheme) as page:
        assert page.locator("h2").all_text_contents() == BOXES
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 1)")
        assert page.locator("svg").count() >= 6


@pytest.mark.parametrize(("head", "word"), [("SegmentHead", "mask IoU"), ("PoseHead", "OKS")])
def test_masks_and_key_points_have_sections_of_their_own(head: str, word: str, tmp_path: Path) -> None:
    generate_figures(tmp_path / "figures", train=2, val=3)
    weights = tmp_path / "weights.pt"
    with pytest.MonkeyPatch.context() as patch:
        names = open_split(open_data(str(tmp_path / "figures")), "val")
        patch.setitem(micro_tasks.NAMES, head, names.names)
        if head == "PoseHead":
            patch.setitem(micro_tasks.ARGUMENTS, head, names.keypoint_layout.arguments())
        micro_tasks.write_weights(weights, head, bias=2)
    folder = report_of(weights, tmp_path / "figures", tmp_path / "out", "--conf-thres", "0.3", "--max-det", "20")
    text = (folder / "report.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    for part in ("Curves at {} 0.50", "Kinds of errors at {} 0.50", "Confusion, {}", "Calibration, {}"):
        assert part.format("IoU") in headings and part.format(word) in headings


def test_page_of_a_model_that_finds_nothing(run: Path, shapes: Path, tmp_path: Path) -> None:
    folder = report_of(run / "weights" / "best.pt", shapes, tmp_path, "--conf-thres", "0.999")
    assert "Kinds of errors" in (folder / "report.html").read_text()


def test_evaluators_are_those_of_the_task_and_more(shapes: Path) -> None:
    image_set = open_split(open_data(str(shapes)), "val")
    plain = segment_evaluators(image_set)
    names = [evaluator.name for evaluator in with_report(plain, image_set)]
    assert names == [*(evaluator.name for evaluator in plain), "kinds", "kinds_segm"]


def test_calibration_against_the_plain_way() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(2000)
    kinds = np.where(rng.random(2000) < scores**2, 0, 4)  # too sure of itself
    result = ErrorKindsResult(np.zeros(2000, int), scores, kinds, np.full(2000, -1), np.zeros(0, int), np.zeros(0),
                              np.zeros(2000), 1, {})
    rows = calibration_rows(result)
    total = distance = 0.0
    for number in range(10):
        inside = [i for i in range(2000) if max(number / 10, 0.05) < scores[i] <= (number + 1) / 10]
        share = sum(kinds[i] == 0 for i in inside) / len(inside)
        mean = sum(scores[i] for i in inside) / len(inside)
        assert rows[number]["right"] == pytest.approx(share) and rows[number]["mean score"] == pytest.approx(mean)
        total, distance = total + len(inside), distance + len(inside) * abs(mean - share)
    assert calibration_error(rows) == pytest.approx(distance / total) and distance / total > 0.1
    assert calibration_error([]) == 0


def test_report_is_of_evaluations(run: Path, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["test", "--weights", str(run / "weights" / "best.pt"), "--data", str(shapes), "--task", "speed"]
    assert cli.main([*words, "--report"]) == 2
    assert "--report: is a page of an evaluation" in capsys.readouterr().err
    assert cli.main([*words, "--tile", "64"]) == 2
    assert "--tile: is a way of an evaluation" in capsys.readouterr().err

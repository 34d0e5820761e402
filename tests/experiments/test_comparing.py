"""Runs side by side: text, CSV and page."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import opened

import yolov7
from yolov7 import cli
from yolov7.config import InputError, to_mapping
from yolov7.config.recipe import Recipe
from yolov7.experiments.compare_runs import Runs, find_runs
from yolov7.experiments.run_folders import RunFolder, best_of, read_epochs

HOSTILE = "<script>alert(1)</script>&amp; 'x\""


def write_run(folder: Path, aps: list[float], **settings: Any) -> Path:
    folder.mkdir(parents=True)
    rows = [{"epoch": place, "box": 1 / place, "val_box": 2 / place, "AP": ap, "AP50": ap + 0.1, "lr": 0.01,
             "seconds": 10, "skipped": 0} for place, ap in enumerate(aps, 1)]
    with open(folder / "results.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    content = {"cfg": "yolov7-tiny", "seed": 0, "recipe": to_mapping(Recipe())} | settings
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    below = tmp_path / "runs"
    write_run(below / "a", [0.1, 0.3, 0.2])
    write_run(below / "b", [0.1, 0.4], seed=1)
    write_run(below / "deep" / HOSTILE.replace("/", "_"), [0.2], cfg=HOSTILE, recipe={"loss": {"box": 0.5}})
    return below


def test_everything_is_said(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(runs), "--project", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "recipe.loss.box" in out and "runs that differ in their seed alone" in out and "AP by epoch" in out
    folder = tmp_path / "out" / "exp"
    with open(folder / "runs.csv", newline="") as stream:
        rows = {row["run"]: row for row in csv.DictReader(stream)}
    assert float(rows["a"]["AP"]) == 0.3 and rows["a"]["best epoch"] == "2" and rows["a"]["last AP"] == "0.2"
    assert float(rows["b"]["seconds"]) == 20 and rows["b"]["seed"] == "1"
    with open(folder / "curves.csv", newline="") as stream:
        curves = list(csv.DictReader(stream))
    assert [float(row["AP"]) for row in curves if row["run"] == "a"] == [0.1, 0.3, 0.2] and len(curves) == 6


@pytest.mark.parametrize("width", [400, 1600])
def test_page_in_a_browser(runs: Path, tmp_path: Path, width: int) -> None:
    found = yolov7.compare(runs=[runs], project=tmp_path / "out")
    with opened(found.page, width) as page:
        names = page.locator("#part-1 tbody tr td:first-child").all_text_contents()
        assert names == ["a", "b", f"deep/{HOSTILE.replace('/', '_')}"]
        assert page.locator("#part-1 tr.marked td").first.text_content() == "b"  # the highest AP
        assert page.locator("td").filter(has_text=HOSTILE).count()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_seeds_are_averaged(runs: Path) -> None:
    found = Runs(find_runs([str(runs)]))
    (group,) = found.groups(list(found.rows()))
    assert group["seeds"] == 2 and group["AP"] == pytest.approx(0.35)
    assert group["AP deviation"] == pytest.approx(0.0707, abs=1e-4)


def test_python_gives_rows(runs: Path, tmp_path: Path) -> None:
    result = yolov7.compare(runs=[runs / "a", runs / "b" / "results.csv"], project=tmp_path / "out")
    assert [row["run"] for row in result.rows] == ["a", "b"] and result.page.is_file()
    assert [row["AP"] for row in result.rows] == [0.3, 0.4]


def test_one_run_differs_in_nothing(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(runs / "a"), "--project", str(tmp_path / "out")]) == 0
    assert "no setting differs" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "words"), [
    ([], "RUNS are missing"), (["nowhere"], "is not there"), (["."], "holds no run")])
def test_what_is_no_run(given: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *given]) == 2
    assert words in capsys.readouterr().err


def test_damaged_tables(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [0.1, 0.2])
    path = run / "results.csv"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])  # cut off
    assert len(read_epochs(run)) <= 2
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="the column 'epoch' is missing"):
        read_epochs(run)
    path.write_bytes(b"epoch,AP\n1,\xff\xfe\n2,nan\n3,0.5,7,8\n\n,0.1\n")
    assert [dict(row) for row in read_epochs(run)] == [{"epoch": 1.0}, {"epoch": 2.0}, {"epoch": 3.0, "AP": 0.5}]
    path.write_text("")
    assert read_epochs(run) == [] and RunFolder(run).best is None
    (run / "config.yaml").write_text("- a list")
    with pytest.raises(InputError, match="config.yaml"):
        _ = RunFolder(run).settings


def test_best_epoch_counts_what_the_task_adds() -> None:
    rows = [{"epoch": 1.0, "AP": 0.5, "AP50": 0.6, "segm_AP": 0.1},
            {"epoch": 2.0, "AP": 0.4, "AP50": 0.6, "segm_AP": 0.4}]
    assert best_of([*rows]) is rows[1]
    assert best_of([{"epoch": 1.0}]) is None

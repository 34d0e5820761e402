"""The paper's ablations: which trainings they are, and a whole table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from yolov7 import cli
from yolov7.config import InputError, override
from yolov7.config.experiment_options import AblationOptions
from yolov7.config.recipe import read_recipe
from yolov7.experiments.ablation import measured, run_ablation
from yolov7.experiments.ablation_plan import Plan
from yolov7.experiments.paper_tables import TABLES
from yolov7.experiments.processes import Job
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec

ROWS = [(name, row) for name, table in TABLES.items() for row in table.rows]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name}-{row.name}" for name, row in ROWS])
def test_rows_are_models_and_recipes_that_are_there(name: str, row: Any) -> None:
    spec = read_spec(row.cfg)
    override(read_recipe(spec.recipe), row.set)
    assert row.published and all(50 < value < 58 for value in row.published)
    if spec.paper.AP and name != "table10":
        assert row.set or min(abs(spec.paper.AP - value) for value in row.published) < 0.06  # E6's is of coarse-to-fine
    assert not row.base or row.base in {other.name for other in TABLES[name].rows}


def test_rows_that_are_trained_alike_share_a_run(shapes: Path, tmp_path: Path) -> None:
    def folders(table: Any) -> set[str]:
        plan = Plan(AblationOptions(table=table, scale="small", data=str(shapes), project=str(tmp_path)))
        return {plan.job(row, 0).folder.name for row in plan.distinct_rows}

    assert folders("table6") & folders("table7") == {"yolov7-e6-noaux_seed0", "yolov7-e6_seed0"}
    assert folders("table10") == {"yolov7x_seed0"}


@pytest.mark.parametrize("table", list(TABLES))
def test_small_models_are_a_quarter(table: Any, shapes: Path, tmp_path: Path) -> None:
    plan = Plan(AblationOptions(table=table, scale="small", data=str(shapes), project=str(tmp_path), rows=("1", "2")))
    plan.write_models()
    for row in plan.distinct_rows:
        path = Path(str(plan.job(row, 0).options["cfg"]))
        small, whole = read_spec(str(path)), read_spec(row.cfg)
        assert small.name == f"{row.cfg}-quarter"
        sizes = [sum(p.numel() for p in Detector(spec, 6).parameters()) for spec in (small, whole)]
        assert 10 < sizes[1] / sizes[0] < 17


def test_paper_scale_is_the_papers(tmp_path: Path, shapes: Path) -> None:
    plan = Plan(AblationOptions(table="table6", data=str(shapes), project=str(tmp_path), set=("loss.box=0.1",)))
    job = plan.job(plan.rows[1], 0)
    assert job.options["cfg"] == "yolov7-e6" and job.options["epochs"] == 300 and "img_size" not in job.options
    assert job.options["set"] == ["loss.box=0.1", "loss.assignment=independent"]


def test_a_whole_table_and_again(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Table 10 of one seed, which is a training and four evaluations; a second start trains nothing."""
    words = ["ablation", "table10", "--scale", "small", "--data", str(shapes), "--seeds", "5", "--epochs", "1",
             "--img-size", "64", "--project", str(tmp_path), "--workers", "0", "--precision", "fp32"]
    assert cli.main([*words, "--dry-run"]) == 0
    assert "yolov7x, seed 5  no" in capsys.readouterr().out
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "small-small shapes"
    content = json.loads((folder / "table10.json").read_text())
    assert [row["row"] for row in content["rows"]] == [row.name for row in TABLES["table10"].rows]
    assert all(row["seeds"] == 1 and row["AP"] is not None for row in content["rows"]) and content["seeds"] == [5]
    assert "half, IoU 0.65" in out and "half, IoU 0.65" in (folder / "table10.html").read_text()
    before = (folder / "yolov7x_seed5" / "results.csv").stat().st_mtime_ns
    assert cli.main(words) == 0
    assert (folder / "yolov7x_seed5" / "results.csv").stat().st_mtime_ns == before


def test_mean_deviation_and_difference(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(AblationOptions(table="table7", scale="small", data=str(shapes), project=str(tmp_path), epochs=1))
    for row, aps in zip(plan.rows, ([0.1, 0.2, 0.3], [0.2, 0.2, 0.5], [0.3, 0.1]), strict=True):
        for seed, ap in enumerate(aps):  # one training of the last row is missing
            job = plan.job(row, seed)
            (job.folder / "weights").mkdir(parents=True)
            (job.folder / "weights" / "best.pt").touch()
            (job.folder / "results.csv").write_text(f"epoch,AP,AP50,AP75\n1,{ap},{ap + 0.1},{ap}\n")
    base, free, constrained = measured(plan)
    assert base["AP"] == pytest.approx(20) and base["deviation"] == pytest.approx(10) and base["to base"] is None
    assert free["AP"] == pytest.approx(30) and free["AP50"] == pytest.approx(40)
    assert free["to base"] == pytest.approx(10) and free["its deviation"] == pytest.approx(10)
    assert constrained["seeds"] == 2 and constrained["to base"] == pytest.approx(5)
    part = Plan(AblationOptions(table="table7", scale="small", data=str(shapes), project=str(tmp_path), epochs=1,
                                rows=("3",)))
    (only,) = measured(part)
    assert only["to base"] is None  # its base was not asked for


def test_a_training_that_fails_is_named(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "note", lambda self: self.folder.mkdir(parents=True))
    words = ["ablation", "table8", "--rows", "1", "--scale", "small", "--data", str(shapes), "--seeds", "0",
             "--project", str(tmp_path), "--set", "loss.bx=3"]
    assert cli.main(words) == 1
    assert "1 of 1 trainings have failed: yolov7-e6e-noaux, seed 0" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "words"), [
    ({"table": None}, "TABLE is missing"), ({"rows": ("9",)}, "--rows: unknown row '9'"),
    ({"data": "nothing"}, "nothing"), ({"devices": ("0", "1"), "devices_per_run": 3}, "does not divide")])
def test_bad_input(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    options = {"table": "table6", "scale": "small", "data": "shapes", "project": str(tmp_path)} | more
    with pytest.raises(InputError) as caught:
        run_ablation(AblationOptions(**options))  # type: ignore[arg-type]
    assert words in str(caught.value)

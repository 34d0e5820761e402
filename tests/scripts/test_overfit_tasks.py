"""Eight images by heart: which ones, going on after an interruption, and the tiny networks themselves."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from script_module import SCRIPTS, load_script

from yolov7.model.scaling import Scale
from yolov7.model.spec import read_spec, scaled_spec

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return load_script("overfit_tasks")


@pytest.mark.parametrize("task", ["seg", "pose", "mask"])
def test_the_first_eligible_images(task: str, script: ModuleType, coco_mini: Path, tmp_path: Path) -> None:
    image_set = script.first_images(coco_mini, task, tmp_path)
    assert len(image_set) == 8 and not image_set.faults
    counts = [len(image_set.objects_of(index)) for index in range(8)]
    assert min(counts) >= 1 and max(counts) <= 4
    if task != "pose":
        assert image_set.objects.has_polygon.all()
    else:
        assert image_set.names == ("person",)
        assert (image_set.objects.keypoints[..., 2] > 0).any(axis=1).all()


def test_a_run_goes_on_where_it_was(script: ModuleType, coco_mini: Path, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    image_set = script.first_images(coco_mini, "seg", tmp_path)
    plan = script.Plan("seg", str(ROOT / "tests" / "micro.yaml"), 64, steps=6, every=2, batch_size=4, device="cpu")
    metrics = iter([0.1, 0.2, 0.9, 1.0])

    def score(self: object) -> dict[str, float]:
        value = next(metrics)
        if value == 0.2:
            raise KeyboardInterrupt
        return {"AP50": value, "AP": value, "mask_AP50": value, "mask_AP": value / 2}

    monkeypatch.setattr(script.Learner, "score", score)
    with pytest.raises(KeyboardInterrupt):
        script.overfit(plan, image_set, tmp_path / "state.pt")
    row = script.overfit(plan, image_set, tmp_path / "state.pt")
    assert [entry["step"] for entry in row["history"]] == [2, 4]  # and not to the last step: the goal is reached
    assert (row["AP50"], row["AP"], row["images"]) == (0.9, 0.45, 8)
    assert script.overfit(plan, image_set, tmp_path / "state.pt")["history"] == row["history"]
    assert "| 4 | " in script.table({"row": row})
    with pytest.raises(SystemExit, match="another plan"):
        script.overfit(script.Plan("seg", plan.model, 96), image_set, tmp_path / "state.pt")


def test_the_score_is_the_tasks(script: ModuleType) -> None:
    found = {"AP": 0.1, "AP50": 0.2, "AP_small": 0, "mask_AP": 0.3, "mask_AP50": 0.4, "mask_AP75": 0.1}
    assert script.task_scores(found) == (0.4, 0.3)
    with pytest.raises(LookupError, match="one pair"):
        script.task_scores({"AP": 0.1, "AP50": 0.2})


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("YOLOV7_TEST_TASKS"), reason="takes minutes: YOLOV7_TEST_TASKS=1")
@pytest.mark.parametrize(("task", "model", "width"), [
    ("seg", "yolov7-tiny-seg", 1.0), ("pose", "yolov7-tiny-pose", 1.0), ("mask", "yolov7-mask", 0.25)])
def test_small_networks_learn_eight_images(task: str, model: str, width: float, script: ModuleType, coco_mini: Path,
                                           tmp_path: Path) -> None:
    image_set = script.first_images(coco_mini, task, tmp_path)
    spec = read_spec(model)
    if width < 1:
        spec, _ = scaled_spec(spec, Scale(width=width, hidden_width=width))
    file = tmp_path / "model.yaml"
    file.write_text(yaml.safe_dump(dict(spec.definition), sort_keys=False), encoding="utf-8")
    plan = script.Plan(task, str(file), size=320, steps=240, every=30, batch_size=8, device="cpu",
                       changes=script.CHANGES[task])
    row = script.overfit(plan, image_set)
    assert row["AP50"] > script.GOAL, row["history"]

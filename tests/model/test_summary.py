"""What models cost: against torch's own counter, the reference implementation's figures, and the paper's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from golden_numbers import GOLDEN, read_manifest
from torch.utils.flop_counter import FlopCounterMode

from yolov7 import cli
from yolov7.config import shipped_files
from yolov7.data.images import cv2
from yolov7.model import summary
from yolov7.model.detector import Detector
from yolov7.model.spec import ModelSpec, read_spec
from yolov7.model.summary import DEVIATION, ModelCost, models_table, node_costs
from yolov7.model.summary import model_cost as compute_cost

CONFIGS = shipped_files("cfg")
PUBLISHED = [name for name, path in CONFIGS.items() if path.parent.name not in ("ablation", "tasks")]
MANIFESTS = {path.name.split(".")[0]: path.name.removesuffix(".manifest.json")
             for path in sorted((GOLDEN / "forward").glob("*.manifest.json"))}


@cache
def cost_of(name: str) -> ModelCost:
    """What the table of all models shows, computed once for all tests."""
    return compute_cost(read_spec(name))


@pytest.mark.untraced
@pytest.mark.parametrize("name", PUBLISHED)
def test_costs_are_those_of_the_reference_implementation_and_the_paper(name: str) -> None:
    manifest = read_manifest(MANIFESTS[name])
    spec = read_spec(name)
    cost = cost_of(name)
    assert (cost.training_parameters, cost.parameters) == (manifest["param_count_training"],
                                                           manifest["param_count_fused"])
    size, gflops = next((int(size), gflops) for size, gflops in manifest["gflops"].items()
                        if size == str(spec.image_size) or len(manifest["gflops"]) == 1)
    assert cost.gflops == pytest.approx(gflops * (spec.image_size / size) ** 2, rel=1e-4)
    if spec.paper.gflops is not None and not spec.paper.note:
        assert cost.parameters / 1e6 == pytest.approx(spec.paper.parameters, rel=DEVIATION)
        assert cost.gflops_as_in_paper == pytest.approx(spec.paper.gflops, rel=DEVIATION)


@pytest.mark.parametrize("name", ["yolov7", "yolov7-w6", "x50-csp", "yolov7-e6e-grouped"])
def test_flops_against_torch(name: str) -> None:
    """torch counts the convolutions of the training graph alike (none of them has a bias, but the head's)."""
    spec = read_spec(name)
    with torch.device("meta"):
        model = Detector(spec)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 128, 192))
    costs = node_costs(spec, 128, 192, fused=False)
    biases = 2 * 85 * costs[-1].shape[0] * (2 if spec.head.auxiliary else 1)
    assert 1e9 * sum(cost.gflops for cost in costs) - biases == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_table_marks_what_deviates() -> None:
    lines = models_table([cost_of(name) for name in ("yolov7-d6", "yolov7-tiny", "yolov3")]).splitlines()
    assert lines[2].startswith("yolov7-d6*") and "154.71" in lines[2] and "133.76" in lines[2] and "806.8" in lines[2]
    assert lines[3].startswith("yolov7-tiny ") and "5.8 @416" in lines[3]
    assert lines[4].split()[-3:] == ["-", "-", "-"]
    assert lines[5].startswith("* yolov7-d6: parameters 133.8 against 154.7, GFLOPs 702.6 against 806.8: the paper's")
    assert len(lines) == 6


def test_one_model_with_its_drawing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawing = tmp_path / "graph.png"
    assert cli.main(["models", "--cfg", "yolov7-e6e", "--deploy", "--picture", str(drawing)]) == 0
    text = capsys.readouterr().out
    assert "yolov7-e6e, deployed form, 1280 x 1280" in text and "151,687,420" in text and "843.240" in text
    assert "c3" in text and "320 x 160 x 160" in text and "a3" not in text.split()
    image = cv2.imread(str(drawing))
    assert image.shape[1] > 1500 and (image < 250).mean() > 0.01
    assert cli.main(["models", "--cfg", "yolov7-tiny", "--img-size", "320", "--picture", str(tmp_path / "g.svg")]) == 0
    assert "3.42" in capsys.readouterr().out and (tmp_path / "g.svg").read_text().startswith("<?xml")


def test_scaled_model_is_written_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scaled.yaml"
    assert cli.main(["models", "--scale", "yolov7-w6", "--depth", "2", "--output", str(path)]) == 0
    text = capsys.readouterr().out
    assert "yolov7-w6-scaled with depth x 2, out x 1.5" in text and "rounded" not in text
    spec = read_spec(str(path))
    assert spec.definition["nodes"]["c3"] == {"block": "ELAN", "out": 384, "hidden": 128, "depth": 8}
    assert spec.head == read_spec("yolov7-w6").head and spec.image_size == 1280
    assert cli.main(["models", "--scale", "yolov7-tiny", "--depth", "1.3"]) == 0
    assert "depth 2.6 is rounded to 3: c2, c3" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "message"), [
    (["--depth", "2"], "--depth, --width and --hidden-width go with --scale"),
    (["--cfg", "yolov7", "--scale", "yolov7"], "--cfg and --scale: accepted: one of them"),
    (["--picture", "g.png"], "--picture and --output: name one model with --cfg or --scale"),
    (["--cfg", "yolov7", "--picture", "g.bmp"], "--picture 'g.bmp'; accepted: .png, .pdf, .svg"),
    (["--cfg", "yolov7-w6", "--img-size", "96"], "--img-size 96: accepted: a multiple of 64"),
    (["--scale", "yolov8"], "--cfg 'yolov8': no such file, and none is shipped under that name.*'yolov7'"),
    (["--scale", "yolov7", "--depth", "0"], "depth: found 0.0; accepted: 0.01 to 16"),
])
def test_bad_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", *flags]) == 2
    import re

    assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_table_of_all_models(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    computed = {*PUBLISHED, "yolov7-tiny-pose", "yolov7-w6-seg", "yolov7-e6e-fullaux"}

    def known(spec: ModelSpec, num_classes: int | None) -> ModelCost:
        assert num_classes is None
        if spec.name in computed:
            return cost_of(spec.name)
        return replace(cost_of("yolov7-tiny"), spec=replace(spec, paper=type(spec.paper)()))  # like one of them

    monkeypatch.setattr(summary, "model_cost", known)
    assert cli.main(["models"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("models: ")]  # progress
    assert {line.split()[0].rstrip("*") for line in lines[2:-1]} == set(CONFIGS)
    assert lines[2].startswith("yolov7-d6*") and lines[-1].startswith("* yolov7-d6")


@pytest.mark.parametrize("name", [name for name, path in CONFIGS.items() if path.parent.name == "paper"])
def test_readme(name: str) -> None:
    """The README's table, and the commands of docs/models.md."""
    root = Path(__file__).parents[2]
    text, models = ((root / name).read_text(encoding="utf-8") for name in ("README.md", "docs/models.md"))
    spec = read_spec(name)
    cost = cost_of(name)
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` "))
    at = f" @{spec.paper.size}" if spec.paper.size else ""
    for figure in (f"{cost.training_parameters:,}", f"{cost.parameters:,}", f"| {cost.gflops:.1f} |", str(spec.recipe),
                   f"{spec.paper.parameters}M, {spec.paper.gflops}{at}", f"| {spec.paper.AP or '-'}{at} |"):
        assert figure in row
    assert f"python train.py --cfg {name} --" in models
    assert f"All {len(CONFIGS)} configs" in text and f"all {len(CONFIGS)} configs" in models

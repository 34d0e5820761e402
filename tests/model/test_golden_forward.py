"""Forward passes against the original's numbers, through the importer of its state dicts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from golden_numbers import GOLDEN, golden_state_dict

from yolov7.boxes import xyxy_to_cxcywh
from yolov7.model.detector import Detector
from yolov7.model.reparam import reparameterize
from yolov7.model.spec import read_spec
from yolov7.model.weights import import_state_dict

SUMMARY = json.loads((GOLDEN / "forward" / "summary.json").read_text())


def load_golden(form: str) -> Detector:
    model = Detector(read_spec(form.partition(".")[0]))
    import_state_dict(model, golden_state_dict(form, SUMMARY[form]["gain"]), form)
    return model.eval()


def golden_input(form: str) -> torch.Tensor:
    height, width = SUMMARY[form]["input"]
    return torch.from_numpy(np.random.RandomState(0).random_sample((1, 3, height, width)).astype(np.float32))


def named_outputs(model: Detector, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        output = model(images)
        decoded = model.decode(output)
    rows = torch.cat((xyxy_to_cxcywh(decoded.boxes), decoded.objectness[..., None], decoded.classes), dim=-1)
    return {"decoded": rows[0], **{f"raw{i}": level[0] for i, level in enumerate(output.levels)}}


def check(outputs: dict[str, torch.Tensor], form: str) -> None:
    golden = np.load(GOLDEN / "forward" / f"{form}.npz")
    for name, (mean, deviation, largest) in SUMMARY[form]["stats"].items():
        ours = outputs[name].numpy()
        assert list(ours.shape) == SUMMARY[form]["raw_shapes"][name]
        difference = np.abs(ours.ravel()[::97] - golden[name]).max()
        assert difference < 1e-4 * largest, name
        if name.startswith("raw"):
            assert difference < 1e-3 * deviation, name
        np.testing.assert_allclose([ours.mean(), ours.std(), np.abs(ours).max()], [mean, deviation, largest],
                                   rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.parametrize("form", SUMMARY)
def test_golden_forward(form: str) -> None:
    check(named_outputs(load_golden(form), golden_input(form)), form)


@pytest.mark.parametrize("form", SUMMARY)
def test_golden_forward_reparameterized(form: str) -> None:
    check(named_outputs(reparameterize(load_golden(form)), golden_input(form)), form)


@pytest.mark.parametrize("form", SUMMARY)
def test_parameter_counts(form: str) -> None:
    manifest = json.loads((GOLDEN / "forward" / f"{form}.manifest.json").read_text())
    model = Detector(read_spec(manifest["model"]))
    fused = reparameterize(model)
    assert sum(p.numel() for p in model.parameters()) == manifest["param_count_training"]
    assert sum(p.numel() for p in fused.parameters()) == manifest["param_count_fused"]

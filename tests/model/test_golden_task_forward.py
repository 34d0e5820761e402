"""Forward passes with masks and key points against the numbers of the reference implementation, and its layout back."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from golden_numbers import GOLDEN, golden_state_dict, read_manifest
from torch import Tensor

from yolov7.boxes import xyxy_to_cxcywh
from yolov7.model.detector import Detector
from yolov7.model.heads.base import Predictions
from yolov7.model.reference.layout import export_state_dict, identify, import_state_dict
from yolov7.model.reparam import reparameterize

MODELS = {"seg": "yolov7-seg", "pose": "yolov7-w6-pose", "mask": "yolov7-mask"}
APART = ("attention",)  # columns that stand by themselves in the golden files
FORMS = ("training", "reparameterized")


@functools.lru_cache(maxsize=1)
def load_golden(form: str) -> Detector:
    """The model that the golden weights of ``<model>.<form>`` are found to be of, with these weights."""
    state = golden_state_dict(form, 1.0)
    with torch.random.fork_rng(devices=[]):
        model = Detector(identify(state, "silu", form), 1 if "pose" in form else 80)
    import_state_dict(model, state, form)
    return model.eval()


def rows_of(found: Predictions) -> Tensor:
    columns = [xyxy_to_cxcywh(found.boxes), found.objectness[..., None], found.classes]
    own = (column.flatten(2) for name, column in found.extra.items() if name not in APART)
    return torch.cat((*columns, *own), dim=-1)[0]


@functools.lru_cache(maxsize=2)
@torch.no_grad()
def golden_outputs(task: str, form: str) -> dict[str, np.ndarray]:
    model = load_golden(f"{MODELS[task]}.training")
    model = reparameterize(model) if form == "reparameterized" else model
    height, width = json.loads((GOLDEN / task / "forward.json").read_text())["input"]
    images = torch.from_numpy(np.random.RandomState(0).random_sample((1, 3, height, width)).astype(np.float32))
    output = model(images)
    raw = [level.clone() for level in output.levels]
    found = model.decode(output)
    decoded, columns = rows_of(found), {name: column[0] for name, column in found.extra.items() if name in APART}
    width = decoded.shape[1]
    assert all(torch.equal(*pair) for pair in zip(raw, output.levels, strict=True))  # decoding leaves them as they are
    return {"decoded": decoded.numpy(), **{name: column.numpy() for name, column in columns.items()},
            **{name: value[0].numpy() for name, value in output.maps.items()},
            **{f"raw{i}": level[0, ..., :width].numpy() for i, level in enumerate(raw)}}


ENTRIES = {"yolov7-seg.training": 565, "yolov7-seg.plain-head": 559, "yolov7-w6-pose.training": 908,
           "yolov7-mask.training": 696}
CASES = [(task, form, name) for task in MODELS for form in FORMS
         for name in json.loads((GOLDEN / task / "forward.json").read_text())["stats"]]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "form", "name"), CASES)
def test_golden_forward(task: str, form: str, name: str) -> None:
    summary = json.loads((GOLDEN / task / "forward.json").read_text())
    mean, deviation, largest = summary["stats"][name]
    outputs = golden_outputs(task, form)
    assert set(outputs) == set(summary["stats"])
    ours, golden = outputs[name], np.load(GOLDEN / task / f"forward_{MODELS[task]}.npz")[name]
    assert list(ours.shape) == summary["shapes"][name]
    assert np.abs(ours.ravel()[:: summary["step"][name]] - golden).max() < 1e-4 * largest
    np.testing.assert_allclose([ours.mean(), ours.std(), np.abs(ours).max()], [mean, deviation, largest],
                               rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.parametrize("form", ["yolov7-seg.training", "yolov7-seg.plain-head", "yolov7-w6-pose.training",
                                  "yolov7-mask.training"])
def test_golden_layout_there_and_back(form: str) -> None:
    """The same keys in the same order, and the same values to the bit."""
    expected = golden_state_dict(form, 1.0)
    state = export_state_dict(load_golden(form))
    assert list(state) == list(expected) == [key for key, _ in read_manifest(form)["parameters"]]
    assert len(state) == ENTRIES[form]
    for key, value in expected.items():
        assert torch.equal(state[key], value), key

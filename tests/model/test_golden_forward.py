"""Forward passes against the numbers of the reference implementation, through the importer of its state dicts."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from golden_numbers import GOLDEN, golden_state_dict, read_manifest, without_random_weights

from yolov7.boxes import xyxy_to_cxcywh
from yolov7.model.detector import Detector
from yolov7.model.reference.layout import export_state_dict, import_state_dict
from yolov7.model.reparam import reparameterize
from yolov7.model.spec import read_spec
from yolov7.structures import HeadOutput

SUMMARY = json.loads((GOLDEN / "forward" / "summary.json").read_text())
FORMS = sorted(SUMMARY, key=lambda form: form.partition(".")[0])  # two of a model, which share most weights, together
TRAINING_FORMS = [form for form in SUMMARY if not form.endswith(".deploy")]


@functools.lru_cache(maxsize=1)  # the tests of one form follow each other
def load_golden(form: str) -> Detector:
    with without_random_weights():
        model = Detector(read_spec(form.partition(".")[0]))
    import_state_dict(model, golden_state_dict(form, SUMMARY[form]["gain"]), form)
    return model.eval()


def golden_input(form: str) -> torch.Tensor:
    height, width = SUMMARY[form]["input"]
    return torch.from_numpy(np.random.RandomState(0).random_sample((1, 3, height, width)).astype(np.float32))


@torch.no_grad()
def named_outputs(model: Detector, images: torch.Tensor) -> dict[str, torch.Tensor]:
    output: HeadOutput = model(images)
    decoded = model.decode(output)
    rows = torch.cat((xyxy_to_cxcywh(decoded.boxes), decoded.objectness[..., None], decoded.classes), dim=-1)
    levels = [*output.levels, *(level for auxiliary in output.auxiliary for level in auxiliary.levels)]
    return {"decoded": rows[0], **{f"raw{i}": level[0] for i, level in enumerate(levels)}}


@functools.lru_cache(maxsize=1)
def golden_outputs(form: str) -> dict[str, torch.Tensor]:
    return named_outputs(load_golden(form), golden_input(form))


def check(outputs: dict[str, torch.Tensor], form: str) -> None:
    golden = np.load(GOLDEN / "forward" / f"{form}.npz")
    for name, (mean, deviation, largest) in SUMMARY[form]["stats"].items():
        if name not in outputs:
            continue
        ours = outputs[name].numpy()
        assert list(ours.shape) == SUMMARY[form]["raw_shapes"][name]
        difference = np.abs(ours.ravel()[::97] - golden[name]).max()
        assert difference < 1e-4 * largest, name
        if name.startswith("raw"):
            assert difference < 1e-3 * deviation, name
        np.testing.assert_allclose([ours.mean(), ours.std(), np.abs(ours).max()], [mean, deviation, largest],
                                   rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, scope="class")
class TestForm:
    """All tests of a form stand together, so that its weights are made once."""

    def test_golden_forward(self, form: str) -> None:
        outputs = golden_outputs(form)
        auxiliary = set(outputs) - set(SUMMARY[form]["stats"])
        assert set(SUMMARY[form]["stats"]) <= set(outputs)
        assert not auxiliary or form.endswith(".deploy")  # the auxiliary head that a deploy file does not have
        check(outputs, form)

    def test_golden_forward_reparameterized(self, form: str) -> None:
        """The numbers of the reference implementation, and the network's outputs before re-parameterization to 1e-5."""
        before = golden_outputs(form)
        outputs = named_outputs(reparameterize(load_golden(form)), golden_input(form))
        assert len(outputs) == 1 + len(load_golden(form).head.strides)  # the lead head alone
        check(outputs, form)
        for name in set(outputs) - {"decoded"}:
            assert (outputs[name] - before[name]).abs().max() < 1e-5 * before[name].abs().max(), name

    def test_layout_of_the_reference_implementation(self, form: str) -> None:
        """Back to the reference implementation's names: the same keys in the same order, the same values."""
        if form.endswith(".deploy"):
            return
        state = export_state_dict(load_golden(form))
        expected = golden_state_dict(form, SUMMARY[form]["gain"])
        assert list(state) == list(expected) == [key for key, _ in read_manifest(form)["parameters"]]
        for key, value in expected.items():
            assert torch.equal(state[key], value), key


@pytest.mark.parametrize("form", TRAINING_FORMS)
def test_parameter_counts(form: str) -> None:
    manifest = read_manifest(form)
    with torch.device("meta"):
        model = Detector(read_spec(manifest["model"]))
        fused = reparameterize(model)
    assert sum(p.numel() for p in model.parameters()) == manifest["param_count_training"]
    assert sum(p.numel() for p in fused.parameters()) == manifest["param_count_fused"]

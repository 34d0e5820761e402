"""Fused norms in lockstep with plain ones, step by step from the same state: on a GPU, and by Triton's interpreter.

`tests/runtime/test_norm_kernels.py` runs this file once more under the interpreter, in a process of its own.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor

from yolov7.data.synthetic import generate
from yolov7.engine import run
from yolov7.engine.optim import apply
from yolov7.engine.run_config import TrainOptions
from yolov7.engine.trainer import Trainer
from yolov7.model import norms
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec
from yolov7.runtime.distributed import Processes
from yolov7.runtime.precision import autocast

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda:0")
MICRO = str(Path(__file__).parents[1] / "micro.yaml")
QUANTILES = (0.5, 0.9, 0.99, 0.999)

# model, side of the images, batch, steps
LOCKSTEP = [
    pytest.param(MICRO, 64, 2, 2, marks=pytest.mark.skipif(not INTERPRETED, reason="run by the interpreter")),
    pytest.param("yolov7-tiny", 320, 8, 20, marks=pytest.mark.gpu),
    pytest.param("yolov7-w6", 640, 4, 20, marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """float32 without TF32, and kernels where their interpreter is."""
    if INTERPRETED:
        monkeypatch.setattr(norms, "_suits", lambda x: x.is_contiguous(memory_format=torch.channels_last))
        monkeypatch.setattr(run, "check_fusion", lambda device: None)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def make_trainer(data: Path, folder: Path, model: str, size: int, batch: int, fused: bool) -> Trainer:
    options = TrainOptions(data=str(data), cfg=model, img_size=(size,), batch_size=batch, nominal_batch=batch,
                           epochs=300, device=str(DEVICE), workers=0, project=str(folder), precision="fp32",
                           fused_norm=fused)
    return run.build_trainer(options, DEVICE, Processes(), ExitStack())


def weights_of(trainer: Trainer) -> Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.state.model.parameters()])


@pytest.mark.parametrize(("model", "size", "batch", "steps"), LOCKSTEP)
def test_weights_change_alike(tmp_path: Path, model: str, size: int, batch: int, steps: int) -> None:
    generate(tmp_path / "data", train=batch * 2, val=2)
    plain, fused = (make_trainer(tmp_path / "data", tmp_path, model, size, batch, value) for value in (False, True))
    batches = [one for one in plain.loader if len(one.images) == batch]
    for step in range(steps):
        for one, other in zip(fused.state.model.state_dict().values(), plain.state.model.state_dict().values(),
                              strict=True):
            one.copy_(other)
        fused.state.optimizer.load_state_dict(copy.deepcopy(plain.state.optimizer.state_dict()))
        changes = []
        for trainer in (plain, fused):
            apply(plain.schedule.at(step), trainer.state.optimizer)
            trainer.state.model.train()
            before = weights_of(trainer)
            chosen = batches[step % len(batches)]
            trainer.step.backward(chosen, (0, 0, step), len(chosen.images), last=True)
            assert trainer.step.update()[0] == 0
            changes.append(weights_of(trainer) - before)
        assert changes[0].abs().max() > 1e-4 or step == 0
        torch.testing.assert_close(changes[1], changes[0], rtol=0, atol=1e-5)
        for one, other in zip(fused.state.model.buffers(), plain.state.model.buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["yolov7-tiny", "yolov7"])
def test_bf16_differs_no_more_than_from_itself(name: str) -> None:
    """Gradients against those of the same images in another order: the sums of norms and weights then run otherwise."""
    torch.manual_seed(0)
    model = Detector(read_spec(name), 6).to(DEVICE, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images = torch.rand(8, 3, 320, 320, device=DEVICE).to(memory_format=torch.channels_last)
    weights = [torch.randn(level.shape, device=DEVICE) for level in model(images).levels]
    plain, mixed = torch.arange(8, device=DEVICE), torch.randperm(8).to(DEVICE)

    def gradients(order: Tensor, precision: str, fused: bool) -> Tensor:
        for module in model.modules():
            if isinstance(module, norms.BatchNorm):
                module.fused = fused
        with autocast(precision, DEVICE):
            output = model(images[order].contiguous(memory_format=torch.channels_last))
        total = torch.stack([(level.float() * weight[order]).mean() for level, weight in
                             zip(output.levels, weights, strict=True)]).sum()
        found = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        return torch.cat([value.flatten() for value in found if value is not None])

    exact = gradients(plain, "fp32", False)
    half, shuffled, fused = (gradients(*way) for way in
                             ((plain, "bf16", False), (mixed, "bf16", False), (plain, "bf16", True)))
    assert (spread(fused - half) <= 1.15 * spread(shuffled - half)).all()
    assert (spread(fused - exact) <= 1.05 * spread(half - exact)).all()


def spread(differences: Tensor) -> Tensor:
    """Quantiles of their absolute values."""
    ordered = differences.abs().sort().values
    places: Callable[[float], int] = lambda share: min(int(share * len(ordered)), len(ordered) - 1)  # noqa: E731
    return torch.stack([ordered[places(share)] for share in QUANTILES])

"""What only a GPU can tell of the training step: that nothing waits for it, and that its formats train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from yolov7 import cli
from yolov7.data.synthetic import generate
from yolov7.engine import run
from yolov7.engine.optim import apply
from yolov7.engine.run_config import TrainOptions
from yolov7.engine.trainer import Trainer
from yolov7.runtime.distributed import Processes

pytestmark = pytest.mark.gpu
FLAGS = ["--img-size", "64", "--batch-size", "4", "--nominal-batch", "4", "--device", "0", "--workers", "0"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate(folder, train=12, val=4)
    return folder


@pytest.fixture
def no_waiting() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "graphs"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_waits_for_nothing(shapes: Path, tmp_path: Path, precision: str, graphs: bool,
                                  no_waiting: None) -> None:
    device = torch.device("cuda:0")
    options = TrainOptions(data=str(shapes), img_size=(64,), batch_size=4, nominal_batch=4, epochs=1, device="0",
                           workers=0, project=str(tmp_path), precision=precision, set=("optimizer.clip_grad=10",),
                           cuda_graphs=graphs)
    trainer: Trainer = run.build_trainer(options, device, Processes(), ExitStack())
    batches = list(trainer.loader)
    trainer.state.model.train()
    for index, batch in enumerate(batches * 3):
        if index == len(batches):  # the first steps make what stays
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        terms = trainer.step.backward(batch, (0, 0, index), len(batch.images), last=True)
        trainer.guard.note(trainer.step.update(), [batch], [terms])
    torch.cuda.set_sync_debug_mode("default")
    trainer.guard.settle()
    assert all(value.isfinite().all() for value in trainer.state.model.state_dict().values())


@pytest.mark.parametrize("flags", [["--precision", "fp16"], ["--precision", "bf16"], ["--compile"], ["--fused-norm"],
                                   ["--multi-scale"], ["--cuda-graphs"], ["--cuda-graphs", "--multi-scale"],
                                   ["--cuda-graphs", "--fused-norm", "--precision", "fp16"],
                                   ["--augment-device", "cuda"], ["--augment-device", "cuda", "--cuda-graphs"],
                                   ["--set", "optimizer.kind=adamw", "optimizer.lr0=0.001"]], ids=" ".join)
def test_a_run_ends_and_goes_on(shapes: Path, tmp_path: Path, flags: list[str]) -> None:
    arguments = ["train", "--data", str(shapes), "--project", str(tmp_path), *FLAGS]
    assert cli.main([*arguments, *flags, "--epochs", "1"]) == 0
    assert cli.main(["train", "--resume", str(tmp_path / "exp"), "--epochs", "2", "--workers", "0"]) == 0
    state = torch.load(tmp_path / "exp" / "weights" / "best.pt", weights_only=True)["model"]
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("way", [{"cuda_graphs": True}, {"cuda_graphs": True, "fused_norm": True}, {"compile": True}],
                         ids=["graphs", "graphs and fused norms", "compiled"])
def test_every_way_learns_the_same(shapes: Path, tmp_path: Path, way: dict[str, bool]) -> None:
    """The terms of the first batches, before rounding has grown."""
    device, found = torch.device("cuda:0"), []
    for changes in ({}, way):
        options = TrainOptions(data=str(shapes), img_size=(128,), batch_size=4, nominal_batch=4, epochs=30, device="0",
                               workers=0, project=str(tmp_path), precision="fp32", **changes)
        trainer: Trainer = run.build_trainer(options, device, Processes(), ExitStack())
        trainer.state.model.train()
        batches, terms = list(trainer.loader), []
        for index in range(6):
            apply(trainer.schedule.at(index), trainer.state.optimizer)
            batch = batches[index % 3]
            terms.append(trainer.step.backward(batch, (0, 0, index), len(batch.images), last=True))
            trainer.step.update()
        found.append(torch.stack(terms))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


def test_a_batch_that_is_too_large_is_told_what_fits(shapes: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        code = cli.main(["train", "--data", str(shapes), "--project", str(tmp_path), "--img-size", "1280",
                         "--batch-size", "12", "--device", "0", "--workers", "0", "--epochs", "1"])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert code == 1
    assert "out of memory on cuda:0 with --batch-size 12 at 1280 px" in capsys.readouterr().err

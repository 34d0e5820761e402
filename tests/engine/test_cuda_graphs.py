"""Passes that are recorded and replayed: the same numbers as without, whatever changes from step to step.

What stands for CUDA's graphs here (tests/recorder.py) runs the recorded operations again on the recorded memory.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import micro_tasks
import pytest
import torch
import yaml
from recorder import RecordedOnCpu
from torch import Tensor

from yolov7 import cli
from yolov7.data import stick_figures
from yolov7.data.synthetic import generate
from yolov7.engine import graphed_pass, run
from yolov7.engine.run_config import TrainOptions
from yolov7.engine.step import TrainingStep
from yolov7.engine.trainer import Trainer
from yolov7.loss.candidates import power_of_two
from yolov7.runtime.distributed import Processes

MICRO = str(Path(__file__).parents[1] / "micro.yaml")
STEPS = 7


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate(folder, train=14, val=4)
    return folder


class Recorder(RecordedOnCpu):
    """One for each test."""


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Recorder]]:
    """Graphs that a CPU can record."""
    Recorder.made = Recorder.replayed = Recorder.plain = 0
    Recorder.refuses = False
    monkeypatch.setattr(graphed_pass, "GraphPool", Recorder)
    monkeypatch.setattr(run, "check_graphs", lambda device: None)
    yield Recorder


def make_trainer(shapes: Path, folder: Path, **changes: object) -> Trainer:
    options = TrainOptions(data=str(shapes), img_size=(64,), batch_size=4, nominal_batch=4, epochs=3, device="cpu",
                           workers=0, project=str(folder), seed=1, cfg=MICRO, precision="fp32", cuda_graphs=True)
    changed = dataclasses.replace(options, **changes)  # type: ignore[arg-type]
    return run.build_trainer(changed, torch.device("cpu"), Processes(), ExitStack())


def learn(trainer: Trainer, steps: int = STEPS) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The terms of some steps of two batches, and what has come of the weights."""
    trainer.state.model.train()
    terms, number = [], 0
    for epoch in range(steps):
        trainer.sampler.set_epoch(epoch)
        for index, batch in enumerate(trainer.loader):
            last = index % 2 == 1
            terms.append(trainer.step.backward(batch, (1, 0, number), len(batch.images), last))
            number += 1
            if last:
                trainer.step.update()
        trainer.step.update()
    return terms, {name: value.clone() for name, value in trainer.state.model.state_dict().items()}


WAYS = {
    "usual": {}, "bf16": {"precision": "bf16"}, "adamw": {"set": ("optimizer.kind=adamw", "optimizer.lr0=0.001")},
    "clipped": {"set": ("optimizer.clip_grad=1",)}, "multi-scale": {"multi_scale": True},
    "plain loss": {"set": ("loss.loss_ota=false",)},
}


@pytest.mark.parametrize("way", WAYS)
def test_replayed_steps_have_the_bits_of_plain_ones(shapes: Path, tmp_path: Path, way: str,
                                                    recorder: type[Recorder]) -> None:
    terms, weights = learn(make_trainer(shapes, tmp_path, **WAYS[way]))
    assert recorder.made >= 2  # the last batch of an epoch is smaller
    assert recorder.replayed > recorder.made or way == "multi-scale"
    recorder.refuses = True
    plain_terms, plain_weights = learn(make_trainer(shapes, tmp_path, **WAYS[way]))
    assert all(torch.equal(*pair) for pair in zip(terms, plain_terms, strict=True))
    assert not [name for name, value in plain_weights.items() if not torch.equal(weights[name], value)]


@pytest.mark.parametrize("way", ["usual", "multi-scale"])
def test_they_are_those_of_a_training_without_graphs(shapes: Path, tmp_path: Path, way: str) -> None:
    """But for the order of sums over longer lists."""
    terms, _ = learn(make_trainer(shapes, tmp_path, **WAYS[way]), steps=1)
    usual, _ = learn(make_trainer(shapes, tmp_path, **WAYS[way], cuda_graphs=False), steps=1)
    torch.testing.assert_close(torch.stack(terms), torch.stack(usual), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", ["SegmentHead", "PoseHead", "MaskHead"])
def test_every_task_is_recorded(tmp_path: Path, head: str, recorder: type[Recorder]) -> None:
    definition = micro_tasks.definition_of(head, {} if head == "PoseHead" else micro_tasks.ARGUMENTS[head])
    cfg = tmp_path / "model.yaml"
    cfg.write_text(yaml.safe_dump(definition, sort_keys=False))
    data = tmp_path / "data"
    (stick_figures.generate if head == "PoseHead" else generate)(data, train=8, val=2)
    changes = {"cfg": str(cfg), "img_size": (96,)}
    terms, weights = learn(make_trainer(data, tmp_path, **changes), steps=3)
    assert recorder.replayed >= recorder.made >= 1
    recorder.refuses = True
    plain_terms, plain_weights = learn(make_trainer(data, tmp_path, **changes), steps=3)
    assert all(torch.equal(*pair) for pair in zip(terms, plain_terms, strict=True))
    assert not [name for name, value in plain_weights.items() if not torch.equal(weights[name], value)]


def test_an_auxiliary_head_is_recorded(shapes: Path, tmp_path: Path, recorder: type[Recorder]) -> None:
    """To rounding: what is noted stays in memory, so that autograd adds up forks of four maps in other tensors."""
    cfg = tmp_path / "w6.yaml"
    cfg.write_text("scale_of: yolov7-w6\nname: w6-eighth\nscale: {width: 0.125, hidden_width: 0.125}\n")
    found = []
    for recorder.refuses in (False, True):
        trainer = make_trainer(shapes, tmp_path, cfg=str(cfg), img_size=(256,), set=("optimizer.lr0=0.00001",))
        found.append(torch.stack(learn(trainer, steps=2)[0]))
    assert recorder.replayed > recorder.made >= 1
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_a_step_that_is_not_finite_is_left_out(shapes: Path, tmp_path: Path, recorder: type[Recorder]) -> None:
    trainer = make_trainer(shapes, tmp_path)
    learn(trainer, steps=3)
    trainer.sampler.set_epoch(0)
    batch = next(iter(trainer.loader))
    before = {name: value.clone() for name, value in trainer.state.model.state_dict().items()
              if "num_batches" not in name}
    replayed, stem = recorder.replayed, trainer.state.model.nodes["stem"].conv.weight
    good = stem.detach().clone()
    with torch.no_grad():
        stem.fill_(float("nan"))
    trainer.step.backward(batch, (1, 0, 0), len(batch.images), last=True)
    with torch.no_grad():
        stem.copy_(good)
    assert recorder.replayed == replayed + 1
    assert trainer.step.update().tolist() == [1, 0, 1]
    assert all(torch.equal(trainer.state.model.state_dict()[name], value) for name, value in before.items())
    trainer.step.backward(batch, (1, 0, 0), len(batch.images), last=True)
    assert trainer.step.update().tolist() == [0, 0, 0]


def test_a_resumed_run_is_the_same(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   recorder: type[Recorder]) -> None:
    """Interrupted in the midst of an epoch, when the next one would be replayed."""
    flags = ["train", "--data", str(shapes), "--cfg", MICRO, "--project", str(tmp_path), "--img-size", "64",
             "--batch-size", "4", "--nominal-batch", "4", "--device", "cpu", "--workers", "0", "--epochs", "3",
             "--precision", "fp32", "--cuda-graphs"]
    assert cli.main([*flags, "--name", "whole"]) == 0
    steps = recorder.plain + recorder.replayed
    assert steps == 12 and recorder.replayed >= 8
    update, count = TrainingStep.update, iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "update", lambda self, stop=False: update(self, stop=next(count) == 6))
        assert cli.main([*flags, "--name", "cut"]) != 0
    assert cli.main(["train", "--resume", str(tmp_path / "cut"), "--workers", "0"]) == 0
    one, other = (torch.load(tmp_path / name / "weights" / "last.pt", weights_only=True) for name in ("whole", "cut"))
    for part in ("model", "ema"):
        assert all(torch.equal(one[part][name], value) for name, value in other[part].items())


def test_what_cannot_be_recorded_goes_without_and_says_why(shapes: Path, tmp_path: Path, recorder: type[Recorder],
                                                           caplog: pytest.LogCaptureFixture) -> None:
    recorder.refuses = True
    learn(make_trainer(shapes, tmp_path), steps=2)
    assert caplog.text.count("--cuda-graphs: the step cannot be recorded (operation not permitted); batches of other "
                             "shapes than the 0 recorded ones go without") == 1
    assert recorder.replayed == 0 and recorder.plain == 8


def test_there_is_a_limit_of_shapes(shapes: Path, tmp_path: Path, recorder: type[Recorder],
                                    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(graphed_pass, "MAX_SHAPES", 1)
    learn(make_trainer(shapes, tmp_path, multi_scale=True), steps=3)
    assert recorder.made == 1
    assert caplog.text.count("there are more than 1 shapes of batches (--rect and --multi-scale make many)") == 1


def test_what_was_recorded_is_told_once(shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        learn(make_trainer(shapes, tmp_path), steps=3)
    assert caplog.text.count("recorded as a CUDA graph: 4 images of 64 x 64, up to ") == 1
    assert "(graph 1; the pool holds 0 MiB)" in caplog.text


@pytest.mark.parametrize(("length", "padded"), [(0, 1), (1, 1), (8, 8), (9, 16), (64, 64), (65, 128)])
def test_lists_have_few_lengths(length: int, padded: int) -> None:
    table = torch.ones(2, length, 3)
    found = power_of_two(table)
    assert found.shape == (2, padded, 3) and found.sum() == 6 * length

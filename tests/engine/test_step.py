"""One step: left out on the device where it is not finite, guarded, the same however it is computed."""

from __future__ import annotations

import dataclasses
import os
import re
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import micro_tasks
import pytest
import torch
import yaml
from torch import Tensor

from yolov7.data.synthetic import generate
from yolov7.engine import run
from yolov7.engine.nonfinite import MAX_IN_A_ROW, StepGuard, TrainingError
from yolov7.engine.optim import apply
from yolov7.engine.run_config import TrainOptions
from yolov7.engine.trainer import Trainer
from yolov7.loss import blends
from yolov7.loss.criterion import Losses
from yolov7.runtime.distributed import Processes
from yolov7.structures import Batch


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate(folder, train=12, val=4)
    return folder


def make_trainer(shapes: Path, folder: Path, **changes: object) -> Trainer:
    options = TrainOptions(data=str(shapes), img_size=(64,), batch_size=4, nominal_batch=4, epochs=3, device="cpu",
                           workers=0, project=str(folder), seed=1,
                           cfg=str(Path(__file__).parents[1] / "micro.yaml"))
    changed = dataclasses.replace(options, **changes)  # type: ignore[arg-type]
    return run.build_trainer(changed, torch.device("cpu"), Processes(), ExitStack())


def batches_of(trainer: Trainer) -> list[Batch]:
    trainer.sampler.set_epoch(0)
    return list(trainer.loader)


def one_step(trainer: Trainer, batch: Batch, number: int = 0) -> Tensor:
    trainer.state.model.train()
    trainer.step.backward(batch, (0, 0, number), len(batch.images), last=True)
    return trainer.step.update()


def snapshot(trainer: Trainer) -> dict[str, Tensor]:
    """Every tensor that a step may change."""
    content = trainer.state.content()
    found = {f"{part}.{key}": value for part in ("model", "ema") for key, value in content[part].items()
             if "num_batches_tracked" not in key}
    for index, state in content["optimizer"]["state"].items():
        found |= {f"optimizer.{index}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
    return {key: value.clone() for key, value in found.items()} | {"updates": trainer.state.ema.updates.clone()}


@pytest.mark.parametrize("recipe", [(), ("optimizer.kind=adamw", "optimizer.lr0=0.001"), ("optimizer.clip_grad=1",)],
                         ids=["sgd", "adamw", "clipped"])
@pytest.mark.parametrize("first", [True, False])
def test_a_step_that_is_not_finite_changes_nothing(shapes: Path, tmp_path: Path, recipe: tuple[str, ...],
                                                   first: bool) -> None:
    trainer = make_trainer(shapes, tmp_path, set=recipe)
    good, other, _ = batches_of(trainer)
    if not first:
        assert one_step(trainer, other).tolist() == [0, 0, 0]
    before = snapshot(trainer)
    spoiled = trainer.step.loss
    trainer.step.loss = lambda output, prepared: _times(spoiled(output, prepared), float("nan"))
    assert one_step(trainer, good, 1).tolist() == [1, 0, 1]
    after = snapshot(trainer)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    trainer.step.loss = spoiled
    assert one_step(trainer, good, 1).tolist() == [0, 0, 0]
    healthy = make_trainer(shapes, tmp_path, set=recipe)
    for number, batch in enumerate([good] if first else [other, good]):
        one_step(healthy, batch, number)
    expected = snapshot(healthy)
    assert all(torch.equal(value, expected[key]) for key, value in snapshot(trainer).items())


def _times(losses: Losses, factor: float) -> Losses:
    return {**losses, "box": losses["box"] * factor}


def test_activations_that_are_not_finite_leave_the_statistics(shapes: Path, tmp_path: Path) -> None:
    """Not only the loss: the running statistics of the norms have seen them, too."""
    trainer = make_trainer(shapes, tmp_path)
    batch = batches_of(trainer)[0]
    before = snapshot(trainer)
    stem = trainer.state.model.nodes["stem"]
    hook = stem.register_forward_hook(lambda module, inputs, output: output * float("inf"))
    assert one_step(trainer, batch).tolist() == [1, 0, 1]
    hook.remove()
    assert all(torch.equal(value, before[key]) for key, value in snapshot(trainer).items())


def test_a_gradient_that_is_not_finite_is_found(shapes: Path, tmp_path: Path) -> None:
    trainer = make_trainer(shapes, tmp_path)
    batch = batches_of(trainer)[0]
    before = snapshot(trainer)
    weight = trainer.state.model.nodes["stem"].conv.weight
    hook = weight.register_hook(lambda gradient: gradient * float("inf"))
    assert one_step(trainer, batch).tolist() == [1, 0, 0]
    hook.remove()
    assert all(torch.equal(value, before[key]) for key, value in snapshot(trainer).items())


# --- guard -----------------------------------------------------------------------------------------------------


def note(guard: StepGuard, batch: Batch, flags: list[float], terms: list[float]) -> None:
    guard.state.batch += 1
    guard.note(torch.tensor(flags), [batch], [torch.tensor(terms)])


def test_the_offending_batch_is_kept_one_step_late(shapes: Path, tmp_path: Path,
                                                   caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(shapes, tmp_path)
    batch, other, _ = batches_of(trainer)
    guard = StepGuard(trainer.state, tmp_path / "run", ("a",) * 6)
    note(guard, batch, [1, 0, 1], [float("nan"), 0.1, 0.2])
    assert trainer.state.skipped == 0  # not looked at before the next step is under way
    note(guard, other, [0, 0, 0], [0.1, 0.1, 0.2])
    assert (trainer.state.skipped, trainer.state.skipped_in_a_row) == (1, 1)
    assert "epoch 1, batch 1: the loss is not finite, the step is left out (1 in this epoch)" in caplog.text
    found = torch.load(tmp_path / "run" / "nonfinite_1_1.pt", weights_only=True)
    assert torch.equal(found["images"], batch.images)
    assert found["paths"] == [meta.path for meta in batch.metas]
    assert (tmp_path / "run" / "nonfinite_1_1.jpg").stat().st_size > 1000
    guard.settle()
    assert (trainer.state.skipped, trainer.state.skipped_in_a_row) == (1, 0)
    for number in range(2, 9):
        note(guard, batch, [1, 0, 0], [0.1, 0.1, 0.2])
        note(guard, batch, [0, 0, 0], [0.1, 0.1, 0.2])
        assert "the gradient is not finite" in caplog.text or number == 2
    assert len(list((tmp_path / "run").glob("nonfinite_*.pt"))) == 3  # the disk is not filled with them


def test_twenty_in_a_row_end_the_run(shapes: Path, tmp_path: Path) -> None:
    trainer = make_trainer(shapes, tmp_path)
    batch = batches_of(trainer)[0]
    guard = StepGuard(trainer.state, tmp_path / "run", ("a",) * 6)
    for _ in range(MAX_IN_A_ROW):
        note(guard, batch, [1, 0, 1], [float("nan"), 0.1, 0.2])
    with pytest.raises(TrainingError, match=f"not finite in {MAX_IN_A_ROW} steps in a row, up to epoch 1, batch 20"):
        guard.settle()


def test_looking_for_the_scale_of_fp16_is_no_news(shapes: Path, tmp_path: Path,
                                                  caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(shapes, tmp_path)
    trainer.state.scaler = torch.amp.GradScaler("cpu", enabled=True)
    guard = StepGuard(trainer.state, tmp_path / "run", ("a",) * 6)
    caplog.clear()
    note(guard, batches_of(trainer)[0], [1, 0, 0], [0.1, 0.1, 0.2])
    guard.settle()
    assert trainer.state.skipped == 1
    assert not caplog.text
    assert not (tmp_path / "run").exists()


def test_a_scaler_takes_its_scale_back_and_the_step_with_it(shapes: Path, tmp_path: Path) -> None:
    trainer = make_trainer(shapes, tmp_path)
    state = trainer.state
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, enabled=True)  # overflows at once
    batch = batches_of(trainer)[0]
    before = snapshot(trainer)
    flags = one_step(trainer, batch)
    assert flags[0] == 1
    assert state.scaler.get_scale() == 2.0**126
    assert all(torch.equal(value, before[key]) for key, value in snapshot(trainer).items())
    state.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=True)
    assert one_step(trainer, batch)[0] == 0
    plain = make_trainer(shapes, tmp_path)
    one_step(plain, batch)
    for key, value in snapshot(plain).items():
        torch.testing.assert_close(snapshot(trainer)[key], value, rtol=1e-4, atol=1e-6)


# --- compiled --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_compiled_step_learns_the_same(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         caplog: pytest.LogCaptureFixture) -> None:
    """Loss and direction: a fresh network multiplies the rounding of another order of sums."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    caplog.set_level("INFO", "yolov7")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # without minutes of C++
    moved, terms = [], []
    for compile_it in (False, True):
        trainer = make_trainer(shapes, tmp_path, compile=compile_it, batch_size=5)
        weights = all_weights(trainer)
        apply(trainer.schedule.at(5), trainer.state.optimizer)
        trainer.state.model.train()
        for batch in batches_of(trainer)[1:]:  # the last one is smaller, and not compiled
            terms.append(trainer.step.backward(batch, (0, 0, 1), len(batch.images), last=True))
        assert trainer.step.update().tolist() == [0, 0, 0]
        moved.append(all_weights(trainer) - weights)
    torch.testing.assert_close(torch.stack(terms[2:]), torch.stack(terms[:2]), rtol=1e-3, atol=1e-5)
    assert torch.cosine_similarity(moved[0], moved[1], dim=0) > 0.98
    assert float(moved[1].norm()) == pytest.approx(float(moved[0].norm()), rel=0.05)
    assert re.search(r"compiling part \d+ \.\.\..*compiling part \d+ took \d+ s, all parts", caplog.text, re.DOTALL)
    assert f"compiled parts are kept for the next run in {os.environ['YOLOV7_CACHE_DIR']}" in caplog.text


def all_weights(trainer: Trainer) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.state.model.parameters()])


def test_what_a_term_draws_follows_from_the_key_of_the_batch(shapes: Path, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of positives that learn masks: the same for the same seed, epoch and batch, and only then."""
    monkeypatch.setattr(blends, "OF_IMAGE", 3)
    file = tmp_path / "model.yaml"
    definition = micro_tasks.definition_of("MaskHead", micro_tasks.ARGUMENTS["MaskHead"])
    file.write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
    trainer = make_trainer(shapes, tmp_path, cfg=str(file), set=("loss.loss_ota=false",))
    batch = batches_of(trainer)[0]
    trainer.state.model.train()
    losses = [trainer.step.backward(batch, key, 4, last=True).tolist()
              for key in ((1, 0, 0), (1, 0, 0), (1, 1, 0), (1, 0, 1), (2, 0, 0))]
    mask = list(trainer.terms).index("mask")
    assert losses[0] == losses[1] and len({row[mask] for row in losses}) == 4
    assert all(row[:mask] == losses[0][:mask] for row in losses)

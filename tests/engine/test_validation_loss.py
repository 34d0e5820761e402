"""The loss on the validation split: that of the criterion on the averaged model, and nothing else moves."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from yolov7.engine.run import build_trainer
from yolov7.engine.run_config import TrainOptions
from yolov7.engine.trainer import Trainer
from yolov7.evaluation.evaluate import evaluate
from yolov7.inference.network import TorchNetwork
from yolov7.loss.criterion import AUXILIARY_TOP_K
from yolov7.model.detector import network_input
from yolov7.runtime.distributed import Processes
from yolov7.structures import Batch, HeadOutput

MICRO = str(Path(__file__).parents[1] / "micro.yaml")
AUXILIARY = "scale_of: yolov7-w6\nname: w6-eighth\nscale: {width: 0.125, hidden_width: 0.125}\n"
CPU = torch.device("cpu")


def make_trainer(data: Path, **options: Any) -> Trainer:
    given: dict[str, Any] = {"cfg": MICRO, "img_size": (64,), "batch_size": 2, "workers": 0, "device": "cpu",
                             "precision": "fp32", "epochs": 1, "dry_run": True, **options}
    return build_trainer(TrainOptions(data=str(data), **given))


@pytest.fixture(scope="module")
def trainer(shapes: Path) -> Trainer:
    """The first run, whose weights nobody changes."""
    return make_trainer(shapes, batch_size=1)  # two batches of two images to evaluate on


def measured(trainer: Trainer, precision: str = "fp32") -> dict[str, float]:
    loss = trainer.make_validation_loss()
    evaluate(TorchNetwork(trainer.state.ema.model, CPU, precision), trainer.val_loader, trainer.val_set, watch=loss.add)
    return loss.result(Processes())


def expected(trainer: Trainer, top_k: int = 0) -> dict[str, float]:
    """Of the training form, batch by batch, by its lead head."""
    criterion = trainer.make_criterion(Processes())
    criterion.config = replace(criterion.config, top_k=top_k)
    sums: dict[str, float] = dict.fromkeys(trainer.terms, 0.0)
    with torch.no_grad():
        for batch in trainer.val_loader:
            output = trainer.state.ema.model(network_input(batch.images, CPU))
            for name, value in criterion(HeadOutput(output.levels, maps=output.maps), batch.targets).items():
                sums[name] += len(batch.images) * value.item()
    return {name: value / len(trainer.val_set) for name, value in sums.items()}


def logits(trainer: Trainer) -> tuple[HeadOutput, Batch]:
    batch = next(iter(trainer.val_loader))
    with torch.no_grad():
        return trainer.state.ema.model(network_input(batch.images, CPU)), batch


def test_it_is_the_loss_of_the_averaged_model(trainer: Trainer) -> None:
    found = measured(trainer)
    assert found == pytest.approx(expected(trainer), rel=1e-4)  # fused weights are rounded
    assert list(found) == list(trainer.terms) and all(value > 0 for value in found.values())


def test_half_precision_is_near(trainer: Trainer) -> None:
    assert measured(trainer, "bf16") == pytest.approx(measured(trainer), rel=0.05)


def test_nothing_of_the_run_moves(trainer: Trainer) -> None:
    """Neither weights and statistics nor the generators, and no gradient is left."""
    output, batch = logits(trainer)
    before, generator = copy.deepcopy(trainer.state.content()), torch.get_rng_state()
    trainer.make_validation_loss().add(output, batch)
    assert torch.equal(torch.get_rng_state(), generator)
    measured(trainer)
    after = trainer.state.content()
    for part in ("model", "ema"):
        assert all(torch.equal(value, after[part][key]) for key, value in before[part].items())
    assert all(parameter.grad is None for parameter in trainer.state.model.parameters())
    assert trainer.state.model.training


def test_an_auxiliary_head_has_no_part_but_its_number_of_positives(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "w6.yaml").write_text(AUXILIARY)
    trainer = make_trainer(shapes, cfg=str(tmp_path / "w6.yaml"))
    assert measured(trainer) == pytest.approx(expected(trainer, AUXILIARY_TOP_K), rel=1e-3)


def test_images_without_objects_count(trainer: Trainer) -> None:
    output, batch = logits(trainer)
    loss = trainer.make_validation_loss()
    targets = replace(batch.targets, valid=torch.zeros_like(batch.targets.valid), counts=(0,) * len(batch.images))
    loss.add(output, replace(batch, targets=targets))
    found = loss.result(Processes())
    assert found["box"] == found["classification"] == 0 and found["objectness"] > 0


def test_what_is_not_finite_does_not_count(trainer: Trainer) -> None:
    output, batch = logits(trainer)
    broken = HeadOutput(tuple(level * float("nan") for level in output.levels))
    loss = trainer.make_validation_loss()
    loss.add(broken, batch)
    assert loss.result(Processes()) == {}
    loss.add(output, batch)
    alone = trainer.make_validation_loss()
    alone.add(output, batch)
    assert loss.result(Processes()) == alone.result(Processes())


class Two(Processes):
    """The first of two processes, of which the other has had one image with terms of 1."""

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return tensor + 1


def test_processes_share_the_images(trainer: Trainer) -> None:
    output, batch = logits(trainer)
    loss = trainer.make_validation_loss()
    loss.add(output, batch)
    alone, count = loss.result(Processes()), len(batch.images)
    assert loss.result(Two()) == pytest.approx({name: (value * count + 1) / (count + 1)
                                               for name, value in alone.items()})


def test_without_an_image_there_is_none(trainer: Trainer) -> None:
    assert trainer.make_validation_loss().result(Processes()) == {}

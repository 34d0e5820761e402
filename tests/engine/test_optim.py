"""Parameter groups, schedule and moving average: pure parts of the recipe."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from yolov7.config.recipe import OptimizerConfig
from yolov7.engine.optim import EMA_DECAY, EMA_RAMP, ModelEMA, Schedule, apply, make_optimizer, parameter_groups
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec

CONFIG = OptimizerConfig()


@pytest.fixture(scope="module")
def tiny() -> Detector:
    return Detector(read_spec("yolov7-tiny"), 3)


def test_groups_cover_every_parameter_once(tiny: Detector) -> None:
    groups = parameter_groups(tiny)
    ids = [id(p) for group in groups for p in group]
    assert sorted(ids) == sorted(id(p) for p in tiny.parameters())
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in tiny.modules())
    convs = sum(isinstance(m, nn.Conv2d) for m in tiny.modules())
    assert [len(group) for group in groups] == [norms + 6, convs, norms + 3]  # 6 implicit vectors, 3 detection biases


def test_frozen_parameters_are_left_out(tiny: Detector) -> None:
    frozen = next(iter(tiny.parameters())).requires_grad_(False)
    try:
        assert all(p is not frozen for group in parameter_groups(tiny) for p in group)
    finally:
        frozen.requires_grad_(True)


@pytest.mark.parametrize(("batch", "nominal", "factor"), [
    (16, 64, 1.0), (24, 64, 1.125), (128, 64, 2.0), (16, 16, 1.0),
])
def test_weight_decay_follows_the_real_batch(tiny: Detector, batch: int, nominal: int, factor: float) -> None:
    decays = [group["weight_decay"] for group in make_optimizer(tiny, CONFIG, batch, nominal).param_groups]
    assert decays == [0.0, pytest.approx(0.0005 * factor), 0.0]


def test_learning_rate_trace() -> None:
    schedule = Schedule(CONFIG, epochs=300, batches=400, batch_size=16)
    assert schedule.warmup == 1200
    for iteration in range(5 * 400):
        epoch = iteration // 400
        lr = 0.01 * (1 - 0.9 * (1 - math.cos(math.pi * epoch / 300)) / 2)
        t = min(iteration / 1200, 1)
        found = schedule.at(iteration)
        assert found.lr == pytest.approx(t * lr, abs=1e-9)
        assert found.bias_lr == pytest.approx(0.1 + t * (lr - 0.1), abs=1e-9)
        assert found.momentum == pytest.approx(0.8 + t * 0.137, abs=1e-9)
        assert found.accumulate == max(round(1 + t * 3), 1)


@pytest.mark.parametrize(("epochs", "batches", "warmup"), [
    (30, 13, 39), (300, 13, 1000), (153, 13, 39), (2, 7393, 22179), (300, 7393, 22179),
])
def test_warmup_is_three_epochs_and_a_thousand_iterations_in_long_runs_only(epochs: int, batches: int,
                                                                             warmup: int) -> None:
    assert Schedule(CONFIG, epochs, batches, 16).warmup == warmup


@pytest.mark.parametrize(("least", "warmup"), [(0, 39), (100, 100), (3000, 39)])
def test_a_recipe_says_how_long_a_warmup_is_at_least(least: int, warmup: int) -> None:
    assert Schedule(dataclasses.replace(CONFIG, min_warmup=least), 300, 13, 16).warmup == warmup


def test_without_warmup_and_linear_decay() -> None:
    config = dataclasses.replace(CONFIG, warmup_epochs=0.0)
    schedule = Schedule(config, epochs=11, batches=10, batch_size=32, nominal_batch=64, linear=True)
    assert schedule.at(0).lr == 0.01
    assert schedule.at(0).accumulate == 2
    assert schedule.at(109).lr == pytest.approx(0.001)
    assert Schedule(config, 1, 10, 32, linear=True).at(0).lr == 0.01


def test_apply_writes_every_group(tiny: Detector) -> None:
    optimizer = make_optimizer(tiny, CONFIG, 16, 64)
    apply(Schedule(CONFIG, 300, 400, 16).at(0), optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0, 0.1]
    assert {group["momentum"] for group in optimizer.param_groups} == {0.8}


def test_ema_follows_the_closed_form(tiny: Detector) -> None:
    ema = ModelEMA(tiny)
    start = {key: value.clone() for key, value in ema.model.state_dict().items()}
    target = Detector(read_spec("yolov7-tiny"), 3)
    for module in target.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None:
            module.num_batches_tracked += 7
    tiny.load_state_dict(target.state_dict())
    kept = 1.0
    for update in range(1, 6):
        ema.update()
        kept *= EMA_DECAY * (1 - math.exp(-update / EMA_RAMP))
    assert ema.updates == 5
    expected = tiny.state_dict()
    for key, value in ema.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, kept * start[key] + (1 - kept) * expected[key], rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(value, start[key]), key

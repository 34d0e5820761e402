"""The terms of segmentation and pose never wait for the device either (see ``test_static.py``)."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
from simple_task_loss import KEYPOINT_CHANNELS, criterion_of, keypoint_batch, mask_batch, mask_channels
from test_blend_terms import CHANNELS
from test_blend_terms import batch as blend_batch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from yolov7.config.recipe import LossConfig
from yolov7.loss import assignment as simota
from yolov7.loss import blends
from yolov7.loss.criterion import Criterion, total_loss
from yolov7.loss.keypoints import KEYPOINT_TERMS
from yolov7.loss.masks import MASK_TERMS
from yolov7.loss.terms import Prepared
from yolov7.structures import HeadOutput, Targets

CONFIGS = {
    "plain": (LossConfig(loss_ota=False), False), "ota": (LossConfig(), False),
    "cost": (LossConfig(task_cost=1.0), False), "auxiliary": (LossConfig(task_cost=1.0), True),
    "independent": (LossConfig(task_cost=1.0, assignment="independent"), True),
    "auxiliary plain": (LossConfig(loss_ota=False), True), "jitter": (LossConfig(mask_jitter=0.1), False)}
COUNTS, SIZE = (3, 0, 12), (64, 96)


def case_of(task: str, name: str, counts: tuple[int, ...] = COUNTS,
            size: tuple[int, int] = SIZE) -> tuple[Criterion, HeadOutput, Targets]:
    config, auxiliary = CONFIGS[name]
    if task == "blends":
        return (criterion_of(config, blends.MASK_IOU_TERMS, CHANNELS),
                *blend_batch(0, counts, size, True, auxiliary=auxiliary))
    if task == "keypoints":
        return (criterion_of(config, KEYPOINT_TERMS, KEYPOINT_CHANNELS),
                *keypoint_batch(0, counts, size, auxiliary=auxiliary))
    return (criterion_of(config, MASK_TERMS, mask_channels(6)),
            *mask_batch(0, counts, size, 6, auxiliary=auxiliary, separate=task == "separate masks",
                        ratio=2 if task == "separate masks" else 4, unknown=task == "masks"))


def moved(output: HeadOutput, change: Any) -> HeadOutput:
    heads = [HeadOutput(tuple(change(level) for level in head.levels)) for head in (output, *output.auxiliary)]
    maps = {name: change(value) for name, value in output.maps.items()}
    return HeadOutput(heads[0].levels, tuple(heads[1:]), maps)


def leaves(output: HeadOutput) -> list[Tensor]:
    return [level for head in (output, *output.auxiliary) for level in head.levels] + list(output.maps.values())


CASES = [(task, name) for task in ("masks", "separate masks", "keypoints") for name in CONFIGS
         if name != "jitter"]
CASES += [("blends", "plain"), ("blends", "jitter"), ("blends", "auxiliary plain")]


@pytest.mark.untraced
@pytest.mark.parametrize(("task", "name"), CASES)
def test_the_whole_step_runs_without_values(task: str, name: str) -> None:
    real, output, targets = case_of(task, name)
    prepared = real.prepare(output, targets)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        faked = moved(output, mode.from_tensor)
        own = Prepared(targets.map(mode.from_tensor), prepared.candidates.map(mode.from_tensor),
                       {key: mode.from_tensor(table) for key, table in prepared.tables.items()})
        criterion = copy.copy(real)
        for key in ("anchors", "stride_values", "class_weights"):
            setattr(criterion, key, mode.from_tensor(getattr(real, key)))
        for budget in (1 << 30, 1 << 14):  # one group, and groups with chunks
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(simota.MAX_PAIRS, "cpu", budget)
                total_loss(criterion.loss(faked, own)).backward()
        assert all(leaf.grad is not None and leaf.grad.shape == leaf.shape for leaf in leaves(faked))


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("YOLOV7_TEST_TASKS"), reason="takes minutes: YOLOV7_TEST_TASKS=1")
@pytest.mark.parametrize(("task", "name"), [("masks", "plain"), ("keypoints", "auxiliary"), ("blends", "jitter")])
def test_compiled_with_a_dynamic_batch(task: str, name: str) -> None:
    """The same numbers, in one graph."""
    torch._dynamo.reset()
    compiled = None
    for batch, objects in ((6, 3), (12, 20)):
        criterion, output, targets = case_of(task, name, tuple(i % objects for i in range(batch)), (160, 224))
        own = criterion if compiled is None else own  # noqa: F821  # the one that is compiled

        def total(output: HeadOutput, prepared: Prepared, own: Criterion = own) -> Tensor:
            return total_loss(own.loss(output, prepared))

        compiled = compiled or torch.compile(total, fullgraph=True, dynamic=True, backend="aot_eager")
        prepared = own.prepare(output, targets)
        ours, theirs = compiled(output, prepared), total(output, prepared)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        for one, other in zip(*(torch.autograd.grad(value, leaves(output)) for value in (ours, theirs)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-8)
    torch._dynamo.reset()


@pytest.mark.gpu
@pytest.mark.parametrize(("task", "name"), CASES)
def test_no_synchronisation_on_a_gpu(task: str, name: str) -> None:
    host, output, targets = case_of(task, name)
    own = moved(output, lambda leaf: leaf.detach().cuda().requires_grad_())
    criterion = Criterion(host.config, host.anchors.cuda(), host.strides, 2, terms=host.terms, channels=host.channels)
    total_loss(criterion(own, targets)).backward()  # kernels are loaded
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        total = total_loss(criterion(own, targets))
        total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(total.cpu(), total_loss(host(output, targets)), rtol=1e-4, atol=1e-6)

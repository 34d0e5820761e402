"""The loss never waits for the device: shapes, branches and memory follow from what the host knows."""

from __future__ import annotations

import copy
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_batched import ANCHORS, STRIDES, make_output, make_targets
from torch._subclasses.fake_tensor import FakeTensorMode

from yolov7.config.recipe import LossConfig
from yolov7.loss import assignment as simota
from yolov7.loss.criterion import Criterion, Losses, total_loss
from yolov7.loss.terms import Prepared
from yolov7.structures import HeadOutput, Targets

CONFIGS = {
    "ota": (LossConfig(), False), "plain": (LossConfig(loss_ota=False), False), "auxiliary": (LossConfig(), True),
    "lead_guided": (LossConfig(assignment="lead_guided"), True),
    "independent": (LossConfig(assignment="independent", aux_decode="free"), True),
    "options": (LossConfig(deduplicate_candidates=True, fl_gamma=1.5, label_smoothing=0.1, cls_pw=2.0), False),
}


def step(config: LossConfig, output: HeadOutput, targets: Targets) -> Losses:
    first = output.levels[0]
    losses = Criterion(config, ANCHORS.to(first.device), STRIDES, first.shape[-1] - 5)(output, targets)
    total_loss(losses).backward()
    return losses


@pytest.mark.untraced
@pytest.mark.parametrize("name", CONFIGS)
def test_the_whole_step_runs_without_values(name: str) -> None:
    """Under fake tensors any shape or branch that depends on a value raises."""
    config, auxiliary = CONFIGS[name]
    output = make_output(0, 4, (96, 128), 5, auxiliary=auxiliary)
    targets = make_targets(0, (3, 0, 40, 9), (96, 128), 5)
    real = Criterion(config, ANCHORS, STRIDES, 5)
    prepared = real.prepare(output, targets)  # on the host, before any prediction is there
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        def fake(tensor: torch.Tensor) -> torch.Tensor:
            return mode.from_tensor(tensor)

        heads = [HeadOutput(tuple(fake(level) for level in head.levels)) for head in (output, *output.auxiliary)]
        faked = HeadOutput(heads[0].levels, tuple(heads[1:]))
        own = Prepared(targets.map(fake), prepared.candidates.map(fake))
        criterion = copy.copy(real)
        criterion.anchors, criterion.stride_values = fake(real.anchors), fake(real.stride_values)
        criterion.class_weights = fake(real.class_weights)
        for budget in (1 << 30, 1 << 12):  # one group, and groups with chunks
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(simota.MAX_PAIRS, "cpu", budget)
                losses = criterion.loss(faked, own)
                total_loss(losses).backward()
        levels = [level for head in heads for level in head.levels]
        assert all(level.grad is not None and level.grad.shape == level.shape for level in levels)


def test_fake_tensors_do_raise_on_values() -> None:
    """The proof proves something: the simple form fails it."""
    from simple_loss import SimpleCriterion

    output, targets = make_output(0, 1, (64, 64), 2), make_targets(0, (3,), (64, 64), 2)
    with FakeTensorMode() as mode:
        levels = tuple(mode.from_tensor(level) for level in output.levels)
        own = Targets(*(mode.from_tensor(tensor) for tensor in (targets.boxes, targets.labels, targets.valid)))
        simple = SimpleCriterion(LossConfig(), mode.from_tensor(ANCHORS), STRIDES)
        with pytest.raises(Exception, match="nonzero"):
            simple(HeadOutput(levels), own)


ON_DEMAND = pytest.mark.skipif(not os.environ.get("YOLOV7_TEST_COMPILES"), reason="a minute: YOLOV7_TEST_COMPILES=1")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), [
    ("auxiliary", "eager"), pytest.param("auxiliary", "aot_eager", marks=ON_DEMAND),
    pytest.param("ota", "aot_eager", marks=ON_DEMAND)])
def test_compiled_with_a_dynamic_batch(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, also where the eager form would match in groups that follow from the counts of objects.

    The backward pass is traced, too, by ``aot_eager``: here on demand, and always in ``engine/test_step.py``.
    """
    monkeypatch.setitem(simota.MAX_PAIRS, "cpu", 1 << 12)
    config, auxiliary = CONFIGS[name]
    criterion = Criterion(config, ANCHORS, STRIDES, 6)

    def total(levels: tuple[torch.Tensor, ...], extra: tuple[torch.Tensor, ...], prepared: Prepared) -> torch.Tensor:
        return total_loss(criterion.loss(HeadOutput(levels, (HeadOutput(extra),) if extra else ()), prepared))

    torch._dynamo.reset()
    compiled = torch.compile(total, fullgraph=True, dynamic=True, backend=backend)
    graphs = []
    for batch, objects in ((6, 3), (17, 30)):  # sizes that no other axis has
        output = make_output(batch, batch, (160, 224), 6, auxiliary=auxiliary)
        targets = make_targets(batch, tuple(index % objects for index in range(batch)), (160, 224), 6)
        extra = output.auxiliary[0].levels if auxiliary else ()
        prepared = criterion.prepare(output, targets)
        ours = compiled(output.levels, extra, prepared)
        ours.backward()
        compiled_gradients = [level.grad.clone() for level in (*output.levels, *extra)]
        for level in (*output.levels, *extra):
            level.grad = None
        theirs = total(output.levels, extra, prepared)
        theirs.backward()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        for gradient, level in zip(compiled_gradients, (*output.levels, *extra), strict=True):
            torch.testing.assert_close(gradient, level.grad, rtol=1e-4, atol=1e-8)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    torch._dynamo.reset()
    if torch.__version__ >= (2, 15):  # earlier ones compile the sizes inside of dataclasses one by one
        assert graphs[-1] == graphs[0], "another batch size compiled anew"


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("logit", [40.0, -40.0, 1e4, -1e4, 0.0])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_saturated_logits(dtype: torch.dtype, logit: float, auxiliary: bool) -> None:
    output = make_output(0, 2, (64, 96), 3, 0.0, auxiliary, dtype)
    for head in (output, *output.auxiliary):
        for level in head.levels:
            level.data.fill_(logit)
    losses = step(LossConfig(), output, make_targets(0, (6, 3), (64, 96), 3, exact=True))
    assert torch.isfinite(total_loss(losses))
    for head in (output, *output.auxiliary):
        assert all(torch.isfinite(level.grad).all() and level.grad.dtype == dtype for level in head.levels)
    criterion = Criterion(LossConfig(), ANCHORS, STRIDES, 3)
    matched = criterion.assign(output, criterion.prepare(output, make_targets(0, (6, 3), (64, 96), 3)))[0]
    assert matched.positive.any()


@pytest.mark.parametrize("classes", [1, 3])
def test_odd_boxes(classes: int) -> None:
    """Without area, of a thousandth of a pixel, as large as the image, outside it."""
    boxes = torch.tensor([[[5, 5, 5, 5], [9, 9, 9.001, 9.001], [0, 0, 96, 64], [90, 60, 200, 200], [-50, -50, 4, 4],
                           [0, 30, 96, 30.5], [10, 0, 10.5, 64], [20, 20, 44, 44]]])
    targets = Targets(boxes, torch.zeros(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.bool))
    for auxiliary in (False, True):
        output = make_output(1, 1, (64, 96), classes, auxiliary=auxiliary)
        losses = step(LossConfig(), output, targets)
        assert torch.isfinite(total_loss(losses))
        assert all(torch.isfinite(level.grad).all() for level in output.levels)


def test_autocast_changes_nothing() -> None:
    output, targets = make_output(2, 2, (64, 96), 3), make_targets(2, (6, 3), (64, 96), 3)
    plain = step(LossConfig(), output, targets)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(total_loss(step(LossConfig(), output, targets)), total_loss(plain))


def test_same_numbers_twice() -> None:
    for auxiliary in (False, True):
        results = []
        for _ in range(2):
            output = make_output(2, 3, (96, 96), 3, auxiliary=auxiliary)
            losses = step(LossConfig(), output, make_targets(2, (20, 3, 7), (96, 96), 3, exact=True))
            results.append([total_loss(losses), *(level.grad for level in output.levels)])
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


# --- memory ----------------------------------------------------------------------------------------------------------

CROWDED = """
import resource, sys
sys.path[:0] = sys.argv[1:3]
import torch
from test_batched import ANCHORS, STRIDES, make_targets
from yolov7.config.recipe import LossConfig
from yolov7.loss.criterion import Criterion, total_loss
from yolov7.structures import HeadOutput

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

levels = tuple(torch.randn(16, 3, 640 // s, 640 // s, 85, requires_grad=True) for s in STRIDES)
targets = make_targets(0, (2000,) + (20,) * 15, (640, 640), 80)
for level in levels:
    level.grad = torch.zeros_like(level)  # predictions and their gradients are not counted
criterion = Criterion(LossConfig(), ANCHORS, STRIDES, 80)
small = make_targets(0, (4,) * 16, (640, 640), 80)
before = peak()
gradients = torch.autograd.grad(total_loss(criterion(HeadOutput(levels), targets)), levels)
print(peak() - before - sum(g.numel() * 4 for g in gradients))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures the peak of memory as Linux counts it")
def test_a_crowded_image_stays_small() -> None:
    """2,000 boxes in one image of 16 at 640 px, 80 classes: below 1.5 GB above predictions and gradients."""
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", CROWDED, str(here), str(here.parent)], check=True,
                          capture_output=True, text=True)
    assert int(done.stdout) < 1.5e9
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_no_synchronisation_on_a_gpu(name: str) -> None:
    config, auxiliary = CONFIGS[name]
    output = make_output(0, 4, (96, 128), 5, auxiliary=auxiliary)
    heads = [HeadOutput(tuple(level.detach().cuda().requires_grad_() for level in head.levels))
             for head in (output, *output.auxiliary)]
    moved = HeadOutput(heads[0].levels, tuple(heads[1:]))
    targets = make_targets(0, (3, 0, 40, 9), (96, 128), 5)
    criterion = Criterion(config, ANCHORS.cuda(), STRIDES, 5)
    total_loss(criterion(moved, targets)).backward()  # kernels are loaded
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        total = total_loss(criterion(moved, targets))
        total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    reference = total_loss(Criterion(config, ANCHORS, STRIDES, 5)(output, targets))
    torch.testing.assert_close(total.cpu(), reference, rtol=1e-4, atol=1e-6)

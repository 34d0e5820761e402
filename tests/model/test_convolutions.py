"""Weights that are cast together, once a step: the same numbers as autocast's own casts, and fewer of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from yolov7.model.convolutions import Conv2d, HeldWeights
from yolov7.model.detector import Detector
from yolov7.model.reparam import reparameterize
from yolov7.model.spec import read_spec


class Casts(TorchDispatchMode):
    """Counts conversions of float32 tensors of four dimensions to another format."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].dtype == torch.float32 and args[0].ndim == 4:
            self.count += result.dtype == torch.bfloat16
        return result


def train(model: Detector, held: HeldWeights | None, steps: int) -> tuple[list[float], int]:
    """Losses of some steps of two batches, and the casts of the last one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    losses = []
    for step in range(steps):
        if held is not None:
            held.refresh()
        with Casts() as casts:
            for batch in range(2):
                torch.manual_seed(10 * step + batch)
                images = torch.rand(2, 3, 64, 96).to(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16):
                    output = model(images)
                loss = torch.stack([level.float().square().mean() for level in output.levels]).sum()
                loss.backward()
                losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses, casts.count


@pytest.mark.parametrize("name", ["yolov7", "yolov7-tiny-pose"])
def test_held_weights_give_the_same_bits(name: str) -> None:
    torch.manual_seed(0)
    plain = Detector(read_spec(name), 3).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    held = copy.deepcopy(plain)
    expected, casts = train(plain, None, 2)
    found, fewer = train(held, HeldWeights(held, torch.bfloat16), 2)
    assert found == expected
    for one, other in zip(plain.state_dict().values(), held.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    convolutions = sum(isinstance(module, Conv2d) for module in plain.modules())
    assert casts - fewer >= 2 * convolutions > 100  # each of them, in either batch
    assert plain.state_dict().keys() == held.state_dict().keys()


def test_a_copy_that_is_deployed_uses_the_weights_themselves() -> None:
    model = Detector(read_spec("yolov7-tiny"), 2)
    HeldWeights(model, torch.bfloat16)
    copied = reparameterize(model)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = reparameterize(Detector(read_spec("yolov7-tiny"), 2).eval())
        expected.load_state_dict(copied.state_dict())
        assert all(torch.equal(*pair) for pair in zip(copied(images).levels, expected(images).levels, strict=True))

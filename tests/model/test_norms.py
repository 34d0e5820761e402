"""What stands between convolutions: the values, and what is not copied."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from yolov7.model.blocks import Conv
from yolov7.model.norms import make_activation


@pytest.mark.parametrize("name", ["silu", "leaky_relu"])
def test_a_step_copies_no_activation(name: str) -> None:
    """In place, SiLU has its input copied by autograd: it needs it in the backward pass."""
    block = Conv(4, 8, 3, activation=name)
    images = torch.rand(2, 4, 8, 8, requires_grad=True)
    with torch.profiler.profile() as profile:
        block(images).sum().backward()
    assert "aten::clone" not in {event.key for event in profile.key_averages()}


def test_activations_are_in_place_without_gradients() -> None:
    silu = make_activation("silu")
    x = torch.randn(2, 3)
    expected = F.silu(x)
    assert silu(x).data_ptr() == x.data_ptr() and torch.equal(x, expected)
    y = x.clone().requires_grad_()
    assert silu(2 * y).grad_fn is not None and torch.equal(y, x)


def test_other_activations_are_refused() -> None:
    with pytest.raises(ValueError, match="activation 'mish'; accepted: silu, leaky_relu"):
        make_activation("mish")

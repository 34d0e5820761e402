"""Norm and activation as one operation: Triton's kernels by its interpreter, against the two of torch."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov7.config import InputError
from yolov7.model import norms
from yolov7.model.blocks import ELAN, Conv, FusedConv
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
LOCKSTEP = Path(__file__).parents[1] / "engine" / "test_gpu_lockstep.py"
COMMAND = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--no-cov", "-p", "no:cacheprovider", __file__, LOCKSTEP]

kernel_test = (pytest.mark.gpu if torch.cuda.is_available() and not INTERPRETED else pytest.mark.skipif(
    not INTERPRETED, reason="run by test_all_kernels_by_the_interpreter, or on a CUDA device"))


@pytest.mark.skipif(INTERPRETED, reason="is in it")
@pytest.mark.untraced
def test_all_kernels_by_the_interpreter() -> None:
    """Triton decides for or against its interpreter when it is imported: in a process of its own."""
    pytest.importorskip("triton")
    done = subprocess.run(COMMAND, env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=Path(__file__).parents[2],
                          capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0 and done.stdout.count(".") > 20, done.stdout + done.stderr


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.untraced
def test_all_kernels_become_machine_code_without_a_gpu(capability: int) -> None:
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from yolov7.runtime import norm_kernels

    constants = {"KIND": norm_kernels.SILU, "ROWS": norm_kernels.ROWS, "CHANNELS": norm_kernels.CHANNELS}
    whole = {"m", "c", "stride", "parts", "rows_of_part"}
    names = [name for name, value in vars(norm_kernels).items() if hasattr(value, "arg_names")]
    launched = [name for name in names if f"    {name}[" in Path(norm_kernels.__file__).read_text()]
    assert len(launched) == 7
    for name in launched:
        kernel = getattr(norm_kernels, name)
        kinds = {argument: "constexpr" if argument in constants else "i32" if argument in whole else
                 "fp32" if not argument.endswith("_ptr") else
                 "*bf16" if argument in ("x_ptr", "y_ptr", "grad_ptr", "out_ptr") else "*fp32"
                 for argument in kernel.arg_names}
        used = {argument: value for argument, value in constants.items() if argument in kernel.arg_names}
        made = compile(ASTSource(kernel, kinds, used), target=GPUTarget("cuda", capability, 32))
        assert len(made.asm["cubin"]) > 500, name


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The kernels, on a GPU or run by NumPy."""
    if INTERPRETED:
        monkeypatch.setattr(norms, "_suits", lambda x: x.is_contiguous(memory_format=torch.channels_last))
    from yolov7.runtime import norm_kernels

    return norm_kernels


def simple(x: Tensor, weight: Tensor, bias: Tensor, kind: str) -> Tensor:
    """Of rows, in the format of what is given."""
    z = (x - x.mean(0)) / (x.var(0, unbiased=False) + norms.EPSILON).sqrt() * weight + bias
    return {"silu": F.silu(z), "leaky_relu": F.leaky_relu(z, 0.1)}[kind]


@kernel_test
@pytest.mark.parametrize(("rows", "channels", "kind", "mean"), [
    (200, 24, "silu", 0.0), (1, 8, "silu", 1.0), (130, 70, "leaky_relu", 0.0), (700, 64, "leaky_relu", 50.0),
    (65, 200, "silu", 50.0)])
def test_rows(kernels: ModuleType, rows: int, channels: int, kind: str, mean: float) -> None:
    torch.manual_seed(rows)
    x, grad = (3 * torch.randn(rows, channels) + mean).to(DEVICE), torch.randn(rows, channels).to(DEVICE)
    weight, bias = (torch.rand(channels) + 0.5).to(DEVICE), torch.randn(channels).to(DEVICE)
    running = torch.zeros(channels, device=DEVICE), torch.ones(channels, device=DEVICE)
    number = {"silu": kernels.SILU, "leaky_relu": kernels.LEAKY_RELU}[kind]
    y, *moments = kernels.forward(x, weight, bias, running, (norms.MOMENTUM, norms.EPSILON), number, 0.1)
    found = kernels.backward(grad, x, weight, bias, *moments, number, 0.1)
    exact = [value.double().requires_grad_() for value in (x, weight, bias)]
    expected = simple(*exact, kind)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=2e-5)
    for one, other in zip(found, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(running[0].double(), norms.MOMENTUM * x.double().mean(0), rtol=1e-5,
                               atol=1e-6)
    if rows > 1:
        torch.testing.assert_close(running[1].double(), 1 - norms.MOMENTUM + norms.MOMENTUM * x.double().var(0),
                                   rtol=1e-5, atol=1e-6)


@kernel_test
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 4096, 4097, 100_000])
@pytest.mark.parametrize("channels", [8, 64, 1024])
def test_no_part_of_the_rows_is_empty(kernels: ModuleType, rows: int, channels: int) -> None:
    parts, own = kernels._parts(rows, channels)
    assert (parts - 1) * own < rows <= parts * own


@kernel_test
@pytest.mark.parametrize("rep_positions", [(), (2,)], ids=["plain", "re-parameterized"])
@pytest.mark.parametrize("activation", ["silu", "leaky_relu"])
def test_a_block_learns_the_same(kernels: ModuleType, activation: str, rep_positions: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    plain = ELAN(8, 16, 8, rep_positions=rep_positions, activation=activation)
    plain = plain.to(DEVICE, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    fused = copy.deepcopy(plain)
    for module in fused.modules():
        if isinstance(module, norms.BatchNorm):
            module.fused = True
    images = torch.rand(2, 8, 6, 10).to(DEVICE, memory_format=torch.channels_last).requires_grad_()
    grads = []
    for block in (plain, fused):
        output = block(images)
        weight = torch.linspace(-1, 1, output.numel(), device=DEVICE).view_as(output)
        grads.append(torch.autograd.grad((output * weight).sum(), [images, *block.parameters()]))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    for one, other in zip(plain.buffers(), fused.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(plain.eval()(images), fused.eval()(images))


@kernel_test
@pytest.mark.parametrize(("rows", "channels"), [(1, 8), (200, 24), (130, 70), (65, 200)])
@pytest.mark.parametrize("kind", ["silu", "leaky_relu"])
def test_bias_and_activation_are_one_pass(kernels: ModuleType, rows: int, channels: int, kind: str) -> None:
    torch.manual_seed(rows)
    x, bias = 3 * torch.randn(rows, channels, device=DEVICE), torch.randn(channels, device=DEVICE)
    expected = {"silu": F.silu, "leaky_relu": lambda z: F.leaky_relu(z, 0.1)}[kind]((x + bias).double())
    number = {"silu": kernels.SILU, "leaky_relu": kernels.LEAKY_RELU}[kind]
    before = x.data_ptr()
    kernels.add_bias_and_activate(x, bias, number, 0.1)
    assert x.data_ptr() == before
    torch.testing.assert_close(x.double(), expected, rtol=1e-6, atol=1e-6)


@kernel_test
@pytest.mark.parametrize("activation", ["silu", "leaky_relu"])
def test_a_deployed_block_finds_the_same(kernels: ModuleType, activation: str) -> None:
    """Its convolutions are asked without their biases on a GPU; the interpreter's are not."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 24, 3, padding=1, device=DEVICE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(2, 8, 6, 10).to(DEVICE, memory_format=torch.channels_last)
    plain, joined = (FusedConv(conv, norms.make_activation(activation)) for _ in range(2))
    joined.joined = True
    with torch.inference_mode():
        torch.testing.assert_close(joined(images), plain(images))


@kernel_test
def test_what_is_kept_is_a_third_less(kernels: ModuleType) -> None:
    """Of a convolution, norm and SiLU: what the convolution makes and the output, not what lies between."""
    kept: dict[bool, int] = {}
    for fused in (False, True):
        block = Conv(4, 8, 3).to(DEVICE, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        block.bn.fused = fused  # type: ignore[assignment]
        images = torch.rand(1, 4, 16, 16).to(DEVICE, memory_format=torch.channels_last)
        saved: set[int] = set()

        def keep(value: Tensor, saved: set[int] = saved) -> Tensor:
            if value.numel() == 8 * 16 * 16:
                saved.add(value.data_ptr())
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            nn.Conv2d(8, 2, 1, device=DEVICE)(block(images))
        kept[fused] = len(saved)
    assert kept == {False: 3, True: 2}


def test_where_it_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(InputError, match=r"--fused-norm: is for CUDA devices of compute capability 8.0 or more, this"):
        norms.check_fusion(device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs Triton, which is not installed"):
        norms.check_fusion(device)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    norms.check_fusion(device)


def test_all_norms_of_a_model_are_told() -> None:
    model = Detector(read_spec("yolov7-tiny"), 2)
    norms.fuse_norms(model)
    assert all(module.fused for module in model.modules() if isinstance(module, norms.BatchNorm))

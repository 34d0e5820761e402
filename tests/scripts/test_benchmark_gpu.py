"""The measurements on a GPU go on where they were cut off, in their order, and never longer than they may."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.syspath_prepend(str(SCRIPTS.parent / "tests" / "loss"))
    return importlib.import_module("benchmark_gpu")


class Clock:
    """Parts take as long as they are said to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, script: ModuleType, takes: dict[str, float]) -> None:
        self.now, self.takes, self.kept = 0.0, takes, 0
        self.ran: list[str] = []
        self.resumed: list[str] = []
        monkeypatch.setattr(script.time, "monotonic", lambda: self.now)

    def run(self, name: str, left: float, resume: bool) -> tuple[bool, float]:
        self.ran.append(name)
        self.resumed += [name] if resume else []
        spent = min(self.takes[name], left)
        self.now += spent
        return spent == self.takes[name], spent

    def keep(self, progress: dict[str, Any]) -> None:
        self.kept += 1
        json.dumps(progress)


def test_parts_go_on_where_they_were_cut_off(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["tests", "train-32", "loss"]
    progress: dict[str, Any] = {"device": "card", "parts": {}}
    clock = Clock(monkeypatch, script, {"tests": 100, "train-32": 210, "loss": 50})
    script.work_through(names, 5, progress, clock.keep, clock.run)
    assert clock.ran == ["tests", "train-32"] and clock.now == 300  # row by row: cut off when the call is over
    for _ in range(2):
        script.work_through(names, 4.5, progress, clock.keep, clock.run)
    assert clock.ran == ["tests", "train-32", "train-32", "loss"]  # of which nothing would remain, had it been cut off
    assert clock.resumed == ["train-32"]
    assert all(progress["parts"][name]["done"] and progress["parts"][name]["tries"] == 1 for name in names)
    script.work_through(names, 5, progress, clock.keep, clock.run)
    assert len(clock.ran) == 4 and clock.kept == 8


def test_what_fails_is_tried_twice(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, script, {"tests": 10, "loss": 20})
    progress: dict[str, Any] = {"device": "card", "parts": {}}

    def run(name: str, left: float, resume: bool) -> tuple[bool, float]:
        _, spent = clock.run(name, left, resume)
        return name != "tests", spent

    script.work_through(["tests", "loss"], 9, progress, clock.keep, run)
    assert clock.ran == ["tests", "tests", "loss"]
    assert progress["parts"]["tests"] == {"tries": 2, "done": False, "seconds": 10}


def test_another_device_begins_anew(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    assert script.read_progress(path, "one") == {"device": "one", "parts": {}}
    path.write_text(json.dumps({"device": "one", "parts": {"loss": {"tries": 1, "done": True}}}))
    assert script.read_progress(path, "one")["parts"]
    assert script.read_progress(path, "other") == {"device": "other", "parts": {}}


def test_every_part_fits_into_a_call_and_names_files_that_are_there(script: ModuleType) -> None:
    for command, limit in script.PARTS.values():
        assert limit <= 9.5 * 60
        assert all((SCRIPTS.parent / word).exists() for word in command if word.startswith(("tests/", "/")))


def test_kernels_are_told_apart_by_their_names(script: ModuleType) -> None:
    parts = importlib.import_module("gpu_parts")
    import re

    def kind(name: str) -> str:
        return next(kind for kind, pattern in parts.KINDS.items() if re.search(pattern, name))

    assert kind("_input_gradient") == "norm and activation, fused"
    assert kind("void cudnn::bn_fw_tr_1C11_kernel_NCHW<...>") == "batch norm"
    assert kind("void at::native::batch_norm_transform_input_channels_last_kernel<...>") == "batch norm"
    assert kind("void at::native::vectorized_elementwise_kernel<4, at::native::silu_kernel>") == "SiLU"
    assert kind("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc") == "convolutions"
    assert kind("void at::native::elementwise_kernel<at::native::direct_copy_kernel_cuda>") == "copies"


@pytest.mark.skipif(torch.cuda.is_available(), reason="is for machines without a GPU")
def test_without_a_gpu_it_says_what_there_is() -> None:
    done = subprocess.run([sys.executable, SCRIPTS / "benchmark_gpu.py"], capture_output=True, text=True, timeout=100,
                          check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("benchmark_gpu.py needs a CUDA device; on a CPU: benchmark_train.py")

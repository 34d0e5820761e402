"""The number format of a run: what auto takes, what is refused, that half precision trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from yolov7.config import InputError
from yolov7.runtime import precision
from yolov7.runtime.precision import autocast, choose_precision, gradient_scaler, is_native

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx512_bf16", "avx2"}, "bf16"), ({"amx_bf16"}, "bf16"), ({"avx512f", "f16c"}, "fp32"), (set(), "fp32")],
)
def test_auto_follows_the_flags_of_the_processor(
    flags: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: flags)
    assert choose_precision("auto", CPU) == expected


@pytest.mark.parametrize(
    ("capability", "training", "deployed"),
    [((9, 0), "fp16", "bf16"), ((12, 0), "bf16", "bf16"), ((8, 0), "bf16", "bf16"), ((7, 5), "fp16", "fp16"),
     ((6, 1), "fp32", "fp32")],
)
def test_auto_follows_the_capability_of_a_gpu(
    capability: tuple[int, int], training: str, deployed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda:0")
    assert [choose_precision("auto", device, training=value) for value in (True, False)] == [training, deployed]


def test_a_device_that_was_measured_takes_the_faster_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    monkeypatch.setitem(precision.MEASURED_TRAINING, (8, 9), {"bf16": 120.0, "fp16": 100.0})
    assert choose_precision("auto", torch.device("cuda:0")) == "bf16"
    monkeypatch.setitem(precision.MEASURED_TRAINING, (8, 9), {"bf16": 100.0, "fp16": 120.0})
    assert choose_precision("auto", torch.device("cuda:0")) == "fp16"


def test_every_table_names_formats_that_its_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (precision.MEASURED_TRAINING, precision.MEASURED_INFERENCE):
        for capability, row in table.items():
            assert set(row) <= set(precision.MIN_CAPABILITY)
            assert all(capability >= precision.MIN_CAPABILITY[name] for name in row)


def test_auto_on_mps_is_fp32() -> None:
    assert choose_precision("auto", torch.device("mps")) == "fp32"


def test_what_is_asked_for_is_taken_or_refused() -> None:
    assert [choose_precision(name, CPU) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    with pytest.raises(InputError, match="--precision 'fp16': a CPU trains in it far slower .*accepted on this device"):
        choose_precision("fp16", CPU)


def test_flags_are_read_where_the_system_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(is_native("bf16", CPU), bool)
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nflags\t\t: fpu avx512_bf16\nFeatures\t: asimd bf16\n")
    monkeypatch.setattr(precision, "Path", lambda _: file)
    assert {"avx512_bf16", "bf16"} <= precision.cpu_flags()
    monkeypatch.setattr(precision, "Path", lambda _: tmp_path / "gone")
    assert precision.cpu_flags() == set()


def test_convolutions_follow_the_format() -> None:
    layer, images = torch.nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(name, CPU):
            assert layer(images).dtype == dtype
    assert not gradient_scaler("bf16", CPU).is_enabled()

"""``--batch-size auto``: it fits, twice as much does not, and an optimizer step keeps its images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import yolov7
from yolov7 import cli
from yolov7.config import InputError, read_yaml
from yolov7.engine import fitting
from yolov7.engine.fitting import largest_divisor
from yolov7.engine.forecast import MemoryNeed

ROOT = Path(__file__).parents[2]
MICRO = str(Path(__file__).parents[1] / "micro.yaml")
LIMITED = """
import resource, sys
import torch
from yolov7 import cli
from yolov7.engine import run
from yolov7.runtime import device, memory
device.keep_freed_memory = lambda: None  # as under `ulimit -v`, which this process gets after its start
build, limit = run._build, []
def limited(*arguments, **options):
    torch.set_num_threads(1)
    found = build(*arguments, **options)
    if not limit:
        limit.append(memory._status("VmSize") + int(sys.argv[1]) * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (limit[0], limit[0]))
    return found
run._build = limited
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("nominal", "most", "processes", "expected"), [
    (64, 1000, 1, 64), (64, 63, 1, 32), (64, 16, 1, 16), (64, 15, 4, 8), (64, 3, 4, 0), (60, 25, 1, 20), (7, 6, 1, 1),
    (64, 0, 1, 0)])
def test_what_keeps_the_nominal_batch(nominal: int, most: int, processes: int, expected: int) -> None:
    assert largest_divisor(nominal, most, processes) == expected


def test_larger_sizes_of_multi_scale_count() -> None:
    need = MemoryNeed(fixed=0.0, per_image=90.0, free=1000)
    assert [fitting._at_the_largest_size(need, multi_scale).largest_batch for multi_scale in (False, True)] == [10, 4]


def test_it_is_said_and_kept_with_the_run(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["train", "--data", str(shapes), "--cfg", MICRO, "--img-size", "64", "--device", "cpu", "--precision",
             "fp32", "--workers", "0", "--epochs", "1", "--project", str(tmp_path), "--nominal-batch", "8"]
    assert cli.main([*flags, "--batch-size", "auto"]) == 0
    out = capsys.readouterr().out
    assert "--batch-size auto: 8, the largest divisor of the nominal batch (8) of which a step fits" in out
    assert out.count("model     micro") == 1
    settings = read_yaml(tmp_path / "exp" / "config.yaml")
    assert (settings["batch_size"], settings["nominal_batch"]) == (8, 8)
    assert cli.main([*flags, "--batch-size", "all"]) == 2
    assert "--batch-size: invalid whole-number or auto value: 'all'" in capsys.readouterr().err
    assert cli.main([*flags, "--batch-size", "-1"]) == 2


def test_it_is_a_word_in_python_too(shapes: Path, tmp_path: Path) -> None:
    found = yolov7.train(data=shapes, cfg=MICRO, img_size=64, device="cpu", precision="fp32", workers=0, epochs=1,
                         project=tmp_path, nominal_batch=4, batch_size="auto", log="none")
    assert read_yaml(found.folder / "config.yaml")["batch_size"] == 4
    with pytest.raises(InputError, match="batch_size"):
        yolov7.train(data=shapes, batch_size="all")  # type: ignore[call-overload]


def limited_run(shapes: Path, project: Path, mebibytes: int, batch_size: str) -> subprocess.CompletedProcess[str]:
    flags = ["train", "--data", str(shapes), "--project", str(project), "--img-size", "256", "--epochs", "1",
             "--batch-size", batch_size, "--nominal-batch", "60", "--device", "cpu", "--workers", "0", "--precision",
             "fp32", "--set", "augment.mosaic=0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
                                "MALLOC_MMAP_THRESHOLD_": "100000"}  # freed memory leaves the address space at once
    return subprocess.run([sys.executable, "-c", LIMITED, str(mebibytes), *flags], env=environment, text=True,
                          capture_output=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limited address space")
def test_under_a_limited_address_space_it_runs_and_twice_does_not(shapes: Path, tmp_path: Path) -> None:
    done = limited_run(shapes, tmp_path / "auto", 400, "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"--batch-size auto: (\d+),", done.stdout + done.stderr)
    assert found
    size = int(found[1])
    assert 1 <= size <= 6  # there are 12 images
    twice = limited_run(shapes, tmp_path / "twice", 400, str(2 * size))
    assert twice.returncode == 1, twice.stdout
    assert "out of memory on cpu" in twice.stderr

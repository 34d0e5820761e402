"""What a run will take, said before it begins; and what would have fitted, said when it did not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yolov7 import cli
from yolov7.data.synthetic import generate
from yolov7.engine.forecast import MemoryNeed

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
MIB = 2**20
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate(folder, train=12, val=4)
    return folder


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(shapes: Path, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    project = tmp_path / "runs"
    flags = ["--data", str(shapes), "--img-size", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0"]
    assert cli.main(["train", "--dry-run", "--project", str(project), "--epochs", "7", *flags]) == 0
    text = capsys.readouterr().out
    assert re.search(r"memory of a step: \d\.\d\d GiB with --batch-size 4 .* free: up to --batch-size \d+ fits", text)
    assert re.search(r"time: \d+\.\d\d s a step.* an epoch, .* for 7 epochs", text)
    assert "nothing was written" in text
    assert not project.exists()


@pytest.mark.parametrize(("need", "largest"), [(MemoryNeed(10, 2, 100), 40), (MemoryNeed(99, 2, 100), 0),
                                               (MemoryNeed(5, 1, 100), 85)])
def test_the_largest_batch(need: MemoryNeed, largest: int) -> None:
    assert need.largest_batch == largest
    assert largest == 0 or need.at(largest) <= 0.9 * need.free < need.at(largest + 1)


LIMITED = """
import resource, sys
import torch
from yolov7 import cli
from yolov7.engine import trainer
from yolov7.runtime import device, memory
device.keep_freed_memory = lambda: None  # as under `ulimit -v`, which this process gets after its start
fit = trainer.Trainer.fit
def limited(self):
    torch.set_num_threads(1)
    size = memory._status("VmSize") + int(sys.argv[1]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    return fit(self)
trainer.Trainer.fit = limited
sys.exit(cli.main(sys.argv[2:]))
"""


def limited_run(shapes: Path, project: Path, mebibytes: int, batch_size: int) -> subprocess.CompletedProcess[str]:
    flags = ["train", "--data", str(shapes), "--project", str(project), "--img-size", "256", "--epochs", "1",
             "--batch-size", str(batch_size), "--device", "cpu", "--workers", "0", "--precision", "fp32", "--set",
             "augment.mosaic=0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
                                "MALLOC_MMAP_THRESHOLD_": "100000"}  # freed memory leaves the address space at once
    return subprocess.run([sys.executable, "-c", LIMITED, str(mebibytes), *flags], env=environment, text=True,
                          capture_output=True, check=False)


@linux
def test_a_batch_that_is_too_large_is_told_what_fits(shapes: Path, tmp_path: Path) -> None:
    failed = limited_run(shapes, tmp_path / "large", 400, 12)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    found = re.search(r"error: out of memory on cpu with --batch-size 12 at 256 px; --batch-size (\d+) "
                      r"would fit", failed.stderr)
    assert found, failed.stderr
    size = int(found.group(1))
    assert 1 <= size < 12
    assert limited_run(shapes, tmp_path / "fitting", 400, size).returncode == 0

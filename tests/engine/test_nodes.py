"""Two machines with two processes each: two launchers that meet at an address, with a disk of their own each."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from forks import Forks

from yolov7.data.synthetic import generate

ROOT = Path(__file__).parents[2]
MICRO = (Path(__file__).parents[1] / "micro.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate(folder, train=15, val=4)  # three whole batches
    return folder


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def launcher(port: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend",
            "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "nodes"]


def environment_of(node: Path) -> dict[str, str]:
    node.mkdir(exist_ok=True)
    return os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1",
                         "YOLOV7_CACHE_DIR": str(node)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("shared", [False, True], ids=["disks of their own", "a shared disk"])
def test_two_nodes_train_as_one_process(shapes: Path, tmp_path: Path, shared: bool, forks: Forks) -> None:
    script = str(Path(__file__).with_name("node_training.py"))
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        folder.mkdir()
        (folder / "model.yaml").write_text(MICRO)
    done = forks.run([sys.executable, script, str(shapes), str(alone)],
                     environment_of(tmp_path / "one") | {"RANK": "0"})
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "one")
    port = free_port()
    nodes = [tmp_path / name for name in (("disk", "disk") if shared else ("first", "second"))]
    running = [forks.start([*launcher(port), script, str(shapes), str(together)], environment_of(node))
               for node in nodes]
    for process in running:
        assert process.wait() == 0, process.stderr
    one = torch.load(alone / "result0.pt", weights_only=True)
    four = [torch.load(together / f"result{rank}.pt", weights_only=True) for rank in range(4)]
    torch.testing.assert_close(torch.tensor(four[0]["losses"]), torch.tensor(one["losses"]), rtol=1e-5, atol=1e-7)
    for key, value in one["model"].items():
        assert all(torch.equal(four[0]["model"][key], other["model"][key]) for other in four[1:]), key
        torch.testing.assert_close(four[0]["model"][key], value, rtol=1e-5, atol=1e-5)
    for node in set(nodes):  # both splits, once on each disk, by one process
        written = Counter(line.split()[0] for line in (node / "written.txt").read_text().splitlines())
        assert written == {"labels": 2, "images": 2}

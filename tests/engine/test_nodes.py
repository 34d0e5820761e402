"""Two machines with two processes each: two launchers that meet at an address, with a disk of their own each."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from forks import Fork, Forks

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


def launcher(port: int, *flags: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend",
            "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "nodes", *flags]


def environment_of(node: Path) -> dict[str, str]:
    node.mkdir(exist_ok=True)
    return os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1",
                         "YOLOV7_CACHE_DIR": str(node), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


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


START = """
import sys
from yolov7 import cli
from yolov7.runtime import distributed
distributed.GRACE = 5  # the launchers notice within two seconds here
sys.exit(cli.main(sys.argv[1:]))
"""


def kill_node(node: Fork) -> None:
    """The launcher and its processes, at once."""
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    for process in (node.pid, *map(int, children)):
        os.kill(process, signal.SIGKILL)


def wait_for(path: Path, *nodes: Fork) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline and all(node.poll() is None for node in nodes), nodes[0].stderr
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("lost", [1, 0], ids=["another node", "the node of the rendezvous"])
def test_a_node_is_lost(shapes: Path, tmp_path: Path, lost: int, forks: Forks) -> None:
    """Another one takes its place, and the run ends as an undisturbed one; without the rendezvous all ends."""
    elastic = "--max-restarts", "3", "--rdzv-conf", "keep_alive_interval=1,keep_alive_max_attempt=2"
    (tmp_path / "model.yaml").write_text(MICRO)
    (tmp_path / "start.py").write_text(START)
    flags = ["train", "--data", str(shapes), "--cfg", str(tmp_path / "model.yaml"), "--img-size", "64", "--batch-size",
             "4", "--nominal-batch", "4", "--epochs", "5", "--device", "cpu", "--precision", "fp32", "--workers", "0"]

    def start(port: int, project: str, node: str) -> Fork:
        command = [*launcher(port, *elastic), str(tmp_path / "start.py"), *flags, "--project", str(tmp_path / project)]
        return forks.start(command, environment_of(tmp_path / node))

    port = free_port()
    nodes = [start(port, "lost", "first")]
    time.sleep(0.5)  # the address is the first one's
    nodes.append(start(port, "lost", "second"))
    last = tmp_path / "lost" / "exp" / "weights" / "last.pt"
    wait_for(last, *nodes)
    kill_node(nodes[lost])
    if lost == 0:
        assert nodes[1].wait(timeout=120) != 0
        assert torch.load(last, weights_only=True)["place"]["epoch"] < 5
        resume = [sys.executable, "-m", "yolov7", "train", "--resume", str(last.parents[1]), "--workers", "0"]
        assert forks.run(resume, environment_of(tmp_path / "third")).returncode == 0
        assert torch.load(last, weights_only=True)["place"]["epoch"] == 5
        return
    time.sleep(3)  # until the first one knows
    nodes[1] = start(port, "lost", "third")
    for node in nodes:
        assert node.wait() == 0, node.stderr
    port = free_port()
    whole = [start(port, "whole", name) for name in ("first", "second")]
    for node in whole:
        assert node.wait() == 0, node.stderr
    states = [torch.load(tmp_path / name / "exp" / "weights" / "last.pt", weights_only=True)["ema"]
              for name in ("lost", "whole")]
    for key, value in states[0].items():  # of more than two processes sums are rounded in another order after a restart
        torch.testing.assert_close(value, states[1][key], rtol=1e-3, atol=1e-4)
    assert [path.name for path in (tmp_path / "lost").iterdir()] == ["exp"]

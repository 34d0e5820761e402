"""What several rooms' tests share: real data where it stands, and no GPU tests without a GPU."""

from __future__ import annotations

import gc
import logging
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # test processes share the cores: before torch counts them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess  # noqa: E402
import sys  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from forks import Forks  # noqa: E402

# pytest hangs its handlers on loggers that do not propagate; on this one, torch would print all that it traces for them
logging.getLogger("torch.__trace").propagate = True

SHARED = Path(__file__).parents[2] / "shared"


def shared_data(name: str) -> Path:
    """A folder of real images, or a skip that names it."""
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"needs the real images of {name} in ../shared/data")
    return folder


@pytest.fixture(scope="session", autouse=True)
def caches_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and the processes that they start, leave no cache beside the data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLOV7_CACHE_DIR", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Starts Python processes without the time of their imports."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture
def forked_comparisons(forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported files are compared in forks of a process that has imported torch, not in one that imports it anew.

    Exports that tests start as processes of their own (the toy task's, the tutorial's) compare as they are.
    """
    from yolov7.exporting import parity

    def run(command: Sequence[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        return forks.run(command, env)

    monkeypatch.setattr(parity, "subprocess", SimpleNamespace(run=run))


@pytest.fixture
def bccd() -> Path:
    return shared_data("bccd")


@pytest.fixture
def coco_mini() -> Path:
    return shared_data("coco-mini")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    long = Counter(item.path for item in items if "slow" in item.keywords)
    items.sort(key=lambda item: -long[item.path])  # files with long tests first: no process waits for one at the end


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Coverage does not look at tests that spend their time in libraries: it would double it."""
    tracer = sys.gettrace()
    if "slow" in item.keywords or "untraced" in item.keywords:
        sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays: it is not looked through again and again,
    gc.set_threshold(20_000, 50, 50)  # nor what tracing a network makes

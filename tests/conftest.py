"""What several rooms' tests share: real data where it stands, and no GPU tests without a GPU."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # test processes share the cores: before torch counts them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from forks import Forks  # noqa: E402

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
def bccd() -> Path:
    return shared_data("bccd")


@pytest.fixture
def coco_mini() -> Path:
    return shared_data("coco-mini")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))

"""Memory: how much is free, how much is used, how much a piece of work needs, and what becomes of freed memory."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch

CGROUP = Path("/sys/fs/cgroup")  # of version 2, where containers are limited
STATUS, MEMINFO = Path("/proc/self/status"), Path("/proc/meminfo")
WATCH_INTERVAL = 0.001  # seconds
NO_MEMORY = ("can't allocate memory", "could not create a primitive")  # of torch and of oneDNN on a CPU


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in NO_MEMORY)


def used_memory(device: torch.device) -> int:
    """Bytes: on CUDA the peak of all tensors so far, on a CPU what the process has now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return torch.mps.driver_allocated_memory() if device.type == "mps" else _status("VmRSS")


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still allocate."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min(_of_system(), _of_container(), _of_process())


def needed_memory(work: Callable[[], object], device: torch.device) -> int:
    """Peak bytes that the work allocates, beyond what is allocated now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)  # the measurement needs the work to be done
        return torch.cuda.max_memory_allocated(device) - before
    release_freed_memory()
    before = used_memory(device)
    with _Watch(device) as watch:
        work()
    return max(watch.peak - before, 0)


# --- freed memory ------------------------------------------------------------------------------------------------

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_NEVER = 2**30


def keep_freed_memory() -> None:
    """Let this process reuse the memory of images that it has freed, where the C library is glibc.

    Otherwise it goes back to the system, which hands it out again page by page, filled with zeros: a third of the time
    of a sample, and as much of a training step or of large batches of the network on a CPU.
    """
    if mallopt := _glibc_function("mallopt"):
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_THRESHOLD, _NEVER)


def release_freed_memory() -> None:
    """Give memory that is free inside this process back to the system, where the C library is glibc."""
    gc.collect()
    if trim := _glibc_function("malloc_trim"):
        trim(0)


def _glibc_function(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where there is none of that name."""
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    return function


# --- what the system says ----------------------------------------------------------------------------------------


class _Watch(threading.Thread):
    """Polls the used memory and keeps the peak."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(daemon=True)
        self.device, self.peak = device, 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(WATCH_INTERVAL):
            self.peak = max(self.peak, used_memory(self.device))

    def __enter__(self) -> _Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = max(self.peak, used_memory(self.device))
        self._ended.set()
        self.join()


def address_space() -> int | None:
    """Bytes that this process may address (``ulimit -v``), None for no limit."""
    resource = _resource()
    if resource is None:
        return None
    limit: int = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _resource() -> ModuleType | None:
    """The module `resource`, which POSIX systems have."""
    try:
        import resource
    except ImportError:
        return None
    return resource


def _status(name: str) -> int:
    """A size that the system reports of this process, in bytes; 0 where it reports none."""
    size, resource = _size(STATUS, name), _resource()
    if size is not None or resource is None:
        return size or 0
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _size(path: Path, name: str = "") -> int | None:
    """A size in bytes out of a file of the system, from the line of that name; None where it is not there."""
    text = path.read_text(encoding="ascii", errors="replace") if path.exists() else ""
    found = re.search(rf"^{name}:?\s*(\d+)( kB)?$", text, re.MULTILINE)
    return int(found[1]) * (1024 if found[2] else 1) if found else None


def _of_system() -> int:
    available = _size(MEMINFO, "MemAvailable")
    return sys.maxsize if available is None else available


def _of_container() -> int:
    limit, used = _size(CGROUP / "memory.max"), _size(CGROUP / "memory.current")
    reclaimable = _size(CGROUP / "memory.stat", "inactive_file")  # cached files
    return sys.maxsize if limit is None else limit - (used or 0) + (reclaimable or 0)


def _of_process() -> int:
    limit = address_space()
    return sys.maxsize if limit is None else limit - _status("VmSize")


@contextmanager
def without_collector() -> Generator[None, None, None]:
    """No garbage collection meanwhile: it would visit millions of new lists again and again, three times the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""Runs one input in a process of its own, within limits of time and memory, and says how it ended."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

HARMLESS = ("accepted", "refused", "failed")  # 0, a sentence and 2, a sentence and 1
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but what tqdm and lines need
BARE = re.compile(r"^error: .*\(--verbose shows where\)$", re.MULTILINE | re.DOTALL)
FRAME = re.compile(r'File ".*?/(yolov7/[^"]+)", line (\d+)')
PAGE = resource.getpagesize()
MAX_TOTAL = 64 << 20  # bytes of output
SPARE = 6 << 30  # bytes of address space above the limit of memory: where an allocation is refused at once
WRITES = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.link": 1, "os.symlink": 1, "os.truncate": 0,
          "os.chmod": 0}
SECRET = "s3cr3t"  # stands where passwords and tokens stand, and nowhere in what is written
PROGRAMS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn")
LINKER, FONTS = "/sbin/ldconfig", "fc-list"  # asked by torch while it is imported; by matplotlib for its first figure
NOWHERE = ("/dev/null", "/dev/shm", "/dev/tty", "/proc/self")


@dataclass(frozen=True)
class Case:
    """One input: what is run on it, and what was done to it. Paths are relative to the folder that it is run in."""

    arguments: tuple[str, ...] = ()  # of the command line
    program: str = ""  # or Python, where the interface for programs is meant
    brief: str = ""
    anywhere: bool = False  # it names a folder for its output itself


@dataclass(frozen=True)
class Limits:
    """What an input may take."""

    seconds: float = 20
    memory: int = 2 << 30  # bytes of resident memory above those of the warmed process
    message: int = 4000  # characters of a line


@dataclass(frozen=True)
class Outcome:
    """How an input ended."""

    kind: str
    detail: str = ""
    seconds: float = 0
    memory: int = 0  # bytes above the start, at most
    where: str = ""  # the line of the package that an exception came from

    @property
    def is_fault(self) -> bool:
        """Whether it should have ended otherwise."""
        return self.kind not in HARMLESS


# --- the process that is forked --------------------------------------------------------------------------------------


def warm_up(source: Path) -> None:
    """Import the package that stands in ``source``, and all that its commands import later."""
    sys.path.insert(0, str(source))
    import torch

    torch.set_num_threads(1)  # a process with threads is not forked
    package = importlib.import_module("yolov7")
    assert Path(str(package.__file__)).is_relative_to(source.resolve()), package.__file__
    for module in pkgutil.walk_packages(package.__path__, "yolov7."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("onnx", "onnxruntime", "matplotlib.figure", "matplotlib.backends.backend_agg", "torchvision",
                 "hotcoco", "pycocotools.cocoeval", "torch.utils.tensorboard", "torch._dynamo", "pandas",
                 "PIL.TiffImagePlugin"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


# --- the process of an input -----------------------------------------------------------------------------------------


def become(case: Case, folder: Path, report: int) -> NoReturn:
    """Run it, write what happened to the descriptor ``report``, and end."""
    findings: dict[str, Any] = {"outside": []}
    try:
        _settle(case, folder, findings["outside"])
        findings |= perform(case)
    except BaseException:
        traceback.print_exc()
        findings |= {"code": None, "error": "the runner itself"}
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    findings["outside"] = findings["outside"][:5]
    os.write(report, json.dumps(findings).encode())
    os._exit(0)


def _settle(case: Case, folder: Path, outside: list[str]) -> None:
    """Folder, streams, environment, limits, and an eye on what is written."""
    null = os.open(os.devnull, os.O_RDONLY)
    streams = [os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("stdout", "stderr")]
    for source, target in zip((null, *streams), range(3), strict=True):
        os.dup2(source, target)
    sys.stdin, sys.stdout, sys.stderr = (
        io.TextIOWrapper(open(number, mode, closefd=False), encoding="utf-8", errors="backslashreplace",  # noqa: SIM115
                         line_buffering=number > 0) for number, mode in enumerate(("rb", "wb", "wb")))
    os.chdir(folder)
    temporary = folder / "out" / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    os.environ.update(TMPDIR=str(temporary), YOLOV7_CACHE_DIR=str(folder / "out" / "cache"), HOME=str(folder / "out"),
                      OMP_NUM_THREADS="1", MPLCONFIGDIR=str(temporary), TORCHINDUCTOR_CACHE_DIR=str(temporary))
    tempfile.tempdir = None  # it is looked up anew
    with open("/proc/self/statm", encoding="ascii") as stream:
        space = int(stream.read().split()[0]) * PAGE + Limits.memory + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_watcher(case, folder, outside))


def _watcher(case: Case, folder: Path, outside: list[str]) -> Any:
    allowed = [*NOWHERE, str(folder.parents[1] if case.anywhere else folder / "out")]
    forbidden = [str(folder / "in"), str(folder.parents[1] / "corpus")]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        expected = (LINKER, FONTS, *((sys.executable,) if case.arguments[:1] == ("export",) else ()))
        if event in PROGRAMS and not any(program in str(arguments[:2]) for program in expected):
            outside.append(f"{event} {str(arguments[:2])[:200]}")
        with contextlib.suppress(ValueError, OSError, TypeError):
            place = _written(event, arguments)
            if place is not None:
                path = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
                if not _is_below(path, allowed) or _is_below(path, forbidden):
                    outside.append(f"{event} {ascii(path)[:200]}")

    return hook


def _is_below(path: str, folders: Sequence[str]) -> bool:
    return any(f"{path}/".startswith(f"{folder}/") for folder in folders)


def _written(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The path that an event writes to; None if that is an open file, or relative to an open folder."""
    if event == "open":
        path, mode, flags = arguments
        writes = set("wax+") & set(mode) if mode else flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    elif event in WRITES:
        path, writes = arguments[WRITES[event]], event == "os.truncate" or arguments[-1] in (-1, None)
    else:
        return None
    return os.fsdecode(path) if writes and isinstance(path, (str, bytes, os.PathLike)) else None


def perform(case: Case) -> dict[str, Any]:
    """What the command line or the interface for programs makes of it."""
    try:
        if case.program:
            return _perform_program(case.program)
        from yolov7 import cli

        return {"code": cli.main(list(case.arguments)), "error": None}
    except SystemExit as end:
        if case.program:
            return {"code": None, "error": f"SystemExit({end.code!r:.100})"}
        return {"code": end.code if isinstance(end.code, int) else int(end.code is not None), "error": None}
    except BaseException as error:
        traceback.print_exc()
        return {"code": None, "error": _short(error)}


def _perform_program(program: str) -> dict[str, Any]:
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "fuzz"})  # noqa: S102
    except Exception as error:
        classes = [kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("yolov7.")]
        if not classes:
            raise
        sys.stderr.write(f"error: {error}\n")
        return {"code": 1 if "RunError" in classes else 2, "error": None}
    return {"code": 0, "error": None}


def _short(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = "?"
    return f"{type(error).__name__}: {ascii(text[:150])[1:-1]}"


# --- the process that watches ----------------------------------------------------------------------------------------


def run(case: Case, folder: Path, limits: Limits = Limits(), fresh: Sequence[str] = ()) -> Outcome:
    """Run an input in a fork of this process, or with the command ``fresh`` in a new one.

    ``folder`` holds what it reads in ``in`` and gets its output in ``out``, ``stdout`` and ``stderr``.
    """
    before = snapshot(folder / "in")
    read_end, write_end = os.pipe()
    started = time.monotonic()
    own = resident(os.getpid())
    if fresh:
        (folder / "case.json").write_text(json.dumps(asdict(case)), encoding="utf-8")
        pid = subprocess.Popen([*fresh, str(folder), str(write_end)], pass_fds=[write_end], start_new_session=True,
                               stdin=subprocess.DEVNULL).pid
    elif (pid := os.fork()) == 0:
        os.setsid()
        os.close(read_end)
        become(case, folder, write_end)
    os.close(write_end)
    base = own if fresh else resident(pid)
    killed, status, peak = _watch(pid, folder, base, limits)
    outcome = _judge(case, folder, limits, (killed, status, peak - base, _report(read_end)), before)
    return Outcome(outcome.kind, outcome.detail, time.monotonic() - started, max(0, peak - base), outcome.where)


def resident(pid: int) -> int:
    """Bytes of a process that are in memory; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def _watch(pid: int, folder: Path, base: int, limits: Limits) -> tuple[str, int, int]:
    """Wait for its end, or bring that about: why, its status, and the most memory that it had."""
    killed, deadline, peak, pause = "", time.monotonic() + limits.seconds, 0, 0.001
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what it has left running
            return killed, status, max(peak, usage.ru_maxrss << 10)
        peak = max(peak, resident(pid))
        if not killed:
            sizes = sum((folder / name).stat().st_size for name in ("stdout", "stderr") if (folder / name).exists())
            killed = "memory" if peak - base > limits.memory else "hang" if time.monotonic() > deadline else \
                "message" if sizes > MAX_TOTAL else ""
            if killed:
                os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(0.01, pause * 1.5)


def _report(descriptor: int) -> dict[str, Any]:
    os.set_blocking(descriptor, False)  # a process that it has left running may hold the other end
    with open(descriptor, "rb") as stream:
        text = stream.read()
    return dict(json.loads(text)) if text else {}


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """What stands in a folder, with the sizes and times of its files."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            facts = os.lstat(os.path.join(root, name))
            found[os.path.join(root, name)] = (facts.st_mode, facts.st_size, facts.st_mtime_ns)
    return found


def _judge(case: Case, folder: Path, limits: Limits, end: tuple[str, int, int, dict[str, Any]],
           before: dict[str, tuple[int, ...]]) -> Outcome:
    killed, status, grown, report = end
    output, errors = (_text(folder / name) for name in ("stdout", "stderr"))
    frames = FRAME.findall(errors)
    where = ":".join(frames[-1]) if frames else ""
    sentence = next((line for line in reversed(errors.splitlines()) if line.startswith("error: ")), "")[:300]
    if killed or grown > limits.memory:
        return Outcome(killed or "memory", f"{grown >> 20} MB above the start" if killed != "hang" else "", where=where)
    if os.WIFSIGNALED(status) or not report:
        number = os.WTERMSIG(status)
        return Outcome("crash",
                       signal.Signals(number).name if number else f"ended with {os.waitstatus_to_exitcode(status)}")
    changed = [ascii(name) for name, facts in snapshot(folder / "in").items() if before.get(name) != facts]
    if outside := report["outside"] or changed:
        return Outcome("outside", "; ".join(outside)[:300])
    if report["error"]:
        return Outcome("traceback", report["error"], where=where)
    if "Traceback (most recent call last)" in output + errors or BARE.search(errors):
        return Outcome("traceback", ascii(sentence)[1:-1], where=where)
    reports = case.arguments[:2] == ("data", "check")  # whose faults, with exit code 1, are what it was asked for
    return _judge_messages(report["code"], output, errors, limits, reports) or \
        Outcome(HARMLESS[(0, 2, 1).index(report["code"])], ascii(sentence)[1:-1])


def _judge_messages(code: int, output: str, errors: str, limits: Limits, reports: bool = False) -> Outcome | None:
    """A fault of what was said, if there is one."""
    lines = re.split(r"[\n\r]", output + "\n" + errors)
    longest = max(lines, key=len)
    if len(longest) > limits.message:
        return Outcome("message", f"{len(longest)} characters: {ascii(longest[:120])}")
    if SECRET in output + errors:
        return Outcome("secret", ascii(next(line for line in lines if SECRET in line)[:200]))
    if control := CONTROLS.search(output + errors):
        text = output + errors
        return Outcome("message", f"raw control {ascii(text[max(0, control.start() - 60): control.end() + 20])}")
    sentence, where = ("^error: .{10}", errors) if code == 2 else (".{10}", output if reports else errors)
    if code not in (0, 1, 2) or (code and not re.search(sentence, where, re.MULTILINE)):
        return Outcome("silent", f"exit code {code} without a sentence: {ascii((output + errors)[-200:])}")
    return None


def _text(path: Path) -> str:
    if not path.exists():
        return ""
    with open(path, "rb") as stream:
        return stream.read(4 << 20).decode("utf-8", "surrogateescape")


def locate(case: Case, folder: Path, limits: Limits) -> str:
    """The line that a bare exception came from: the same input, asked with ``--verbose``."""
    if case.program or "--verbose" in case.arguments:
        return ""
    for name in ("stdout", "stderr"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / name, folder / f"{name}.first")
    where = run(Case((*case.arguments, "--verbose"), "", "", True), folder, limits).where
    for name in ("stdout", "stderr"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / f"{name}.first", folder / name)
    return where


def main() -> None:
    """A new process for one input: its folder and the descriptor of the report are the arguments."""
    from tests.fuzz import runner  # the same classes as everywhere

    folder, report = Path(sys.argv[2]), int(sys.argv[3])
    content = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    sys.path.insert(0, sys.argv[1])
    runner.become(runner.Case(**content | {"arguments": tuple(content["arguments"])}), folder, report)


def empty(folder: Path) -> Path:
    """A folder with nothing in it but ``in`` and ``out``."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()

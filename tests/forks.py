"""Python processes that start at once: forked from one that has imported torch and the package already.

``Forks().start([sys.executable, "-m", "yolov7.cli", ...])`` is what ``subprocess.Popen`` makes of the same command, but
for the four seconds of imports. A command of ``torch.distributed.run`` starts a real agent, whose processes are forked,
too. Run as a script, this file is the process that is forked.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LAUNCHER = "torch.distributed.run"


class Fork:
    """A process that `Forks` has started; its output is read from files."""

    def __init__(self, server: Forks, pid: int, outputs: tuple[Path, Path]) -> None:
        self.server, self.pid, self.outputs = server, pid, outputs
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code (minus the signal that ended it), or None while it runs."""
        if self.returncode is None:
            self.returncode = self.server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Its exit code; `subprocess.TimeoutExpired` after so many seconds, which end it."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise subprocess.TimeoutExpired(f"{self.stdout[-2000:]}\n{self.stderr[-2000:]}", timeout)
            time.sleep(0.002)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As `os.kill`, unless its end is known."""
        if self.returncode is None:
            os.kill(self.pid, number)

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self.outputs[0].read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """What it has written so far."""
        return self.outputs[1].read_text(encoding="utf-8")


class Forks:
    """Starts Python commands in forks of one process, which is started with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, 0
        self.server: subprocess.Popen[str] | None = None

    def start(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None,
              folder: Path | None = None) -> Fork:
        """Begin ``command``, whose first word is a Python interpreter."""
        self.started += 1
        outputs = self.folder / f"{self.started}.out", self.folder / f"{self.started}.err"
        for path in outputs:
            path.touch()
        pid = self.ask({"arguments": [str(word) for word in command[1:]], "outputs": [str(path) for path in outputs],
                        "environment": dict(os.environ if environment is None else environment),
                        "folder": str(folder or Path.cwd())})
        assert pid is not None
        return Fork(self, pid, outputs)

    def run(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None,
            folder: Path | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run` gives."""
        fork = self.start(command, environment, folder)
        return subprocess.CompletedProcess(command, fork.wait(timeout), fork.stdout, fork.stderr)

    def ask(self, request: dict[str, Any]) -> int | None:
        """One line to the server, one number back."""
        if self.server is None:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
                                        "OMP_NUM_THREADS": "1"}  # a process with threads is not forked
            self.server = subprocess.Popen([sys.executable, __file__], env=environment, text=True,
                                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        assert answer, "the process that is forked has ended"
        number: int | None = json.loads(answer)
        return number

    def close(self) -> None:
        """End the server."""
        if self.server is not None and self.server.stdin:
            self.server.stdin.close()
            self.server.wait(60)


# --- the process that is forked --------------------------------------------------------------------------------------


def import_all() -> None:
    """What the commands import."""
    import matplotlib.figure  # noqa: F401
    import torch._dynamo
    import torch.distributed.run
    import torch.utils.tensorboard  # noqa: F401
    import torchvision  # noqa: F401

    import yolov7.api
    import yolov7.engine.run
    import yolov7.engine.speed
    import yolov7.exporting.run
    import yolov7.inference.detect  # noqa: F401


def serve() -> None:
    """Answer the lines of the standard input: begin a process, or say how it ended."""
    import_all()
    base = [entry for entry in sys.path[1:] if Path(entry) not in (ROOT, ROOT / "tests")]
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            sys.stdout.flush()
            answer = os.fork()
            if answer == 0:
                become(request, base)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def become(request: dict[str, Any], base: list[str]) -> None:
    """In the forked process: run the command and end."""
    null = os.open(os.devnull, os.O_RDONLY)
    output, errors = (os.open(path, os.O_WRONLY | os.O_APPEND) for path in request["outputs"])
    for source, target in ((null, 0), (output, 1), (errors, 2)):
        os.dup2(source, target)
        os.close(source)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[:] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *base]
    arguments = request["arguments"]
    finish(launch if arguments[:2] == ["-m", LAUNCHER] else run_python, arguments)


def finish(function: Any, arguments: list[str]) -> None:
    """Call it with the arguments and end the process as Python does."""
    import atexit
    import threading
    import traceback

    code: Any = 0
    try:
        function(*arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        sys.stderr.write(code + "\n")
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def run_python(*arguments: str) -> None:
    """``python -c CODE ...``, ``python -m MODULE ...`` or ``python FILE ...``."""
    kind, *rest = (word for word in arguments if word != "-u")
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
    elif kind == "-m":
        sys.argv = rest
        sys.modules.pop(rest[0], None)  # it runs anew, as a script
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [kind, *rest], str(Path(kind).absolute().parent)
        runpy.run_path(kind, run_name="__main__")


def launch(*arguments: str) -> None:
    """``torchrun ...``: its agent, with forked processes."""
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    options = parse_args(list(arguments[2:]))
    if options.standalone:  # as torchrun does
        options.rdzv_backend, options.rdzv_endpoint, options.rdzv_id = "c10d", "localhost:0", str(uuid.uuid4())
    config, _, words = config_from_args(options)
    config.start_method = "fork"
    elastic_launch(config, entrypoint=run_worker)(*words)


def run_worker(*arguments: str) -> None:
    """One of the agent's processes, which returns where it succeeds."""
    try:
        run_python(*arguments)
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    serve()

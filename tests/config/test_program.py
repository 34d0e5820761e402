"""Messages name the commands in the form in which the process was started."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from yolov7.config import program
from yolov7.config.program import CHECKOUT, command, inside_a_command

ASK = ("from yolov7.config.program import command; from yolov7 import cli; "
       "cli.COMMANDS['train'] = (cli.COMMANDS['train'][0], lambda options: print("
       "command('test', weights='a b.pt'), command('data check', data='x'), sep='\\n')); ")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    return Started(monkeypatch, tmp_path)


class Started:
    """A process that was started otherwise than this one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.patch = monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PATH", str(folder / "bin"))
        (folder / "bin").mkdir()
        self.python = self.executable(folder / "bin" / "python")
        self.yolov7 = self.executable(folder / "bin" / "yolov7")
        monkeypatch.setattr(sys, "orig_argv", ["python"])

    @staticmethod
    def executable(path: Path) -> str:
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    def by(self, argument: str, file: Path | str | None = None, module: str | None = None) -> None:
        spec = SimpleNamespace(name=module) if module else None
        self.patch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=str(file or argument), __spec__=spec))
        self.patch.setattr(sys, "argv", [argument])


def test_a_script_of_the_checkout(started: Started) -> None:
    started.by("../../train.py", CHECKOUT / "train.py")
    assert command("test", weights="a.pt") == "python ../../test.py --weights a.pt"
    assert command("train", resume="") == "python ../../train.py --resume"
    assert command("data convert", from_="voc", data="x y") == "python -m yolov7 data convert --from voc --data 'x y'"
    started.by("train.py", CHECKOUT / "train.py")
    assert command("export", dynamic=True, half=False, batch_size=0) == "python export.py --dynamic --batch-size 0"
    started.by(str(Path.cwd() / "train.py"), CHECKOUT / "train.py")  # as torchrun calls it
    assert command("detect", source=["a", "b"]) == "python detect.py --source a b"


def test_the_interpreter_is_the_one_that_was_called(started: Started) -> None:
    started.by("train.py", CHECKOUT / "train.py")
    for original, shown in ((".venv/bin/python", ".venv/bin/python"), (started.python, "python"),
                            ("python3", "python3"), ("/opt/other/python", "/opt/other/python"),
                            (str(Path.cwd() / ".venv/bin/python3"), ".venv/bin/python3")):
        started.patch.setattr(sys, "orig_argv", [original])
        assert command("test") == f"{shown} test.py"


def test_an_installed_command(started: Started) -> None:
    started.by(started.yolov7)
    assert command("test", weights="a.pt") == "yolov7 test --weights a.pt"
    assert command("data check") == "yolov7 data check"
    started.by("/opt/venv/bin/yolov7")  # another one than the shell would find
    assert command("test") == "/opt/venv/bin/yolov7 test"


def test_the_module(started: Started) -> None:
    for module in ("yolov7.__main__", "yolov7.cli"):
        started.by("/site/yolov7/__main__.py", module=module)
        assert command("test", data="x.yaml") == "python -m yolov7 test --data x.yaml"


@pytest.mark.parametrize("file", ["train.py", "test.py", "yolov7.py", "-c", ""])
def test_a_program_has_functions(file: str, started: Started) -> None:
    """Also where it has the name of a command."""
    started.by(file, Path.cwd() / file)
    assert command("train", resume=Path("runs/train/exp")) == "yolov7.train(resume='runs/train/exp')"
    assert command("export", weights="a.pt", dynamic=True) == "yolov7.export(weights='a.pt', dynamic=True)"
    assert command("data check", data="x") == "yolov7.check_data(data='x')"
    assert command("data convert", from_="voc", data="x") == "yolov7.convert_data(from_='voc', data='x')"
    with inside_a_command():  # it has called cli.main
        assert command("test", weights="a.pt") == "python -m yolov7 test --weights a.pt"
    assert command("test") == "yolov7.test()"


def test_words_as_the_shell_of_the_system_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert program.shell_line(["a b", "c"]) == "'a b' c"
    monkeypatch.setattr(os, "name", "nt")
    assert program.shell_line(["a b", "c"]) == '"a b" c'


@pytest.mark.parametrize(("arguments", "test", "check"), [
    (["train.py"], "{} test.py", "{} -m yolov7 data check"),
    (["-m", "yolov7", "train"], "{} -m yolov7 test", "{} -m yolov7 data check"),
    (["-c", ASK + "cli.main(['train'])"], "{} -m yolov7 test", "{} -m yolov7 data check"),
])
def test_in_processes_of_their_own(arguments: list[str], test: str, check: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(ASK)
    done = subprocess.run([sys.executable, *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{CHECKOUT}"})
    assert done.returncode == 0, done.stderr
    python = shlex.quote(program._as_typed(sys.executable, "python", "python3"))
    assert done.stdout.splitlines() == [f"{test.format(python)} --weights 'a b.pt'", f"{check.format(python)} --data x"]

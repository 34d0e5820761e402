"""Bars in a terminal, lines of the log elsewhere, nothing of processes that are not the first."""

from __future__ import annotations

import logging
import os
import re
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from yolov7.runtime import progress
from yolov7.runtime.progress import MAX_LINES, Progress, duration_text, fitting, is_terminal

ROOT = Path(__file__).parents[2]
PARTS = ("box 0.051", "obj 0.031", "cls 0.021", "36.2 img/s", "lr 0.0012", "data 3%", "mem 3.2G")

SCRIPT = """
import logging, sys
from yolov7.runtime import progress
progress.SHORT = 0
logging.basicConfig(level=logging.INFO, handlers=[progress.LogHandler(sys.stdout)], format="%(message)s")
with progress.Progress(range(100), "epoch 3/140", unit="batches") as bar:
    for index in bar:
        bar.note(*PARTS)
        if index == 50:
            bar._sink.refresh()
            logging.info("a message")
print("the end")
"""


class Clock:
    """A clock that somebody else moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == progress.__name__]


# --- a terminal --------------------------------------------------------------------------------------------------


def shown_in_terminal(script: str, columns: int) -> str:
    """What a program writes to a terminal of so many columns."""
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    import fcntl
    import termios

    child, descriptor = pty.fork()
    if child == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
        os.execve(sys.executable, [sys.executable, "-c", script], environment)
    text = b""
    try:
        while data := os.read(descriptor, 65536):
            text += data
    except OSError:  # Linux, at the end
        pass
    os.close(descriptor)
    assert os.waitpid(child, 0)[1] == 0, text.decode()
    return text.decode()


@pytest.mark.parametrize("columns", [80, 200])
def test_a_bar_fits_the_terminal(columns: int) -> None:
    text = shown_in_terminal(SCRIPT.replace("PARTS", repr(PARTS)), columns)
    drawn = [line for line in re.split(r"[\r\n]+", text) if "epoch 3/140" in line]
    assert drawn and all(len(line) <= columns for line in drawn)
    last = drawn[-1]
    assert "50/100" in last and "box 0.051 obj 0.031" in last
    assert len(re.sub(r"[^█▉▊▋▌▍▎▏ ]", "", last.split("|")[1])) >= progress.MIN_BAR
    assert ("mem 3.2G" in last) == (columns == 200)
    rows = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
    assert rows[0] == "a message"  # above the bar
    assert rows[1].strip() == "the end"  # which is gone


def test_the_most_important_comes_first() -> None:
    assert fitting(PARTS, 200) == " ".join(PARTS)
    assert fitting(PARTS, 2 + 29) == "box 0.051 obj 0.031 cls 0.021"
    assert fitting(PARTS, 2 + 28) == "box 0.051 obj 0.031"
    assert fitting(PARTS, 5) == fitting((), 50) == ""


def test_what_a_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_terminal(None)
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert is_terminal(terminal)
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(terminal)


# --- a notebook --------------------------------------------------------------------------------------------------


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    monkeypatch.setattr(progress, "SHORT", 0)


def test_a_notebook_without_widgets_has_a_bar_of_text(notebook: None, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(range(3), "epoch 1/2", unit="batches") as bar:
        for _ in bar:
            bar.note(*PARTS)
    done = capsys.readouterr()
    assert done.err == "" and "epoch 1/2:" in done.out  # what stderr shows there is red
    assert all(len(line) <= 80 for line in done.out.split("\r"))


def test_nothing_global_is_left(notebook: None, capsys: pytest.CaptureFixture[str]) -> None:
    before, lock, monitor = threading.enumerate(), tqdm.get_lock(), tqdm.monitor  # another package's, if there is one
    with pytest.raises(KeyError), Progress(range(9), "epoch", unit="batches") as bar:
        for _ in bar:
            raise KeyError("of the run")
    assert threading.enumerate() == before
    assert tqdm.get_lock() is lock and tqdm.monitor_interval > 0 and tqdm.monitor is monitor


def test_bars_of_several_threads(notebook: None, capsys: pytest.CaptureFixture[str]) -> None:
    done: list[int] = []

    def work() -> None:
        done.append(sum(Progress(range(200), "work", unit="items")))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [19900] * 4


# --- elsewhere ---------------------------------------------------------------------------------------------------


def test_a_line_now_and_then(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress(range(100), "epoch 3/14", unit="batches") as bar:
        for index in bar:
            clock.now += 1
            if index == 5:
                bar.note("box 0.051", "obj 0.031")
    assert lines_of(caplog) == [
        "epoch 3/14: 10/100 batches (10%) in 10 s, ~1.5 min left  box 0.051 obj 0.031",
        "epoch 3/14: 40/100 batches (40%) in 40 s, ~1.0 min left  box 0.051 obj 0.031",
        "epoch 3/14: 70/100 batches (70%) in 1.2 min, ~30 s left  box 0.051 obj 0.031"]


def test_few_lines_of_what_takes_hours(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in Progress(range(20_000), "epoch", unit="batches"):
        clock.now += 1
    assert MAX_LINES - 4 <= len(lines_of(caplog)) <= MAX_LINES
    assert lines_of(caplog)[-1].startswith("epoch: 19")


def test_what_is_short_says_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in Progress(range(9), "epoch"):
        clock.now += 1
    assert not lines_of(caplog)


def test_a_total_that_is_not_known_and_a_start_behind_the_first(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in Progress(iter(range(12)), "detect", unit="frames"):
        clock.now += 1
    for _ in Progress(range(12), "epoch 2/3", 100, "batches", initial=80):  # of a resumed run
        clock.now += 1
    assert lines_of(caplog) == ["detect: 10 frames in 10 s", "epoch 2/3: 90/100 batches (90%) in 10 s, ~10 s left"]


@pytest.fixture(params=["rank", "silent", "level"])
def nobody(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
           caplog: pytest.LogCaptureFixture) -> Iterator[bool]:
    """Reasons to say nothing: another process, a caller that says so, a log that nobody reads."""
    caplog.set_level(logging.WARNING if request.param == "level" else logging.INFO, logger="yolov7")
    if request.param == "rank":
        monkeypatch.setenv("RANK", "1")
    yield request.param == "silent"


def test_where_nothing_is_said(nobody: bool, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with Progress(range(99), "epoch", silent=nobody) as bar:
        for _ in bar:
            clock.now += 1
            bar.note("box 1")
            bar.update(0)
    assert not lines_of(caplog)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (90, "1.5 min"), (5400, "1.5 h"),
                                               (float("nan"), "nan h")])
def test_times_for_people(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text

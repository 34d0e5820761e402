"""What messages, log lines and files may show: no secret, nothing that steers a terminal, not too much."""

from __future__ import annotations

import io
import logging
import pickle
import sys
from pathlib import Path

import pytest

from yolov7 import cli
from yolov7.config import InputError, RunError
from yolov7.config.messages import LONGEST, LogFormatter, shown_message, visible, without_secrets

CAPTURE = pytest.CaptureFixture[str]
WEIGHTS = str(Path(__file__).parents[1] / "compat" / "best.pt")
SECRET = ["se#cret", "se/cret", "se[cret", "se@cret", "se?cret", "se'cret", 'se"cret', "se&cret", "a secret", "se:cret"]


@pytest.mark.parametrize("address", [
    *(f"rtsp://admin:{password}@10.0.0.7:554/live" for password in SECRET),
    *(f"rtsp://admin:{password}@[::1]/live" for password in SECRET),
    "rtsp://admin:secret@", "HTTP://U:secret@H", "rtsps://:secret@host", "http://ghp_secret@host/x", "admin:secret@cam",
    "rtsp://admin:secret/live", "http://host/a.mp4?token=secret", "http://host/?user=a&pwd=se/cr#et;&x=1",
    "rtsp://10.0.0.7:554/user=admin_password=secret_channel=1.sdp?real_stream", "http://host/x#access_token=secret",
    "https://host/x?X-Amz-Signature=secret&X-Amz-Credential=secret%2F", "http://host/x?API_KEY=secret",
    "http://host/v.cgi?loginuse=admin&loginpas=secret", "rtmp://host/live;token=secret"])
@pytest.mark.parametrize("sentence", ["{}", "--source {!r}: no frame", "a {} b", "rtsp://other/1, {}"])
def test_secrets_of_addresses_are_masked(address: str, sentence: str) -> None:
    shown = without_secrets(sentence.format(address))
    assert "cret" not in shown and "***" in shown
    assert without_secrets(shown) == shown
    assert "cret" not in str(InputError(sentence.format(address)))


@pytest.mark.parametrize("text", [
    "rtsp://cam:554/live", "http://host:8080/photo.jpg?size=2", "http://host/photo@2x.jpg", "runs/a@b.jpg: broken",
    "C:\\images\\photo@2x.jpg", "loss.box=0.05 key=3 token=5", "a: b@c", "'rtsp://cam:554/live' and file 'm@e.jpg'"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_what_steers_a_terminal_is_made_visible() -> None:
    assert visible("a\x1b[31mb\x07\r\x9b\u202e\ud800\udce9\u2028é日") == \
        "a\\x1b[31mb\\x07\\x0d\\x9b\\u202e\\ud800\\xe9\\u2028é日"
    assert visible("a\tb\nc") == "a\tb\nc"
    assert str(RunError("a\nerror: b\tc\n  listed")) == "a\\nerror: b\\tc\n  listed"


def test_messages_are_bounded_and_keep_both_ends() -> None:
    text = str(InputError("begin " + "x" * 10**6 + " end"))
    assert len(text) <= LONGEST and text.startswith("begin x") and text.endswith("x end")
    assert len(str(InputError("://a:b@" * 10**5))) <= LONGEST  # nor do they take long


def test_unsafe_advice_is_not_passed_on() -> None:
    advice = "x.pt: Weights only load failed. In PyTorch 2.6 we changed `weights_only`. Re-run with it set to False"
    for text in (advice, "x.pt: set weights_only=False to load"):
        assert "weights_only" not in shown_message(text) and "False" not in shown_message(text)
        assert shown_message(text).startswith("x.pt: ")


def test_errors_survive_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(InputError("rtsp://a:b@c")))
    assert isinstance(error, InputError) and str(error) == "rtsp://a:***@c"


def test_lines_of_the_log() -> None:
    def line(message: str, *args: object) -> str:
        return LogFormatter("%(message)s").format(logging.LogRecord("yolov7", logging.INFO, "", 0, message, args, None))

    assert line("%s: read\n%s", Path("a\nb\x1b"), "1 2\n3 4") == "a\\nb\\x1b: read\n1 2\n3 4"
    assert line("%s: dropped", "rtsp://a:b@c") == "rtsp://a:***@c: dropped"
    assert len(line("%s", "x" * 10**5)) <= LONGEST


@pytest.mark.parametrize("arguments", [
    ["detect", "--weights", WEIGHTS, "--source", "nowhere\x1b[2J\u202e.jpg\n"], ["train", "--\x1b[2J", "1"],
    ["detect", "--weights", "w\x1b[2J\ud800.pt", "--source", "a.jpg"], ["train", "--data", "a\x1b[2J\x9b"],
    ["export", "--weights", WEIGHTS, "--format", "\x1b[2J"], ["\x1b[2J"]])
def test_no_command_passes_on_what_steers_a_terminal(arguments: list[str], capsys: CAPTURE) -> None:
    assert cli.main(arguments) == 2
    shown = "".join(capsys.readouterr())
    assert "\\x1b[2J" in shown
    assert not set(shown) & {"\x1b", "\x9b", "\u202e", "\ud800"} and shown.count("\n") == 1


def test_a_terminal_that_lacks_letters_still_gets_the_line(monkeypatch: pytest.MonkeyPatch, capsys: CAPTURE) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", ascii_only)
        assert cli.main(["models", "--cfg", "nowhere"]) == 2
        logging.getLogger("yolov7").warning("Größe")
        ascii_only.flush()
        assert ascii_only.buffer.getvalue() == b"Gr\\xf6\\xdfe\n"
    assert "nowhere" in capsys.readouterr().err


def test_a_fault_of_the_disk_names_the_file(monkeypatch: pytest.MonkeyPatch, capsys: CAPTURE) -> None:
    def fail(options: object) -> int:
        """Fail."""
        raise PermissionError(13, "Permission denied", "runs/x\x1b")

    monkeypatch.setitem(cli.COMMANDS, "train", (cli.COMMANDS["train"][0], fail))
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err == "error: runs/x\\x1b: Permission denied\n"

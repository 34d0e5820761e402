"""The commands and their flags: all of them explained, none of them twice, the settings of a run among train's."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from yolov7 import __version__, cli
from yolov7.commands.table import EXAMPLES, summary
from yolov7.config import parse_arguments
from yolov7.config.help import GROUPS
from yolov7.config.options import SpeedOptions, TestOptions
from yolov7.config.program import command as command_name
from yolov7.config.program import inside_a_command
from yolov7.engine.run_config import RunConfig, TrainOptions

CAPTURE = pytest.CaptureFixture[str]


def flag_of(name: str) -> str:
    return name.upper() if name in ("runs", "table") else "--" + name.rstrip("_").replace("_", "-")


def help_of(command: str, capsys: CAPTURE) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main([*command.split(), "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def flags_in(text: str) -> list[str]:
    return re.findall(r"^  (--[a-z0-9-]+|[A-Z]+)\b(?!:)", text, re.MULTILINE)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_flag_has_help(command: str, capsys: CAPTURE) -> None:
    options = cli.COMMANDS[command][0]
    shown = [field for field in dataclasses.fields(options) if field.metadata.get("flag", True)]
    text = help_of(command, capsys)
    assert sorted(flags_in(text)) == sorted(flag_of(field.name) for field in shown)
    one_line = " ".join(text.split())
    for field in shown:
        assert len(field.metadata["help"]) > 5, field.name
        assert " ".join(field.metadata["help"].split()) in one_line, field.name
        assert field.metadata["group"] in GROUPS, field.name
        assert f"\n{field.metadata['group']}:\n" in text
    assert " ".join(summary(command).split()) in one_line


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_shows_groups_limits_and_examples_in_80_columns(command: str, capsys: CAPTURE) -> None:
    text = help_of(command, capsys)
    with inside_a_command():
        called = command_name(command)
    titles = re.findall(r"^([a-z][a-z ]+):$", text, re.MULTILINE)
    ends = titles.pop()
    assert titles == [title for title in GROUPS if title in titles] and titles[-1] == "run and output"
    assert re.match(r"usage: \S*python\S* -m yolov7 \S.* \[flags\]\n\n[A-Z]", text)
    assert ends in ("example", "examples") and text.rstrip().splitlines()[-1].startswith("  ")
    before, _, after = text.partition(f"\n{ends}:\n")
    assert max(map(len, before.splitlines()[1:])) <= 80
    assert "(default: )" not in text and "None" not in text and "MISSING" not in text and "()" not in text
    for line, flags in zip(after.splitlines(), EXAMPLES[command], strict=True):
        assert line == f"  {called} {flags}".rstrip()
        parse_arguments(cli.COMMANDS[command][0], shlex.split(flags), "", "")


def test_defaults_and_limits_are_shown_where_there_are_some(capsys: CAPTURE) -> None:
    text = " ".join(help_of("test", capsys).split())
    for part in ("minimum score (default: 0.001; 0 to 1)", "those that the weights know --single-cls",
                 "--task {train,val,test,speed,study,table10}", "images in a batch (default: 32; at least 1)",
                 "1408 1536; at least 32)"):
        assert part in text
    text = " ".join(help_of("data check", capsys).split())
    assert "--decode, --no-decode decode every image, which finds damaged ones and those that stand in two splits " \
        "(default: on)" in text
    assert "--from {voc,labelme,via,csv,supervisely,createml}" in help_of("data convert", capsys)


def test_every_setting_of_a_run_is_a_flag_or_says_that_it_is_none(capsys: CAPTURE) -> None:
    flags = flags_in(help_of("train", capsys))
    settings = dataclasses.fields(RunConfig)
    hidden = {field.name for field in settings if not field.metadata.get("flag", True)}
    assert hidden == {"recipe", "train_size", "test_size"}  # --hyp and --set, --img-size
    assert {field.name for field in settings} - {flag[2:].replace("-", "_") for flag in flags} == hidden
    assert issubclass(TrainOptions, RunConfig)
    assert all(field.metadata["help"] for field in settings)


def test_the_list_of_commands(capsys: CAPTURE) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    one_line = " ".join(text.split())
    for command in cli.COMMANDS:
        assert " ".join(f"{command} {summary(command)}".split()) in one_line
        assert re.search(rf"^  {command} +[A-Z]", text, re.MULTILINE)
    assert "examples:\n" in text and " train\n" in text
    assert max(len(line) for line in text.splitlines() if "yolov7" not in line) <= 80
    assert cli.main(["data", "--help"]) == 0
    text = capsys.readouterr().out
    assert "data convert" in text and "data anchors" in text and "detect" not in text
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"yolov7 {__version__}\n"


@pytest.mark.parametrize(("arguments", "message"), [
    (["data"], "'data' is an incomplete command; accepted: data check, data convert, data shard, data anchors"),
    (["data", "convret"], "unknown command 'data convret'; accepted: data check, data convert, data shard, data "
     "anchors; did you mean 'data convert'?"),
    (["spede"], "unknown command 'spede'; accepted: train, test, speed, detect, export, models, recipe, tune, compare, "
     "ablation, average, data; did you mean 'speed'?"),
    (["train", "--batchsize", "4"], "unknown flag '--batchsize'; did you mean '--batch-size'?"),
    (["train", "four"], "unknown argument 'four'"),
    (["train", "--batch-size", "four"], "argument --batch-size: invalid whole-number or auto value: 'four'"),
    (["speed", "--task", "val"], "argument --task: invalid choice: 'val'"),
])  # fmt: skip
def test_bad_flags_are_one_sentence(arguments: list[str], message: str, capsys: CAPTURE) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_speed_has_the_flags_of_test() -> None:
    names = [[field.name for field in dataclasses.fields(options)] for options in (SpeedOptions, TestOptions)]
    assert names[0] == names[1]
    assert SpeedOptions().task == "speed" and TestOptions().task == "val"


@pytest.mark.parametrize(("error", "code", "message"), [
    ("InputError('--x: bad')", 2, "error: --x: bad\n"),
    ("RunError('it broke')", 1, "error: it broke\n"),
    ("OSError('no disk')", 1, "error: OSError: no disk (--verbose shows where)\n"),
    ("KeyboardInterrupt()", 130, "error: interrupted\n"),
])
def test_faults_have_an_exit_code(error: str, code: int, message: str, capsys: CAPTURE,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    from yolov7.config import InputError, RunError

    kinds = {"InputError": InputError, "RunError": RunError, "OSError": OSError, "KeyboardInterrupt": KeyboardInterrupt}
    name, _, text = error.removesuffix(")").partition("(")

    def fail(options: object) -> int:
        """Fail."""
        raise kinds[name](*([text.strip("'")] if text else []))

    monkeypatch.setitem(cli.COMMANDS, "train", (TrainOptions, fail))
    assert cli.main(["train"]) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("script", ["train", "test", "detect", "export"])
def test_each_script_is_its_command(script: str) -> None:
    text = (Path(__file__).parents[1] / f"{script}.py").read_text(encoding="utf-8")
    assert f'run_command("{script}", sys.argv[1:], "{script}.py")' in text

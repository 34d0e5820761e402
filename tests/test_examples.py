"""The examples at the end of every ``--help`` run as they stand, one after the other, in a new folder."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from yolov7 import cli
from yolov7.commands.table import COMMANDS, EXAMPLES, FIRST
from yolov7.data import synthetic

LONG = (("test", EXAMPLES["test"][1]), ("speed", EXAMPLES["speed"][0]), ("models", ""),
        ("export", EXAMPLES["export"][0]), ("tune", EXAMPLES["tune"][0]))  # run by tests of their own


@pytest.mark.slow
@pytest.mark.untraced
def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(EXAMPLES) == list(COMMANDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(synthetic.generate, "__defaults__", (16, 12, 0))  # as many images
    for command, examples in EXAMPLES.items():
        for flags in (flags for flags in examples if (command, flags) not in LONG):
            words = [*command.split(), *shlex.split(flags)]
            assert cli.main(words) == 0, (words, capsys.readouterr())
    assert all(line.split()[0] in EXAMPLES for line in FIRST)
    assert (tmp_path / "datasets" / "again" / "annotations" / "instances_val.json").is_file()

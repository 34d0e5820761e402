"""YAML within bounds: small files that would grow, values that PyYAML stumbles over, and files that have no end."""

from __future__ import annotations

import gc
import os
import re
import time
from pathlib import Path

import pytest

from yolov7 import cli
from yolov7.config import InputError, override, parse_yaml, read_bytes, read_yaml
from yolov7.config.recipe import Recipe, read_recipe
from yolov7.data.data_yaml import read_data_config
from yolov7.model.spec import read_spec


def bomb(last: str) -> str:
    """Thirty levels, each nine times the one before."""
    levels = ["a0: &a0 " + last, *(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))]
    return "\n".join(levels) + "\n"


MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 30))
GROWING = [bomb("[x,x,x]"), bomb("{x: y}").replace("a", "None"), MERGED, "a: &a [*a]", "a: &a {b: {<<: *a}}",
           "[" * 3000, "{a: " * 3000, "- " * 3000, "? " * 3000]
ODD = ["a: 2001-99-99", "a: 0x_", "a: !!bool x", "a: " + "9" * 5000, "? [a]: b", "? {a: 1}\n: b", "a: !!int ''",
       "a: !!float x", "a: !!timestamp x", "a: !!binary é", "a: !!omap x", "a: !!pairs [x]", "a: {<<: 3}", "a: =",
       "1: a\n01: b", "1: a\ntrue: b", "%YAML " + "9" * 5000 + ".1\n---\na: 1", 'a: "\\U99999999"', "a: \x01",
       "a: !" + "x" * 5000 + " 1", "a: *b", "a: 1\n---\nb: 2", "x" * 5000 + ": 1\n- 2"]


@pytest.mark.parametrize("text", [*GROWING, *ODD], ids=lambda text: re.sub(r"\W+", "_", text[:20]))
def test_one_sentence_with_the_place_at_once(text: str) -> None:
    gc.disable()  # what other tests left behind is not looked through meanwhile
    started = time.process_time()
    try:
        with pytest.raises(InputError) as error:
            parse_yaml(text, "file.yaml")
    finally:
        gc.enable()
    message = str(error.value)
    assert message.startswith("file.yaml") and "\n" not in message and len(message) < 400
    assert time.process_time() - started < 1


def test_a_long_list_is_left_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolov7.config.plain_yaml.MAX_NODES", 1000)
    assert len(parse_yaml("[" + "x," * 999 + "]", "f")) == 999
    with pytest.raises(InputError, match="f, line 1, column 2000: holds more than 1000 values, aliases included"):
        parse_yaml("[" + "x," * 500_000 + "]", "f")


def test_what_aliases_are_for() -> None:
    text = "base: &b {x: 1, y: [1, 2]}\none: *b\ntwo: {<<: *b, x: 3}\n"
    assert parse_yaml(text, "f") == {
        "base": {"x": 1, "y": [1, 2]}, "one": {"x": 1, "y": [1, 2]}, "two": {"x": 3, "y": [1, 2]}}


@pytest.mark.untraced
@pytest.mark.parametrize("text", [bomb("[x]"), "lr0: 2001-99-99\n", "? [a]\n: b\n", "lr0: " + "9" * 5000],
                         ids=["bomb", "date", "list as key", "digits"])
def test_every_reader_of_yaml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    for read in (read_spec, read_recipe, read_data_config):
        with pytest.raises(InputError, match="x.yaml, line"):
            read(str(path))
    for flags in (["--cfg", str(path)], ["--hyp", str(path)], ["--data", str(path)]):
        assert cli.main(["train", "--device", "cpu", *flags]) == 2


@pytest.mark.parametrize("value", ["[1", "2001-99-99", "9" * 5000, ".inf", ".nan", "1" * 4000, "'1_0'", "'٣'",
                                   "[" * 999, "&a [*a]"], ids=lambda value: value[:12])
def test_odd_values_of_set(value: str) -> None:
    with pytest.raises(InputError, match="--set") as error:
        override(Recipe(), [f"loss.box={value}"])
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "long name", "nul", "large"])
def test_only_regular_files_within_bounds_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        with open(path, "wb") as stream:
            stream.truncate(1 << 40)  # of which the disk holds nothing
    name = {"device": "/dev/zero", "long name": "x" * 300, "nul": "a\0b"}.get(kind, str(path))
    reasons = "is not a regular file|cannot be read: File name|is not a name|x.yaml: is larger than 4 MiB"
    with pytest.raises(InputError, match=reasons):
        read_yaml(name)
    with pytest.raises(InputError, match="larger than|no such file|is not a regular file"):
        read_spec(name)


def test_a_file_of_just_the_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1" * 100)
    assert read_bytes(tmp_path / "x", 100) == b"1" * 100
    with pytest.raises(InputError, match="x: is larger than"):
        read_bytes(tmp_path / "x", 99)


def test_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_yaml(tmp_path / "x.yaml") == {"a": 1}

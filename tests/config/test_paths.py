"""Names that no file can have, in flags and in the YAML of a data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolov7 import cli
from yolov7.config import InputError
from yolov7.data.catalog import open_data


@pytest.mark.parametrize("arguments", [
    ["train", "--cfg"], ["train", "--data"], ["train", "--hyp"], ["train", "--weights"], ["train", "--resume"],
    ["train", "--name"], ["test", "--weights"], ["detect", "--weights"], ["export", "--output"], ["models", "--scale"],
    ["data", "convert", "--output"], ["data", "anchors", "--output"]], ids=" ".join)
@pytest.mark.parametrize(("name", "message"), [
    ("x" * 300, "a name of 300 bytes; accepted: up to 255"), ("é" * 128, "a name of 256 bytes"),
    ("a/" * 3000, "4095 with all its folders"), ("a\0b", "NUL character")], ids=["ascii", "utf8", "folders", "nul"])
def test_a_name_that_no_file_can_have_is_bad_input(arguments: list[str], name: str, message: str,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*arguments, name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {arguments[-1]}: found ") and message in error and len(error) < 500


@pytest.mark.parametrize("entry", ["path: {}\ntrain: a", "train: {}", "train: a\nval: [a, {}]"])
def test_a_name_that_no_file_can_have_in_a_data_yaml(entry: str, tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(f"{entry.format('x' * 300)}\nnames: [a]\n")
    with pytest.raises(InputError, match=r"d.yaml, (path|train|val): found .* a name of 300 bytes"):
        open_data(str(tmp_path / "d.yaml"))

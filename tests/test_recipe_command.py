"""`yolov7 recipe` lists every key that `--set` takes, from the recipe's own definition."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from yolov7 import cli
from yolov7.config import override
from yolov7.config.recipe import AugmentConfig, Recipe, read_recipe, recipe_keys
from yolov7.data.compose import GEOMETRY
from yolov7.data.pipeline import KEYS, STEPS

CAPTURE = pytest.CaptureFixture[str]
SECTIONS = [field.name for field in dataclasses.fields(Recipe)]


def shown(capsys: CAPTURE, *flags: str) -> str:
    assert cli.main(["recipe", *flags]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["p5", "tiny", "p6", "custom", "finetune"])
def test_every_key_is_one_that_set_takes(name: str) -> None:
    recipe = read_recipe(name)
    keys = recipe_keys(recipe)
    assert [key.name for key in keys] == [f"{section}.{field.name}" for section in SECTIONS
                                          for field in dataclasses.fields(getattr(recipe, section))]
    assert all(len(key.meaning) > 5 for key in keys)
    values = [f"{key.name}={key.value}" for key in keys if key.name != "loss.gains"]  # a section of its own
    assert override(Recipe(), values) == recipe
    accepted = {key.name: key.accepted for key in keys}
    assert accepted["optimizer.kind"] == "sgd, adamw" and accepted["loss.gr"] == "0 to 1"
    assert accepted["loss.box"] == "at least 0" and accepted["loss.loss_ota"] == ""


def test_all_of_it_is_shown_in_80_columns(capsys: CAPTURE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, "--hyp", "tiny")
    one_line = " ".join(text.split())
    for key in recipe_keys(read_recipe("tiny")):
        name = key.name.partition(".")[2]
        assert f" {name} {key.value} {key.meaning}" in one_line, name
    assert [title for title in SECTIONS if f"{title}:\n" in text] == SECTIONS
    assert max(map(len, text.splitlines())) <= 80
    assert "perspective degrees=0, translate=0.1, scale=0.5, scale_top=1.1, shear=0, perspective=0, max_aspect=20 " \
           "mixup mixup=0.05, mixup_beta=8" in one_line
    assert "Left out, so that their keys do nothing: cutout, clahe," in text


def test_the_command_that_it_shows_runs(capsys: CAPTURE) -> None:
    line = " ".join(shown(capsys, "--find", "positives").split()).partition("To change one: ")[2]
    assert re.fullmatch(r"\S+ -m yolov7 train --hyp p5 --set loss\.top_k=0", line)
    found = re.search(r"--set ('[^']+') (\S+)", " ".join(shown(capsys).split()))
    assert found is not None
    changed = override(read_recipe("p5"), shlex.split(" ".join(found.groups())))
    assert changed.augment.blur == 0.01 and "blur" in changed.augment.pipeline


def test_find(capsys: CAPTURE) -> None:
    text = shown(capsys, "--find", "Mosaic")
    assert re.findall(r"^  (\w+)", text, re.M) == ["mosaic", "nine_tiles", "mixup", "copy_paste"]
    assert "optimizer:" not in text and "steps of" not in text
    assert cli.main(["recipe", "--find", "moasic"]) == 2
    assert "--find 'moasic': no key has that word; did you mean 'mosaic'?" in capsys.readouterr().err


def test_differences(tmp_path: Path, capsys: CAPTURE) -> None:
    assert shown(capsys, "--hyp", "p5", "--diff", "p6").split() == ["p5", "p6", "optimizer.lrf", "0.1", "0.2"]
    assert shown(capsys, "--diff", "p5") == "p5 and p5 say the same\n"
    mine = tmp_path / "mine.yaml"
    mine.write_text("lr0: 0.02\nfliplr: 0.0\n")  # flat, as the reference implementation has them
    text = shown(capsys, "--hyp", str(mine), "--diff", "p5", "--find", "lr")
    assert [line.split() for line in text.splitlines()[1:]] == [["optimizer.lr0", "0.02", "0.01"],
                                                                ["augment.fliplr", "0", "0.5"]]


@pytest.mark.parametrize("flag", ["--hyp", "--diff"])
def test_unknown_recipes(flag: str, capsys: CAPTURE) -> None:
    assert cli.main(["recipe", flag, "tyni"]) == 2
    assert f"{flag} 'tyni': no such file, and none is shipped under that name" in capsys.readouterr().err


def test_every_key_of_the_augmentation_belongs_to_a_step() -> None:
    keys = [key for names in KEYS.values() for key in names]
    assert sorted([*keys, "pipeline"]) == sorted(field.name for field in dataclasses.fields(AugmentConfig))
    assert set(KEYS) == {*GEOMETRY, *STEPS} == set(AugmentConfig().pipeline)

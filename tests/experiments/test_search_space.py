"""Search spaces: what they say, what they refuse, and where a study begins."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from yolov7.config import InputError
from yolov7.config.recipe import Recipe, read_recipe
from yolov7.experiments.search_space import read_space, split

RECIPE = Recipe()  # lr0 0.01, fliplr 0.5, mixup 0.15


def space_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("recipe", ["tiny", "p5", "p6", "custom", "finetune"])
def test_shipped_space_holds_the_shipped_recipes(recipe: str) -> None:
    found = read_recipe(recipe)
    space = read_space("default", found)
    assert len(space.dimensions) > 10
    start = space.start(found, {})
    assert recipe == "finetune" or start is not None
    if start:
        assert start["optimizer.lr0"] == found.optimizer.lr0


def test_values_of_every_kind(tmp_path: Path) -> None:
    space = read_space(str(space_of(tmp_path, """
optimizer.lr0: {factor: 2}
loss.box: {low: 0.01, high: 0.1, log: true}
augment.mosaic: {low: 0, high: 1, step: 0.25}
augment.fliplr: {choices: [0, 0.5]}
batch_size: {low: 8, high: 16}
linear_lr: {choices: [true, false]}
""")), RECIPE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(30):
        values = space.suggest(study.ask())
        flags, changes = split(values)
        assert set(flags) == {"batch_size", "linear_lr"} and isinstance(flags["batch_size"], int)
        assert 8 <= flags["batch_size"] <= 16 and flags["linear_lr"] in (True, False)
        found = {key: float(text) for key, _, text in (change.partition("=") for change in changes)}
        assert 0.005 <= found["optimizer.lr0"] <= 0.02
        assert 0.01 <= found["loss.box"] <= 0.1
        assert found["augment.mosaic"] in (0, 0.25, 0.5, 0.75, 1)
        assert found["augment.fliplr"] in (0, 0.5)


def test_start_is_what_recipe_and_flags_say_or_nothing(tmp_path: Path) -> None:
    inside = read_space(str(space_of(tmp_path, "augment.mixup: {low: 0, high: 0.3}\nbatch_size: {choices: [8, 16]}")),
                        RECIPE)
    assert inside.start(RECIPE, {"batch_size": 16}) == {"augment.mixup": 0.15, "batch_size": 16}
    assert inside.start(RECIPE, {"batch_size": 4}) is None
    stepped = read_space(str(space_of(tmp_path, "augment.mixup: {low: 0, high: 0.4, step: 0.1}")), RECIPE)
    assert stepped.start(RECIPE, {}) is None  # 0.15 is none of them


@pytest.mark.parametrize(("text", "words"), [
    ("", "holds nothing"),
    ("optimizer.wieght_decay: {factor: 2}", "did you mean 'optimizer.weight_decay'"),
    ("epochs: {low: 1, high: 3}", "unknown key 'epochs'"),
    ("optimizer.lr0: 3", "accepted: {low, high}, {factor} or {choices}"),
    ("optimizer.lr0: {low: 0.1}", "high is missing"),
    ("optimizer.lr0: {low: 0.1, high: 0.1}", "is not below high"),
    ("optimizer.lr0: {low: 0, high: 0.1, log: true}", "has no logarithm"),
    ("optimizer.lr0: {low: 0.1, high: 1, factor: 2}", "accepted: one of them"),
    ("optimizer.lr0: {}", "found none of low and high, factor, choices"),
    ("augment.flipud: {factor: 2}", "of which there is no multiple"),
    ("augment.mosaic: {low: 0, high: 2}", "accepted: 0 to 1"),
    ("augment.mosaic: {choices: [0, 7]}", "accepted: 0 to 1"),
    ("augment.mosaic: {low: 0, high: 1, step: 2}", "step: found 2"),
    ("optimizer.kind: {choices: [sgd, adam]}", "adamw"),
    ("optimizer.lr0: {choices: [[1]]}", "numbers, words, true or false"),
    ("optimizer.lr0: {factor: 0.5}", "at least 1"),
    ("batch_size: {low: 8.2, high: 8.7}", "no whole number"),
    ("optimizer.lr0: {low: .nan, high: 1}", "lr0"),
])
def test_what_is_refused_names_the_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_space(str(space_of(tmp_path, text)), RECIPE)
    assert words in str(caught.value), caught.value


def test_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(InputError, match="shipped: default"):
        read_space("defualt", RECIPE)

"""What a training from weights takes where no flag says otherwise, and what is said of it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from yolov7 import cli
from yolov7.data.catalog import DataSource
from yolov7.data.data_yaml import RunSettings, read_data_config
from yolov7.data.synthetic import generate
from yolov7.engine.decisions import Decision, Decisions, decisions_text
from yolov7.engine.finetuning import MANY_IMAGES, MAX_EPOCHS, MIN_EPOCHS, Start, fine_tuning
from yolov7.engine.run_config import RunConfig, TrainOptions, resolve
from yolov7.model.spec import ModelSpec, read_spec

ROOT = Path(__file__).parents[2]
MINE = DataSource("mine", ("a", "b"))
SHAPES = DataSource("shapes", ("a", "b"), settings=read_data_config(ROOT / "data" / "shapes.yaml").settings)
FEW, MANY = (30, 60, 120, 205, 5_000), (MANY_IMAGES, 118_000)
FLAGS = {"data": "--data", "model": "--cfg", "recipe": "--hyp", "size": "--img-size", "batch size": "--batch-size",
         "nominal batch": "--nominal-batch", "epochs": "--epochs", "patience": "--patience"}


@pytest.fixture(scope="module")
def tiny() -> ModelSpec:
    return read_spec("yolov7-tiny")


def settle(tiny: ModelSpec, images: int, weights_size: int | None = None, source: DataSource = MINE,
           **flags: object) -> tuple[RunConfig, dict[str, Decision]]:
    """Of a training on so many images, from weights of that size where there is one."""
    options = dataclasses.replace(TrainOptions(), **flags)  # type: ignore[arg-type]
    start = Start(images, bool(options.weights), weights_size)
    config, decisions = resolve(options, tiny, source, 32, start=start)
    return config, {decision.what: decision for decision in decisions}


# --- the rule --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", FEW)
def test_few_images_are_fine_tuned_on(tiny: ModelSpec, images: int) -> None:
    config, decisions = settle(tiny, images, 192, weights="best.pt")
    assert (config.hyp, config.train_size, config.test_size) == ("finetune", 192, 192)
    assert config.batch_size <= config.nominal_batch <= images // 4  # an epoch has steps of that many
    assert MIN_EPOCHS <= config.epochs <= MAX_EPOCHS and 10 <= config.patience < config.epochs
    for what in ("recipe", "epochs", "batch size"):
        assert f"{images:,} images" in decisions[what].reason
    assert decisions["size"].reason == decisions["model"].reason == "of the weights"


def test_fewer_images_take_more_epochs(tiny: ModelSpec) -> None:
    epochs = [settle(tiny, images, 192, weights="best.pt")[0].epochs for images in FEW]
    assert epochs == sorted(epochs, reverse=True) and epochs[0] > epochs[-1]


@pytest.mark.parametrize("images", MANY)
def test_many_images_are_trained_on_as_in_the_paper(tiny: ModelSpec, images: int) -> None:
    config, decisions = settle(tiny, images, 416, weights="best.pt")
    scratch, _ = settle(tiny, images)
    assert config == dataclasses.replace(scratch, weights="best.pt", train_size=416, test_size=416)
    assert decisions["epochs"] == Decision("epochs", "300", "as in the paper", "--epochs")


@pytest.mark.parametrize("images", [*FEW, *MANY])
def test_from_scratch_is_the_papers_training_with_any_number_of_images(tiny: ModelSpec, images: int) -> None:
    config, decisions = settle(tiny, images)
    assert config == settle(tiny, 1)[0]
    assert (config.hyp, config.train_size, config.batch_size, config.nominal_batch, config.epochs, config.patience) == (
        "tiny", 640, 16, 64, 300, 0)
    assert decisions["recipe"].reason == decisions["size"].reason == "of the model yolov7-tiny"
    assert decisions["nominal batch"].reason == "of the recipe tiny"


def test_weights_that_do_not_say_their_size_are_of_the_models(tiny: ModelSpec) -> None:
    config, decisions = settle(tiny, 60, None, weights="yolov7-tiny.pt")
    assert (config.train_size, decisions["size"].reason) == (640, "of the model yolov7-tiny")


def test_the_rule_is_a_function_of_its_arguments() -> None:
    for images in range(0, 20_000, 7):
        assert fine_tuning(Start(images, True, 192)) == fine_tuning(Start(images, True, 640))
        assert fine_tuning(Start(images, False)).reason == ""


# --- what stands above it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["", "best.pt"])
@pytest.mark.parametrize(("flag", "value", "what", "changed"), [
    ("cfg", "yolov7-tiny", "model", {}),
    ("epochs", 7, "epochs", {"epochs": 7}),
    ("batch_size", 8, "batch size", {"batch_size": 8}),
    ("nominal_batch", 64, "nominal batch", {"nominal_batch": 64}),
    ("patience", 0, "patience", {"patience": 0}),
    ("img_size", (320, 416), "size", {"train_size": 320, "test_size": 416}),
])
def test_a_flag_decides_its_own_setting_alone(tiny: ModelSpec, weights: str, flag: str, value: object, what: str,
                                              changed: dict[str, object]) -> None:
    base, said = settle(tiny, 60, 192, weights=weights)
    config, decisions = settle(tiny, 60, 192, weights=weights, **{flag: value})
    if weights:  # what follows from another setting
        changed |= {"epochs": {"patience": 10}, "batch_size": {"nominal_batch": 8}}.get(flag, {})
    assert config == dataclasses.replace(base, **changed)  # type: ignore[arg-type]
    assert what in said and what not in decisions
    assert set(said) - set(decisions) == {what}


def test_a_named_recipe_stands_above_the_rule(tiny: ModelSpec) -> None:
    config, decisions = settle(tiny, 60, 192, weights="best.pt", hyp="custom")
    assert "recipe" not in decisions and config.hyp == "custom"
    assert decisions["nominal batch"] == Decision(
        "nominal batch", "15", "4 steps an epoch; custom says 64",
        "--nominal-batch")
    config, decisions = settle(tiny, 5_000, 192, weights="best.pt", hyp="custom")
    assert (config.nominal_batch, decisions["nominal batch"].reason) == (64, "of the recipe custom")
    for value in (8, 64):  # as it is set
        changes = (f"optimizer.nominal_batch={value}",)
        assert settle(tiny, 60, 192, weights="best.pt", set=changes)[0].nominal_batch == value


def test_settings_of_the_data_set_stand_above_the_rule(tiny: ModelSpec) -> None:
    own = SHAPES.settings["yolov7-tiny"]
    config, decisions = settle(tiny, 60, 320, SHAPES, weights="best.pt")
    scratch, _ = settle(tiny, 60, None, SHAPES)
    assert config == dataclasses.replace(scratch, weights="best.pt", patience=10)
    assert (config.epochs, config.recipe.loss.obj) == (own.epochs, 4)
    assert decisions["epochs"].reason == "settings of shapes"
    assert decisions["recipe"].reason == f"settings of shapes, with {len(own.set)} changes"
    for settings, expected in [
        (RunSettings(epochs=9), (9, "finetune", 4)),
        (RunSettings(hyp="custom"), (150, "custom", 15)),
        (RunSettings(set=("optimizer.nominal_batch=32",)), (150, "tiny", 32)),
    ]:
        some = DataSource("some", ("a", "b"), settings={"yolov7-tiny": settings})
        config, _ = settle(tiny, 60, 192, some, weights="best.pt")
        assert (config.epochs, config.hyp, config.nominal_batch) == expected


# --- what is said ----------------------------------------------------------------------------------------------


def test_every_decision_names_the_flag_that_changes_it(tiny: ModelSpec) -> None:
    _, decisions = settle(tiny, 60, 192, weights="best.pt")
    assert {what: decision.flag for what, decision in decisions.items()} == FLAGS
    names = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(TrainOptions)}
    assert set(FLAGS.values()) <= names
    lines = decisions_text(tuple(decisions.values())).splitlines()
    for line, decision in zip(lines, decisions.values(), strict=True):
        assert re.fullmatch(rf"{decision.what} +{re.escape(decision.value)} +{re.escape(decision.reason)} "
                            rf"\({decision.flag}\)", line)


def test_decisions_keep_the_first_offer_that_is_one() -> None:
    decisions = Decisions()
    size = decisions.settle("size", "--img-size", None, (None, "no"), ((320, 416), "yes"), ((640,), "late"))
    assert size == (320, 416)
    assert decisions.settle("patience", "--patience", 0, (3, "never asked")) == 0
    assert decisions.made == [Decision("size", "320, 416", "yes", "--img-size")]


# --- a run -----------------------------------------------------------------------------------------------------


def test_a_forecast_says_what_was_decided(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing but weights and data is given; the weights are of 64 px."""
    generate(tmp_path / "mine", train=60, val=4)
    assert cli.main(["train", "--weights", str(run / "weights" / "best.pt"), "--data", str(tmp_path / "mine"),
                     "--device", "cpu", "--workers", "0", "--dry-run"]) == 0
    said = capsys.readouterr().out
    expected = fine_tuning(Start(60, True, 64))
    for what, value in (("recipe", "finetune"), ("size", "64"), ("epochs", expected.epochs),
                        ("batch size", expected.batch_size), ("model", "yolov7-tiny")):
        assert re.search(rf"^ *{what} +{value} +.*\({FLAGS[what]}\)$", said, re.MULTILINE), what
    assert re.search(rf"an epoch, \S+ \S+ for {expected.epochs} epochs", " ".join(said.split()))


def test_a_run_on_few_images_takes_minutes_where_it_took_hours(tiny: ModelSpec) -> None:
    """What it costs is the pixels that it sees: those of 60 images at 640 px for 300 epochs took 8 hours."""
    new, old = settle(tiny, 60, 192, weights="best.pt")[0], settle(tiny, 60)[0]
    assert 8 * 60 * (new.epochs * new.train_size**2) / (old.epochs * old.train_size**2) < 30

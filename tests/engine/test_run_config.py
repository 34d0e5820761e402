"""What holds where no flag says otherwise: the data set's settings for the model, then the model's config."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from yolov7.config import InputError
from yolov7.data.catalog import DataSource
from yolov7.data.data_yaml import RunSettings, read_data_config
from yolov7.engine.run_config import TrainOptions, resolve
from yolov7.model.spec import parse_spec, read_spec

ROOT = Path(__file__).parents[2]
SHAPES = DataSource("shapes", ("a", "b"), settings=read_data_config(ROOT / "data" / "shapes.yaml").settings)
PLAIN = DataSource("plain", ("a", "b"))


def test_a_model_alone_is_the_papers_training() -> None:
    for source in (SHAPES, PLAIN):
        config, _ = resolve(TrainOptions(cfg="yolov7"), read_spec("yolov7"), source, 32)
        assert (config.hyp, config.train_size, config.test_size, config.epochs) == ("p5", 640, 640, 300)
        assert (config.batch_size, config.nominal_batch, config.recipe.augment.scale) == (16, 64, 0.9)
    large = parse_spec({**read_spec("yolov7").definition, "recipe": "p6", "image_size": 1280}, "large")
    config, _ = resolve(TrainOptions(), large, PLAIN, 64)
    assert (config.hyp, config.train_size, config.recipe.optimizer.lrf) == ("p6", 1280, 0.2)


def test_settings_of_the_data_set_hold_for_the_model_they_name() -> None:
    tiny = read_spec("yolov7-tiny")
    suggested = SHAPES.settings["yolov7-tiny"]
    config, _ = resolve(TrainOptions(), tiny, SHAPES, 32)
    assert (config.epochs, (config.train_size,), config.batch_size) == (
        suggested.epochs, suggested.img_size, suggested.batch_size)
    assert config.recipe.augment.mosaic == 0
    assert resolve(TrainOptions(), tiny, PLAIN, 32)[0].recipe.augment.mosaic == 1


def test_one_flag_changes_nothing_else() -> None:
    tiny = read_spec("yolov7-tiny")
    base, _ = resolve(TrainOptions(), tiny, SHAPES, 32)
    for options, changes in [
        (TrainOptions(epochs=3), {"epochs": 3}),
        (TrainOptions(batch_size=4), {"batch_size": 4}),
        (TrainOptions(img_size=(320, 416)), {"train_size": 320, "test_size": 416}),
        (TrainOptions(seed=5), {"seed": 5}),
    ]:
        assert resolve(options, tiny, SHAPES, 32)[0] == dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_overrides_stand_above_the_settings_and_a_named_recipe_replaces_them() -> None:
    tiny = read_spec("yolov7-tiny")
    assert resolve(TrainOptions(set=("augment.mosaic=0.5",)), tiny, SHAPES, 32)[0].recipe.augment.mosaic == 0.5
    config, _ = resolve(TrainOptions(hyp="p5"), tiny, SHAPES, 32)
    assert (config.recipe.augment.mosaic, config.recipe.optimizer.lr0) == (1.0, 0.01)
    wrong = DataSource("wrong", ("a",), settings={"yolov7-tiny": RunSettings(set=("loss.bos=1",))})
    with pytest.raises(InputError, match="unknown key 'bos'"):
        resolve(TrainOptions(), tiny, wrong, 32)


def test_sizes_are_rounded_up_aloud(caplog: pytest.LogCaptureFixture) -> None:
    config, _ = resolve(TrainOptions(img_size=(100,)), read_spec("yolov7-tiny"), PLAIN, 32)
    assert (config.train_size, config.test_size) == (128, 128)
    assert "--img-size 100 is rounded up to 128" in caplog.text


def test_a_change_that_does_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    changes = ("augment.blur=0.1", "augment.mosaic=0.5", "loss.box=0.1")
    config, _ = resolve(TrainOptions(set=changes), read_spec("yolov7"), PLAIN, 32)
    (message,) = caplog.messages
    assert message.startswith("--set augment.blur=0.1: does nothing") and "fliplr, blur]'" in message
    pipeline = message.partition("--set '")[2].rstrip("'")
    caplog.clear()
    again, _ = resolve(TrainOptions(set=(*changes, pipeline)), read_spec("yolov7"), PLAIN, 32)
    assert not caplog.messages and again.recipe.augment.pipeline == (*config.recipe.augment.pipeline, "blur")

"""Every key of every schema takes odd values, or says in one sentence why not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from yolov7.config import InputError, convert, from_mapping, parse_arguments
from yolov7.config import options as commands
from yolov7.config.recipe import AugmentConfig, LossConfig, OptimizerConfig
from yolov7.data.data_yaml import DataConfig, RunSettings
from yolov7.engine.run_config import RunConfig, TrainOptions
from yolov7.inference.exported import ExportFacts, Thresholds
from yolov7.model.scaling import Scale
from yolov7.model.spec import PaperFigures

SCHEMAS = [OptimizerConfig, LossConfig, AugmentConfig, DataConfig, RunSettings, RunConfig, TrainOptions,
           commands.TestOptions, commands.DetectOptions, commands.ExportOptions, commands.ModelsOptions,
           commands.ConvertOptions, commands.AnchorsOptions, ExportFacts, Thresholds, Scale, PaperFigures]
ODD = [None, True, 0, -1, 1.5, 10**400, -(10**400), 16**5000, 2**63, 2**64, math.nan, math.inf, -math.inf, 1j, "", "x",
       "\0", "\ud800", "x" * 10_000, "1_0", "٣", "nan", "inf", b"x", [], [1], ["x"], [[]], [[[1]]], [None],
       [["x" * 1000] * 1000] * 1000, [math.nan], {}, {"x": 1}, {1: 2}, {"x": {}}, {"x" * 10_000: 1}, set(), object(),
       torch.zeros(3), torch.tensor(1.0)]
FIELDS = [(schema, field.name) for schema in SCHEMAS for field in dataclasses.fields(schema)]


@pytest.mark.untraced
@pytest.mark.parametrize(("schema", "key"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_every_key_takes_an_odd_value_or_says_why_not(schema: type[Any], key: str) -> None:
    for value in ODD:
        try:
            from_mapping(schema, {key: value}, "file.yaml")
        except InputError as error:
            message = str(error)
            assert (key in message or "is missing" in message) and "\n" not in message
            assert len(message) < 600, message[:600]


@pytest.mark.parametrize("value", ["inf", "nan", "1_0", "٣", math.inf, math.nan, 10**400])
def test_what_is_no_finite_number(value: Any) -> None:
    with pytest.raises(InputError, match="accepted: a number that is finite"):
        convert(value, float, "loss.box")


def test_numbers_of_yaml_1_1() -> None:
    assert [convert(text, float, "x") for text in ("5e-4", " 1.5 ", "-1E3")] == [5e-4, 1.5, -1e3]


@pytest.mark.parametrize("flags", [["--seed", str(2**64)], ["--img-size", "100000000"], ["--epochs", "1" * 30],
                                   ["--workers", "9" * 30], ["--batch-size", "9" * 30]])
def test_flags_beyond_all_measure(flags: list[str]) -> None:
    with pytest.raises(InputError, match=f"{flags[0][2:].replace('-', '_')}: found {flags[1]}; accepted: at most"):
        parse_arguments(TrainOptions, flags, "train.py", "")

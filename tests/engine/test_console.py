"""What a training says: its head, a line for each epoch, the best one class by class; in 80 columns."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yolov7.engine import console
from yolov7.engine.console import (
    ClassNumbers,
    EpochNumbers,
    EpochTable,
    numbers_text,
    task_scores_text,
    warm_up_text,
)
from yolov7.engine.log import TERMS, EpochRecord

RECORD = EpochRecord(3, dict.fromkeys(TERMS, 0.05123), {"AP": 0.3312, "AP50": 0.6121, "AP75": 0.2, "precision": 0.7112,
                     "recall": 0.5512, "F1": 0.6213, "confidence": 0.312}, 0.01, 90.0, 0, dict.fromkeys(TERMS, 0.1))


# --- the table of epochs -----------------------------------------------------------------------------------------


def test_the_first_row_has_a_header_and_a_legend() -> None:
    legend, second, header, row = EpochTable(TERMS, 300).add(RECORD, better=True).split("\n")
    assert legend.startswith("val: the loss") and "*: best so far" in second
    assert header.split() == ["epoch", "box", "obj", "cls", "val", "P", "R", "F1", "conf", "AP50", "AP", "time"]
    assert row.split(",")[0].split() == ["3/300*", "0.0512", "0.0512", "0.0512", "0.3000", "0.711", "0.551", "0.621",
                                         "0.31", "0.612", "0.331", "1.5", "min"]
    assert row.endswith("~7.4 h left")
    ends = [header.index(name) + len(name) for name in ("box", "val", "F1", "AP50")]
    assert [row[end - 1].isdigit() and row[end] == " " for end in ends] == [True] * 4  # columns stand below their names


@pytest.mark.parametrize("epochs", [3, 14, 300])
def test_rows_fit_a_terminal_of_80_columns(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "is_terminal", lambda stream: True)
    monkeypatch.setattr(console.os, "get_terminal_size", lambda descriptor: SimpleNamespace(columns=80))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(fileno=lambda: 1))
    text = EpochTable(TERMS, epochs).add(RECORD, better=False)
    assert all(len(line) <= 80 for line in text.split("\n")) and "left" not in text
    monkeypatch.setattr(console.os, "get_terminal_size", lambda descriptor: SimpleNamespace(columns=200))
    assert ("left" in EpochTable(TERMS, epochs).add(RECORD, better=False)) == (len(text.split("\n")[-1]) < 200)


def test_the_header_comes_again() -> None:
    table = EpochTable(TERMS, 50)
    rows = [table.add(replace(RECORD, epoch=epoch), better=False) for epoch in range(1, 51)]
    assert [index for index, row in enumerate(rows) if "epoch" in row] == [0, 20, 40]


def test_what_was_not_measured_and_a_tasks_own_columns() -> None:
    record = replace(RECORD, metrics={"AP": 0.0, "colour_error": 0.25}, val_losses={}, skipped=2,
                     losses={**RECORD.losses, "box": 12345.6})
    text = EpochTable({**TERMS, "colour": "colour"}, 3).add(record, better=False, over=True)
    header, row = text.split("\n")[-2:]
    assert header.split()[-2:] == ["colour_error", "time"] and "colour" in header.split()
    assert row.split() == ["3/3", "1.23e+04", "0.0512", "0.0512", "-", "-", "-", "-", "-", "-", "-", "0.000", "0.250",
                           "1.5", "min,", "2", "steps", "skipped"]


def test_the_time_that_is_left_is_that_of_the_epochs_so_far() -> None:
    table = EpochTable(TERMS, 5)
    table.add(replace(RECORD, epoch=1, seconds=50.0), better=True)
    assert table.add(replace(RECORD, epoch=2, seconds=30.0), better=True).endswith(", ~2.0 min left")
    assert "left" not in table.add(replace(RECORD, epoch=3), better=True, over=True)


# --- the head ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("warm_up", "batches", "text"), [
    (0, 8, "none"), (24, 8, "the first 24 of 64 batches"), (64, 8, "the whole run, 64 batches"),
    (96, 8, "the whole run, 64 batches (the recipe's is longer: 96)"), (1000, 500, "the first 1,000 of 4,000 batches")])
def test_a_warm_up_is_no_longer_than_its_run(warm_up: int, batches: int, text: str) -> None:
    trainer: Any = SimpleNamespace(schedule=SimpleNamespace(warmup=warm_up, epochs=8, batches=batches))
    assert warm_up_text(trainer) == text


def test_the_device_in_words() -> None:
    assert console.device_text(torch.device("cpu"), "bf16", 2).startswith("CPU, ")
    assert console.device_text(torch.device("cpu"), "bf16", 2).endswith("cores, bf16, 2 processes")
    assert console.device_text(torch.device("mps"), "fp32") == "mps, fp32"


# --- the best epoch ----------------------------------------------------------------------------------------------


def numbers(*classes: ClassNumbers) -> EpochNumbers:
    return EpochNumbers(3, 87, RECORD.metrics, classes)


def row(name: str, objects: int = 5, ap: float = 0.5) -> ClassNumbers:
    return ClassNumbers(name, min(objects, 2), objects, 0.9, 0.8, 0.847, 0.7, ap)


def test_the_table_by_class() -> None:
    absent = ClassNumbers("none", 0, 0, -1.0, -1.0, -1.0, -1.0, -1.0)
    lines = numbers_text(numbers(row("cell"), row("a very long name of a class of cells"), absent)).split("\n")
    assert lines[0].split() == ["class", "images", "objects", "P", "R", "F1", "AP50", "AP"]
    assert lines[1].split() == ["all", "87", "10", "0.711", "0.551", "0.621", "0.612", "0.331"]
    assert lines[2].split() == ["cell", "2", "5", "0.900", "0.800", "0.847", "0.700", "0.500"]
    assert lines[3].startswith("a very long name of a c…")
    assert lines[4] == "P, R and F1 of all at confidence 0.312, where the mean F1 is best (IoU 0.50)"
    assert lines[5] == "without objects, not counted: 1: none" and all(len(line) <= 80 for line in lines)


def test_of_very_many_classes_the_lowest() -> None:
    text = numbers_text(numbers(*(row(f"class{index}", ap=index / 1000) for index in reversed(range(300)))))
    lines = text.split("\n")
    assert len(lines) == 2 + console.MAX_ROWS + 2 and lines[2].startswith("class0 ")
    assert lines[-1] == "the 100 classes of the lowest AP, of 300"


def test_without_objects_there_is_no_table() -> None:
    assert numbers_text(numbers(row("cell", objects=0))) == ""


def test_scores_of_a_task_stand_behind_those_of_boxes() -> None:
    boxes = {"AP": 0.5, "AP50": 0.9, "confidence": 0.3}
    assert task_scores_text(boxes) == ""
    found = task_scores_text(boxes | {"keypoints_AP": 0.1915, "keypoints_AP50": 0.598, "keypoints_AP75": 0.1})
    assert found == ", keypoints AP 0.192, AP50 0.598"

"""The comparison of prototypes and blending: its ways are flags of test, and what the table says."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from script_module import SCRIPTS, load_script

from yolov7.config.options import TestOptions
from yolov7.model.spec import read_spec
from yolov7.tasks.base import find_task


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return load_script("compare_masks")


def test_ways_are_those_of_the_models(script: ModuleType) -> None:
    for model, ways in script.WAYS.items():
        task = find_task(read_spec(model).head.block)
        for flags in ways.values():
            assert set(flags) <= set(TestOptions.__dataclass_fields__)
            task.after(flags.get("masks"), flags.get("mask_scores"))
        assert next(iter(ways.values())) == {}  # the usual way comes first


def test_the_table_has_means_and_ranges(script: ModuleType) -> None:
    def seed(value: float) -> dict[str, Any]:
        return {model: {"epochs": 20, "milliseconds": 10.0,
                        "ways": {way: dict.fromkeys(script.KEYS, value) for way in script.WAYS[model]}}
                for model in script.MODELS}

    lines = script.table([seed(0.2), seed(0.4)]).splitlines()
    assert len(lines) == 2 + 6 and all(line.count("|") == lines[0].count("|") for line in lines)
    assert lines[2].startswith("| yolov7-tiny-seg | fine | 20 | 10.0 | 0.300 (0.200 to 0.400) |")

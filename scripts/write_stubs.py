"""Write ``yolov7/functions.pyi``, from which editors complete ``yolov7.train(...)``: made of the flags' definitions.

``tests/test_functions.py`` holds that it is up to date.
"""

from __future__ import annotations

import re
from pathlib import Path

from yolov7.commands.calling import docstring, signature
from yolov7.commands.table import COMMANDS
from yolov7.config import atomic_write
from yolov7.config.program import function_name

TARGET = Path(__file__).parents[1] / "yolov7" / "functions.pyi"
HEAD = '''"""The commands as functions: written by ``scripts/write_stubs.py`` from the flags' definitions."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch

{imports}

PathLike = str | os.PathLike[str]
'''
IMPORTS = {  # result -> module
    "AnchorFit": "yolov7.engine.anchors", "DataFacts": "yolov7.data.check", "DetectionRun": "yolov7.inference.detect",
    "ExportRun": "yolov7.exporting.run", "Forecast": "yolov7.engine.forecast", "Table": "yolov7.runtime.tables",
    "AblationTable": "yolov7.experiments.ablation", "AverageRun": "yolov7.commands.average",
    "FoldRuns": "yolov7.experiments.folds", "RunComparison": "yolov7.experiments.comparing",
    "StudyResult": "yolov7.experiments.study_report",
    "SpeedTable": "yolov7.engine.speed", "TestRun": "yolov7.engine.testing", "TrainingRun": "yolov7.engine.history"}
SPECIAL = {  # command -> parameters with their usual values, those that give another result, and that
    "train": [("dry_run", "Literal[False]", "Literal[True]", "Forecast"), ("folds", "Literal[0]", "int", "FoldRuns")],
    "test": [("task", 'Literal["train", "val", "test"]', 'Literal["speed", "study", "table10"]', "SpeedTable")]}
OVERLAPS = {"train": "  # type: ignore[overload-overlap]  # 0 is an int, too"}


def text() -> str:
    """The whole file."""
    results = {command: str(run.__annotations__["return"]) for command, (_, run) in COMMANDS.items()}
    used = sorted({name for result in results.values() for name in IMPORTS if re.search(rf"\b{name}\b", result)},
                  key=lambda name: (IMPORTS[name], name))
    head = HEAD.format(imports="\n".join(f"from {IMPORTS[name]} import {name}" for name in used))
    return "\n".join([head, *(_stub(command, result) for command, result in results.items())])


def _stub(command: str, result: str) -> str:
    if command not in SPECIAL:
        return _definition(command, result, {}, "", "")
    special = SPECIAL[command]
    (other,) = set(result.split(" | ")) - {entry[3] for entry in special}
    usual = {name: value for name, value, _, _ in special}
    return "\n".join((_definition(command, other, usual, "", "@overload\n"),
                      *(_definition(command, given, {**usual, name: value}, name, "@overload\n")
                        for name, _, value, given in special)))


def _definition(command: str, result: str, changed: dict[str, str], needed: str, before: str) -> str:
    """A function; one with a ``needed`` parameter, which has no default, is explained in short."""
    options, _ = COMMANDS[command]
    parameters = []
    for parameter in signature(options).parameters.values():
        default = "" if parameter.name == needed else f" = {_literal(parameter.default)}"
        parameters.append(f"    {parameter.name}: {changed.get(parameter.name, parameter.annotation)}{default},\n")
    lines = docstring(command).replace("\\", "\\\\").split("\n")
    body = "\n".join(f"    {line}" if line else "" for line in lines[1:])
    text = f'    """{lines[0]}"""\n' if needed else f'    """{lines[0]}\n{body}\n    """\n'
    overlap = OVERLAPS.get(command, "") if before and needed != "folds" else ""
    return (f"\n{before}def {function_name(command)}({overlap}\n    *,\n{''.join(parameters)}) -> {result}:\n{text}")


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    atomic_write(TARGET, text())
    print(TARGET)

"""Write ``docs/flags.md``: every flag of every command, and every key of a recipe, from their definitions.

``tests/test_docs.py`` holds that it is up to date.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any, Literal

from yolov7.commands.table import COMMANDS, summary
from yolov7.config import atomic_write
from yolov7.config.flags import flag_fields, flag_of
from yolov7.config.help import GROUPS, limits, says_something, shown_default
from yolov7.config.program import function_name
from yolov7.config.recipe import Recipe, read_recipe, recipe_keys

TARGET = Path(__file__).parents[1] / "docs" / "flags.md"
RECIPES = ("tiny", "p5", "p6", "custom", "finetune", "seg", "seg-low", "seg-tiny", "pose", "pose-tiny")
HEAD = """# Flags and keys

Written by `python scripts/write_flags.py` from the definitions, of which `yolov7 COMMAND --help`, the functions of
Python programs ([python.md](python.md)) and the messages are made, too. A flag with an empty default is decided by the
run, as its meaning says, or is off.
"""
RECIPE_HEAD = """
## Keys of a recipe
What `--set KEY=VALUE` takes, and what the sections of a recipe file hold: `yolov7 recipe` shows it in the terminal with
the steps of the augmentation. A number in the columns of a recipe is shown where it differs from the default.
"""


def text() -> str:
    """The whole file."""
    return "\n".join([HEAD, *map(_command, COMMANDS), RECIPE_HEAD, _recipe_table(), ""])


def _command(name: str) -> str:
    options, _ = COMMANDS[name]
    hints = typing.get_type_hints(options)
    parts = [f"## {name}", f"{' '.join(summary(name).split())} In Python: `yolov7.{function_name(name)}(...)`."]
    for group in GROUPS:
        fields = [field for field in flag_fields(options) if field.metadata["group"] == group]
        if fields:
            rows = [(f"`{flag_of(field.name)}`", _default(field), _accepted(field, hints[field.name]),
                     str(field.metadata["help"])) for field in fields]
            parts.append(f"**{group}**\n\n{_table(('flag', 'default', 'accepted', 'meaning'), rows)}")
    return "\n\n".join(parts) + "\n"


def _default(field: Field[Any]) -> str:
    return f"`{shown_default(field.default)}`" if says_something(field.default) else ""


def _accepted(field: Field[Any], hint: Any) -> str:
    if hint is bool:
        return f"`--no-{flag_of(field.name)[2:]}`" if field.default else ""
    kinds = [hint, *typing.get_args(hint)]
    choices = next((typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is Literal), ())
    return ", ".join(f"`{choice}`" for choice in choices) or limits(field.metadata)


def _recipe_table() -> str:
    recipes = [{key.name: key.value for key in recipe_keys(read_recipe(name))} for name in RECIPES]
    rows = [(f"`{key.name}`", _code(key.value), *(_code(recipe[key.name] if recipe[key.name] != key.value else "")
                                                 for recipe in recipes), key.accepted, key.meaning)
            for key in recipe_keys(Recipe()) if key.name != "augment.pipeline"]
    pipelines = "\n".join(f"- {', '.join(names)}: {_code(value)}" for value, names in _pipelines().items())
    table = _table(("key", "default", *RECIPES, "accepted", "meaning"), rows)
    return f"{table}\n\n`augment.pipeline`, the steps in their order:\n\n{pipelines}"


def _pipelines() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, recipe in {"default": Recipe(), **{name: read_recipe(name) for name in RECIPES}}.items():
        (value,) = (key.value for key in recipe_keys(recipe) if key.name == "augment.pipeline")
        found.setdefault(value, []).append(name)
    return found


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ([" ".join(cell.replace("|", "\\|").split()) for cell in line]
             for line in (header, ["---"] * len(header), *rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    atomic_write(TARGET, text())
    sys.stdout.write(f"{TARGET}\n")

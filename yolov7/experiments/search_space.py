"""What a study may change, and how far: a YAML of ``key: {low, high, log, step}``, ``{factor}`` or ``{choices}``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yolov7.config import InputError, from_mapping, option, override, unknown
from yolov7.config.errors import describe_value, shown
from yolov7.config.files import find_yaml, read_yaml
from yolov7.config.recipe import Recipe, recipe_keys

if TYPE_CHECKING:
    import optuna

FLAGS = ("batch_size", "cfg", "close_mosaic", "image_weights", "img_size", "linear_lr", "multi_scale", "nominal_batch",
         "weights")  # of train, beside the keys of the recipe
PREFIX = "space."  # of shipped files
MAX_KEYS, MAX_CHOICES = 100, 1000

Value = float | int | str | bool


@dataclass(frozen=True)
class _Written:
    """A dimension as the file says it."""

    low: float | None = option(None, "the least value")
    high: float | None = option(None, "the greatest value")
    log: bool = option(False, "evenly on a logarithmic scale")
    step: float | None = option(None, "only low, low + step, ...")
    factor: float | None = option(None, "from the recipe's value divided by this to that times this", low=1)
    choices: tuple[Any, ...] = option((), "one of these")


@dataclass(frozen=True)
class Dimension:
    """A key, and the values that it may have: numbers between two, or choices."""

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False
    choices: tuple[Value, ...] = ()

    def suggest(self, trial: optuna.Trial) -> Value:
        """A value of a trial; the same again where it has one."""
        if self.choices:
            chosen: Any = trial.suggest_categorical(self.key, self.choices)
            return chosen  # type: ignore[no-any-return]
        if self.whole:
            return trial.suggest_int(self.key, round(self.low), round(self.high), step=round(self.step or 1),
                                     log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of these."""
        if self.choices:
            return value in self.choices
        return isinstance(value, (int, float)) and self.low <= value <= self.high and (
            self.step is None or math.isclose((value - self.low) / self.step, round((value - self.low) / self.step),
                                              abs_tol=1e-6))

    def text(self) -> str:
        """For people."""
        if self.choices:
            return f"{self.key}: one of {', '.join(map(str, self.choices))}"
        how = " (log)" if self.log else f" in steps of {self.step:g}" if self.step else ""
        return f"{self.key}: {self.low:g} to {self.high:g}{how}"


@dataclass(frozen=True)
class SearchSpace:
    """All dimensions."""

    dimensions: tuple[Dimension, ...]
    file: str

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """A value for each key."""
        return {dimension.key: dimension.suggest(trial) for dimension in self.dimensions}

    def start(self, recipe: Recipe, options: Mapping[str, Any]) -> dict[str, Value] | None:
        """Where the study begins: what recipe and flags say; None where that lies outside of the space."""
        known = {key.name: _value_of(recipe, key.name) for key in recipe_keys(recipe)} | dict(options)
        found = {dimension.key: known.get(dimension.key) for dimension in self.dimensions}
        fits = all(dimension.holds(found[dimension.key]) for dimension in self.dimensions)
        return {key: value for key, value in found.items() if value is not None} if fits else None


def split(values: Mapping[str, Value]) -> tuple[dict[str, Value], list[str]]:
    """Flags of train, and changes of the recipe as ``--set`` has them."""
    flags = {key: value for key, value in values.items() if key in FLAGS}
    return flags, [f"{key}={_text(value)}" for key, value in values.items() if key not in FLAGS]


def read_space(name: str, recipe: Recipe) -> SearchSpace:
    """Read a search space by path or shipped name, for a recipe; raises `InputError`."""
    path = find_yaml(name, "data", "--space", (PREFIX,))
    content = read_yaml(path)
    if not 1 <= len(content) <= MAX_KEYS:
        raise InputError(f"{path}: has {len(content)} keys; accepted: 1 to {MAX_KEYS}")
    space = SearchSpace(tuple(_dimension(str(key), value, recipe, str(path)) for key, value in content.items()),
                        str(path))
    for dimension in space.dimensions:  # what no run would accept is said now
        for value in dimension.choices or (dimension.low, dimension.high):
            if dimension.key not in FLAGS:
                override(recipe, [f"{dimension.key}={_text(value)}"], f"{path},")
    return space


def _dimension(key: str, content: Any, recipe: Recipe, path: str) -> Dimension:
    where, known = f"{path}, {key}", [entry.name for entry in recipe_keys(recipe)]
    if key not in known and key not in FLAGS:
        raise InputError(f"{path}: {unknown('key', key, [*known, *FLAGS])}")
    if not isinstance(content, dict):
        raise InputError(f"{where}: found {describe_value(content)}; accepted: {{low, high}}, {{factor}} or "
                         "{choices}")
    written = from_mapping(_Written, content, where)
    given = [name for name, there in (("choices", bool(written.choices)), ("factor", written.factor is not None),
                                      ("low and high", written.low is not None or written.high is not None)) if there]
    if len(given) != 1:
        raise InputError(f"{where}: found {' and '.join(given) or 'none'} of low and high, factor, choices; accepted: "
                         "one of them")
    if written.choices:
        return Dimension(key, choices=_choices(written.choices, where))
    value = _value_of(recipe, key) if key in known else None
    whole = key in ("batch_size", "close_mosaic", "img_size", "nominal_batch") or type(value) is int
    low, high, log = written.low, written.high, written.log
    if written.factor is not None:
        if not isinstance(value, (int, float)) or not value > 0:
            raise InputError(f"{where}, factor: the recipe says {shown(value)}, of which there is no multiple; "
                             "accepted here: low and high")
        low, high, log = value / written.factor, value * written.factor, True
    return _between(key, low, high, log, written.step, whole, where)


def _between(key: str, low: float | None, high: float | None, log: bool, step: float | None, whole: bool,  # noqa: PLR0913, PLR0917
             where: str) -> Dimension:
    if low is None or high is None:
        raise InputError(f"{where}: {'low' if low is None else 'high'} is missing; accepted: both")
    if not low < high:
        raise InputError(f"{where}: low {low:g} is not below high {high:g}")
    if log and not low > 0:
        raise InputError(f"{where}: low {low:g} has no logarithm; accepted: above 0, or log: false")
    if step is not None and (log or not 0 < step <= high - low):
        raise InputError(f"{where}, step: found {step:g}; accepted: above 0 and up to high - low, without log")
    if whole:
        low, high = math.ceil(low), math.floor(high)
        if low > high:
            raise InputError(f"{where}: no whole number lies between low and high")
    return Dimension(key, low, high, log, step, whole)


def _choices(found: tuple[Any, ...], where: str) -> tuple[Value, ...]:
    odd = next((value for value in found if not isinstance(value, (bool, int, float, str))), None)
    if odd is not None or len(found) > MAX_CHOICES:
        raise InputError(f"{where}, choices: found {describe_value(odd) if odd is not None else len(found)}; accepted: "
                         f"1 to {MAX_CHOICES} numbers, words, true or false")
    return found


def _value_of(recipe: Recipe, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(recipe, section), name)


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}" if isinstance(value, float) else str(value)

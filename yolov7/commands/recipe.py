"""``yolov7 recipe``: what a recipe says, and what else it could."""

from __future__ import annotations

import logging

from yolov7.config import InputError, nearest
from yolov7.config.help import wrapped
from yolov7.config.options import RecipeOptions
from yolov7.config.program import command
from yolov7.config.recipe import Recipe, RecipeKey, read_recipe, recipe_keys
from yolov7.runtime.tables import Table, aligned

logger = logging.getLogger(__name__)

KEY, VALUE = 24, 15  # columns


def recipe(options: RecipeOptions) -> Table:
    """List every key of --set with its value in a recipe, limits and meaning; or what two recipes have otherwise."""
    chosen = read_recipe(options.hyp)
    keys = [key for key in recipe_keys(chosen) if _speaks_of(key, options.find.lower())]
    if not keys:
        names = [part for key in recipe_keys(chosen) for part in (key.name, key.name.partition(".")[2])]
        raise InputError(f"--find {options.find!r}: no key has that word{nearest(options.find, names)}")
    if options.diff:
        other = {key.name: key.value for key in recipe_keys(read_recipe(options.diff, "--diff"))}
        keys = [key for key in keys if other[key.name] != key.value]
        logger.info("%s", _differences(keys, other, options))
        return Table(tuple({"key": key.name, options.hyp: key.value, options.diff: other[key.name]} for key in keys))
    example = command("train", hyp=options.hyp, set=[f"{key.name}={key.value}" for key in keys[:1]])
    logger.info("%s\n\n%s", _text(keys), wrapped(f"To change one: {example}"))
    if not options.find:
        logger.info("\n%s", _steps(chosen, options.hyp))
    return Table(tuple({"key": key.name, "value": key.value, "accepted": key.accepted, "meaning": key.meaning}
                       for key in keys))


def _speaks_of(key: RecipeKey, word: str) -> bool:
    return word in key.name.lower() or word in key.meaning.lower()


def _text(keys: list[RecipeKey]) -> str:
    lines: list[str] = []
    section = ""
    for key in keys:
        if (found := key.name.partition(".")[0]) != section:
            section = found
            lines.append(f"\n{section}:" if lines else f"{section}:")
        meaning = f"{key.meaning} ({key.accepted})" if key.accepted else key.meaning
        lines.append(_row(key.name.partition(".")[2], key.value, meaning))
    return "\n".join(lines)


def _row(name: str, value: str, meaning: str) -> str:
    """In columns; a value that is too long stands alone below its key."""
    start = f"  {name:{KEY}}"
    if len(value) >= VALUE:
        below = " " * (len(start) + VALUE)
        return f"{wrapped(value, ' ' * len(start), start)}\n{wrapped(meaning, below, below)}"
    return wrapped(meaning, " " * (len(start) + VALUE), f"{start}{value:{VALUE}}")


def _differences(keys: list[RecipeKey], other: dict[str, str], options: RecipeOptions) -> str:
    if not keys:
        return f"{options.hyp} and {options.diff} say the same"
    rows = [("", options.hyp, options.diff), *((key.name, key.value, other[key.name]) for key in keys)]
    return "\n".join(aligned(rows, left=range(3)))


def _steps(chosen: Recipe, name: str) -> str:
    """The pipeline of a recipe, and the steps that it leaves out."""
    from yolov7.data.compose import GEOMETRY
    from yolov7.data.pipeline import KEYS, check_pipeline

    pipeline = chosen.augment.pipeline
    check_pipeline(pipeline)
    rows = [_row(step, "", ", ".join(f"{key}={getattr(chosen.augment, key):g}" for key in KEYS[step]))
            for step in pipeline]
    left_out = ", ".join(step for step in KEYS if step not in pipeline)
    return "\n".join([
        f"steps of augment.pipeline in {name}, in order, with the keys that each follows:", *rows,
        *([wrapped(f"Left out, so that their keys do nothing: {left_out}.")] if left_out else []),
        wrapped(f"{', '.join(GEOMETRY)} come first, in this order; the others in any: --set "
                "'augment.pipeline=[mosaic, perspective, hsv, blur, fliplr]' augment.blur=0.01")])

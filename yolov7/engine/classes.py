"""Which classes of weights stand for which classes of the data that they are evaluated on."""

from __future__ import annotations

import logging

from yolov7.config import InputError
from yolov7.data.catalog import DataSource, open_split
from yolov7.data.classes import choose_classes, class_names
from yolov7.data.image_set import ImageSet
from yolov7.model.weights import ModelInfo
from yolov7.options import TestOptions

logger = logging.getLogger(__name__)


def open_for(loaded: ModelInfo, source: DataSource, options: TestOptions,
             split: str) -> tuple[ImageSet, tuple[int, ...] | None]:
    """A split with the classes to score, and for each of them the class of the weights (None: the same in order).

    Without ``--classes`` these are the classes that weights and data share by name; weights of ``--single-cls`` say
    so themselves. Raises `InputError` where they do not fit, with the flag that helps.
    """
    single = options.single_cls or bool(loaded.merged)
    classes = options.classes or ()
    if not classes:
        known = loaded.merged if single else loaded.names
        if set(known) < set(source.names):
            classes = known
            logger.info("%d of the %d classes of %s are scored, as the weights know no other: %s", len(classes),
                        len(source.names), source.name, ", ".join(classes))
    names = class_names(source.names, classes, single)
    scored = _counterparts(names, loaded, source, single)
    return choose_classes(open_split(source, split), classes, single), scored


def _counterparts(names: tuple[str, ...], loaded: ModelInfo, source: DataSource,
                  single: bool) -> tuple[int, ...] | None:
    known = loaded.names
    if names != known and set(names) <= set(known):
        logger.info("%d of the weights' %d classes are scored: %s", len(names), len(known), ", ".join(names))
        return tuple(known.index(name) for name in names)
    if len(names) == len(known):  # perhaps under other names
        return None
    if single:
        hint = "--single-cls is for weights that were trained with it"
    elif len(known) == 1:
        hint = "weights that were trained with --single-cls need it here too"
    elif len(known) < len(names):
        hint = f"trained on other data, unless --classes can name the {len(known)} here"
    else:
        hint = "trained on other data"
    raise InputError(f"--weights: has {_text(known)}, but {source.file or source.name} has {_text(names)}: {hint}")


def _text(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} class{'es' if len(names) > 1 else ''} ({shown})"

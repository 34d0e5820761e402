"""The augmentation as a list of steps: ``augment.pipeline`` of a recipe.

(docs/reference.md, Order of the augmentation)
"""

from __future__ import annotations

from functools import partial

import numpy as np

from yolov7.config import InputError, unknown
from yolov7.config.recipe import AugmentConfig
from yolov7.data.compose import GEOMETRY, Composer
from yolov7.data.paste import CutOutPool, paste_in
from yolov7.data.pixel_changes import COLOUR_CHANGES
from yolov7.data.transforms import (
    Change,
    cutout,
    flip,
    hsv_jitter,
    recoloured,
    sometimes,
)

KEYS = {  # of a recipe: what each step follows
    "mosaic": ("mosaic", "nine_tiles"), "copy_paste": ("copy_paste",),
    "perspective": ("degrees", "translate", "scale", "scale_top", "shear", "perspective", "max_aspect"),
    "mixup": ("mixup", "mixup_beta"), "hsv": ("hsv_h", "hsv_s", "hsv_v"), "paste_in": ("paste_in",),
    "cutout": ("cutout",), "flipud": ("flipud",), "fliplr": ("fliplr",), **{name: (name,) for name in COLOUR_CHANGES}}
STEPS = tuple(name for name in KEYS if name not in GEOMETRY)


def check_pipeline(names: tuple[str, ...]) -> None:
    """Raise `InputError` for a name that is no step, stands twice, or for geometry that does not come first."""
    for name in names:
        if name not in (*GEOMETRY, *STEPS):
            raise InputError(f"augment.pipeline: {unknown('step', name, (*GEOMETRY, *STEPS))}")
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise InputError(f"augment.pipeline: found {twice[0]!r} twice; accepted: every step once")
    geometry = [name for name in GEOMETRY if name in names]
    if list(names[: len(geometry)]) != geometry:
        raise InputError(f"augment.pipeline: found {', '.join(names)}; accepted: {', '.join(geometry)} first, in this "
                         "order (they are drawn together), then the others in any order")


def idle_step(pipeline: tuple[str, ...], key: str) -> str:
    """The step that follows a key of the recipe, where the pipeline leaves it out; '' where it has it."""
    return next((name for name, keys in KEYS.items() if key in keys and name not in pipeline), "")


def make_steps(config: AugmentConfig, composer: Composer, pool: CutOutPool, epoch: int,
               partners: np.ndarray | None = None, window: int = 0) -> list[Change]:
    """The steps behind the geometry, as they are in this epoch; other images are ``partners`` of a `window`."""
    amplitudes = config.hsv_h, config.hsv_s, config.hsv_v
    order = composer.mirrored_order
    mixup = sometimes(config.mixup, partial(composer.mixed, partners=partners))
    steps: dict[str, Change] = {
        "mixup": lambda sample, rng: mixup(sample, rng) if sample.meta.mosaic else sample,
        "hsv": partial(hsv_jitter, amplitudes=amplitudes),
        "paste_in": sometimes(config.paste_in if len(pool.images) else 0,
                              lambda sample, rng: paste_in(sample, pool.of_epoch(epoch, window, partners), rng)),
        "cutout": sometimes(config.cutout, cutout),
        "flipud": sometimes(config.flipud, lambda sample, _: flip(sample, "vertical")),
        "fliplr": sometimes(config.fliplr, lambda sample, _: flip(sample, "horizontal", order)),
        **{name: sometimes(getattr(config, name), partial(recoloured, draw=draw))
           for name, draw in COLOUR_CHANGES.items()},
    }
    return [steps[name] for name in config.pipeline if name in STEPS]

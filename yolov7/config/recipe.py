"""Recipes: the hyper-parameters of optimizer, loss and augmentation.

Names and defaults are those of the reference implementation (docs/reference.md, Training).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from yolov7.config.errors import InputError, unknown
from yolov7.config.files import find_yaml, read_yaml
from yolov7.config.help import limits
from yolov7.config.options import MAX_COUNT
from yolov7.config.schema import convert, from_mapping, option

MAX_GAIN = 1e300  # any finite number; what is too much for float32 shows in the first loss, and ends the run


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    lr0: float = option(0.01, "peak learning rate", low=0, most=MAX_COUNT)
    lrf: float = option(0.1, "final learning rate as a fraction of lr0", low=0, high=1)
    momentum: float = option(0.937, "Nesterov momentum", low=0, high=1)
    weight_decay: float = option(0.0005, "L2 on convolution weights, at a nominal batch of 64", low=0, most=MAX_COUNT)
    warmup_epochs: float = option(3.0, "length of the warm-up", low=0, most=MAX_COUNT)
    min_warmup: int = option(1000, "iterations of the warm-up, at least, in runs of twice as many or more", low=0,
                             most=MAX_COUNT, omit_default=True)
    warmup_momentum: float = option(0.8, "momentum at iteration 0", low=0, high=1)
    warmup_bias_lr: float = option(0.1, "learning rate of the biases at iteration 0", low=0, most=MAX_COUNT)
    clip_grad: float = option(0.0, "maximum norm of the gradient of a step, 0 = not clipped", low=0, most=MAX_COUNT)
    kind: Literal["sgd", "adamw"] = option("sgd", "SGD with Nesterov momentum, or AdamW (momentum is its first beta)")
    nominal_batch: int = option(64, "images in an optimizer step, where neither flag nor data set says it", low=1,
                               most=MAX_COUNT)


@dataclass(frozen=True)
class LossConfig:
    """Gains and switches of assignment and loss. Gains are for 3 levels, 80 classes and 640 px (see `scale_gains`)."""

    box: float = option(0.05, "box gain", low=0, most=MAX_GAIN)
    cls: float = option(0.3, "class gain", low=0, most=MAX_GAIN)
    cls_pw: float = option(1.0, "positive weight of the class term", low=0, most=MAX_GAIN)
    obj: float = option(0.7, "objectness gain", low=0, most=MAX_GAIN)
    obj_pw: float = option(1.0, "positive weight of the objectness term", low=0, most=MAX_GAIN)
    iou_t: float = option(0.2, "ignored; kept for compatibility")
    gr: float = option(1.0, "share of the IoU in the objectness target, the rest is 1", low=0, high=1)
    anchor_t: float = option(4.0, "maximum ratio of sides between anchor and object", low=1, most=MAX_COUNT)
    fl_gamma: float = option(0.0, "focal gamma, 0 = off", low=0, most=MAX_COUNT)
    label_smoothing: float = option(0.0, "label smoothing of the class term", low=0, high=1)
    loss_ota: bool = option(True, "simOTA; false: every candidate is a positive (the plain loss)")
    assignment: Literal["coarse_to_fine", "lead_guided", "independent"] = option(
        "coarse_to_fine", "labels of an auxiliary head (paper, table 6): up to 5 cells by the lead head's predictions, "
        "the lead head's own labels, or those of its own predictions")
    aux_decode: Literal["constrained", "free"] = option(
        "constrained", "how far boxes of an auxiliary head reach out of their cell (paper, table 7): 0.5 cells, or 1")
    top_k: int = option(0, "number of best IoUs whose sum is an object's number of positives; 0: 10, or 20 with an "
                        "auxiliary head", low=0, most=MAX_COUNT)
    task_cost: float = option(0.0, "weight of an object's mask or key points in the cost of simOTA, 0 = boxes and "
                                   "classes alone", low=0, most=MAX_COUNT, omit_default=True)
    keypoint_loss: Literal["oks", "cauchy"] = option(
        "oks", "error of a key point: 1 - OKS as published, which has no slope far away, or log(1 + squared distance / "
        "scale), which has: to learn from scratch", omit_default=True, model="yolov7-tiny-pose")
    mask_pw: float = option(1.0, "positive weight of the pixels of blended masks", low=0, most=MAX_GAIN,
                            omit_default=True, model="yolov7-mask")
    mask_jitter: float = option(0.0, "how far the sides of half of the boxes that masks are blended in move, as a "
                                     "share of the box: detection never finds the true one", low=0, high=0.4,
                                omit_default=True, model="yolov7-mask")
    deduplicate_candidates: bool = option(False, "propose a cell and anchor once, however many objects do")
    class_weights: tuple[float, ...] = option((), "weights of the classes in the class term; []: all 1", low=0)
    gains: dict[str, float] = field(default_factory=dict, metadata={
        "help": "gains of the terms that a task adds, by name", "omit_default": True})


@dataclass(frozen=True)
class AugmentConfig:
    """Amplitudes and probabilities of the augmentation."""

    hsv_h: float = option(0.015, "hue gain amplitude", low=0, high=1)
    hsv_s: float = option(0.7, "saturation gain amplitude", low=0, high=1)
    hsv_v: float = option(0.4, "value gain amplitude", low=0, high=1)
    degrees: float = option(0.0, "rotation, +- degrees", low=0, high=180)
    translate: float = option(0.2, "translation, +- fraction", low=0, high=1)
    scale: float = option(0.9, "zoom, factor in 1 - scale ... scale_top + scale", low=0, high=1)
    scale_top: float = option(1.1, "see scale; 1.1 for boxes, 1 for masks and key points, as published", low=1, high=2,
                              omit_default=True)
    shear: float = option(0.0, "shear, +- degrees", low=0, high=90)
    perspective: float = option(0.0, "perspective, +- fraction", low=0, high=0.01)
    max_aspect: float = option(20.0, "ratio of sides from which on an object is dropped that was warped", low=1,
                               most=MAX_COUNT, omit_default=True)
    flipud: float = option(0.0, "probability of a vertical flip", low=0, high=1)
    fliplr: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    mosaic: float = option(1.0, "probability of a mosaic of four or nine tiles", low=0, high=1)
    nine_tiles: float = option(0.2, "share of the mosaics that have nine tiles", low=0, high=1, omit_default=True)
    mixup: float = option(0.15, "probability of mix-up, on mosaics only", low=0, high=1)
    mixup_beta: float = option(8.0, "both parameters of the Beta distribution of an image's share in mix-up; larger "
                                    "ones make the two shares more alike", low=0.01, most=MAX_COUNT, omit_default=True)
    copy_paste: float = option(0.0, "share of objects with a polygon pasted mirrored inside a mosaic", low=0, high=1)
    paste_in: float = option(0.15, "probability of pasting objects with a polygon from other images", low=0, high=1)
    cutout: float = option(0.0, "probability of 31 painted rectangles", low=0, high=1)
    clahe: float = option(0.0, "probability of a spread histogram, tile by tile", low=0, high=1)
    brightness_contrast: float = option(0.0, "probability of a change of up to 20% of both", low=0, high=1)
    gamma: float = option(0.0, "probability of a power of 0.8 ... 1.2 on the values", low=0, high=1)
    blur: float = option(0.0, "probability of a mean over 3, 5 or 7 pixels", low=0, high=1)
    median_blur: float = option(0.0, "probability of a median over 3, 5 or 7 pixels", low=0, high=1)
    gray: float = option(0.0, "probability of an image without colour", low=0, high=1)
    jpeg: float = option(0.0, "probability of a compression as JPEG of quality 75 ... 100", low=0, high=1)
    pipeline: tuple[str, ...] = option(
        ("mosaic", "copy_paste", "perspective", "mixup", "clahe", "brightness_contrast", "gamma", "blur",
         "median_blur", "gray", "jpeg", "hsv", "paste_in", "cutout", "flipud", "fliplr"),
        "the steps in their order; one that is left out does nothing, nor does one whose probability is 0")


@dataclass(frozen=True)
class Recipe:
    """A hyper-parameter file: ``data/hyp.*.yaml``."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class RecipeKey:
    """A key of a recipe, as ``--set`` takes it."""

    name: str  # section.key
    value: str  # as YAML
    meaning: str
    accepted: str  # its limits or choices, '' where every value of its type is accepted


def recipe_keys(recipe: Recipe) -> list[RecipeKey]:
    """Every key, with the value that it has in this recipe."""
    keys = []
    for section in fields(recipe):
        part = getattr(recipe, section.name)
        hints = get_type_hints(type(part))
        for entry in fields(part):
            choices = ", ".join(get_args(hints[entry.name])) if get_origin(hints[entry.name]) is Literal else ""
            keys.append(RecipeKey(f"{section.name}.{entry.name}", _as_yaml(getattr(part, entry.name)),
                                  entry.metadata["help"], choices or limits(entry.metadata)))
    return keys


def _as_yaml(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


def read_recipe(name: str, flag: str = "--hyp") -> Recipe:
    """Read a recipe by path or shipped name (``tiny`` is ``data/hyp.scratch.tiny.yaml``).

    The flat files of the reference implementation are read too: a key outside a section goes to the section that
    has it. Raises `InputError`.
    """
    path = find_yaml(name, "data", flag, ("hyp.scratch.", "hyp."))
    sections = {"optimizer": OptimizerConfig, "loss": LossConfig, "augment": AugmentConfig}
    section_of = {f.name: section for section, cls in sections.items() for f in fields(cls)}
    nested: dict[str, Any] = {section: {} for section in sections}
    for key, value in read_yaml(path).items():
        if key in sections:
            nested[key] |= convert(value, dict[str, Any], f"{path}, {key}")
        elif key in section_of:
            nested[section_of[key]][key] = value
        else:
            raise InputError(f"{path}: {unknown('key', key, [*sections, *section_of])}")
    return from_mapping(Recipe, nested, str(path))

"""The anchors of a run: how well they fit its data, and better ones on request (docs/reference.md, Anchor check)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from yolov7.config import InputError, atomic_write
from yolov7.config.options import AnchorsOptions
from yolov7.data.anchor_fit import TINY, fit_anchors, object_sizes, recall
from yolov7.data.catalog import open_data, open_split
from yolov7.data.image_set import ImageSet
from yolov7.engine.run_config import RunConfig, TrainOptions, resolve
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec
from yolov7.model.summary import align_columns, definition_text

logger = logging.getLogger(__name__)

ENOUGH = 0.98  # best possible recall that needs no other anchors
Anchors = Sequence[Sequence[Sequence[float]]]  # [L, A, 2] width, height in pixels


@dataclass(frozen=True)
class AnchorFit:
    """A model's anchors on the objects of a data set, and fitted ones: ``[L, A, 2]`` width, height in pixels, with the
    best possible recall of each."""

    anchors: Anchors
    fitted: Anchors
    recall: float
    fitted_recall: float
    objects: int
    written: Path | None = None  # the model with the fitted anchors


def settle_anchors(model: Detector, named: bool) -> None:
    """After weights were copied: anchors and definition agree again. A model that was ``named`` keeps its own."""
    if np.array_equal(model.head.anchors.numpy(), np.array(model.spec.head.anchors, np.float32)):
        return
    own, copied = model.spec.head.anchors, model.head.anchors.tolist()
    kept, other = ("--cfg", "--weights") if named else ("--weights", model.spec.name)
    model.set_anchors(own if named else copied)
    texts = (anchors_text(own), anchors_text(copied)) if named else (anchors_text(copied), anchors_text(own))
    logger.warning("anchors: those of %s, %s; %s has others: %s", kept, texts[0], other, texts[1])


def check_anchors(model: Detector, train_set: ImageSet, config: RunConfig) -> None:
    """Log how well the anchors fit the objects at the training size; a warning where they fit too few."""
    sizes = object_sizes(train_set, config.train_size)
    fit = recall(sizes, _flat(model.head.anchors.tolist()), config.recipe.loss.anchor_t)
    hint = f"; below {ENOUGH}: a new run with --autoanchor fits them to the data" if fit.recall < ENOUGH else ""
    logger.log(logging.WARNING if hint else logging.INFO, "anchors: %s over %d objects at %d px%s", fit, fit.objects,
               config.train_size, hint)
    if fit.tiny:
        logger.warning("%d of %d objects have a side under %g px at %d px and will hardly be found", fit.tiny,
                       fit.objects, TINY, config.train_size)


def improve_anchors(model: Detector, train_set: ImageSet, config: RunConfig) -> None:
    """``--autoanchor``: fit anchors to the objects; the model takes them if their best possible recall is higher."""
    sizes = object_sizes(train_set, config.train_size)
    threshold = config.recipe.loss.anchor_t
    old = model.head.anchors.tolist()
    try:
        new = fit_levels(sizes, old, threshold, seed=config.seed)
    except InputError as error:
        logger.warning("--autoanchor: %s; the old anchors stay", error)
        return
    before, after = (recall(sizes, _flat(anchors), threshold) for anchors in (old, new))
    logger.info("old anchors %s: %s", anchors_text(old), before)
    logger.info("new anchors %s: %s", anchors_text(new), after)
    if after.recall > before.recall:
        model.set_anchors(new)
        logger.info("--autoanchor: the new anchors are taken")
    else:
        logger.info("--autoanchor: the old anchors stay, as the new ones reach no higher recall")


def show_anchors(options: AnchorsOptions) -> AnchorFit:
    """``yolov7 data anchors``: recall of a model's anchors and of fitted ones, level by level; the model as YAML.

    Size and threshold are those that a training would have.
    """
    _check_output(options.output)
    spec, source = read_spec(options.cfg), open_data(options.data)
    with torch.device("meta"):  # for its strides
        model = Detector(spec, len(source.names))
    size = None if options.img_size is None else (options.img_size,)
    config, _ = resolve(TrainOptions(cfg=options.cfg, data=options.data, img_size=size), spec, source, model.stride)
    threshold = config.recipe.loss.anchor_t
    sizes = object_sizes(open_split(source, "train", training=True), config.train_size)
    fitted = fit_levels(sizes, spec.head.anchors, threshold, options.generations, options.seed)
    old, new = (recall(sizes, _flat(anchors), threshold) for anchors in (spec.head.anchors, fitted))
    logger.info("%s on %s, train: %d objects at %d px, ratio of sides under %g\n%s", spec.name, source.name,
                len(sizes), config.train_size, threshold,
                _levels_table({spec.name: spec.head.anchors, "fitted": fitted}, model.head.strides, sizes, threshold))
    if old.tiny:
        logger.warning("%d objects have a side under %g px and will hardly be found", old.tiny, TINY)
    if new.recall <= old.recall:
        logger.warning("the fitted anchors reach no higher best possible recall than those of %s", spec.name)
    if options.output:
        atomic_write(options.output, definition_text(spec.with_anchors(fitted).definition))
        logger.info("%s with the fitted anchors is written to %s", spec.name, options.output)
    return AnchorFit(spec.head.anchors, fitted, old.recall, new.recall, len(sizes),
                     Path(options.output) if options.output else None)


def _check_output(output: str) -> None:
    path = Path(output)
    if output and (path.is_dir() or not path.parent.is_dir()):
        raise InputError(f"--output {output!r}; accepted: a YAML file in a folder that exists")


def _levels_table(anchors: dict[str, Anchors], strides: Sequence[int], sizes: np.ndarray, threshold: float) -> str:
    rows = []
    for name, levels in anchors.items():
        parts = [*zip(map(str, strides), levels, strict=True), ("all", [pair for level in levels for pair in level])]
        for stride, pairs in parts:
            fit = recall(sizes, np.array(pairs), threshold)
            text = anchors_text([pairs]) if stride != "all" else ""
            rows.append((name, stride, text, f"{fit.recall:.4f}", f"{fit.anchors_per_object:.2f}"))
    return align_columns(("anchors of", "stride", "width x height", "recall", "anchors per object"), rows)


def fit_levels(sizes: np.ndarray, like: Anchors, threshold: float, generations: int = 1000, seed: int = 0) -> Anchors:
    """Anchors ``[L, A, 2]`` for objects ``[T, 2]``, small ones on fine levels, as many as ``like`` has."""
    shape = np.shape(like)
    fitted: Anchors = fit_anchors(sizes, shape[0] * shape[1], threshold, generations, seed).reshape(shape).tolist()
    return fitted


def anchors_text(anchors: Anchors) -> str:
    """``12x16 19x36 40x28 | 36x75 ...``, a bar between levels."""
    return " | ".join(" ".join(f"{width:g}x{height:g}" for width, height in level) for level in anchors)


def _flat(anchors: Anchors) -> np.ndarray:
    return np.reshape(anchors, (-1, 2))

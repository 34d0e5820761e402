"""From flags, data set and model to everything that a run is: `RunConfig`, resolved once and stored with the run."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

import torch
import yaml

from yolov7.config import InputError, override, to_mapping
from yolov7.data.catalog import DataSource
from yolov7.data.classes import class_names
from yolov7.data.pipeline import check_pipeline
from yolov7.engine.distributed import Processes
from yolov7.model.spec import ModelSpec
from yolov7.options import Recipe, RunSettings, TrainOptions, read_recipe

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "yolov7-tiny"
PAPER_EPOCHS = 300
PAPER_BATCH = 16  # of the original's command line
HEEDED = ("resume", "epochs", "workers", "device", "project", "dry_run", "verbose")  # by a run that goes on


@dataclass(frozen=True)
class RunConfig:
    """A training run with nothing left open; it travels in the checkpoint."""

    cfg: str
    data: str
    weights: str
    hyp: str
    recipe: Recipe
    epochs: int
    batch_size: int
    nominal_batch: int
    train_size: int
    test_size: int
    linear_lr: bool
    seed: int
    workers: int
    device: str
    multi_scale: bool = False
    freeze: tuple[str, ...] = ()
    image_weights: bool = False
    patience: int = 0
    close_mosaic: int = 0
    precision: str = "fp32"
    rect: bool = False
    cache: str = "off"
    classes: tuple[str, ...] = ()  # names; () is all
    single_cls: bool = False
    sync_bn: bool = False
    compile: bool = False


def resolve(options: TrainOptions, spec: ModelSpec, source: DataSource, stride: int) -> RunConfig:
    """Settle every flag that was not given: the data set's settings for this model, then the model's config.

    The rule is the same for every combination of flags. Sizes are rounded up to a multiple of ``stride``.
    """
    suggested = source.settings.get(spec.name, RunSettings())
    hyp = options.hyp or suggested.hyp or spec.recipe
    changes = options.set if options.hyp else (*suggested.set, *options.set)
    sizes = options.img_size or suggested.img_size or (spec.image_size,)
    train_size, test_size = (_round_up(size, stride) for size in (sizes[0], sizes[-1]))
    if options.rect and options.image_weights:
        raise InputError("--image-weights: draws pictures one by one, --rect whole batches; accepted: one of them")
    for flag in ("rect", "multi_scale"):
        if options.compile and getattr(options, flag):
            name = flag.replace("_", "-")
            raise InputError(f"--compile: is for batches of one shape, --{name} makes many; accepted: one of them")
    recipe = override(read_recipe(hyp), changes)
    check_pipeline(recipe.augment.pipeline)
    return RunConfig(
        cfg=options.cfg or spec.name,
        data=options.data,
        weights=options.weights,
        hyp=hyp,
        recipe=recipe,
        epochs=options.epochs or suggested.epochs or PAPER_EPOCHS,
        batch_size=options.batch_size or suggested.batch_size or PAPER_BATCH,
        nominal_batch=options.nominal_batch or suggested.nominal_batch or recipe.optimizer.nominal_batch,
        train_size=train_size,
        test_size=test_size,
        linear_lr=options.linear_lr,
        seed=options.seed,
        workers=options.workers,
        device=options.device,
        multi_scale=options.multi_scale,
        freeze=options.freeze,
        image_weights=options.image_weights,
        patience=options.patience,
        close_mosaic=options.close_mosaic,
        precision=options.precision,
        rect=options.rect,
        cache=options.cache,
        classes=_classes(options, source),
        single_cls=options.single_cls,
        sync_bn=options.sync_bn,
        compile=options.compile,
    )


def check_resume(options: TrainOptions) -> None:
    """Raise `InputError` for flags that a resumed run would not heed."""
    if options.resume is None:
        return
    given = [field.name for field in dataclasses.fields(options) if getattr(options, field.name) != field.default]
    if vain := [_flag(name) for name in given if name not in HEEDED]:
        raise InputError(f"--resume: the run goes on with its own settings, and would not heed {', '.join(vain)}; "
                         f"accepted beside it: {', '.join(map(_flag, HEEDED[1:]))}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def check_processes(config: RunConfig, processes: Processes, device: torch.device) -> None:
    """Raise `InputError` for what so many processes, or a single one, cannot do on this device."""
    if config.batch_size < processes.count:
        raise InputError(f"--batch-size {config.batch_size}: is shared by {processes.count} processes; accepted: at "
                         f"least {processes.count}")
    if config.sync_bn and (device.type != "cuda" or processes.count == 1):
        where = f"one process on {device}" if processes.count == 1 else str(device)
        raise InputError(f"--sync-bn: found {where}; accepted: several processes on CUDA (torchrun)")


def _classes(options: TrainOptions, source: DataSource) -> tuple[str, ...]:
    if not (options.classes or options.single_cls):
        return ()
    return class_names(source.names, options.classes or (), False)  # those that are one are known by name, too


def _round_up(size: int, stride: int) -> int:
    rounded = -(-size // stride) * stride
    if rounded != size:
        logger.warning("--img-size %d is rounded up to %d, a multiple of the model's stride %d", size, rounded, stride)
    return rounded


def settings_text(config: RunConfig) -> str:
    """The effective configuration as YAML."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False)

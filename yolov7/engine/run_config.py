"""The settings of a run: one definition, from which the flags of ``train``, the stored configuration and resume follow.

A field of `RunConfig` is a flag; ``None`` means that nobody has decided yet, which `resolve` does. This module imports
nothing heavy, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml

from yolov7.config import InputError, from_mapping, option, override, to_mapping, unknown
from yolov7.config.flags import flag_of
from yolov7.config.options import MAX_COUNT, MAX_SEED, MAX_SIDE, OutputFolder, Precision
from yolov7.config.recipe import Recipe, read_recipe
from yolov7.engine.decisions import Decision, Decisions
from yolov7.engine.finetuning import MIN_STEPS, FineTuning, Start, fine_tuning

if TYPE_CHECKING:
    import torch

    from yolov7.data.catalog import DataSource
    from yolov7.model.spec import ModelSpec
    from yolov7.runtime.distributed import Processes

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "yolov7-tiny"
PAPER_EPOCHS = 300
PAPER_BATCH = 16  # of the reference implementation's command line
PAPER = "as in the paper"
AUTO = 0  # of --batch-size: as many images as fit
REMOTE_WINDOW = 16  # tar files of a server
T = TypeVar("T")


@dataclass(frozen=True)
class RunConfig:
    """A training run; once `resolve` has decided all of it, it travels in the checkpoint."""

    cfg: str = option(None, "model: a shipped name or a YAML file; default: that of --weights, else yolov7-tiny",
                      group="model and data")
    data: str = option(None, "data set: a YAML file, a shipped name, or a folder in COCO layout; default: the built-in "
                       "one of the model's task (shapes, for pose stick-figures)", group="model and data")
    weights: str = option("", "initial weights, ours or the reference implementation's; '' trains from scratch",
                          group="model and data")
    hyp: str = option(None, "recipe: a shipped name or a YAML file; default: the data set's settings for the model, "
                      "finetune for few images with --weights, else the one that the model names",
                      group="model and data")
    recipe: Recipe = option(None, "what the recipe says, with the changes of --set", flag=False)
    epochs: int = option(None, "epochs; default: the data set's settings for the model, by the number of images for "
                         "few with --weights, else 300", low=1, most=MAX_COUNT, resumable=True,
                         group="schedule and batch")
    batch_size: int = option(None, "images in a batch, over all processes; default: the data set's settings for the "
                             "model, 4 for few images with --weights, else 16", low=1, most=MAX_COUNT,
                             group="schedule and batch")
    nominal_batch: int = option(None, "images in an optimizer step (gradients are accumulated); default: the data "
                                "set's settings for the model, a batch for few images with --weights, else the "
                                "recipe's", low=1, most=MAX_COUNT,
                                group="schedule and batch")
    train_size: int = option(None, "side of the network input in training, pixels", flag=False, low=1, most=MAX_SIDE)
    test_size: int = option(None, "side of the network input in evaluation, pixels", flag=False, low=1,
                            most=MAX_SIDE)
    linear_lr: bool = option(False, "linear instead of cosine decay", group="schedule and batch")
    seed: int = option(0, "seed of weights, order and augmentation", low=0, most=MAX_SEED, group="schedule and batch")
    workers: int = option(None, "loader processes of each process, never more than cores; default: its share of the "
                          "cores", low=0, most=MAX_COUNT, resumable=True, group="device and speed")
    device: str = option("", "cpu, 0, cuda:0, mps; default: the first accelerator, else the CPU", resumable=True,
                         group="device and speed")
    multi_scale: bool = option(False, "batches of 0.5 to 1.5 times --img-size, drawn anew for each",
                               group="augmentation and sampling")
    freeze: tuple[str, ...] = option((), "layers to freeze: names of the model's nodes, or N for the first N",
                                     metavar="NODE", group="model and data")
    fraction: float = option(1.0, "train on this part of the training images, the same ones for every seed", low=0,
                             high=1, group="augmentation and sampling")
    folds: int = option(0, "cross-validation: the training images in so many parts, each of them evaluated on by a run "
                        "that trains on the others; 0: off", low=0, most=MAX_COUNT, group="augmentation and sampling")
    fold: int = option(0, "with --folds: only the run of this part, from 1; 0: all of them, one after the other",
                       low=0, most=MAX_COUNT, group="augmentation and sampling")
    class_weights: Literal["recipe", "auto"] = option(
        "recipe", "weights of the classes in the loss: those of the recipe (loss.class_weights), or by the root of how "
        "rare a class is", group="augmentation and sampling")
    image_weights: bool = option(False, "draw images with rare or badly found classes more often",
                                 group="augmentation and sampling")
    patience: int = option(None, "stop after so many epochs without a better one, 0 = never; default: a third of "
                           "the epochs, at least 10, for few images with --weights, else 0", low=0, most=MAX_COUNT,
                           group="schedule and batch")
    close_mosaic: int = option(0, "no mosaics in so many epochs at the end", low=0, most=MAX_COUNT,
                               group="augmentation and sampling")
    precision: Precision = option("auto", "number format of the network; auto: half precision where the device has it "
                                  "natively", group="device and speed")
    rect: bool = option(False, "training batches of similar aspect ratio with little padding, without mosaics",
                        group="augmentation and sampling")
    cache: Literal["off", "ram", "disk"] = option("off", "keep decoded and resized images in memory or on the disk, "
                                                  "shared by all loader processes", group="device and speed")
    keep: int = option(0, "keep the averaged weights of so many last epochs, for yolov7 average", low=0, most=MAX_COUNT,
                       resumable=True, group="run and output")
    log: tuple[str, ...] = option(("tensorboard",), "who is told of the run: tensorboard, wandb, mlflow, trackio, "
                                  "observers of other packages, none", metavar="NAME", resumable=True,
                                  group="run and output")
    augment_device: Literal["cpu", "cuda"] = option("cpu", "where training images are decoded and augmented: by the "
                                                    "loader processes, or on the GPU of the run (JPEG; not measured "
                                                    "yet)", group="device and speed")
    shard_window: int = option(None, "tar files at a time of which samples are made, of a data set in such files; 0: "
                               "all; default: all, 16 of a server", low=0, most=MAX_COUNT,
                               group="augmentation and sampling")
    classes: tuple[str, ...] = option((), "train on these classes only (numbers or names)", group="model and data")
    single_cls: bool = option(False, "take all classes as one, 'object'", group="model and data")
    sync_bn: bool = option(False, "norms over the images of all processes (CUDA, several processes)",
                           group="device and speed")
    deterministic: bool = option(False, "deterministic kernels alone, also on CUDA: slower; the run ends where an "
                                 "operation has none", group="device and speed")
    compile: bool = option(False, "compile norms with their activations: half a minute at the start, seconds in the "
                           "next run (not measured on a GPU yet)", group="device and speed")
    cuda_graphs: bool = option(False, "record the passes of a step as CUDA graphs, one for each shape of batches, so "
                               "that the host is not waited for (not measured yet)", group="device and speed")
    fused_norm: bool = option(False, "norms and activations as one kernel on a GPU, which keeps a third less (Triton; "
                                     "not measured yet)", group="device and speed")


@dataclass(frozen=True)
class TrainOptions(OutputFolder, RunConfig):
    """Flags of ``train``: those of the run, and how this start of it goes."""

    img_size: tuple[int, ...] | None = option(None, "side of the network input in training and evaluation (1 or 2 "
                                              "numbers); default: the data set's settings, that of --weights, else "
                                              "the model's", low=32,
                                              most=MAX_SIDE, group="model and data")
    set: tuple[str, ...] = option((), "recipe overrides: --set loss.box=0.04 augment.mosaic=0", metavar="KEY=VALUE",
                                  group="model and data")
    batch_size: int = option(None, "images in a batch, over all processes; auto (0): as many as fit, up to the nominal "
                             "batch; default: the data set's settings for the model, 4 for few images with --weights, "
                             "else 16", low=0, most=MAX_COUNT, words={"auto": AUTO}, group="schedule and batch")
    autoanchor: bool = option(False, "fit anchors to the training objects; taken if more objects have one that fits",
                              group="model and data")
    resume: str | None = option(None, "resume an interrupted run: its last.pt, its folder, or nothing for the latest "
                                "run below --project", nargs="?", const="", metavar="RUN", resumable=True,
                                group="run and output")
    project: str = option("runs/train", "runs are folders below this one", resumable=True, group="run and output")
    dry_run: bool = option(False, "one batch through everything, then say what memory and time the run would take",
                           resumable=True, group="run and output")
    verbose: bool = option(False, "tracebacks and debug messages", resumable=True, group="run and output")


def resolve(options: TrainOptions, spec: ModelSpec, source: DataSource, stride: int,
            gains: Mapping[str, float | None] | None = None,
            start: Start = Start()) -> tuple[RunConfig, tuple[Decision, ...]]:  # noqa: B008  # frozen
    """Settle every flag that was not given, and say why each is as it is.

    First the data set's settings for this model, then where there are weights the rule for fine-tuning, then the
    model's config, then the paper. That is the same for every combination of flags. Sizes are rounded up to a multiple
    of ``stride``; ``gains`` are those of a task's own terms.
    """
    from yolov7.data.data_yaml import RunSettings
    from yolov7.data.pipeline import check_pipeline

    _check_combinations(options)
    suggested, rule = source.settings.get(spec.name, RunSettings()), fine_tuning(start)
    decisions, of_data, of_model = Decisions(), f"settings of {source.name}", f"of the model {spec.name}"
    settle = decisions.settle
    cfg = settle("model", "--cfg", options.cfg or None, (spec.name if start.weights else None, "of the weights"),
                 (spec.name, "the default"))
    data = settle("data", "--data", options.data or None, (source.name, "built in, for the model's task"))
    changed = f"{of_data}, with {len(suggested.set)} changes" if suggested.set else of_data
    hyp = settle("recipe", "--hyp", options.hyp or None,
                 (suggested.hyp or (spec.recipe if suggested.set else None), changed),
                 (rule.hyp, rule.reason), (spec.recipe, of_model))
    changes = options.set if options.hyp else (*suggested.set, *options.set)
    recipe = _with_gains(read_recipe(hyp), gains or {}, changes)
    check_pipeline(recipe.augment.pipeline)
    _warn_of_idle_changes(options.set, recipe)
    sizes = settle("size", "--img-size", options.img_size, (suggested.img_size, of_data),
                   ((start.image_size,) if start.image_size else None, "of the weights"),
                   ((spec.image_size,), of_model))
    train_size, test_size = (_round_up(size, stride) for size in (sizes[0], sizes[-1]))
    batch_size = settle("batch size", "--batch-size", options.batch_size, (suggested.batch_size, of_data),
                        (rule.batch_size, rule.reason), (PAPER_BATCH, PAPER))
    nominal_batch = settle("nominal batch", "--nominal-batch", options.nominal_batch,
                           (suggested.nominal_batch, of_data),
                           _nominal_batch(hyp, recipe, rule, batch_size, bool(options.hyp or suggested.hyp), changes))
    epochs = settle("epochs", "--epochs", options.epochs, (suggested.epochs, of_data), (rule.epochs, rule.reason),
                    (PAPER_EPOCHS, PAPER))
    patience = settle("patience", "--patience", options.patience,
                      (rule.patience(epochs), "a third of the epochs, at least 10"), (0, f"{PAPER}: to the last epoch"))
    decided = {"cfg": cfg, "data": data, "hyp": hyp, "recipe": recipe, "train_size": train_size, "test_size": test_size,
               "epochs": epochs, "batch_size": batch_size, "nominal_batch": nominal_batch, "patience": patience,
               "classes": _classes(options, source), "workers": workers_of(options),
               "shard_window": _window(options, source, settle)}
    config = RunConfig(**{name: getattr(options, name) for name in _names(RunConfig)} | decided)
    return config, tuple(decisions.made)


def workers_of(options: TrainOptions) -> int:
    """Loader processes: as many as the flag says, or this process's share of the cores."""
    from yolov7.runtime.device import default_workers

    return default_workers() if options.workers is None else options.workers


def _window(options: TrainOptions, source: DataSource, settle: Callable[..., int]) -> int:
    from yolov7.data.remote import is_address

    if not is_address(source.file) or options.rect or options.image_weights:
        return options.shard_window or 0  # there is nothing to decide
    return settle("window", "--shard-window", options.shard_window,
                  (REMOTE_WINDOW, "tar files of a server at a time, of which samples are made"))


def _nominal_batch(hyp: str, recipe: Recipe, rule: FineTuning, batch_size: int, named: bool,
                   changes: Sequence[str]) -> tuple[int, str]:
    """What the recipe says, unless that would leave an epoch of few images with hardly a step.

    Of a recipe that was ``named`` only what is too much changes, and nothing where one of the ``changes`` says it.
    """
    found, most = recipe.optimizer.nominal_batch, rule.most_nominal
    if most is None or any(change.partition("=")[0].strip() == "optimizer.nominal_batch" for change in changes):
        return found, f"of the recipe {hyp}"
    if rule.every_batch_a_step and not named:
        return batch_size, "so that every batch is a step"
    if found <= most:
        return found, f"of the recipe {hyp}"
    return most, f"{MIN_STEPS} steps an epoch; {hyp} says {found}"


def _warn_of_idle_changes(changes: Sequence[str], recipe: Recipe) -> None:
    from yolov7.data.pipeline import idle_step

    pipeline = recipe.augment.pipeline
    for change in changes:
        section, _, key = change.partition("=")[0].strip().partition(".")
        if section == "augment" and (step := idle_step(pipeline, key)):
            logger.warning("--set %s: does nothing, as the recipe's pipeline leaves out the step %s; to add it: --set "
                           "'augment.pipeline=[%s]'", change, step, ", ".join((*pipeline, step)))


def _with_gains(recipe: Recipe, gains: Mapping[str, float | None], changes: Sequence[str]) -> Recipe:
    """The recipe with its changes, and a task's gains where neither says otherwise.

    A gain of None follows another one unless it is given. Raises `InputError` for terms that are not there.
    """
    for name in recipe.loss.gains:
        if name not in gains:
            raise InputError(f"loss.gains: {unknown('term', name, gains)}")
    given = {*recipe.loss.gains, *(change.partition("=")[0].strip().removeprefix("loss.gains.") for change in changes)}
    defaults = {name: gain or 0.0 for name, gain in gains.items()}  # every term has a key that can be changed
    loss = dataclasses.replace(recipe.loss, gains={**defaults, **recipe.loss.gains})
    changed = override(dataclasses.replace(recipe, loss=loss), changes)
    kept = {name: gain for name, gain in changed.loss.gains.items() if name in given or gains[name] is not None}
    return dataclasses.replace(changed, loss=dataclasses.replace(changed.loss, gains=kept))


def stored_config(mapping: Any, where: str) -> RunConfig:
    """The configuration of a checkpoint. Raises `InputError` where something in it is not decided."""
    config = from_mapping(RunConfig, mapping, where)
    if config.shard_window is None:  # of a version that had no windows
        config = dataclasses.replace(config, shard_window=0)
    if missing := [name for name in _names(RunConfig) if getattr(config, name) is None]:
        raise InputError(f"{where}, config: the key {missing[0]!r} is missing")
    return config


def check_resume(options: TrainOptions) -> None:
    """Raise `InputError` for flags that a resumed run takes from its checkpoint."""
    if options.resume is None:
        return
    fields = dataclasses.fields(options)
    fixed = [flag_of(field.name) for field in fields
             if getattr(options, field.name) != field.default and not field.metadata.get("resumable")]
    if fixed:
        free = [flag_of(field.name) for field in fields if field.metadata.get("resumable") and field.name != "resume"]
        raise InputError(f"--resume uses the run's own settings; {', '.join(fixed)} cannot be changed. You can change: "
                         f"{', '.join(free)}")


def _check_combinations(options: TrainOptions) -> None:
    for name in ("rect", "image_weights"):
        if options.shard_window and getattr(options, name):
            raise InputError(f"--shard-window: {flag_of(name)} has an order of its own; accepted: one of them")
    if options.fraction <= 0:
        raise InputError(f"--fraction {options.fraction:g}: accepted: above 0, up to 1")
    if options.folds == 1 or (options.fold and not options.folds):
        raise InputError(f"--folds {options.folds}: accepted: at least 2" if options.folds else
                         f"--fold {options.fold}: is one of --folds, which is missing")
    if options.rect and options.image_weights:
        raise InputError("--image-weights: draws images one by one, --rect whole batches; accepted: one of them")
    for name in ("compile", "sync_bn"):
        if options.fused_norm and getattr(options, name):
            raise InputError(f"--fused-norm: {flag_of(name)} has norms of its own; accepted: one of them")
        if options.cuda_graphs and getattr(options, name):
            raise InputError(f"--cuda-graphs: {flag_of(name)} has work that cannot be recorded; accepted: one of them")


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def check_processes(config: RunConfig, processes: Processes, device: torch.device) -> None:
    """Raise `InputError` for what so many processes, or a single one, cannot do on this device."""
    if config.batch_size < processes.world_size:
        raise InputError(f"--batch-size {config.batch_size}: is shared by {processes.world_size} processes; accepted: "
                         f"at least {processes.world_size}")
    if config.sync_bn and (device.type != "cuda" or processes.world_size == 1):
        where = f"one process on {device}" if processes.world_size == 1 else str(device)
        raise InputError(f"--sync-bn: found {where}; accepted: several processes on CUDA (torchrun)")


def _classes(options: TrainOptions, source: DataSource) -> tuple[str, ...]:
    from yolov7.data.image_set import class_names

    if not (options.classes or options.single_cls):
        return ()
    return class_names(source.names, options.classes, False)  # those that are one are known by name, too


def _round_up(size: int, stride: int) -> int:
    rounded = -(-size // stride) * stride
    if rounded != size:
        logger.warning("--img-size %d is rounded up to %d, a multiple of the model's stride %d", size, rounded, stride)
    return rounded


def settings_text(config: RunConfig | Recipe) -> str:
    """The effective configuration, or a recipe, as YAML."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False)

"""The commands as functions: written by ``scripts/write_stubs.py`` from the flags' definitions."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch

from yolov7.commands.average import AverageRun
from yolov7.data.check import DataFacts
from yolov7.engine.anchors import AnchorFit
from yolov7.engine.forecast import Forecast
from yolov7.engine.history import TrainingRun
from yolov7.engine.speed import SpeedTable
from yolov7.engine.testing import TestRun
from yolov7.experiments.ablation import AblationTable
from yolov7.experiments.comparing import RunComparison
from yolov7.experiments.folds import FoldRuns
from yolov7.experiments.study_report import StudyResult
from yolov7.exporting.run import ExportRun
from yolov7.inference.detect import DetectionRun
from yolov7.runtime.tables import Table

PathLike = str | os.PathLike[str]


@overload
def train(  # type: ignore[overload-overlap]  # 0 is an int, too
    *,
    cfg: PathLike | None = None,
    data: PathLike | None = None,
    weights: PathLike = "",
    hyp: PathLike | None = None,
    epochs: int | None = None,
    batch_size: int | Literal["auto"] | None = None,
    nominal_batch: int | None = None,
    linear_lr: bool = False,
    seed: int = 0,
    workers: int | None = None,
    device: str | int | torch.device = "",
    multi_scale: bool = False,
    freeze: int | str | Sequence[int | str] = (),
    fraction: float = 1.0,
    folds: Literal[0] = 0,
    fold: int = 0,
    class_weights: Literal["recipe", "auto"] = "recipe",
    image_weights: bool = False,
    patience: int | None = None,
    close_mosaic: int = 0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    rect: bool = False,
    cache: Literal["off", "ram", "disk"] = "off",
    keep: int = 0,
    log: str | Sequence[str] = ('tensorboard',),
    augment_device: Literal["cpu", "cuda"] = "cpu",
    shard_window: int | None = None,
    classes: int | str | Sequence[int | str] = (),
    single_cls: bool = False,
    sync_bn: bool = False,
    deterministic: bool = False,
    compile: bool = False,
    cuda_graphs: bool = False,
    fused_norm: bool = False,
    project: PathLike = "runs/train",
    name: str = "exp",
    exist_ok: bool = False,
    img_size: int | Sequence[int] | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    autoanchor: bool = False,
    resume: PathLike | bool | None = None,
    dry_run: Literal[False] = False,
    verbose: bool = False,
) -> TrainingRun:
    """Train a network on a data set, evaluate it every epoch, keep the best weights.

    The flags of ``yolov7 train``:

      cfg: model: a shipped name or a YAML file; default: that of weights, else yolov7-tiny
      data: data set: a YAML file, a shipped name, or a folder in COCO layout; default: the built-in one
        of the model's task (shapes, for pose stick-figures)
      weights: initial weights, ours or the reference implementation's; '' trains from scratch
      hyp: recipe: a shipped name or a YAML file; default: the data set's settings for the model,
        finetune for few images with weights, else the one that the model names
      epochs: epochs; default: the data set's settings for the model, by the number of images for few
        with weights, else 300
      batch_size: images in a batch, over all processes; auto (0): as many as fit, up to the nominal
        batch; default: the data set's settings for the model, 4 for few images with weights, else 16
      nominal_batch: images in an optimizer step (gradients are accumulated); default: the data set's
        settings for the model, a batch for few images with weights, else the recipe's
      linear_lr: linear instead of cosine decay
      seed: seed of weights, order and augmentation
      workers: loader processes of each process, never more than cores; default: its share of the cores
      device: cpu, 0, cuda:0, mps; default: the first accelerator, else the CPU
      multi_scale: batches of 0.5 to 1.5 times img_size, drawn anew for each
      freeze: layers to freeze: names of the model's nodes, or N for the first N
      fraction: train on this part of the training images, the same ones for every seed (default: 1.0)
      folds: cross-validation: the training images in so many parts, each of them evaluated on by a run
        that trains on the others; 0: off
      fold: with folds: only the run of this part, from 1; 0: all of them, one after the other
      class_weights: weights of the classes in the loss: those of the recipe (loss.class_weights), or by
        the root of how rare a class is (default: recipe)
      image_weights: draw images with rare or badly found classes more often
      patience: stop after so many epochs without a better one, 0 = never; default: a third of the
        epochs, at least 10, for few images with weights, else 0
      close_mosaic: no mosaics in so many epochs at the end
      precision: number format of the network; auto: half precision where the device has it natively
        (default: auto)
      rect: training batches of similar aspect ratio with little padding, without mosaics
      cache: keep decoded and resized images in memory or on the disk, shared by all loader processes
        (default: off)
      keep: keep the averaged weights of so many last epochs, for yolov7 average
      log: who is told of the run: tensorboard, wandb, mlflow, trackio, observers of other packages,
        none (default: ('tensorboard',))
      augment_device: where training images are decoded and augmented: by the loader processes, or on
        the GPU of the run (JPEG; not measured yet) (default: cpu)
      shard_window: tar files at a time of which samples are made, of a data set in such files; 0: all;
        default: all, 16 of a server
      classes: train on these classes only (numbers or names)
      single_cls: take all classes as one, 'object'
      sync_bn: norms over the images of all processes (CUDA, several processes)
      deterministic: deterministic kernels alone, also on CUDA: slower; the run ends where an operation
        has none
      compile: compile norms with their activations: half a minute at the start, seconds in the next run
        (not measured on a GPU yet)
      cuda_graphs: record the passes of a step as CUDA graphs, one for each shape of batches, so that
        the host is not waited for (not measured yet)
      fused_norm: norms and activations as one kernel on a GPU, which keeps a third less (Triton; not
        measured yet)
      project: runs are folders below this one (default: runs/train)
      name: name of the result; a number is added where it exists (default: exp)
      exist_ok: write into the folder of an earlier result of this name
      img_size: side of the network input in training and evaluation (1 or 2 numbers); default: the data
        set's settings, that of weights, else the model's
      set: recipe overrides: set loss.box=0.04 augment.mosaic=0; or a dictionary: {'loss.box': 0.04}
      autoanchor: fit anchors to the training objects; taken if more objects have one that fits
      resume: resume an interrupted run: its last.pt, its folder, or nothing for the latest run below
        project; True is the latest run
      dry_run: one batch through everything, then say what memory and time the run would take
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


@overload
def train(  # type: ignore[overload-overlap]  # 0 is an int, too
    *,
    cfg: PathLike | None = None,
    data: PathLike | None = None,
    weights: PathLike = "",
    hyp: PathLike | None = None,
    epochs: int | None = None,
    batch_size: int | Literal["auto"] | None = None,
    nominal_batch: int | None = None,
    linear_lr: bool = False,
    seed: int = 0,
    workers: int | None = None,
    device: str | int | torch.device = "",
    multi_scale: bool = False,
    freeze: int | str | Sequence[int | str] = (),
    fraction: float = 1.0,
    folds: Literal[0] = 0,
    fold: int = 0,
    class_weights: Literal["recipe", "auto"] = "recipe",
    image_weights: bool = False,
    patience: int | None = None,
    close_mosaic: int = 0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    rect: bool = False,
    cache: Literal["off", "ram", "disk"] = "off",
    keep: int = 0,
    log: str | Sequence[str] = ('tensorboard',),
    augment_device: Literal["cpu", "cuda"] = "cpu",
    shard_window: int | None = None,
    classes: int | str | Sequence[int | str] = (),
    single_cls: bool = False,
    sync_bn: bool = False,
    deterministic: bool = False,
    compile: bool = False,
    cuda_graphs: bool = False,
    fused_norm: bool = False,
    project: PathLike = "runs/train",
    name: str = "exp",
    exist_ok: bool = False,
    img_size: int | Sequence[int] | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    autoanchor: bool = False,
    resume: PathLike | bool | None = None,
    dry_run: Literal[True],
    verbose: bool = False,
) -> Forecast:
    """Train a network on a data set, evaluate it every epoch, keep the best weights."""


@overload
def train(
    *,
    cfg: PathLike | None = None,
    data: PathLike | None = None,
    weights: PathLike = "",
    hyp: PathLike | None = None,
    epochs: int | None = None,
    batch_size: int | Literal["auto"] | None = None,
    nominal_batch: int | None = None,
    linear_lr: bool = False,
    seed: int = 0,
    workers: int | None = None,
    device: str | int | torch.device = "",
    multi_scale: bool = False,
    freeze: int | str | Sequence[int | str] = (),
    fraction: float = 1.0,
    folds: int,
    fold: int = 0,
    class_weights: Literal["recipe", "auto"] = "recipe",
    image_weights: bool = False,
    patience: int | None = None,
    close_mosaic: int = 0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    rect: bool = False,
    cache: Literal["off", "ram", "disk"] = "off",
    keep: int = 0,
    log: str | Sequence[str] = ('tensorboard',),
    augment_device: Literal["cpu", "cuda"] = "cpu",
    shard_window: int | None = None,
    classes: int | str | Sequence[int | str] = (),
    single_cls: bool = False,
    sync_bn: bool = False,
    deterministic: bool = False,
    compile: bool = False,
    cuda_graphs: bool = False,
    fused_norm: bool = False,
    project: PathLike = "runs/train",
    name: str = "exp",
    exist_ok: bool = False,
    img_size: int | Sequence[int] | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    autoanchor: bool = False,
    resume: PathLike | bool | None = None,
    dry_run: Literal[False] = False,
    verbose: bool = False,
) -> FoldRuns:
    """Train a network on a data set, evaluate it every epoch, keep the best weights."""


@overload
def test(
    *,
    cfg: PathLike | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    half_decode: bool = False,
    augment: bool = False,
    compile: bool = False,
    fast: bool = False,
    weights: PathLike | Sequence[PathLike] = (),
    device: str | int | torch.device = "",
    conf_thres: float = 0.001,
    iou_thres: float = 0.65,
    max_det: int = 300,
    masks: Literal["low", "upsampled", "fine", "soft"] | None = None,
    mask_scores: Literal["all", "kept", "none"] | None = None,
    tile: int | None = None,
    overlap: float = 0.2,
    project: PathLike = "runs/test",
    name: str = "exp",
    exist_ok: bool = False,
    data: PathLike | None = None,
    task: Literal["train", "val", "test"] = "val",
    batch_size: int = 32,
    img_size: int | None = None,
    sizes: int | Sequence[int] = (256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1408, 1536),
    metric: Literal["coco", "v7"] = "coco",
    report: bool = False,
    workers: int | None = None,
    classes: int | str | Sequence[int | str] | None = None,
    single_cls: bool = False,
    verbose: bool = False,
) -> TestRun:
    """Evaluate weights: the 12 COCO numbers, a table per class, predictions.json, curves, images; or time them.

    The flags of ``yolov7 test``:

      cfg: model, for weights that hold no definition of their own
      precision: number format of the network; auto: half precision where the device has it natively
        (default: auto)
      half_decode: decode boxes in half precision, as the reference implementation does on GPUs (fp16
        only)
      augment: test-time augmentation: each image at three sizes, one of them mirrored
      compile: compile the network of weights: half a minute at the start, faster images then
      fast: on an NVIDIA GPU: the network as a CUDA graph, bias and activation as one kernel (Triton),
        the letterbox of detect on the device (not measured yet)
      weights: weights, ours or the reference implementation's, or an exported file; several are an
        ensemble; default: best.pt of the latest run
      device: cpu, 0, cuda:0, mps; default: the first accelerator, else the CPU
      conf_thres: minimum score (default: 0.001)
      iou_thres: maximum IoU of two detections of one class (default: 0.65)
      max_det: maximum number of detections in an image (default: 300)
      masks: how masks come to the image's pixels: low, cells of 4 x 4 pixels of the network input;
        upsampled, those enlarged; fine, enlarged, then cropped; soft, never rounded on the way, the
        most exact; default as published: upsampled to detect, fine to score
      mask_scores: of models like yolov7-mask, whose masks count in the scores: all, those of every
        candidate before NMS; kept, those of what NMS keeps, much faster; none; default: kept, or all
        where the network itself says how good they are
      tile: look at images in tiles of so many pixels a side, and at the whole of them: for small
        objects in large images; each tile is scaled to the size of the network
      overlap: with tile: the part of a tile that it shares with its neighbour, at least (default: 0.2)
      project: results are folders below this one (default: runs/test)
      name: name of the result; a number is added where it exists (default: exp)
      exist_ok: write into the folder of an earlier result of this name
      data: data set; default: the one that the weights were trained on
      task: split to evaluate; or on the val split: what each stage takes (speed), AP and time at
        several sizes (study), half and full precision at IoU 0.65 and 0.70 as in table 10 of the paper
        (table10); speed and study take several weights one after the other (default: val)
      batch_size: images in a batch (default: 32)
      img_size: long side of the network input; default: that of the weights
      sizes: sizes of task study (default: (256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1408, 1536))
      metric: the official COCO score, or also the metric of the reference implementation (default:
        coco)
      report: also write a page, report.html: curves, kinds of errors and what they cost, confusion with
        examples, worst images, calibration
      workers: loader processes, never more than cores; default: the cores that the process may use
      classes: score these classes only (numbers or names); default: those that the weights know
      single_cls: take all classes as one; weights of ours that were trained so say it themselves
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


@overload
def test(
    *,
    cfg: PathLike | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    half_decode: bool = False,
    augment: bool = False,
    compile: bool = False,
    fast: bool = False,
    weights: PathLike | Sequence[PathLike] = (),
    device: str | int | torch.device = "",
    conf_thres: float = 0.001,
    iou_thres: float = 0.65,
    max_det: int = 300,
    masks: Literal["low", "upsampled", "fine", "soft"] | None = None,
    mask_scores: Literal["all", "kept", "none"] | None = None,
    tile: int | None = None,
    overlap: float = 0.2,
    project: PathLike = "runs/test",
    name: str = "exp",
    exist_ok: bool = False,
    data: PathLike | None = None,
    task: Literal["speed", "study", "table10"],
    batch_size: int = 32,
    img_size: int | None = None,
    sizes: int | Sequence[int] = (256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1408, 1536),
    metric: Literal["coco", "v7"] = "coco",
    report: bool = False,
    workers: int | None = None,
    classes: int | str | Sequence[int | str] | None = None,
    single_cls: bool = False,
    verbose: bool = False,
) -> SpeedTable:
    """Evaluate weights: the 12 COCO numbers, a table per class, predictions.json, curves, images; or time them."""


def speed(
    *,
    cfg: PathLike | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    half_decode: bool = False,
    augment: bool = False,
    compile: bool = False,
    fast: bool = False,
    weights: PathLike | Sequence[PathLike] = (),
    device: str | int | torch.device = "",
    conf_thres: float = 0.001,
    iou_thres: float = 0.65,
    max_det: int = 300,
    masks: Literal["low", "upsampled", "fine", "soft"] | None = None,
    mask_scores: Literal["all", "kept", "none"] | None = None,
    project: PathLike = "runs/test",
    name: str = "exp",
    exist_ok: bool = False,
    data: PathLike | None = None,
    task: Literal["speed", "study", "table10"] = "speed",
    batch_size: int = 32,
    img_size: int | None = None,
    sizes: int | Sequence[int] = (256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1408, 1536),
    metric: Literal["coco", "v7"] = "coco",
    workers: int | None = None,
    classes: int | str | Sequence[int | str] | None = None,
    single_cls: bool = False,
    verbose: bool = False,
) -> SpeedTable:
    """What weights cost: time of each stage, AP over time at several sizes, half and full precision.

    The flags of ``yolov7 speed``:

      cfg: model, for weights that hold no definition of their own
      precision: number format of the network; auto: half precision where the device has it natively
        (default: auto)
      half_decode: decode boxes in half precision, as the reference implementation does on GPUs (fp16
        only)
      augment: test-time augmentation: each image at three sizes, one of them mirrored
      compile: compile the network of weights: half a minute at the start, faster images then
      fast: on an NVIDIA GPU: the network as a CUDA graph, bias and activation as one kernel (Triton),
        the letterbox of detect on the device (not measured yet)
      weights: weights, ours or the reference implementation's, or an exported file; several are an
        ensemble; default: best.pt of the latest run
      device: cpu, 0, cuda:0, mps; default: the first accelerator, else the CPU
      conf_thres: minimum score (default: 0.001)
      iou_thres: maximum IoU of two detections of one class (default: 0.65)
      max_det: maximum number of detections in an image (default: 300)
      masks: how masks come to the image's pixels: low, cells of 4 x 4 pixels of the network input;
        upsampled, those enlarged; fine, enlarged, then cropped; soft, never rounded on the way, the
        most exact; default as published: upsampled to detect, fine to score
      mask_scores: of models like yolov7-mask, whose masks count in the scores: all, those of every
        candidate before NMS; kept, those of what NMS keeps, much faster; none; default: kept, or all
        where the network itself says how good they are
      project: results are folders below this one (default: runs/test)
      name: name of the result; a number is added where it exists (default: exp)
      exist_ok: write into the folder of an earlier result of this name
      data: data set; default: the one that the weights were trained on
      task: what each stage takes (speed), AP and time at several sizes (study), half and full precision
        at IoU 0.65 and 0.70 as in table 10 of the paper (table10) (default: speed)
      batch_size: images in a batch (default: 32)
      img_size: long side of the network input; default: that of the weights
      sizes: sizes of task study (default: (256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1408, 1536))
      metric: the official COCO score, or also the metric of the reference implementation (default:
        coco)
      workers: loader processes, never more than cores; default: the cores that the process may use
      classes: score these classes only (numbers or names); default: those that the weights know
      single_cls: take all classes as one; weights of ours that were trained so say it themselves
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


def detect(
    *,
    cfg: PathLike | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    half_decode: bool = False,
    augment: bool = False,
    compile: bool = False,
    fast: bool = False,
    weights: PathLike | Sequence[PathLike] = (),
    device: str | int | torch.device = "",
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    max_det: int = 300,
    masks: Literal["low", "upsampled", "fine", "soft"] | None = None,
    mask_scores: Literal["all", "kept", "none"] | None = None,
    tile: int | None = None,
    overlap: float = 0.2,
    project: PathLike = "runs/detect",
    name: str = "exp",
    exist_ok: bool = False,
    source: PathLike = "",
    batch_size: int = 1,
    img_size: int | None = None,
    classes: int | str | Sequence[int | str] | None = None,
    agnostic_nms: bool = False,
    track: Literal["ocsort", "bytetrack", "botsort", "sort"] | None = None,
    track_buffer: float = 2.0,
    save_txt: bool = False,
    save_conf: bool = False,
    save_json: bool = False,
    save_jsonl: bool = False,
    save_coco: bool = False,
    save_csv: bool = False,
    save_mot: bool = False,
    save_crop: bool = False,
    crop_masks: bool = False,
    round_boxes: bool = False,
    nosave: bool = False,
    view_img: bool = False,
    reconnects: int = 10,
    verbose: bool = False,
) -> DetectionRun:
    """Detect in images, videos, cameras and streams; writes images and videos, and text, JSON, CSV, crops.

    The flags of ``yolov7 detect``:

      cfg: model, for weights that hold no definition of their own
      precision: number format of the network; auto: half precision where the device has it natively
        (default: auto)
      half_decode: decode boxes in half precision, as the reference implementation does on GPUs (fp16
        only)
      augment: test-time augmentation: each image at three sizes, one of them mirrored
      compile: compile the network of weights: half a minute at the start, faster images then
      fast: on an NVIDIA GPU: the network as a CUDA graph, bias and activation as one kernel (Triton),
        the letterbox of detect on the device (not measured yet)
      weights: weights, ours or the reference implementation's, or an exported file; several are an
        ensemble; default: best.pt of the latest run
      device: cpu, 0, cuda:0, mps; default: the first accelerator, else the CPU
      conf_thres: minimum score (default: 0.25)
      iou_thres: maximum IoU of two detections of one class (default: 0.45)
      max_det: maximum number of detections in an image (default: 300)
      masks: how masks come to the image's pixels: low, cells of 4 x 4 pixels of the network input;
        upsampled, those enlarged; fine, enlarged, then cropped; soft, never rounded on the way, the
        most exact; default as published: upsampled to detect, fine to score
      mask_scores: of models like yolov7-mask, whose masks count in the scores: all, those of every
        candidate before NMS; kept, those of what NMS keeps, much faster; none; default: kept, or all
        where the network itself says how good they are
      tile: look at images in tiles of so many pixels a side, and at the whole of them: for small
        objects in large images; each tile is scaled to the size of the network
      overlap: with tile: the part of a tile that it shares with its neighbour, at least (default: 0.2)
      project: results are folders below this one (default: runs/detect)
      name: name of the result; a number is added where it exists (default: exp)
      exist_ok: write into the folder of an earlier result of this name
      source: image or its address (https://...), video, folder (not those in it), glob, camera (its
        number), stream (rtsp://, rtmp://, http://, ...), or a text file with one of these a line
      batch_size: images or frames read together, and run together where their shapes allow; of streams
        always the newest frame of each (default: 1)
      img_size: long side of the network input; default: that of the weights
      classes: keep only these classes (numbers or names)
      agnostic_nms: NMS across classes
      track: follow objects from frame to frame: every detection gets a number, which all that is
        written has
      track_buffer: with track: seconds that an object is remembered which is not seen (default: 2.0)
      save_txt: also write one text file an image: class cx cy w h, normalised; with masks a polygon
        instead of the box, with key points x y v of each behind it
      save_conf: add the score to the text files
      save_json: also write detections.json: a list with one object a frame
      save_jsonl: also write detections.jsonl: the same, one line a frame as it comes
      save_coco: also write predictions.json: results as COCO has them
      save_csv: also write detections.csv: one line a detection
      save_mot: with track: also write mot/NAME.txt of each video, in the format of MOT Challenge
      save_crop: also write an image of every detection, in a folder a class
      crop_masks: with save_crop: PNG images that are transparent outside of the object's mask
      round_boxes: boxes in whole pixels, as the reference implementation writes them
      nosave: write no images or videos
      view_img: show what is found in a window, where there is a screen (q ends the run)
      reconnects: attempts in a row to reach a stream that has dropped, before the run ends (default:
        10)
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


def export(
    *,
    weights: PathLike = "",
    format: str | Sequence[str] = ('onnx',),
    cfg: PathLike | None = None,
    img_size: int | Sequence[int] | None = None,
    batch_size: int = 1,
    dynamic_batch: bool = False,
    dynamic: bool = False,
    head: Literal["decoded", "raw", "end2end"] = "decoded",
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    max_det: int = 100,
    masks: Literal["low", "full", "none"] = "low",
    fp16: bool = False,
    with_preprocess: bool = False,
    source: PathLike = "",
    output: PathLike = "",
    verbose: bool = False,
) -> ExportRun:
    """Write weights for deployment, TorchScript, ONNX, OpenVINO, TensorRT; each is run and compared with PyTorch.

    The flags of ``yolov7 export``:

      weights: weights, ours or the reference implementation's; default: best.pt of the latest run
      format: formats to write: weights (re-parameterized, ours), original (the reference
        implementation's layout), torchscript, onnx, openvino, tensorrt (default: ('onnx',))
      cfg: model, for weights that hold no definition of their own
      img_size: height and width of the network input (one number: square); default: that of the weights
      batch_size: batch of the exported graph (default: 1)
      dynamic_batch: a graph for any batch
      dynamic: a graph for any batch and size
      head: outputs of the graph: boxes and scores of all rows; the logits of the levels; or detections
        after NMS in the graph (default: decoded)
      conf_thres: minimum score, of head end2end (default: 0.25)
      iou_thres: maximum IoU of two detections of one class, of head end2end (default: 0.45)
      max_det: maximum number of detections in an image, of head end2end (default: 100)
      masks: masks that head end2end gives, of models of instance segmentation: probabilities at a
        quarter of the network input (low), 0 and 1 at its size (full), or none (default: low)
      fp16: weights in float16, inputs and outputs in float32 (not of weights and original)
      with_preprocess: the graph takes uint8 [B, H, W, 3], letterboxed, instead of floats in 0..1
      source: images for the comparison with PyTorch; default: the data set's validation split
      output: folder of the written files; default: that of the weights
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


def models(
    *,
    cfg: PathLike | None = None,
    scale: PathLike | None = None,
    depth: float | None = None,
    width: float | None = None,
    hidden_width: float | None = None,
    img_size: int | None = None,
    num_classes: int | None = None,
    deploy: bool = False,
    picture: PathLike = "",
    output: PathLike = "",
    verbose: bool = False,
) -> Table:
    """Show all models beside the paper's figures; one model node by node; or what scaling makes of one.

    The flags of ``yolov7 models``:

      cfg: one model, node by node: a shipped name or a YAML file; default: a table of all
      scale: the model that results when this one is scaled
      depth: factor on the depth of scale; default: 1
      width: factor on its widths; default: (1 + depth) / 2
      hidden_width: factor on the widths inside its blocks; default: 1
      img_size: side of the network input; default: the model's nominal size
      num_classes: classes of the head; default: 80, for key points 1
      deploy: the nodes of the deployed form
      picture: also draw the graph: a PNG, PDF or SVG file
      output: also write the model as YAML, scaled and written out
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


def recipe(
    *,
    hyp: PathLike = "p5",
    find: str = "",
    diff: PathLike = "",
    verbose: bool = False,
) -> Table:
    """List every key of --set with its value in a recipe, limits and meaning; or what two recipes have otherwise.

    The flags of ``yolov7 recipe``:

      hyp: recipe: a shipped name or a YAML file (default: p5)
      find: only keys with this word in their name or meaning
      diff: only what another recipe has otherwise, beside its values: a shipped name or a YAML file
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


def tune(
    *,
    cfg: PathLike | None = None,
    data: PathLike | None = None,
    weights: PathLike = "",
    hyp: PathLike | None = None,
    epochs: int = 30,
    batch_size: int | Literal["auto"] | None = None,
    nominal_batch: int | None = None,
    linear_lr: bool = False,
    seed: int = 0,
    workers: int | None = None,
    multi_scale: bool = False,
    freeze: int | str | Sequence[int | str] = (),
    fraction: float = 1.0,
    folds: int = 0,
    fold: int = 0,
    class_weights: Literal["recipe", "auto"] = "recipe",
    image_weights: bool = False,
    patience: int | None = None,
    close_mosaic: int = 0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    rect: bool = False,
    cache: Literal["off", "ram", "disk"] = "off",
    keep: int = 0,
    log: str | Sequence[str] = ('none',),
    augment_device: Literal["cpu", "cuda"] = "cpu",
    shard_window: int | None = None,
    classes: int | str | Sequence[int | str] = (),
    single_cls: bool = False,
    sync_bn: bool = False,
    deterministic: bool = False,
    compile: bool = False,
    cuda_graphs: bool = False,
    fused_norm: bool = False,
    project: PathLike = "runs/tune",
    img_size: int | Sequence[int] | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    verbose: bool = False,
    devices: str | Sequence[str] = (),
    devices_per_run: int = 1,
    space: str = "default",
    trials: int = 30,
    hours: float | None = None,
    prune: Literal["median", "halving", "off"] = "median",
    study: str = "study",
    storage: str = "",
    study_seed: int = 0,
) -> StudyResult:
    """Search for a better recipe: many trainings, chosen and pruned by Optuna; goes on where it was stopped.

    The flags of ``yolov7 tune``:

      cfg: model: a shipped name or a YAML file; default: that of weights, else yolov7-tiny
      data: data set: a YAML file, a shipped name, or a folder in COCO layout; default: the built-in one
        of the model's task (shapes, for pose stick-figures)
      weights: initial weights, ours or the reference implementation's; '' trains from scratch
      hyp: recipe: a shipped name or a YAML file; default: the data set's settings for the model,
        finetune for few images with weights, else the one that the model names
      epochs: epochs of each trial (default: 30)
      batch_size: images in a batch, over all processes; auto (0): as many as fit, up to the nominal
        batch; default: the data set's settings for the model, 4 for few images with weights, else 16
      nominal_batch: images in an optimizer step (gradients are accumulated); default: the data set's
        settings for the model, a batch for few images with weights, else the recipe's
      linear_lr: linear instead of cosine decay
      seed: seed of weights, order and augmentation
      workers: loader processes of each process, never more than cores; default: its share of the cores
      multi_scale: batches of 0.5 to 1.5 times img_size, drawn anew for each
      freeze: layers to freeze: names of the model's nodes, or N for the first N
      fraction: train on this part of the training images, the same ones for every seed (default: 1.0)
      folds: cross-validation: the training images in so many parts, each of them evaluated on by a run
        that trains on the others; 0: off
      fold: with folds: only the run of this part, from 1; 0: all of them, one after the other
      class_weights: weights of the classes in the loss: those of the recipe (loss.class_weights), or by
        the root of how rare a class is (default: recipe)
      image_weights: draw images with rare or badly found classes more often
      patience: stop after so many epochs without a better one, 0 = never; default: a third of the
        epochs, at least 10, for few images with weights, else 0
      close_mosaic: no mosaics in so many epochs at the end
      precision: number format of the network; auto: half precision where the device has it natively
        (default: auto)
      rect: training batches of similar aspect ratio with little padding, without mosaics
      cache: keep decoded and resized images in memory or on the disk, shared by all loader processes
        (default: off)
      keep: keep the averaged weights of so many last epochs, for yolov7 average
      log: who is told of the trainings: tensorboard, wandb, mlflow, trackio, observers of other
        packages, none (default: ('none',))
      augment_device: where training images are decoded and augmented: by the loader processes, or on
        the GPU of the run (JPEG; not measured yet) (default: cpu)
      shard_window: tar files at a time of which samples are made, of a data set in such files; 0: all;
        default: all, 16 of a server
      classes: train on these classes only (numbers or names)
      single_cls: take all classes as one, 'object'
      sync_bn: norms over the images of all processes (CUDA, several processes)
      deterministic: deterministic kernels alone, also on CUDA: slower; the run ends where an operation
        has none
      compile: compile norms with their activations: half a minute at the start, seconds in the next run
        (not measured on a GPU yet)
      cuda_graphs: record the passes of a step as CUDA graphs, one for each shape of batches, so that
        the host is not waited for (not measured yet)
      fused_norm: norms and activations as one kernel on a GPU, which keeps a third less (Triton; not
        measured yet)
      project: studies are folders below this one (default: runs/tune)
      img_size: side of the network input in training and evaluation (1 or 2 numbers); default: the data
        set's settings, that of weights, else the model's
      set: recipe overrides: set loss.box=0.04 augment.mosaic=0; or a dictionary: {'loss.box': 0.04}
      verbose: tracebacks and debug messages
      devices: devices to use, one training on each: 0 1 2 3, or cpu; default: one training at a time,
        where train.py would run it
      devices_per_run: devices that share a training (torchrun) (default: 1)
      space: search space: what to change, and how far; a shipped name or a YAML file (default: default)
      trials: trainings of the study, over all processes and starts (default: 30)
      hours: begin no more trials after so many hours; default: no limit
      prune: end a trial early: median, where after an epoch it is below the median of the others;
        halving, unless it is among the best quarter after 1/16, 1/4 of the epochs; off (default:
        median)
      study: name of the study, below project: one that is there goes on, and several processes share it
        (default: study)
      storage: where the study is kept: sqlite:///FILE, or a server (postgresql://..., mysql://...);
        default: study.db in its folder
      study_seed: seed of the study's choices; seed is that of every training

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


def compare(
    *,
    project: PathLike = "runs/compare",
    name: str = "exp",
    exist_ok: bool = False,
    runs: PathLike | Sequence[PathLike] = (),
    verbose: bool = False,
) -> RunComparison:
    """Compare training runs: settings that differ, metrics, times and curves as text, CSV and one HTML page.

    The flags of ``yolov7 compare``:

      project: results are folders below this one (default: runs/compare)
      name: name of the result; a number is added where it exists (default: exp)
      exist_ok: write into the folder of an earlier result of this name
      runs: folders of training runs, or folders in which runs lie
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


def ablation(
    *,
    devices: str | Sequence[str] = (),
    devices_per_run: int = 1,
    table: Literal["table3", "table4", "table5", "table6", "table7", "table8", "table10"] | None = None,
    scale: Literal["paper", "small"] = "paper",
    rows: str | Sequence[str] = (),
    seeds: int | Sequence[int] = (),
    data: PathLike = "",
    img_size: int | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    workers: int | None = None,
    project: PathLike = "runs/ablation",
    dry_run: bool = False,
    verbose: bool = False,
) -> AblationTable:
    """Run an ablation of the paper: its rows trained with each seed, measured beside what was published.

    The flags of ``yolov7 ablation``:

      devices: devices to use, one training on each: 0 1 2 3, or cpu; default: one training at a time,
        where train.py would run it
      devices_per_run: devices that share a training (torchrun) (default: 1)
      table: table of the paper: table3 (scaling), table4 and table5 (RepConv), table6, table7 and
        table8 (auxiliary heads), table10 (precision and NMS)
      scale: paper: the paper's models and settings; small: models of a quarter of the width and small
        images, which two cores train in hours (default: paper)
      rows: rows of the table, by their numbers from 1; default: all
      seeds: a training of each row with each of these seeds; default: 0, at small scale 0 1 2
      data: data set; default: coco, at small scale the built-in shapes
      img_size: side of the network input; default: the model's, at small scale that of the data set's
        settings, or 256
      set: recipe overrides for all rows; or a dictionary: {'loss.box': 0.04}
      epochs: epochs; default: 300, at small scale 30
      batch_size: images in a batch; default: that of train.py, at small scale that of the data set's
        settings, or 8
      precision: number format of the networks in training (default: auto)
      workers: loader processes of each training; default: its share of the cores
      project: results are folders below this one; a second start goes on, and several at a time share
        the work (default: runs/ablation)
      dry_run: say which trainings there are and which of them are finished, and run none
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


def average(
    *,
    runs: PathLike | Sequence[PathLike] = (),
    last: int | None = None,
    output: PathLike = "",
    verbose: bool = False,
) -> AverageRun:
    """Write the mean of several weight files: the last epochs that a run has kept, or files by name.

    The flags of ``yolov7 average``:

      runs: folder of a run that has kept its last epochs, or weight files
      last: only the last N of the epochs that are kept; default: all of them
      output: file to write; default: average.pt beside the epochs
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


def check_data(
    *,
    data: PathLike = "",
    report: str = "",
    cfg: PathLike | None = None,
    img_size: int | None = None,
    all: bool = False,
    decode: bool = True,
    verbose: bool = False,
) -> DataFacts:
    """Show what is understood of a data set and what is wrong with it: exit code 0, 1 (faults) or 2 (unusable).

    The flags of ``yolov7 data check``:

      data: data set: a YAML or .data file, a shipped name, or a folder
      report: also write a page with charts, examples and samples: an HTML file
      cfg: model whose size and anchors the page shows objects beside; default: yolov7-tiny
      img_size: side of the network input of the page; default: the data set's settings for the model,
        then the model's
      all: show every fault, not only the first ones
      decode: decode every image, which finds damaged ones and those that stand in two splits (default:
        True)
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


def convert_data(
    *,
    data: PathLike = "",
    from_: Literal["voc", "labelme", "via", "csv", "supervisely", "createml"] | None = None,
    to: Literal["yolo", "coco"] | None = None,
    output: PathLike = "",
    splits: str | Sequence[str] = (),
    images: PathLike = "",
    names: str | Sequence[str] | None = None,
    attribute: str | None = None,
    first_pixel: int | None = None,
    background: bool = False,
    val_fraction: float = 0.2,
    seed: int = 0,
    boxes: bool = False,
    polygons: bool = False,
    copy: bool = False,
    link: bool = False,
    verbose: bool = False,
) -> Path:
    """Write a data set as YOLO txt or as COCO JSON, with the file that train.py reads.

    The flags of ``yolov7 data convert``:

      data: data set: a YAML file, a shipped name, or a folder in COCO layout; with from_ the folder or
        the file of the annotations
      from_: format of another tool that is read: voc (Pascal VOC), labelme, via (VGG Image Annotator),
        csv (Open Images, TensorFlow, keras-retinanet), supervisely, createml; default: what train.py
        reads
      to: format to write: yolo (label files) or coco (JSON); default with from_: yolo
      output: folder to write, new or empty
      splits: splits to write; default: all that the data set has
      images: with from_: folder of the images; default: that of the annotations, and those in it
      names: with from_: the classes in their order; default: the order that the format lists them in,
        else sorted
      attribute: with from_ via: the attribute of regions that is their class
      first_pixel: with from_ voc: the number of the first pixel, 1 as in the devkit or 0; default: 0
        where a corner is 0, else 1
      background: with from_: images that no annotation names are images without objects; default: they
        are left out
      val_fraction: with from_: the part of the training images that becomes val where the data has no
        val; 0: none (default: 0.2)
      seed: with from_: seed of that choice
      boxes: write the boxes only; a polygon in a label file stands for its own box, which may differ
        from the object's
      polygons: write polygons, also where objects have key points: a row of a label file holds one or
        the other
      copy: copy the images; default: hard links where possible, else copies
      link: hard links only: an error where they are impossible
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


def shard_data(
    *,
    data: PathLike = "",
    output: PathLike = "",
    splits: str | Sequence[str] = (),
    images: int = 2000,
    check: bool = False,
    verbose: bool = False,
) -> Path | str:
    """Write a data set as tar files that webdataset reads, too, or check such files: exit code 0 or 1 (faults).

    The flags of ``yolov7 data shard``:

      data: data set: a YAML file, a shipped name, or a folder in COCO layout; with check the folder
        that was written
      output: folder to write, new or empty
      splits: splits to write; default: all that the data set has
      images: images in a tar file (default: 2000)
      check: write nothing: read every byte of the tar files of data and compare them with their lists
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """


def fit_anchors(
    *,
    data: PathLike = "shapes",
    cfg: PathLike = "yolov7-tiny",
    img_size: int | None = None,
    generations: int = 1000,
    seed: int = 0,
    output: PathLike = "",
    verbose: bool = False,
) -> AnchorFit:
    """Show how well a model's anchors fit a data set, beside fitted ones; writes the model with those.

    The flags of ``yolov7 data anchors``:

      data: data set: a YAML file, a shipped name, or a folder in COCO layout (default: shapes)
      cfg: model: a shipped name or a YAML file (default: yolov7-tiny)
      img_size: side of the network input in training; default: the data set's settings for the model,
        then the model's
      generations: random changes that are tried after k-means (default: 1000)
      seed: seed of k-means and of the changes
      output: also write the model with the fitted anchors as YAML
      verbose: tracebacks and debug messages

    Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a
    `RuntimeError`) for a run that fails, and `KeyboardInterrupt` for one that was stopped.
    """

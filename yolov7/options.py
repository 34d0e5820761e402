"""The facts of a run: recipes, and the options of the commands. Flags and YAML keys come from here.

Names and defaults are the original's (spec of training, sections 1 and 2); a value of ``None`` is resolved later:
by the data set's ``settings`` for the model, then by the model's config.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from yolov7.config import InputError, find_yaml, from_mapping, option, read_yaml, unknown


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    lr0: float = option(0.01, "peak learning rate", low=0)
    lrf: float = option(0.1, "final learning rate as a fraction of lr0", low=0, high=1)
    momentum: float = option(0.937, "Nesterov momentum", low=0, high=1)
    weight_decay: float = option(0.0005, "L2 on convolution weights, at a nominal batch of 64", low=0)
    warmup_epochs: float = option(3.0, "length of the warm-up", low=0)
    warmup_momentum: float = option(0.8, "momentum at iteration 0", low=0, high=1)
    warmup_bias_lr: float = option(0.1, "learning rate of the biases at iteration 0", low=0)
    clip_grad: float = option(0.0, "largest norm of the gradient of a step, 0 = not clipped", low=0)
    kind: Literal["sgd", "adamw"] = option("sgd", "SGD with Nesterov momentum, or AdamW (momentum is its first beta)")
    nominal_batch: int = option(64, "pictures in an optimizer step, where neither flag nor data set says it", low=1)


@dataclass(frozen=True)
class LossConfig:
    """Gains and switches of assignment and loss. Gains are for 3 levels, 80 classes and 640 px (see `scale_gains`)."""

    box: float = option(0.05, "box gain", low=0)
    cls: float = option(0.3, "class gain", low=0)
    cls_pw: float = option(1.0, "positive weight of the class term", low=0)
    obj: float = option(0.7, "objectness gain", low=0)
    obj_pw: float = option(1.0, "positive weight of the objectness term", low=0)
    iou_t: float = option(0.2, "read by nobody; accepted because the original's files have it")
    gr: float = option(1.0, "share of the IoU in the objectness target, the rest is 1", low=0, high=1)
    anchor_t: float = option(4.0, "largest ratio of sides between anchor and object", low=1)
    fl_gamma: float = option(0.0, "focal gamma, 0 = off", low=0)
    label_smoothing: float = option(0.0, "label smoothing of the class term", low=0, high=1)
    loss_ota: bool = option(True, "simOTA; false: every candidate is a positive (the plain loss)")
    assignment: Literal["coarse_to_fine", "lead_guided", "independent"] = option(
        "coarse_to_fine", "labels of an auxiliary head (paper, table 6): up to 5 cells by the lead head's predictions, "
        "the lead head's own labels, or those of its own predictions")
    aux_decode: Literal["constrained", "free"] = option(
        "constrained", "how far boxes of an auxiliary head reach out of their cell (paper, table 7): 0.5 cells, or 1")
    top_k: int = option(0, "best IoUs that add up to an object's number of positives; 0: 10, or 20 beside an "
                        "auxiliary head", low=0)
    deduplicate_candidates: bool = option(False, "propose a cell and anchor once, however many objects do")
    class_weights: tuple[float, ...] = option((), "weights of the classes in the class term; (): all 1", low=0)


@dataclass(frozen=True)
class AugmentConfig:
    """Amplitudes and probabilities of the augmentation."""

    hsv_h: float = option(0.015, "hue gain amplitude", low=0, high=1)
    hsv_s: float = option(0.7, "saturation gain amplitude", low=0, high=1)
    hsv_v: float = option(0.4, "value gain amplitude", low=0, high=1)
    degrees: float = option(0.0, "rotation, +- degrees", low=0, high=180)
    translate: float = option(0.2, "translation, +- fraction", low=0, high=1)
    scale: float = option(0.9, "zoom, factor in 1 - scale ... 1.1 + scale", low=0, high=1)
    shear: float = option(0.0, "shear, +- degrees", low=0, high=90)
    perspective: float = option(0.0, "perspective, +- fraction", low=0, high=0.01)
    flipud: float = option(0.0, "probability of a vertical flip", low=0, high=1)
    fliplr: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    mosaic: float = option(1.0, "probability of a mosaic (80% of four tiles, 20% of nine)", low=0, high=1)
    mixup: float = option(0.15, "probability of mix-up, on mosaics only", low=0, high=1)
    copy_paste: float = option(0.0, "share of outlined objects pasted mirrored inside a mosaic", low=0, high=1)
    paste_in: float = option(0.15, "probability of pasting outlined objects of other pictures", low=0, high=1)
    cutout: float = option(0.0, "probability of 31 painted rectangles", low=0, high=1)
    clahe: float = option(0.0, "probability of a spread histogram, tile by tile", low=0, high=1)
    brightness_contrast: float = option(0.0, "probability of a change of up to 20% of both", low=0, high=1)
    gamma: float = option(0.0, "probability of a power of 0.8 ... 1.2 on the values", low=0, high=1)
    blur: float = option(0.0, "probability of a mean over 3, 5 or 7 pixels", low=0, high=1)
    median_blur: float = option(0.0, "probability of a median over 3, 5 or 7 pixels", low=0, high=1)
    gray: float = option(0.0, "probability of a picture without colour", low=0, high=1)
    jpeg: float = option(0.0, "probability of a compression as JPEG of quality 75 ... 100", low=0, high=1)
    pipeline: tuple[str, ...] = option(
        ("mosaic", "copy_paste", "perspective", "mixup", "clahe", "brightness_contrast", "gamma", "blur",
         "median_blur", "gray", "jpeg", "hsv", "paste_in", "cutout", "flipud", "fliplr"),
        "the steps in their order; one that is left out does nothing, nor does one whose probability is 0")


@dataclass(frozen=True)
class Recipe:
    """A hyper-parameter file: ``data/hyp.scratch.{tiny,p5,p6,custom}.yaml``, ``data/hyp.finetune.yaml``."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def read_recipe(name: str) -> Recipe:
    """Read a recipe by path or shipped name (``tiny`` is ``data/hyp.scratch.tiny.yaml``).

    The original's flat files are read too: a key outside a section goes to the section that has it.
    """
    path = find_yaml(name, "data", "--hyp", ("hyp.scratch.", "hyp."))
    sections = {"optimizer": OptimizerConfig, "loss": LossConfig, "augment": AugmentConfig}
    owner = {f.name: section for section, cls in sections.items() for f in fields(cls)}
    nested: dict[str, Any] = {section: {} for section in sections}
    for key, value in read_yaml(path).items():
        if key in sections:
            if not isinstance(value, dict):
                raise InputError(f"{path}, {key}: found {value!r}; accepted: keys with values")
            nested[key] |= value
        elif key in owner:
            nested[owner[key]][key] = value
        else:
            raise InputError(f"{path}: {unknown('key', key, [*sections, *owner])}")
    return from_mapping(Recipe, nested, str(path))


@dataclass(frozen=True)
class TrainOptions:
    """Flags of ``train.py``."""

    weights: str = option("", "initial weights, ours or the original's; '' trains from scratch")
    cfg: str | None = option(None, "model: a shipped name or a YAML file; default: that of --weights, else yolov7-tiny")
    data: str = option("shapes", "data set: a YAML file, a shipped name, or a folder in COCO layout")
    hyp: str | None = option(None, "recipe: a shipped name or a YAML file; default: the one that the model names")
    epochs: int | None = option(None, "epochs; default: the data set's settings for the model, else 300", low=1)
    batch_size: int | None = option(None, "pictures in a batch, over all processes; default: the data set's settings "
                                    "for the model, else 16", low=1)
    nominal_batch: int | None = option(None, "pictures in an optimizer step (gradients are accumulated); "
                                       "default: the data set's settings for the model, else the recipe's", low=1)
    img_size: tuple[int, ...] | None = option(None, "side of the network input in training and evaluation (1 or 2 "
                                              "numbers); default: the data set's settings, then the model's", low=32)
    resume: str | None = option(None, "go on with an interrupted run: its last.pt, its folder, or nothing for "
                                "the latest run below --project", nargs="?", const="", metavar="RUN")
    device: str = option("", "cpu, 0, cuda:0, mps; default: the first accelerator, else the CPU")
    workers: int = option(8, "loader processes, at most (never more than cores)", low=0)
    classes: tuple[str, ...] | None = option(None, "train on these classes only (numbers or names)")
    single_cls: bool = option(False, "take all classes as one, 'object'")
    project: str = option("runs/train", "runs are folders below this one")
    name: str = option("exp", "name of the run; a number is added where it exists")
    exist_ok: bool = option(False, "write into the folder of an earlier run of this name")
    linear_lr: bool = option(False, "linear instead of cosine decay")
    autoanchor: bool = option(False, "fit anchors to the training objects; taken if more objects have one that fits")
    multi_scale: bool = option(False, "batches of 0.5 to 1.5 times --img-size, drawn anew for each")
    freeze: tuple[str, ...] = option((), "nodes of the model that stay as they are: names, or a number for so many "
                                     "of the first", metavar="NODE")
    image_weights: bool = option(False, "draw pictures with rare or badly found classes more often")
    patience: int = option(0, "stop after so many epochs without a better one, 0 = never", low=0)
    close_mosaic: int = option(0, "no mosaics in so many epochs at the end", low=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "number format of the network; auto: half precision where the device has it natively")
    rect: bool = option(False, "training batches of similar aspect ratio with little padding, without mosaics")
    cache: Literal["off", "ram", "disk"] = option("off", "keep decoded and resized pictures in memory or on the disk, "
                                                  "shared by all loader processes")
    sync_bn: bool = option(False, "norms over the pictures of all processes (CUDA, several processes)")
    compile: bool = option(False, "compile network and loss: minutes at the start, faster steps then")
    dry_run: bool = option(False, "one batch through everything, then say what memory and time the run would take")
    seed: int = option(0, "seed of weights, order and augmentation", low=0)
    set: tuple[str, ...] = option((), "recipe overrides: --set loss.box=0.04 augment.mosaic=0", metavar="KEY=VALUE")
    verbose: bool = option(False, "tracebacks and debug messages")


@dataclass(frozen=True)
class TestOptions:
    """Flags of ``test.py``."""

    __test__ = False  # not a pytest class

    weights: tuple[str, ...] = option((), "weights, ours or the original's, or an exported file; several are an "
                                      "ensemble (of --task speed and study: one after the other); default: best.pt of "
                                      "the latest run")
    data: str | None = option(None, "data set; default: the one that the weights were trained on")
    cfg: str | None = option(None, "model, for weights that hold no definition of their own")
    task: Literal["train", "val", "test", "speed", "study", "table10"] = option(
        "val", "split to evaluate; or on the val split: what each stage takes (speed), AP and time at several sizes "
        "(study), half and full precision at IoU 0.65 and 0.70 as in table 10 of the paper (table10)")
    batch_size: int = option(32, "pictures in a batch", low=1)
    img_size: int | None = option(None, "long side of the network input; default: that of the weights", low=32)
    conf_thres: float = option(0.001, "least score", low=0, high=1)
    iou_thres: float = option(0.65, "largest IoU of two detections of one class", low=0, high=1)
    max_det: int = option(300, "most detections in a picture", low=1)
    augment: bool = option(False, "test-time augmentation: each picture at three sizes, one of them mirrored")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "number format of the network; auto: half precision where the device has it natively")
    half_decode: bool = option(False, "decode boxes in half precision, as the original does on GPUs (fp16 only)")
    compile: bool = option(False, "compile the network of weights: half a minute at the start, faster pictures then")
    sizes: tuple[int, ...] = option(tuple(range(256, 1537, 128)), "sizes of --task study", low=32)
    metric: Literal["coco", "v7"] = option("coco", "the official COCO score, or also the original's own metric")
    device: str = option("", "cpu, 0, cuda:0, mps; default: the first accelerator, else the CPU")
    workers: int = option(8, "loader processes, at most", low=0)
    classes: tuple[str, ...] | None = option(None, "score these classes only (numbers or names); default: those "
                                             "that the weights know")
    single_cls: bool = option(False, "take all classes as one; weights of ours that were trained so say it themselves")
    project: str = option("runs/test", "results are folders below this one")
    name: str = option("exp", "name of the result; a number is added where it exists")
    exist_ok: bool = option(False, "write into the folder of an earlier result of this name")
    verbose: bool = option(False, "tracebacks and debug messages")


@dataclass(frozen=True)
class DetectOptions:
    """Flags of ``detect.py``."""

    weights: tuple[str, ...] = option((), "weights, ours or the original's, or an exported file; several are an "
                                      "ensemble; default: best.pt of the latest run")
    source: str = option("", "picture, video, folder (not those in it), glob, camera (its number), stream (rtsp://, "
                         "rtmp://, http://, ...), or a text file with one of these a line")
    cfg: str | None = option(None, "model, for weights that hold no definition of their own")
    batch_size: int = option(1, "pictures or frames read together, and run together where their shapes allow; of "
                             "streams always the newest frame of each", low=1)
    img_size: int | None = option(None, "long side of the network input; default: that of the weights", low=32)
    conf_thres: float = option(0.25, "least score", low=0, high=1)
    iou_thres: float = option(0.45, "largest IoU of two detections of one class", low=0, high=1)
    max_det: int = option(300, "most detections in a picture", low=1)
    classes: tuple[str, ...] | None = option(None, "keep only these classes (numbers or names)")
    agnostic_nms: bool = option(False, "suppress across classes")
    augment: bool = option(False, "test-time augmentation: each picture at three sizes, one of them mirrored")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "number format of the network; auto: half precision where the device has it natively")
    half_decode: bool = option(False, "decode boxes in half precision, as the original does on GPUs (fp16 only)")
    compile: bool = option(False, "compile the network of weights: half a minute at the start, faster pictures then")
    save_txt: bool = option(False, "also write one text file a picture: class cx cy w h, normalised")
    save_conf: bool = option(False, "add the score to the text files")
    save_json: bool = option(False, "also write detections.json: a list with one object a frame")
    save_jsonl: bool = option(False, "also write detections.jsonl: the same, one line a frame as it comes")
    save_coco: bool = option(False, "also write predictions.json: results as COCO has them")
    save_csv: bool = option(False, "also write detections.csv: one line a detection")
    save_crop: bool = option(False, "also write a picture of every detection, in a folder a class")
    round_boxes: bool = option(False, "boxes in whole pixels, as the original writes them")
    nosave: bool = option(False, "write no pictures or videos")
    view_img: bool = option(False, "show what is found in a window, where there is a screen (q ends the run)")
    reconnects: int = option(10, "attempts in a row to reach a stream that has dropped, before the run ends", low=0)
    device: str = option("", "cpu, 0, cuda:0, mps; default: the first accelerator, else the CPU")
    project: str = option("runs/detect", "results are folders below this one")
    name: str = option("exp", "name of the result; a number is added where it exists")
    exist_ok: bool = option(False, "write into the folder of an earlier result of this name")
    verbose: bool = option(False, "tracebacks and debug messages")


@dataclass(frozen=True)
class ExportOptions:
    """Flags of ``export.py``."""

    weights: str = option("", "weights, ours or the original's; default: best.pt of the latest run")
    format: tuple[str, ...] = option(("onnx",), "formats to write: weights (re-parameterized, ours), original (its "
                                     "layout), torchscript, onnx, openvino, tensorrt")
    cfg: str | None = option(None, "model, for weights that hold no definition of their own")
    img_size: tuple[int, ...] | None = option(None, "height and width of the network input (one number: square); "
                                              "default: that of the weights", low=32)
    batch_size: int = option(1, "batch of the exported graph", low=1)
    dynamic_batch: bool = option(False, "a graph for any batch")
    dynamic: bool = option(False, "a graph for any batch and size")
    head: Literal["decoded", "raw", "end2end"] = option(
        "decoded", "what the graph gives: boxes and scores of all rows; the logits of the levels; or detections, "
        "suppressed in the graph")
    conf_thres: float = option(0.25, "least score of --head end2end", low=0, high=1)
    iou_thres: float = option(0.45, "largest IoU of two detections of one class, of --head end2end", low=0, high=1)
    max_det: int = option(100, "detections of --head end2end", low=1)
    fp16: bool = option(False, "weights in float16, inputs and outputs in float32 (not of weights and original)")
    with_preprocess: bool = option(False, "the graph takes uint8 [B, H, W, 3], letterboxed, instead of floats in 0..1")
    source: str = option("", "pictures for the comparison with PyTorch; default: those of the data set's validation "
                         "split")
    output: str = option("", "folder of the written files; default: that of the weights")
    verbose: bool = option(False, "tracebacks and debug messages")


@dataclass(frozen=True)
class ModelsOptions:
    """Flags of ``yolov7 models``."""

    cfg: str | None = option(None, "one model, node by node: a shipped name or a YAML file; default: a table of all")
    scale: str | None = option(None, "the model that results when this one is scaled", metavar="CFG")
    depth: float | None = option(None, "factor on the depth of --scale; default: 1", low=0.01, high=16)
    width: float | None = option(None, "factor on its widths; default: (1 + depth) / 2", low=0.01, high=16)
    hidden_width: float | None = option(None, "factor on the widths inside its blocks; default: 1", low=0.01, high=16)
    img_size: int | None = option(None, "side of the network input; default: the model's nominal size", low=32)
    num_classes: int = option(80, "classes of the head", low=1)
    deploy: bool = option(False, "the nodes of the deployed form")
    picture: str = option("", "also draw the graph: a PNG, PDF or SVG file")
    output: str = option("", "also write the model as YAML, scaled and written out")
    verbose: bool = option(False, "tracebacks and debug messages")


@dataclass(frozen=True)
class ConvertOptions:
    """Flags of ``yolov7 data convert``."""

    data: str = option("", "data set: a YAML file, a shipped name, or a folder in COCO layout")
    to: Literal["yolo", "coco"] | None = option(None, "format to write: yolo (label files) or coco (JSON)")
    output: str = option("", "folder to write, new or empty")
    splits: tuple[str, ...] = option((), "splits to write; default: all that the data set has")
    boxes: bool = option(False, "write the boxes only; a polygon in a label file stands for its own box, which may "
                                "differ from the object's")
    copy: bool = option(False, "copy the pictures; default: hard links where possible, else copies")
    link: bool = option(False, "hard links only: an error where they are impossible")
    verbose: bool = option(False, "tracebacks and debug messages")


@dataclass(frozen=True)
class AnchorsOptions:
    """Flags of ``yolov7 data anchors``."""

    data: str = option("shapes", "data set: a YAML file, a shipped name, or a folder in COCO layout")
    cfg: str = option("yolov7-tiny", "model: a shipped name or a YAML file")
    img_size: int | None = option(None, "side of the network input in training; default: the data set's settings for "
                                  "the model, then the model's", low=32)
    generations: int = option(1000, "random changes that are tried after k-means", low=0)
    seed: int = option(0, "seed of k-means and of the changes", low=0)
    output: str = option("", "also write the model with the fitted anchors as YAML")
    verbose: bool = option(False, "tracebacks and debug messages")


@dataclass(frozen=True)
class SplitConfig:
    """One split of a data set as COCO JSON."""

    images: str
    annotations: str


Split = SplitConfig | str | tuple[str, ...]


@dataclass(frozen=True)
class RunSettings:
    """What a data set suggests for one model, where no flag says otherwise."""

    epochs: int | None = None
    img_size: tuple[int, ...] | None = None
    batch_size: int | None = None
    nominal_batch: int | None = None
    hyp: str | None = None
    set: tuple[str, ...] = ()  # overrides of the recipe, unless --hyp names another one


@dataclass(frozen=True)
class DataConfig:
    """A data-set YAML: the original's keys, or COCO JSON files (``train: {images: ..., annotations: ...}``)."""

    train: Split | None = None
    val: Split | None = None
    test: Split | None = None
    nc: int | None = None
    names: tuple[str, ...] | dict[int, str] | None = None
    path: str | tuple[str, ...] | None = None  # root of relative paths; of several, the first that exists
    download: str | None = None  # the original's key: shown when pictures are missing, never executed
    generate: Literal["shapes"] | None = None  # built-in set, made on first use in `path` below the working directory
    settings: dict[str, RunSettings] = field(default_factory=dict)


def read_data_config(path: str | Path) -> DataConfig:
    """Read a data-set YAML strictly; paths stay as written (see `yolov7.data`)."""
    return from_mapping(DataConfig, read_yaml(path), str(path))

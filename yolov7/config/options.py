"""Options of the commands but train's: a flag is a field, with its type, default, limits and help.

Parts that several commands share stand first. The settings of a run are `yolov7.engine.run_config.RunConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from yolov7.config.schema import option

Precision = Literal["auto", "fp32", "bf16", "fp16"]
MaskMode = Literal["low", "upsampled", "fine", "soft"]
MaskScores = Literal["all", "kept", "none"]
TrackerName = Literal["ocsort", "bytetrack", "botsort", "sort"]
MAX_CLASSES = 100_000
MAX_SIDE = 32_768  # pixels of a network input
MAX_COUNT = 1_000_000  # of epochs, detections, attempts: more than anybody means
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class OutputFolder:
    """Where results go: a new folder ``project/name``."""

    project: str = option("runs", "results are folders below this one", group="run and output")
    name: str = option("exp", "name of the result; a number is added where it exists", group="run and output")
    exist_ok: bool = option(False, "write into the folder of an earlier result of this name", group="run and output")


@dataclass(frozen=True)
class NetworkOptions:
    """How a network is to be run."""

    cfg: str | None = option(None, "model, for weights that hold no definition of their own", group="model and data")
    precision: Precision = option("auto", "number format of the network; auto: half precision where the device has it "
                                  "natively", group="device and speed")
    half_decode: bool = option(False, "decode boxes in half precision, as the reference implementation does on GPUs "
                               "(fp16 only)", group="device and speed")
    augment: bool = option(False, "test-time augmentation: each image at three sizes, one of them mirrored",
                           group="detections")
    compile: bool = option(False, "compile the network of weights: half a minute at the start, faster images then",
                           group="device and speed")
    fast: bool = option(False, "on an NVIDIA GPU: the network as a CUDA graph, bias and activation as one kernel "
                        "(Triton), the letterbox of detect on the device (not measured yet)",
                        group="device and speed")
    weights: tuple[str, ...] = option((), "weights, ours or the reference implementation's, or an exported file; "
                                      "several are an ensemble; default: best.pt of the latest run",
                                      group="model and data")
    device: str = option("", "cpu, 0, cuda:0, mps; default: the first accelerator, else the CPU",
                         group="device and speed")


@dataclass(frozen=True)
class NMSFlags:
    """Which detections are kept."""

    conf_thres: float = option(0.25, "minimum score", low=0, high=1, group="detections")
    iou_thres: float = option(0.45, "maximum IoU of two detections of one class", low=0, high=1, group="detections")
    max_det: int = option(300, "maximum number of detections in an image", low=1, most=MAX_COUNT, group="detections")
    masks: MaskMode | None = option(None, "how masks come to the image's pixels: low, cells of 4 x 4 pixels of the "
                                    "network input; upsampled, those enlarged; fine, enlarged, then cropped; soft, "
                                    "never rounded on the way, the most exact; default as published: upsampled to "
                                    "detect, fine to score", group="detections")
    mask_scores: MaskScores | None = option(
        None, "of models like yolov7-mask, whose masks count in the scores: all, those of every candidate before NMS; "
        "kept, those of what NMS keeps, much faster; none; default: kept, or all where the "
        "network itself says how good they are", group="detections")


@dataclass(frozen=True)
class TileFlags:
    """Large images in parts."""

    tile: int | None = option(None, "look at images in tiles of so many pixels a side, and at the whole of them: for "
                              "small objects in large images; each tile is scaled to the size of the network", low=32,
                              most=MAX_SIDE, group="detections")
    overlap: float = option(0.2, "with --tile: the part of a tile that it shares with its neighbour, at least", low=0,
                            high=0.9, group="detections")


@dataclass(frozen=True)
class TestOptions(OutputFolder, TileFlags, NMSFlags, NetworkOptions):
    """Flags of ``test``."""

    __test__ = False  # not a pytest class

    data: str | None = option(None, "data set; default: the one that the weights were trained on",
                              group="model and data")
    task: Literal["train", "val", "test", "speed", "study", "table10"] = option(
        "val", "split to evaluate; or on the val split: what each stage takes (speed), AP and time at several sizes "
        "(study), half and full precision at IoU 0.65 and 0.70 as in table 10 of the paper (table10); speed and study "
        "take several weights one after the other", group="what is measured")
    batch_size: int = option(32, "images in a batch", low=1, most=MAX_COUNT, group="device and speed")
    img_size: int | None = option(None, "long side of the network input; default: that of the weights", low=32,
                                  most=MAX_SIDE, group="model and data")
    conf_thres: float = option(0.001, "minimum score", low=0, high=1, group="detections")
    iou_thres: float = option(0.65, "maximum IoU of two detections of one class", low=0, high=1, group="detections")
    sizes: tuple[int, ...] = option(tuple(range(256, 1537, 128)), "sizes of --task study", low=32, most=MAX_SIDE,
                                    group="what is measured")
    metric: Literal["coco", "v7"] = option("coco", "the official COCO score, or also the metric of the reference "
                                           "implementation", group="what is measured")
    report: bool = option(False, "also write a page, report.html: curves, kinds of errors and what they cost, "
                          "confusion with examples, worst images, calibration", group="what is written")
    workers: int | None = option(None, "loader processes, never more than cores; default: the cores that the process "
                                 "may use", low=0, most=MAX_COUNT, group="device and speed")
    classes: tuple[str, ...] | None = option(None, "score these classes only (numbers or names); default: those "
                                             "that the weights know", group="what is measured")
    single_cls: bool = option(False, "take all classes as one; weights of ours that were trained so say it themselves",
                              group="what is measured")
    project: str = option("runs/test", "results are folders below this one", group="run and output")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")


@dataclass(frozen=True)
class SpeedOptions(TestOptions):
    """Flags of ``speed``: those of ``test`` that matter here, and what is measured."""

    task: Literal["speed", "study", "table10"] = option(  # fewer than in test
        "speed", "what each stage takes (speed), AP and time at several sizes (study), half and full precision at IoU "
        "0.65 and 0.70 as in table 10 of the paper (table10)", group="what is measured")
    report: bool = option(False, "of evaluations alone", flag=False)
    tile: int | None = option(None, "of evaluations alone", flag=False)
    overlap: float = option(0.2, "of evaluations alone", flag=False)


@dataclass(frozen=True)
class DetectOptions(OutputFolder, TileFlags, NMSFlags, NetworkOptions):
    """Flags of ``detect``."""

    source: str = option("", "image or its address (https://...), video, folder (not those in it), glob, camera (its "
                         "number), stream (rtsp://, rtmp://, http://, ...), or a text file with one of these a line",
                         group="model and data")
    batch_size: int = option(1, "images or frames read together, and run together where their shapes allow; of "
                             "streams always the newest frame of each", low=1, most=MAX_COUNT, group="device and speed")
    img_size: int | None = option(None, "long side of the network input; default: that of the weights", low=32,
                                  most=MAX_SIDE, group="model and data")
    classes: tuple[str, ...] | None = option(None, "keep only these classes (numbers or names)", group="detections")
    agnostic_nms: bool = option(False, "NMS across classes", group="detections")
    track: TrackerName | None = option(
        None, "follow objects from frame to frame: every detection gets a number, which all that is written has",
        nargs="?", const="ocsort", group="detections")
    track_buffer: float = option(2.0, "with --track: seconds that an object is remembered which is not seen", low=0,
                                 high=600, group="detections")
    save_txt: bool = option(False, "also write one text file an image: class cx cy w h, normalised; with masks a "
                            "polygon instead of the box, with key points x y v of each behind it",
                            group="what is written")
    save_conf: bool = option(False, "add the score to the text files", group="what is written")
    save_json: bool = option(False, "also write detections.json: a list with one object a frame",
                             group="what is written")
    save_jsonl: bool = option(False, "also write detections.jsonl: the same, one line a frame as it comes",
                              group="what is written")
    save_coco: bool = option(False, "also write predictions.json: results as COCO has them", group="what is written")
    save_csv: bool = option(False, "also write detections.csv: one line a detection", group="what is written")
    save_mot: bool = option(False, "with --track: also write mot/NAME.txt of each video, in the format of MOT "
                            "Challenge", group="what is written")
    save_crop: bool = option(False, "also write an image of every detection, in a folder a class",
                             group="what is written")
    crop_masks: bool = option(False, "with --save-crop: PNG images that are transparent outside of the object's mask",
                              group="what is written")
    round_boxes: bool = option(False, "boxes in whole pixels, as the reference implementation writes them",
                               group="what is written")
    nosave: bool = option(False, "write no images or videos", group="what is written")
    view_img: bool = option(False, "show what is found in a window, where there is a screen (q ends the run)",
                            group="what is written")
    reconnects: int = option(10, "attempts in a row to reach a stream that has dropped, before the run ends", low=0,
                             most=MAX_COUNT, group="run and output")
    project: str = option("runs/detect", "results are folders below this one", group="run and output")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")


@dataclass(frozen=True)
class ExportOptions:
    """Flags of ``export.py``."""

    weights: str = option("", "weights, ours or the reference implementation's; default: best.pt of the latest run",
                          group="model and data")
    format: tuple[str, ...] = option(("onnx",), "formats to write: weights (re-parameterized, ours), original (the "
                                     "reference implementation's layout), torchscript, onnx, openvino, tensorrt",
                                     group="graph")
    cfg: str | None = option(None, "model, for weights that hold no definition of their own", group="model and data")
    img_size: tuple[int, ...] | None = option(None, "height and width of the network input (one number: square); "
                                              "default: that of the weights", low=32, most=MAX_SIDE,
                                              group="model and data")
    batch_size: int = option(1, "batch of the exported graph", low=1, most=MAX_COUNT, group="graph")
    dynamic_batch: bool = option(False, "a graph for any batch", group="graph")
    dynamic: bool = option(False, "a graph for any batch and size", group="graph")
    head: Literal["decoded", "raw", "end2end"] = option(
        "decoded", "outputs of the graph: boxes and scores of all rows; the logits of the levels; or detections after "
        "NMS in the graph", group="graph")
    conf_thres: float = option(0.25, "minimum score, of --head end2end", low=0, high=1, group="graph")
    iou_thres: float = option(0.45, "maximum IoU of two detections of one class, of --head end2end", low=0, high=1,
                              group="graph")
    max_det: int = option(100, "maximum number of detections in an image, of --head end2end", low=1, most=MAX_COUNT,
                          group="graph")
    masks: Literal["low", "full", "none"] = option(
        "low", "masks that --head end2end gives, of models of instance segmentation: probabilities at a quarter of the "
        "network input (low), 0 and 1 at its size (full), or none", group="graph")
    fp16: bool = option(False, "weights in float16, inputs and outputs in float32 (not of weights and original)",
                        group="graph")
    with_preprocess: bool = option(False, "the graph takes uint8 [B, H, W, 3], letterboxed, instead of floats in 0..1",
                                   group="graph")
    source: str = option("", "images for the comparison with PyTorch; default: the data set's validation split",
                         group="run and output")
    output: str = option("", "folder of the written files; default: that of the weights", group="run and output")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")


@dataclass(frozen=True)
class ModelsOptions:
    """Flags of ``yolov7 models``."""

    cfg: str | None = option(None, "one model, node by node: a shipped name or a YAML file; default: a table of all",
                             group="model and data")
    scale: str | None = option(None, "the model that results when this one is scaled", metavar="CFG", group="scaling")
    depth: float | None = option(None, "factor on the depth of --scale; default: 1", low=0.01, high=16, group="scaling")
    width: float | None = option(None, "factor on its widths; default: (1 + depth) / 2", low=0.01, high=16,
                                 group="scaling")
    hidden_width: float | None = option(None, "factor on the widths inside its blocks; default: 1", low=0.01, high=16,
                                        group="scaling")
    img_size: int | None = option(None, "side of the network input; default: the model's nominal size", low=32,
                                  most=MAX_SIDE, group="model and data")
    num_classes: int | None = option(None, "classes of the head; default: 80, for key points 1", low=1,
                                     most=MAX_CLASSES, group="model and data")
    deploy: bool = option(False, "the nodes of the deployed form", group="model and data")
    picture: str = option("", "also draw the graph: a PNG, PDF or SVG file", group="what is written")
    output: str = option("", "also write the model as YAML, scaled and written out", group="what is written")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")


@dataclass(frozen=True)
class RecipeOptions:
    """Flags of ``yolov7 recipe``."""

    hyp: str = option("p5", "recipe: a shipped name or a YAML file", group="model and data")
    find: str = option("", "only keys with this word in their name or meaning", group="what is written")
    diff: str = option("", "only what another recipe has otherwise, beside its values: a shipped name or a YAML file",
                       metavar="HYP", group="what is written")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")


@dataclass(frozen=True)
class CheckOptions:
    """Flags of ``yolov7 data check``."""

    data: str = option("", "data set: a YAML or .data file, a shipped name, or a folder", group="model and data")
    report: str = option("", "also write a page with charts, examples and samples: an HTML file",
                         group="what is written")
    cfg: str | None = option(None, "model whose size and anchors the page shows objects beside; default: yolov7-tiny",
                             group="model and data")
    img_size: int | None = option(None, "side of the network input of the page; default: the data set's settings for "
                                  "the model, then the model's", low=32, most=MAX_SIDE, group="model and data")
    all: bool = option(False, "show every fault, not only the first ones", group="run and output")
    decode: bool = option(True, "decode every image, which finds damaged ones and those that stand in two splits",
                          group="reading")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")


@dataclass(frozen=True)
class ConvertOptions:
    """Flags of ``yolov7 data convert``."""

    data: str = option("", "data set: a YAML file, a shipped name, or a folder in COCO layout; with --from the folder "
                           "or the file of the annotations", group="model and data")
    from_: Literal["voc", "labelme", "via", "csv", "supervisely", "createml"] | None = option(
        None, "format of another tool that is read: voc (Pascal VOC), labelme, via (VGG Image Annotator), csv (Open "
        "Images, TensorFlow, keras-retinanet), supervisely, createml; default: what train.py reads",
        group="model and data")
    to: Literal["yolo", "coco"] | None = option(None, "format to write: yolo (label files) or coco (JSON); default "
                                                      "with --from: yolo", group="model and data")
    output: str = option("", "folder to write, new or empty", group="model and data")
    splits: tuple[str, ...] = option((), "splits to write; default: all that the data set has", group="what is written")
    images: str = option("", "with --from: folder of the images; default: that of the annotations, and those in it",
                         group="reading")
    names: tuple[str, ...] | None = option(None, "with --from: the classes in their order; default: the order that the "
                                                 "format lists them in, else sorted", group="reading")
    attribute: str | None = option(None, "with --from via: the attribute of regions that is their class",
                                   group="reading")
    first_pixel: int | None = option(None, "with --from voc: the number of the first pixel, 1 as in the devkit or 0; "
                                           "default: 0 where a corner is 0, else 1", low=0, high=1, group="reading")
    background: bool = option(False, "with --from: images that no annotation names are images without objects; "
                                     "default: they are left out", group="reading")
    val_fraction: float = option(0.2, "with --from: the part of the training images that becomes val where the data "
                                      "has no val; 0: none", low=0, high=0.9, group="reading")
    seed: int = option(0, "with --from: seed of that choice", low=0, group="reading")
    boxes: bool = option(False, "write the boxes only; a polygon in a label file stands for its own box, which may "
                                "differ from the object's", group="what is written")
    polygons: bool = option(False, "write polygons, also where objects have key points: a row of a label file holds "
                                   "one or the other", group="what is written")
    copy: bool = option(False, "copy the images; default: hard links where possible, else copies",
                        group="what is written")
    link: bool = option(False, "hard links only: an error where they are impossible", group="what is written")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")


@dataclass(frozen=True)
class ShardOptions:
    """Flags of ``yolov7 data shard``."""

    data: str = option("", "data set: a YAML file, a shipped name, or a folder in COCO layout; with --check the folder "
                           "that was written", group="model and data")
    output: str = option("", "folder to write, new or empty", group="model and data")
    splits: tuple[str, ...] = option((), "splits to write; default: all that the data set has", group="what is written")
    images: int = option(2000, "images in a tar file", low=1, most=100_000, group="what is written")
    check: bool = option(False, "write nothing: read every byte of the tar files of --data and compare them with their "
                                "lists", group="reading")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")


@dataclass(frozen=True)
class AnchorsOptions:
    """Flags of ``yolov7 data anchors``."""

    data: str = option("shapes", "data set: a YAML file, a shipped name, or a folder in COCO layout",
                       group="model and data")
    cfg: str = option("yolov7-tiny", "model: a shipped name or a YAML file", group="model and data")
    img_size: int | None = option(None, "side of the network input in training; default: the data set's settings for "
                                  "the model, then the model's", low=32, most=MAX_SIDE, group="model and data")
    generations: int = option(1000, "random changes that are tried after k-means", low=0, most=MAX_COUNT,
                              group="schedule and batch")
    seed: int = option(0, "seed of k-means and of the changes", low=0, most=MAX_SEED, group="schedule and batch")
    output: str = option("", "also write the model with the fitted anchors as YAML", group="run and output")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")

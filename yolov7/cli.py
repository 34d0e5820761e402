"""The commands. Heavy imports stand inside, so that ``--help`` answers at once."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from yolov7 import __version__
from yolov7.config import InputError, nearest, parse_arguments
from yolov7.options import (
    AnchorsOptions,
    ConvertOptions,
    DetectOptions,
    ExportOptions,
    ModelsOptions,
    TestOptions,
    TrainOptions,
)

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def train(options: TrainOptions) -> int:
    """Train a detector on a data set, evaluate it every epoch, keep the best weights."""
    from yolov7.engine import run

    run.train(options)
    return 0


def test(options: TestOptions) -> int:
    """Evaluate weights: the 12 COCO numbers, a table per class, predictions.json, curves, pictures; or time them."""
    from yolov7.engine import testing, timing

    timing.TASKS.get(options.task, testing.test)(options)
    return 0


def detect(options: DetectOptions) -> int:
    """Detect in pictures, videos, cameras and streams; writes pictures and videos, and text, JSON, CSV, crops."""
    from yolov7.data.streams import StreamError
    from yolov7.engine import checkpoint
    from yolov7.engine.device import own_device
    from yolov7.inference.detect import detect as run_detection
    from yolov7.inference.loading import NetworkOptions, load_network, usual_device

    if not options.source:
        raise InputError("--source is missing; accepted: a picture, video, folder, glob, camera or stream")
    how = NetworkOptions.of_flags(options)
    paths = checkpoint.find_weights(options.weights)
    network = load_network(paths, own_device(usual_device(paths, options.device)), how)
    folder = partial(checkpoint.new_folder, options.project, options.name, options.exist_ok)
    try:
        run_detection(options, network, folder)
    except StreamError as error:
        return _fail(str(error), FAILED, options.verbose)
    return 0


def export(options: ExportOptions) -> int:
    """Write weights for deployment, TorchScript, ONNX, OpenVINO, TensorRT; each is run and compared with PyTorch."""
    from yolov7.engine import checkpoint
    from yolov7.export.run import export as run_export

    return 0 if run_export(options, checkpoint.find_best(options.weights)) else FAILED


def models(options: ModelsOptions) -> int:
    """Show all models beside the paper's figures; one model node by node; or what scaling makes of one."""
    from yolov7.model.show import show

    show(options)
    return 0


def convert(options: ConvertOptions) -> int:
    """Write a data set as YOLO txt or as COCO JSON, with the file that train.py reads."""
    from yolov7.data.convert import convert as run_conversion

    run_conversion(options)
    return 0


def anchors(options: AnchorsOptions) -> int:
    """Show how well a model's anchors fit a data set, beside fitted ones; writes the model with those."""
    from yolov7.engine.anchors import show_anchors

    show_anchors(options)
    return 0


Command = tuple[type[Any], Callable[[Any], int]]
COMMANDS: dict[str, Command] = {
    "train": (TrainOptions, train),
    "test": (TestOptions, test),
    "detect": (DetectOptions, detect),
    "export": (ExportOptions, export),
    "models": (ModelsOptions, models),
    "data convert": (ConvertOptions, convert),
    "data anchors": (AnchorsOptions, anchors),
}
GROUPS = dict.fromkeys(name.split()[0] for name in COMMANDS if " " in name)  # commands of two words, by the first


def main(arguments: Sequence[str] | None = None) -> int:
    """``yolov7 train|test|detect|export|models|data ...``: returns 0, 2 for bad input, 1 for a failed run."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        return _list_commands(COMMANDS)
    if name == "--version":
        _say(f"yolov7 {__version__}")
        return 0
    if name in GROUPS:
        members = {command: entry for command, entry in COMMANDS.items() if command.startswith(f"{name} ")}
        if arguments[1:2] in (["-h"], ["--help"]):
            return _list_commands(members)
        name = " ".join(arguments[:2])
        if name not in members:
            return _unknown(name, members)
    elif name not in COMMANDS:
        return _unknown(name, dict.fromkeys(command.split()[0] for command in COMMANDS))
    return run_command(name, arguments[len(name.split()):], f"yolov7 {name}")


def _list_commands(commands: dict[str, Command]) -> int:
    names = list(dict.fromkeys(command.split()[0] for command in commands))
    rows = "\n".join(f"  {command:13} {function.__doc__}" for command, (_, function) in commands.items())
    usage = "{" + ",".join(names) + "}" if len(names) > 1 else names[0]
    _say(f"usage: yolov7 {usage} ...\n\n{rows}\n\nyolov7 COMMAND --help shows the flags of a command.")
    return 0


def _unknown(name: str, accepted: Iterable[str]) -> int:
    found = f"{name!r} is half a command" if name in GROUPS else f"unknown command {name!r}"
    return _fail(f"{found}; accepted: {', '.join(accepted)}{nearest(name, accepted)}", BAD_INPUT)


def run_command(name: str, arguments: Sequence[str], program: str) -> int:
    """One command with its flags; faults become one sentence, with the traceback under ``--verbose``."""
    options_type, function = COMMANDS[name]
    verbose = "--verbose" in arguments
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.raiseExceptions = verbose  # a reader that goes away (`| head`) is no news
    rank = os.environ.get("RANK", "0")  # of several processes only the first one talks
    logging.getLogger("yolov7").setLevel(logging.DEBUG if verbose else logging.INFO if rank == "0" else logging.ERROR)
    try:
        return function(parse_arguments(options_type, arguments, program, str(function.__doc__)))
    except InputError as error:
        return _fail(str(error), BAD_INPUT, verbose)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", getattr(interrupt, "code", INTERRUPTED))
    except Exception as error:
        hint = "" if verbose else " (--verbose shows where)"
        return _fail(f"{type(error).__name__}: {error}{hint}", FAILED, verbose)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _fail(message: str, code: int, verbose: bool = False) -> int:
    if verbose:
        traceback.print_exc()
    process = os.environ.get("RANK", "0")
    sys.stderr.write(f"error: {f'process {process}: ' if process != '0' else ''}{message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

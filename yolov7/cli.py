"""The commands. Heavy imports stand inside, so that ``--help`` answers at once."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from yolov7 import __version__
from yolov7.config import InputError, nearest, parse_arguments
from yolov7.options import DetectOptions, ExportOptions, ModelsOptions, TestOptions, TrainOptions

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def train(options: TrainOptions) -> int:
    """Train a detector on a data set, evaluate it every epoch, keep the best weights."""
    from yolov7.engine import run

    run.train(options)
    return 0


def test(options: TestOptions) -> int:
    """Evaluate weights: the 12 COCO numbers, a table per class, predictions.json."""
    from yolov7.engine import run

    run.test(options)
    return 0


def detect(options: DetectOptions) -> int:
    """Detect in pictures, folders, globs and videos; writes pictures, and text and JSON on request."""
    from yolov7.engine import checkpoint
    from yolov7.engine.device import select_device
    from yolov7.inference.detect import detect as run_detection
    from yolov7.model.weights import load_model

    if not options.source:
        raise InputError("--source is missing; accepted: a picture, a folder, a glob or a video")
    device = select_device(options.device)
    loaded = load_model(checkpoint.find_best(options.weights), options.cfg)
    folder = partial(checkpoint.new_folder, options.project, options.name, options.exist_ok)
    run_detection(options, loaded, device, folder)
    return 0


def export(options: ExportOptions) -> int:
    """Write re-parameterized weights and ONNX, each compared with PyTorch on a real picture."""
    from yolov7.engine import checkpoint
    from yolov7.export.run import export as run_export

    return 0 if run_export(options, checkpoint.find_best(options.weights)) else FAILED


def models(options: ModelsOptions) -> int:
    """Show all models beside the paper's figures; one model node by node; or what scaling makes of one."""
    from yolov7.model.show import show

    show(options)
    return 0


Command = tuple[type[Any], Callable[[Any], int]]
COMMANDS: dict[str, Command] = {
    "train": (TrainOptions, train),
    "test": (TestOptions, test),
    "detect": (DetectOptions, detect),
    "export": (ExportOptions, export),
    "models": (ModelsOptions, models),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """``yolov7 train|test|detect|export|models ...``: returns 0, 2 for bad input, 1 for a failed run."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        _say("usage: yolov7 {" + ",".join(COMMANDS) + "} ...\n\n" + "\n".join(
            f"  {command:8} {function.__doc__}" for command, (_, function) in COMMANDS.items()
        ) + "\n\nyolov7 COMMAND --help shows the flags of a command.")
        return 0
    if name == "--version":
        _say(f"yolov7 {__version__}")
        return 0
    if name not in COMMANDS:
        return _fail(f"unknown command {name!r}; accepted: {', '.join(COMMANDS)}{nearest(name, COMMANDS)}", BAD_INPUT)
    return run_command(name, arguments[1:], f"yolov7 {name}")


def run_command(name: str, arguments: Sequence[str], program: str) -> int:
    """One command with its flags; faults become one sentence, with the traceback under ``--verbose``."""
    options_type, function = COMMANDS[name]
    verbose = "--verbose" in arguments
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.raiseExceptions = verbose  # a reader that goes away (`| head`) is no news
    logging.getLogger("yolov7").setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        return function(parse_arguments(options_type, arguments, program, str(function.__doc__)))
    except InputError as error:
        return _fail(str(error), BAD_INPUT, verbose)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:
        hint = "" if verbose else " (--verbose shows where)"
        return _fail(f"{type(error).__name__}: {error}{hint}", FAILED, verbose)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _fail(message: str, code: int, verbose: bool = False) -> int:
    if verbose:
        traceback.print_exc()
    sys.stderr.write(f"error: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

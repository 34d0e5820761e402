"""``yolov7 COMMAND``: which command is meant, and what becomes of its faults."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Sequence

from yolov7 import __version__
from yolov7.commands.table import COMMANDS, EXAMPLES, FIRST, Command, summary
from yolov7.config import InputError, RunError, nearest, parse_arguments
from yolov7.config.help import examples_text, wrapped
from yolov7.config.messages import LogFormatter, shown_message, visible, without_secrets
from yolov7.config.program import command as command_name
from yolov7.config.program import inside_a_command

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130

GROUPS = dict.fromkeys(name.split()[0] for name in COMMANDS if " " in name)  # commands of two words, by the first


@inside_a_command()
def main(arguments: Sequence[str] | None = None) -> int:
    """``yolov7 train|test|detect|export|models|recipe|data ...``: returns 0, 2 for bad input, 1 for a failed run."""
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
    called = command_name("").rstrip()
    rows = "\n".join(wrapped(summary(name), " " * 16, f"  {name:13} ") for name in commands)
    first = f"\n\n{examples_text(called, FIRST)}" if commands is COMMANDS else ""
    _say(f"{wrapped(f'usage: {called} COMMAND [flags]')}\n\n{rows}{first}\n\n"
         f"{called} COMMAND --help shows the flags of a command.")
    return 0


def _unknown(name: str, accepted: Iterable[str]) -> int:
    found = f"{name!r} is an incomplete command" if name in GROUPS else f"unknown command {name!r}"
    return _fail(f"{found}; accepted: {', '.join(accepted)}{nearest(name, accepted)}", BAD_INPUT)


@inside_a_command()
def run_command(name: str, arguments: Sequence[str], program: str) -> int:
    """One command with its flags; faults become one sentence, with the traceback under ``--verbose``."""
    options_type, function = COMMANDS[name]
    verbose = "--verbose" in arguments
    _set_up_log(verbose)
    try:
        options = parse_arguments(options_type, arguments, program, summary(name), command_name(name), EXAMPLES[name])
        return _exit_code(function(options))
    except InputError as error:
        return _fail(str(error), BAD_INPUT, verbose)
    except RunError as error:
        return _fail(str(error), FAILED, verbose)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", getattr(interrupt, "code", INTERRUPTED))
    except Exception as error:
        if isinstance(error, OSError) and error.filename and error.strerror:  # a disk's fault: what and where
            return _fail(f"{os.fsdecode(error.filename)}: {error.strerror}", FAILED, verbose)
        hint = "" if verbose else " (--verbose shows where)"
        return _fail(f"{type(error).__name__}: {error}{hint}", FAILED, verbose)


def _exit_code(result: object) -> int:
    """Of what a command gives: 0, unless it says otherwise; its first error is an `InputError`."""
    if errors := getattr(result, "errors", ()):
        raise InputError(errors[0])
    return int(getattr(result, "exit_code", 0))


def _set_up_log(verbose: bool) -> None:
    from yolov7.runtime.progress import LogHandler

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter still gets the line
    handler = LogHandler(sys.stdout)
    handler.setFormatter(LogFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.raiseExceptions = verbose  # a reader that goes away (`| head`) is no news
    rank = os.environ.get("RANK", "0")  # of several processes only the first one talks
    logging.getLogger("yolov7").setLevel(logging.DEBUG if verbose else logging.INFO if rank == "0" else logging.ERROR)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _fail(message: str, code: int, verbose: bool = False) -> int:
    if verbose:
        sys.stderr.write(visible(without_secrets(traceback.format_exc())))
    process = os.environ.get("RANK", "0")
    sys.stderr.write(f"error: {f'process {process}: ' if process != '0' else ''}{shown_message(message)}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

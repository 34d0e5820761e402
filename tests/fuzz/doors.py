"""Hostile inputs of the other doors: names and kinds of files, lists of sources, flags, arguments of functions."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from random import Random
from typing import Any

from .bench import Bench
from .mutations import TOKENS, YAML_ODD, alias_bomb, mutate_bytes, name_of
from .runner import SECRET, Case

SET_VALUES = (*(text for text in YAML_ODD if len(text) < 30_000), alias_bomb(5), alias_bomb(9), "[1", "0.05", "[]", "")
FILE_NAMES = ("a\x1b[31mb", "a\nb", "a\tb", os.fsdecode(b"\xff\xfe"), "n" * 240, "-rf", "%s%n%d", "a*[b]?", "..", " ",
              "a;b$(c)", "\u202egpj", "con", "\u00e9", "e\u0301", "http:", "0", "a.jpg.txt", "~", "a\rb", "\U0001f600",
              "a'b\"c", "{x}", "\\", "\x9b31m", "\u2028", "a\x07", "#")
ENTRIES = (
    "", "\ufeff", "#", "0", "99", "-1", f"rtsp://admin:{SECRET}#1@127.0.0.1:1/x",
    f"rtsp://127.0.0.1:1/a?user=a&pwd={SECRET}", f"rtsp://u:p/{SECRET}@127.0.0.1:1",
    f"http://127.0.0.1:1/x.mp4?token={SECRET}", f"rtsp://a:[{SECRET}@127.0.0.1:1", "http://127.0.0.1:1/x.mp4", "http://[",
    "http://127.0.0.1:1/x.jpg", "ftp://127.0.0.1/x", "file:///etc/passwd", "rtsp://", "://", "rtsp://127.0.0.1:99999/x",
    "http://127.0.0.1:x/y.mp4", "http://\u2100.test/x.mp4", "x" * 5000, "n" * 256, "/dev/zero", "/dev/null",
    "/dev/stdin", "**", "in/**/*", "[", "in/[", "in", ".", "..", "in/list.txt", "\0", "\x1b[31m", "~",
    "in/picture.jpg", "in/*.jpg", "in/missing.jpg", "\ud800", "9" * 5000, "1" * 40)
KINDS = ("fifo", "zero", "broken", "loop", "folder", "socket", "empty", "null", "full", "tty", "deep", "itself",
         "unreadable")
ODD_WORDS = ("", " ", "-1", "0", "1", "nan", "inf", "-inf", "1e999", "2147483648", "9223372036854775808",
             "18446744073709551616", "9" * 5000, "x", "x" * 5000, "n" * 256, "1_0", "\u0663", "0x10", "64.5", "64",
             "32", "1000000", "100000000", "\x1b[31mred", "a\nb", "\ud800", "\udcff", "/dev/zero", "/dev/null", ".",
             "../../x", "in", "cpu", "cuda:99", "0,1", "cpu:1", "meta", "mps", "fp16", "bf16", "true", "None", "[]",
             "--", "-", "=", "%s", "{}", "~", "all", "onnx", "torchscript", "original", "weights", "yolov7-tiny",
             "shapes", "0.5", "http://127.0.0.1:1/x")
COUNTS = ("--epochs", "--generations")
LEFT_OUT = ("--compile", "--cache", "--workers", "--verbose")  # long when they are right; shows tracebacks


def put_special(kind: str, path: Path) -> None:
    """Something that is no regular file, or no usual one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    targets = {"zero": "/dev/zero", "broken": "missing", "loop": path.name, "null": "/dev/null", "full": "/dev/full",
               "tty": "/dev/tty", "itself": "."}
    if kind in targets:
        path.symlink_to(targets[kind])
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.open(path.parent, os.O_RDONLY)  # the name of a socket is short
            listener.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)
    elif kind == "deep":
        path.joinpath(*("d" * 20 for _ in range(40))).mkdir(parents=True)
    else:
        path.write_bytes(b"")
        path.chmod(0 if kind == "unreadable" else 0o644)


def make_special(rng: Random, _: Any, bench: Bench) -> Case:
    """Something that is no regular file, in every place where a file is named."""
    kind = rng.choice(KINDS)
    place = rng.choice(("weights.pt", "weights.onnx", "weights.torchscript", "weights.xml", "model.yaml", "recipe.yaml",
                        "data.yaml", "source.jpg", "source.png", "source.mp4", "source.txt", "data/images/0.jpg",
                        "data/labels/0.txt", "data/coco.json", "data/images", "data/labels", "resume", "resume.pt",
                        "list.txt", "data"))
    data = bench.coco() if place == "data/coco.json" else bench.data()
    path = f"in/{place}"
    if place in ("data/images", "data/labels", "data"):
        (bench.folder / path).rename(bench.folder / "in" / "away")
    if place == "list.txt":
        data = bench.data(train=path, val="list.txt", path=".")
    if place.startswith("resume"):
        path = f"out/{place}/weights/last.pt"
    put_special(kind, bench.folder / path)
    train = bench.train
    commands = {"weights": bench.detect(weights=path), "model": train(data, cfg=path),
                "recipe": train(data, "--hyp", path),
                "source": bench.detect(source=path), "resume": ("train", "--resume", path, "--epochs", "2"),
                "data": bench.test(data), "list": bench.test(data)}
    arguments = commands[place.partition("/")[0].partition(".")[0]]
    if place.startswith("data/") and rng.random() < 0.4:
        arguments = rng.choice((train(data), ("data", "convert", "--data", data, "--to", "coco", "--output", "out/c")))
    return Case(arguments, brief=f"{kind} as {place}: {arguments[0]}")


def make_source(rng: Random, _: Any, bench: Bench) -> Case:
    """A source: an odd name of a file or folder, a list, an address."""
    picture = (bench.corpus / "picture.jpg").read_bytes()
    flags = rng.sample(("--save-txt", "--save-json", "--save-csv", "--save-coco", "--save-crop", "--save-jsonl"), 2)
    if rng.random() < 0.45:
        name = rng.choice(FILE_NAMES)
        if rng.random() < 0.3:  # of weights, models, recipes, data sets
            return _odd_name_of_a_file(rng, bench, name)
        path = bench.put(f"files/{name}.jpg", picture)
        if rng.random() < 0.4:
            bench.put(f"files/{rng.choice(FILE_NAMES)}x.jpg", mutate_bytes(rng, picture)[0])
            path = "in/files"
        return Case(bench.detect(*flags, source=path), brief=f"name {name_of(name)}, source {path[:30]!a}")
    bench.put("picture.jpg", picture)
    entries = [rng.choice(ENTRIES) for _ in range(rng.choice((1, 1, 2, 3)))]
    if rng.random() < 0.4:
        source = entries[0]
    else:
        text = rng.choice(("\n", "\r\n", "\r")).join(entries).encode("utf-8", "surrogatepass")
        if rng.random() < 0.2 and text:
            text = mutate_bytes(rng, text.replace(SECRET.encode(), b"x"))[0]
        source = bench.put("list.txt", rng.choice((b"",) * 4 + (b"\xef\xbb\xbf", b"\xff\xfe")) + text)
    return Case(bench.detect("--reconnects", "0", *flags, source=source), brief=f"{source[:20]!a}: {entries!a:.150}")


def _odd_name_of_a_file(rng: Random, bench: Bench, name: str) -> Case:
    kind = rng.choice(("weights", "cfg", "hyp", "data", "image", "name", "project", "class"))
    if kind == "weights":
        arguments = bench.detect(weights=bench.take("best.pt", f"{name}.pt"))
    elif kind == "cfg":
        arguments = ("models", "--cfg", bench.take("micro.yaml", f"{name}.yaml"), "--img-size", "64")
    elif kind == "hyp":
        arguments = bench.train(bench.data(), "--hyp", bench.take("recipe.yaml", f"{name}.yaml"))
    elif kind == "data":
        bench.data()
        os.rename(bench.folder / "in/data.yaml", bench.folder / "in" / f"{name}.yaml")
        arguments = bench.test(f"in/{name}.yaml")
    elif kind == "image":
        arguments = bench.test(bench.data())
        bench.take("picture.jpg", f"data/images/{name}.jpg")
        bench.put(f"data/labels/{name}.txt", "0 0.5 0.5 0.2 0.4\n7 7 7 7 7\n")
    elif kind == "class":
        arguments = bench.train(bench.data(names=[name, *"abcde"]), "--classes", name)
    else:
        place = f"out/{name}" if name != ".." else "out/a"  # results that are asked for elsewhere are no fault
        arguments = (*bench.detect(), f"--{kind}", place if kind == "project" else name)
    return Case(arguments, brief=f"{kind} is called {name_of(name)}")


# --- flags -------------------------------------------------------------------------------------------------------


def flags_of(command: str) -> list[str]:
    """The flags that a command has, as the package declares them."""
    import dataclasses

    from yolov7 import cli

    return ["--" + field.name.replace("_", "-") for field in dataclasses.fields(cli.COMMANDS[command][0])
            if field.metadata.get("flag", True)]


def make_flags(rng: Random, _: Any, bench: Bench) -> Case:
    """One to three flags of a command with odd values, or with none."""
    from yolov7 import cli

    command = rng.choice([name for name in cli.COMMANDS if name != "speed"])
    base = {"train": bench.train, "test": bench.test}
    if command in base:
        arguments = base[command](bench.data())
    elif command == "detect":
        arguments = bench.detect()
    else:
        arguments = (*command.split(), *_usual(command, bench))
    words: list[str] = []
    for _ in range(rng.randint(1, 3)):
        flag = rng.choice([name for name in flags_of(command) if name not in LEFT_OUT])
        values = [rng.choice((*ODD_WORDS, *TOKENS)) for _ in range(rng.choice((0, 1, 1, 1, 1, 2)))]
        if flag in COUNTS:  # what is right, but long, is no fault
            values = [value for value in values if not re.fullmatch(r"\+?[0-9_]+", value)]
        if flag == "--output":  # without a folder the one of the weights is meant, which is no fault
            values = [value or "out" for value in values or ("out",)]
        words += [flag, *values] if rng.random() < 0.9 else [f"{flag}={''.join(values)}"]
    words += rng.choice(((),) * 15 + (("--help",), ("--no-such-flag",), ("\x1b[31m",), ("x" * 5000,)))
    return Case((*arguments, *words), brief=f"{command} " + " ".join(map(name_of, words)), anywhere=True)


def _usual(command: str, bench: Bench) -> tuple[str, ...]:
    if command == "export":
        return ("--weights", bench.at("best.pt"), "--format", "original", "--output", "out", "--img-size", "64",
                "--source", bench.at("picture.jpg"))
    if command == "models":
        return ("--cfg", bench.at("micro.yaml"), "--img-size", "64")
    if command == "recipe":
        return ("--hyp", "tiny")
    if command == "data convert":
        return ("--data", bench.data(), "--to", "yolo", "--output", "out/converted")
    if command == "data anchors":
        return ("--data", bench.data(), "--cfg", bench.at("micro.yaml"), "--generations", "5")
    return ("--data", bench.data())


# --- functions ---------------------------------------------------------------------------------------------------

SCALARS = ("None", "True", "-1", "0", "1", "0.5", "64", "64.5", "2**31", "2**63", "10**5000", "float('nan')",
           "float('inf')", "''", "'x'", "'x' * 5000", "'n' * 300", "'\\0'", "'\\ud800'", "'\\x1b[31m'", "b'x'", "[]",
           "()", "{}", "[None]", "[[]]", "(192, 192)", "'64'", "object()", "len", "1j", "np.float32(0.5)",
           "np.int64(64)", "torch.tensor(0.5)",
           "Path('x')", "np.zeros(3)", "range(3)", "{1, 2}", "'cpu'", "torch.device('cpu')", "lambda: 1", "'0'",
           "10**7", "iter([])")
WEIGHTS = ("[W, W]", "Path(W)", "W.encode()", "{W}", "(W,)", "open(W, 'rb')", "io.BytesIO(open(W, 'rb').read())",
           "[W, 1]", "W + 'x'", "'.'", "'/dev/null'", "[]", "P", "[W] * 50")
IMAGES = ("P.encode()", "Path(P)", "[P, P]", "[]", "[P, None]", "[[P]]", "Image.open(P)", "Image.open(P).convert('L')",
          "Image.open(P).convert('1')", "Image.new('I;16', (9, 9))", "Image.new('F', (9, 9))",
          "Image.new('RGB', (0, 5))", "Image.new('RGB', (1, 1))", "Image.new('RGB', (1, 20000))",
          "Image.new('CMYK', (9, 9))", "np.zeros((9, 9), np.uint8)",
          "np.zeros((9, 9, 4), np.uint8)", "np.zeros((9, 9, 3))", "np.zeros((0, 9, 3), np.uint8)",
          "np.zeros((3, 9, 9), np.uint8)",
          "np.zeros((9, 9, 3), np.uint8)[::-1, ::-1]", "np.zeros((2, 9, 9, 3), np.uint8)", "torch.zeros(3, 64, 64)",
          "torch.zeros(1, 3, 64, 64)", "torch.zeros(0, 3, 64, 64)", "torch.full((3, 9, 9), float('nan'))",
          "torch.zeros(3, 0, 9)", "torch.zeros(4, 9, 9)", "torch.zeros(3, 9, 9, dtype=torch.int64)",
          "torch.zeros(3, 9, 9, requires_grad=True)",
          "torch.zeros(3, 9, 9, device='meta')", "torch.zeros(3, 9, 9).to_sparse()",
          "torch.zeros(3, 9, 9, dtype=torch.complex64)",
          "open(P, 'rb')", "io.BytesIO(open(P, 'rb').read())", "open(P, 'rb').read()", "(p for p in [P])", "'folder/'",
          "'http://127.0.0.1:1/x.jpg'", "'/dev/zero'", "P + '\\0'", "np.zeros((70000, 1, 3), np.uint8)", "np.array(P)",
          "{P: 1}", "np.zeros((9, 9, 3), object)", "torch.zeros(3, 9, 9).half()", "[torch.zeros(3, 9, 9), P]", "W")
PLOTS = ("'out/x.png'", "'out/x.xyz'", "'nodir/x.png'", "''", "'out/'", "'out'", "'out/x'", "Path('out/x.jpg')",
         "b'out/x.png'", "'out/' + 'n' * 300 + '.png'", "'out/a\\0.png'", "'out/\\x1b[31m.png'", "'out/\\ud800.png'",
         "1", "io.BytesIO()", "'/dev/full'",
         "'/dev/null'", "[]", "'out/x.gif'", "'out/x.PNG'", "'out/x.webp'", "'out/x.bmp'", "None", "True")
METHODS = ("found.to_json()", "found.to_pandas()", "repr(found)", "found.boxes", "len(found)")


def make_api(rng: Random, _: Any, bench: Bench) -> Case:
    """A program with one or two odd arguments."""
    loading = {"weights": "W", "device": "'cpu'", "precision": "'fp32'", "augment": "False", "half_decode": "False",
               "cfg": "None"}
    calling = {"images": "P", "conf": "0.01", "iou": "0.45", "classes": "None", "size": "64", "max_det": "9",
               "agnostic": "False"}
    plot, told = "'out/x.png'", []
    for _ in range(rng.choice((1, 1, 2))):
        group = rng.choice(("loading", "calling", "calling", "images", "weights", "plot"))
        if group == "plot":
            plot = rng.choice(PLOTS)
            told.append(f"plot({plot})")
            continue
        target = loading if group in ("loading", "weights") else calling
        name = group if group in target else rng.choice(list(target))
        own = {"images": IMAGES, "weights": WEIGHTS}.get(name, ())
        target[name] = rng.choice((*own, *SCALARS) if rng.random() < 0.8 else SCALARS)
        told.append(f"{name}={target[name]}")
    program = "\n".join((
        "import io", "from pathlib import Path", "import numpy as np", "import torch", "from PIL import Image",
        "import yolov7", f"W, P = {bench.at('best.pt')!r}, {bench.at('picture.jpg')!r}",
        f"model = yolov7.load({_written(loading)})", f"result = model({_written(calling)})",
        "for found in (result if isinstance(result, list) else [result]):",
        f"    found.plot({plot})", f"    {rng.choice(METHODS)}"))
    return Case(program=program, brief="; ".join(told)[:200], anywhere=True)


def _written(values: dict[str, str]) -> str:
    """Arguments of a call, the first without its name."""
    first, *others = values
    return ", ".join([values[first], *(f"{name}={values[name]}" for name in others)])

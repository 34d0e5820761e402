"""The input families: for each, the sound input and what runs a mutated one."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from . import corpus, doors
from .archives import BOMB_SIZE, deflated_bomb, hostile_pickles, mutate_pickle, mutate_zip, unzipped, zipped
from .bench import SIZE, Bench
from .mutations import (
    mutate_bytes,
    mutate_image,
    mutate_json,
    mutate_lines,
    mutate_tree,
    mutate_yaml,
    name_of,
    odd_value,
    yaml_text,
)
from .runner import Case

CLASS_NAMES = (
    "\ud800", "\x1b[31m", "a\nb", "a\tb", "\0", "", " ", "../../x", "a/b", "/", ".", "..", "n" * 300, "y" * 10_000,
    "circle", "-", "con", "\u202e", "e\u0301", "\u4e2d\u6587", "\U0001f600", "\x9b", "%s%n", "=1+1", '"', ",", "'",
    "$(id)", "{x}", "\\", "\r", "\u2028", "\x00a", 5, None, 0.5, True, [], float("nan"), ["x"], {"x": 1})


@dataclass(frozen=True)
class Family:
    """Inputs of one kind: ``corpus`` reads the sound ones, ``make`` puts a hostile one into the folder of a case."""

    name: str
    corpus: Callable[[Path], Any]
    make: Callable[[Random, Any, Bench], Case]

    def case(self, seed: int, sound: Any, bench: Bench) -> Case:
        """The input of this number: always the same one."""
        case = self.make(Random(f"{self.name}:{seed}"), sound, bench)
        return replace(case, arguments=tuple(map(argument, case.arguments)))


def argument(text: str) -> str:
    """As a shell can pass it: bytes without NUL, and no more than the system takes."""
    how = "surrogatepass" if _is_text(text) else "surrogateescape"
    return os.fsdecode(text.replace("\0", "").encode("utf-8", how))[:100_000]


def _is_text(text: str) -> bool:
    """Whether it holds no byte that could not be decoded, as names of files may."""
    return not any("\udc80" <= letter <= "\udcff" for letter in text)


def file_bytes(*names: str) -> Callable[[Path], list[bytes]]:
    """Reads files of the corpus."""
    return lambda folder: [(folder / name).read_bytes() for name in names]


# --- text --------------------------------------------------------------------------------------------------------


def make_definition(rng: Random, sound: Any, bench: Bench) -> Case:
    """A model definition, shown, or trained, or given for weights of the reference implementation."""
    text, told = mutate_yaml(rng, rng.choice(sound))
    command = rng.choice(("models",) * 5 + ("scale", "detect", "train", "anchors"))
    if rng.random() < 0.08:
        nodes, key = sound[0]["nodes"], rng.choice(("depth", "out", "hidden", "kernel", "stride"))
        node = rng.choice([name for name in nodes if key in nodes[name]])
        number = rng.choice((10_000_000, 1 << 31, 1 << 63))
        changed = sound[0] | {"nodes": nodes | {node: nodes[node] | {key: number}}}
        text, told = yaml_text(changed), f"{key} of {node} is {number}"
    path = bench.put("model.yaml", text)
    return Case({"models": ("models", "--cfg", path, *SIZE),
                 "scale": ("models", "--scale", path, "--depth", "0.5", *SIZE),
                 "detect": bench.detect("--cfg", path, weights=bench.at("best-original.pt")),
                 "train": bench.train(bench.data(), cfg=path),
                 "anchors": ("data", "anchors", "--data", bench.data(), "--cfg", path, "--generations", "5")}[command],
                brief=f"{command}: {told}")


def make_data(rng: Random, _: Any, bench: Bench) -> Case:
    """The file of a data set."""
    bench.data()
    split = {"images": "images", "annotations": "coco.json"}
    tree = corpus.DATA | {"nc": 6, "settings": {"micro": {"epochs": 1, "set": ["loss.box=0.1"]}}}
    if rng.random() < 0.3:
        tree |= {"train": split, "val": split}
    text, told = mutate_yaml(rng, tree)
    return _of_data(rng, bench, bench.put("data.yaml", text), told)


def _of_data(rng: Random, bench: Bench, path: str, told: str) -> Case:
    """A data set, evaluated, converted, measured or trained on."""
    command = rng.choice(("test", "test", "test", "yolo", "coco", "anchors", "train"))
    convert = ("data", "convert", "--data", path, "--output", "out/converted", "--to")
    return Case({"test": bench.test(path, *(("--metric", "v7") if rng.random() < 0.2 else ())),
                 "yolo": (*convert, "yolo"), "coco": (*convert, "coco"),
                 "anchors": ("data", "anchors", "--data", path, "--cfg", bench.at("micro.yaml"), "--generations", "5"),
                 "train": bench.train(path)}[command], brief=f"{command}: {told}")


def make_recipe(rng: Random, sound: Any, bench: Bench) -> Case:
    """A recipe; of those that are accepted, one batch."""
    text, told = mutate_yaml(rng, sound)
    return Case(bench.train(bench.data(), "--hyp", bench.put("recipe.yaml", text)), brief=told)


def make_set(rng: Random, sound: Any, bench: Bench) -> Case:
    """Values of ``--set``."""
    words = []
    for _ in range(rng.randint(1, 2)):
        room = rng.choice(list(sound))
        key = f"{room}.{rng.choice(list(sound[room]))}" if isinstance(sound[room], dict) and sound[room] else room
        key = rng.choice((key,) * 12 + ("", ".", "loss", "loss.", "x" * 5000, "loss.box.x", "__class__", "\x1b[31m"))
        words.append(rng.choice(("=",) * 12 + ("", "==", "=\n")).join((key, rng.choice(doors.SET_VALUES))))
    return Case(bench.train(bench.data(), "--set", *words), brief=" ".join(map(name_of, words)))


def make_coco(rng: Random, _: Any, bench: Bench) -> Case:
    """Annotations as COCO JSON."""
    path = bench.coco()
    text, told = mutate_json(rng, corpus.coco())
    bench.put("data/coco.json", text)
    return _of_data(rng, bench, path, told)


def make_labels(rng: Random, _: Any, bench: Bench) -> Case:
    """A label file."""
    path = bench.data()
    text, told = mutate_lines(rng, corpus.LABELS[0])
    bench.put(f"data/labels/{rng.randrange(4)}.txt", text)
    return _of_data(rng, bench, path, told)


# --- images and videos -------------------------------------------------------------------------------------------


def read_images(folder: Path) -> dict[str, bytes]:
    """One of each format."""
    return {name: (folder / f"picture.{name}").read_bytes() for name in corpus.FORMATS}


def make_image(rng: Random, sound: dict[str, bytes], bench: Bench) -> Case:
    """An image with a damaged header or body, as a source or in a data set."""
    kind = rng.choice(list(sound))
    data, told = mutate_image(rng, sound[kind])
    suffix = kind.rpartition(".")[2] if rng.random() < 0.9 else rng.choice(("jpg", "png", "gif", "heic", "mp4"))
    if rng.random() < 0.65:
        path = bench.put(f"odd.{suffix}", data)
        extra = ("--save-crop",) if rng.random() < 0.2 else ()
        return Case(bench.detect("--save-txt", *extra, source=path), brief=f"{kind} as {suffix}: {told}")
    path = bench.data()
    (bench.folder / "in/data/images/0.jpg").unlink()
    bench.put(f"data/images/0.{suffix}", data)
    return _of_data(rng, bench, path, f"{kind} as {suffix}: {told}")


def make_video(rng: Random, sound: list[bytes], bench: Bench) -> Case:
    """A film with damaged bytes."""
    data, told = mutate_bytes(rng, rng.choice(sound))
    suffix = rng.choice(("mp4", "avi", "mkv", "webm"))
    flags = rng.sample(("--save-txt", "--nosave", "--save-json", "--save-csv"), 2)
    return Case(bench.detect(*flags, source=bench.put(f"film.{suffix}", data)), brief=f"{suffix}: {told}")


# --- weights -----------------------------------------------------------------------------------------------------


def read_checkpoint(folder: Path) -> tuple[bytes, Any]:
    """Our weights: bytes, and what is in them."""
    import torch

    return (folder / "best.pt").read_bytes(), torch.load(folder / "best.pt", weights_only=True)


def saved(content: Any) -> bytes:
    """As torch writes it."""
    import torch

    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def hostile_archive(rng: Random, data: bytes, bench: Bench) -> tuple[bytes, str]:
    """A small pickle that asks for much, bare or in an archive; or an archive that unpacks to gigabytes."""
    if rng.random() < 0.15:
        path = bench.corpus / "bomb.zip"
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(deflated_bomb("archive/data.pkl", BOMB_SIZE, {"archive/byteorder": b"little",
                                                                              "archive/version": b"3\n"}))
            os.replace(partial, path)
        return path.read_bytes(), "a deflated data.pkl of 3 GB"
    name, content = rng.choice(list(hostile_pickles().items()))
    if rng.random() < 0.4:
        return content, f"pickle: {name}"
    members = unzipped(data)
    place = next(key for key in members if key.endswith("data.pkl"))
    return zipped(members | {place: content}), f"data.pkl: {name}"


def mutate_archive(rng: Random, data: bytes, bench: Bench) -> tuple[bytes, str]:
    """Damage at each layer of a file of torch: its bytes, its archive, its pickle."""
    kind = rng.random()
    if kind < 0.2:
        return mutate_bytes(rng, data)
    if kind < 0.4:
        return mutate_zip(rng, data)
    if kind < 0.6:
        return hostile_archive(rng, data, bench)
    members = unzipped(data)
    place = next(key for key in members if key.endswith("data.pkl"))
    members[place], told = mutate_pickle(rng, members[place])
    return zipped(members), told


def run_weights(rng: Random, bench: Bench, path: str, told: str, cfg: tuple[str, ...] = ()) -> Case:
    """Weights, detected with, evaluated, trained from."""
    command = rng.choice(("detect",) * 5 + ("test", "train", "api"))
    if command == "api":
        return Case(program=f"import yolov7\nyolov7.load({path!r}, device='cpu', cfg={(cfg or (None,))[-1]!r})"
                            f"({bench.at('picture.jpg')!r}, conf=0.01).plot('out/x.png')", brief=f"api: {told}")
    return Case({"detect": bench.detect(*cfg, weights=path), "test": bench.test(bench.data(), *cfg, weights=path),
                 "train": bench.train(bench.data(), "--weights", path, cfg=bench.at("compat.yaml"))}[command],
                brief=f"{command}: {told}")


def make_checkpoint(rng: Random, sound: tuple[bytes, Any], bench: Bench) -> Case:
    """Our weights: half of them with odd values, half of them damaged."""
    if rng.random() < 0.6:
        content, told = mutate_tree(rng, sound[1], odd_value)
        data = saved(content)
    else:
        data, told = mutate_archive(rng, sound[0], bench)
    return run_weights(rng, bench, bench.put("odd.pt", data), told)


def make_names(rng: Random, sound: Any, bench: Bench) -> Case:
    """Odd names of classes, wherever names are read from, to wherever they are written."""
    tree, (graph, facts) = sound
    odd = rng.choice(CLASS_NAMES)
    names = [odd, *corpus.NAMES[1:]] if rng.random() < 0.3 else [odd] * rng.choice((1, 2, 6, 6, 6))
    kind = rng.choice(("pt",) * 4 + ("onnx", "data", "data", "coco"))
    flags = rng.sample(("--save-txt", "--save-json", "--save-csv", "--save-coco", "--save-crop", "--save-jsonl"), 3)
    if kind == "pt":
        path = bench.put("odd.pt", saved(tree | {"names": names}))
        arguments = rng.choice((bench.detect(*flags, weights=path), bench.detect(*flags, weights=path),
                                bench.test(bench.data(names=names), weights=path)))
    elif kind == "onnx":
        path = bench.put("odd.onnx", with_facts(graph, json.dumps(facts | {"names": names})))
        arguments = bench.detect(*flags, weights=path)
    else:
        path = bench.data(names=names) if kind == "data" else bench.coco()
        categories = [{"id": index, "name": name} for index, name in enumerate(names, 1)]
        bench.put("data/coco.json", json.dumps(corpus.coco() | {"categories": categories}))
        arguments = rng.choice((bench.train(path), ("data", "convert", "--data", path, "--output", "out/c", "--to",
                                                    "coco" if kind == "data" else "yolo")))
    return Case(arguments, brief=f"{kind}, {arguments[0]}: {len(names)} names, first {name_of(odd)}")


def make_reference(rng: Random, sound: list[bytes], bench: Bench) -> Case:
    """A checkpoint of the reference implementation: a pickled module, or a bare state dict."""
    data, told = mutate_archive(rng, rng.choice(sound), bench)
    return run_weights(rng, bench, bench.put("odd.pt", data), told, ("--cfg", bench.at("compat.yaml")))


def make_resume(rng: Random, sound: Any, bench: Bench) -> Case:
    """A run that goes on: its state with odd values or damaged, or its files."""
    tree, data, record = sound
    bench.data()
    run, kind = bench.folder / "out" / "run", rng.random()
    (run / "weights").mkdir(parents=True)
    told = "sound"
    tree = tree | {"config": tree["config"] | {"cfg": bench.at("micro.yaml"), "data": "in/data.yaml"}}
    if kind < 0.7:
        small = {key: value for key, value in tree.items() if key not in ("model", "ema")} if kind < 0.6 else tree
        changed, told = mutate_tree(rng, small, odd_value)
        data = saved(tree | changed if isinstance(changed, dict) and small is not tree and "drop" not in told
                     else changed)
    elif kind < 0.9:
        data, told = mutate_archive(rng, data, bench)
    else:
        data, (record, told) = saved(tree), mutate_lines(rng, record.decode().replace(",", " "))
    (run / "weights" / "last.pt").write_bytes(data)
    (run / "results.csv").write_bytes(record)
    return Case(("train", "--resume", "out/run", "--epochs", "2", "--workers", "0"), brief=told)


def read_run(folder: Path) -> tuple[Any, bytes, bytes]:
    """A run of one epoch: its state, its file, its record."""
    import torch

    path = folder / "run" / "weights" / "last.pt"
    return torch.load(path, weights_only=True), path.read_bytes(), (folder / "run" / "results.csv").read_bytes()


# --- exported files ----------------------------------------------------------------------------------------------


def read_torchscript(folder: Path) -> tuple[bytes, dict[str, bytes]]:
    """An export of ours, and programs of others."""
    data = (folder / "best.torchscript").read_bytes()
    facts = next(content for name, content in unzipped(data).items() if name.endswith("extra/yolov7"))
    return data, corpus.hostile_torchscript(facts.decode())


def make_torchscript(rng: Random, sound: tuple[bytes, dict[str, bytes]], bench: Bench) -> Case:
    """A TorchScript file: damaged, with other facts or other code, or a program that does harm."""
    data, hostile = sound
    members, kind = unzipped(data), rng.random()
    bench.put("victim", b"victim")
    if kind < 0.15:
        told = rng.choice(list(hostile))
        data = hostile[told]
    elif kind < 0.5:
        (place,) = (name for name in members if name.endswith("extra/yolov7"))
        members[place], told = mutate_json(rng, json.loads(members[place]))
        data = zipped(members)
    elif kind < 0.7:
        place = rng.choice([name for name in members if name.endswith(".py")])
        members[place], told = mutate_bytes(rng, members[place])
        data, told = zipped(members), f"{place}: {told}"
    else:
        data, told = mutate_archive(rng, data, bench)
    return Case(bench.detect(weights=bench.put("odd.torchscript", data)), brief=told)


def read_onnx(folder: Path) -> tuple[Any, str]:
    """An export of ours, and its facts."""
    import onnx

    model = onnx.load(str(folder / "best.onnx"))
    return model.SerializeToString(), json.loads(next(p.value for p in model.metadata_props if p.key == "yolov7"))


def with_facts(data: bytes, facts: str) -> bytes:
    """The same graph with another description."""
    import onnx

    model = onnx.load_from_string(data)
    next(entry for entry in model.metadata_props if entry.key == "yolov7").value = facts
    return bytes(model.SerializeToString())


def make_onnx(rng: Random, sound: tuple[bytes, Any], bench: Bench) -> Case:
    """An ONNX file with odd metadata, or with odd bytes."""
    data, facts = sound
    if rng.random() < 0.85:
        text, told = mutate_json(rng, facts)
        data = with_facts(data, text.decode("utf-8", "replace").encode("utf-8", "replace").decode())
    else:
        data, told = mutate_bytes(rng, data)
    return Case(bench.detect(weights=bench.put("odd.onnx", data)), brief=told)


def nothing(_: Path) -> None:
    """For families that make all themselves."""


ALL = {family.name: family for family in (
    Family("definition", lambda folder: [corpus.read_yaml(folder / name) for name in ("micro.yaml", "compat.yaml")],
           make_definition),
    Family("data", nothing, make_data),
    Family("recipe", lambda folder: corpus.read_yaml(folder / "recipe.yaml"), make_recipe),
    Family("set", lambda folder: corpus.read_yaml(folder / "recipe.yaml"), make_set),
    Family("coco", nothing, make_coco),
    Family("labels", nothing, make_labels),
    Family("image", read_images, make_image),
    Family("video", file_bytes("film.mp4", "film.avi"), make_video),
    Family("checkpoint", read_checkpoint, make_checkpoint),
    Family("names", lambda folder: (read_checkpoint(folder)[1], read_onnx(folder)), make_names),
    Family("reference", file_bytes("reference.pt", "best-original.pt"), make_reference),
    Family("resume", read_run, make_resume),
    Family("torchscript", read_torchscript, make_torchscript),
    Family("onnx", read_onnx, make_onnx),
    Family("source", nothing, doors.make_source),
    Family("special", nothing, doors.make_special),
    Family("api", nothing, doors.make_api),
    Family("flags", nothing, doors.make_flags))}

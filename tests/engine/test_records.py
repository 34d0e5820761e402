"""What a run leaves on the disk, where writing fails or is cut off: record, best weights, marked epoch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yolov7 import cli
from yolov7.config import InputError
from yolov7.engine import checkpoints
from yolov7.engine.checkpoints import Checkpoints
from yolov7.engine.log import TERMS, EpochRecord, RunLog, _mark_best, complete_record, read_results
from yolov7.engine.nonfinite import TrainingError
from yolov7.engine.run_config import RunConfig
from yolov7.pages.style import new_figure

MICRO = str(Path(__file__).parents[1] / "micro.yaml")
BASE = ["--cfg", MICRO, "--img-size", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--precision",
        "fp32"]


def train(data: Path, project: Path, *flags: str, epochs: int) -> int:
    return cli.main(["train", "--data", str(data), "--project", str(project), *BASE, "--epochs", str(epochs), *flags])


@pytest.fixture(scope="module")
def labelled(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label files with an object in every image to train on, and empty ones for those to evaluate on."""
    data = tmp_path_factory.mktemp("labelled")
    (data / "images").symlink_to(shapes / "images")
    for split, text in (("train", "0 0.5 0.5 0.4 0.4\n"), ("val", "")):
        (data / "labels" / split).mkdir(parents=True)
        for image in (shapes / "images" / split).iterdir():
            (data / "labels" / split / f"{image.stem}.txt").write_text(text)
    (data / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [thing]\n")
    return data / "data.yaml"


@pytest.fixture(scope="module")
def done(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that changed nothing: the second was no better."""
    project = tmp_path_factory.mktemp("runs")
    assert train(shapes, project, "--set", "optimizer.lr0=0", "optimizer.warmup_bias_lr=0", epochs=2) == 0
    return project / "exp"


def record(epoch: int) -> EpochRecord:
    return EpochRecord(epoch, dict.fromkeys(TERMS, 0.5), {"AP": 0.1, "AP50": 0.2, "AP75": 0.3}, 0.01, 1.0)


# --- the record ------------------------------------------------------------------------------------------------


def test_resume_completes_the_record_of_a_finished_run(done: Path, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    """As after a kill behind the last checkpoint: no row of that epoch, and no curves."""
    folder = shutil.copytree(done, tmp_path / "run")
    whole = (folder / "results.csv").read_text()
    (folder / "results.csv").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    (folder / "results.png").unlink()
    assert cli.main(["train", "--resume", str(folder), "--workers", "0"]) == 2
    assert "the run has finished its 2 epochs" in capsys.readouterr().err
    assert (folder / "results.csv").read_text() == whole
    assert (folder / "results.png").is_file()


def test_a_record_without_its_curves_is_completed(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.add_epoch(record(1))
    (tmp_path / "results.png").unlink()
    complete_record(tmp_path, TERMS, record(1), best=1)
    assert (tmp_path / "results.png").is_file()
    assert [row.epoch for row in read_results(tmp_path / "results.csv")] == [1]


def test_a_resumed_record_gets_the_row_that_is_missing(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.add_epoch(record(1))
    with RunLog(tmp_path, 2, last=record(2)) as log:
        log.add_epoch(record(3))
    assert [row.epoch for row in read_results(tmp_path / "results.csv")] == [1, 2, 3]


def test_a_run_that_lost_patience_is_over(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed behind its last checkpoint: it is not trained one epoch more."""
    folder = shutil.copytree(done, tmp_path / "run")
    last = folder / "weights" / "last.pt"
    content = torch.load(last, weights_only=True)
    content["config"] |= {"epochs": 5, "patience": 1}
    torch.save(content, last)
    (folder / "results.csv").unlink()
    assert cli.main(["train", "--resume", str(folder), "--workers", "0"]) == 2
    assert "has stopped after epoch 2, as none was better (--patience 1)" in capsys.readouterr().err
    assert [row.epoch for row in read_results(folder / "results.csv")] == [2]


# --- the best weights ------------------------------------------------------------------------------------------


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let so many attempts to write ``best.pt`` fail."""
    write = checkpoints.atomic_write

    def fail(times: int) -> None:
        left = [times]

        def limited(path: Path, content: bytes) -> None:
            if path.name == "best.pt" and left[0]:
                left[0] -= 1
                raise OSError(28, "No space left on device")
            write(path, content)

        monkeypatch.setattr(checkpoints, "atomic_write", limited)

    return fail


def small_state(epoch: int, best: int) -> SimpleNamespace:
    """As much of a state as `Checkpoints` looks at."""
    weight = torch.full((1,), float(epoch))
    return SimpleNamespace(epoch=epoch, batch=0, best=SimpleNamespace(epoch=best), weight=weight)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    monkeypatch.setattr(checkpoints, "best_content", lambda state, config, names, epoch: {
        "format": checkpoints.weights.FORMAT, "version": checkpoints.weights.VERSION, "epoch": epoch,
        "model": {"weight": state.weight}})
    monkeypatch.setattr(checkpoints.weights, "read", read)
    return Checkpoints(tmp_path, RunConfig(data=""), ())


def read(path: Path) -> dict[str, Any]:
    """As much of `weights.read` as `Checkpoints` needs."""
    try:
        return dict(torch.load(path, weights_only=True))
    except Exception as error:
        raise InputError(str(error)) from None


def test_best_weights_are_written_as_soon_as_they_can_be(files: Checkpoints, full: Callable[[int], None],
                                                         caplog: pytest.LogCaptureFixture) -> None:
    full(1)
    state: Any = small_state(0, 0)
    files.save_best(state, 0)
    files.settle()
    assert not files.best.exists() and "cannot be written: No space left on device; there is none" in caplog.text
    state.weight += 1  # training goes on
    files.retry_best()
    files.check_best()
    content = torch.load(files.best, weights_only=True)
    assert content["epoch"] == 0 and content["model"]["weight"].item() == 0


def test_best_weights_that_cannot_be_written_are_said_at_the_end(files: Checkpoints,
                                                                 full: Callable[[int], None]) -> None:
    full(9)
    state: Any = small_state(3, 3)
    files.save_best(state, 3)
    files.retry_best()
    with pytest.raises(TrainingError, match="No space left on device; .* the weights of the best epoch, 4, are lost"):
        files.check_best()


def test_resume_looks_for_the_best_weights(files: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    just_ended: Any = small_state(3, 2)
    assert files.recover_best(just_ended)  # those of the checkpoint
    files.settle()
    assert torch.load(files.best, weights_only=True)["epoch"] == 2
    earlier: Any = small_state(9, 5)
    assert not files.recover_best(earlier)
    assert "the weights of the best epoch, 6, are not there" in caplog.text
    files.best.write_bytes(b"no weights")
    assert not files.recover_best(earlier)
    known: Any = small_state(9, 2)
    files.save_best(known, 2)
    assert files.recover_best(known)


# --- which epoch is the best -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("best", "label"), [(None, "best epoch 2: AP 0.400"), (3, "best epoch 3: AP 0.405")])
def test_the_plot_marks_the_best_epoch_of_the_run(best: int | None, label: str) -> None:
    """By fitness, not by AP alone: 0.9 AP + 0.1 AP50, unless the run says which it is."""
    scores = {1: (0.1, 0.2), 2: (0.400, 0.80), 3: (0.405, 0.70)}
    records = [EpochRecord(epoch, {}, {"AP": ap, "AP50": ap50}, 0.01, 1.0) for epoch, (ap, ap50) in scores.items()]
    _, (axes,) = new_figure(4, 3, 1)
    _mark_best(axes, records, best)
    (line,) = axes.get_lines()
    assert line.get_label() == label
    assert line.get_xdata()[0] == (best or 2)


def test_without_an_object_to_evaluate_on_the_last_epoch_counts(labelled: Path, tmp_path: Path,
                                                                full: Callable[[int], None],
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    """Its weights cannot be written: the run fails at its end, and names only files that are there."""
    full(99)
    assert train(labelled, tmp_path, "--patience", "1", epochs=2) == 1
    done = capsys.readouterr()
    assert "none of the 4 images to evaluate on has an object: AP cannot be measured" in done.out
    assert "best epoch 2: AP 0.000, AP50 0.000" in done.out and "not measured, the last one" in done.out
    weights = tmp_path / "exp" / "weights"
    assert f" -m yolov7 test --weights {weights / 'last.pt'}\n" in done.out
    assert f"--weights {weights / 'best.pt'}" not in done.out
    assert f"error: {weights / 'best.pt'}: the checkpoint cannot be written" in done.err
    assert "of the best epoch, 2, are lost" in done.err
    assert (tmp_path / "exp" / "results.png").is_file()

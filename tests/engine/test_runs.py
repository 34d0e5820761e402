"""Whole runs on a small generated set: the four commands, resume after a kill, bad input."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import Fork, Forks
from golden_numbers import golden_state_dict
from small_run import BASE, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from yolov7 import cli
from yolov7.data.images import cv2
from yolov7.engine import state as checkpoint
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec
from yolov7.runtime import folders

ROOT = Path(__file__).parents[2]


def results(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_training_leaves_everything_behind(run: Path) -> None:
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "results.csv", "results.png", "train_batch1.jpg", "val_predictions.jpg", "weights/last.pt",
            "weights/best.pt"} <= names
    assert not [name for name in names if name.endswith(".tmp")]
    rows = results(run)
    assert list(rows[0]) == ["epoch", "box", "objectness", "classification", "val_box", "val_objectness",
                             "val_classification", "AP", "AP50", "AP75", "precision", "recall", "F1", "confidence",
                             "lr", "seconds", "skipped"]
    assert [row["epoch"] for row in rows] == ["1", "2"]
    events = EventAccumulator(str(run))
    events.Reload()
    assert len(events.Scalars("train/box_loss")) == len(events.Scalars("val/box_loss")) == 2
    assert events.Scalars("metrics/F1")[1].value == pytest.approx(float(rows[1]["F1"]), rel=1e-5)
    last = torch.load(run / "weights" / "last.pt", weights_only=True)
    assert last["epoch"] == 1 and last["ema_updates"] == 6  # a step per batch in the first half of the warm-up
    best = torch.load(run / "weights" / "best.pt", weights_only=True)
    assert "optimizer" not in best and best["form"] == "training"
    assert last["best"][0] == best["epoch"] == last["numbers"]["epoch"] - 1  # one best epoch, whose table is kept
    numbers = {name: float(rows[best["epoch"]][name]) for name in ("AP", "AP50", "F1", "confidence")}
    assert {name: last["numbers"]["metrics"][name] for name in numbers} == pytest.approx(numbers, rel=1e-4)
    assert len(last["numbers"]["classes"]) == 6


def test_a_run_of_the_same_name_gets_a_number(shapes: Path, run: Path) -> None:
    assert folders.new_folder(str(run.parent), "first", exist_ok=False) == run.parent / "first2"
    assert folders.new_folder(str(run.parent), "first", exist_ok=True) == run


@pytest.mark.untraced
def test_same_seed_same_run(shapes: Path, run: Path, tmp_path: Path) -> None:
    assert train(shapes, tmp_path, "--name", "again", "--workers", "2") == 0
    files = (folder / "weights" / "last.pt" for folder in (run, tmp_path / "again"))
    ours, theirs = (torch.load(file, weights_only=True) for file in files)
    for key, value in ours["model"].items():
        assert torch.equal(value, theirs["model"][key]), key
    assert train(shapes, tmp_path, "--name", "other", "--seed", "1") == 0
    other = torch.load(tmp_path / "other" / "weights" / "last.pt", weights_only=True)
    assert not torch.equal(ours["model"]["nodes.stem.conv.weight"], other["model"]["nodes.stem.conv.weight"])


@pytest.mark.untraced
def test_resumed_run_equals_the_uninterrupted_one(shapes: Path, run: Path, tmp_path: Path) -> None:
    """Stop after the first of two epochs, go on, and compare every tensor."""
    assert train(shapes, tmp_path, "--name", "part", "--epochs", "1") == 0
    part = tmp_path / "part"
    content = torch.load(part / "weights" / "last.pt", weights_only=True)
    content["config"]["epochs"] = 2  # the cosine of the first epoch does not depend on it
    checkpoint.weights.save(content, part / "weights" / "last.pt")
    assert cli.main(["train", "--resume", str(part), "--workers", "0"]) == 0
    ours, theirs = (torch.load(f / "weights" / "last.pt", weights_only=True) for f in (run, part))
    for part_name in ("model", "ema"):
        for key, value in ours[part_name].items():
            assert torch.equal(value, theirs[part_name][key]), key
    for mine, other in zip(ours["optimizer"]["state"].values(), theirs["optimizer"]["state"].values(), strict=True):
        assert torch.equal(mine["momentum_buffer"], other["momentum_buffer"])
    assert [row["epoch"] for row in results(part)] == ["1", "2"]


@pytest.mark.untraced
def test_finished_run_can_be_extended(shapes: Path, run: Path, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    assert train(shapes, tmp_path, "--name", "done", "--epochs", "1") == 0
    head, _, rest = capsys.readouterr().out.partition("\nresults")  # a long path stands on the next line
    lines = head[head.index("\nmodel ") + 1 :].splitlines()
    assert 7 <= len(lines) <= 13 and all(len(line) <= 80 or str(tmp_path.parent) in line for line in lines)
    text = " ".join(head.split())
    assert "model yolov7-tiny, 6,028,518 parameters" in text and "from scratch, recipe tiny" in text
    assert "shapes: 12 images with 118 objects to train on, 4 with 36" in text
    assert "warm-up the whole run, 3 batches (the recipe's is longer: 9)" in text
    assert rest.index("best epoch 1: AP") < rest.index("class ") < rest.index("results.csv") < rest.index("next:")
    assert cli.main(["train", "--resume", str(tmp_path / "done")]) == 2
    assert "the run has finished its 1 epochs; more: --epochs N" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(tmp_path / "done"), "--epochs", "2", "--workers", "0"]) == 0
    assert [row["epoch"] for row in results(tmp_path / "done")] == ["1", "2"]
    content = checkpoint.read_last(tmp_path / "done" / "weights" / "last.pt")
    assert content["config"]["epochs"] == 2
    assert content["optimizer"]["param_groups"][0]["lr"] < 0.01  # the schedule of two epochs


SLOW_SAVE = """
import os, sys, time
from yolov7 import cli
from yolov7.config import files
write = os.fsync
def slow(descriptor):  # the moment between the bytes and the rename, made long
    write(descriptor)
    if os.environ["SLOW"] in os.readlink(f"/proc/self/fd/{descriptor}"):
        open(os.environ["MARK"], "w").close()
        time.sleep(60)
files.os.fsync = slow
sys.exit(cli.main(sys.argv[1:]))
"""


def kill_when(condition: Path, process: Fork, delay: float = 0.0) -> None:
    deadline = time.monotonic() + 120
    while not condition.exists():
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it was killed"
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["epoch", "checkpoint"])
def test_killed_run_goes_on_from_a_whole_file(shapes: Path, run: Path, tmp_path: Path, forks: Forks,
                                              moment: str) -> None:
    flags = ["train", "--data", str(shapes), "--project", str(tmp_path), *BASE, "--epochs", "2", "--name", "killed"]
    mark, last = tmp_path / "mark", tmp_path / "killed" / "weights" / "last.pt"
    environment = os.environ | {"MARK": str(mark), "SLOW": "last.pt" if moment == "checkpoint" else "never",
                                "PYTHONPATH": str(ROOT)}
    first = forks.start([sys.executable, "-c", SLOW_SAVE, *flags], environment)
    if moment == "epoch":  # the first checkpoint stands, the second epoch has begun
        kill_when(last, first, delay=0.3)
        assert torch.load(last, weights_only=True)["epoch"] == 0
    else:  # the first checkpoint is written, but not yet renamed: nothing to go on from but a new start
        kill_when(mark, first)
        assert not last.exists() and list(last.parent.glob(".last.pt.*.tmp"))
        assert cli.main(["train", "--resume", str(tmp_path / "killed")]) == 2
        environment["SLOW"] = "never"
        again = forks.start([sys.executable, "-c", SLOW_SAVE, *flags, "--exist-ok"], environment)
        kill_when(last, again, delay=0.3)
    assert cli.main(["train", "--resume", str(tmp_path / "killed"), "--workers", "0"]) == 0
    ours, theirs = (torch.load(file, weights_only=True) for file in (run / "weights" / "last.pt", last))
    assert all(torch.equal(value, theirs["ema"][key]) for key, value in ours["ema"].items())
    assert [row["epoch"] for row in results(tmp_path / "killed")] == ["1", "2"]
    assert not list(last.parent.glob(".*.tmp"))


def test_evaluation(run: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = str(run / "weights" / "best.pt")
    assert cli.main(["test", "--weights", best, "--project", str(tmp_path), "--device", "cpu", "--workers", "0"]) == 0
    text = capsys.readouterr().out
    assert "AR100" in text and "star" in text and "end to end" in text
    assert "confusion matrix" in text and "the reference implementation's own metric" not in text
    images = ("predictions.jpg", "precision_recall.png", "confidence.png", "confusion_matrix.png", "worst.jpg")
    assert all((tmp_path / "exp" / name).stat().st_size > 1000 for name in images)
    predictions = json.loads((tmp_path / "exp" / "predictions.json").read_text())
    assert all(set(p) == {"image_id", "category_id", "bbox", "score"} for p in predictions)
    stats = json.loads((tmp_path / "exp" / "results.json").read_text())["stats"]
    epoch = torch.load(best, weights_only=True)["epoch"]
    assert stats[0] == pytest.approx(float(results(run)[epoch]["AP"]), abs=1e-5)  # the run's own evaluation


def test_the_metric_of_the_reference_implementation(run: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--project", str(tmp_path), "--device", "cpu", "--workers", "0", "--metric", "v7"]
    assert cli.main(["test", "--weights", str(run / "weights" / "best.pt"), *flags]) == 0
    assert "the reference implementation's own metric:\nv7 metric: 4 images" in capsys.readouterr().out
    own = json.loads((tmp_path / "exp" / "results.json").read_text())["v7"]
    assert set(own) == {"precision", "recall", "AP50", "AP"}


def test_detection(run: Path, shapes: Path, tmp_path: Path) -> None:
    best = str(run / "weights" / "best.pt")
    source = str(shapes / "images" / "val")
    flags = ["--project", str(tmp_path), "--device", "cpu", "--conf-thres", "0.001", "--save-txt", "--save-conf",
             "--save-json"]
    assert cli.main(["detect", "--weights", best, "--source", source, *flags]) == 0
    folder = tmp_path / "exp"
    images = sorted(path.name for path in (shapes / "images" / "val").iterdir())
    assert sorted(path.name for path in folder.glob("*.jpg")) == images
    records = json.loads((folder / "detections.json").read_text())
    assert len(records) == 4 and sum(len(record["detections"]) for record in records) > 0
    for record in records:
        lines = (folder / "labels" / Path(record["path"]).with_suffix(".txt").name).read_text().splitlines()
        assert len(lines) == len(record["detections"])
        for line, found in zip(reversed(lines), record["detections"], strict=True):
            label, cx, cy, w, h, score = map(float, line.split())
            box = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            box *= [record["width"], record["height"]] * 2
            np.testing.assert_allclose(box, found["box"], atol=0.02)
            assert label == found["label"] and score == pytest.approx(found["score"], abs=1e-5)


def test_detection_in_a_video(run: Path, shapes: Path, tmp_path: Path) -> None:
    video = tmp_path / "in.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (160, 120))
    for index in range(15):
        writer.write(np.full((120, 160, 3), 10 * index, np.uint8))
    writer.release()
    best = str(run / "weights" / "best.pt")
    assert cli.main(["detect", "--weights", best, "--source", str(video), "--project", str(tmp_path), "--device", "cpu",
                     "--save-json"]) == 0
    capture = cv2.VideoCapture(str(tmp_path / "exp" / "in.mp4"))
    assert (capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_WIDTH)) == (12.0, 160.0)
    greys = []
    while (frame := capture.read())[0]:
        greys.append(float(frame[1][60, 80].mean()))
    assert len(greys) == 15 and greys == sorted(greys)
    assert len(json.loads((tmp_path / "exp" / "detections.json").read_text())) == 15


def test_fine_tuning_on_own_weights(run: Path, shapes: Path, tmp_path: Path) -> None:
    best = str(run / "weights" / "best.pt")
    assert train(shapes, tmp_path, "--weights", best, "--epochs", "1", "--name", "tuned") == 0


def test_fine_tuning_on_reference_weights_with_other_classes(shapes: Path, tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(golden_state_dict("yolov7-tiny.training", 0.5), tmp_path / "original.pt")
    flags = ["--weights", str(tmp_path / "original.pt"), "--cfg", "yolov7-tiny", "--epochs", "1", "--name", "tuned"]
    assert train(shapes, tmp_path, *flags) == 0
    assert "9 start fresh, as the file is for another class count" in capsys.readouterr().out
    assert len(torch.load(tmp_path / "tuned" / "weights" / "best.pt")["names"]) == 6


@pytest.mark.untraced
def test_clipped_gradients_move_the_weights_by_no_more(shapes: Path, tmp_path: Path) -> None:
    plain = ["--set", "optimizer.weight_decay=0", "optimizer.lr0=0.01", "optimizer.warmup_epochs=0", "--epochs", "1"]
    moved = {}
    for clip in ("0", "1e-3"):
        flags = [*plain[:1], f"optimizer.clip_grad={clip}", *plain[1:]]
        assert train(shapes, tmp_path, *flags, "--name", f"clip{clip}", "--exist-ok") == 0
        model = torch.load(tmp_path / f"clip{clip}" / "weights" / "last.pt")["model"]
        torch.manual_seed(0)
        start = Detector(read_spec("yolov7-tiny"), 6).state_dict()
        moved[clip] = max((model[key] - start[key]).abs().max().item() for key in start
                          if key.endswith(("weight", "bias")))
    assert moved["1e-3"] < 1e-4 < moved["0"]


def test_a_folder_takes_one_training_at_a_time(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Until its process is dead, however it dies."""
    holder = ("import sys, time; from pathlib import Path; from yolov7.runtime.folders import claimed\n"
              "with claimed(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", holder, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    (run / ".half.tmp").write_text("of the other process")
    assert cli.main(["train", "--resume", str(run), "--epochs", "9", "--workers", "0"]) == 2
    assert f"error: {run}: process {process.pid} trains in it; wait for its end, stop it, or" in capsys.readouterr().err
    assert (run / ".half.tmp").exists()
    process.kill()
    process.wait()
    with folders.claimed(run):
        assert not (run / ".half.tmp").exists() and (run / ".lock").read_text() == str(os.getpid())
    with folders.claimed(run):
        pass


def test_a_checkpoint_outside_of_a_run_is_no_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "last.pt").write_bytes((run / "weights" / "last.pt").read_bytes())
    for given in (tmp_path / "last.pt", tmp_path):
        assert cli.main(["train", "--resume", str(given), "--epochs", "9"]) == 2
        assert f"--resume '{given}': lies in no run's folder; accepted: RUN/weights/last.pt" in capsys.readouterr().err


BAD_COMMANDS = [
    ("train", ["--data", "gone.yaml"], "--data 'gone.yaml'"),
    ("train", ["--cfg", "yolov8"], "--cfg 'yolov8': no such file, and none is shipped under that name"),
    ("train", ["--hyp", "hyp.gone"], "--hyp 'hyp.gone'"),
    ("train", ["--set", "loss.bix=1"], "--set 'loss.bix=1': unknown key 'bix'; accepted: box"),
    ("train", ["--set", "augment.pipeline=[mosaic, hvs]"], "augment.pipeline: unknown step 'hvs'; accepted: mosaic"),
    ("train", ["--fused-norm"], "--fused-norm: is for CUDA devices of compute capability 8.0 or more, this run is on "
                                "cpu"),
    ("train", ["--fused-norm", "--compile"], "--fused-norm: --compile has norms of its own"),
    ("train", ["--cuda-graphs", "--device", "cpu"], "--cuda-graphs: is for CUDA devices, this run is on cpu; leave the "
                                                    "flag out"),
    ("train", ["--augment-device", "cuda", "--device", "cpu"], "--augment-device cuda: this run is on cpu; leave the "
                                                               "flag out"),
    ("train", ["--shard-window", "2"], "is in no tar file; accepted: data sets that `yolov7 data shard` has written"),
    ("train", ["--shard-window", "2", "--rect"], "--shard-window: --rect has an order of its own; accepted: one of"),
    ("train", ["--cuda-graphs", "--sync-bn"], "--cuda-graphs: --sync-bn has work that cannot be recorded"),
    ("train", ["--sync-bn", "--device", "cpu"], "--sync-bn: found one process on cpu; accepted: several processes"),
    ("train", ["--hyp", "finetuen"], "did you mean 'finetune'?"),
    ("train", ["--weights", "gone.pt"], "--weights 'gone.pt': no such file"),
    ("train", ["--device", "cuda:77"], "--device 'cuda:77': not on this machine; accepted: cpu"),
    ("train", ["--resume", "--batch-size", "4", "--autoanchor"], "--resume uses the run's own settings; --batch-size, "
     "--autoanchor cannot be changed. You can change: --epochs, --workers, --device, "),
    ("train", ["--resume", "gone"], "--resume 'gone': neither a checkpoint nor the folder of a run"),
    ("test", ["--weights", "gone.pt"], "--weights 'gone.pt': no such file"),
    ("test", ["--data", "gone.yaml"], "--data 'gone.yaml'"),
    ("detect", ["--source", "gone.jpg"], "gone.jpg"),
    ("detect", [], "--source is missing"),
    ("detect", ["--source", ".", "--classes", "sqare"], "did you mean 'square'"),
    ("export", ["--format", "onxx"], "unknown format 'onxx'; accepted: weights, original, torchscript, onnx"),
    ("trian", [], "unknown command 'trian'; accepted: train, test, speed, detect, export, models, recipe, tune, "
     "compare, ablation, average, data; did you mean 'train'?"),
]


@pytest.mark.parametrize(("command", "flags", "message"), BAD_COMMANDS, ids=lambda value: str(value)[:40])
def test_bad_input_is_one_sentence_and_leaves_nothing(run: Path, shapes: Path, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str], command: str,
                                                      flags: list[str], message: str) -> None:
    if command == "train" and not {"--data", "--resume"} & set(flags):
        flags = [*flags, "--data", str(shapes)]
    best = ["--weights", str(run / "weights" / "best.pt")] if command in ("test", "detect", "export") else []
    project = [] if command in ("export", "trian") else ["--project", str(tmp_path / "runs")]
    assert cli.main([command, *best, *project, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ")
    assert error.count("\n") == 1 and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_class_count_that_differs_from_the_data(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "data"
    (other / "images").mkdir(parents=True)
    cv2.imwrite(str(other / "images" / "a.png"), np.zeros((64, 64, 3), np.uint8))
    (other / "data.yaml").write_text("val: images\nnc: 2\nnames: [a, b]\n")
    best = str(run / "weights" / "best.pt")
    flags = ["--data", str(other / "data.yaml"), "--project", str(tmp_path / "p")]
    assert cli.main(["test", "--weights", best, *flags]) == 2
    assert "has 6 classes" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_nothing_to_train_on_leaves_no_folder(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "empty"
    for split in ("train", "val"):
        (data / "images" / split).mkdir(parents=True)
        cv2.imwrite(str(data / "images" / split / "a.png"), np.zeros((64, 64, 3), np.uint8))
    (data / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a]\n")
    assert train(data / "data.yaml", tmp_path / "runs") == 2
    assert "none of the 1 images has a label file" in capsys.readouterr().err
    for split in ("train", "val"):
        (data / "labels" / split).mkdir(parents=True)
        (data / "labels" / split / "a.txt").touch()
    assert train(data / "data.yaml", tmp_path / "runs") == 2
    assert "nothing to train on" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_epoch_without_a_finite_loss_fails_the_run(shapes: Path, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    assert train(shapes, tmp_path, "--set", "loss.box=1e39", "--epochs", "1") == 1
    assert "no batch of epoch 1 had a finite loss" in capsys.readouterr().err

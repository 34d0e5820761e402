"""Optional modes of a training: sizes of batches, frozen nodes, patience, the end of mosaics, AdamW, half precision."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from yolov7 import cli
from yolov7.config import InputError
from yolov7.config.recipe import AugmentConfig, OptimizerConfig
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import TrainingDataset
from yolov7.data.loader import EpochSampler
from yolov7.engine.image_weights import image_weights
from yolov7.engine.log import Pace, pace_text
from yolov7.engine.multi_scale import draw_size, resize_images, resize_targets, scaled_size
from yolov7.engine.optim import Schedule, apply, make_optimizer, nodes_to_freeze
from yolov7.engine.trainer import Trainer
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec
from yolov7.structures import Batch, Targets

MICRO = str(Path(__file__).parents[1] / "micro.yaml")
BASE = ["--cfg", MICRO, "--img-size", "64", "--batch-size", "4", "--nominal-batch", "8", "--device", "cpu",
        "--workers", "0", "--precision", "fp32"]


def train(shapes: Path, project: Path, *flags: str, epochs: int = 2) -> Path:
    arguments = ["train", "--data", str(shapes), "--project", str(project), *BASE, "--epochs", str(epochs), *flags]
    assert cli.main(arguments) == 0
    return project / "exp"


@pytest.fixture(scope="module")
def plain(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs without any mode, which others must not equal."""
    return train(shapes, tmp_path_factory.mktemp("plain"))


def last(folder: Path) -> dict[str, object]:
    return torch.load(folder / "weights" / "last.pt", weights_only=True)


def same(first: Path, second: Path) -> bool:
    states = [last(folder)["model"] for folder in (first, second)]
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])  # type: ignore[index]


# --- multi-scale -----------------------------------------------------------------------------------------------


def test_sizes_are_drawn_from_half_to_one_and_a_half() -> None:
    sizes = [draw_size(640, 32, (0, epoch, step)) for epoch in range(20) for step in range(100)]
    assert sorted(set(sizes)) == list(range(320, 961, 32))
    assert draw_size(640, 32, (0, 3, 4)) == draw_size(640, 32, (0, 3, 4))


def test_targets_follow_the_size() -> None:
    targets = Targets(torch.tensor([[[8.0, 16, 32, 48]]]), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1) > 0)
    images, old = torch.rand(1, 3, 64, 96), (64, 96)
    assert scaled_size(old, 192, 32) == (128, 192) and scaled_size(old, 64, 32) == (64, 64)  # 42.7 rows become 64
    assert resize_images(images, (128, 192)).shape == (1, 3, 128, 192)
    assert resize_targets(targets, old, (128, 192)).boxes.tolist() == [[[16, 32, 64, 96]]]
    np.testing.assert_allclose(resize_targets(targets, old, (64, 64)).boxes[0, 0], [8 * 2 / 3, 16, 32 * 2 / 3, 48])
    assert resize_images(images, old) is images
    assert resize_targets(targets, old, old) is targets


@pytest.mark.untraced
def test_a_run_of_many_sizes_resumes_as_it_was(shapes: Path, tmp_path: Path, plain: Path) -> None:
    whole = train(shapes, tmp_path / "whole", "--multi-scale")
    assert not same(whole, plain)
    assert same(whole, train(shapes, tmp_path / "again", "--multi-scale"))


# --- freezing --------------------------------------------------------------------------------------------------


def test_frozen_nodes_stay_as_they_are(shapes: Path, tmp_path: Path) -> None:
    model = Detector(read_spec(MICRO), 3)
    names = list(model.nodes)
    folder = train(shapes, tmp_path, "--freeze", names[0], names[2])
    torch.manual_seed(0)
    start = Detector(read_spec(MICRO), len(last(folder)["names"])).state_dict()  # type: ignore[arg-type]
    end: dict[str, torch.Tensor] = last(folder)["model"]  # type: ignore[assignment]
    moved = {key.split(".")[1] for key, value in start.items() if key.startswith("nodes.")
             and value.is_floating_point() and not torch.equal(end[key], value)}  # statistics of batch norm too
    assert moved == set(names) - {names[0], names[2]} - without_weights(model)


def without_weights(model: Detector) -> set[str]:
    return {name for name, node in model.nodes.items() if not list(node.parameters())}


def test_nodes_by_number_and_unknown_ones() -> None:
    model = Detector(read_spec("yolov7-tiny"), 3)
    names = tuple(model.nodes)
    assert nodes_to_freeze(model, ("5",)) == names[:5]
    assert nodes_to_freeze(model, ()) == ()
    with pytest.raises(InputError, match=f"--freeze: unknown node 'stm'; accepted: {names[0]}"):
        nodes_to_freeze(model, ("stm",))
    with pytest.raises(InputError, match="--freeze 999: yolov7-tiny has"):
        nodes_to_freeze(model, ("999",))


# --- image weights ---------------------------------------------------------------------------------------------


def test_rare_and_badly_found_classes_are_drawn_more_often(shapes: Path) -> None:
    image_set = open_split(open_data(str(shapes)), "train")
    scores = np.linspace(0, 0.9, len(image_set.names))
    weights = image_weights(image_set, scores)
    assert weights.sum() == pytest.approx(1)
    counts = np.bincount(image_set.objects.labels, minlength=len(scores))
    expected = [sum((1 - scores[label]) ** 2 / counts[label] for label in image_set.objects_of(i).labels)
                for i in range(12)]
    np.testing.assert_allclose(weights, np.array(expected) / sum(expected))
    sampler = EpochSampler(12, 4, 0)
    drawn = []
    for epoch in range(400):
        sampler.set_epoch(epoch, weights)
        drawn += [index for keys in sampler for _, _, index in keys]
    np.testing.assert_allclose(np.bincount(drawn, minlength=12) / len(drawn), weights, atol=0.02)
    assert image_weights(image_set, np.ones(len(scores))).tolist() == [1 / 12] * 12  # nothing left to improve


@pytest.mark.untraced
def test_image_weights_resume_as_they_were(shapes: Path, tmp_path: Path, plain: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted behind the first epoch, whose scores decide what the second one draws."""
    whole = train(shapes, tmp_path / "whole", "--image-weights")
    assert not same(whole, plain)
    end_epoch = Trainer._end_epoch

    def interrupted(self: Trainer, *arguments: object) -> bool:
        over = end_epoch(self, *arguments)  # type: ignore[arg-type]
        if self.state.epoch == 1:
            raise KeyboardInterrupt
        return over

    monkeypatch.setattr(Trainer, "_end_epoch", interrupted)
    arguments = ["train", "--data", str(shapes), "--project", str(tmp_path / "part"), *BASE, "--image-weights"]
    assert cli.main([*arguments, "--epochs", "2"]) == 130
    monkeypatch.setattr(Trainer, "_end_epoch", end_epoch)
    assert cli.main(["train", "--resume", str(tmp_path / "part" / "exp"), "--workers", "0"]) == 0
    assert same(whole, tmp_path / "part" / "exp")


def test_image_weights_and_rectangular_batches_exclude_each_other(shapes: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", str(shapes), "--project", str(tmp_path), *BASE, "--rect", "--image-weights"]
    assert cli.main(arguments) == 2


# --- the end of a run ------------------------------------------------------------------------------------------


def test_patience_ends_a_run(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(shapes, tmp_path, "--patience", "1", "--set", "optimizer.lr0=0", "optimizer.warmup_bias_lr=0",
                   epochs=6)
    with open(folder / "results.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 2
    assert "no better epoch since 1: stopped after epoch 2 (--patience 1)" in capsys.readouterr().out


def test_the_last_epochs_have_no_mosaics(shapes: Path, tmp_path: Path, plain: Path) -> None:
    dataset = TrainingDataset(open_split(open_data(str(shapes)), "train"), 64, AugmentConfig(mosaic=1, mixup=1),
                              mosaic_epochs=2)
    assert [dataset[epoch, 0, 0].meta.mosaic for epoch in range(4)] == [True, True, False, False]
    assert not same(train(shapes, tmp_path, "--close-mosaic", "1"), plain)


# --- pace ------------------------------------------------------------------------------------------------------


def test_pace_tells_waiting_from_working() -> None:
    targets = Targets(torch.zeros(2, 8, 4), torch.zeros(2, 8), torch.zeros(2, 8))

    def slow() -> Iterator[Batch]:
        for _ in range(3):
            time.sleep(0.03)
            yield Batch(torch.zeros(2, 3, 8, 8), targets, ())

    pace = Pace(slow())
    for _ in pace:
        time.sleep(0.01)
    assert pace.images == 6
    assert 0.09 <= pace.waited < pace.seconds - 0.02
    shown = pace_text(pace.numbers(torch.device("cpu")))
    assert set(shown) == {"img/s", "data", "mem"}
    assert 50 <= int(shown["data"].rstrip("%")) <= 90


# --- optimizer and number format -------------------------------------------------------------------------------


def test_adamw_keeps_its_betas_through_the_warm_up() -> None:
    config = OptimizerConfig(kind="adamw", lr0=0.001)
    optimizer = make_optimizer(Detector(read_spec("yolov7-tiny"), 3), config, 16, 64)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0.0005, 0]
    apply(Schedule(config, 10, 100, 16).at(5), optimizer)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.937, 0.999)}


@pytest.mark.untraced
@pytest.mark.parametrize("flags", [["--set", "optimizer.kind=adamw", "optimizer.lr0=0.001"], ["--precision", "bf16"]])
def test_other_ways_to_train(shapes: Path, tmp_path: Path, flags: list[str]) -> None:
    folder = train(shapes, tmp_path, *flags, epochs=1)
    state: dict[str, torch.Tensor] = last(folder)["model"]  # type: ignore[assignment]
    assert all(value.isfinite().all() and value.dtype != torch.bfloat16 for value in state.values())
    assert cli.main(["train", "--resume", str(folder), "--epochs", "2"]) == 0


def test_auto_is_stored_as_what_it_became(shapes: Path, tmp_path: Path) -> None:
    content = last(train(shapes, tmp_path, "--precision", "auto", epochs=1))
    assert content["config"]["precision"] in ("fp32", "bf16")  # type: ignore[index]


# --- augmentation on a device ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["0", "2"])
def test_images_that_the_device_makes(workers: str, plain: Path, shapes: Path, tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the device is the processor."""
    monkeypatch.setattr("yolov7.data.device_augment.check_decoder", lambda device: None)
    flags = "--augment-device", "cuda", "--workers", workers
    folder = train(shapes, tmp_path / workers, *flags)
    assert not same(folder, plain)  # pixels are rounded in another way
    assert (folder / "train_batch1.jpg").is_file()
    losses = [[float(row["box"]) for row in csv.DictReader((run / "results.csv").open())]
              for run in (folder, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    short = train(shapes, tmp_path / "short", *flags, epochs=1)
    assert cli.main(["train", "--resume", str(short), "--epochs", "2", "--workers", "0"]) == 0
    again = train(shapes, tmp_path / "again", *flags)
    assert same(folder, again)

"""``--fraction``, ``--class-weights auto``, ``--keep`` with ``average``, ``--deterministic``, ``--log`` on resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import yolov7
from yolov7 import cli
from yolov7.config import InputError, RunError, read_yaml
from yolov7.engine.class_weights import MAX_WEIGHT, balanced_weights
from yolov7.model import weights
from yolov7.model.averaging import average_weights
from yolov7.runtime.determinism import WORKSPACE, deterministic

MICRO = str(Path(__file__).parents[1] / "micro.yaml")


@pytest.fixture
def flags(shapes: Path, tmp_path: Path) -> dict[str, Any]:
    return {"cfg": MICRO, "data": str(shapes), "img_size": 64, "batch_size": 4, "nominal_batch": 4, "workers": 0,
            "device": "cpu", "precision": "fp32", "log": ["none"], "project": tmp_path}


def state_of(path: Path) -> dict[str, torch.Tensor]:
    content = weights.read(path)
    assert isinstance(content, dict)
    return dict(content["model"])


def test_rare_classes_weigh_more() -> None:
    counts = np.array([900, 100, 0])
    common, rare, absent = balanced_weights(counts)
    assert rare / common == pytest.approx(3, rel=1e-3) and absent == 1
    assert (900 * common + 100 * rare) / 1000 == pytest.approx(1, rel=1e-3)
    assert balanced_weights(np.array([7, 7])) == (1, 1) and balanced_weights(np.array([0, 0])) == (1, 1)
    assert max(balanced_weights(np.array([10**6, 1]))) == MAX_WEIGHT


def test_weights_and_fraction_go_with_the_run(flags: dict[str, Any]) -> None:
    run = yolov7.train(**flags, epochs=1, fraction=0.5, class_weights="auto", name="a")
    stored = read_yaml(run.folder / "config.yaml")
    found = stored["recipe"]["loss"]["class_weights"]
    assert len(found) == 6 and stored["fraction"] == 0.5
    again = yolov7.train(resume=run.folder, epochs=2, device="cpu", workers=0)
    content = weights.read(again.last)
    assert isinstance(content, dict) and content["config"]["recipe"]["loss"]["class_weights"] == found
    with pytest.raises(InputError, match="of its own"):
        yolov7.train(**flags, epochs=1, class_weights="auto", set={"loss.class_weights": [1, 1, 1, 1, 1, 2]}, name="b")


def test_last_epochs_are_kept_and_averaged(flags: dict[str, Any], tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    run = yolov7.train(**flags, epochs=4, keep=3, name="a")
    files = sorted(path.name for path in (run.folder / "weights").glob("epoch*.pt"))
    assert files == ["epoch2.pt", "epoch3.pt", "epoch4.pt"]
    found = yolov7.average(runs=[run.folder], last=2)
    assert [path.name for path in found.weights] == ["epoch3.pt", "epoch4.pt"]
    mean, *states = (state_of(path) for path in (found.output, *found.weights))
    for name, value in mean.items():
        if value.is_floating_point():
            expected = (states[0][name].double() + states[1][name].double()) / 2
            assert torch.equal(value, expected.to(value.dtype)), name
        else:
            assert torch.equal(value, states[1][name])
    assert cli.main(["test", "--weights", str(found.output), "--device", "cpu", "--project", str(tmp_path / "t")]) == 0
    whole = yolov7.average(runs=[run.folder / "weights"], output=tmp_path / "whole.pt")
    assert len(whole.weights) == 3
    resumed = yolov7.train(resume=run.folder, epochs=5, keep=2, device="cpu", workers=0)
    assert sorted(path.name for path in (resumed.folder / "weights").glob("epoch*.pt")) == ["epoch4.pt", "epoch5.pt"]


def test_what_cannot_be_averaged(flags: dict[str, Any], run: Path, tmp_path: Path) -> None:
    other = yolov7.train(**flags, epochs=1, name="other")
    best = run / "weights" / "best.pt"
    with pytest.raises(InputError, match="another definition"):
        average_weights([best, other.best])
    for runs, words in (([], "RUNS is missing"), ([run], "--keep N"), ([best], "has no mean"),
                        ([best, best], "output is missing"), ([run, best], "stands beside")):
        with pytest.raises(InputError, match=words):
            yolov7.average(runs=runs)
    with pytest.raises(InputError, match="is one of the files"):
        yolov7.average(runs=[best, other.best], output=best)


def test_deterministic_run_is_the_same_run(flags: dict[str, Any]) -> None:
    plain, strict = (yolov7.train(**flags, epochs=1, name=name, deterministic=wanted)
                     for name, wanted in (("plain", False), ("strict", True)))
    assert not torch.are_deterministic_algorithms_enabled()
    for name, value in state_of(plain.best).items():
        assert torch.equal(value, state_of(strict.best)[name]), name


def test_deterministic_needs_its_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":0:0")
    with pytest.raises(InputError, match="accepted: :4096:8"), deterministic(True):
        pass


def test_operation_without_deterministic_kernel_is_named(flags: dict[str, Any],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    from yolov7.engine.trainer import Trainer

    def fail(self: Trainer) -> None:
        raise RuntimeError("some_cuda_kernel does not have a deterministic implementation, but you set "
                           "'torch.use_deterministic_algorithms(True)'. You can turn off determinism")

    monkeypatch.setattr(Trainer, "fit", fail)
    with pytest.raises(RunError, match="deterministic: some_cuda_kernel does not have"):
        yolov7.train(**flags, epochs=1, deterministic=True)


@pytest.mark.gpu
@pytest.mark.parametrize("head", ["yolov7-tiny", "yolov7-tiny-seg", "yolov7-tiny-mask", "yolov7-tiny-pose"])
def test_deterministic_on_cuda_twice_the_same(head: str, tmp_path: Path) -> None:
    found = [state_of(yolov7.train(cfg=head, img_size=128, batch_size=8, epochs=1, device=0, deterministic=True,
                                   fraction=0.2, project=tmp_path, name=name).best) for name in ("a", "b")]
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_log_can_change_on_resume(flags: dict[str, Any]) -> None:
    run = yolov7.train(**{**flags, "log": ["tensorboard"]}, epochs=1, name="a")
    written = list(run.folder.glob("events*"))
    assert written
    yolov7.train(resume=run.folder, epochs=2, device="cpu", workers=0, log=["none"])
    assert list(run.folder.glob("events*")) == written

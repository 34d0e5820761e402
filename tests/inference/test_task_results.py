"""Masks and key points for Python programs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import micro_tasks
import numpy as np
import pytest
import torch

import yolov7
from yolov7 import cli
from yolov7.config import InputError
from yolov7.inference.draw_masks import draw_masks
from yolov7.inference.draw_skeletons import draw_skeletons
from yolov7.masks import Masks

CONF = 0.05


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro_tasks.write_images(tmp_path_factory.mktemp("images"), 1) / "0.png"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, yolov7.Model]]:
    folder = tmp_path_factory.mktemp("weights")
    with micro_tasks.finished_tasks():
        yield {head: yolov7.load(micro_tasks.write_weights(folder / f"{head}.pt", head, bias=3.0), device="cpu",
                                 precision="fp32") for head in micro_tasks.NAMES}


@pytest.fixture(scope="module")
def masked(models: dict[str, yolov7.Model], image: Path) -> yolov7.ImageResult:
    found: yolov7.ImageResult = models["SegmentHead"](image, conf=CONF, max_det=12)
    return found


@pytest.fixture(scope="module")
def posed(models: dict[str, yolov7.Model], image: Path) -> yolov7.ImageResult:
    found: yolov7.ImageResult = models["PoseHead"](image, conf=CONF, max_det=12)
    return found


def test_masks_as_images_of_their_own(masked: yolov7.ImageResult) -> None:
    assert masked.masks.shape == (12, 120, 160) and masked.masks.dtype == torch.bool
    assert masked.masks is masked.masks and torch.equal(masked.masks, masked.extra["masks"].dense())
    assert torch.equal(masked[2:5].masks, masked.masks[2:5])
    assert (masked.masks.flatten(1).sum(1) == masked.extra["masks"].area).all() and masked.masks.any()
    assert masked[:0].masks.shape == (0, 120, 160)


def test_polygons_have_parts_and_holes(masked: yolov7.ImageResult) -> None:
    polygons = masked.polygons()
    assert len(polygons) == 12
    areas = [sum(area(outer) - sum(map(area, holes)) for outer, holes in parts) for parts in polygons]
    assert areas == masked.extra["masks"].area.tolist() and any(areas)


def area(ring: np.ndarray) -> float:
    x, y = ring.astype(float).T
    return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2


def test_key_points(posed: yolov7.ImageResult) -> None:
    assert posed.keypoints.shape == (12, 4, 3) and posed.keypoints is posed.extra["keypoints"]
    assert (posed.keypoints[..., 0] <= 160).all() and (posed.keypoints[..., 1] <= 120).all()
    assert list(posed.facts["keypoints"]) == list(micro_tasks.LAYOUT.names)


def test_what_a_model_does_not_find_is_said(masked: yolov7.ImageResult, posed: yolov7.ImageResult) -> None:
    for ask in (lambda: posed.masks, posed.polygons):
        with pytest.raises(InputError, match="this model finds no masks; accepted of one of instance segmentation"):
            ask()
    with pytest.raises(InputError, match="keypoints: this model finds none; accepted of one of poses"):
        masked.keypoints  # noqa: B018
    assert not hasattr(posed, "masks") and not hasattr(masked, "keypoints") and hasattr(masked, "masks")
    assert getattr(posed, "masks", None) is None


def test_masks_that_would_take_too_much_memory(masked: yolov7.ImageResult) -> None:
    empty = Masks(torch.zeros(0, dtype=torch.bool), torch.zeros(12, 4, dtype=torch.int64), (20_000, 20_000))
    large = replace(masked, extra={"masks": empty})
    with pytest.raises(InputError, match=r"12 masks of 20000 x 20000 pixels take more than 2 GiB; accepted: .*extra\["):
        large.masks  # noqa: B018
    assert large[:0].masks.shape == (0, 20_000, 20_000)


def test_a_result_prints_pixels_of_masks_and_points_that_are_seen(masked: yolov7.ImageResult,
                                                                  posed: yolov7.ImageResult) -> None:
    head, columns, first, *_ = repr(masked).splitlines()
    assert head.endswith("12 detections, also masks") and columns.split()[-1] == "mask"
    assert first.split()[-1] == str(int(masked.extra["masks"].area[0]))
    head, columns, first, *_ = repr(posed).splitlines()
    assert head.endswith("12 detections, also keypoints") and columns.split()[-1] == "points"
    assert first.split()[-1] == f"{int((posed.keypoints[0, :, 2] >= 0.5).sum())}/4"
    assert repr(masked[:0]).endswith("nothing found, also masks")


def test_tables_and_json(masked: yolov7.ImageResult, posed: yolov7.ImageResult) -> None:
    pytest.importorskip("pandas")
    assert masked.to_pandas()["masks_area"].tolist() == masked.extra["masks"].area.tolist()
    assert posed.to_pandas()["keypoints"][0].shape == (4, 3)
    assert '"segmentation": {"size": [120, 160], "counts": ' in masked.to_json()
    assert '"keypoints": [[' in posed.to_json()


def test_plots(masked: yolov7.ImageResult, posed: yolov7.ImageResult) -> None:
    assert masked.draw is draw_masks and posed.draw is draw_skeletons
    for found in (masked, posed):
        assert np.array_equal(found.plot(), found.draw(found.image, found, found.names, True))
        assert (found.plot() != found.image).any() and found._repr_png_()


def test_what_supervision_gets(masked: yolov7.ImageResult, posed: yolov7.ImageResult) -> None:
    supervision = pytest.importorskip("supervision")
    theirs = masked.to_supervision()
    assert isinstance(theirs, supervision.Detections) and np.array_equal(theirs.mask, masked.masks.numpy())
    assert (supervision.MaskAnnotator().annotate(masked.image.copy(), theirs) != masked.image).any()
    assert len(masked[:0].to_supervision()) == 0
    points = posed.to_supervision()
    assert isinstance(points, supervision.KeyPoints) and len(points) == 12
    assert np.array_equal(points.xy, posed.keypoints[..., :2].numpy())
    assert np.array_equal(points.keypoint_confidence, posed.keypoints[..., 2].numpy())
    assert points.data["class_name"].tolist() == [posed.names[label] for label in posed.labels]
    assert np.array_equal(points.data["xyxy"], posed.boxes.numpy())
    assert (supervision.VertexAnnotator(radius=3).annotate(posed.image.copy(), points) != posed.image).any()


def test_results_are_pickled_by_value(masked: yolov7.ImageResult, posed: yolov7.ImageResult) -> None:
    for again in (pickle.loads(pickle.dumps(masked)), pickle.loads(ForkingPickler.dumps(masked)),
                  copy.deepcopy(masked)):
        assert torch.equal(again.masks, masked.masks) and again.extra["masks"].size == (120, 160)
        assert np.array_equal(again.plot(), masked.plot()) and again.to_json() == masked.to_json()
    assert len(pickle.dumps(masked)) < 200_000
    again = pickle.loads(ForkingPickler.dumps(posed))
    assert torch.equal(again.keypoints, posed.keypoints) and again.facts == posed.facts
    assert np.array_equal(again.plot(), posed.plot())


def test_masks_come_to_pixels_as_asked(models: dict[str, yolov7.Model], image: Path) -> None:
    model = models["SegmentHead"]
    usual = model(image, conf=CONF, max_det=12)
    modes = ("low", "upsampled", "fine", "soft")
    found = {mode: model(image, conf=CONF, max_det=12, masks=mode).masks for mode in modes}
    assert torch.equal(usual.masks, found.pop("upsampled"))
    assert all(mask.any() and not torch.equal(mask, usual.masks) for mask in found.values())
    assert torch.equal(next(model.stream(image, conf=CONF, max_det=12, masks="soft")).masks, found["soft"])
    with pytest.raises(InputError, match=r"model\(\), masks: .*'sof'.*soft"):
        model(image, masks="sof")
    with pytest.raises(InputError, match=r"masks.* soft: the model finds no masks \(its task is pose\)"):
        models["PoseHead"](image, masks="soft")


def test_masks_count_in_scores_as_asked(models: dict[str, yolov7.Model], image: Path) -> None:
    """Masks of a network that blends them are drawn and written as others are; their quality is in the score."""
    model = models["MaskHead"]
    usual, every, none = (model(image, conf=CONF, max_det=12, mask_scores=scores) for scores in (None, "all", "none"))
    assert list(usual.extra) == ["masks"] and usual.masks.shape == (len(usual), 120, 160) and usual.masks.any()
    assert torch.equal(model(image, conf=CONF, max_det=12, mask_scores="kept").scores, usual.scores)
    assert (usual.scores < none.scores[: len(usual)]).all() and len(every) == 12
    assert any(part for index in range(12) for part in usual.polygons()[index]) and (usual.plot() != usual.image).any()
    assert all(rle["size"] == [120, 160] for rle in usual.extra["masks"].rles)
    with pytest.raises(InputError, match=r"model\(\), mask_scores: .*'al'.*all"):
        model(image, mask_scores="al")


@pytest.mark.parametrize("command", ["detect", "test"])
def test_the_flag_of_masks(command: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks, points, blended = (micro_tasks.write_weights(tmp_path / f"{head}.pt", head, bias=3.0)
                              for head in micro_tasks.NAMES)
    project = ["--device", "cpu", "--project", str(tmp_path / "runs")]
    subject = ["--source", str(image)] if command == "detect" else ["--data", str(tmp_path / "none.yaml")]
    assert cli.main([command, "--weights", str(points), *subject, *project, "--masks", "soft"]) == 2
    assert "--masks soft: the model finds no masks (its task is pose)" in capsys.readouterr().err
    for weights, flags, message in (
            (blended, ["--masks", "soft"], "--masks soft: the model makes its masks in one way alone"),
            (masks, ["--mask-scores", "all"], "--mask-scores all: masks do not count in the scores of a model with the "
             "head SegmentHead; leave it out, or take a model like yolov7-mask")):
        assert cli.main([command, "--weights", str(weights), *subject, *project, *flags]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    if command == "test":
        return
    written = {}
    for mode in ("low", "soft"):
        flags = ["--conf-thres", str(CONF), "--masks", mode, "--name", mode, "--save-coco", "--nosave"]
        assert cli.main(["detect", "--weights", str(masks), *subject, *project, *flags]) == 0
        written[mode] = (tmp_path / "runs" / mode / "predictions.json").read_text()
    assert written["low"] != written["soft"]

"""Exported files of instance segmentation and of poses: what they give, and that it is what PyTorch gives."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro_tasks
import numpy as np
import pytest
import torch

import yolov7
from yolov7 import cli
from yolov7.config import InputError
from yolov7.data.images import cv2, letterbox, load_image
from yolov7.exporting import parity
from yolov7.exporting.graphs import MasksOf
from yolov7.inference.exported import ExportFacts, open_onnx
from yolov7.model import weights

pytestmark = pytest.mark.usefixtures("forked_comparisons")

KEPT = ("--conf-thres", "0.05", "--max-det", "20")
CONF = 0.05


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for head in micro_tasks.NAMES:
        micro_tasks.write_weights(folder / f"{head}.pt", head, bias=3.0)
    micro_tasks.write_images(folder / "images")
    return folder


@pytest.fixture
def tasks() -> Iterator[None]:
    with micro_tasks.finished_tasks():
        yield


def export(files: Path, head: str, output: Path, *flags: str) -> int:
    return cli.main(["export", "--weights", str(files / f"{head}.pt"), "--source", str(files / "images"), "--output",
                     str(output), *flags])


def comparison(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*-parity.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# --- masks at the end of a graph ---------------------------------------------------------------------------------


def run_onnx(path: Path, image: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The outputs of an end-to-end file by their names."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    boxed = letterbox(image, size, 32, auto=False)[0].transpose(2, 0, 1)[None].astype(np.float32) / 255
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": boxed}), strict=True))


MASKED = {"SegmentHead": ["coefficients", "prototypes"], "MaskHead": ["attention", "bases", "semantic"]}
ON_DEMAND = pytest.mark.skipif(not os.environ.get("YOLOV7_TEST_TASKS"), reason="takes minutes: YOLOV7_TEST_TASKS=1")


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize("head", MASKED)
@pytest.mark.parametrize("size", [pytest.param("low", marks=ON_DEMAND), "full"])
def test_a_file_ends_with_the_masks_of_its_detections(size: str, head: str, files: Path, tmp_path: Path) -> None:
    """In cells of a quarter of the input, or in its pixels; ours, brought to the image as the documentation says."""
    pytest.importorskip("onnxruntime")
    flags = ("--format", "onnx", "--head", "end2end", "--img-size", "96", "96", "--masks", size, *KEPT)
    assert export(files, head, tmp_path, *flags) == 0
    for row in comparison(tmp_path)["onnx"]["inputs"]:
        assert row["mask_iou"] >= 0.99 and list(row["outputs"]) == MASKED[head]
    image = load_image(files / "images" / "0.png")
    outputs = run_onnx(tmp_path / f"{head}.onnx", image, (96, 96))
    assert list(outputs) == ["boxes", "scores", "classes", "count", *MASKED[head], "masks"]
    side, dtype = (24, np.float32) if size == "low" else (96, np.uint8)
    assert outputs["masks"].shape == (1, 20, side, side) and outputs["masks"].dtype == dtype
    count = int(outputs["count"][0])
    assert count > 5 and not outputs["masks"][0, count:].any() and outputs["masks"].min() >= 0
    model = yolov7.load(files / f"{head}.pt", device="cpu", precision="fp32")
    plain = {"mask_scores": "none"} if head == "MaskHead" else {}  # the graph's scores are those of boxes
    expected = model(image, conf=CONF, max_det=20, size=96, **plain)
    assert len(expected) == count
    _, gain, pad = letterbox(image, (96, 96), 32, auto=False)
    height, width = (round(side * gain[1 - axis]) for axis, side in enumerate(image.shape[:2]))
    left, top = round(pad[0] - 0.1), round(pad[1] - 0.1)
    for mask, own in zip(outputs["masks"][0, :count], expected.masks.numpy(), strict=True):
        whole = cv2.resize(mask.astype(np.float32), (96, 96), interpolation=cv2.INTER_LINEAR)
        native = cv2.resize(whole[top : top + height, left : left + width], (160, 120)) > 0.5
        # of noise, which grids over boxes have more of than cells
        assert (native ^ own).sum() <= (0.1 if head == "MaskHead" else 0.05) * 120 * 160
    assert expected.masks.any()


@pytest.mark.slow
@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize(("name", "head", "form"), [
    ("PoseHead", "end2end", "onnx"), ("MaskHead", "end2end", "onnx"),
    pytest.param("MaskHead", "end2end", "openvino", marks=ON_DEMAND),
    pytest.param("MaskHead", "decoded", "torchscript", marks=ON_DEMAND),
    pytest.param("MaskHead", "raw", "onnx", marks=ON_DEMAND),
    pytest.param("SegmentHead", "end2end", "openvino", marks=ON_DEMAND),
    pytest.param("SegmentHead", "decoded", "torchscript", marks=ON_DEMAND),
    pytest.param("SegmentHead", "end2end", "onnx", marks=ON_DEMAND),
    pytest.param("PoseHead", "raw", "onnx", marks=ON_DEMAND),
    pytest.param("PoseHead", "end2end", "openvino", marks=ON_DEMAND)])
def test_files_find_what_pytorch_finds(name: str, head: str, form: str, files: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    image = load_image(files / "images" / "1.png")
    expected = yolov7.load(files / f"{name}.pt", device="cpu", precision="fp32")(image, conf=CONF, max_det=20)
    flags = ("--format", form, "--head", head, "--img-size", "96", *(KEPT if head == "end2end" else ()))
    assert export(files, name, tmp_path, *flags) == 0
    suffix = "xml" if form == "openvino" else form
    found = yolov7.load(tmp_path / f"{name}.{suffix}")(image, conf=CONF, max_det=20)
    assert len(found) == len(expected) > 5 and list(found.extra) == list(expected.extra)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-2)
    assert torch.equal(found.labels, expected.labels) and dict(found.facts) == dict(expected.facts)
    if name == "PoseHead":
        torch.testing.assert_close(found.keypoints, expected.keypoints, rtol=0, atol=1e-2)
        assert np.array_equal(found.plot()[..., 0] != found.image[..., 0],
                              expected.plot()[..., 0] != expected.image[..., 0])
    else:
        assert (found.masks ^ expected.masks).flatten(1).sum(1).max() <= 5 and expected.masks.any()


@pytest.mark.slow
@ON_DEMAND
@pytest.mark.parametrize("flags", [
    ("--format", "onnx", "openvino", "--masks", "full", "--fp16", "--with-preprocess"),
    ("--format", "onnx", "openvino", "--dynamic"),
    ("--format", "onnx", "--masks", "none")], ids=lambda flags: " ".join(flags).replace("--", ""))
def test_forms_of_end_to_end_files(flags: tuple[str, ...], files: Path, tmp_path: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    assert export(files, "SegmentHead", tmp_path, "--head", "end2end", "--img-size", "96", "128", *flags, *KEPT) == 0
    assert "mask IoU" in capsys.readouterr().out
    half = "--fp16" in flags
    for entry in comparison(tmp_path).values():
        assert len(entry["inputs"]) == (4 if "--dynamic" in flags else 2)
        assert all(row["mask_iou"] >= (0.9 if half else 0.99) for row in entry["inputs"])
    names = [output.name for output in __import__("onnx").load(tmp_path / "SegmentHead.onnx").graph.output]
    assert names[-1] == ("prototypes" if "none" in flags else "masks")


@pytest.mark.untraced
def test_the_graph_of_masks_is_the_same_from_run_to_run(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    for folder in ("a", "b"):
        assert export(files, "SegmentHead", tmp_path / folder, "--head", "end2end", "--img-size", "64", *KEPT) == 0
    first, second = ((tmp_path / folder / "SegmentHead.onnx").read_bytes() for folder in ("a", "b"))
    assert first == second


# --- the comparison ----------------------------------------------------------------------------------------------


def test_masks_that_differ_are_a_failure(files: Path) -> None:
    """Also where boxes, scores, columns and maps are within their limits."""
    model = weights.load_model(files / "SegmentHead.pt").model
    inputs = {"1x96x96": np.random.default_rng(0).random((1, 3, 96, 96), np.float32)}
    own, other = parity.reference(model, inputs), parity.reference(model, inputs)
    facts = ExportFacts("m", micro_tasks.NAMES["SegmentHead"], 96, 32, "decoded", (), (), columns=("coefficients",),
                        maps=("prototypes",))
    make = MasksOf(model.head, facts)
    (row,) = parity.compare(own, other, parity.FULL, make)
    assert row.passed and row.mask_iou == 1 and row.mask_pixels == 0
    assert row.outputs == {"coefficients": 0, "prototypes": 0}

    def moved(*parts: torch.Tensor) -> torch.Tensor:
        return make(*parts).roll(int(parts[-1][0, 0, 0, 0] != first), -1)

    first = float(own["1x96x96"][0]["map/prototypes"][0, 0, 0])
    other["1x96x96"][0]["map/prototypes"][0, 0, 0] += 1e-5
    (row,) = parity.compare(own, other, parity.FULL, moved)
    assert not row.passed and row.values is not None and row.values < 1e-4 and row.unlike == 0
    assert row.mask_iou is not None and row.mask_iou < 0.99
    assert "mask IoU" in parity.text([row]) and parity.as_records([row])[0]["mask_pixels"] > 2


def test_small_masks_may_differ_by_two_pixels() -> None:
    difference = parity._MaskDifference()
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :2, :2] = True
    for count, passed in ((2, True), (3, False)):
        other = mask.clone()
        other[0, 5, :count] = True
        difference.add(mask, other, parity.FULL)
        assert difference.passed is passed and difference.pixels == count
    assert difference.iou == pytest.approx(4 / 7)
    difference = parity._MaskDifference()
    difference.add(mask, mask[:, :4], parity.FULL)
    assert not difference.passed and difference.iou == 0


# --- flags and metadata ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "flags", "message"), [
    ("SegmentHead", ("--masks", "full"), "--masks: is for --head end2end; found --head decoded"),
    ("PoseHead", ("--masks", "none", "--head", "end2end"), "--masks none: is for models of instance segmentation; "
     "PoseHead finds no masks"),
    ("SegmentHead", ("--head", "end2end", "--format", "tensorrt"), "coefficients of SegmentHead would be lost")])
def test_flags_that_do_not_go_with_a_model(head: str, flags: tuple[str, ...], message: str, files: Path,
                                           tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert export(files, head, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.untraced
def test_a_file_says_what_it_is(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert export(files, "PoseHead", tmp_path, "--head", "end2end", "--img-size", "64", *KEPT) == 0
    network = open_onnx(tmp_path / "PoseHead.onnx")
    assert network.facts.arguments == {"keypoints": ("head", "left_arm", "right_arm", "foot"),
                                       "limbs": ((0, 1), (0, 2), (0, 3)), "flip": (), "sigmas": (0.05, 0.1, 0.1, 0.2)}
    assert network.info.arguments == network.facts.arguments and network.facts.masks == ""
    outputs = run_onnx(tmp_path / "PoseHead.onnx", load_image(files / "images" / "0.png"), (64, 64))
    assert outputs["keypoints"].shape == (1, 20, 4, 3)


@pytest.mark.untraced
def test_outputs_that_are_missing_are_an_error(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert export(files, "SegmentHead", tmp_path, "--head", "end2end", "--img-size", "64", *KEPT) == 0
    network = open_onnx(tmp_path / "SegmentHead.onnx")
    whole = network.run
    network.run = lambda images: whole(images)[:-1]
    with pytest.raises(InputError, match="has 6 outputs, not those of its metadata"):
        network(torch.zeros(1, 3, 64, 64), 0.5)
    assert replace(network.facts, masks="").head == "end2end"

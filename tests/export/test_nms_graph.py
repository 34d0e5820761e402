"""NMS inside an ONNX graph against ours, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx_files import OPENCV_5, run_in_opencv

from yolov7.exporting import nms_graph
from yolov7.inference.exported import ExportFacts, Thresholds
from yolov7.inference.nms import NMSOptions, nms_image
from yolov7.model.heads.base import Predictions

onnx = pytest.importorskip("onnx")
CLASSES = 5


def facts(thresholds: Thresholds, classes: int = CLASSES, **of_task: Any) -> ExportFacts:
    return ExportFacts("some", ("name",) * classes, 64, 32, "end2end", (), (), thresholds=thresholds, **of_task)


def graph(tail: str, thresholds: Thresholds, classes: int = CLASSES) -> Any:
    rows = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18]>
        rows (float[batch, rows, 4] some_boxes, float[batch, rows, {classes}] some_scores)
            => (float[batch, rows, 4] boxes, float[batch, rows, {classes}] scores)
        {{ boxes = Identity (some_boxes) scores = Identity (some_scores) }}""")
    made = nms_graph.append(rows, tail, facts(thresholds, classes))
    onnx.checker.check_model(made)
    return made


@pytest.mark.parametrize("classes", [1, CLASSES])
@pytest.mark.parametrize("most", [4, 300])
def test_export_nms_parity(classes: int, most: int) -> None:
    """Best first, image by image, classes apart, as many as there are: images with many, few and no detections."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(graph(nms_graph.STANDARD, Thresholds(0.1, 0.5, most), classes)
                                           .SerializeToString())
    options, counts = NMSOptions(0.1, 0.5, most), []
    for seed in range(24):
        torch.manual_seed(seed)
        batch = seed % 3 + 1
        centre, size = torch.rand(batch, 200, 2) * 6000, torch.rand(batch, 200, 2) * 3000 + 5  # beyond 4096 px
        boxes = torch.cat((centre, centre + size), -1)
        scores = torch.rand(batch, 200, classes) ** (3 if seed % 2 else 30)
        if seed % 4 == 0:
            scores[0] = 0.05
        inputs = [entry.name for entry in session.get_inputs()]
        outputs = session.run(None, dict(zip(inputs, (boxes.numpy(), scores.numpy()), strict=True)))
        for index in range(batch):
            objectness = scores[index, :, 0] if classes == 1 else torch.ones(200)
            expected = nms_image(Predictions(boxes[index], objectness, scores[index]), options)
            found_boxes, found_scores, found_classes, count = (output[index] for output in outputs)
            counts.append(int(count))
            assert count == len(expected) and found_boxes.shape == (most, 4)
            assert np.array_equal(found_boxes[:count], expected.boxes.numpy())
            assert np.array_equal(found_scores[:count], expected.scores.numpy())
            assert np.array_equal(found_classes[:count], expected.labels.numpy())
            assert not found_boxes[count:].any() and not found_scores[count:].any() and not found_classes[count:].any()
    assert min(counts) == 0 and (max(counts) == most if most < 200 else 20 < max(counts) < most)


@pytest.mark.skipif(not OPENCV_5, reason="OpenCV runs NMS inside a graph from version 5 on")
@pytest.mark.parametrize("of_task", [False, True], ids=["detector", "task"])
@pytest.mark.parametrize("most", [4, 300])
def test_nms_in_opencv_parity(most: int, of_task: bool) -> None:
    """As ONNX Runtime to the bit, without any detection too (an empty list of places ends the process there)."""
    onnxruntime = pytest.importorskip("onnxruntime")
    limits = Thresholds(0.1, 0.5, most)
    file = (task_graph if of_task else graph)(nms_graph.STANDARD, limits).SerializeToString()
    session, counts = onnxruntime.InferenceSession(file), []
    for seed in range(6):
        torch.manual_seed(seed)
        batch = seed % 3 + 1
        centre, size = torch.rand(batch, 200, 2) * 600, torch.rand(batch, 200, 2) * 300 + 5
        scores = torch.rand(batch, 200, CLASSES) ** 9
        if seed % 3 < 2:  # of one image, which may be the only one
            scores[0] = 0.05
        values = [torch.cat((centre, centre + size), -1), scores, torch.randn(batch, 200),
                  torch.randn(batch, 200, 2, 3), torch.randn(batch, 3, 5, 7)]
        inputs = {entry.name: value.numpy() for entry, value in zip(session.get_inputs(), values, strict=False)}
        names = [entry.name for entry in session.get_outputs()]
        expected, found = session.run(None, inputs), run_in_opencv(file, inputs, names)
        assert all(np.array_equal(found[name], value) for name, value in zip(names, expected, strict=True))
        counts += expected[3].tolist()
    assert min(counts) == 0 and max(counts) > 3


def task_graph(tail: str, thresholds: Thresholds) -> Any:
    rows = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18]>
        rows (float[batch, rows, 4] some_boxes, float[batch, rows, {CLASSES}] some_scores,
              float[batch, rows] some_angle, float[batch, rows, 2, 3] some_table, float[batch, 3, h, w] some_map)
            => (float[batch, rows, 4] boxes, float[batch, rows, {CLASSES}] scores, float[batch, rows] angle,
                float[batch, rows, 2, 3] table, float[batch, 3, h, w] depth)
        {{ boxes = Identity (some_boxes) scores = Identity (some_scores) angle = Identity (some_angle)
           table = Identity (some_table) depth = Identity (some_map) }}""")
    made = nms_graph.append(rows, tail, facts(thresholds, columns=("angle", "table"), maps=("depth",)))
    onnx.checker.check_model(made)
    return made


@pytest.mark.parametrize("limit", [4, 300])
def test_columns_of_a_task_follow_the_detections(limit: int) -> None:
    """Those that NMS keeps in the same rows; zeros behind them; maps as they are."""
    onnxruntime = pytest.importorskip("onnxruntime")
    made = task_graph(nms_graph.STANDARD, Thresholds(0.1, 0.5, limit))
    session = onnxruntime.InferenceSession(made.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    assert names == ["boxes", "scores", "classes", "count", "angle", "table", "depth"]
    counts = []
    for seed in range(8):
        torch.manual_seed(seed)
        batch = seed % 3 + 1
        centre, size = torch.rand(batch, 200, 2) * 600, torch.rand(batch, 200, 2) * 300 + 5
        boxes, scores = torch.cat((centre, centre + size), -1), torch.rand(batch, 200, CLASSES) ** 9
        if seed % 4 == 0:
            scores[0] = 0.05
        angle, table, depth = torch.randn(batch, 200), torch.randn(batch, 200, 2, 3), torch.randn(batch, 3, 5, 7)
        inputs = dict(zip((entry.name for entry in session.get_inputs()), (boxes, scores, angle, table, depth),
                          strict=True))
        outputs = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        for index in range(batch):
            own = {"angle": angle[index], "table": table[index]}
            expected = nms_image(Predictions(boxes[index], torch.ones(200), scores[index], own),
                                 NMSOptions(0.1, 0.5, limit))
            _, _, _, count, found_angle, found_table, found_depth = (output[index] for output in outputs)
            counts.append(int(count))
            assert count == len(expected) and found_angle.shape == (limit,) and found_table.shape == (limit, 2, 3)
            assert np.array_equal(found_angle[:count], expected.extra["angle"].numpy())
            assert np.array_equal(found_table[:count], expected.extra["table"].numpy())
            assert not found_angle[count:].any() and not found_table[count:].any()
            assert np.array_equal(found_depth, depth[index].numpy())
    assert min(counts) == 0 and max(counts) == (4 if limit == 4 else max(counts)) and max(counts) > 3


def test_maps_come_before_the_node_that_tensorrt_takes() -> None:
    rows = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18]>
        rows (float[batch, rows, 4] some_boxes, float[batch, rows, {CLASSES}] some_scores,
              float[batch, 3, 8, 8] some_map)
            => (float[batch, rows, 4] boxes, float[batch, rows, {CLASSES}] scores, float[batch, 3, 8, 8] depth)
        {{ boxes = Identity (some_boxes) scores = Identity (some_scores) depth = Identity (some_map) }}""")
    made = nms_graph.append(rows, nms_graph.TENSORRT, facts(Thresholds(), maps=("depth",)))
    onnx.checker.check_model(made)
    assert [node.op_type for node in made.graph.node][-2:] == ["Identity", "EfficientNMS_TRT"]
    assert [output.name for output in made.graph.output][-1] == "depth"


@pytest.mark.parametrize("tail", [nms_graph.STANDARD, nms_graph.TENSORRT], ids=["standard", "tensorrt"])
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_outputs_declare_the_batch_of_the_input(tail: str, batch: int | None) -> None:
    """Also those of a task: a map stands for all others."""
    size = batch or "batch"
    rows = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18]>
        rows (float[{size}, rows, 4] some_boxes, float[{size}, rows, {CLASSES}] some_scores,
              float[{size}, 3, 8, 8] some_map)
            => (float[{size}, rows, 4] boxes, float[{size}, rows, {CLASSES}] scores, float[{size}, 3, 8, 8] depth)
        {{ boxes = Identity (some_boxes) scores = Identity (some_scores) depth = Identity (some_map) }}""")
    made = nms_graph.append(rows, tail, facts(Thresholds(), batch=batch, maps=("depth",)))
    first = [output.type.tensor_type.shape.dim[0] for output in made.graph.output]
    assert len(first) == 5 and {dim.dim_value or dim.dim_param for dim in first} == {size}


def test_the_node_that_tensorrt_takes() -> None:
    made = graph(nms_graph.TENSORRT, Thresholds(0.3, 0.6, 50))
    node = made.graph.node[-1]
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert (node.op_type, node.domain) == ("EfficientNMS_TRT", "TRT")
    assert found == {"background_class": -1, "box_coding": 0, "iou_threshold": pytest.approx(0.6), "class_agnostic": 0,
                     "max_output_boxes": 50, "score_activation": 0, "score_threshold": pytest.approx(0.3),
                     "plugin_version": b"1"}
    shapes = {output.name: [d.dim_value or d.dim_param for d in output.type.tensor_type.shape.dim]
              for output in made.graph.output}
    assert shapes == {"num_dets": ["batch", 1], "det_boxes": ["batch", 50, 4], "det_scores": ["batch", 50],
                      "det_classes": ["batch", 50]}
    assert [entry.domain for entry in made.opset_import] == ["", "TRT"]

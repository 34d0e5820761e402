"""Suppression inside an ONNX graph against ours, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from yolov7.export import suppression
from yolov7.inference.exported import Thresholds
from yolov7.inference.postprocess import NMSOptions, suppress
from yolov7.model.anchors import Predictions

onnx = pytest.importorskip("onnx")
CLASSES = 5


def graph(tail: str, thresholds: Thresholds, classes: int = CLASSES) -> Any:
    rows = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 18]>
        rows (float[batch, rows, 4] some_boxes, float[batch, rows, {classes}] some_scores)
            => (float[batch, rows, 4] boxes, float[batch, rows, {classes}] scores)
        {{ boxes = Identity (some_boxes) scores = Identity (some_scores) }}""")
    made = suppression.append(rows, tail, classes, thresholds)
    onnx.checker.check_model(made)
    return made


@pytest.mark.parametrize("classes", [1, CLASSES])
@pytest.mark.parametrize("most", [4, 300])
def test_export_suppression_parity(classes: int, most: int) -> None:
    """Best first, per picture, classes apart, as many as there are: pictures with many, few and no detections."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(graph(suppression.STANDARD, Thresholds(0.1, 0.5, most), classes)
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
            expected = suppress(Predictions(boxes[index], objectness, scores[index]), options)
            found_boxes, found_scores, found_classes, count = (output[index] for output in outputs)
            counts.append(int(count))
            assert count == len(expected) and found_boxes.shape == (most, 4)
            assert np.array_equal(found_boxes[:count], expected.boxes.numpy())
            assert np.array_equal(found_scores[:count], expected.scores.numpy())
            assert np.array_equal(found_classes[:count], expected.labels.numpy())
            assert not found_boxes[count:].any() and not found_scores[count:].any() and not found_classes[count:].any()
    assert min(counts) == 0 and (max(counts) == most if most < 200 else 20 < max(counts) < most)


def test_the_node_that_tensorrt_takes() -> None:
    made = graph(suppression.TENSORRT, Thresholds(0.3, 0.6, 50))
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

"""Suppression inside an ONNX graph: by the standard's own operator, or by TensorRT's plugin."""

from __future__ import annotations

from typing import Any

from yolov7.inference.exported import Thresholds

ROWS = ("network/boxes", "network/scores")  # tensors between the network and its suppression

STANDARD = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
suppression (float[batch, rows, 4] all_boxes, float[batch, rows, {classes}] all_scores)
    => (float[batch, {most}, 4] boxes, float[batch, {most}] scores, int32[batch, {most}] classes, int32[batch] count)
{{
    last = Constant <value_ints = [2]> ()
    best = ReduceMax <keepdims = 0> (all_scores, last)
    label = ArgMax <axis = 2, keepdims = 0> (all_scores)
    each_class = Constant <value_ints = [{class_list}]> ()
    label_column = Unsqueeze (label, last)
    is_label = Equal (label_column, each_class)
    nothing = Constant <value_float = 0.0> ()
    one_class = Where (is_label, all_scores, nothing)
    by_class = Transpose <perm = [0, 2, 1]> (one_class)
    most = Constant <value_ints = [{most}]> ()
    iou = Constant <value_floats = [{iou}]> ()
    confidence = Constant <value_floats = [{confidence}]> ()
    kept = NonMaxSuppression (all_boxes, by_class, most, iou, confidence)
    columns = Constant <value_ints = [0, 2]> ()
    place = Gather <axis = 1> (kept, columns)
    kept_boxes = GatherND (all_boxes, place)
    kept_scores = GatherND (best, place)
    kept_labels = GatherND (label, place)
    first_column = Constant <value_int = 0> ()
    image = Gather <axis = 1> (kept, first_column)
    shape = Shape (all_scores)
    pictures = Gather <axis = 0> (shape, first_column)
    step = Constant <value_int = 1> ()
    every_image = Range (first_column, pictures, step)
    axis_1 = Constant <value_ints = [1]> ()
    axis_0 = Constant <value_ints = [0]> ()
    image_column = Unsqueeze (every_image, axis_1)
    is_own = Equal (image_column, image)
    absent = Constant <value_float = -1.0> ()
    own_scores = Where (is_own, kept_scores, absent)
    images_list = Unsqueeze (pictures, axis_0)
    padding_shape = Concat <axis = 0> (images_list, most)
    padding = Expand (absent, padding_shape)
    padded_scores = Concat <axis = 1> (own_scores, padding)
    top_scores, index = TopK <axis = 1, sorted = 1> (padded_scores, most)
    is_found = Greater (top_scores, nothing)
    four = Constant <value_ints = [4]> ()
    box_padding_shape = Concat <axis = 0> (most, four)
    box_padding = ConstantOfShape (box_padding_shape)
    padded_boxes = Concat <axis = 0> (kept_boxes, box_padding)
    label_padding = ConstantOfShape <value = int64[1] {{0}}> (most)
    padded_labels = Concat <axis = 0> (kept_labels, label_padding)
    top_boxes = Gather <axis = 0> (padded_boxes, index)
    top_labels = Gather <axis = 0> (padded_labels, index)
    is_found_column = Unsqueeze (is_found, last)
    boxes = Where (is_found_column, top_boxes, nothing)
    scores = Where (is_found, top_scores, nothing)
    no_label = Constant <value_int = 0> ()
    long_classes = Where (is_found, top_labels, no_label)
    classes = Cast <to = 6> (long_classes)
    found_numbers = Cast <to = 6> (is_found)
    count = ReduceSum <keepdims = 0> (found_numbers, axis_1)
}}
"""

TENSORRT = """
<ir_version: {ir}, opset_import: ["" : {opset}, "TRT" : 1]>
suppression (float[batch, rows, 4] all_boxes, float[batch, rows, {classes}] all_scores)
    => (int32[batch, 1] num_dets, float[batch, {most}, 4] det_boxes, float[batch, {most}] det_scores,
        int32[batch, {most}] det_classes)
{{
    num_dets, det_boxes, det_scores, det_classes = TRT.EfficientNMS_TRT <background_class = -1, box_coding = 0,
        iou_threshold = {iou}, max_output_boxes = {most}, plugin_version = "1", score_activation = 0,
        score_threshold = {confidence}, class_agnostic = 0> (all_boxes, all_scores)
}}
"""


def append(graph: Any, text: str, num_classes: int, thresholds: Thresholds) -> Any:
    """A graph with the outputs ``boxes`` and ``scores`` of all rows -> one that suppresses (`STANDARD`, `TENSORRT`)."""
    import onnx

    tail = onnx.parser.parse_model(text.format(
        ir=graph.ir_version, opset=graph.opset_import[0].version, classes=num_classes, most=thresholds.most,
        class_list=", ".join(map(str, range(num_classes))), iou=repr(float(thresholds.iou)),
        confidence=repr(float(thresholds.confidence))))
    head = onnx.compose.add_prefix(graph, "network/", rename_inputs=False)
    merged = onnx.compose.merge_models(head, tail, list(zip(ROWS, ("all_boxes", "all_scores"), strict=True)))
    versions = {entry.domain: entry.version for entry in merged.opset_import}  # the standard's stands there twice
    del merged.opset_import[:]
    merged.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in versions.items())
    return merged

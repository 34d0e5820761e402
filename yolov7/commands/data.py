"""``yolov7 data ...``."""

from __future__ import annotations

from yolov7.config.options import AnchorsOptions, ConvertOptions


def convert(options: ConvertOptions) -> int:
    """Write a data set as YOLO txt or as COCO JSON, with the file that train.py reads."""
    from yolov7.data.convert import convert as run_conversion

    run_conversion(options)
    return 0


def anchors(options: AnchorsOptions) -> int:
    """Show how well a model's anchors fit a data set, beside fitted ones; writes the model with those."""
    from yolov7.engine.anchors import show_anchors

    show_anchors(options)
    return 0

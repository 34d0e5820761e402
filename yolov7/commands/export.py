"""``yolov7 export``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolov7.config.options import ExportOptions

if TYPE_CHECKING:
    from yolov7.exporting.run import ExportRun


def export(options: ExportOptions) -> ExportRun:
    """Write weights for deployment, TorchScript, ONNX, OpenVINO, TensorRT; each is run and compared with PyTorch."""
    from yolov7.exporting.run import export as run_export
    from yolov7.runtime import folders

    return run_export(options, folders.find_best(options.weights))

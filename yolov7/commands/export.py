"""``yolov7 export``."""

from __future__ import annotations

from yolov7.config.options import ExportOptions


def export(options: ExportOptions) -> int:
    """Write weights for deployment, TorchScript, ONNX, OpenVINO, TensorRT; each is run and compared with PyTorch."""
    from yolov7.export.run import export as run_export
    from yolov7.runtime import folders

    return 0 if run_export(options, folders.find_best(options.weights)) else 1

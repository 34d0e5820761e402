"""YOLOv7 in PyTorch: from a YAML model config to a deployed, re-parameterized detector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolov7.api import ImageResult, Model, Results, load
    from yolov7.config import InputError, RunError

__version__ = "0.1.0"
__all__ = ["ImageResult", "InputError", "Model", "Results", "RunError", "__version__", "load"]

RENAMED = {"PictureDetections": "ImageResult"}  # old names go with the next version


def __getattr__(name: str) -> Any:
    """``yolov7.load``, the classes of its results, and its errors; torch is imported with the first of them."""
    if name in RENAMED:
        import warnings

        warnings.warn(f"yolov7.{name} is now yolov7.{RENAMED[name]}; the old name goes with the next version",
                      DeprecationWarning, stacklevel=2)
        name = RENAMED[name]
    if name in ("InputError", "RunError"):
        from yolov7 import config

        return getattr(config, name)
    if name in ("ImageResult", "Model", "Results", "load"):
        from yolov7 import api

        return getattr(api, name)
    raise AttributeError(f"module 'yolov7' has no attribute {name!r}")

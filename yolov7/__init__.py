"""YOLOv7 in PyTorch: from a YAML model config to a deployed, re-parameterized detector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolov7.api import Model, PictureDetections, load

__version__ = "0.1.0"
__all__ = ["Model", "PictureDetections", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """``yolov7.load`` and the classes of its results; torch is imported with the first of them."""
    if name in ("Model", "PictureDetections", "load"):
        from yolov7 import api

        return getattr(api, name)
    raise AttributeError(f"module 'yolov7' has no attribute {name!r}")

"""YOLOv7 in PyTorch: from a YAML model config to a deployed, re-parameterized detector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolov7.api import ImageResult, Model, Results, load
    from yolov7.config import InputError, RunError
    from yolov7.functions import (
        ablation,
        average,
        check_data,
        compare,
        convert_data,
        detect,
        export,
        fit_anchors,
        models,
        recipe,
        shard_data,
        speed,
        test,
        train,
        tune,
    )

__version__ = "0.1.0"
__all__ = ["ImageResult", "InputError", "Model", "Results", "RunError", "__version__", "ablation", "average",
           "check_data", "compare", "convert_data", "detect", "export", "fit_anchors", "load", "models", "recipe",
           "shard_data", "speed", "test", "train", "tune"]

RENAMED = {"PictureDetections": "ImageResult"}  # old names go with the next version
HOMES = {**dict.fromkeys(("InputError", "RunError"), "config"),
         **dict.fromkeys(("ImageResult", "Model", "Results", "load"), "api"),
         **dict.fromkeys(("ablation", "average", "check_data", "compare", "convert_data", "detect", "export",
                          "fit_anchors", "models", "recipe", "shard_data", "speed", "test", "train", "tune"),
                         "functions")}


def __getattr__(name: str) -> Any:
    """What ``__all__`` names; torch is imported with the first of them that needs it."""
    if name in RENAMED:
        import warnings

        warnings.warn(f"yolov7.{name} is now yolov7.{RENAMED[name]}; the old name goes with the next version",
                      DeprecationWarning, stacklevel=2)
        name = RENAMED[name]
    if name in HOMES:
        from importlib import import_module

        return getattr(import_module(f"yolov7.{HOMES[name]}"), name)
    raise AttributeError(f"module 'yolov7' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

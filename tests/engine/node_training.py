"""`shared_training` on a machine of its own, with a note of every cache that is written: run by ``test_nodes.py``.

``python node_training.py DATA FOLDER``, under torchrun; ``$YOLOV7_CACHE_DIR`` is the machine's own disk.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import shared_training

from yolov7.data.image_cache import ImageCache
from yolov7.data.label_cache import LabelCache


def note(what: str) -> None:
    with open(Path(os.environ["YOLOV7_CACHE_DIR"], "written.txt"), "a", encoding="utf-8") as stream:
        stream.write(f"{what} {os.environ['RANK']}\n")


def noted(method: Any, what: str) -> Any:
    def wrapped(self: Any, *arguments: Any) -> Any:
        note(what)
        return method(self, *arguments)

    return wrapped


if __name__ == "__main__":
    LabelCache.store = noted(LabelCache.store, "labels")  # type: ignore[method-assign]
    ImageCache._write = noted(ImageCache._write, "images")  # type: ignore[method-assign]
    shared_training.hold_norms()
    shared_training.train(sys.argv[1], Path(sys.argv[2]), False, cache="disk")

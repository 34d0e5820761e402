"""Where caches of data sets go."""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "YOLOV7_CACHE_DIR"
BESIDE_THE_DATA = ".yolov7-cache"


def cache_folder(near: Path) -> Path | None:
    """An existing folder for caches of the data in ``near``, or None where nothing can be written: memory only.

    ``$YOLOV7_CACHE_DIR`` if set; else ``<near>/.yolov7-cache``; else ``${XDG_CACHE_HOME:-~/.cache}/yolov7``. For
    labels, ``near`` is the folder that the data set's relative paths start from: the YAML's ``path``, else the
    YAML's own folder, or the folder in COCO layout.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        folder = Path(os.path.abspath(os.path.expanduser(named)))
        if _can_write(folder):
            return folder
        logger.warning("%s=%s: cannot be written to; nothing is cached", CACHE_VARIABLE, named)
        return None
    home = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    places = [near / BESIDE_THE_DATA] if near.is_dir() else []
    places += [home / "yolov7"] if home.is_absolute() else []
    return next(filter(_can_write, places), None)


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)

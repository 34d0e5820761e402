"""A window that shows what is found while it is found, where there is a screen."""

from __future__ import annotations

import subprocess
import sys

from yolov7.data.images import cv2
from yolov7.inference.writers import Result

CLOSING_KEYS = (ord("q"), 27)  # 27: Escape
PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1)"


def has_display() -> bool:
    """Whether a window can be opened; tried in a process of its own, as some libraries end theirs where it cannot."""
    try:
        probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0


def show(result: Result) -> bool:
    """Show a frame in the window of its file or stream; whether the run goes on (q and Escape end it)."""
    title = result.frame.name if result.frame.video else "pictures"
    cv2.imshow(title, cv2.cvtColor(result.drawn, cv2.COLOR_RGB2BGR))
    return cv2.waitKey(1) & 0xFF not in CLOSING_KEYS

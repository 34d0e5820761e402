"""Detection with ONNX Runtime and NumPy alone: a file that needs nothing of this package, or of torch.

Export with pre-processing and suppression in the graph, for one image of any size::

    python export.py --weights best.pt --format onnx --head end2end --with-preprocess --dynamic
    python scripts/onnx_example.py best.onnx picture.npy

``picture.npy`` is an RGB array uint8 ``[H, W, 3]`` (``np.save("picture.npy", np.asarray(Image.open("picture.jpg")))``).
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime

GREY = 114


def letterbox(image: np.ndarray, side: int, stride: int) -> tuple[np.ndarray, float, int, int]:
    """Long side scaled to ``side``, grey to multiples of ``stride``; also the gain, and the pad at left and top."""
    height, width = image.shape[:2]
    gain = side / max(height, width)
    new_height, new_width = max(round(height * gain), 1), max(round(width * gain), 1)
    padded_height, padded_width = -(-new_height // stride) * stride, -(-new_width // stride) * stride
    left, top = (padded_width - new_width) // 2, (padded_height - new_height) // 2
    out = np.full((padded_height, padded_width, 3), GREY, np.uint8)
    out[top : top + new_height, left : left + new_width] = resize(image, new_height, new_width)
    return out, gain, left, top


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear."""
    for axis, size in ((0, height), (1, width)):
        old = image.shape[axis]
        at = ((np.arange(size) + 0.5) * old / size - 0.5).clip(0, old - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return np.rint(image).astype(np.uint8)


def detect(session: onnxruntime.InferenceSession, image: np.ndarray) -> list[tuple[str, float, list[float]]]:
    """Name, score and box (left, top, right, bottom in pixels of the image) of every detection, best first."""
    facts = json.loads(session.get_modelmeta().custom_metadata_map["yolov7"])  # what the file says of itself
    boxed, gain, left, top = letterbox(image, facts["image_size"], facts["stride"])
    boxes, scores, classes, count = session.run(None, {session.get_inputs()[0].name: boxed[None]})
    found = []
    for box, score, label in zip(boxes[0][: count[0]], scores[0], classes[0], strict=False):
        native = (box - [left, top, left, top]) / gain
        limits = [image.shape[1], image.shape[0]] * 2
        found.append((facts["names"][label], float(score), np.clip(native, 0, limits).round(1).tolist()))
    return found


if __name__ == "__main__":
    for row in detect(onnxruntime.InferenceSession(sys.argv[1]), np.load(sys.argv[2])):
        sys.stdout.write(f"{row}\n")

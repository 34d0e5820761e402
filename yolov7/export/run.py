"""The export command: write each format, then compare it with the training-form model on a real picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from yolov7.config import InputError, unknown
from yolov7.data.catalog import open_data, open_split
from yolov7.data.images import letterbox, load_image
from yolov7.export.onnx import DecodedModel, require_onnx, run_onnx, write_onnx
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.original import export_state_dict
from yolov7.model.reparam import deployed, is_fused
from yolov7.model.weights import LoadedModel
from yolov7.options import ExportOptions

logger = logging.getLogger(__name__)

FORMATS = ("weights", "onnx", "original")
TOLERANCE = 1e-3  # largest difference over the largest magnitude of an output


def export(options: ExportOptions, path: Path) -> bool:
    """Write the formats that are asked for; returns whether every file equals the model.

    ``weights`` are re-parameterized, and written beside ``onnx`` too; ``original`` is the state dict that the
    original's training graph loads. The reference is the model as it was loaded, before re-parameterization.
    """
    for name in options.format:
        if name not in FORMATS:
            raise InputError(f"--format: {unknown('format', name, FORMATS)}")
    if "onnx" in options.format:
        require_onnx()
    loaded = weights.load_model(path, options.cfg)
    images = _reference_images(options, loaded)
    expected = _run(loaded.model, images)
    state = _state_of_original(loaded, path) if "original" in options.format else {}
    folder = Path(options.output) if options.output else path.parent
    folder.mkdir(parents=True, exist_ok=True)
    equal = True
    if state:
        written = folder / f"{path.stem}-original.pt"
        weights.save(state, written)
        equal = _compare(written, expected, _run(_read_back(written, loaded), images))
    if set(options.format) == {"original"}:
        return equal
    fused = deployed(loaded.model)
    written = folder / f"{path.stem}-deploy.pt"
    description = weights.describe(fused, loaded.names, loaded.image_size, loaded.data, loaded.merged)
    weights.save({**description, "model": fused.state_dict(), "epoch": loaded.epoch}, written)
    equal = _compare(written, expected, _run(weights.load_model(written).model, images)) and equal
    if "onnx" in options.format:
        written = folder / f"{path.stem}.onnx"
        write_onnx(fused, images, written, loaded.info)
        equal = _compare(written, expected, run_onnx(written, images)) and equal
    return equal


def _state_of_original(loaded: LoadedModel, path: Path) -> dict[str, Tensor]:
    if is_fused(loaded.model):
        raise InputError(f"{path}: is re-parameterized and has no original layout; accepted: best.pt or last.pt of a "
                         "run")
    return export_state_dict(loaded.model)


def _read_back(written: Path, loaded: LoadedModel) -> Detector:
    model = Detector(loaded.model.spec, len(loaded.names))
    weights.initialize_from(model, written)
    return model.eval()


def _reference_images(options: ExportOptions, loaded: LoadedModel) -> Tensor:
    """A real picture in the exported shape, repeated to the batch: float32 ``[B, 3, H, W]`` in 0..1."""
    stride = loaded.model.stride
    sizes = options.img_size or (loaded.image_size,)
    height, width = (-(-size // stride) * stride for size in (sizes[0], sizes[-1]))
    picture = options.source or _picture_of_data(loaded)
    boxed, _, _ = letterbox(load_image(picture), (height, width), stride, auto=False)
    logger.info("input: batch %d, %d x %d (height x width), compared on %s", options.batch_size, height, width, picture)
    image = torch.from_numpy(np.ascontiguousarray(boxed.transpose(2, 0, 1))).float() / 255
    return image.expand(options.batch_size, -1, -1, -1).contiguous()


def _picture_of_data(loaded: LoadedModel) -> str:
    try:
        return open_split(open_data(loaded.data), "val").paths[0]
    except InputError as error:
        raise InputError(f"--source: needed for the comparison with PyTorch (a picture), as {error}") from None


@torch.inference_mode()
def _run(model: torch.nn.Module, images: Tensor) -> dict[str, np.ndarray]:
    boxes, scores = DecodedModel(model).eval()(images)  # type: ignore[arg-type]
    return {"boxes": boxes.numpy(), "scores": scores.numpy()}


def _compare(path: Path, expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> bool:
    """Log the largest differences of a written file; False, and an error, above `TOLERANCE`."""
    equal = True
    for name, value in expected.items():
        difference = float(np.abs(found[name] - value).max())
        relative = difference / max(float(np.abs(value).max()), 1e-12)
        equal &= bool(relative <= TOLERANCE)  # not a number is no match either
        logger.info("%s: %s differ by at most %.2e (%.1e relative)", path, name, difference, relative)
    if not equal:
        logger.error("%s differs from PyTorch by more than %g relative", path, TOLERANCE)
    return equal

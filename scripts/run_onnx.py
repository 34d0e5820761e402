"""Run an ONNX file in whichever runtime this Python has, with NumPy alone beside it (see `compare_runtimes.py`).

    python scripts/run_onnx.py FILE INPUTS.npz OUTPUTS.npz

Every array of ``INPUTS`` is a batch of images; ``OUTPUTS`` has the arrays ``name/OUTPUT`` of each. Prints the version
of the runtime, then ``loaded``, then ``done``; an error ends it with its message.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np

Run = Callable[[np.ndarray], "dict[str, np.ndarray]"]


def find_runtime() -> ModuleType:
    """ONNX Runtime, else OpenCV."""
    try:
        import onnxruntime as runtime
    except ImportError:
        import cv2 as runtime  # type: ignore[no-redef]
    return runtime  # type: ignore[no-any-return]


def open_onnxruntime(runtime: ModuleType, path: str) -> Run:
    """On the CPU."""
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {session.get_inputs()[0].name: images})))  # noqa: B905


def open_opencv(runtime: ModuleType, path: str) -> Run:
    """By its new engine, where it has one."""
    engine = [runtime.dnn.ENGINE_NEW] if hasattr(runtime.dnn, "ENGINE_NEW") else []
    network = runtime.dnn.readNetFromONNX(path, *engine)
    names = network.getUnconnectedOutLayersNames()

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        network.setInput(images)
        return dict(zip(names, network.forward(names)))  # noqa: B905

    return run


def main() -> None:
    """See above."""
    path, given, made = sys.argv[1:]
    runtime = find_runtime()
    sys.stdout.write(f"{runtime.__version__}\n")
    run = (open_opencv if runtime.__name__ == "cv2" else open_onnxruntime)(runtime, path)
    sys.stdout.write("loaded\n")
    sys.stdout.flush()
    with np.load(given) as batches:
        found = {f"{name}/{output}": array for name in batches.files for output, array in run(batches[name]).items()}
    np.savez(made, **found)
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()

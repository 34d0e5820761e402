"""Detection in a long video: memory from the first frame to the last, and the pace beside that of each stage alone.

A video of 10,000 frames (numbered, made from real images) goes through ``detect.py`` with a small model of random
weights, every output switched on. Frames in must be frames out, in their order, and the memory of the second half must
stay within 16 MiB of that of the first. Then 300 frames with reading, network and writing one after the other, beside
the overlapped run. Writes ``scripts/results/detect.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine

from yolov7.config import atomic_write  # noqa: E402
from yolov7.config.options import DetectOptions  # noqa: E402
from yolov7.data.sources import Files, open_source  # noqa: E402
from yolov7.data.video import VideoWriter  # noqa: E402
from yolov7.inference import detect as detection  # noqa: E402
from yolov7.inference.network import TorchNetwork  # noqa: E402
from yolov7.inference.nms import NMSOptions  # noqa: E402
from yolov7.inference.predictor import Predictor  # noqa: E402
from yolov7.inference.writers import Result, open_writers  # noqa: E402
from yolov7.model.detector import Detector  # noqa: E402
from yolov7.model.scaling import Scale  # noqa: E402
from yolov7.model.spec import read_spec, scaled_spec  # noqa: E402
from yolov7.model.weights import ModelInfo  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from numbered import BITS, number_of, numbered, real_pictures  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "detect.json"
IMAGES = Path(__file__).parents[2] / "shared" / "data" / "coco-mini" / "images" / "val2017"
NAMES = ("a", "b", "c")


def small_model(width: float) -> TorchNetwork:
    """yolov7-tiny of random weights, scaled."""
    torch.manual_seed(5)
    spec = scaled_spec(read_spec("yolov7-tiny"), Scale(width=width, hidden_width=width))[0]
    return TorchNetwork(Detector(spec, len(NAMES)), torch.device("cpu"), info=ModelInfo(NAMES, 96))


def make_video(path: Path, frames: int, images: list[np.ndarray]) -> None:
    """A numbered video."""
    height, width = images[0].shape[:2]
    with VideoWriter(path, 25.0, width, height) as writer:
        for number in range(frames):
            writer.write(numbered(images[number // 25 % len(images)], number % 2**BITS))


def memory() -> float:
    """MiB of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096 / 2**20


def watch_memory(options: DetectOptions, network: TorchNetwork, folder: Path) -> list[float]:
    """Detect, and the memory after every frame."""
    levels: list[float] = []
    write = detection._Output.write

    def watched(output: Any, result: Result) -> None:
        write(output, result)
        levels.append(memory())

    detection._Output.write = watched  # type: ignore[method-assign]
    detection.detect(options, network, lambda: folder)
    detection._Output.write = write  # type: ignore[method-assign]
    return levels


def one_after_the_other(options: DetectOptions, network: TorchNetwork, folder: Path, frames: int) -> dict[str, float]:
    """Seconds of each stage alone, and of all of them in turn."""
    source = open_source(options.source)
    predictor = Predictor(network, NMSOptions(options.conf_thres), options.img_size)
    started = time.perf_counter()
    read = list(islice(source.batches(1), frames))
    times = {"read": time.perf_counter() - started}
    started = time.perf_counter()
    results = [Result(batch[0], predictor([batch[0].image])[0], {}) for batch in read]
    times["network"] = time.perf_counter() - started
    started = time.perf_counter()
    with ExitStack() as stack:
        writers = open_writers(options, folder, NAMES, stack)
        for result in results:
            for write in writers:
                write(result)
    times["write"] = time.perf_counter() - started
    return times | {"in turn": sum(times.values())}


def run_long_video(folder: Path, frames: int, side: int) -> dict[str, Any]:
    """Frames in and out, pace and memory of a video of ``side`` pixels' width."""
    make_video(folder / "long.mp4", frames, real_pictures(IMAGES, 40, side * 3 // 4, side))
    flags = DetectOptions(source=str(folder / "long.mp4"), img_size=64, conf_thres=0.02, save_json=True,
                          save_jsonl=True, save_csv=True, save_coco=True)
    (folder / "long").mkdir()
    started = time.perf_counter()
    levels = watch_memory(flags, small_model(0.25), folder / "long")
    seconds = time.perf_counter() - started
    written = open_source(str(folder / "long" / "long.mp4"))
    assert isinstance(written, Files)
    in_order = [number_of(frame.image) for frame in written] == [i % 2**BITS for i in range(frames)]
    half = len(levels) // 2
    return {"frames": len(levels), "in_order": in_order, "frames_per_second": len(levels) / seconds,
            "memory_mib": levels[:: max(len(levels) // 20, 1)],
            "grown_mib": max(levels[half:]) - max(levels[half // 5 : half])}


def run_both_ways(folder: Path) -> dict[str, float]:
    """Seconds of 300 frames of 1280 x 720 pixels, one stage after the other and overlapped."""
    make_video(folder / "hd.mp4", 300, real_pictures(IMAGES, 12, 720, 1280))
    flags = DetectOptions(source=str(folder / "hd.mp4"), img_size=320, conf_thres=0.02, save_txt=True)
    (folder / "hd").mkdir()
    times = one_after_the_other(flags, small_model(0.5), folder / "hd", 300)
    started = time.perf_counter()
    detection.detect(flags, small_model(0.5), lambda: folder / "hd")
    return times | {"overlapped": time.perf_counter() - started}


def main() -> int:
    """Measure, print, and fail where frames are lost or memory grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", default=10_000, type=int)
    parser.add_argument("--side", default=160, type=int, help="width of the long video")
    options = parser.parse_args()
    torch.set_num_threads(1)  # one core for the network, the other for reading and writing
    with tempfile.TemporaryDirectory() as name:
        row = run_long_video(Path(name), options.frames, options.side)
        first, *_, last = row["memory_mib"]
        sys.stdout.write(f"{row['frames']} frames, in order: {row['in_order']}, {row['frames_per_second']:.0f} a "
                         f"second; memory {first:.0f} MiB at the first, {last:.0f} at the end, "
                         f"{row['grown_mib']:+.1f} in the second half\n")
        times = run_both_ways(Path(name))
        sys.stdout.write("300 frames of 1280 x 720, seconds: "
                         + ", ".join(f"{stage} {spent:.1f}" for stage, spent in times.items()) + "\n")
    content = {"machine": describe_machine()} | row | {"seconds_of_300_frames": times}
    atomic_write(RESULTS, json.dumps(content, indent=1))
    return 0 if row["in_order"] and row["frames"] == options.frames and row["grown_mib"] < 16 else 1


if __name__ == "__main__":
    sys.exit(main())

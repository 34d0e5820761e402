"""Loss, data, training step and evaluation beside those of another commit, in processes that take turns.

    python scripts/benchmark_against.py --base FOLDER [--rounds 6] [--data FOLDER_IN_COCO_LAYOUT] [--only loss step]

FOLDER is a checkout of another commit, such as c9cb2d8. Every round starts a process of each state for each piece, on
one thread; within a process the fastest half of the repetitions counts. The figure of a piece is the median over
rounds of ours over the other; its memory is the most that a process held. Writes ``scripts/results/against.json``; the
last line is the largest of the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEFAULT_DATA = ROOT.parent / "shared" / "data" / "coco-mini"


# --- in a process of one state -----------------------------------------------------------------------------------


def fastest_half(work: Callable[[], object], repetitions: int) -> float:
    """Mean CPU seconds of the faster half: other processes on the machine disturb them least."""
    work()
    times = []
    for _ in range(repetitions):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.mean(sorted(times)[: max(repetitions // 2, 1)])


def measure_loss(_: str, __: str) -> float:
    """Loss and gradients of 16 images with 20 objects each, 640 px, 80 classes."""
    import torch

    from yolov7.loss.criterion import Criterion
    from yolov7.model.spec import read_spec
    from yolov7.structures import HeadOutput, Targets

    try:
        from yolov7.config.recipe import LossConfig
        from yolov7.loss.criterion import total_loss
    except ImportError:  # an earlier commit
        from yolov7.options import LossConfig  # type: ignore[import-not-found, no-redef]

        def total_loss(losses: Any) -> Any:
            return losses.total

    generator = torch.Generator().manual_seed(0)
    anchors = torch.tensor(read_spec("yolov7").head.anchors)
    levels = tuple(torch.randn(16, 3, side, side, 85, generator=generator).requires_grad_() for side in (80, 40, 20))
    corner = 500 * torch.rand(16, 24, 2, generator=generator)
    side = 8 + 120 * torch.rand(16, 24, 2, generator=generator)
    valid = (torch.arange(24) < 20).expand(16, -1).contiguous()
    boxes = torch.cat((corner, corner + side), -1) * valid[..., None]
    targets = Targets(boxes, torch.randint(0, 80, (16, 24), generator=generator) * valid, valid, (20,) * 16)
    criterion = Criterion(LossConfig(), anchors, (8, 16, 32), 80)
    return fastest_half(lambda: torch.autograd.grad(total_loss(criterion(HeadOutput(levels), targets)), levels), 14)


def measure_data(data: str, _: str) -> float:
    """A sample of the p5 recipe at 640 px, from the file on the disk."""
    from yolov7.data.catalog import open_data, open_split
    from yolov7.data.dataset import TrainingDataset

    try:
        from yolov7.config.recipe import read_recipe
    except ImportError:
        from yolov7.options import read_recipe  # type: ignore[import-not-found, no-redef]
    import cv2

    cv2.setNumThreads(0)
    image_set = open_split(open_data(data), "train", training=True)
    dataset = TrainingDataset(image_set, 640, read_recipe("p5").augment)

    def pass_over_it() -> None:
        for position in range(40):
            dataset[0, position, position % len(dataset)]

    return fastest_half(pass_over_it, 8) / 40


def measure_step(data: str, folder: str) -> float:
    """Forward, loss, backward, optimizer and average of yolov7-tiny, 320 px, batch 8, float32."""
    from contextlib import ExitStack

    import torch

    from yolov7.engine import run

    try:
        from yolov7.engine.run_config import TrainOptions
        from yolov7.runtime.distributed import Processes
    except ImportError:
        from yolov7.engine.distributed import Processes  # type: ignore[import-not-found, no-redef]
        from yolov7.options import TrainOptions  # type: ignore[import-not-found, no-redef]
    options = TrainOptions(cfg="yolov7-tiny", data=data, img_size=(320,), batch_size=8, nominal_batch=8, workers=0,
                           device="cpu", precision="fp32", project=folder)
    build = getattr(run, "build_trainer", None) or run._new_run
    trainer = build(options, torch.device("cpu"), Processes(), ExitStack())
    trainer.sampler.set_epoch(0)
    batch = next(iter(trainer.loader))
    trainer.state.model.train()

    def step() -> None:
        trainer.step.backward(batch, (0, 0, 0), len(batch.images), last=True)
        trainer.step.update()

    return fastest_half(step, 8)


def measure_evaluation(data: str, _: str) -> float:
    """Everything but the network: a split with 300 detections an image, from its predictions to the score."""
    import torch

    from yolov7.data.catalog import open_data, open_split
    from yolov7.data.loader import evaluation_loader
    from yolov7.evaluation.evaluate import evaluate
    from yolov7.inference.network import TorchNetwork
    from yolov7.model.detector import Detector
    from yolov7.model.spec import read_spec

    image_set = open_split(open_data(data), "val")
    torch.manual_seed(0)
    model = Detector(read_spec("yolov7-tiny"), len(image_set.names)).eval()
    with torch.no_grad():
        for conv in model.head.convs:
            conv.bias.view(3, -1)[:, 4:] += 5.0  # many detections  # type: ignore[operator, union-attr]
    network = TorchNetwork(model, torch.device("cpu"))
    batches = list(evaluation_loader(image_set, 192, 16, model.stride, 0))
    return fastest_half(lambda: evaluate(network, batches, image_set), 4)


PIECES: dict[str, Callable[[str, str], float]] = {
    "loss": measure_loss, "data": measure_data, "step": measure_step, "evaluation": measure_evaluation}


# --- the comparison ----------------------------------------------------------------------------------------------


def once(tree: Path, piece: str, data: str) -> tuple[float, float]:
    """Seconds of a piece, by a process that imports the package of ``tree``, and the MB that it held at most."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "YOLOV7_CACHE_DIR": folder}
        command = [sys.executable, __file__, "--piece", piece, "--data", data, "--folder", folder]
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tree}, {piece}: {done.stderr}")
    seconds, megabytes = map(float, done.stdout.split()[-2:])
    return seconds, megabytes


def compare(base: Path, data: str, rounds: int, pieces: list[str]) -> dict[str, dict[str, Any]]:
    """Medians and their ratio for each piece."""
    table = {}
    for piece in pieces:
        pairs = [(once(base, piece, data), once(ROOT, piece, data)) for _ in range(rounds)]
        ratios = [ours / other for (other, _), (ours, _) in pairs]
        row = {f"{name}_{unit}": scale * statistics.median(pair[place][index] for pair in pairs)
               for place, name in enumerate(("base", "ours"))
               for index, (unit, scale) in enumerate((("ms", 1000), ("MB", 1)))}
        table[piece] = {**row, "ratio": statistics.median(ratios), "ratios": ratios}
        sys.stdout.write(f"{piece:<11}{row['base_ms']:10.2f} ms{row['ours_ms']:10.2f} ms   ratio "
                         f"{table[piece]['ratio']:.3f}{row['base_MB']:10.0f} MB{row['ours_MB']:7.0f} MB\n")
        sys.stdout.flush()
    return table


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--data", default=str(DEFAULT_DATA))
    parser.add_argument("--only", nargs="+", choices=list(PIECES), default=list(PIECES))
    parser.add_argument("--piece", choices=list(PIECES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.piece:
        seconds = PIECES[options.piece](options.data, options.folder)
        sys.stdout.write(f"\n{seconds} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}\n")
        return
    if options.base is None:
        parser.error("--base: a checkout of the other commit")
    table = compare(options.base.resolve(), options.data, options.rounds, options.only)
    from machine import describe_machine

    content = {"machine": describe_machine(), "base": options.base.name, "rounds": options.rounds, "pieces": table}
    (ROOT / "scripts" / "results" / "against.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"ratio {max(row['ratio'] for row in table.values()):.3f}\n")


if __name__ == "__main__":
    main()

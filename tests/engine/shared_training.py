"""A few epochs with norms in evaluation mode, by one process or by one of several: run by ``test_distributed.py``.

``python shared_training.py DATA FOLDER [graphs]`` (under torchrun, or alone) writes ``result<rank>.pt``; with
``graphs`` steps are recorded.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import torch
from recorder import RecordedOnCpu

from yolov7.engine import graphed_pass, run
from yolov7.engine.run_config import TrainOptions
from yolov7.model.detector import Detector
from yolov7.runtime.distributed import connected

EPOCHS, BATCH = 7, 5


def train(data: str, folder: Path, graphs: bool, cache: Literal["off", "disk"] = "off") -> None:
    """21 steps; what every process saw and where the weights went."""
    device = torch.device("cpu")
    options = TrainOptions(data=data, img_size=(64,), batch_size=BATCH, nominal_batch=BATCH, epochs=EPOCHS,
                           device="cpu", workers=0, project=str(folder), exist_ok=True, cfg=str(folder / "model.yaml"),
                           cuda_graphs=graphs, cache=cache,
                           set=("augment.mosaic=0", "augment.mixup=0", "optimizer.warmup_epochs=1"))
    with connected(device) as processes:
        trainer = run.build_trainer(options, device, processes, ExitStack())
        trainer.state.model.eval()
        losses, counts = [], []
        for epoch in range(EPOCHS):
            trainer.state.begin_epoch(epoch)
            trainer.sampler.set_epoch(epoch)
            counts.append([sum(batch.targets.counts) for batch in trainer.loader])
            losses.append(list(trainer.train_epoch().values()))
        assert not graphs or RecordedOnCpu.replayed > 20
        model = trainer.state.model.state_dict()
        torch.save({"losses": losses, "objects": counts, "model": model, "ema": trainer.state.ema.model.state_dict()},
                   folder / f"result{processes.rank}.pt")


def hold_norms() -> None:
    """``model.train()`` changes nothing: norms use their running statistics, which do not depend on the batch."""
    Detector.train = lambda self, mode=True: torch.nn.Module.train(self, False)  # type: ignore[method-assign]


if __name__ == "__main__":
    hold_norms()
    graphed_pass.GraphPool = RecordedOnCpu  # type: ignore[assignment,misc]
    run.check_graphs = lambda device: None  # type: ignore[attr-defined]
    train(sys.argv[1], Path(sys.argv[2]), sys.argv[3:] == ["graphs"])

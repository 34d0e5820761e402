"""Coarse-to-fine with an auxiliary head: yolov7-w6 at a quarter of its width, on the built-in images at 256 px.

Trains, then evaluates the averaged weights in training form and re-parameterized (without the auxiliary head).
Writes ``scripts/results/auxiliary.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from machine import describe_machine

from yolov7 import cli
from yolov7.config import atomic_write
from yolov7.data.catalog import open_data, open_split
from yolov7.data.loader import evaluation_loader
from yolov7.evaluation.evaluate import evaluate
from yolov7.inference.network import TorchNetwork
from yolov7.model.weights import load_model

MODEL = "scale_of: yolov7-w6\nname: yolov7-w6-quarter\nscale: {width: 0.25, hidden_width: 0.25}\n"
RECIPE = ["optimizer.warmup_epochs=1.5", "optimizer.clip_grad=10", "loss.box=0.1", "loss.cls=3", "loss.obj=4",
          "augment.mosaic=0", "augment.mixup=0", "augment.paste_in=0", "augment.scale=0.1", "augment.translate=0.05",
          "augment.hsv_s=0.4", "augment.hsv_v=0.3", "augment.flipud=0.5"]  # that of the built-in demonstration


def main() -> None:
    """Train, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--project", type=Path, default=Path("runs/auxiliary"))
    options = parser.parse_args()
    options.project.mkdir(parents=True, exist_ok=True)
    (options.project / "w6-quarter.yaml").write_text(MODEL, encoding="utf-8")
    flags = ["--cfg", str(options.project / "w6-quarter.yaml"), "--data", "shapes", "--img-size", "256", "--batch-size",
             "4", "--nominal-batch", "4", "--epochs", str(options.epochs), "--device", "cpu", "--set", *RECIPE]
    started = time.perf_counter()
    if code := cli.main(["train", *flags, "--project", str(options.project), "--name", "w6", "--exist-ok"]):
        sys.exit(code)
    seconds = time.perf_counter() - started
    loaded = load_model(options.project / "w6" / "weights" / "best.pt")
    assert any("aux" in name for name, _ in loaded.model.named_parameters()), "no auxiliary head"
    image_set = open_split(open_data("shapes"), "val")
    found = {}
    reparameterized = TorchNetwork(loaded.model, torch.device("cpu"))
    training_form = TorchNetwork(loaded.model, torch.device("cpu"))
    training_form.model = training_form.forward = loaded.model.eval()
    for form, network in (("training form", training_form), ("re-parameterized", reparameterized)):
        loader = evaluation_loader(image_set, 256, 8, network.stride, 2)
        result = evaluate(network, loader, image_set).boxes
        found[form] = {"AP": result.AP, "AP50": result.AP50}
    content = {"machine": describe_machine(), "flags": flags, "seconds": seconds, "results": found}
    path = Path(__file__).parent / "results" / "auxiliary.json"
    atomic_write(path, json.dumps(content, indent=1) + "\n")
    sys.stdout.write(f"{json.dumps(found, indent=1)}\n")


if __name__ == "__main__":
    main()

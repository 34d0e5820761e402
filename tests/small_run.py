"""The command that trains a small run of the default model."""

from __future__ import annotations

from pathlib import Path

from yolov7 import cli

BASE = ["--img-size", "64", "--batch-size", "4", "--nominal-batch", "8", "--device", "cpu", "--workers", "0",
        "--precision", "fp32"]


def train(data: Path, project: Path, *flags: str) -> int:
    """The exit code of two epochs."""
    return cli.main(["train", "--data", str(data), "--project", str(project), *BASE, "--epochs", "2", *flags])

"""Where a case is put together, and the commands that are run on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import corpus
from .mutations import yaml_text

COMMON = ("--device", "cpu", "--project", "out")
SIZE = ("--img-size", "64")
LOADER = ("--workers", "0", "--batch-size", "2", "--precision", "fp32")


@dataclass(frozen=True)
class Bench:
    """Where a case is put together: the sound inputs, and the folder of the case, from which they are ``sound``."""

    corpus: Path
    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "sound").symlink_to(self.corpus)

    def put(self, name: str, content: bytes | str) -> str:
        """Write an input; its path as the package gets it."""
        path = self.folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return f"in/{name}"

    def take(self, name: str, target: str = "") -> str:
        """Copy a sound input, or all of a folder of them."""
        files = sorted(path for path in (self.corpus / name).rglob("*") if path.is_file())
        for source in files or [self.corpus / name]:
            inside = source.relative_to(self.corpus / name)
            self.put(f"{target or name}/{inside}" if inside.parts else target or name, source.read_bytes())
        return f"in/{target or name}"

    def at(self, name: str) -> str:
        """The path of a sound input, where it stands."""
        return f"sound/{name}"

    def data(self, **changes: Any) -> str:
        """A data set of label files, sound but for ``changes`` of its file."""
        self.take("data")
        return self.put("data.yaml", yaml_text({**corpus.DATA, **changes}))

    def coco(self) -> str:
        """The same data set with annotations as COCO JSON."""
        split = {"images": "images", "annotations": "coco.json"}
        return self.data(train=split, val=split)

    def detect(self, *flags: str, weights: str = "", source: str = "") -> tuple[str, ...]:
        """The command that detects, everything that scores anything."""
        return ("detect", "--weights", weights or self.at("best.pt"), "--source", source or self.at("picture.jpg"),
                "--conf-thres", "0.01", "--max-det", "9", *SIZE, *COMMON, *flags)

    def test(self, data: str, *flags: str, weights: str = "") -> tuple[str, ...]:
        """The command that evaluates."""
        return ("test", "--weights", weights or self.at("best.pt"), "--data", data, "--max-det", "9", *SIZE, *LOADER,
                *COMMON, *flags)

    def train(self, data: str, *flags: str, cfg: str = "") -> tuple[str, ...]:
        """The command that trains for an epoch of two batches."""
        return ("train", "--cfg", cfg or self.at("micro.yaml"), "--data", data, *SIZE, *LOADER, "--nominal-batch", "2",
                "--epochs", "1", *COMMON, *flags)

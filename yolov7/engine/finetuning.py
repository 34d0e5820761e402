"""What a training from weights takes where no flag says otherwise: a rule of the number of training images.

It is the one that ``scripts/compare_finetuning.py`` measures best (scripts/results/README.md). Where there are many
images, weights are a start like another, and the paper's settings hold.
"""

from __future__ import annotations

from dataclasses import dataclass

MANY_IMAGES = 10_000  # an epoch then has 150 steps of the paper's 64 images, and its schedule is no longer too slow
IMAGES_SEEN = 12_000  # in all epochs of a run
MIN_EPOCHS, MAX_EPOCHS = 30, 150
MIN_PATIENCE = 10  # epochs: the first ones find nothing yet


@dataclass(frozen=True)
class Start:
    """What is known before a training is settled."""

    images: int = 0  # to train on
    weights: bool = False  # from scratch otherwise
    image_size: int | None = None  # that the weights were trained for, where they say it


@dataclass(frozen=True)
class FineTuning:
    """Settings; None where the rule has nothing to say."""

    hyp: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    reason: str = ""

    def patience(self, epochs: int) -> int | None:
        """Epochs without a better one after which the run ends."""
        return max(epochs // 3, MIN_PATIENCE) if self.reason else None


def fine_tuning(start: Start) -> FineTuning:
    """The rule."""
    if not start.weights or start.images >= MANY_IMAGES:
        return FineTuning()
    epochs = min(max(round(IMAGES_SEEN / max(start.images, 1)), MIN_EPOCHS), MAX_EPOCHS)
    return FineTuning("finetune", epochs, 16, f"fine-tuning on {start.images:,} images")

"""What a training from weights takes where no flag says otherwise: a rule of the number of training images.

What is known of it stands in scripts/results/README.md, Fine-tuning; beyond 205 images it is not measured. Where there
are many images, weights are a start like another, and the paper's settings hold.
"""

from __future__ import annotations

from dataclasses import dataclass

MANY_IMAGES = 10_000  # an epoch then has more than 150 of the paper's steps of 64 images: nothing has to hurry
FEW_IMAGES = 500  # an epoch of fewer has hardly 30 steps of 16 images
SMALL_BATCH, BATCH = 4, 16
IMAGES_SEEN = 12_000  # in all epochs of a run, within these limits
MIN_EPOCHS, MAX_EPOCHS = 50, 150
MIN_STEPS = 4  # an epoch with one step or two moves the weights too seldom
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

    reason: str = ""
    hyp: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    every_batch_a_step: bool = False
    most_nominal: int | None = None  # where a flag names the recipe, of its nominal batch

    def patience(self, epochs: int) -> int | None:
        """Epochs without a better one after which the run ends."""
        return max(epochs // 3, MIN_PATIENCE) if self.reason else None


def fine_tuning(start: Start) -> FineTuning:
    """The rule."""
    if not start.weights or start.images >= MANY_IMAGES:
        return FineTuning()
    images = max(start.images, 1)
    few = images < FEW_IMAGES
    return FineTuning(
        reason=f"fine-tuning on {start.images:,} images", hyp="finetune",
        epochs=min(max(round(IMAGES_SEEN / images), MIN_EPOCHS), MAX_EPOCHS),
        batch_size=SMALL_BATCH if few else BATCH, every_batch_a_step=few,
        most_nominal=max(images // MIN_STEPS, 1))

"""A task: what it adds to the network, to training, evaluation, detection and export; and the registry of tasks.

A module of this folder registers one with `register_task`; another package does so in a module that its entry point
``yolov7.tasks`` names (docs: CONTRIBUTING.md, How to add a task).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from yolov7.config import InputError
from yolov7.inference.draw import Overlay, draw_instances
from yolov7.inference.nms import After, Finish, Select, nms_image, to_native
from yolov7.model.heads.base import Head, find_head
from yolov7.runtime.plugins import import_all

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet
    from yolov7.data.loader import Field
    from yolov7.evaluation.evaluate import Evaluator
    from yolov7.loss.criterion import Assigner
    from yolov7.loss.terms import Term


@dataclass(frozen=True)
class Training:
    """The half of a task that learns and is evaluated; imported when it is needed."""

    terms: tuple[Term, ...]  # of the loss
    assigner: Assigner
    evaluators: Callable[[ImageSet, bool], list[Evaluator]]  # of a split; complete, or what an epoch needs
    fields: tuple[Field, ...] = ()  # what collate stacks beside boxes and labels
    finish: Finish | None = None  # of evaluations, where it is not the task's own
    # arguments of the head for a split to be trained on, which the model's YAML does not give, such as key points
    adapt: Callable[[Mapping[str, Any], ImageSet], Mapping[str, Any]] | None = None
    demo: str = "shapes"  # data set that is trained on where none is named

    def gains(self) -> dict[str, float | None]:
        """The gains of the task's own terms, which a recipe may change under ``loss.gains``.

        None is one that follows another gain of the recipe unless it is given.
        """
        return {term.name: None if callable(term.gain) else term.gain for term in self.terms if term.has_key}


@dataclass(frozen=True)
class Task:
    """A task by its head: what follows NMS and how it is drawn, and behind ``training`` all else."""

    name: str
    head: type[Head]  # owns its channels and maps
    training: Callable[[], Training]
    finish: Finish = to_native  # network input -> pixels of the native image
    draw: Overlay = draw_instances  # on an image
    finishes: Mapping[str, Finish] = field(default_factory=dict)  # ways of masks, by the name that --masks takes
    select: Select = nms_image  # NMS
    selections: Mapping[str, Select] = field(default_factory=dict)  # by the name that --mask-scores takes

    def after(self, masks: str | None = None, mask_scores: str | None = None, usual: Finish | None = None) -> After:
        """What follows the network as ``--masks`` and ``--mask-scores`` say, else the usual way.

        Raises `InputError` where a model has no such ways.
        """
        finish = self.finishes.get(masks or "", usual or self.finish)
        select = self.selections.get(mask_scores or "", self.select)
        if masks is not None and masks not in self.finishes:
            found = "makes its masks in one way alone" if self.head.has_masks else "finds no masks"
            raise InputError(f"--masks {masks}: the model {found} (its task is {self.name}); leave it out, or take a "
                             "model like yolov7-seg")
        if mask_scores is not None and mask_scores not in self.selections:
            raise InputError(f"--mask-scores {mask_scores}: masks do not count in the scores of a model with the head "
                             f"{self.head.__name__}; leave it out, or take a model like yolov7-mask")
        return After(select, finish)


TASKS: dict[str, Task] = {}  # by the name of the head


def register_task(task: Task) -> Task:
    """Make a task known under its head."""
    TASKS[task.head.__name__] = task
    return task


def find_task(head: str) -> Task:
    """The task of a head. Raises `InputError` for a head that is not known, `LookupError` for one without a task."""
    if head not in TASKS:
        find_head(head, "task")  # loads what other packages register
        import_all(importlib.import_module("yolov7.tasks"))
    if head not in TASKS:
        raise LookupError(f"the head {head!r} has no task: its package must call register_task")
    return TASKS[head]

"""What a term of the loss is, and what it sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from yolov7.config.recipe import LossConfig
from yolov7.loss.assignment import PairCost
from yolov7.loss.candidates import Assignment, Candidates, Gathered
from yolov7.model.heads.base import Channels
from yolov7.structures import HeadOutput, Targets

if TYPE_CHECKING:
    from yolov7.loss.criterion import Criterion


@dataclass(frozen=True)
class Prepared:
    """Targets and their candidates, on the device of the predictions."""

    targets: Targets
    candidates: Candidates
    tables: dict[str, Tensor] = field(default_factory=dict)  # what the terms of a task made of them on the host
    key: tuple[int, ...] = ()  # on the host: what random choices follow from, see `Criterion.prepare`

    def map(self, change: Callable[[Tensor], Tensor]) -> Prepared:
        """The same with every tensor changed, such as moved to a device."""
        tables = {name: change(table) for name, table in self.tables.items()}
        return Prepared(self.targets.map(change), self.candidates.map(change), tables)


@dataclass(frozen=True)
class Means:
    """Divisors of the sums of a head, over all processes."""

    positives: tuple[Tensor, ...]  # L times [], at least 1
    share: Tensor  # [], images of this process over all images: the weight of its mean over cells
    counts: dict[str, Tensor] = field(default_factory=dict)  # [L], at least 1, for each term that counts on its own


@dataclass(frozen=True)
class Matched:
    """The input of the terms of one head: its candidates with their predictions and targets."""

    config: LossConfig
    channels: Channels
    gathered: Gathered
    targets: Targets
    assignment: Assignment
    labels: Tensor  # int64 [S], the class of each candidate's object
    inside: Sequence[Tensor]  # L times bool [S]: positives of each level
    places: Sequence[Tensor]  # L times int64 [4, S]: image, anchor, row, column
    strides: tuple[int, ...]
    weight: Tensor  # [S], 1 / positives of its level; 0 where not positive
    ciou: Tensor  # [S], of predicted and target boxes
    objectness: Sequence[Tensor]  # L times [B, A, h, w]: targets of the objectness
    share: Tensor  # [], see `Means`
    class_weights: Tensor  # [C] or [1]
    maps: dict[str, Tensor]  # of the lead head
    size: tuple[int, int]  # height and width of the network input
    tables: dict[str, Tensor]  # see `Prepared`
    counts: dict[str, Tensor]  # see `Means`

    def mean(self, values: Tensor) -> Tensor:
        """Values of the candidates ``[S]`` -> the sum over levels of their mean over the level's positives: ``[]``."""
        return (values * self.weight).sum()

    def target(self, name: str) -> Tensor:
        """A field of each candidate's object: ``[S, ...]``."""
        return self.targets.extra[name][self.assignment.image, self.assignment.gt_index]

    def logits(self, name: str) -> Tensor:
        """The logits of the channels of a name that a task adds: ``[S, width]``."""
        where = self.channels.slice(name)
        return self.gathered.rest[:, where.start - 5 : where.stop - 5]

    def in_cells(self, points: Tensor) -> Tensor:
        """Points ``[S, K, 2]`` in pixels -> in cells of each candidate's level, relative to its cell."""
        relative = [points / stride - place[2:].flip(0).T[:, None] for place, stride in
                    zip(self.places, self.strides, strict=True)]
        return of_own_level(self.inside, [level.flatten(1) for level in relative]).view_as(points)

    def stride(self) -> Tensor:
        """The stride of each candidate's level: ``[S]``."""
        values = [torch.full_like(self.weight, stride) for stride in self.strides]
        return of_own_level(self.inside, [value[:, None] for value in values])[:, 0]


@dataclass(frozen=True)
class Term:
    """One named term of the loss."""

    name: str  # column of results.csv
    value: Callable[[Matched], Tensor]  # -> [], to be multiplied by the gain
    gain: Callable[[LossConfig], float] | float  # for terms of a task a number, which ``loss.gains`` may change
    short: str = ""  # name in the progress bar; default: the name
    replaceable: bool = False  # ``loss.gains`` may change a gain that is a function, too
    # on the host, from targets and candidates there: tables for `Prepared`
    prepare: Callable[[Criterion, HeadOutput, Prepared], dict[str, Tensor]] | None = None
    # int64 [S]: what the positives of a level are counted by over all processes, for `Matched.counts`
    count: Callable[[Prepared, Assignment], Tensor] | None = None
    # what a pair of object and candidate costs simOTA, where ``loss.task_cost`` is set
    cost: Callable[[Criterion, HeadOutput, Prepared], PairCost] | None = None
    keys: tuple[str, ...] = ()  # of the recipe's loss that it reads and that others do not

    def weight(self, config: LossConfig) -> float:
        """The gain of the term in a recipe."""
        gain = self.gain(config) if callable(self.gain) else self.gain
        return config.gains.get(self.name, gain) if self.has_key else gain

    @property
    def has_key(self) -> bool:
        """Whether the term has a key of its own under ``loss.gains``."""
        return self.replaceable or not callable(self.gain)


def of_own_level(inside: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """The value of each candidate's level: L times ``[S]`` and ``[S, Y]`` -> ``[S, Y]``, zero for those in no level."""
    chosen = torch.where(inside[0][:, None], values[0], 0.0)
    for mask, value in zip(inside[1:], values[1:], strict=True):
        chosen = torch.where(mask[:, None], value, chosen)
    return chosen

"""Tables of objects: every column follows, whatever a task has added."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov7.structures import Instances, Targets


def make_instances() -> Instances:
    extra = {"angle": torch.tensor([0.1, 0.2, 0.3]), "points": torch.arange(12.0).view(3, 2, 2)}
    boxes, scores = torch.arange(12.0).view(3, 4), torch.tensor([0.9, 0.8, 0.7])
    return Instances(boxes, scores, torch.tensor([2, 0, 1]), ("a", "b", "c"), extra)


def test_every_column_of_instances_is_selected() -> None:
    found = make_instances()
    for rows, expected in ((torch.tensor([True, False, True]), [0, 2]), (torch.tensor([2, 0]), [2, 0]),
                           (slice(1, None), [1, 2]), (slice(0), [])):
        part = found[rows]
        assert len(part) == len(expected) and part.names == found.names and set(part.extra) == {"angle", "points"}
        columns = [(found.boxes, part.boxes), (found.scores, part.scores), (found.labels, part.labels),
                   *((found.extra[name], part.extra[name]) for name in found.extra)]
        assert all(torch.equal(whole[expected], selected) for whole, selected in columns)
    assert len(found) == 3  # as it was


def test_instances_are_changed_as_a_whole() -> None:
    changed = make_instances().map(lambda column: column.double())
    assert {column.dtype for column in (changed.boxes, changed.scores, *changed.extra.values())} == {torch.float64}
    moved = make_instances().to("meta")
    assert all(column.is_meta for column in (moved.boxes, moved.scores, moved.labels, *moved.extra.values()))
    assert moved.names == ("a", "b", "c")


def test_targets_are_changed_as_a_whole() -> None:
    labels, valid = torch.zeros(2, 8, dtype=torch.long), torch.zeros(2, 8, dtype=torch.bool)
    targets = Targets(torch.rand(2, 8, 4), labels, valid, (3, 0), {"angle": torch.rand(2, 8)},
                      {"index": torch.zeros(2, 16, 16, dtype=torch.uint8)})
    seen: list[Tensor] = []

    def change(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor.to("meta")

    moved = targets.map(change)
    assert [id(tensor) for tensor in seen] == [id(tensor) for tensor in (
        targets.extra["angle"], targets.boxes, targets.labels, targets.valid, targets.maps["index"])]
    assert moved.counts == (3, 0) and moved.extra["angle"].is_meta and moved.maps["index"].is_meta
    for name in ("boxes", "labels", "valid"):
        before, after = getattr(targets, name), getattr(moved, name)
        assert after.is_meta and (after.shape, after.dtype) == (before.shape, before.dtype)
        assert not before.is_meta

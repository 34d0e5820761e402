"""The terms of blended masks: a proposal for YOLOv7-mask, whose training was never published.

Facts of BlendMask, and what suits a detector (docs/reference.md, Mask blending): true boxes as proposals, attention 14,
masks of 56 x 56, the BCE of their pixels, and a semantic map of all objects beside them. A mask costs what 16,000
numbers do, so that a sample of the positives learns. Which ones follows from the key of the batch by a hash of their
places: any device draws the same, and nothing waits for it. The oracle in ``tests/loss`` goes positive by positive.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.config.recipe import LossConfig
from yolov7.loss.candidates import Assignment
from yolov7.loss.criterion import DETECTION_TERMS, Criterion
from yolov7.loss.masks import has_mask, nearest_cells, ranks_in_groups
from yolov7.loss.terms import Matched, Prepared, Term
from yolov7.masks import GRID
from yolov7.model.blending import bilinear_shares, blend, pool
from yolov7.structures import HeadOutput, Targets

OF_IMAGE, OF_BATCH = 64, 512  # positives that learn masks, at most; the second one for each process
STEP = 32  # room for them is a multiple of this: few distinct shapes
SEMANTIC_SHARE = 0.3  # of the mask's gain
DRAWS = 7  # numbers of a positive: two orders, whether its box moves, and its four sides
MASK_32 = 0xFFFFFFFF


class Sample(NamedTuple):
    """Positives that learn masks."""

    rows: Tensor  # int64 [K] of the candidates
    used: Tensor  # bool [K], the others fill up
    numbers: Tensor  # float32 [DRAWS, K] in 0..1


def mask_term(matched: Matched) -> Tensor:
    """BCE of the blended logits in the object's box: the mean over its pixels and over the positives of each level."""
    sample = take_sample(matched.targets, matched.tables, matched.assignment)
    logits, truth = _masks(matched, sample)
    weight = torch.full((), matched.config.mask_pw, device=logits.device)
    errors = F.binary_cross_entropy_with_logits(logits, truth, reduction="none", pos_weight=weight).mean(dim=(1, 2))
    return (errors * _of_levels(matched, sample)).sum()


def semantic_term(matched: Matched) -> Tensor:
    """BCE of the semantic map: is there any object? The mean over all cells.

    Cells in the box of an object whose mask is not known count nothing.
    """
    logits = matched.maps["semantic"][:, 0].float()
    truth = nearest_cells(matched.targets.maps["semantic"], (logits.shape[1], logits.shape[2]))
    errors = F.binary_cross_entropy_with_logits(logits, (truth > 0).float(), reduction="none")
    return torch.where(truth < 0, 0.0, errors).mean() * matched.share


def mask_iou_term(matched: Matched) -> Tensor:
    """BCE of the predicted quality against the IoU of the mask, above one half, with the object's."""
    sample = take_sample(matched.targets, matched.tables, matched.assignment)
    with torch.no_grad():
        logits, truth = _masks(matched, sample)
        found, there = logits > 0, truth > 0.5
        union = (found | there).sum(dim=(1, 2)).clamp(min=1)
        iou = (found & there).sum(dim=(1, 2)) / union
    predicted = matched.logits("mask_iou")[sample.rows, 0].float()
    errors = F.binary_cross_entropy_with_logits(predicted, iou, reduction="none")
    return (errors * _of_levels(matched, sample)).sum()


def _of_levels(matched: Matched, sample: Sample) -> Tensor:
    """1 / (sampled positives of its level in all processes): ``[K]``."""
    counts = matched.counts["mask"]
    return torch.where(sample.used, 1 / counts[matched.assignment.level[sample.rows]], 0.0)


def _masks(matched: Matched, sample: Sample) -> tuple[Tensor, Tensor]:
    """Logits and truth of the sampled positives' masks, in their objects' boxes: ``[K, GRID, GRID]`` each."""
    targets, assignment = matched.targets, matched.assignment
    image, gt_index = assignment.image[sample.rows], assignment.gt_index[sample.rows]
    boxes, truth = targets.boxes[image, gt_index], unpacked(targets.extra["grids"][image, gt_index])
    if jitter := matched.config.mask_jitter:
        boxes, truth = _moved(boxes, truth, jitter, sample.numbers[2:])
    maps = torch.cat((matched.maps["bases"], matched.maps["semantic"]), dim=1).float()
    pooled = pool(maps, boxes, image, matched.size[0] // maps.shape[2])
    side = matched.channels.facts.get("attention", 0)  # known to a compiled graph, too
    return blend(matched.logits("attention")[sample.rows], pooled, side), truth


def unpacked(bits: Tensor) -> Tensor:
    """Grids of eight pixels a byte ``[K, GRID * GRID / 8]`` -> float32 ``[K, GRID, GRID]`` of 0 and 1."""
    places = torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
    return (bits[..., None] >> places & 1).float().view(-1, GRID, GRID)


def _moved(boxes: Tensor, truth: Tensor, share: float, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Half of the boxes with each side moved by up to a share of the box, and the objects' grids in these."""
    width, height = (boxes[:, axis + 2] - boxes[:, axis] for axis in (0, 1))
    ways = (2 * numbers[1:] - 1) * share * torch.stack((width, height, width, height)) * (numbers[0] < 0.5)
    moved = boxes + ways.T
    steps = (torch.arange(GRID, device=boxes.device) + 0.5) / GRID
    across, down = (_shares_in(boxes[:, axis::2], moved[:, axis::2], steps) for axis in (0, 1))
    return moved, (down @ truth @ across.transpose(1, 2) >= 0.5).float()


def _shares_in(old: Tensor, new: Tensor, steps: Tensor) -> Tensor:
    """Shares of a grid's rows over ``old`` at those of one over ``new``, ends ``[K, 2]``: ``[K, GRID, GRID]``."""
    (low, high), (first, last) = (ends[..., None].unbind(1) for ends in (old, new))
    places = (first + (last - first) * steps - low) / (high - low).clamp(min=1e-6)  # in the old box
    return bilinear_shares(places * GRID - 0.5, GRID)


# --- the sample --------------------------------------------------------------------------------------------------


def sample_tables(criterion: Criterion, output: HeadOutput, prepared: Prepared) -> dict[str, Tensor]:
    """What follows from the batch on the host: ``mask_draws``, int64 ``[DRAWS]``, and ``mask_rows``, int64 ``[K]``.

    K is as long as the sample can be: a dense grid for every one of `OF_BATCH` would cost small batches most.
    """
    words = np.random.SeedSequence([*prepared.key], spawn_key=(5,)).generate_state(DRAWS)
    targets, candidates = prepared.targets, prepared.candidates
    most = [min(count, OF_IMAGE) for count in candidates.counts]
    if criterion.config.loss_ota:  # an object selects so many, and conflicts only take some away
        objects = targets.valid.sum(dim=1).tolist()
        most = [min(own, count * criterion.top_k(output)) for own, count in zip(most, objects, strict=True)]
    room = min(-(-max(sum(most), 1) // STEP) * STEP, OF_BATCH)
    return {"mask_draws": torch.from_numpy(words.astype(np.int64)), "mask_rows": torch.arange(room)}


def take_sample(targets: Targets, tables: dict[str, Tensor], assignment: Assignment) -> Sample:
    """At most `OF_IMAGE` positives with known masks of each image, and `OF_BATCH` of all, each as likely as another."""
    numbers = torch.stack([_hashed(word, assignment) for word in tables["mask_draws"].unbind()])  # [DRAWS, S]
    known = has_mask(targets)[assignment.image, assignment.gt_index]
    inside = _first_of_images(numbers[0], assignment.image, assignment.positive & known, len(targets.labels))
    room = min(len(tables["mask_rows"]), len(inside))
    keys = torch.where(inside, numbers[1], MASK_32 + 1)
    rows = keys.topk(room, largest=False).indices
    return Sample(rows, inside[rows], numbers[:, rows].float() / (MASK_32 + 1))


def _first_of_images(numbers: Tensor, image: Tensor, positive: Tensor, images: int) -> Tensor:
    """Which positives ``[S]`` have one of the `OF_IMAGE` lowest numbers of their image: bool ``[S]``."""
    of_image = torch.where(positive, image, images)
    order = ((of_image << 32) | numbers).argsort()
    rank, _, _ = ranks_in_groups(of_image, order, images + 1)
    return positive & (rank < OF_IMAGE)


def _hashed(word: Tensor, assignment: Assignment) -> Tensor:
    """A number of 32 bits for each candidate, of its image and its place in the image's list: int64 ``[S]``."""
    return _mixed(_mixed(assignment.image ^ word) ^ assignment.order)


def _mixed(values: Tensor) -> Tensor:
    """A hash of 32 bits of numbers int64 below 2^32, which products do not leave."""
    for _ in range(2):
        values = ((values >> 16 ^ values) * 0x45D9F3B) & MASK_32
    return values >> 16 ^ values


def counted(prepared: Prepared, assignment: Assignment) -> Tensor:
    """1 for the candidates of the sample: int64 ``[S]``."""
    sample = take_sample(prepared.targets, prepared.tables, assignment)
    return torch.zeros_like(assignment.image).scatter(0, sample.rows, sample.used.long())


def _semantic_gain(config: LossConfig) -> float:
    return SEMANTIC_SHARE * MASK.weight(config)


MASK = Term("mask", mask_term, 0.05, prepare=sample_tables, count=counted, keys=("mask_pw", "mask_jitter"))
BLEND_TERMS = (*DETECTION_TERMS, MASK, Term("semantic", semantic_term, _semantic_gain, "sem", replaceable=True))
MASK_IOU_TERMS = (*BLEND_TERMS, Term("mask_iou", mask_iou_term, 0.05, "miou"))

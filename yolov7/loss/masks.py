"""The mask term of instance segmentation (docs/reference.md, Mask and key-point terms).

The logits of a mask are needed inside the box of its object alone. So each object's window of cells is cut into pieces
of a fixed length, on the host, where the boxes are; the positives of an object share the prototypes of its pieces. All
pieces are multiplied in one batched product, a few at a time, and their gradients with them: neither logits nor
prototypes of a window outlive their turn. The oracle in ``tests/loss`` goes positive by positive.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.boxes import area
from yolov7.loss.assignment import PAIR_POINTS, PairCost, Pairs
from yolov7.loss.criterion import DETECTION_TERMS, Criterion
from yolov7.loss.terms import Matched, Prepared, Term
from yolov7.structures import HeadOutput, Targets

PIECE = 64  # cells of a window that are multiplied together
PIECES_STEP = 64  # the list of pieces is padded to multiples of this: few distinct shapes
PIECES_AT_A_TIME = {"cpu": 128}  # what fits a cache on a CPU, memory elsewhere
PIECES_AT_A_TIME_ELSEWHERE = 1 << 13
SPARE_PLACES = 10  # with simOTA, for positives that an object got in conflicts beside those that it selects
GRID = 8  # the cost of a pair looks at this many rows and columns of a box


def mask_term(matched: Matched) -> Tensor:
    """BCE of the mask's logits inside the object's box, divided by the box's area.

    The sum over levels and images of the mean over the image's positives on that level, divided by the images of the
    whole batch. Objects whose ``has_mask`` is false are left out.
    """
    targets, assignment = matched.targets, matched.assignment
    prototypes = matched.maps["prototypes"].float()
    grid = (prototypes.shape[2], prototypes.shape[3])
    batch, width = targets.labels.shape
    objects = assignment.image * width + assignment.gt_index
    used = assignment.positive & has_mask(targets).flatten()[objects]
    slots, place, used = _places(objects, used, batch * width, len(matched.tables["mask_places"]))
    pixels = area(targets.boxes).flatten()[objects].clamp(min=1)  # of the network input
    cells = pixels * (grid[0] * grid[1] / (matched.size[0] * matched.size[1]))
    weight = _of_images(matched, used) / cells
    pieces = matched.tables["mask_pieces"]
    cell, inside = _cells_of_pieces(pieces, width, grid)
    truth = _truth(_maps(targets, grid), width, pieces[:, :1], cell)
    coefficients = matched.logits("coefficients").float()
    wanted = torch.is_grad_enabled() and (prototypes.requires_grad or coefficients.requires_grad)
    total: Tensor = _MaskLoss.apply(wanted, prototypes, coefficients, weight, slots, place, pieces[:, 0], cell, inside,
                                    truth)
    return total


def _of_images(matched: Matched, used: Tensor) -> Tensor:
    """The weight of each candidate: 1 / (positives of its image on its level) / images of all processes: ``[S]``."""
    images, levels = len(matched.targets.labels), len(matched.strides)
    group = matched.assignment.image * levels + matched.assignment.level
    counts = used.new_zeros(images * levels, dtype=torch.int64).scatter_add(0, group, used.long())
    return used / counts.clamp(min=1)[group] * (matched.share / images)


def mask_tables(criterion: Criterion, output: HeadOutput, prepared: Prepared) -> dict[str, Tensor]:
    """What follows from the boxes on the host.

    ``mask_pieces``, int64 ``[pieces, 6]``: object in the padded targets of the batch, first cell in its window, left,
    top and width of the window, and its cells; ``mask_places``, int64 ``[R]``, for the positives of an object.
    """
    targets = prepared.targets
    prototypes = output.maps["prototypes"]
    windows = windows_of(targets.boxes, criterion.input_size(output), (prototypes.shape[2], prototypes.shape[3]))
    left, top, right, bottom = windows.flatten(0, 1).unbind(1)
    wanted = (targets.valid & has_mask(targets)).flatten()
    cells = torch.where(wanted, (right - left) * (bottom - top), 0)
    counts = (cells + PIECE - 1) // PIECE
    total = int(counts.sum())
    owner = torch.repeat_interleave(torch.arange(len(cells)), counts)
    first = (torch.arange(total) - (counts.cumsum(0) - counts)[owner]) * PIECE
    pieces = torch.zeros(-(-max(total, 1) // PIECES_STEP) * PIECES_STEP, 6, dtype=torch.int64)
    pieces[:total] = torch.stack((owner, first, *(value[owner] for value in (left, top, right - left, cells))), dim=1)
    return {"mask_pieces": pieces, "mask_places": torch.arange(_most_positives(criterion, output, prepared))}


def _most_positives(criterion: Criterion, output: HeadOutput, prepared: Prepared) -> int:
    """How many positives of an object have room; beyond that the mask term leaves out the last of its rows.

    It is all of the plain assignment. In simOTA only the device knows how many an object has; more than it may select
    are rare, as others must have selected them too.
    """
    if criterion.config.loss_ota:
        return criterion.top_k(output) + SPARE_PLACES
    candidates, width = prepared.candidates, prepared.targets.labels.shape[1]
    objects = torch.arange(len(candidates.gt_index))[:, None] * width + candidates.gt_index
    most = int(torch.bincount(objects[candidates.valid], minlength=1).max())
    return -(-max(most, 1) // 4) * 4


def windows_of(boxes: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The cells X of a grid over an input of this size with ``x1 <= X < x2``, likewise Y: int64 ``[..., 4]`` xyxy.

    ``boxes`` are ``[..., 4]`` xyxy in pixels of the input; right and bottom of a window are outside of it.
    """
    x = (boxes[..., 0::2] * (grid[1] / size[1])).ceil().clamp(0, grid[1])
    y = (boxes[..., 1::2] * (grid[0] / size[0])).ceil().clamp(0, grid[0])
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1).long()


def has_mask(targets: Targets) -> Tensor:
    """Which objects have a known mask: bool ``[B, G]``; all, unless the data says otherwise."""
    found = targets.extra.get("has_mask")
    return torch.ones_like(targets.valid) if found is None else found.bool()


def _places(objects: Tensor, used: Tensor, count: int, places: int) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the positives of every object, first come, first served.

    Of candidates ``[S]`` and their objects out of ``count``: the candidate in each place ``[count, places]`` (S where
    there is none), the place of each candidate ``[S]``, and which candidates have one.
    """
    objects = torch.where(used, objects, count)
    order = objects.argsort(stable=True)  # those of no object stand last
    rank, starts, counts = ranks_in_groups(objects, order, count + 1)
    used = used & (rank < places)
    place = torch.where(used, objects * places + rank, 0)
    column = torch.arange(places, device=objects.device)
    index = (starts[:count, None] + column).clamp(max=len(objects) - 1)
    return torch.where(column < counts[:count, None], order[index], len(objects)), place, used


def ranks_in_groups(groups: Tensor, order: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The place of each row ``[S]`` inside its group, in an ``order`` that has one group after the other.

    Also where each of ``count`` groups starts in the order, and its size: int64 ``[count]`` each.
    """
    sizes = groups.new_zeros(count).scatter_add(0, groups, torch.ones_like(groups))
    starts = sizes.cumsum(0) - sizes
    every = torch.arange(len(groups), device=groups.device)
    return torch.empty_like(order).scatter(0, order, every) - starts[groups], starts, sizes


def _cells_of_pieces(pieces: Tensor, width: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cells over all images, ``(image * h + row) * w + column``, and which of them count: ``[pieces, PIECE]`` each."""
    owner, first, left, top, across, cells = pieces[..., None].unbind(1)
    index = first + torch.arange(PIECE, device=pieces.device)
    inside = index < cells
    index, across = torch.where(inside, index, 0), across.clamp(min=1)
    row, column = top + index // across, left + index % across
    # a window without cells may lie at the very end
    row, column = row.clamp(max=grid[0] - 1), column.clamp(max=grid[1] - 1)
    return (owner // width * grid[0] + row) * grid[1] + column, inside


def _maps(targets: Targets, grid: tuple[int, int]) -> Tensor:
    """The masks at the size of the prototypes: an index map ``[B, h, w]``, or one map per object ``[B, G, h, w]``.

    Index maps are resized to the nearest cell, as a mean of two numbers is the number of a third object; separate maps
    bilinearly.
    """
    if "masks" in targets.extra:
        separate = targets.extra["masks"]
        same = separate.shape[2] == grid[0] and separate.shape[3] == grid[1]
        return separate if same else F.interpolate(separate.float(), grid, mode="bilinear", align_corners=False)
    return nearest_cells(targets.maps["masks"], grid)


def nearest_cells(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps ``[B, h, w]`` of another size at the centres of the cells of a grid: each the nearest one's."""
    for axis in (1, 2):
        cells, found = grid[axis - 1], maps.shape[axis]
        if cells != found:
            centres = (2 * torch.arange(cells, device=maps.device) + 1) * found // (2 * cells)
            maps = maps.index_select(axis, centres)
    return maps


def _truth(maps: Tensor, width: int, owner: Tensor, cell: Tensor) -> Tensor:
    """The masks of objects, of ``width`` an image, at cells over all images (see `_cells_of_pieces`)."""
    if maps.ndim == 4:
        cells = maps.shape[2] * maps.shape[3]
        return maps.flatten()[owner * cells + cell % cells]
    return maps.flatten()[cell] == owner % width + 1


class _MaskLoss(torch.autograd.Function):
    """The weighted sum of the BCE over all places of all pieces, and at once its gradients.

    (whether gradients are wanted, prototypes [B, c, h, w], coefficients [S, c], weight [S], slots [O, R], place [S],
    owner [pieces], cell, inside and truth [pieces, PIECE]) -> [].
    """

    @staticmethod
    def forward(ctx: Any, wanted: bool, prototypes: Tensor, coefficients: Tensor, *tables: Tensor) -> Tensor:
        weight, slots, place, owner, cell, inside, truth = tables
        shape, channels = prototypes.shape, prototypes.shape[1]
        rows = prototypes.permute(0, 2, 3, 1).reshape(-1, channels)
        own = F.pad(coefficients, (0, 0, 0, 1))[slots]  # [O, R, c], 0 where there is no positive
        weights = F.pad(weight, (0, 1))[slots]  # [O, R]
        total = rows.new_zeros(())
        of_rows, of_own = (torch.zeros_like(value) for value in (rows, own)) if wanted else (rows, own)
        for part in _parts(len(owner), rows.device):
            index, objects = cell[part].flatten(), owner[part]
            bases = rows.index_select(0, index).view(-1, PIECE, channels)
            factors, shares = own.index_select(0, objects), weights.index_select(0, objects)
            mask = truth[part].to(rows.dtype)[..., None]  # [m, PIECE, 1]
            logits = torch.bmm(bases, factors.transpose(1, 2))  # [m, PIECE, R]
            counts = inside[part][:, None].to(rows.dtype)  # [m, 1, PIECE]
            total += (torch.bmm(counts, _bce(logits, mask))[:, 0] * shares).sum()
            if wanted:
                error = logits.sigmoid_().sub_(mask).mul_(counts.transpose(1, 2))
                of_own.index_add_(0, objects, torch.bmm(error.transpose(1, 2), bases).mul_(shares[..., None]))
                of_bases = torch.bmm(error, factors.mul_(shares[..., None]))
                of_rows.index_add_(0, index, of_bases.flatten(0, 1))
        if wanted:
            of_coefficients = of_own.flatten(0, 1)[place] * (weight != 0)[:, None]
            batch, _, height, width = shape
            ctx.save_for_backward(of_rows.view(batch, height, width, channels).permute(0, 3, 1, 2), of_coefficients)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_prototypes, of_coefficients = ctx.saved_tensors
        return None, of_prototypes * gradient, of_coefficients * gradient, *[None] * 7


def _parts(pieces: int, device: torch.device) -> Iterator[slice]:
    """The pieces to take together; a compiled graph takes all, as the turns of a loop are part of it."""
    if torch.compiler.is_compiling():
        yield slice(None)
        return
    step = PIECES_AT_A_TIME.get(device.type, PIECES_AT_A_TIME_ELSEWHERE)
    for start in range(0, pieces, step):
        yield slice(start, start + step)


def _bce(logits: Tensor, truth: Tensor) -> Tensor:
    """BCE by element; where the truth is 0 or 1 nothing cancels out, however large the logits are."""
    return logits.relu().sub_(logits * truth).add_(F.softplus(logits.abs().neg_()))


# --- the cost of a pair ------------------------------------------------------------------------------------------


def mask_cost(criterion: Criterion, output: HeadOutput, prepared: Prepared) -> PairCost:
    """The mean BCE of each candidate's mask against each object's, at `GRID` x `GRID` cells spread over its box."""
    prototypes, targets = output.maps["prototypes"].detach().float(), prepared.targets
    grid = (prototypes.shape[2], prototypes.shape[3])
    rows = prototypes.permute(0, 2, 3, 1).flatten(0, 2)
    size, where, maps = criterion.input_size(output), criterion.channels.slice("coefficients"), _maps(targets, grid)
    known, width = has_mask(targets), targets.labels.shape[1]
    owners = torch.arange(targets.labels.numel(), device=rows.device).view_as(targets.labels)

    def cost(pairs: Pairs) -> Tensor:
        own = (pairs.images, pairs.objects)
        windows, owner = windows_of(targets.boxes[own], size, grid), owners[own][..., None]
        cells = _spread(windows, owner // width, grid)  # [B, G, K]
        truth = _truth(maps, width, owner, cells).to(rows.dtype)
        bases, coefficients = rows[cells], pairs.rows[..., where].transpose(1, 2)  # [B, G, K, c], [B, c, N]
        batch, objects, _, channels = bases.shape
        total = rows.new_zeros(batch, objects, coefficients.shape[2])
        for points, mask in zip(torch.split(bases, PAIR_POINTS, 2), torch.split(truth, PAIR_POINTS, 2), strict=True):
            logits = torch.bmm(points.reshape(batch, -1, channels), coefficients)
            total += _bce(logits.view(batch, objects, -1, total.shape[2]), mask[..., None]).sum(dim=2)
        counts = known[own] & (windows[..., 2:] > windows[..., :2]).all(dim=-1)
        return torch.where(counts[..., None], total / GRID**2, 0.0)

    return cost


def _spread(windows: Tensor, image: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cells over all images, spread evenly over windows ``[B, G, 4]`` of images ``[B, G, 1]``: ``[B, G, K]``."""
    steps = 2 * torch.arange(GRID, device=windows.device) + 1
    left, top, right, bottom = windows[..., None].unbind(2)
    column = (left + (right - left) * steps // (2 * GRID)).clamp(max=grid[1] - 1)
    row = (top + (bottom - top) * steps // (2 * GRID)).clamp(max=grid[0] - 1)
    return ((image * grid[0] + row)[..., None] * grid[1] + column[..., None, :]).flatten(2)


MASK_TERMS = (*DETECTION_TERMS, Term("mask", mask_term, lambda config: config.box, replaceable=True,
                                     prepare=mask_tables, cost=mask_cost))

"""What the weights of one network give to another: masks or key points start from a detector, or from other classes.

Layers go by their names. Rows of the head's convolutions go by what they make, so that boxes stay what they were
where classes, masks or key points differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolov7.config import InputError
from yolov7.model.blocks import Conv, RepConv
from yolov7.model.detector import Detector
from yolov7.model.heads.base import Head
from yolov7.model.reference.layout import NOT_IN_FILE, OTHER_CLASSES, ImportReport
from yolov7.model.reparam import fuse_branches

OTHER_CHANNELS = "the file makes others, or in another way"
OTHER_ANCHORS = "the file is for other numbers of levels or anchors"


@torch.no_grad()
def transfer(source: Detector, model: Detector, where: str) -> ImportReport:
    """Copy what the training-form network ``source`` has for the training-form network ``model``.

    Nodes must be the same, but for those that only an auxiliary head or maps beside the levels need, and for RepConv
    where a plain convolution stands now. ``where`` names the source in messages. Raises `InputError`.
    """
    report = ImportReport()
    needed, given = ({node.name for node in network.spec.nodes_of(network.spec.head.inputs)}
                     for network in (model, source))
    lost = given - set(model.nodes)
    if wrong := sorted((needed - set(source.nodes)) | lost):
        raise InputError(f"{where}: weights of another model: only one of {source.spec.name} and {model.spec.name} has "
                         f"the node {wrong[0]}")
    for name, block in model.nodes.items():
        if name in source.nodes:
            _copy_block(source.nodes[name], block, f"{where}: weights of another model: nodes.{name}", report)
        else:
            report.leave_out(f"nodes.{name}", NOT_IN_FILE)
    _copy_head(source.head, model.head, report)
    return report


def _copy_block(source: nn.Module, block: nn.Module, where: str, report: ImportReport) -> None:
    if isinstance(source, RepConv) and isinstance(block, Conv):
        source = as_conv(source)
    given, own = source.state_dict(), block.state_dict()
    for key in [*own, *given]:
        if key not in given or key not in own or given[key].shape != own[key].shape:
            found, expected = (tuple(state[key].shape) if key in state else "nothing" for state in (given, own))
            raise InputError(f"{where}.{key} is {found}, expected {expected}")
    block.load_state_dict(given)
    report.copied += len(given)


@torch.no_grad()
def as_conv(block: RepConv) -> Conv:
    """The plain convolution, in training form, that computes what a RepConv computes.

    Its norm expects the mean that the branches have together, and the sum of their variances, as of uncorrelated ones:
    outputs stay about the same in training, too, where the statistics of a batch take the place of these.
    """
    fused = fuse_branches(block)
    norms = [norm for norm in (block.dense[1], block.point[1], block.identity) if isinstance(norm, nn.BatchNorm2d)]
    conv = Conv(fused.in_channels, fused.out_channels, 3, fused.stride[0], fused.groups)
    mean, variance, tracked = conv.bn.running_mean, conv.bn.running_var, conv.bn.num_batches_tracked
    assert fused.bias is not None and mean is not None and variance is not None and tracked is not None
    shift = torch.stack([norm.bias.double() for norm in norms]).sum(0)
    conv.conv.weight.copy_(fused.weight)
    mean.copy_(shift - fused.bias.double())
    variance.copy_(torch.stack([norm.weight.double().square() for norm in norms]).sum(0))
    conv.bn.weight.copy_((variance.double() + conv.bn.eps).sqrt())
    conv.bn.bias.copy_(shift)
    tracked.copy_(block.get_buffer("dense.1.num_batches_tracked"))
    return conv


# --- heads -----------------------------------------------------------------------------------------------------------


def _copy_head(source: Head, head: Head, report: ImportReport) -> None:
    """Modules that are alike as a whole, and rows of the same channels."""
    given, fresh = _parts(source), set()
    for name, tensors in _parts(head).items():
        theirs = given.get(name, {})
        if {key: value.shape for key, value in tensors.items()} == {key: value.shape for key, value in theirs.items()}:
            for key, value in tensors.items():
                value.copy_(theirs[key])
            report.copied += len(tensors)
        else:
            report.leave_out(f"head.{name}", OTHER_CHANNELS if theirs else NOT_IN_FILE)
            fresh.add(name)
    for role, (convs, _) in head.outputs().items():
        if convs and role not in fresh:
            _copy_rows(source, head, role, report)


def _parts(head: Head) -> dict[str, dict[str, Tensor]]:
    """The tensors of a head by the name of its part, without those that go by rows."""
    convs = [conv for convs, _ in head.outputs().values() for conv in convs]
    rows = {id(tensor) for conv in convs for tensor in (conv.weight, conv.bias)}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in head.state_dict(keep_vars=True).items():
        name = key.partition(".")[0]
        if id(value) not in rows and not name.startswith("implicit_"):
            parts.setdefault(name, {})[key] = value.data
    return parts


def _copy_rows(source: Head, head: Head, role: str, report: ImportReport) -> None:
    (convs, names), (theirs, their_names) = head.outputs()[role], source.outputs().get(role, ([], []))
    place = {name: row for row, name in enumerate(their_names)}
    pairs = [(row, place[name]) for row, name in enumerate(names) if name in place]
    alike = [one.weight.shape[1:] for one in convs] == [one.weight.shape[1:] for one in theirs]
    if source.anchors.shape != head.anchors.shape:
        report.leave_out(f"head.{role}", OTHER_ANCHORS)
        return
    if not pairs or not alike:
        report.leave_out(f"head.{role}", OTHER_CHANNELS if theirs else NOT_IN_FILE)
        return
    rows, their_rows = torch.tensor(pairs, device=convs[0].weight.device).T
    steeper = _steepness(source, head, their_names)
    for level, (conv, other) in enumerate(zip(convs, theirs, strict=True)):
        weight, bias = other.weight.double(), other.bias.double()  # type: ignore[union-attr]
        if role == "convs":
            weight, bias = _copy_implicit(source, head, level, (rows, their_rows), (weight, bias))
            report.copied += bool(len(head.implicit_add)) + bool(len(head.implicit_multiply))
        weight, bias = weight * steeper[:, None, None, None], bias * steeper
        conv.weight[rows] = weight[their_rows].to(conv.weight.dtype)
        conv.bias[rows] = bias[their_rows].to(conv.weight.dtype)  # type: ignore[index]
        report.copied += 2
    fresh = dict.fromkeys(name.partition(" ")[0] for name in names if name not in place)
    if fresh.pop("classes", "") is None:
        report.leave_out(f"head.{role} (classes)", OTHER_CLASSES)
    if fresh:
        report.leave_out(f"head.{role} ({', '.join(fresh)})", OTHER_CHANNELS)


def _steepness(source: Head, head: Head, names: list[str]) -> Tensor:
    """What the rows of a source's convolution are multiplied by: those of centres, where these reach another way.

    Decoded centres then have the same value and the same slope where the logits are 0.
    """
    ratio = (1 + 2 * source.reach) / (1 + 2 * head.reach)
    centre = torch.tensor([name.startswith(("box 0 ", "box 1 ")) for name in names], device=source.anchors.device)
    return torch.where(centre, ratio, 1.0).double()


def _copy_implicit(source: Head, head: Head, level: int, rows: tuple[Tensor, Tensor],
                   conv: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Take over the implicit knowledge of a level, and put what the head has no place for into weight and bias."""
    weight, bias = conv
    add, factor = torch.zeros_like(weight[0, :, 0, 0]), torch.ones_like(bias)
    if len(source.implicit_add):
        add = source.implicit_add[level].double().flatten()
    if len(source.implicit_multiply) and source.multiplies:
        factor = source.implicit_multiply[level].double().flatten()
    if len(head.implicit_add):
        head.implicit_add[level].copy_(add[None, :, None, None])
    else:
        bias = bias + weight[:, :, 0, 0] @ add
    if len(head.implicit_multiply) and head.multiplies:
        head.implicit_multiply[level][0, rows[0], 0, 0] = factor[rows[1]].to(head.implicit_multiply[level].dtype)
        return weight, bias
    return weight * factor[:, None, None, None], bias * factor

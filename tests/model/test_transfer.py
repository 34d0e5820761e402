"""Masks and key points start from a detector, from other classes and from other key points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_numbers import golden_state_dict
from torch import Tensor, nn

from yolov7.config import InputError
from yolov7.model import weights
from yolov7.model.blocks import RepConv
from yolov7.model.detector import Detector
from yolov7.model.reference.layout import ImportReport, export_state_dict
from yolov7.model.reparam import reparameterize
from yolov7.model.scaling import Scale
from yolov7.model.spec import read_spec, scaled_spec
from yolov7.model.transfer import OTHER_CHANNELS, as_conv, transfer

NAMES = tuple(f"thing {i}" for i in range(80))


def narrow(name: str, num_classes: int, **arguments: Any) -> Detector:
    """A shipped model, narrow, with random weights, statistics and implicit knowledge."""
    spec, _ = scaled_spec(read_spec(name), Scale(width=0.25, hidden_width=0.25))
    torch.manual_seed(len(name))
    model = Detector(spec.with_head_arguments(arguments) if arguments else spec, num_classes)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in ((layer.weight, 0.5, 1.5), (layer.bias, -1, 1), (layer.running_mean, -1, 1),
                                      (layer.running_var, 0.5, 1.5)):
                nn.init.uniform_(tensor, low, high)
    for vector in (*model.head.implicit_add, *model.head.implicit_multiply):
        nn.init.uniform_(vector, 0.5, 2)
    return model.eval()


def started(model: Detector, source: Detector, tmp_path: Path, fused: bool = False) -> ImportReport:
    path = tmp_path / "w.pt"
    source = reparameterize(source) if fused else source
    weights.save({**weights.describe(source, NAMES[: source.num_classes], 640), "model": source.state_dict()}, path)
    return weights.initialize_from(model, path)


@torch.no_grad()
def outputs(model: Detector) -> dict[str, list[Tensor]]:
    """Logits by the name of their channels, level by level."""
    images = torch.rand(1, 3, 2 * model.stride, model.stride, generator=torch.Generator().manual_seed(0))
    output = model.eval()(images)
    heads = [output.levels, *(auxiliary.levels for auxiliary in output.auxiliary)]
    return {name: [level[..., model.head.channels.slice(name)] for levels in heads for level in levels]
            for name in model.head.channels.widths}


def assert_same(model: Detector, source: Detector, names: tuple[str, ...], tolerance: float = 1e-4) -> None:
    ours, theirs = outputs(model), outputs(source)
    for name in names:
        for one, other in zip(ours[name], theirs[name], strict=True):
            assert (one - other).abs().max() <= tolerance * other.abs().max(), name


# --- from a detector -------------------------------------------------------------------------------------------------

PAIRS = [("yolov7", "yolov7-seg"), ("yolov7-tiny", "yolov7-tiny-seg"), ("yolov7-tiny", "yolov7-tiny-pose"),
         ("yolov7-w6", "yolov7-w6-seg"), ("yolov7-w6", "yolov7-w6-pose-aux")]


@pytest.mark.parametrize(("detector", "name"), PAIRS)
def test_boxes_are_those_of_the_detector(detector: str, name: str, tmp_path: Path) -> None:
    source, model = narrow(detector, 4), narrow(name, 4)
    report = started(model, source, tmp_path)
    assert_same(model, source, ("box", "objectness", "classes"))
    own = {"SegmentHead": ("head.prototypes", "(coefficients)"), "PoseHead": ("head.keypoint_paths", "(keypoints)")}
    text = report.text()
    assert own[type(model.head).__name__][0] in text and ("auxiliary" not in text or own[
        type(model.head).__name__][1] in text)
    assert report.copied > 300 and "classes" not in text


@pytest.mark.parametrize(("detector", "name"), [("yolov7", "yolov7-mask"), ("yolov7-tiny", "yolov7-tiny-mask")])
def test_centres_that_reach_further_move_as_far(detector: str, name: str, tmp_path: Path) -> None:
    """The rows of x and y are multiplied by 2/3; where logits are 0, and near it, boxes are those of the detector."""
    source, model = narrow(detector, 4), narrow(name, 4)
    report = started(model, source, tmp_path)
    ours, theirs = outputs(model), outputs(source)
    for one, other in zip(ours["box"], theirs["box"], strict=True):
        expected = other * torch.tensor([2 / 3, 2 / 3, 1, 1])
        assert (one - expected).abs().max() <= 1e-4 * other.abs().max()
    assert_same(model, source, ("objectness", "classes"))
    text = report.text()
    assert "head.attention_convs" in text and "nodes.refine_bases" in text and "nodes.semantic" in text
    for level in (0.0, 0.01):
        for convs, factor in ((source.head.convs, 1.0), (model.head.convs, 2 / 3)):
            for conv in convs:
                nn.init.zeros_(conv.weight)
                conv.bias.data = conv.bias.data.view(3, -1).fill_(level)
                conv.bias.data[:, :2] *= factor
                conv.bias.data = conv.bias.data.flatten()
        for vector in source.head.implicit_multiply:
            nn.init.ones_(vector)
        boxes = [network.decode(network(torch.rand(1, 3, 64, 64))).boxes for network in (model, source)]
        assert (boxes[0] - boxes[1]).abs().max() <= 1e-4 + 1e-4 * level


def test_without_implicit_knowledge_it_goes_into_the_convolution(tmp_path: Path) -> None:
    source, model = narrow("yolov7", 3), narrow("yolov7-seg", 3, implicit=False)
    started(model, source, tmp_path)
    assert_same(model, source, ("box", "objectness", "classes"))


def test_other_classes_start_fresh(tmp_path: Path) -> None:
    source, model = narrow("yolov7-tiny", 4), narrow("yolov7-tiny-seg", 3)
    fresh = [conv.weight.clone().view(3, 40, -1) for conv in model.head.convs]
    report = started(model, source, tmp_path)
    assert_same(model, source, ("box", "objectness"))
    assert report.fresh["the file is for another class count"] == ["head.convs (classes)"]
    for conv, old in zip(model.head.convs, fresh, strict=True):
        assert torch.equal(conv.weight.view(3, 40, -1)[:, 5:], old[:, 5:])
        assert not torch.equal(conv.weight.view(3, 40, -1)[:, :5], old[:, :5])


def test_the_published_order_takes_the_first_anchor(tmp_path: Path) -> None:
    """The other anchors' boxes come from the key points' way, which a detector does not have."""
    source, model = narrow("yolov7-w6", 1), narrow("yolov7-w6-pose", 1)
    report = started(model, source, tmp_path)
    ours, theirs = outputs(model)["box"], outputs(source)["box"]
    for one, other in zip(ours, theirs[:4], strict=True):
        torch.testing.assert_close(one[:, 0], other[:, 0], rtol=1e-4, atol=1e-4)
        assert (one[:, 1:] - other[:, 1:]).abs().max() > 0.1
    assert "head.convs (keypoints)" in report.fresh[OTHER_CHANNELS]


@pytest.mark.slow
def test_the_published_detector_gives_masks_their_boxes(tmp_path: Path) -> None:
    """A file of the reference implementation, whose model is found by its layers. No random number is used up."""
    torch.save(golden_state_dict("yolov7.training", 1.0), tmp_path / "yolov7_training.pt")
    source = weights.load_model(tmp_path / "yolov7_training.pt").model
    model = Detector(read_spec("yolov7-seg"))
    state = torch.random.get_rng_state()
    report = weights.initialize_from(model, tmp_path / "yolov7_training.pt")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same(model, source, ("box", "objectness", "classes"))
    assert report.fresh == {"the file does not have them": ["head.prototypes"],
                            OTHER_CHANNELS: ["head.convs (coefficients)"]}


# --- between masks, key points and other classes ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolov7-tiny-seg", "yolov7-tiny-pose", "yolov7-w6-pose", "yolov7-w6-seg"])
def test_the_same_model_to_the_bit(name: str, tmp_path: Path) -> None:
    source, model = narrow(name, 3), narrow(name, 3)
    for parameter in model.parameters():
        nn.init.uniform_(parameter)
    report = started(model, source, tmp_path)
    assert not report.fresh
    for key, value in source.state_dict().items():
        if not (name.endswith("seg") and "implicit_multiply" in key):
            assert torch.equal(value, model.state_dict()[key]), key


def test_masks_with_other_classes_keep_their_coefficients(tmp_path: Path) -> None:
    source, model = narrow("yolov7-tiny-seg", 4), narrow("yolov7-tiny-seg", 2)
    report = started(model, source, tmp_path)
    assert_same(model, source, ("box", "objectness", "coefficients"), 0)
    assert report.fresh == {"the file is for another class count": ["head.convs (classes)"]}


def test_coefficients_of_other_prototypes_start_fresh(tmp_path: Path) -> None:
    source, model = narrow("yolov7-tiny-seg", 2), narrow("yolov7-tiny-seg", 2, prototype_width=16)
    report = started(model, source, tmp_path)
    assert_same(model, source, ("box", "objectness", "classes"), 0)
    assert report.fresh == {OTHER_CHANNELS: ["head.prototypes", "head.convs (coefficients)"]}


def test_key_points_go_by_their_names(tmp_path: Path) -> None:
    source = narrow("yolov7-tiny-pose", 2, keypoints=["nose", "tail", "paw"])
    model = narrow("yolov7-tiny-pose", 2, keypoints=["paw", "ear", "nose"])
    report = started(model, source, tmp_path)
    assert_same(model, source, ("box", "objectness", "classes"), 0)
    for one, other in zip(outputs(model)["keypoints"], outputs(source)["keypoints"], strict=True):
        assert torch.equal(one[..., :3], other[..., 6:]) and torch.equal(one[..., 6:], other[..., :3])
    assert report.fresh == {OTHER_CHANNELS: ["head.keypoint_paths (keypoints)"]}


def test_another_way_of_key_points_starts_fresh(tmp_path: Path) -> None:
    source, model = narrow("yolov7-tiny-pose", 1), narrow("yolov7-tiny-pose", 1, keypoint_depth=2)
    report = started(model, source, tmp_path)
    assert report.fresh == {OTHER_CHANNELS: ["head.keypoint_paths"]}


def test_from_the_published_order_to_the_new_one(tmp_path: Path) -> None:
    """What comes from the same way in both: the first anchor's box, key points of the others."""
    source, model = narrow("yolov7-w6-pose", 1), narrow("yolov7-w6-pose-aux", 1)
    report = started(model, source, tmp_path)
    ours, theirs = outputs(model), outputs(source)
    for level in range(4):
        assert torch.equal(ours["box"][level][:, 0], theirs["box"][level][:, 0])
        assert torch.equal(ours["keypoints"][level][:, 1:], theirs["keypoints"][level][:, 1:])
        assert torch.equal(ours["keypoints"][level][:, 0, ..., 12:], theirs["keypoints"][level][:, 0, ..., 12:])
    assert report.fresh["the file does not have them"] == [*(f"nodes.a{i}" for i in range(3, 7)),
                                                           "head.auxiliary_convs"]


def test_key_points_to_masks_and_back_to_a_detector(tmp_path: Path) -> None:
    source, model, detector = narrow("yolov7-tiny-pose", 2), narrow("yolov7-tiny-seg", 2), narrow("yolov7-tiny", 2)
    started(model, source, tmp_path)
    assert_same(model, source, ("box", "objectness", "classes"))
    started(detector, model, tmp_path)
    assert_same(detector, source, ("box", "objectness", "classes"))


def test_from_a_file_in_the_layout_of_the_reference_implementation(tmp_path: Path) -> None:
    """Also of a model that is not shipped, with other classes."""
    source, model = narrow("yolov7-tiny-seg", 4), narrow("yolov7-tiny-seg", 2)
    torch.save(export_state_dict(source), tmp_path / "w.pt")
    report = weights.initialize_from(model, tmp_path / "w.pt")
    assert_same(model, source, ("box", "objectness", "coefficients"), 0)
    assert report.fresh == {"the file is for another class count": ["head.convs (classes)"]}


# --- what is refused -------------------------------------------------------------------------------------------------


def test_weights_of_another_model(tmp_path: Path) -> None:
    for source, name, message in (
        (narrow("yolov7-tiny", 2), "yolov7-seg", "only one of yolov7-tiny-scaled and yolov7-seg-scaled has the node "),
        (narrow("yolov7", 2), "yolov7x", "weights of another model"),
        (narrow("yolov7-seg", 2), "yolov7", r"nodes.p3.dense.0.weight is nothing, expected \(64, 32, 3, 3\)")):
        with pytest.raises(InputError, match=f"w.pt: weights of another model: {message}"
                           if source.spec.name != "yolov7-scaled" else message):
            started(narrow(name, 2), source, tmp_path)
    with pytest.raises(InputError, match="is re-parameterized and cannot be trained"):
        started(narrow("yolov7-tiny-seg", 2), narrow("yolov7-tiny-seg", 2), tmp_path, fused=True)


def test_other_numbers_of_anchors() -> None:
    source, model = narrow("yolov7-tiny", 2), narrow("yolov7-tiny-seg", 2)
    two = narrow("yolov7-tiny-seg", 2, anchors=[level[:2] for level in model.head.anchors.tolist()])
    report = transfer(source, two, "w.pt")
    assert report.fresh["the file is for other numbers of levels or anchors"] == ["head.convs"]
    assert report.fresh[OTHER_CHANNELS] == ["head.anchors"]


# --- RepConv ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("groups", "identity", "stride"), [(1, False, 1), (1, True, 1), (2, False, 2)])
@torch.no_grad()
def test_a_plain_convolution_for_a_repconv(groups: int, identity: bool, stride: int) -> None:
    """The same in evaluation, and about the same with the statistics of a batch, as in training."""
    torch.manual_seed(1)
    block = RepConv(16, 16, stride, groups, identity).train()
    for norm in (block.dense[1], block.point[1]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -1, 1)
    images = torch.randn(32, 16, 12, 12)
    for _ in range(300):
        block(images)  # statistics as after a training
    plain = as_conv(block)
    torch.testing.assert_close(plain.eval()(images), block.eval()(images), rtol=1e-4, atol=1e-5)
    expected, found = block.train()(images), plain.train()(images)
    assert (expected - found).square().mean() < 0.02 * expected.var()

"""Heads of masks and key points: where their channels come from, what is folded, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov7.config import InputError
from yolov7.keypoints import COCO_PERSON
from yolov7.model.blocks import Conv
from yolov7.model.detector import Detector
from yolov7.model.heads.base import Head
from yolov7.model.heads.pose import PoseHead, PublishedPoseHead
from yolov7.model.heads.segment import SegmentHead
from yolov7.model.reparam import reparameterize
from yolov7.model.spec import parse_spec, read_spec

ANCHORS = [[[4.0, 4.0], [8.0, 6.0], [9.0, 20.0]], [[16.0, 16.0], [30.0, 40.0], [90.0, 80.0]]]


def definition(head: dict[str, Any]) -> dict[str, Any]:
    return {"name": "small",
            "nodes": {"stem": {"block": "Conv", "out": 8, "kernel": 3, "stride": 8},
                      "c1": {"block": "Conv", "out": 16, "kernel": 3, "stride": 2},
                      "a1": {"block": "Conv", "from": "stem", "out": 12, "kernel": 3},
                      "a2": {"block": "Conv", "from": "c1", "out": 20, "kernel": 3}},
            "head": {"from": ["stem", "c1"], "auxiliary": ["a1", "a2"], "anchors": ANCHORS, **head}}


def build(head: dict[str, Any], num_classes: int) -> Detector:
    torch.manual_seed(0)
    return Detector(parse_spec(definition(head), "small.yaml"), num_classes)


HEADS: dict[str, dict[str, Any]] = {
    "segment": {"block": "SegmentHead", "masks": 6, "prototype_width": 10},
    "plain": {"block": "SegmentHead", "masks": 6, "prototype_width": 10, "implicit": False},
    "pose": {"block": "PoseHead", "keypoints": ["nose", "tail"], "keypoint_depth": 2, "keypoint_width": 6},
    "pose as wide as the level": {"block": "PoseHead", "keypoints": ["nose", "tail"]},
    "published": {"block": "PublishedPoseHead", "keypoints": ["nose", "tail"]}}


# --- channels --------------------------------------------------------------------------------------------------------


def count_channels(head: PoseHead) -> Tensor:
    """The logits of one cell where the bias of every channel is its number: first the detection's, then the others."""
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()
        own = head.convs[0].out_channels
        head.convs[0].bias.copy_(torch.arange(own))
        last = head.keypoint_paths[0].last
        last.bias.copy_(own + torch.arange(last.out_channels))
        return head([torch.rand(1, 8, 2, 3)]).levels[0][0, :, 1, 2]  # [A, X]


def test_published_channels_are_cut_across_both_ways() -> None:
    head = PublishedPoseHead([8], [8], 1, ANCHORS[:1], False)
    found = count_channels(head)
    assert torch.equal(found, torch.arange(171.0).view(3, 57))
    boxes = [row[:6].tolist() for row in found]  # box, objectness and class of an anchor
    assert boxes == [[0, 1, 2, 3, 4, 5], [57, 58, 59, 60, 61, 62], [114, 115, 116, 117, 118, 119]]
    assert head.channels.slice("keypoints") == slice(6, 57)
    convs, names = head.outputs()["keypoint_paths"]
    assert names[39] == "box 0 of 4 of anchor 1" and names[45] == "keypoints nose x of anchor 1"
    assert convs[0].out_channels == len(names) == 153 and len(head.outputs()["convs"][1]) == 18


def test_channels_of_an_anchor_belong_together_in_new_training() -> None:
    found = count_channels(PoseHead([8], [8], 2, ANCHORS[:1], False, keypoints=("a", "b")))
    assert found.tolist() == [[*range(7 * a, 7 * a + 7), *range(21 + 6 * a, 27 + 6 * a)] for a in range(3)]


def test_priors() -> None:
    torch.manual_seed(0)
    head = PublishedPoseHead([8], [8], 1, ANCHORS[:1])
    bias = head.convs[0].bias.detach()
    assert (bias[[4, 10, 16]] + 6.6846).abs().max() < 0.5 and (bias[[5, 11, 17]] - 4.0943).abs().max() < 0.5
    assert head.keypoint_paths[0].last.bias.abs().max() < 0.5
    bias = SegmentHead([8], [8], 80, ANCHORS[:1], True, [8]).auxiliary_convs[0].bias.detach().view(3, 117)
    assert (bias[:, 4] + 6.6846).abs().max() < 0.5 and (bias[:, 5:85] + 4.8804).abs().max() < 0.5
    assert bias[:, 85:].abs().max() < 0.5


@pytest.mark.parametrize("name", HEADS)
def test_auxiliary_head_and_maps(name: str) -> None:
    """The same channels, and prototypes once for both heads."""
    model = build(HEADS[name], 3)
    made = []
    if isinstance(model.head, SegmentHead):
        model.head.prototypes.register_forward_hook(lambda _module, _inputs, output: made.append(output))
    output = model(torch.rand(2, 3, 128, 256))
    for levels in (output.levels, output.auxiliary[0].levels):
        assert [level.shape for level in levels] == [(2, 3, 16 // s, 32 // s, 14) for s in (1, 2)]
    assert [value.shape for value in output.maps.values()] == [(2, 6, 32, 64)] * len(made)
    assert len(made) == isinstance(model.head, SegmentHead) and not output.auxiliary[0].maps


@pytest.mark.parametrize("name", HEADS)
def test_what_rows_make(name: str) -> None:
    head = build(HEADS[name], 3).head
    for convs, names in head.outputs().values():
        assert len(set(names)) == len(names) and {conv.out_channels for conv in convs} == {len(names)}
    lead = [name for role, (_, names) in head.outputs().items() for name in names if role != "auxiliary_convs"]
    assert sorted(lead) == sorted(head.outputs()["auxiliary_convs"][1]) and len(lead) == 3 * 14


def test_key_points_are_linear_and_not_limited() -> None:
    logits = torch.tensor([[-30.0, 4.0, 0.0, 0.5, 1.0, 2.0]])
    found = PoseHead.decode_columns({"keypoints": logits}, torch.tensor([[3.0, 1.0]]), torch.rand(1, 2), 8.0)
    expected = [[[(-60.5 + 3) * 8, (7.5 + 1) * 8, 0.5], [(0.5 + 3) * 8, (1.5 + 1) * 8, torch.tensor(2.0).sigmoid()]]]
    torch.testing.assert_close(found["keypoints"], torch.tensor(expected))


# --- implicit knowledge and the deployed form ------------------------------------------------------------------------


def randomize(model: Detector) -> Detector:
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    for vector in (*model.head.implicit_add, *model.head.implicit_multiply):
        nn.init.uniform_(vector, 0.5, 2)
    return model.eval()


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_the_deployed_form_computes_the_same(name: str) -> None:
    model = randomize(build(HEADS[name], 3)).double()
    fused = reparameterize(model)
    images = torch.rand(1, 3, 32, 64, dtype=torch.float64)
    before, after = model(images), fused(images)
    pairs = [*zip(before.levels, after.levels, strict=True),
             *zip(before.maps.values(), after.maps.values(), strict=True)]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert not any(isinstance(module, (nn.BatchNorm2d, Conv)) for module in fused.modules())
    assert not len(fused.head.implicit_multiply)


@torch.no_grad()
def test_the_multiplicative_vector_of_masks_takes_no_part() -> None:
    model = randomize(build(HEADS["segment"], 3))
    images = torch.rand(1, 3, 32, 32)
    before, fused = model(images), reparameterize(model)
    assert torch.equal(fused.head.convs[0].weight, model.head.convs[0].weight)
    for vector in model.head.implicit_multiply:
        assert not vector.requires_grad and vector.shape == (1, 24, 1, 1)
        vector.fill_(torch.nan)
    assert all(torch.equal(*pair) for pair in zip(before.levels, model(images).levels, strict=True))


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_half_precision_of_what_is_heavy(name: str) -> None:
    model = reparameterize(randomize(build(HEADS[name], 3)))
    features = [torch.rand(1, 8, 8, 8), torch.rand(1, 16, 4, 4)]
    expected = model.head(features)
    model.head.to_half(torch.bfloat16)
    output = model.head([feature.bfloat16() for feature in features])
    assert all(level.dtype == torch.float32 for level in output.levels)
    assert all(value.dtype == torch.bfloat16 for value in output.maps.values())
    kinds = {parameter.dtype for parameter in model.head.parameters()}
    assert kinds == {torch.float32, torch.bfloat16}
    for ours, theirs in zip((*output.levels, *output.maps.values()), (*expected.levels, *expected.maps.values()),
                            strict=True):
        assert (ours - theirs).abs().max() < 0.03 * theirs.abs().max()


# --- arguments -------------------------------------------------------------------------------------------------------


def changed(**arguments: Any) -> Callable[[], Head]:
    return lambda: build({"block": "PoseHead", **arguments}, 1).head


@pytest.mark.parametrize(("arguments", "message"), [
    ({"keypoints": []}, r"small.head: PoseHead: keypoints \[\]; accepted: 1 to 1000 names in printable characters"),
    ({"keypoints": ["a", "a"]}, r"keypoints \['a', 'a'\]; accepted: .*each of them once"),
    ({"keypoints": ["a\x1b"]}, "in printable characters"),
    ({"keypoints": ["a", "b"], "limbs": [[0, 2]]}, r"limbs: found \[0, 2\]; accepted: pairs .* counted from 0 to 1"),
    ({"keypoints": ["a", "b"], "limbs": [[0]]}, r"limbs: found \[0\]; accepted: pairs"),
    ({"keypoints": ["a", "b"], "sigmas": [0.1]}, r"sigmas \[0.1\]; accepted: a number above 0 for each of the 2"),
    ({"keypoints": ["a"], "sigmas": [0]}, r"sigmas \[0.0\]; accepted: a number above 0"),
    ({"keypoint_width": 0}, "keypoint_width 0; accepted: at least 1"),
    ({"keypoint_depth": 0}, "small.head, keypoint_depth: found 0; accepted: at least 1 and at most 100"),
    ({"keypoint_depth": 101}, "small.head, keypoint_depth: found 101; accepted: at least 1 and at most 100"),
    ({"masks": 3}, "small.head: unknown key 'masks'; accepted: .*keypoints, limbs, flip, sigmas, keypoint_depth"),
])
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(**arguments)()


def test_any_key_points() -> None:
    head = changed(keypoints=["a", "b", "c"], limbs=[[0, 2]], sigmas=[0.1, 0.2, 0.3])()
    assert head.channels.widths["keypoints"] == 9 and head.channels.facts == {"sigmas": (0.1, 0.2, 0.3)}
    assert changed()().channels.facts["sigmas"] == COCO_PERSON.sigmas
    adapted = read_spec("yolov7-tiny-pose").with_head_arguments({"keypoints": ["a", "b"], "limbs": [[0, 1]]})
    with torch.device("meta"):
        assert Detector(adapted, 4).head.channels.size == 15


def test_published_costs() -> None:
    for name, classes, entries, training, deployed in (
        ("yolov7-seg", 80, 565, 38_292_218, 38_266_045), ("yolov7-w6-pose", 1, 907, 80_238_452, 80_175_724),
        ("yolov7-mask", 80, 695, 45_438_870, 45_413_366)):
        with torch.device("meta"):
            model = Detector(read_spec(name), classes)
            fused = reparameterize(model)
        assert len(model.state_dict()) == entries  # of pose and mask theirs has the anchors twice
        assert sum(p.numel() for p in model.parameters()) == training
        assert sum(p.numel() for p in fused.parameters()) == deployed


# --- maps beside the levels ----------------------------------------------------------------------------------------


def blended(head: dict[str, Any] | None = None, bases: int = 4, stride: int = 4) -> Detector:
    """A network whose head reads two nodes beside its levels; ``stem`` has half the stride of the finest level."""
    found = definition({"block": "MaskHead", "auxiliary": [], **(head or {})})
    source = "stem" if stride == 4 else "image"
    found["nodes"] |= {"c1": {"block": "Conv", "out": 16, "kernel": 3, "stride": 2},
                       "c2": {"block": "Conv", "out": 16, "kernel": 3, "stride": 2},
                       "bases": {"block": "Projection", "from": source, "maps": bases},
                       "semantic": {"block": "Projection", "from": source, "maps": 1}}
    found["nodes"] = {name: node for name, node in found["nodes"].items() if name not in ("a1", "a2")}
    found["nodes"]["stem"]["stride"] = 4
    found["head"] |= {"from": ["c1", "c2"]} | ({"maps": ["bases", "semantic"]} if "maps" not in found["head"] else {})
    torch.manual_seed(0)
    return Detector(parse_spec(found, "small.yaml"), 3)


@pytest.mark.parametrize("block", ["MaskHead", "MaskIoUHead"])
def test_attention_comes_from_convolutions_of_its_own(block: str) -> None:
    """Channel ``a * 980 + k`` of the attention, and of each anchor behind its classes; maps are those of the nodes."""
    model = blended({"block": block, "implicit": False}).eval()
    head = model.head
    with torch.no_grad():
        for convs in (head.convs, *head.own_convs().values()):
            convs[0].weight.zero_()
            convs[0].bias.copy_(torch.arange(convs[0].out_channels))
    output = model(torch.rand(1, 3, 64, 96))
    cell = output.levels[0][0, :, 1, 2]  # [A, X]
    assert cell[:, :8].tolist() == [[*range(8 * a, 8 * a + 8)] for a in range(3)]
    assert cell[:, 8:988].tolist() == [[*range(980 * a, 980 * a + 980)] for a in range(3)]
    assert block == "MaskHead" or cell[:, 988].tolist() == [0, 1, 2]
    assert output.maps["bases"].shape == (1, 4, 16, 24) and output.maps["semantic"].shape == (1, 1, 16, 24)
    found = model.decode(output)
    assert found.extra["attention"].shape == (1, 3 * (8 * 12 + 4 * 6), 980)
    if block == "MaskIoUHead":
        assert found.extra["mask_iou"].min() >= 0 and found.extra["mask_iou"].max() <= 1


def test_centres_of_blended_masks_reach_a_cell_out_of_their_own() -> None:
    model = blended().eval()
    logits = torch.full((1, 3, 1, 1, model.head.channels.size), 50.0)
    rows = model.head.decoder.above(type(model(torch.rand(1, 3, 32, 32)))((logits, logits)), 0.1)[0]
    centres = (rows.boxes[:, :2] + rows.boxes[:, 2:]) / 2
    torch.testing.assert_close(centres, torch.tensor([[16.0] * 2] * 3 + [[32.0] * 2] * 3))


def test_maps_beside_the_levels_that_do_not_fit() -> None:
    for head, bases, stride, message in (
            ({}, 8, 4, "small.head, maps: MaskHead got 8 channels of stride 4, 1 channels of stride 4; accepted: "
                       "4 channels of stride 4, 1 channels of stride 4"),
            ({}, 4, 1, "got 4 channels of stride 1, 1 channels of stride 1"),
            ({"maps": []}, 4, 4, "small.bases: is read by no other node"),
            ({"maps": ["base", "semantic"]}, 4, 4, "small.head, maps, from: unknown node .base."),
            ({"block": "AnchorHead"}, 4, 4, "AnchorHead got 4 channels .*accepted: none")):
        with pytest.raises(InputError, match=message):
            blended(head, bases, stride)
    assert blended({"bases": 8, "attention": 7}, 8).head.channels.widths["attention"] == 9 * 49
    with pytest.raises(InputError, match="attention 57; accepted: at most 56"):
        blended({"attention": 57})


def test_masks_have_cells_of_four_pixels() -> None:
    finer = definition({**HEADS["segment"], "auxiliary": []})
    finer["nodes"]["stem"]["stride"] = 4
    finer["nodes"] = {name: node for name, node in finer["nodes"].items() if name not in ("a1", "a2")}
    message = r"small.head: SegmentHead: levels of strides \(4, 8\); its masks have cells of 4 px, .*accepted: 8 there"
    with pytest.raises(InputError, match=message):
        Detector(parse_spec(finer, "small.yaml"), 3)


def test_half_precision_and_folding_leave_masks_as_they_are() -> None:
    model = blended().eval()
    fused = reparameterize(model)
    images = torch.rand(1, 3, 64, 96)
    one, two = model(images), fused(images)
    for name, value in one.maps.items():
        torch.testing.assert_close(two.maps[name], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(two.levels[0], one.levels[0], rtol=1e-4, atol=1e-4)


def test_with_implicit_knowledge_or_without_channels_have_the_same_places() -> None:
    """Without it one convolution makes all of them."""
    with_it, without = blended().eval(), blended({"implicit": False}).eval()
    without.load_state_dict(with_it.state_dict(), strict=False)
    with torch.no_grad():
        for vector, value in ((with_it.head.implicit_add, 0.0), (with_it.head.implicit_multiply, 1.0)):
            for part in vector:
                part.fill_(value)
    images = torch.rand(2, 3, 64, 96)
    for one, other in zip(with_it(images).levels, without(images).levels, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", [*HEADS.values(), {"block": "MaskHead"}, {"block": "MaskIoUHead"}])
def test_no_part_of_a_deployed_network_runs_twice(head: dict[str, Any]) -> None:
    """What runs twice is traced as two functions, which the reader of TorchScript does not take."""
    model = reparameterize((blended(head) if "Mask" in head["block"] else build(head, 3)).eval())
    calls: Counter[str] = Counter()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    model(torch.rand(1, 3, 64, 64))
    assert calls[""] == 1 and set(calls.values()) == {1}

"""Heads: the channels of their logits, their decoder with the columns of a task, and how a YAML finds them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from yolov7.boxes import xyxy_to_cxcywh
from yolov7.config import InputError
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.heads import base
from yolov7.model.heads.anchor import AnchorHead
from yolov7.model.heads.base import Channels, Decoder, Head, Predictions, find_head, head_arguments, register_head
from yolov7.model.reparam import reparameterize
from yolov7.model.spec import parse_spec
from yolov7.runtime import plugins
from yolov7.structures import HeadOutput

DEFINITION: dict[str, Any] = {
    "name": "small",
    "nodes": {"stem": {"block": "Conv", "out": 8, "kernel": 3, "stride": 2}, "c1": {"block": "MaxDown"}},
    "head": {"block": "AngleHead", "from": ["stem", "c1"], "bins": 3,
             "anchors": [[[4, 4], [9, 5]], [[8, 8], [16, 30]]]},
}


class AngleHead(Head):
    """Adds an angle in bins to each object, a distance in cells, and a map of the image."""

    map_names = ("mean",)

    def __init__(self, *arguments: Any, bins: int = 2, **keywords: Any) -> None:
        super().__init__(*arguments, extra={"angle": bins, "distance": 2}, **keywords)

    @staticmethod
    def decode_columns(logits: dict[str, Tensor], cells: Tensor, anchors: Tensor, stride: float) -> dict[str, Tensor]:
        distance = logits["distance"].float()
        return {"angle": logits["angle"].float().softmax(dim=-1), "point": (distance + cells) * stride,
                "size": distance.exp() * anchors}

    def make_maps(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"mean": features[0].mean(dim=1)}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(base, "HEADS", dict(base.HEADS))
    register_head(AngleHead)
    yield


@pytest.fixture
def model(registered: None) -> Detector:
    torch.manual_seed(0)
    return Detector(parse_spec(DEFINITION, "small.yaml"), 5)


# --- channels --------------------------------------------------------------------------------------------------------


def test_channels() -> None:
    channels = Channels.of(7, {"angle": 3, "distance": 2})
    assert channels.size == 17 and channels.extra == ("angle", "distance")
    assert {name: channels.slice(name) for name in channels.widths} == {
        "box": slice(0, 4), "objectness": slice(4, 5), "classes": slice(5, 12), "angle": slice(12, 15),
        "distance": slice(15, 17)}
    assert channels.scores == slice(4, 12)
    with pytest.raises(KeyError, match="mask"):
        channels.slice("mask")


def test_channels_of_a_detector_end_with_its_classes() -> None:
    channels = Channels.of(80, {})
    assert (channels.size, channels.extra, channels.scores) == (85, (), slice(4, None))
    assert channels.slice("classes") == slice(5, 85)


# --- decoding --------------------------------------------------------------------------------------------------------


def of_image(output: HeadOutput, index: int) -> HeadOutput:
    return HeadOutput(tuple(level[index : index + 1] for level in output.levels), (),
                      {name: value[index : index + 1] for name, value in output.maps.items()})


def test_columns_of_a_task(model: Detector) -> None:
    output = model(torch.rand(2, 3, 32, 64))
    assert [level.shape for level in output.levels] == [(2, 2, 16, 32, 15), (2, 2, 8, 16, 15)]
    assert output.maps["mean"].shape == (2, 16, 32) and AngleHead.map_names == tuple(output.maps)
    found = model.decode(output)
    rows = 2 * (16 * 32 + 8 * 16)
    assert found.boxes.shape == (2, rows, 4) and found.classes.shape == (2, rows, 5)
    assert {name: column.shape for name, column in found.extra.items()} == {
        "angle": (2, rows, 3), "point": (2, rows, 2), "size": (2, rows, 2)}
    # the second anchor of the second level at row 3, column 5
    row, logits = 2 * 16 * 32 + 8 * 16 + 3 * 16 + 5, output.levels[1][1, 1, 3, 5]
    centre = (2 * logits[:2].sigmoid() - 0.5 + torch.tensor([5.0, 3.0])) * 4
    torch.testing.assert_close(xyxy_to_cxcywh(found.boxes[1, row])[:2], centre)
    torch.testing.assert_close(found.classes[1, row], logits[5:10].sigmoid())
    torch.testing.assert_close(found.extra["angle"][1, row], logits[10:13].softmax(dim=0))
    torch.testing.assert_close(found.extra["point"][1, row], (logits[13:15] + torch.tensor([5.0, 3.0])) * 4)
    torch.testing.assert_close(found.extra["size"][1, row], logits[13:15].exp() * torch.tensor([16.0, 30.0]))


@pytest.mark.parametrize("confidence", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_both_ways_of_decoding_give_the_same_rows(model: Detector, confidence: float) -> None:
    output = HeadOutput(tuple(torch.randn(3, 2, side, 2 * side, 15) for side in (16, 8)), maps={
        "mean": torch.rand(3, 16, 32)})
    decoder = model.head.decoder
    assert isinstance(decoder, Decoder)
    for image, part in enumerate(decoder.above(output, confidence)):
        whole = decoder(output).images()[image]
        kept = whole.objectness > confidence
        assert len(part.boxes) == kept.sum() == {0.0: len(kept), 1.0: 0}.get(confidence, kept.sum())
        assert_equal(part, Predictions(whole.boxes[kept], whole.objectness[kept], whole.classes[kept],
                                       {name: column[kept] for name, column in whole.extra.items()}, whole.maps))
        assert_equal(decoder(of_image(output, image)).images()[0], whole)


def assert_equal(one: Predictions, other: Predictions) -> None:
    assert list(one.extra) == list(other.extra) and list(one.maps) == list(other.maps)
    pairs = [(one.boxes, other.boxes), (one.objectness, other.objectness), (one.classes, other.classes),
             *((value, other.extra[name]) for name, value in one.extra.items()),
             *((value, other.maps[name]) for name, value in one.maps.items())]
    for value, expected in pairs:
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


def test_a_detector_has_no_columns_and_no_maps() -> None:
    head = AnchorHead([8], [8], 3, [[[4.0, 4.0]]])
    output = head([torch.rand(2, 8, 4, 4)])
    found = head.decoder(output)
    assert found.extra == found.maps == output.maps == {}
    assert all(part.extra == part.maps == {} for part in (*head.decoder.above(output, 0.0), *found.images()))


def test_columns_are_the_logits_unless_a_head_decodes_them() -> None:
    head = Head([8], [8], 3, [[[4.0, 4.0]]], extra={"depth": 1})
    output = head([torch.rand(2, 8, 4, 4)])
    assert torch.equal(head.decoder(output).extra["depth"], output.levels[0][..., 8:].flatten(1, 3))


def test_a_fused_head_keeps_its_channels(model: Detector) -> None:
    images = torch.rand(1, 3, 32, 32)
    before, after = model.eval()(images), reparameterize(model)(images)
    for ours, theirs in zip(before.levels, after.levels, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(before.maps["mean"], after.maps["mean"], rtol=1e-4, atol=1e-5)


def test_only_objectness_and_classes_have_a_prior(registered: None) -> None:
    for head, width in ((AnchorHead, 10), (AngleHead, 14)):
        torch.manual_seed(0)
        made = head([8], [8], 5, [[[4.0, 4.0]]])
        bias = made.convs[0].bias.detach().view(1, width)
        assert bias[:, 4] < -4 and (bias[:, 5:10] < -1).all()
        assert bias[:, :4].abs().max() < 1 and (width == 10 or bias[:, 10:].abs().max() < 1)


@pytest.mark.parametrize(("names", "message"), [
    (("angle", "scores"), "AngleHead: its output cannot be called 'scores'; accepted: a word of letters, digits and _"),
    (("level0",), "AngleHead: its output cannot be called 'level0'; .* neither levelN nor one of bbox, box, "),
    (("an angle",), "AngleHead: its output cannot be called 'an angle'"),
    (("angle", "depth", "angle"), "AngleHead: two of its outputs are called angle"),
])
def test_names_that_an_output_cannot_have(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        base.check_names(names, AngleHead)
    assert base.check_names(("angle", "place"), AngleHead) == ("angle", "place")


# --- registry --------------------------------------------------------------------------------------------------------


def test_keys_of_a_head_of_its_own(model: Detector) -> None:
    assert list(head_arguments(AngleHead)) == ["bins"] and not head_arguments(AnchorHead)
    assert model.spec.head.arguments == {"bins": 3} and model.head.channels.widths["angle"] == 3
    definition = copy.deepcopy(DEFINITION)
    del definition["head"]["bins"]
    assert Detector(parse_spec(definition, "small.yaml"), 5).head.channels.widths["angle"] == 2
    for key, value, message in (
        ("bin", 3, "small.head: unknown key 'bin'; accepted: .*bins; did you mean 'bins'"),
        ("bins", "many", r"small.head, bins: found a text \('many'\); accepted: a whole number"),
        ("bins", 0, "small.head, bins: found 0; accepted: at least 1"),
        ("block", ["AngleHead"], r"small.head, block: found a list .*; accepted: a text"),
    ):
        changed = {**DEFINITION, "head": {**DEFINITION["head"], key: value}}
        with pytest.raises(InputError, match=message):
            parse_spec(changed, "small.yaml")


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SimpleNamespace]]:
    """Nothing is installed beside this package, unless a test adds entry points."""
    entries: list[SimpleNamespace] = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
    plugins.load_plugins.cache_clear()
    yield entries
    plugins.load_plugins.cache_clear()


def test_an_unknown_head(no_plugins: list[SimpleNamespace]) -> None:
    with pytest.raises(InputError, match=r"m.yaml: unknown block 'AnchorHaed'; accepted: .*AnchorHead.*; did you mean "
                                         r"'AnchorHead'\? \(the heads of another package are found once it is"):
        find_head("AnchorHaed", "m.yaml")
    with pytest.raises(InputError, match="best.pt: the head 'AngleHead' comes with the package 'yolov7-angles', which "
                                         "is not installed here: pip install yolov7-angles"):
        find_head("AngleHead", "best.pt", "yolov7-angles")


def test_a_head_of_an_installed_package(no_plugins: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "HEADS", dict(base.HEADS))
    no_plugins.append(SimpleNamespace(name="angles", value="angles.task", load=lambda: register_head(AngleHead)))
    assert find_head("AngleHead", "m.yaml") is AngleHead


def test_weights_name_the_package_of_their_head(model: Detector, no_plugins: list[SimpleNamespace], tmp_path: Any,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AngleHead, "__module__", "angles.task")
    no_plugins.append(SimpleNamespace(name="angles", value="angles.task", load=lambda: None,
                                      dist=SimpleNamespace(name="yolov7-angles")))
    path = tmp_path / "w.pt"
    names = tuple("abcde")
    weights.save(weights.describe(model, names, 64) | {"model": model.state_dict()}, path)
    loaded = weights.load_model(path)
    assert loaded.info.head == "AngleHead" and loaded.model.head.channels == model.head.channels
    del base.HEADS["AngleHead"]
    for read in (weights.load_model, weights.spec_of):
        with pytest.raises(InputError, match="definition, small.head: the head 'AngleHead' comes with the package "
                                             "'yolov7-angles', which is not installed here: pip install yolov7-angles"):
            read(path)

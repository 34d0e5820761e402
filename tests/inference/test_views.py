"""Test-time augmentation and ensembles of networks that predict key points and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from yolov7.boxes import mirror
from yolov7.config import InputError
from yolov7.inference.blended import finish_blended, select_without
from yolov7.inference.mask_assembly import assemble
from yolov7.inference.network import GREY, Augmented, Ensemble
from yolov7.inference.nms import NMSOptions, nms_image
from yolov7.inference.views import JOINS, View, join_keypoints, register_join
from yolov7.keypoints import COCO_PERSON
from yolov7.model.heads.base import Predictions
from yolov7.model.weights import ModelInfo
from yolov7.structures import ImageMeta

CPU = torch.device("cpu")
SPOTS = torch.tensor([[12.0, 20.0], [50.0, 12.0], [30.0, 40.0]])  # nose, left eye, right eye: red, green, blue


class Painted:
    """A network that finds the person whose points are spots of a colour each, and a mask where the image is bright."""

    device, stride, shape = CPU, 32, None

    def __init__(self, outputs: tuple[str, ...], **arguments: Any) -> None:
        self.task_outputs = outputs
        self.info = ModelInfo(("person",), head="PoseHead", arguments=arguments)

    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        return [self.find(image) for image in images]

    def find(self, image: Tensor) -> Predictions:
        content = torch.where(image == GREY, 0, image)
        peaks = [(channel > 0.5 * channel.max()).nonzero().double().mean(0) + 0.5 for channel in content]
        places = torch.stack([place.flip(0) for place in peaks]).float()
        if places[1, 0] < places[2, 0]:  # what it takes for the left eye is on the right of an image
            places = places[[0, 2, 1]]
        points = torch.cat((places, torch.full((3, 1), 0.9)), dim=1)[None]
        box = torch.cat((places.amin(0) - 5, places.amax(0) + 5))[None]
        extra, maps = {"keypoints": points}, {}
        if self.task_outputs != ("keypoints",):
            height, width = image.shape[-2] // 4, image.shape[-1] // 4
            cells = content.amax(0).view(height, 4, width, 4).mean((1, 3))
            maps = {"prototypes": torch.stack((cells - 0.4, -torch.ones_like(cells)))}
            extra = {"coefficients": torch.tensor([[10.0, 0.5]])}
        if "attention" in self.task_outputs:  # bright where the nose is, dark in the other half of the box
            bright, nothing = 20 * (cells - 0.4), torch.zeros_like(cells)
            maps = {"bases": torch.stack((bright, -bright, nothing, nothing)), "semantic": nothing[None]}
            nose_is_left = bool(places[0, 0] < places[:, 0].mean())
            left = torch.arange(14) < 7
            attention = torch.zeros(5, 14, 14)
            attention[0, :, left == nose_is_left], attention[1, :, left != nose_is_left] = 8.0, 8.0
            extra = {"attention": attention.view(1, -1)}
        return Predictions(box, torch.tensor([0.9]), torch.ones(1, 1), extra, maps)


def picture() -> Tensor:
    """Three discs ``[1, 3, 64, 96]``."""
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    discs = [((x - left) ** 2 + (y - top) ** 2 < 64).float() for left, top in SPOTS.tolist()]
    return torch.stack(discs)[None]


EYES = {"keypoints": ("nose", "left_eye", "right_eye")}


def test_key_points_of_all_views_agree() -> None:
    """The mirrored view names the eyes the other way round, which the flip puts right (and averaging would not)."""
    network = Painted(("keypoints",), **EYES)
    (found,) = Augmented(network)(picture(), 0.25)
    points = found.extra["keypoints"]
    assert points.shape == (3, 3, 3)
    assert (points[..., :2] - SPOTS).abs().max() < 1.5  # sides of smaller views are whole numbers
    assert (found.boxes - found.boxes[:1]).abs().max() < 4
    kept = nms_image(found, NMSOptions(0.25, 0.5))
    assert len(kept) == 1 and torch.equal(kept.extra["keypoints"], points[:1])


def test_two_mirrors_are_none() -> None:
    points = torch.rand(4, 17, 3) * 50
    rows = Predictions(torch.zeros(4, 4), torch.ones(4), torch.ones(4, 1), {"keypoints": points})
    once = join_keypoints([rows], [View((60, 80), 1.0, True)], {})[0]
    assert torch.equal(once["keypoints"][:, 5, 0], 80 - points[:, 6, 0])  # left shoulder
    assert torch.equal(once["keypoints"][:, 5, 1:], points[:, 6, 1:])
    again = Predictions(rows.boxes, rows.objectness, rows.classes, once)
    torch.testing.assert_close(join_keypoints([again], [View((60, 80), 1.0, True)], {})[0]["keypoints"], points)
    halved = join_keypoints([rows], [View((60, 80), 0.5)], {"keypoints": COCO_PERSON.names})[0]["keypoints"]
    assert torch.equal(halved[..., :2], points[..., :2] * 2) and torch.equal(halved[..., 2], points[..., 2])


def test_an_order_that_is_not_known_is_told() -> None:
    network = Painted(("keypoints",), keypoints=("head", "tail", "paw"))
    with pytest.raises(InputError, match="which of the key points head, tail, paw become which is not known"):
        Augmented(network)(picture(), 0.25)


def test_masks_of_all_views_agree() -> None:
    network, image = Painted(("coefficients", "prototypes")), picture()
    (found,) = Augmented(network)(image, 0.25)
    assert found.extra["coefficients"].tolist() == [[10, 0.5, 0, 0, 0, 0], [0, 0, 10, 0.5, 0, 0], [0, 0, 0, 0, 10, 0.5]]
    assert found.maps["prototypes"].shape == (6, 16, 24)
    everywhere = torch.tensor([[0.0, 0, 96, 64]]).expand(3, 4)
    masks = assemble(found.extra["coefficients"], found.maps["prototypes"], everywhere, "fine").dense().float()
    truth = image[0].amax(0)
    for mask in masks:
        assert (mask * truth).sum() / torch.maximum(mask, truth).sum() > 0.75
    plain = network(image, 0.25)[0]
    assert torch.equal(found.maps["prototypes"][:2], plain.maps["prototypes"])


def test_blended_masks_of_all_views_agree() -> None:
    """Also in the mirrored one, whose attention has its left where the image has its right."""
    network, image = Painted(("attention", "bases", "semantic")), picture()
    (found,) = Augmented(network)(image, 0.25)
    assert found.extra["attention"].shape == (3, 15 * 196) and found.maps["bases"].shape == (12, 16, 24)
    kept = select_without(found, NMSOptions(0.25, 1.0))
    masks = finish_blended(kept, found.maps, ImageMeta("", size=(64, 96))).extra["masks"].dense().float()
    plain = network(image, 0.25)[0]
    own = select_without(plain, NMSOptions(0.25, 1.0))
    truth = finish_blended(own, plain.maps, ImageMeta("", size=(64, 96))).extra["masks"].dense().float()[0]
    assert len(masks) == 3 and 0.1 * truth.numel() < truth.sum() < 0.6 * truth.numel()
    for mask in masks:
        assert (mask * truth).sum() / torch.maximum(mask, truth).sum() > 0.75
    torch.testing.assert_close(kept.extra["grids"][kept.scores.argmax()], own.extra["grids"][0], rtol=0, atol=1e-5)


def test_ensembles_of_one_task() -> None:
    image = picture()
    masks, points = Painted(("coefficients", "prototypes")), Painted(("keypoints",), **EYES)
    (found,) = Ensemble([masks, masks])(image, 0.25)
    assert found.maps["prototypes"].shape == (4, 16, 24) and found.extra["coefficients"].shape == (2, 4)
    first, second = (assemble(found.extra["coefficients"][row : row + 1], found.maps["prototypes"], found.boxes[:1],
                              "upsampled").dense() for row in (0, 1))
    assert torch.equal(first, second) and first.any()
    (found,) = Ensemble([points, points])(image, 0.25)
    assert found.extra["keypoints"].shape == (2, 3, 3)
    (found,) = Augmented(Ensemble([masks, masks]))(image, 0.25)
    assert found.maps["prototypes"].shape == (12, 16, 24) and found.extra["coefficients"].shape == (6, 12)
    others: Sequence[Painted] = (masks, Painted(("keypoints",), keypoints=("a", "b", "c")))
    for other in others:
        with pytest.raises(InputError, match="an ensemble needs networks of one task"):
            Ensemble([points, other])


def test_another_task_says_how_its_views_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolov7.inference.views.JOINS", dict(JOINS))
    network = Painted(("weight",))
    network.find = lambda image: Predictions(  # type: ignore[method-assign]
        torch.tensor([[1.0, 2, 3, 4]]), torch.ones(1), torch.ones(1, 1), {"weight": torch.ones(1)})
    with pytest.raises(InputError, match="also predicts weight"):
        Augmented(network)
    register_join(("weight",), lambda parts, views, _: (
        {"weight": torch.cat([part.extra["weight"] * view.scale for part, view in zip(parts, views, strict=True)])},
        {}))
    (found,) = Augmented(network)(picture(), 0.25)
    assert found.extra["weight"].tolist() == pytest.approx([1, 0.83, 0.67])
    assert torch.equal(found.boxes[1], mirror(torch.tensor([1.0, 2, 3, 4]) / 0.83, 96))

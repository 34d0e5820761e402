"""The pipeline as a list: what is accepted, that order and absence count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from yolov7.config import InputError, override
from yolov7.config.recipe import AugmentConfig, Recipe, read_recipe
from yolov7.data import image_cache, picture
from yolov7.data.dataset import TrainingDataset
from yolov7.data.image_set import ImageSet
from yolov7.data.picture import made
from yolov7.data.pipeline import GEOMETRY, STEPS, check_pipeline, make_steps
from yolov7.data.render import paste_mirrored

Squares = Callable[..., ImageSet]
EVERYTHING = AugmentConfig(**{
    field.name: 1.0 for field in fields(AugmentConfig)
    if field.name in (*GEOMETRY, *STEPS) and field.name != "perspective"
})


def test_every_step_has_a_probability_and_stands_in_the_default() -> None:
    assert set(AugmentConfig().pipeline) == {*GEOMETRY, *STEPS}
    names = {field.name for field in fields(AugmentConfig)}
    assert {*GEOMETRY, *STEPS} - names == {"hsv"}  # three amplitudes instead


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("mosaic", "mixxup"), "augment.pipeline: unknown step 'mixxup'; accepted: mosaic, .*did you mean 'mixup'?"),
        (("hsv", "hsv"), "augment.pipeline: found 'hsv' twice; accepted: every step once"),
        (("hsv", "mosaic"), "augment.pipeline: found hsv, mosaic; accepted: mosaic first, in this order"),
        (("perspective", "mosaic"), "accepted: mosaic, perspective first"),
    ],
)
def test_a_wrong_list_is_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_pipeline(names)


@pytest.mark.parametrize("name", ["tiny", "p5", "p6", "custom"])
def test_recipes_show_their_pipeline(name: str) -> None:
    augment = read_recipe(name).augment
    check_pipeline(augment.pipeline)
    active = {step for step in STEPS if step != "hsv" and getattr(augment, step)} | {"hsv", "mosaic", "perspective"}
    assert active <= set(augment.pipeline)


def test_the_list_can_be_changed_on_the_command_line() -> None:
    recipe = override(Recipe(), ["augment.pipeline=[perspective, fliplr, hsv]"])
    assert recipe.augment.pipeline == ("perspective", "fliplr", "hsv")


def test_all_steps_together(squares: Squares) -> None:
    dataset = TrainingDataset(squares(polygons="all"), 96, EVERYTHING)
    assert len(make_steps(EVERYTHING, dataset.composer, dataset.pool, 0)) == len(STEPS)
    for position in range(10):
        sample = dataset[0, position, position % 6]
        assert sample.image.shape == (96, 96, 3)
        objects = sample.objects
        assert len(objects.boxes) == len(objects.labels) == len(objects.polygons) == len(objects.keypoints)


def test_what_is_left_out_does_nothing(squares: Squares) -> None:
    image_set = squares(polygons="all", long_side=96)
    dataset = TrainingDataset(image_set, 96, replace(EVERYTHING, pipeline=()))
    sample = dataset[0, 0, 2]  # 60 x 96 px in a square of 96
    np.testing.assert_array_equal(sample.image[18:78], dataset.reader.read(2))
    np.testing.assert_allclose(sample.objects.boxes, image_set.objects_of(2).boxes + (0, 18, 0, 18), atol=1e-4)
    flipped = TrainingDataset(image_set, 96, replace(EVERYTHING, pipeline=("fliplr",)))[0, 0, 2]
    np.testing.assert_array_equal(flipped.image, sample.image[:, ::-1])


def test_single_images_keep_their_polygons(squares: Squares) -> None:
    image_set = squares(polygons="mixed")
    augment = AugmentConfig(mosaic=0, mixup=0, paste_in=0, translate=0.1, scale=0.2)
    with_polygons, boxes_only = (TrainingDataset(squares(polygons=kind), 128, augment) for kind in ("mixed", "none"))
    for position in range(12):
        key = 0, position, position % len(image_set)
        sample, plain = with_polygons[key].objects, boxes_only[key].objects
        np.testing.assert_array_equal(sample.boxes, plain.boxes)  # moved as boxes, polygons or not
        assert len(plain.polygons.points) == 0
        assert (sample.polygons.counts == (4 if key[2] % 2 == 0 else 0)).all()
        for box, points in zip(sample.boxes, sample.polygons, strict=True):
            if len(points):
                np.testing.assert_allclose([*points.min(0).clip(0, 128), *points.max(0).clip(0, 128)], box, atol=1e-3)


def test_the_order_counts(squares: Squares) -> None:
    image_set = squares(polygons="all")
    images = []
    for order in (("hsv", "cutout"), ("cutout", "hsv")):
        augment = replace(EVERYTHING, hsv_v=1.0, pipeline=("perspective", *order))
        images.append(TrainingDataset(image_set, 96, augment)[0, 0, 0].image)
    assert not np.array_equal(images[0], images[1])


def test_a_crop_of_the_mosaic_without_perspective(squares: Squares) -> None:
    dataset = TrainingDataset(squares(), 128, AugmentConfig(pipeline=("mosaic",)))
    sample = dataset[0, 0, 0]
    assert sample.meta.mosaic
    assert {tuple(colour) for colour in np.unique(sample.image.reshape(-1, 3), axis=0).tolist()} <= {
        (0, 0, 0), (114, 114, 114), (220, 30, 30), (30, 200, 40), (40, 60, 230)}  # nothing interpolated


def test_what_is_mirrored_is_decoded_once(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    mirrored: list[int] = []

    def noting(load: Callable[[str], np.ndarray]) -> Callable[[str], np.ndarray]:
        return lambda path: (read.append(path), load(path))[1]

    def pasting(*arguments: Any) -> None:
        mirrored.append(len(read))
        paste_mirrored(*arguments)
        assert len(read) == len({*read})

    for name in ("load_image", "load_for_warp"):
        monkeypatch.setattr(image_cache, name, noting(getattr(image_cache, name)))
    monkeypatch.setattr(picture, "paste_mirrored", pasting)
    dataset = TrainingDataset(squares(polygons="all"), 96, AugmentConfig(mosaic=1, copy_paste=1))
    for seed in range(10):
        read.clear()
        made(dataset.composer.mosaic(0, np.random.default_rng(seed)))
    assert len(mirrored) > 3

"""Fields of masks and key points: through collate, loader processes and a change of size; recipes of the tasks."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from image_records import polygons_of

from yolov7.config.recipe import AugmentConfig, read_recipe
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import TrainingDataset
from yolov7.data.fields import (
    grid_field,
    keypoint_field,
    known_masks_field,
    mask_field,
    resize_maps,
    semantic_field,
    separate_masks_field,
)
from yolov7.data.loader import EpochSampler, collate, evaluation_loader, training_loader
from yolov7.data.objects import Sample, no_objects
from yolov7.data.rasterize import index_map
from yolov7.structures import ImageMeta

SQUARE = np.array([(0, 0), (15, 0), (15, 15), (0, 15)], np.float32)
FIELDS = (mask_field(), known_masks_field(), keypoint_field())


def sample(*polygons: np.ndarray) -> Sample:
    boxes = np.zeros((len(polygons), 4), np.float32)
    keypoints = np.full((len(polygons), 2, 3), 2, np.float32)
    objects = no_objects(2).like(boxes, np.arange(len(polygons)), polygons=polygons_of(polygons), keypoints=keypoints)
    return Sample(np.zeros((64, 32, 3), np.uint8), objects, ImageMeta("x"))


def test_what_a_batch_holds() -> None:
    batch = collate([sample(SQUARE, SQUARE[:0], SQUARE / 8), sample()], FIELDS)
    maps, known = batch.targets.maps["masks"], batch.targets.extra["has_mask"]
    assert maps.shape == (2, 16, 8) and maps.dtype == torch.int16
    assert maps[0].unique().tolist() == [0, 1] and not maps[1].any()
    assert known.shape == (2, 8) and known.dtype == torch.bool and known[0, :3].tolist() == [True, False, True]
    assert batch.targets.extra["keypoints"].shape == (2, 8, 2, 3)
    separate = collate([sample(SQUARE, SQUARE[:0]), sample()], [separate_masks_field(2)]).targets.extra["masks"]
    assert separate.shape == (2, 8, 32, 16) and separate.dtype == torch.uint8
    assert separate[0, 0].sum() == 8 * 8 and separate.sum() == 8 * 8


def test_masks_in_their_boxes() -> None:
    """A grid over the box, whatever its sides; of eight pixels a byte."""
    triangle = np.array([(4, 8), (32, 8), (32, 64)], np.float32)
    hole = np.concatenate((SQUARE, SQUARE[:1], SQUARE[::-1] / 3 + 5, SQUARE[3:] / 3 + 5))
    polygons = [SQUARE, triangle, SQUARE[:0], hole]
    objects = no_objects(2).like(np.array([(0, 0, 15, 15), (4, 8, 32, 64), (3, 3, 9, 9), (0, 0, 15, 15)], np.float32),
                                 np.arange(4), polygons=polygons_of(polygons),
                                 keypoints=np.zeros((4, 2, 3), np.float32))
    drawn = Sample(np.zeros((64, 32, 3), np.uint8), objects, ImageMeta("x"))
    batch = collate([drawn, sample()], (grid_field(), semantic_field()))
    found = batch.targets.extra["grids"]
    assert found.shape == (2, 8, 392) and found.dtype == torch.uint8
    grids = np.unpackbits(found.numpy(), axis=2).reshape(2, 8, 56, 56).astype(bool)
    assert grids[0, 0].all() and not grids[0, 2].any() and not grids[0, 4:].any() and not grids[1].any()
    y, x = np.mgrid[:56, :56] + 0.5
    apart = grids[0, 1] != (x > y)
    assert apart.sum() <= 56  # of the border, which is filled, too
    assert not grids[0, 3, 20:36, 20:36].any() and grids[0, 3, :16].all()
    assert batch.targets.maps["semantic"].dtype == torch.int8
    cells = batch.targets.maps["semantic"][0]
    assert cells.shape == (16, 8) and cells[:4, :4].min() == 1 and cells[10:, 0].max() == 0
    alone = Sample(drawn.image, objects[np.array([2])], drawn.meta)
    unknown = collate([alone], (semantic_field(),)).targets.maps["semantic"][0]
    assert unknown[1, 1] == -1 and (unknown == 0).sum() == unknown.numel() - (unknown == -1).sum()


def test_fields_can_be_sent_to_spawned_processes() -> None:
    for field in (*FIELDS, separate_masks_field(), grid_field(), semantic_field()):
        again = pickle.loads(pickle.dumps(field))
        np.testing.assert_array_equal(again.of(sample(SQUARE)), field.of(sample(SQUARE)))
        assert again.resize == field.resize and again.outlines == field.outlines


def test_masks_of_another_size_keep_their_numbers() -> None:
    maps = torch.tensor([[[1, 1, 0, 300], [0, 0, 7, 7]]], dtype=torch.int16)
    twice = resize_maps(maps, (2.0, 1.0))
    assert twice.tolist() == [[[1, 1, 1, 1, 0, 0, 300, 300], [0, 0, 0, 0, 7, 7, 7, 7]]] and twice.dtype == torch.int16
    assert resize_maps(twice, (0.5, 1.0)).tolist() == maps.tolist()
    assert resize_maps(maps.expand(3, 2, 2, 4), (1.5, 3.0)).shape == (3, 2, 6, 6)


def test_key_points_of_another_size() -> None:
    field = keypoint_field()
    assert field.resize is not None
    assert field.resize(torch.tensor([[[[10.0, 20.0, 2.0]]]]), (2.0, 0.5)).tolist() == [[[[20, 10, 2]]]]


@pytest.mark.parametrize("workers", [0, 2])
def test_real_images(coco_mini: Path, workers: int) -> None:
    image_set = open_split(open_data(str(coco_mini)), "train")
    dataset = TrainingDataset(image_set, 128, read_recipe("seg").augment, seed=1)
    loader = training_loader(dataset, EpochSampler(16, 8, 1), workers, [mask_field(), known_masks_field()])
    assert dataset.composer.exact_outlines
    for batch in loader:
        maps, targets = batch.targets.maps["masks"], batch.targets
        assert maps.shape == (8, 32, 32) and targets.extra["has_mask"].shape == targets.valid.shape
        for numbers, count in zip(maps, targets.counts, strict=True):
            assert numbers.max() <= count and len(numbers.unique()) > count / 3
    loader.close()
    for batch in evaluation_loader(image_set, 128, 8, 32, workers, fields=[mask_field()]):
        assert batch.targets.maps["masks"].shape[1:] == tuple(side // 4 for side in batch.images.shape[2:])
        break


def test_detection_does_not_pay_for_outlines(coco_mini: Path) -> None:
    image_set = open_split(open_data(str(coco_mini)), "train")
    first, second = (TrainingDataset(image_set, 128, AugmentConfig(), seed=1) for _ in range(2))
    training_loader(first, EpochSampler(16, 8, 1), 0)
    training_loader(second, EpochSampler(16, 8, 1), 0, [mask_field()])
    differ = 0
    for position in range(30):
        one, other = first[0, position, position], second[0, position, position]
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.objects.boxes, other.objects.boxes)
        np.testing.assert_array_equal(one.objects.labels, other.objects.labels)
        maps = [index_map(item.objects.polygons, (128, 128), 1) for item in (one, other)]
        differ += not np.array_equal(*maps)
    assert differ  # where an outline leaves a mosaic, moving its vertices to the border bends it


@pytest.mark.parametrize("name", ["seg", "seg-low", "seg-tiny", "pose", "pose-tiny"])
def test_recipes_of_the_tasks(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.augment.nine_tiles == 0 and recipe.augment.scale_top == 1 and not recipe.augment.paste_in
    assert not recipe.loss.loss_ota and recipe.optimizer.lr0 == 0.01
    if "seg" in name:
        assert recipe.augment.max_aspect == 100 and not recipe.loss.gains  # that of masks follows box
        assert recipe.augment.mixup_beta == 32 and recipe.optimizer.clip_grad == 10
    else:
        assert recipe.augment.max_aspect == 20 and recipe.loss.gains == {"keypoints": 0.1}
        assert not recipe.augment.mixup and not recipe.augment.copy_paste

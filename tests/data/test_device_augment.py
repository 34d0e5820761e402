"""Images that a device makes, beside those of the loader processes: the same geometry, nearly the same pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from yolov7.config import InputError
from yolov7.config.recipe import AugmentConfig, read_recipe
from yolov7.data import device_augment
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import TrainingDataset
from yolov7.data.device_augment import check_decoder
from yolov7.data.device_changes import BY_KIND
from yolov7.data.fields import grid_field, keypoint_field, semantic_field
from yolov7.data.image_set import ImageSet
from yolov7.data.images import common_jpeg_size, load_image
from yolov7.data.loader import BatchLoader, EpochSampler, training_loader
from yolov7.data.packing import ON_DEVICE
from yolov7.data.pixel_changes import Blend, Cover, Flip, Lookup, Patch, ScaleHsv
from yolov7.data.stick_figures import generate
from yolov7.structures import Batch

Squares = Callable[..., ImageSet]
SIZE = 160
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
P5, SEG = (replace(read_recipe(name).augment, paste_in=0.4, mixup=0.4) for name in ("p5", "seg"))
TURNED = AugmentConfig(degrees=30, shear=8, perspective=0.001, copy_paste=0.6, mixup=0.5, paste_in=0.5, cutout=0.5,
                       flipud=0.5, gamma=0.5, brightness_contrast=0.5, clahe=0.3, mosaic=0.8, nine_tiles=0.5)
RECIPES = {"p5": P5, "seg": SEG, "turned": TURNED, "single": replace(P5, mosaic=0.0), "crop": replace(
    P5, pipeline=("mosaic",)), "letterbox": replace(P5, pipeline=())}


def as_jpeg(image_set: ImageSet, **options: int) -> ImageSet:
    """The same images as JPEG."""
    paths = tuple(path.replace(".png", ".jpg") for path in image_set.paths)
    for old, new in zip(image_set.paths, paths, strict=True):
        with Image.open(old) as image:
            image.save(new, quality=95, **options)
    return replace(image_set, paths=paths)


def loader_of(image_set: ImageSet, augment: AugmentConfig, device: str | None, workers: int = 0,
              cache: str = "off", size: int = SIZE) -> BatchLoader:
    sampler = EpochSampler(len(image_set), 5, seed=3)
    dataset = TrainingDataset(image_set, size, augment, seed=3, cache=cache)
    fields = (keypoint_field(), grid_field(), semantic_field())
    return training_loader(dataset, sampler, workers, fields, None if device is None else torch.device(device))


def epochs(loader: BatchLoader, count: int = 2) -> Iterator[Batch]:
    for epoch in range(count):
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        yield from loader
    loader.close()


def check_same(first: BatchLoader, second: BatchLoader, limit: float = 2.0, count: int = 2) -> int:
    """Compare all batches; returns the number of their images."""
    images = 0
    for usual, made in zip(epochs(first, count), epochs(second, count), strict=True):
        targets = zip((usual.targets.boxes, *usual.targets.extra.values(), *usual.targets.maps.values()),
                      (made.targets.boxes, *made.targets.extra.values(), *made.targets.maps.values()), strict=True)
        assert all(torch.equal(one, other) for one, other in targets)
        assert usual.metas == made.metas
        assert (made.images.shape, made.images.dtype) == (usual.images.shape, torch.uint8)
        assert made.images.is_contiguous(memory_format=torch.channels_last)
        difference = (usual.images.float() - made.images.cpu().float()).abs().mean((1, 2, 3))
        assert difference.max() < limit, difference
        images += len(usual.images)
    return images


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", RECIPES)
def test_as_the_loader_processes_make_them(name: str, device: str, squares: Squares) -> None:
    image_set = as_jpeg(squares(polygons="mixed", count=8))
    assert check_same(*(loader_of(image_set, RECIPES[name], way) for way in (None, device)), count=3) == 24


@pytest.mark.parametrize("device", DEVICES)
def test_key_points(device: str, tmp_path: Path) -> None:
    generate(tmp_path / "figures", 12, 2)
    image_set = open_split(open_data(str(tmp_path / "figures")), "train")
    assert image_set.keypoint_names
    assert check_same(*(loader_of(image_set, TURNED, way, size=320) for way in (None, device)), count=1) == 12


@pytest.mark.parametrize("way", ["processes", "short memory", "ram", "png", "grey", "rect"])
def test_however_the_bytes_come(way: str, squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    image_set = squares(polygons="all")
    if way != "png":
        image_set = as_jpeg(image_set)
    if way == "grey":
        for path in image_set.paths:
            Image.open(path).convert("L").save(path)
    if way == "short memory":
        monkeypatch.setattr("yolov7.data.loader.MAX_SHARED", 0.0)
        monkeypatch.setattr("yolov7.data.loader.room_to_share", lambda workers: False)
    workers, cache = (2 if way in ("processes", "short memory") else 0), "ram" if way == "ram" else "off"
    usual, made = loader_of(image_set, P5, None), loader_of(image_set, P5, "cpu", workers, cache)
    if way == "rect":
        shapes = np.tile((96, 160), (len(image_set), 1))
        for loader in (usual, made):
            dataset = loader.dataset.samples  # type: ignore[attr-defined]
            dataset.composer = replace(dataset.composer, batch_shapes=shapes)
    check_same(usual, made)


def test_what_comes_as_pixels(tmp_path: Path, squares: Squares) -> None:
    content: dict[str, bytes] = {}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {"plain": {}, "progressive": {"progressive": True}, "turned": {"exif": exif}, "rgb": {"keep_rgb": True},
             "png": {"format": "PNG"}}
    for name, options in kinds.items():
        stream = BytesIO()
        image.save(stream, **{"format": "JPEG", **options})  # type: ignore[arg-type]
        content[name] = stream.getvalue()
    stream = BytesIO()
    image.convert("CMYK").save(stream, "JPEG")
    content["cmyk"] = stream.getvalue()
    content["cut off"] = content["plain"][:-20]
    known = {name for name, data in content.items() if common_jpeg_size(data) == (60, 40)}
    assert known == {"plain", "progressive"}


def test_a_damaged_file_is_replaced_as_ever(squares: Squares, caplog: pytest.LogCaptureFixture) -> None:
    image_set = as_jpeg(squares(count=7, polygons="all"))
    whole = Path(image_set.paths[2]).read_bytes()
    place = whole.index(b"\xff\xda") + 5  # which channels follow: one that there is not
    Path(image_set.paths[2]).write_bytes(whole[:place] + b"\x63" + whole[place + 1 :])
    with pytest.raises(InputError):
        load_image(image_set.paths[2])
    loaders = [loader_of(image_set, P5, way) for way in (None, "cpu")]
    check_same(*loaders)
    replaced = [loader.dataset.samples.replaced for loader in loaders]  # type: ignore[attr-defined]
    assert replaced[0] > 0
    assert replaced[1] > 0
    assert "another sample takes its place" in caplog.text


def test_a_decoder_that_does_not_know_a_file(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    image_set = as_jpeg(squares(polygons="all"))

    def refuse(*_: object) -> None:
        raise RuntimeError("nvjpeg: not supported")

    monkeypatch.setattr(device_augment, "decode_jpeg", refuse)
    check_same(*(loader_of(image_set, P5, way) for way in (None, "cpu")), limit=0.5)


def test_many_pixels_are_decoded_in_parts(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    decode = device_augment.decode_jpeg
    monkeypatch.setattr(device_augment, "decode_jpeg",
                        lambda files, *rest: (counts.append(len(files)), decode(files, *rest))[1])
    monkeypatch.setattr(device_augment, "MAX_DECODED", 3 * 80 * 128 * 2)
    monkeypatch.setattr("yolov7.data.device_render.CHUNK_PIXELS", 2 * SIZE * SIZE)
    image_set = as_jpeg(squares(polygons="all"))
    check_same(*(loader_of(image_set, SEG, way) for way in (None, "cpu")))
    assert set(counts) <= {1, 2}


def test_a_thread_makes_the_next_batch(squares: Squares) -> None:
    loader = loader_of(as_jpeg(squares(count=12)), P5, "cpu")
    batches = iter(loader)
    first = next(batches)
    assert len(first.images) == 5
    batches.close()  # type: ignore[attr-defined]  # ends the thread
    assert len(list(loader)) == 3


def images_of(count: int, device: str) -> tuple[torch.Tensor, list[np.ndarray]]:
    arrays = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(count)]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).to(device), arrays


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ON_DEVICE)
def test_changes_one_by_one(kind: type, device: str) -> None:
    images, arrays = images_of(4, device)
    rng = np.random.default_rng(7)
    mask = rng.random((10, 20)) < 0.5
    patch = rng.integers(0, 256, (10, 20, 3), np.uint8)
    changes = {
        Flip: [Flip(i % 2 == 0) for i in range(4)],
        Blend: [Blend(share, arrays[i - 1]) for i, share in enumerate((0.0, 0.3, 0.5, 0.77))],
        ScaleHsv: [ScaleHsv(gains) for gains in ((1.0, 1.0, 1.0), (1.01, 1.6, 0.7), (0.99, 0.4, 1.3), (1, 0, 2))],
        Cover: [Cover((Patch(3 * i, 5, patch, mask), Patch(5, 5, patch, ~mask))) for i in range(4)],
        Lookup: [Lookup(rng.integers(0, 256, 256).astype(np.uint8)) for _ in range(4)]}[kind]
    expected = np.stack([change(array.copy()) for change, array in zip(changes, arrays, strict=True)])  # type: ignore[operator]

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    there = [replace(change, partner=tensor(change.partner).permute(2, 0, 1)) if isinstance(change, Blend)
             else Cover(tuple(part._replace(pixels=tensor(part.pixels), mask=tensor(part.mask))
                              for part in change.patches)) if isinstance(change, Cover) else change
             for change in changes]
    found = BY_KIND[kind](images, there).permute(0, 2, 3, 1).cpu().numpy()
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= (1 if kind is ScaleHsv else 0)
    assert difference.mean() < 0.05
    assert set(BY_KIND) == set(ON_DEVICE)


def test_where_there_is_no_such_device() -> None:
    with pytest.raises(InputError, match="--augment-device cuda: this run is on cpu; leave the flag out"):
        check_decoder(torch.device("cpu"))


@pytest.mark.gpu
def test_the_decoder_of_the_device() -> None:
    check_decoder(torch.device("cuda"))


@pytest.mark.gpu
def test_a_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    """The same seed makes the same images on the device."""
    generate(tmp_path / "figures", 12, 2)
    image_set = open_split(open_data(str(tmp_path / "figures")), "train")
    first, second = (list(epochs(loader_of(image_set, TURNED, "cuda"))) for _ in range(2))
    assert all(torch.equal(one.images, other.images) for one, other in zip(first, second, strict=True))


def test_a_version_without_decoders(monkeypatch: pytest.MonkeyPatch, squares: Squares) -> None:
    monkeypatch.setattr(device_augment, "decode_jpeg", None)
    image_set = as_jpeg(squares())
    check_same(*(loader_of(image_set, P5, way) for way in (None, "cpu")))

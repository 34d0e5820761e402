"""Data sets: what ``--data`` names -> `DataSource` -> `ImageSet` of a split -> `DetectionDataset` of samples."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from yolov7.config import InputError, nearest, shipped_file, shipped_files
from yolov7.data.coco import (
    coco_patterns,
    coco_picture_folders,
    find_coco_file,
    read_annotations,
    read_categories,
    read_coco,
)
from yolov7.data.image_set import ImageSet, no_outline
from yolov7.data.images import load_image, resize_long_side
from yolov7.data.mosaic import Mosaic, build_mosaic, copy_paste, draw_four_tiles, draw_mosaic
from yolov7.data.transforms import (
    CutOut,
    Flip,
    HSVJitter,
    RandomPerspective,
    cut_out,
    letterbox_sample,
    mixup,
    paste_in,
)
from yolov7.data.yolo_txt import find_pictures, read_yolo_txt
from yolov7.options import AugmentConfig, DataConfig, RunSettings, Split, SplitConfig, read_data_config
from yolov7.structures import ImageMeta, Sample

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
ENOUGH_CUT_OUTS = 30  # collected before pasting
MOST_MOSAICS = 8  # read to collect them
MOST_ATTEMPTS = 20  # at a sample, where pictures cannot be read


# --- what --data names -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSource:
    """A data set by name; its pictures are looked for when a split is opened."""

    name: str
    names: tuple[str, ...]
    settings: dict[str, RunSettings] = field(default_factory=dict)
    file: str = ""  # its YAML or folder, for messages
    splits: dict[str, Split] = field(default_factory=dict)
    bases: tuple[Path, ...] = ()  # folders that relative paths are tried in
    names_file: str = ""  # the JSON that the names were read from, where the YAML has none
    download: str | None = None


def open_data(name: str) -> DataSource:
    """Open a data set: the path of a YAML file, a shipped name, or a folder in COCO layout.

    The built-in set is generated when it is opened for the first time.
    """
    path = Path(name)
    shipped = _shipped_data()
    if path.is_dir() and (name not in shipped or (path / "annotations").is_dir()):
        return _open_folder(path)
    if path.name.startswith("hyp."):
        raise InputError(f"--data {name!r}: this is a recipe (--hyp); accepted: a data set: {', '.join(shipped)}")
    if path.is_file():
        return _open_yaml(path)
    if file := shipped_file(name, shipped):
        return _open_yaml(file)
    raise InputError(
        f"--data {name!r}: no such file or folder, and no data set is shipped under that name; shipped: "
        f"{', '.join(shipped)}{nearest(path.name.removesuffix('.yaml'), shipped)}"
    )


def _shipped_data() -> dict[str, Path]:
    return {name: path for name, path in shipped_files("data").items() if not name.startswith("hyp.")}


def _open_folder(root: Path) -> DataSource:
    root = Path(os.path.abspath(root))
    files = {split: file for split in SPLITS if (file := find_coco_file(root, split))}
    if not files:
        patterns = ", ".join(pattern for split in SPLITS for pattern in coco_patterns(split))
        raise InputError(f"--data {root}: no COCO JSON in this folder; looked for {patterns}; a YAML file works too")
    splits: dict[str, Split] = {split: SplitConfig(images="", annotations=str(file)) for split, file in files.items()}
    names_file, names = _names_of_json(splits, root.name, (root,), None)
    return DataSource(root.name, names, {}, str(root), splits, (root,), names_file)


def _open_yaml(file: Path) -> DataSource:
    config = read_data_config(file)
    bases = _bases(config, file)
    if config.generate:
        from yolov7.data.synthetic import generate

        generate(bases[0])
    splits = {split: value for split in SPLITS if (value := getattr(config, split)) is not None}
    if not splits:
        raise InputError(f"{file}: has none of the keys {', '.join(SPLITS)}; accepted: at least one")
    names, names_file = _class_names(config, file), ""
    if names is None:
        names_file, names = _names_of_json(splits, str(file), bases, config)
    return DataSource(file.stem, names, config.settings, str(file), splits, bases, names_file, config.download)


def _bases(config: DataConfig, file: Path) -> tuple[Path, ...]:
    """Folders that relative paths are tried in: ``path`` where it exists, else all places it was looked for."""
    # what is generated goes below the working directory: an installed package is no place to write to
    places = [Path.cwd()] if config.generate else [file.parent, Path.cwd()]
    if config.path is None:
        return tuple(Path(os.path.abspath(place)) for place in places)
    paths = (config.path,) if isinstance(config.path, str) else config.path
    roots = [Path(os.path.abspath(place / path)) for path in paths for place in places]
    existing = [root for root in roots if root.is_dir()]
    return (existing[0],) if existing else tuple(dict.fromkeys(roots))


def _class_names(config: DataConfig, file: Path) -> tuple[str, ...] | None:
    names = config.names
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise InputError(f"{file}, names: found the numbers {sorted(names)}; accepted: 0 to {len(names) - 1}")
        names = tuple(names[i] for i in range(len(names)))
    if names is not None and config.nc is not None and config.nc != len(names):
        raise InputError(f"{file}: nc is {config.nc}, but names has {len(names)} entries")
    if names is None and config.nc is not None and not any(_is_json(config, split) for split in SPLITS):
        return tuple(map(str, range(config.nc)))
    return names


def _is_json(config: DataConfig, split: str) -> bool:
    return isinstance(getattr(config, split), SplitConfig)


def _names_of_json(
    splits: dict[str, Split], source: str, bases: Sequence[Path], config: DataConfig | None
) -> tuple[str, tuple[str, ...]]:
    """The JSON file and the class names in it. Training annotations come last: they may be large."""
    for split in sorted(splits, key=("val", "test", "train").index):
        entry = splits[split]
        if isinstance(entry, SplitConfig):
            download = config.download if config else None
            file = _find(entry.annotations, bases, f"{source}, {split}.annotations", download)
            names = read_categories(read_annotations(file), file)[1]
            if config is not None and config.nc not in (None, len(names)):
                raise InputError(f"{source}: nc is {config.nc}, but {file} has {len(names)} categories")
            return str(file), names
    raise InputError(f"{source}: the key 'names' is missing; accepted: a list of class names")


def _find(entry: str, bases: Sequence[Path], where: str, download: str | None) -> Path:
    candidates = [base / entry for base in bases]
    for path in candidates:
        if path.exists():
            return Path(os.path.abspath(path))
    tried = ", ".join(str(Path(os.path.abspath(path))) for path in dict.fromkeys(candidates))
    hint = f"; to be had from (never fetched by itself): {download}" if download else ""
    raise InputError(f"{where}: {entry!r} was not found; looked for {tried}{hint}")


def open_split(source: DataSource, split: str, training: bool = False) -> ImageSet:
    """Read and check the pictures and objects of ``train``, ``val`` or ``test``.

    Faulty ones are skipped and listed (see `report_faults`). Raises `InputError` for a split that the data set does
    not have or that is not where it should be, without any usable picture, and for ``training`` without any object.
    """
    entry = source.splits.get(split)
    if entry is None:
        raise InputError(f"--data {source.file}: has no split {split!r}; accepted: {', '.join(source.splits)}")
    image_set = _read_split(source, split, entry)
    if training and not len(image_set.labels):
        reasons = "".join(f"; {fault}" for fault in image_set.faults[:3])
        raise InputError(
            f"{source.file}, {split}: none of the {len(image_set)} pictures has an object: there is nothing to train "
            f"on (label files are looked for as images/x.jpg -> labels/x.txt, or named as COCO JSON){reasons}"
        )
    return image_set


def _read_split(source: DataSource, split: str, entry: Split) -> ImageSet:
    where = f"{source.file}, {split}"
    if not isinstance(entry, SplitConfig):
        entries = (entry,) if isinstance(entry, str) else entry
        places = [_find(item, source.bases, where, source.download) for item in entries]
        return read_yolo_txt(find_pictures(places, source.bases), source.names, split, where)
    file = _find(entry.annotations, source.bases, f"{where}.annotations", source.download)
    if entry.images:
        folders = [_find(entry.images, source.bases, f"{where}.images", source.download)]
    else:
        folders = coco_picture_folders(source.bases[0], file, split)
    image_set = read_coco(folders, file, None if source.names_file else source.names, split)
    if image_set.names != source.names:
        raise InputError(
            f"{file}: has the categories {', '.join(image_set.names)}, but {source.names_file} has "
            f"{', '.join(source.names)}; accepted: the same in both"
        )
    return image_set


# --- samples ---------------------------------------------------------------------------------------------------


def load_sample(image_set: ImageSet, index: int, size: int, training: bool) -> Sample:
    """One picture, resized to a long side of ``size`` pixels, with its objects (see `resize_long_side`)."""
    path = image_set.paths[index]
    native = load_image(path)
    image = resize_long_side(native, size, training)
    ratio = np.array((image.shape[1] / native.shape[1], image.shape[0] / native.shape[0]), np.float32)  # x, y
    boxes, labels, segments = image_set.objects(index)
    gain = float(image.shape[0] / native.shape[0])  # the height's for both axes: quirk D9, in published numbers
    meta = ImageMeta(path, image_set.image_ids[index], native.shape[:2], (gain, gain))
    return Sample(image, boxes * np.tile(ratio, 2), labels, tuple(points * ratio for points in segments), meta)


class DetectionDataset(Dataset[Sample]):
    """Samples for training (``augment`` given; key: epoch, position, index) or evaluation (key: index).

    A training sample is a function of (seed, epoch, position, index) alone: not of the process that makes it.
    ``batch_shapes`` ``[I, 2]`` gives each picture's height and width in evaluation; default: square.
    """

    def __init__(
        self,
        image_set: ImageSet,
        image_size: int,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        batch_shapes: np.ndarray | None = None,
    ) -> None:
        self.image_set = image_set
        self.image_size = image_size
        self.augment = augment or AugmentConfig()
        self.seed = seed
        self.batch_shapes = batch_shapes
        self.has_outlines = len(image_set.points) > 0
        self._replaced = torch.zeros(1, dtype=torch.int64).share_memory_()  # counted by all workers together
        self._warned: set[str] = set()
        if augment is not None:
            self._say_what_is_idle()

    def __len__(self) -> int:
        return len(self.image_set)

    def __getitem__(self, key: int | tuple[int, int, int]) -> Sample:
        if isinstance(key, tuple):
            return self.training_sample(*key)
        return self.evaluation_sample(key)

    @property
    def replaced(self) -> int:
        """Samples so far that were replaced, because a picture could not be read."""
        return int(self._replaced)

    def _say_what_is_idle(self) -> None:
        for key in ("paste_in", "copy_paste"):
            share = getattr(self.augment, key)
            if share and not self.has_outlines:
                logger.warning(
                    "augment.%s is %g, but no object has an outline: nothing is pasted (as with --set augment.%s=0)",
                    key, share, key,
                )

    def evaluation_sample(self, index: int) -> Sample:
        """The picture as it is, letterboxed."""
        sample = load_sample(self.image_set, index, self.image_size, training=False)
        shape = (self.image_size, self.image_size)
        if self.batch_shapes is not None:
            shape = tuple(self.batch_shapes[index].tolist())
        return letterbox_sample(sample, shape, scale_up=False)

    def training_sample(self, epoch: int, position: int, index: int) -> Sample:
        """An augmented sample; another one takes its place where a picture cannot be read."""
        reason = ""
        for attempt in range(MOST_ATTEMPTS):
            rng = np.random.default_rng([self.seed, epoch, position, attempt])
            try:
                return self._augmented(int(rng.integers(len(self))) if attempt else index, rng)
            except InputError as error:
                reason = str(error)
                self._replaced += 1
            if reason not in self._warned:
                self._warned.add(reason)
                logger.warning("%s; another sample takes its place (%d so far)", reason, self.replaced)
        raise InputError(f"{MOST_ATTEMPTS} samples in a row cannot be read; the last: {reason}")

    def _augmented(self, index: int, rng: np.random.Generator) -> Sample:
        """The order of spec section 10."""
        config = self.augment
        if rng.random() < config.mosaic:
            sample = self._mosaic(index, rng)
            if rng.random() < config.mixup:
                sample = mixup(sample, self._mosaic(int(rng.integers(len(self))), rng), rng)
        else:
            sample = RandomPerspective(config)(self._single(index), rng)
        sample = HSVJitter(config.hsv_h, config.hsv_s, config.hsv_v)(sample, rng)
        if self.has_outlines and rng.random() < config.paste_in:
            sample = paste_in(sample, self._cut_outs(rng), rng)
        sample = Flip(config.flipud, "vertical")(sample, rng)
        return Flip(config.fliplr, "horizontal")(sample, rng)

    def _single(self, index: int) -> Sample:
        sample = load_sample(self.image_set, index, self.image_size, training=True)
        sample = letterbox_sample(sample, (self.image_size, self.image_size), scale_up=True)
        return replace(sample, segments=(no_outline(),) * len(sample.labels))  # warped as boxes, as the original does

    def _mosaic(self, index: int, rng: np.random.Generator) -> Sample:
        mosaic = draw_mosaic(index, len(self), self.image_size, rng)
        sample = copy_paste(self._build(mosaic), self.augment.copy_paste, rng)
        return RandomPerspective(self.augment, border=-self.image_size // 2)(sample, rng)

    def _build(self, mosaic: Mosaic) -> Sample:
        tiles = [load_sample(self.image_set, index, self.image_size, training=True) for index in mosaic.indices]
        return build_mosaic(tiles, mosaic, self.image_size)

    def _cut_outs(self, rng: np.random.Generator) -> list[CutOut]:
        """Objects of other pictures: at least 30, unless the first mosaic has none or the eighth is not enough."""
        cut_outs: list[CutOut] = []
        for _ in range(MOST_MOSAICS):
            index = int(rng.integers(len(self)))
            cut_outs += cut_out(self._build(draw_four_tiles(index, len(self), self.image_size, rng)), rng)
            if not cut_outs or len(cut_outs) >= ENOUGH_CUT_OUTS:
                break
        return cut_outs

"""What ``--data`` names -> `DataSource` -> `ImageSet` of a split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yolov7.config import InputError, nearest, shipped_file, shipped_files
from yolov7.data.coco import (
    coco_patterns,
    coco_picture_folders,
    find_coco_file,
    names_of,
    read_coco,
)
from yolov7.data.image_set import ImageSet
from yolov7.data.label_cache import LabelCache
from yolov7.data.yolo_txt import find_pictures, read_yolo_txt
from yolov7.options import DataConfig, RunSettings, Split, SplitConfig, read_data_config

SPLITS = ("train", "val", "test")


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
            names = names_of(file, _cache(split, [file], bases))
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


def _cache(split: str, places: Sequence[Path], bases: Sequence[Path]) -> LabelCache:
    """Of the base that the first of these places was found in, or of the folder it lies in."""
    near = next((base for base in bases if places[0].is_relative_to(base)), places[0].parent)
    return LabelCache(near, split, places)


def open_split(source: DataSource, split: str, training: bool = False) -> ImageSet:
    """Read and check the pictures and objects of ``train``, ``val`` or ``test``.

    Faulty ones are skipped and listed (see `report_faults`). What was read before and has not changed comes from a
    cache (see `label_cache`). Raises `InputError` for a split that the data set does
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
        cache = _cache(split, places, source.bases)
        return read_yolo_txt(find_pictures(places, source.bases), source.names, split, where, cache)
    file = _find(entry.annotations, source.bases, f"{where}.annotations", source.download)
    if entry.images:
        folders = [_find(entry.images, source.bases, f"{where}.images", source.download)]
    else:
        folders = coco_picture_folders(source.bases[0], file, split)
    names, cache = None if source.names_file else source.names, _cache(split, [file], source.bases)
    image_set = read_coco(folders, file, names, split, cache)
    if image_set.names != source.names:
        raise InputError(
            f"{file}: has the categories {', '.join(image_set.names)}, but {source.names_file} has "
            f"{', '.join(source.names)}; accepted: the same in both"
        )
    return image_set

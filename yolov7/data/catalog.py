"""What ``--data`` names -> `DataSource` -> `ImageSet` of a split, read by the format that claims it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from yolov7.config import InputError, nearest, read_yaml, shipped_file, shipped_files
from yolov7.config.paths import check_path
from yolov7.data.coco import CocoJson
from yolov7.data.data_yaml import DataConfig, RunSettings, read_data_config
from yolov7.data.formats import SplitSource, format_of, formats, register, ways_of_writing
from yolov7.data.image_set import ImageSet, rename_classes
from yolov7.data.yolo_txt import YoloTxt

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
register(YoloTxt())
register(CocoJson())


@dataclass(frozen=True)
class DataSource:
    """A data set by name; its images are looked for when a split is opened."""

    name: str
    names: tuple[str, ...]
    names_file: str = ""  # the file that the names were read from, where the YAML has none
    file: str = ""  # its YAML or folder, for messages
    splits: dict[str, SplitSource] = field(default_factory=dict)
    settings: dict[str, RunSettings] = field(default_factory=dict)


def open_data(name: str) -> DataSource:
    """Open a data set: the path of a YAML file, a shipped name, or a folder in COCO layout.

    The built-in set is generated when it is opened for the first time.
    """
    path = Path(check_path(name, "--data"))
    shipped = _shipped_data()
    if path.is_dir() and (name not in shipped or (path / "annotations").is_dir()):
        return _open_folder(path)
    if path.name.startswith("hyp."):
        raise InputError(f"--data {name!r}: this is a recipe (--hyp); accepted: a data set: {', '.join(shipped)}")
    if path.is_file():
        return _open_yaml(path)
    if file := shipped_file(name, shipped):
        return _open_yaml(file)
    raise InputError(f"--data {name!r}: no such file or folder, and no data set is shipped under that name; shipped: "
                     f"{', '.join(shipped)}{nearest(path.name.removesuffix('.yaml'), shipped)}")


def _shipped_data() -> dict[str, Path]:
    return {name: path for name, path in shipped_files("data").items() if not name.startswith("hyp.")}


def _open_folder(root: Path) -> DataSource:
    root = Path(os.path.abspath(root))
    splits = {split: SplitSource(split, entry, str(root), (root,))  # of several formats the first counts
              for split in SPLITS for kind in reversed(formats()) if (entry := kind.entry_of_folder(root, split))}
    if not splits and (file := _yaml_of_folder(root)):
        logger.info("--data %s: taken is its %s", root, file.name)
        return _open_yaml(file)
    if not splits:
        patterns = ", ".join(pattern for split in SPLITS for kind in formats() for pattern in kind.layouts(split))
        raise InputError(f"--data {root}: no annotations in this folder; looked for {patterns}; a YAML file works too")
    return DataSource(root.name, *_names_in_files(splits, None), str(root), splits)


def _yaml_of_folder(root: Path) -> Path | None:
    """The one YAML file in a folder that names a split; several are an `InputError`."""
    found = [file for file in sorted(root.iterdir()) if file.suffix.lower() in (".yaml", ".yml") and file.is_file()]
    found = [file for file in found if not found[1:] or set(SPLITS) & set(read_yaml(file))]
    if len(found) > 1:
        raise InputError(f"--data {root}: several files of this folder are data sets; name one of them: "
                         f"{', '.join(str(file) for file in found)}")
    return found[0] if found else None


def _open_yaml(file: Path) -> DataSource:
    config = read_data_config(file)
    bases = _bases(config, file)
    if config.generate:
        from yolov7.data.synthetic import generate

        generate(bases[0])
    splits = {split: SplitSource(split, entry, str(file), bases, config.download)
              for split in SPLITS if (entry := getattr(config, split)) is not None}
    if not splits:
        raise InputError(f"{file}: has none of the keys {', '.join(SPLITS)}; accepted: at least one")
    for source in splits.values():
        format_of(source)  # an entry that none claims is an error now, not when its split is opened
    listed = config.names
    names, names_file = _names_in_files(splits, config.nc) if listed is None else (listed, "")
    return DataSource(file.stem, names, names_file, str(file), splits, config.settings)


def _bases(config: DataConfig, file: Path) -> tuple[Path, ...]:
    """Folders that relative paths are tried in: ``path`` where it exists, else all places it was looked for."""
    # what is generated goes below the working directory: an installed package is no place to write to
    places = [Path.cwd()] if config.generate else [file.parent, Path.cwd()]
    if config.path is None:
        return tuple(Path(os.path.abspath(place)) for place in places)
    paths = (config.path,) if isinstance(config.path, str) else config.path
    roots = [Path(os.path.abspath(place / way)) for path in paths for way in ways_of_writing(path) for place in places]
    if existing := [root for root in roots if root.is_dir()]:
        return (existing[0],)
    if not config.generate and _holds_a_split(config, file.parent):
        logger.warning("%s, path: the folder %r was not found%s; relative paths start from %s", file,
                       paths[0] if paths else "", f" ({config.download})" if config.download else "", file.parent)
        return (Path(os.path.abspath(file.parent)),)
    return tuple(dict.fromkeys(roots))


def _holds_a_split(config: DataConfig, folder: Path) -> bool:
    """Whether what a split names is in this folder."""
    entries = [entry for split in SPLITS if (entry := getattr(config, split)) is not None]
    paths = [path for entry in entries
             for path in ((entry,) if isinstance(entry, str) else entry.values() if isinstance(entry, dict) else entry)]
    return any((folder / way).exists() for path in paths for way in ways_of_writing(path))


def _names_in_files(splits: dict[str, SplitSource], nc: int | None) -> tuple[tuple[str, ...], str]:
    """The class names where the YAML lists none, and the file of a split that they were read from.

    Training files come last: they may be large. Classes that no file names are called 0, 1, ... ``nc`` - 1.
    """
    for split in sorted(splits, key=("val", "test", "train").index):
        source = splits[split]
        if found := format_of(source).class_names(source):
            names, file = found
            if nc not in (None, len(names)):
                raise InputError(f"{source.data}: nc is {nc}, but {file} has {len(names)} categories")
            return names, file
    if nc is None:
        data = next(iter(splits.values())).data
        raise InputError(f"{data}: the key 'names' is missing; accepted: a list of class names")
    return tuple(map(str, range(nc))), ""


def _with_names_of(source: DataSource, image_set: ImageSet) -> ImageSet:
    """The one place where the classes of a split become those of its data set (see `rename_classes`).

    Names that come from the file of one split are kept by all; other names of the YAML need the same categories in
    every split.
    """
    own = image_set.names
    same = set(own) == set(source.names)
    file = image_set.annotation_file or source.file
    if source.names_file and not same:
        raise InputError(f"{file}: has the categories {', '.join(own)}, but {source.names_file} has "
                         f"{', '.join(source.names)}; accepted: the same in both, in any order")
    renamed = rename_classes(image_set, source.names, source.names_file or source.file)
    for split, other in source.splits.items() if not same else ():
        found = format_of(other).class_names(other) if split != image_set.split else None
        if found and found[0] != own:
            raise InputError(f"{file}: has the categories {', '.join(own)}, but {found[1]} has {', '.join(found[0])}: "
                             f"the names in {source.file} ({', '.join(source.names)}) would not mean the same in both")
    return renamed


def open_split(source: DataSource, split: str, training: bool = False, crowds: bool = False,
               labelled: bool = False) -> ImageSet:
    """Read and check the images and objects of ``train``, ``val`` or ``test``.

    Faulty ones are skipped and listed (see `report_faults`); crowds (``iscrowd=1``) are left out, unless asked for.
    What was read before and has not changed comes from a cache (see `label_cache`). Raises `InputError` for a split
    that the data set does not have or that is not where it should be, without any usable image, for ``training``
    without any object, and where it must be ``labelled`` and not one image has a label file.
    """
    if split not in source.splits:
        raise InputError(f"--data {source.file}: has no split {split!r}; accepted: {', '.join(source.splits)}")
    found = source.splits[split]
    image_set = _with_names_of(source, format_of(found).read(found, None if source.names_file else source.names))
    left_out = 0 if crowds else int(image_set.objects.crowd.sum())
    if left_out:
        logger.info("%s: %d crowds (iscrowd=1) are no objects; the score ignores what is found in them", found.where,
                    left_out)
        image_set = image_set.only(~image_set.objects.crowd)
    if image_set.unlabelled and (training or labelled):
        raise InputError(f"{found.where}: none of the {len(image_set)} images has a label file; that of the first was "
                         f"looked for as {image_set.unlabelled}")
    if training and not len(image_set.objects):
        reasons = f" ({left_out} crowds are none)" if left_out else ""
        reasons += "".join(f"; {fault}" for fault in image_set.faults[:3])
        raise InputError(f"{found.where}: none of the {len(image_set)} images has an object: there is nothing to train "
                         f"on{reasons}")
    return image_set

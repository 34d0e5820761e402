"""What ``--data`` names -> `DataSource` -> `ImageSet` of a split, read by the format that claims it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from yolov7.config import InputError, nearest, read_yaml, shipped_file, shipped_files
from yolov7.config.paths import check_path
from yolov7.data.coco import CocoJson
from yolov7.data.darknet import SUFFIX, darknet_bases, names_file, read_darknet
from yolov7.data.data_yaml import DataConfig, RunSettings, keypoints_of, read_data_config
from yolov7.data.foreign.recognise import refusal
from yolov7.data.formats import SplitSource, format_of, formats, register, ways_of_writing
from yolov7.data.image_set import ImageSet, rename_classes, without_classes
from yolov7.data.mirror import open_mirror
from yolov7.data.remote import is_address
from yolov7.data.shard_list import SPLITS
from yolov7.data.yolo_txt import YoloTxt

logger = logging.getLogger(__name__)

_SHOWN = 20  # class names in a line of the log
register(YoloTxt())
register(CocoJson())


@dataclass(frozen=True)
class DataSource:
    """A data set by name; its images are looked for when a split is opened."""

    name: str
    names: tuple[str, ...]
    names_file: str = ""  # the file that the names were read from, where the YAML has none
    headings: tuple[str, ...] = ()  # categories of its files that are no classes (see `Format.headings`)
    file: str = ""  # its YAML or folder, for messages
    splits: dict[str, SplitSource] = field(default_factory=dict)
    settings: dict[str, RunSettings] = field(default_factory=dict)


def open_data(name: str) -> DataSource:
    """Open a data set: the path of a YAML file, a shipped name, a folder in COCO layout, or the address of tar files.

    A built-in set is generated when it is opened for the first time.
    """
    if is_address(name):
        return replace(_open_folder(open_mirror(name).root), file=name, name=name.rstrip("/").rpartition("/")[2])
    path = Path(check_path(name, "--data"))
    shipped = _shipped_data()
    if path.suffix == SUFFIX and path.is_file():
        return _open_config(read_darknet(path), path, darknet_bases(path))
    if path.is_dir() and (name not in shipped or (path / "annotations").is_dir()):
        return _open_folder(path)
    if path.name.startswith("hyp."):
        raise InputError(f"--data {name!r}: this is a recipe (--hyp); accepted: a data set: {', '.join(shipped)}")
    if path.is_file() and path.suffix.lower() not in (".yaml", ".yml") and (said := refusal(path)):
        raise InputError(said)
    if path.is_file():
        return _open_yaml(path)
    if file := shipped_file(name, shipped):
        return _open_yaml(file)
    raise InputError(f"--data {name!r}: no such file or folder, and no data set is shipped under that name; shipped: "
                     f"{', '.join(shipped)}{nearest(path.name.removesuffix('.yaml'), shipped)}")


def _shipped_data() -> dict[str, Path]:
    return {name: path for name, path in shipped_files("data").items() if not name.startswith(("hyp.", "space."))}


def _open_folder(root: Path) -> DataSource:
    """By its layout; a file in it that says where its label files are counts before what folders are called."""
    root = Path(os.path.abspath(root))
    splits = {split: SplitSource(split, entry, str(root), (root,))  # of several formats the first counts
              for split in SPLITS for kind in reversed(formats()) if (entry := kind.entry_of_folder(root, split))}
    own_names = any(isinstance(source.entry, dict) for source in splits.values())
    if not own_names and (file := _file_of_folder(root)):
        logger.info("--data %s: taken is its %s", root, file.name)
        return open_data(str(file))
    if not splits:
        raise InputError(refusal(root) or f"--data {root}: {_what_is_missing(root)}")
    return _named(DataSource(root.name, (), file=str(root), splits=splits), None, None)


def _what_is_missing(root: Path) -> str:
    if names := names_file(root, root / "labels", root / "images"):
        return (f"{names.name} names its classes, but nothing says which images are for what; accepted: folders "
                f"images/train and images/val, or a YAML with `train: FOLDER OR LIST`, `val: FOLDER OR LIST` and "
                f"`names: {names.relative_to(root)}`")
    patterns = ", ".join(pattern for split in SPLITS for kind in formats() for pattern in kind.layouts(split))
    return f"no annotations in this folder; looked for {patterns}; a YAML file works too"


def _file_of_folder(root: Path) -> Path | None:
    """The one YAML or Darknet file in a folder that names a split; several are an `InputError`."""
    files = [file for file in sorted(root.iterdir()) if file.is_file()]
    found = [file for file in files if file.suffix.lower() in (".yaml", ".yml")]
    found = [file for file in found if not found[1:] or set(SPLITS) & set(read_yaml(file))]
    found = found or [file for file in files if file.suffix.lower() == SUFFIX]
    if len(found) > 1:
        raise InputError(f"--data {root}: several files of this folder are data sets; name one of them: "
                         f"{', '.join(str(file) for file in found)}")
    return found[0] if found else None


def _open_yaml(file: Path) -> DataSource:
    config = read_data_config(file)
    return _open_config(config, file, _bases(config, file))


def _open_config(config: DataConfig, file: Path, bases: tuple[Path, ...]) -> DataSource:
    if config.generate:
        from yolov7.data import stick_figures, synthetic

        made_by = {"shapes": synthetic.generate, "stick-figures": stick_figures.generate}
        made_by[config.generate](bases[0])
    keypoints = keypoints_of(config, str(file))
    splits = {name: SplitSource(name, entry, str(file), bases, config.download, keypoints)
              for name in SPLITS if (entry := getattr(config, name)) is not None}
    if not splits:
        raise InputError(f"{file}: has none of the keys {', '.join(SPLITS)}; accepted: at least one")
    for split in splits.values():
        format_of(split)  # an entry that none claims is an error now, not when its split is opened
    source = DataSource(file.stem, (), file=str(file), splits=splits, settings=config.settings)
    return _named(source, config.names, config.nc)


def _bases(config: DataConfig, file: Path) -> tuple[Path, ...]:
    """Folders that relative paths are tried in: ``path`` where it exists, else all places it was looked for."""
    # what is generated goes below the working directory: an installed package is no place to write to
    places = [Path.cwd()] if config.generate else [file.parent, Path.cwd()]
    if config.path is None:
        return tuple(Path(os.path.abspath(place)) for place in places)
    paths = (config.path,) if isinstance(config.path, str) else config.path
    roots = [Path(os.path.abspath(place / way)) for path in paths for way in ways_of_writing(path) for place in places]
    written = {Path(os.path.abspath(place / path)) for path in paths for place in places}
    if existing := [root for root in roots if root.is_dir()]:
        if existing[0] not in written:
            logger.info("%s, path: %r was not found as it is written; taken: %s", file, paths[0], existing[0])
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


def _named(source: DataSource, listed: tuple[str, ...] | None, nc: int | None) -> DataSource:
    """With the class names that its YAML lists, else those of the files of a split.

    Training files come last: they may be large. Classes that no file names are called 0, 1, ... ``nc`` - 1.
    """
    headings = _headings(source, listed or ())
    if listed is not None:
        return replace(source, names=listed, headings=headings)
    for split in sorted(source.splits, key=("val", "test", "train").index):
        if found := format_of(source.splits[split]).class_names(source.splits[split]):
            names, file = found
            kept = tuple(name for name in names if name not in headings)
            if nc not in (None, len(names), len(kept)):
                raise InputError(f"{source.file}: nc is {nc}, but {file} has {len(names)} categories")
            return replace(source, names=kept, names_file=file, headings=headings)
    if nc is None:
        raise InputError(f"{source.file}: the key 'names' is missing; accepted: a list of class names")
    return replace(source, names=tuple(map(str, range(nc))))


def _headings(source: DataSource, listed: tuple[str, ...]) -> tuple[str, ...]:
    """Categories that are no classes: nowhere an object, and above other ones (Roboflow's first one)."""
    found: tuple[str, ...] | None = None
    for split in sorted(source.splits, key=("val", "test", "train").index):
        kind = format_of(source.splits[split])
        here = kind.headings(source.splits[split])
        if here is not None:
            found = here if found is None else tuple(name for name in found if name in here)
        if found == ():
            return ()
    headings = tuple(name for name in found or () if name not in listed)
    if headings:
        logger.info("%s: no class is made of %s: no object of any split is one, and it only stands above the other "
                    "categories", source.file, ", ".join(headings))
    return headings


def _with_names_of(source: DataSource, image_set: ImageSet) -> ImageSet:
    """The one place where the classes of a split become those of its data set (see `rename_classes`).

    Names that come from the file of one split are kept by all; other names of the YAML need the same categories in
    every split.
    """
    image_set = without_classes(image_set, source.headings)
    own = image_set.names
    same = set(own) == set(source.names)
    file = image_set.annotation_file or source.file
    if source.names_file and not same:
        raise InputError(f"{file}: has the categories {', '.join(own)}, but {source.names_file} has "
                         f"{', '.join(source.names)}; accepted: the same in both, in any order")
    renamed = rename_classes(image_set, source.names, source.names_file or source.file)
    for split, other in source.splits.items() if not same else ():
        found = format_of(other).class_names(other) if split != image_set.split else None
        theirs = tuple(name for name in found[0] if name not in source.headings) if found else own
        if found and theirs != own:
            raise InputError(f"{file}: has the categories {', '.join(own)}, but {found[1]} has {', '.join(theirs)}: "
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
        beside = Path(image_set.paths[0]).parent
        raise InputError(refusal(beside, beside.parent, readable=False) or
                         f"{found.where}: none of the {len(image_set)} images has a label file; that of the first was "
                         f"looked for as {image_set.unlabelled}")
    if training and not len(image_set.objects):
        reasons = f" ({left_out} crowds are none)" if left_out else ""
        reasons += "".join(f"; {fault}" for fault in image_set.faults[:3])
        raise InputError(f"{found.where}: none of the {len(image_set)} images has an object: there is nothing to train "
                         f"on{reasons}")
    if training:
        _say_unused(image_set)
    return image_set


def _say_unused(image_set: ImageSet) -> None:
    counts = np.bincount(image_set.objects.labels, minlength=len(image_set.names))
    unused = [name for name, count in zip(image_set.names, counts.tolist(), strict=True) if not count]
    if unused:
        more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
        logger.info("%s: no object is of %s%s", image_set.split, ", ".join(unused[:_SHOWN]), more)

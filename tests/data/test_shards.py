"""Data sets as tar files: the same samples as from the files they were made of, and nothing in them is executed."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from yolov7 import cli
from yolov7.config import InputError
from yolov7.config.recipe import read_recipe
from yolov7.data import stick_figures, tar_members
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import TrainingDataset
from yolov7.data.image_set import ImageSet
from yolov7.data.images import load_image
from yolov7.data.synthetic import generate
from yolov7.data.tar_members import fingerprint, is_there, read_member

MICRO = str(Path(__file__).parents[1] / "micro.yaml")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate(folder, train=14, val=5)
    return folder


def shard(data: Path | str, output: Path, *flags: str) -> int:
    return cli.main(["data", "shard", "--data", str(data), "--output", str(output), *flags])


def the_same(one: ImageSet, other: ImageSet) -> None:
    assert [Path(path).name for path in one.paths] == [Path(path).name for path in other.paths]
    assert one.names == other.names and one.image_ids == other.image_ids
    np.testing.assert_array_equal(one.sizes, other.sizes)
    np.testing.assert_array_equal(one.offsets, other.offsets)
    for name in ("boxes", "labels", "keypoints", "crowd"):
        np.testing.assert_array_equal(getattr(one.objects, name), getattr(other.objects, name), name)
    for ours, theirs in zip(one.objects.polygons, other.objects.polygons, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("recipe", ["p5", "tiny"])
def test_samples_are_those_of_the_files(shapes: Path, tmp_path: Path, recipe: str) -> None:
    assert shard(shapes, tmp_path / "shards", "--images", "4") == 0
    assert len(list((tmp_path / "shards" / "images" / "train").glob("*.tar"))) == 4
    files, tars = (open_split(open_data(str(folder)), "train") for folder in (shapes, tmp_path / "shards"))
    the_same(files, tars)
    first, second = (TrainingDataset(image_set, 96, read_recipe(recipe).augment, 3) for image_set in (files, tars))
    for position in range(30):
        one, other = first[0, position, position % 14], second[0, position, position % 14]
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.objects.boxes, other.objects.boxes)


def test_key_points_keep_their_facts(tmp_path: Path) -> None:
    stick_figures.generate(tmp_path / "figures", train=4, val=2)
    assert shard(tmp_path / "figures", tmp_path / "shards") == 0
    for split in ("train", "val"):
        files, tars = (open_split(open_data(str(tmp_path / name)), split) for name in ("figures", "shards"))
        the_same(files, tars)
        assert files.keypoint_layout == tars.keypoint_layout


def test_of_label_files_and_of_a_real_set(coco_mini: Path, tmp_path: Path) -> None:
    for name, data in (("real", coco_mini), ("txt", tmp_path / "txt" / "data.yaml")):
        if name == "txt":
            assert cli.main(["data", "convert", "--data", str(coco_mini), "--to", "yolo", "--output",
                             str(tmp_path / "txt"), "--splits", "val"]) == 0
        assert shard(data, tmp_path / name / "shards", "--splits", "val", "--images", "50") == 0
        files = open_split(open_data(str(data)), "val", crowds=True)
        tars = open_split(open_data(str(tmp_path / name / "shards")), "val", crowds=True)
        if name == "real":
            the_same(files, tars)
        else:  # JSON says of polygons what label files cannot
            np.testing.assert_array_equal(files.objects.boxes, tars.objects.boxes)
            np.testing.assert_array_equal(files.objects.labels, tars.objects.labels)


def test_classes_in_another_order_keep_their_labels(shapes: Path, tmp_path: Path) -> None:
    content = json.loads((shapes / "annotations" / "train.json").read_text())
    names = [category["name"] for category in content["categories"]][::-1]
    yaml = tmp_path / "set.yaml"
    yaml.write_text(f"path: {shapes}\ntrain: {{images: images/train, annotations: annotations/train.json}}\n"
                    f"names: {json.dumps(names)}\n")
    assert shard(yaml, tmp_path / "shards") == 0
    the_same(open_split(open_data(str(yaml)), "train"), open_split(open_data(str(tmp_path / "shards")), "train"))


def test_every_command_reads_them(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = tmp_path / "shards"
    assert shard(shapes, shards, "--images", "6") == 0
    flags = ["--cfg", MICRO, "--img-size", "64", "--batch-size", "4", "--nominal-batch", "4", "--device", "cpu",
             "--epochs", "1", "--precision", "fp32", "--workers", "0"]
    for name, data in (("tars", shards), ("files", shapes)):
        assert cli.main(["train", "--data", str(data), "--project", str(tmp_path), "--name", name, *flags,
                         "--cache", "disk"]) == 0
    rows = [(tmp_path / name / "results.csv").read_text().splitlines()[1].split(",")[:-2] for name in ("tars", "files")]
    assert rows[0] == rows[1]
    weights = str(tmp_path / "tars" / "weights" / "last.pt")
    assert cli.main(["test", "--weights", weights, "--project", str(tmp_path / "t"), "--device", "cpu", "--workers",
                     "0"]) == 0
    image = shards / "images" / "val" / "000000.tar" / Path(sorted((shapes / "images" / "val").iterdir())[0]).name
    assert cli.main(["detect", "--weights", weights, "--source", str(image), "--project", str(tmp_path / "d"),
                     "--device", "cpu"]) == 0
    assert cli.main(["data", "check", "--data", str(shards)]) == 0
    assert cli.main(["data", "anchors", "--data", str(shards), "--cfg", "yolov7-tiny"]) == 0
    capsys.readouterr()
    assert cli.main(["data", "shard", "--data", str(shards), "--check"]) == 0
    again = tmp_path / "again"
    assert shard(shards, again, "--images", "6") == 0
    for file in shards.rglob("*.tar"):
        assert (again / file.relative_to(shards)).read_bytes() == file.read_bytes()


def test_webdataset_reads_them(shapes: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    assert shard(shapes, tmp_path / "shards", "--splits", "val") == 0
    pattern = str(tmp_path / "shards" / "images" / "val" / "000000.tar")
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False))
    assert len(samples) == 5
    content = json.loads(samples[0]["json"])
    assert content["image"]["file_name"].startswith(samples[0]["__key__"]) and content["annotations"]


def test_what_was_changed_is_found(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = tmp_path / "shards"
    assert shard(shapes, shards, "--images", "5") == 0
    first, second, third = sorted((shards / "images" / "train").glob("*.tar"))
    content = bytearray(first.read_bytes())
    content[700] ^= 1
    first.write_bytes(content)
    second.unlink()
    with tarfile.open(third, "a") as tar:
        tar_members_of(tar, "evil.pickle", pickle.dumps(print))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (shards / "images" / "val" / "other.tar").write_bytes(b"")
    assert cli.main(["data", "shard", "--data", str(shards), "--check"]) == 1
    said = capsys.readouterr().err
    for part in ("000000.tar: has other bytes than were written", "000001.tar: is missing",
                 "'evil.pickle' would be executed by readers that unpickle; here it is not read",
                 "'link.jpg' is no regular file, and is not read", "other.tar: is in no list"):
        assert part in said
    with pytest.raises(OSError, match="is not in"):
        read_member(third / "link.jpg", 1000)


def tar_members_of(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


# --- members ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    file = tmp_path / "some.tar"
    with tarfile.open(file, "w") as made:
        tar_members_of(made, "./a/one.bin", b"first")
        tar_members_of(made, "two.bin", b"x" * 3000)
    return file


def test_members_are_read_where_they_stand(tar: Path, tmp_path: Path) -> None:
    assert read_member(tar / "a" / "one.bin", 10) == b"first"
    assert is_there(tar / "two.bin") and not is_there(tar / "three.bin") and not is_there(tmp_path / "no.tar" / "a")
    assert fingerprint(tar / "two.bin") == (3000, tar.stat().st_mtime_ns)
    with pytest.raises(OSError, match="3,000 bytes; accepted: up to 100"):
        read_member(tar / "two.bin", 100)
    folder = tmp_path / "folder.tar"  # a folder may be called so, too
    folder.mkdir()
    (folder / "file.bin").write_bytes(b"plain")
    assert is_there(folder / "file.bin") and tar_members.split_member(folder / "file.bin") is None


def test_a_changed_tar_file_is_read_anew(tar: Path) -> None:
    assert read_member(tar / "two.bin", 10_000)[:1] == b"x"
    tar.unlink()
    with tarfile.open(tar, "w") as made:
        tar_members_of(made, "two.bin", b"new")
    assert read_member(tar / "two.bin", 10_000) == b"new"
    tar.write_bytes(tar.read_bytes()[:514])
    with pytest.raises(OSError, match="is not in|truncated|not a plain tar"):
        read_member(tar / "two.bin", 10_000)


def test_bad_tar_files_are_told(tar: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.tar"
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(InputError, match=r"one\.jpg: cannot be read: is not a plain tar file \(a compressed one"):
        load_image(packed / "one.jpg")
    with pytest.raises(InputError, match=r"gone\.jpg: cannot be read: is not in .*some\.tar"):
        load_image(tar / "gone.jpg")
    with pytest.raises(InputError, match=r"one\.bin: not an image that can be read"):
        load_image(tar / "a" / "one.bin")


def test_nobody_runs_a_command(tmp_path: Path) -> None:
    file = tmp_path / "set.yaml"
    file.write_text("names: [a]\ntrain: 'pipe:touch owned'\nval: 'pipe:touch owned'\n")
    with pytest.raises(InputError, match="'pipe:touch owned' would run a command; accepted: files and folders"):
        open_split(open_data(str(file)), "train")


@pytest.mark.parametrize(("flags", "said"), [
    (["--data", "shapes"], "--output is missing"), ([], "--data is missing"),
    (["--data", "{tmp}", "--check"], "has no images/SPLIT/shards.json; accepted with --check"),
    (["--data", "{shapes}", "--output", "{shapes}"], "exists; accepted: a folder that is new or empty"),
    (["--data", "{shapes}", "--output", "{tmp}/new", "--splits", "vall"], "--splits: unknown split 'vall'")])
def test_bad_requests(flags: list[str], said: str, shapes: Path, tmp_path: Path,
                      capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "shard", *(flag.format(tmp=tmp_path, shapes=shapes) for flag in flags)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()

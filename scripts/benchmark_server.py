"""Data sets on a server: the rate of its tar files beside local ones, and memory over 100,000 samples.

    python scripts/benchmark_server.py [--rounds 5] [--samples 100000]

The server is moto's S3, on this machine and in a process of its own, which has a core as long as one loader process
works. Rate: coco-mini ten times over as tar files of 50 images, windows of two of them, p5 recipe, 640 px, batches of
16; every round takes an epoch of local files and one of the server's, in turn, with nothing of them on the disk at
first and room for four windows, so that files are fetched during the epoch. It is measured from the first batch on;
how long that takes is stated. Memory: 2,000 images in 40 tar files, windows of four, room for half of them, 64 px;
private memory of all processes at ten moments. Writes ``scripts/results/server.json``; the last line is the ratio of
the rates, the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark_loader import memory
from machine import describe_machine
from tqdm import tqdm

from yolov7 import cli
from yolov7.config import atomic_write
from yolov7.config.recipe import read_recipe
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import TrainingDataset
from yolov7.data.loader import BatchLoader, EpochSampler, training_loader
from yolov7.data.synthetic import generate
from yolov7.data.windows import windows_of

RESULTS = Path(__file__).parent / "results" / "server.json"
DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data" / "coco-mini"
COPIES, PORT = 10, 5057
GIB = 2**30
SERVER = f"""
import boto3, time
from moto.server import ThreadedMotoServer
import logging; logging.disable()
ThreadedMotoServer(ip_address="127.0.0.1", port={PORT}, verbose=False).start()
boto3.client("s3", endpoint_url="http://127.0.0.1:{PORT}").create_bucket(Bucket="sets")
print("ready", flush=True)
time.sleep(36000)
"""


@contextmanager
def server() -> Iterator[None]:
    """A process with an empty bucket."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
                   "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            assert process.poll() is None
        yield
    finally:
        process.kill()


def loader_of(data: str, size: int, window: int, batch: int, workers: int) -> BatchLoader:
    """Batches of the training split."""
    image_set = open_split(open_data(data), "train")
    windows = windows_of(image_set, window, 0)
    dataset = TrainingDataset(image_set, size, read_recipe("p5").augment, windows=windows)
    return training_loader(dataset, EpochSampler(len(image_set), batch, 0, windows=windows), workers)


def times_over(data: Path, folder: Path) -> None:
    """The training split again and again, each copy with names of its own."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images" / "train").mkdir(parents=True)
    content = json.loads(next((data / "annotations").glob("instances_train*.json")).read_text(encoding="utf-8"))
    paths = {Path(path).name: path for path in open_split(open_data(str(data)), "train").paths}
    images, annotations = [], []
    for copy in range(COPIES):
        first = copy * 10_000_000
        for image in content["images"]:
            name = f"{copy}_{Path(image['file_name']).name}"
            shutil.copyfile(paths[Path(image["file_name"]).name], folder / "images" / "train" / name)
            images.append(image | {"id": first + image["id"], "file_name": name})
        annotations += [one | {"id": len(annotations) + place, "image_id": first + one["image_id"]}
                        for place, one in enumerate(content["annotations"])]
    (folder / "annotations" / "instances_train.json").write_text(
        json.dumps(content | {"images": images, "annotations": annotations}), encoding="utf-8")


def rate(data: str, cache: Path) -> tuple[float, float]:
    """Images a second of an epoch from its first batch on, and the seconds until that."""
    os.environ["YOLOV7_CACHE_DIR"] = str(cache)
    loader = loader_of(data, 640, 2, 16, 1)
    began = time.perf_counter()
    batches = iter(loader)
    next(batches)
    started = time.perf_counter()
    images = sum(len(batch.images) for batch in batches)
    spent = time.perf_counter() - started
    loader.close()
    return images / spent, started - began


def rates(data: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Local files and those of the server, in turn."""
    times_over(data, folder / "set")
    for output in (str(folder / "tars"), "s3://sets/coco"):
        assert cli.main(["data", "shard", "--data", str(folder / "set"), "--output", output, "--images", "50"]) == 0
    sizes = [path.stat().st_size for path in (folder / "tars").rglob("*.tar")]
    os.environ["YOLOV7_CACHE_ROOM"] = str(8 * max(sizes) / GIB)
    places = {"local": str(folder / "tars"), "server": "s3://sets/coco"}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in places}
    rate(places["local"], folder / "warm")
    for number in range(rounds):
        for name, place in places.items():
            found[name].append(rate(place, folder / f"{name}{number}"))
    content: dict[str, Any] = {"tar_files": len(sizes), "mib": sum(sizes) / 2**20}
    for name, values in found.items():
        content[name] = {"img_s": statistics.median(one for one, _ in values),
                         "first_batch_s": statistics.median(first for _, first in values)}
    pairs = zip(found["local"], found["server"], strict=True)
    return content | {"ratio": statistics.median(b[0] / a[0] for a, b in pairs)}


def over_time(folder: Path, samples: int) -> list[dict[str, float]]:
    """Memory at ten moments."""
    generate(folder / "small", train=2000, val=1)
    assert cli.main(["data", "shard", "--data", str(folder / "small"), "--output", "s3://sets/small", "--images", "50",
                     "--splits", "train"]) == 0
    os.environ |= {"YOLOV7_CACHE_DIR": str(folder / "cache"), "YOLOV7_CACHE_ROOM": "1000"}
    whole = sum(length for length, _ in open_mirror_files("s3://sets/small"))
    os.environ["YOLOV7_CACHE_ROOM"] = str(whole / 2 / GIB)
    loader = loader_of("s3://sets/small", 64, 4, 50, 2)
    rows, taken, epoch = [], 0, 0
    with tqdm(total=samples, desc="samples", leave=False, disable=None) as progress:
        while taken < samples:
            loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
            for batch in loader:
                taken += len(batch.images)
                progress.update(len(batch.images))
                if taken % (samples // 10) == 0:
                    rows.append({"samples": taken, **memory()})
            epoch += 1
    loader.close()
    return rows


def open_mirror_files(address: str) -> list[tuple[int, str]]:
    """The tar files of a data set."""
    from yolov7.data.mirror import open_mirror

    return list(open_mirror(address).files.values())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server():
        found = rates(options.data, Path(folder), options.rounds)
        sys.stdout.write(f"{found}\n")
        rows = over_time(Path(folder), options.samples)
    for row in rows:
        sys.stdout.write(f"{row['samples']:8.0f} samples: main {row['main']:.0f} MiB, worker {row['worker']:.0f} MiB, "
                         f"all {row['all']:.0f} MiB\n")
    atomic_write(RESULTS, json.dumps({"machine": describe_machine(), "rates": found, "memory": rows}, indent=1) + "\n")
    sys.stdout.write(f"ratio {found['ratio']:.3f}\n")


if __name__ == "__main__":
    main()

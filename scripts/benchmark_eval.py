"""Everything of an evaluation but the network: NMS, scoring, and its share of ``test.py``'s time.

Suppression: 8 images of 25,200 boxes and 80 classes, built as the golden cases are, at confidence 0.001, against the
simple loop over images that shifts the classes apart by 4096 px. Scoring: 5,000 images with 100 detections each,
against pycocotools, with equal numbers. Share: ``test.py`` with yolov7 and weights for which every image keeps at
least 100 detections, in a process of its own; all that is not the network counts, start and images written included.

Writes ``scripts/results/eval.json``. The last line is the ratio of NMS.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.ops import nms

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "inference"))

from test_nms import build, split  # noqa: E402  # as the golden cases are built

from yolov7.boxes import cxcywh_to_xyxy  # noqa: E402
from yolov7.config import atomic_write  # noqa: E402
from yolov7.data.catalog import open_data, open_split  # noqa: E402
from yolov7.data.loader import evaluation_loader  # noqa: E402
from yolov7.evaluation.coco import score_detections  # noqa: E402
from yolov7.evaluation.evaluate import PROTOCOL  # noqa: E402
from yolov7.inference.network import TorchNetwork  # noqa: E402
from yolov7.inference.nms import nms_image, non_maximum_suppression  # noqa: E402
from yolov7.model import weights  # noqa: E402
from yolov7.model.detector import Detector, network_input  # noqa: E402
from yolov7.model.spec import read_spec  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "eval.json"
MIN_CANDIDATES, MIN_DETECTIONS = 1000, 100


# --- NMS -------------------------------------------------------------------------------------------------------


def simple_nms(predictions: Tensor, confidence: float, iou: float) -> list[Tensor]:
    """Image by image, classes shifted apart: ``[n, 6]`` xyxy, score, class."""
    found = []
    for rows in predictions:
        kept = rows[rows[:, 4] > confidence]
        scores = kept[:, 5:] * kept[:, 4:5]
        row, label = (scores > confidence).nonzero(as_tuple=True)
        boxes = cxcywh_to_xyxy(kept[:, :4])
        candidates = torch.cat((boxes[row], scores[row, label, None], label[:, None].float()), dim=1)
        assert len(candidates) >= MIN_CANDIDATES
        if len(candidates) > PROTOCOL.max_candidates:
            candidates = candidates[candidates[:, 4].argsort(descending=True)[: PROTOCOL.max_candidates]]
        shifted = candidates[:, :4] + candidates[:, 5:] * 4096
        found.append(candidates[nms(shifted, candidates[:, 4], iou)[: PROTOCOL.max_detections]])
    return found


def compare_nms(rounds: int) -> dict[str, Any]:
    """Milliseconds of both for a batch, in turn."""
    predictions = build(0, 8, 25200, 80)
    parts = split(predictions)
    ways: dict[str, Callable[[], Any]] = {
        "simple": lambda: simple_nms(predictions, PROTOCOL.confidence, PROTOCOL.iou),
        "ours": lambda: non_maximum_suppression(*parts, PROTOCOL)}
    for simple, own in zip(ways["simple"](), ways["ours"](), strict=True):
        assert torch.allclose(simple[:, 4], own.scores) and len(own) == PROTOCOL.max_detections
    return in_turn(ways, rounds)


# --- scoring ---------------------------------------------------------------------------------------------------


def compare_scoring(rounds: int, count: int = 5000, detections: int = 100) -> dict[str, Any]:
    """Milliseconds of our scorer and of pycocotools on the same detections, in turn."""
    rng = np.random.default_rng(0)
    categories = [{"id": number, "name": str(number)} for number in range(1, 81)]
    truth: dict[str, Any] = {"images": [{"id": n, "width": 640, "height": 640} for n in range(1, count + 1)],
                             "categories": categories, "annotations": []}
    found = []
    for image in range(1, count + 1):
        boxes = np.concatenate([rng.uniform(0, 500, (7, 2)), rng.uniform(8, 140, (7, 2))], 1).round(2)
        kinds = rng.integers(1, 81, 7).tolist()
        for box, kind in zip(boxes.tolist(), kinds, strict=True):
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": kind,
                                         "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        near = rng.integers(7, size=detections)
        moved = (boxes[near] + rng.normal(0, 8, (detections, 4))).clip(1).round(3)
        scores = rng.random(detections).round(5).tolist()
        for box, place, score in zip(moved.tolist(), near.tolist(), scores, strict=True):
            kind = kinds[place] if rng.random() < 0.7 else int(rng.integers(1, 81))
            found.append({"image_id": image, "category_id": kind, "bbox": box, "score": score})
    ways: dict[str, Callable[[], Any]] = {"pycocotools": lambda: score_by_pycocotools(truth, found),
                                          "ours": lambda: score_detections(truth, found, range(1, count + 1)).stats}
    assert ways["ours"]() == ways["pycocotools"](), "the numbers differ"
    return in_turn(ways, rounds)


def score_by_pycocotools(truth: dict[str, Any], found: list[dict[str, Any]]) -> tuple[float, ...]:
    """The 12 numbers."""
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = truth
        index.createIndex()
        evaluation = COCOeval(index, index.loadRes([dict(row) for row in found]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return tuple(float(value) for value in evaluation.stats)


# --- share of test.py ------------------------------------------------------------------------------------------


def busy_weights(path: Path, data: str) -> int:
    """yolov7 of random weights whose objectness is raised until each of some images keeps 100 detections."""
    torch.manual_seed(0)
    image_set = open_split(open_data(data), "val")
    model = Detector(read_spec("yolov7"), len(image_set.names)).eval()
    batch = next(iter(evaluation_loader(image_set, 640, 8, model.stride, 0)))
    for _ in range(30):
        network = TorchNetwork(model, torch.device("cpu"))
        rows = network(network_input(batch.images, network.device), PROTOCOL.confidence)
        least = min(len(nms_image(part, PROTOCOL)) for part in rows)
        if least > 2 * MIN_DETECTIONS:  # other images may have fewer
            break
        with torch.no_grad():
            for conv in model.head.convs:
                bias = conv.bias.view(model.head.num_anchors, -1)  # type: ignore[union-attr, operator]
                bias[:, 4:] += 0.3
    names = tuple(image_set.names)
    weights.save(weights.describe(model, names, 640, data) | {"model": model.state_dict(), "epoch": 0}, path)
    return least


def copies_of(data: str, copies: int, folder: Path) -> str:
    """A data set with the validation images of another so many times: the start of a process counts less then, as
    it does in a set of COCO's size."""
    image_set = open_split(open_data(data), "val")
    truth = image_set.ground_truth()
    paths = dict(zip(image_set.image_ids, image_set.paths, strict=True))
    (folder / "images").mkdir()
    content: dict[str, Any] = {"categories": truth["categories"], "images": [], "annotations": []}
    for copy, image in itertools.product(range(copies), truth["images"]):
        number = len(content["images"]) + 1
        name = f"{number:06}.jpg"
        shutil.copy(paths[image["id"]], folder / "images" / name)
        content["images"].append({**image, "id": number, "file_name": name})
        content["annotations"] += [{**row, "id": copy * 10**6 + row["id"], "image_id": number}
                                   for row in truth["annotations"] if row["image_id"] == image["id"]]
    (folder / "val.json").write_text(json.dumps(content))
    (folder / "data.yaml").write_text(f"path: {folder}\nval: {{images: images, annotations: val.json}}\n")
    return str(folder / "data.yaml")


def measure_share(source: str, precision: str, copies: int) -> dict[str, Any]:
    """Wall time of ``test.py`` and that of its network."""
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "busy.pt", copies_of(source, copies, Path(folder))
        busy_weights(path, data)
        command = [sys.executable, str(ROOT / "test.py"), "--weights", str(path), "--data", data, "--device", "cpu",
                   "--precision", precision, "--project", folder, "--img-size", "640"]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - started
        assert done.returncode == 0, done.stderr
        results = json.loads((Path(folder) / "exp" / "results.json").read_text())
        counts: dict[int, int] = {}
        for row in json.loads((Path(folder) / "exp" / "predictions.json").read_text()):
            counts[row["image_id"]] = counts.get(row["image_id"], 0) + 1
    count = results["images"]
    assert len(counts) == count and min(counts.values()) >= MIN_DETECTIONS, min(counts.values())
    network = count * results["milliseconds"]["network"]["mean"] / 1000
    return {"precision": precision, "images": count, "least_detections": min(counts.values()), "wall_s": wall,
            "network_s": network, "other_share": 1 - network / wall, "milliseconds": results["milliseconds"]}


def in_turn(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Median milliseconds of each, and how many times faster the last one is than the first."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            times[name].append(1000 * (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in times.items()}
    first, *_, last = medians.values()
    return {"milliseconds": medians, "ratio": first / last}


def main() -> None:
    """All three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="coco-mini")
    parser.add_argument("--copies", type=int, default=5, help="of the data set, for the share of test.py")
    parser.add_argument("--precisions", nargs="+", default=["auto"])
    options = parser.parse_args()
    content: dict[str, Any] = {"machine": describe_machine(), "suppression": compare_nms(options.rounds)}
    content["scoring"] = compare_scoring(options.rounds)
    content["test.py"] = [measure_share(options.data, precision, options.copies) for precision in options.precisions]
    atomic_write(RESULTS, json.dumps(content, indent=1) + "\n")
    shown = [{key: row[key] for key in ("precision", "wall_s", "other_share")} for row in content["test.py"]]
    sys.stdout.write(f"suppression {content['suppression']}\nscoring {content['scoring']}\ntest.py {shown}\n"
                     f"ratio {content['suppression']['ratio']:.2f}\n")


if __name__ == "__main__":
    main()

"""Eight images of coco-mini learned by heart, at 640 px: masks by yolov7-seg and yolov7-mask, poses by yolov7-w6-pose.

Data, loss, optimizer, inference and scoring of a task agree where its score goes to 1. The images are the first eight
of the training split with one to four objects of at least 40 px, without crowds, and for pose with labelled points on
everybody. Nothing is augmented; bfloat16 where the device has it natively. Key points are learned with the Cauchy loss,
as 1 - OKS has no slope where a new network's points are (--set loss.keypoint_loss=oks shows it). It ends when the AP50
of masks or key points is above 0.8, or after --steps. A state is written at every score: start it again to go on.

Writes ``scripts/results/overfit.json`` and prints it as a table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from machine import describe_machine
from torch import nn

from yolov7.config import atomic_path, atomic_write, override
from yolov7.config.recipe import LossConfig, OptimizerConfig, read_recipe
from yolov7.data.catalog import open_data, open_split
from yolov7.data.image_set import ImageSet
from yolov7.data.loader import evaluation_loader
from yolov7.engine.optim import make_optimizer
from yolov7.evaluation.evaluate import evaluate
from yolov7.inference.network import TorchNetwork
from yolov7.loss.criterion import Criterion, scale_gains, total_loss
from yolov7.model.detector import Detector, network_input
from yolov7.model.spec import read_spec
from yolov7.runtime.device import own_device
from yolov7.runtime.precision import autocast, choose_precision
from yolov7.runtime.progress import Progress
from yolov7.structures import Batch
from yolov7.tasks.base import Task, Training, find_task

RESULTS = Path(__file__).parent / "results" / "overfit.json"
COCO_MINI = Path(__file__).parents[2] / "shared" / "data" / "coco-mini"
MODELS = {"seg": "yolov7-seg", "pose": "yolov7-w6-pose", "mask": "yolov7-mask"}
CHANGES = {"seg": (), "pose": ("loss.keypoint_loss=cauchy",), "mask": ()}  # of the recipe
ANNOTATIONS = {"seg": "instances_train2017.json", "pose": "person_keypoints_train2017.json",
               "mask": "instances_train2017.json"}
IMAGES, MOST_OBJECTS, LEAST_SIDE = 8, 4, 40  # pixels
GOAL = 0.8
WARM_UP, LEARNING_RATE = 20, 0.001  # steps; of AdamW


@dataclass(frozen=True)
class Plan:
    """What is learned, by what, and how."""

    task: str  # seg, pose, mask
    model: str
    size: int = 640
    steps: int = 400  # at most: the learning rate falls to a tenth over them
    every: int = 20  # steps between two scores
    # images that are in memory together; all eight make a step. With fewer, training normalises by the statistics of
    # each part, which it learns by heart, too, and evaluation by those of all: P then stays below its goal
    batch_size: int = IMAGES
    device: str = ""
    changes: tuple[str, ...] = ()  # of the recipe


# --- data --------------------------------------------------------------------------------------------------------


def eligible(rows: Sequence[Mapping[str, Any]], task: str) -> bool:
    """Whether the annotations of an image are few, large and complete."""
    large = all(row["bbox"][2] * row["bbox"][3] >= LEAST_SIDE**2 and not row["iscrowd"] for row in rows)
    pointed = task != "pose" or all(row["num_keypoints"] for row in rows)
    return 1 <= len(rows) <= MOST_OBJECTS and large and pointed


def first_images(data: Path, task: str, folder: Path) -> ImageSet:
    """The first eligible images of coco-mini's training split, as a data set of their own."""
    source = json.loads((data / "annotations" / ANNOTATIONS[task]).read_text(encoding="utf-8"))
    rows: dict[Any, list[dict[str, Any]]] = {}
    for row in source["annotations"]:
        rows.setdefault(row["image_id"], []).append(row)
    images = [image for image in source["images"] if eligible(rows.get(image["id"], ()), task)][:IMAGES]
    annotations = [row for image in images for row in rows[image["id"]]]
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / f"{task}.json", json.dumps({**source, "images": images, "annotations": annotations}))
    split = {"images": str((data / "images" / "train2017").absolute()),
             "annotations": str((folder / f"{task}.json").absolute())}
    atomic_write(folder / f"{task}.yaml", yaml.safe_dump({"train": split, "val": split}))
    return open_split(open_data(str(folder / f"{task}.yaml")), "train", training=True)


# --- learning ----------------------------------------------------------------------------------------------------


class Learner:
    """A network and its optimizer, with the state that a file keeps."""

    def __init__(self, plan: Plan, image_set: ImageSet, path: Path | None) -> None:
        torch.manual_seed(0)
        self.plan, self.image_set, self.path = plan, image_set, path
        self.device = own_device(plan.device, 0)
        self.precision = choose_precision("auto", self.device)
        spec = read_spec(plan.model)
        self.task: Task = find_task(spec.head.block)
        self.training: Training = self.task.training()
        if self.training.adapt and (arguments := self.training.adapt(spec.head.arguments, image_set)):
            spec = spec.with_head_arguments(arguments)
        model = Detector(spec, len(image_set.names))
        self.model: Detector = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = OptimizerConfig(kind="adamw", lr0=LEARNING_RATE)
        self.optimizer = make_optimizer(self.model, optimizer, IMAGES, IMAGES)
        head = self.model.head
        loss, classes = loss_of(spec.recipe, self.training, plan.changes), self.model.num_classes
        self.criterion = Criterion(scale_gains(loss, len(head.strides), classes, plan.size), head.anchors, head.strides,
                                   classes, terms=self.training.terms, channels=head.channels,
                                   assigner=self.training.assigner)
        self.loader = evaluation_loader(image_set, plan.size, plan.batch_size, None, workers=0,
                                        fields=self.training.fields)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        if path is not None and path.exists():
            self._restore(torch.load(path, map_location="cpu", weights_only=True))

    def _restore(self, content: dict[str, Any]) -> None:
        if content["plan"] != [*map(str, dataclasses.astuple(self.plan))]:
            raise SystemExit(f"{self.path}: is the state of another plan; remove it, or take another --project")
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.seconds, self.history = content["step"], content["seconds"], content["history"]

    def keep(self) -> None:
        """Write the state, whole at any moment."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"plan": [*map(str, dataclasses.astuple(self.plan))], "model": self.model.state_dict(),
                   "optimizer": self.optimizer.state_dict(), "step": self.step, "seconds": self.seconds,
                   "history": self.history}
        with atomic_path(self.path) as temporary:
            torch.save(content, temporary)

    def learn(self, batches: Sequence[Batch]) -> dict[str, float]:
        """One step over all images; returns the terms of the loss."""
        warm = min(1.0, (self.step + 1) / WARM_UP)
        rate = LEARNING_RATE * warm * (1 - 0.9 * self.step / self.plan.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        sums: dict[str, float] = {}
        for batch in batches:
            images = network_input(batch.images, self.device)
            with autocast(self.precision, self.device):
                output = self.model(images)
            terms = self.criterion.loss(output, self.criterion.prepare(output, batch.targets, (0, self.step)))
            (len(images) * total_loss(terms)).backward()  # type: ignore[no-untyped-call]
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * len(images) / len(self.image_set)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return sums

    @torch.no_grad()
    def settle(self, batches: Sequence[Batch]) -> None:
        """Take the statistics of batch normalisation anew, from these images and the weights as they are now.

        The running ones lag some 30 steps behind, in which weights that learn a few images by heart have moved far.
        """
        layers = [layer for layer in self.model.modules() if isinstance(layer, nn.BatchNorm2d)]
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
        self.model.train()
        for batch in batches:
            with autocast(self.precision, self.device):
                self.model(network_input(batch.images, self.device))
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum

    def score(self) -> dict[str, float]:
        """All numbers of the evaluators that an epoch of a training has."""
        network = TorchNetwork(self.model, self.device, self.precision)
        evaluators = self.training.evaluators(self.image_set, False)
        found = evaluate(network, self.loader, self.image_set, evaluators=evaluators,
                         after=self.task.after(usual=self.training.finish))
        return found.metrics()


def task_scores(metrics: Mapping[str, float]) -> tuple[float, float]:
    """AP50 and AP of masks or key points among the numbers of an evaluation, whose boxes have no prefix."""
    names = [name for name in metrics if name.endswith("_AP50") and f"{name[:-2]}" in metrics]
    if len(names) != 1:
        raise LookupError(f"found the metrics {', '.join(metrics)}; needed: one pair of names *_AP50 and *_AP")
    return metrics[names[0]], metrics[names[0][:-2]]


def loss_of(name: str, training: Training, changes: Sequence[str]) -> LossConfig:
    """The loss of a recipe with the gains of a task's own terms, and with changes."""
    recipe = read_recipe(name)
    own = {term: gain for term, gain in training.gains().items() if gain is not None}
    known = dataclasses.replace(recipe.loss, gains={**own, **recipe.loss.gains})
    return override(dataclasses.replace(recipe, loss=known), changes).loss


def overfit(plan: Plan, image_set: ImageSet, path: Path | None = None) -> dict[str, Any]:
    """Learn until the score is above the goal; a row of the table. ``path`` keeps the state between starts."""
    learner = Learner(plan, image_set, path)
    batches = list(learner.loader)
    progress = Progress(range(learner.step, plan.steps), plan.model, unit="steps")
    for _ in progress if not _reached(learner) else ():
        started = time.perf_counter()
        terms = learner.learn(batches)
        learner.seconds += time.perf_counter() - started
        if learner.step % plan.every and learner.step < plan.steps:
            continue
        learner.settle(batches)
        metrics = learner.score()
        ap50, ap = task_scores(metrics)
        learner.history.append({"step": learner.step, "AP50": round(ap50, 4), "AP": round(ap, 4),
                                "box_AP50": round(metrics["AP50"], 4), "loss": round(sum(terms.values()), 4)})
        learner.keep()
        sys.stdout.write(f"{plan.model}, step {learner.step}: AP50 {ap50:.3f}, AP {ap:.3f}\n")
        sys.stdout.flush()
        if _reached(learner):
            break
    last = learner.history[-1] if learner.history else {}
    return {"model": plan.model, "size": plan.size, "images": len(image_set), "objects": len(image_set.objects),
            "precision": learner.precision, "seconds": round(learner.seconds, 1), **last, "history": learner.history}


def _reached(learner: Learner) -> bool:
    return bool(learner.history) and learner.history[-1]["AP50"] > GOAL


# --- report ------------------------------------------------------------------------------------------------------


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| model | images (objects) | size | precision | steps | minutes | mask or OKS AP50 | AP | box AP50 |",
             "|---|---|---|---|---|---|---|---|---|"]
    for row in rows.values():
        lines.append(f"| {row['model']} | {row['images']} ({row['objects']}) | {row['size']} | {row['precision']} | "
                     f"{row.get('step', 0)} | {row['seconds'] / 60:.1f} | {row.get('AP50', 0):.3f} | "
                     f"{row.get('AP', 0):.3f} | {row.get('box_AP50', 0):.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Learn what is not learned yet, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(MODELS), help="one task; default: all")
    parser.add_argument("--model", default="", help="another model of that task, such as yolov7-tiny-seg")
    parser.add_argument("--size", type=int, default=640, help="side of the network input, pixels")
    parser.add_argument("--steps", type=int, default=Plan.steps, help="at most")
    parser.add_argument("--every", type=int, default=Plan.every, help="steps between two scores")
    parser.add_argument("--batch-size", type=int, default=Plan.batch_size, help="images that are in memory together")
    parser.add_argument("--device", default="", help="default: the first accelerator, else the CPU")
    parser.add_argument("--set", nargs="*", default=(), metavar="KEY=VALUE", help="changes of the model's recipe")
    parser.add_argument("--data", type=Path, default=COCO_MINI, help="the folder of coco-mini")
    parser.add_argument("--project", type=Path, default=Path("runs/overfit"), help="folder of the states")
    options = parser.parse_args()
    if options.model and not options.only:
        parser.error("--model needs --only")
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rows: dict[str, Any] = found.get("rows", {})
    for task in [options.only] if options.only else MODELS:
        plan = Plan(task, options.model or MODELS[task], options.size, options.steps, options.every,
                    options.batch_size, options.device, (*CHANGES[task], *options.set))
        image_set = first_images(options.data, task, options.project / "data")
        path = options.project / f"{Path(plan.model).stem}-{plan.size}.pt"
        row = {"machine": describe_machine(), **overfit(plan, image_set, path)}
        rows[f"{Path(plan.model).stem}, {plan.size} px"] = row
        atomic_write(RESULTS, json.dumps({"goal": GOAL, "rows": rows}, indent=1) + "\n")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()

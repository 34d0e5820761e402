"""``test --report``: an evaluation on one page: numbers, curves, what kinds of errors there are, how they look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolov7.config import InputError
from yolov7.data.image_set import ImageSet
from yolov7.data.images import load_image
from yolov7.engine.thumbnails import LARGE, around, drawn, unreadable
from yolov7.evaluation.coco import CocoResult
from yolov7.evaluation.confusion import ConfusionExamples, ConfusionMatrix
from yolov7.evaluation.error_analysis import ErrorAnalysis, JudgedImage
from yolov7.evaluation.error_kinds import IOU, KINDS, RIGHT, ErrorKinds, ErrorKindsResult
from yolov7.evaluation.evaluate import Evaluation, Evaluator
from yolov7.evaluation.plots import BACKGROUND
from yolov7.evaluation.v7_metric import V7Result
from yolov7.pages import Chart, DataTable, Facts, Image, Images, Page, Section, write_page
from yolov7.pages.charts import bars_chart, curves_chart, matrix_chart
from yolov7.structures import Instances

REPORT = "report.html"
CELLS, CLASSES = 18, 40  # of the confusion matrix with examples; classes with a curve
CURVE_POINTS = 100  # of the 1000
SIZES, SCORES = 12, 10  # bins
MIN_IN_BIN = 5  # objects of a bin, and detections of one that is shown
CALIBRATED_FROM = 0.05  # score; those below are there for AP alone


def with_report(evaluators: Sequence[Evaluator], image_set: ImageSet) -> list[Evaluator]:
    """The evaluators of a task, with what a page shows besides: examples, and errors by their kinds."""
    classes = len(image_set.names)
    found: list[Evaluator] = [
        ConfusionExamples(evaluator.num_classes, evaluator.confidence, evaluator.iou, evaluator.similarity)
        if type(evaluator) is ConfusionMatrix else evaluator for evaluator in evaluators]
    return [*found, *(ErrorKinds(classes, evaluator.similarity) for evaluator in evaluators
                      if isinstance(evaluator, ErrorAnalysis))]


def write_evaluation_report(evaluation: Evaluation, image_set: ImageSet, folder: Path,
                            settings: dict[str, Any]) -> Path:
    """Write the page; what a task has besides boxes has sections of its own."""
    names, results = image_set.names, evaluation.results.values()
    sections = [_numbers(evaluation, settings), _by_class(evaluation)]
    sections += [_curves(result, names) for result in results if isinstance(result, V7Result)]
    kinds = [result for result in results if isinstance(result, ErrorKindsResult)]
    sections += [_kinds(result, names) for result in kinds]
    sections += [_confusion(result, names) for result in results if isinstance(result, ConfusionExamples)]
    sections += [_worst(result, names) for result in results if isinstance(result, ErrorAnalysis) and result.images]
    sections += [make(result) for result in kinds for make in (_by_size, _calibration)]
    weights = ", ".join(Path(file["path"]).name for file in settings["weights"])
    write_page(folder / REPORT, Page(f"{weights} on {settings['split']} of {settings['data']}", sections,
                                     evaluation.headline()))
    return folder / REPORT


def _numbers(evaluation: Evaluation, settings: dict[str, Any]) -> Section:
    parts: list[Any] = []
    for name, result in evaluation.results.items():
        if isinstance(result, CocoResult):
            rows = [{"number": key, "value": value, "meaning": meaning} for key, (value, meaning) in
                    result.numbers.items()]
            parts.append(DataTable(rows, f"COCO score, {name}"))
    plain = {key: value for key, value in settings.items() if isinstance(value, (str, int, float))}
    return Section("Numbers", [*parts, Facts(plain, "Settings")])


def _by_class(evaluation: Evaluation) -> Section:
    rows = [{"class": name, **numbers} for name, numbers in evaluation.table()["classes"].items()]
    return Section("Classes", [DataTable(rows)])


def _curves(result: V7Result, names: Sequence[str]) -> Section:
    curves, step = result.curves, max(len(result.curves.points) // CURVE_POINTS, 1)
    points = curves.points[::step].tolist()

    def over(values: Any) -> list[tuple[float, float]]:
        return list(zip(points, values[::step].tolist(), strict=True))

    shown = list(enumerate(result.classes))[:CLASSES]
    by_class = {names[label]: over(curves.precision_at_recall[row]) for row, label in shown}
    if len(result.classes):
        means = {name: over(values.mean(0)) for name, values in (
            ("precision", curves.precision), ("recall", curves.recall), ("F1", curves.f1))}
        by_class = {"mean": over(curves.precision_at_recall.mean(0)), **by_class} if len(shown) > 1 else by_class
    else:
        means = {}
    return Section(f"Curves at {result.word} 0.50", [
        curves_chart("Precision over recall", by_class, "recall", whole=False),
        curves_chart("Means over classes, by confidence", means, "confidence", whole=False)],
        f"F1 is best, {result.f1:.3f}, at confidence {result.confidence:.3f}.")


def _kinds(result: ErrorKindsResult, names: tuple[str, ...]) -> Section:
    costs, counts = result.costs(), result.counts
    rows = [{"kind": kind, "AP50 it costs": 100 * costs[kind], "errors": counts[kind]} for kind in KINDS]
    parts: list[Any] = [
        bars_chart("What each kind of error costs", {kind: 100 * costs[kind] for kind in KINDS}, axis="AP50, percent"),
        DataTable(rows, note=f"AP50 {100 * result.AP50:.1f}. place: near an object of its class; class: on one of "
                             "another; duplicate: on one that is found already; background: where nothing is; both: "
                             "near one of another class; missed: found by nothing. Costs do not add up.")]
    for kind in KINDS:
        if result.examples[kind]:
            images = [around(one.path, one.box, one.label, names, _said(kind, one, names))
                      for one in result.examples[kind]]
            parts.append(Images(images, f"{kind}: the {'largest' if kind == 'missed' else 'most confident'}"))
    return Section(f"Kinds of errors at {result.word} {IOU:.2f}", parts)


def _said(kind: str, one: Any, names: Sequence[str]) -> str:
    file = Path(one.path).name
    if kind == "missed":
        return f"{file}: {names[one.label]}, {one.score:.0f} px"
    true = f", truly {names[one.true_label]}" if one.true_label not in (-1, one.label) else ""
    return f"{file}: {names[one.label]} {one.score:.2f}{true}"


def _by_size(result: ErrorKindsResult) -> Section:
    """Recall and scores of objects by their size, in bins of as many objects."""
    scores = np.zeros(len(result.true_labels))
    right = result.kinds == RIGHT
    scores[result.targets[right]] = result.scores[right]
    order = np.argsort(result.true_sizes, kind="stable")
    bins = [part for part in np.array_split(order, max(min(SIZES, len(order) // MIN_IN_BIN), 1)) if len(part)]
    rows = [{"objects": len(part), "from px": result.true_sizes[part[0]], "to px": result.true_sizes[part[-1]],
             "found at any score": (scores[part] > 0).mean(), "found above 0.25": (scores[part] > 0.25).mean(),
             "mean score of those found": scores[part][scores[part] > 0].mean() if (scores[part] > 0).any() else None}
            for part in bins]
    centres = [float(np.sqrt(max(row["from px"], 1e-3) * row["to px"])) for row in rows]
    curves = {name: [(x, float(row[name])) for x, row in zip(centres, rows, strict=True) if row[name] is not None]
              for name in ("found at any score", "found above 0.25", "mean score of those found")}
    return Section(f"Score against size, {result.word}", [
        curves_chart("Recall and score by the root of an object's area", curves, "pixels", whole=False),
        DataTable([{key: float(value) if isinstance(value, np.floating) else value for key, value in row.items()}
                   for row in rows])] if rows else [])


def calibration_rows(result: ErrorKindsResult) -> list[dict[str, Any]]:
    """Mean score and share of right detections in bins of the score; those of few detections are left out."""
    rows = []
    right = result.kinds == RIGHT
    for low in np.arange(SCORES) / SCORES:
        inside = (result.scores > max(low, CALIBRATED_FROM)) & (result.scores <= low + 1 / SCORES)
        if inside.sum() >= MIN_IN_BIN:
            rows.append({"score from": float(low), "detections": int(inside.sum()),
                         "mean score": float(result.scores[inside].mean()), "right": float(right[inside].mean())})
    return rows


def calibration_error(rows: Sequence[dict[str, Any]]) -> float:
    """The mean distance of score and share of right detections, weighted by detections."""
    total = sum(row["detections"] for row in rows)
    distances = [row["detections"] * abs(row["mean score"] - row["right"]) for row in rows]
    return float(sum(distances) / total) if total else 0.0


def _calibration(result: ErrorKindsResult) -> Section:
    rows = calibration_rows(result)
    curve = {"right": [(row["mean score"], row["right"]) for row in rows], "as it should be": [(0.0, 0.0), (1.0, 1.0)]}
    return Section(f"Calibration, {result.word}", [curves_chart("Right detections by their score", curve, "score",
                                                                whole=False), DataTable(rows)],
                   f"Of detections with a score of 0.8, 80% should be right: the mean distance is "
                   f"{calibration_error(rows):.3f}, over detections above {CALIBRATED_FROM:g}.")


def _confusion(result: ConfusionExamples, names: tuple[str, ...]) -> Section:
    heads = [*names, BACKGROUND]
    counts, shares = result.matrix, result.shares()
    chart = matrix_chart("Predicted by true classes", shares.tolist(), counts.tolist(), heads, heads,
                         ("true (background: false detections)", "predicted (background: missed)"))
    errors = sorted((cell for cell in result.examples if counts[cell]), key=lambda cell: (-counts[cell], cell))
    images = []
    for predicted, true in errors[:CELLS]:
        is_missed, is_false = predicted == len(names), true == len(names)
        what = f"{heads[true]} missed" if is_missed else f"{heads[predicted]} where nothing is" if is_false else (
            f"{heads[true]} taken for {heads[predicted]}")
        for score, path, box in result.examples[predicted, true]:
            text = f"{what} ({counts[predicted, true]} times): {Path(path).name}{'' if is_missed else f' {score:.2f}'}"
            images.append(around(path, box, true if is_missed else predicted, names, text))
    parts: list[Chart | Images] = [chart, *([Images(images, "Examples of its errors, the most frequent first")]
                                            if images else [])]
    return Section(f"Confusion, {result.similarity.word}", parts,
                   f"At confidence {result.confidence:g} and {result.similarity.word} {result.iou:g}.")


def _worst(result: ErrorAnalysis, names: tuple[str, ...]) -> Section:
    images = [image for judged in result.images for image in _pair(judged, names)]
    return Section(f"Worst images, {result.similarity.word}", [Images(images)],
                   f"By F1 above confidence {result.confidence:g}: what is missed, then what is found in vain.")


def _pair(judged: JudgedImage, names: tuple[str, ...]) -> list[Image]:
    found = judged.comparison
    file = Path(found.path).name
    try:
        image = load_image(found.path)
    except InputError as error:
        return [unreadable(str(error))]
    missed, false = judged.missed_mask, judged.false_mask
    sides = ((found.true_boxes[missed], found.true_labels[missed], np.ones(int(missed.sum())),
              f"{file}: missed {missed.sum()} of {len(missed)}", False),
             (found.boxes[false], found.labels[false], found.scores[false],
              f"{file}: false {false.sum()} of {len(false)}, F1 {judged.f1:.2f}", True))
    return [drawn(image, Instances(torch.from_numpy(boxes.copy()), torch.from_numpy(np.asarray(scores, np.float32)),
                                   torch.from_numpy(labels.copy()), names), text, LARGE, with_scores=with_scores)
            for boxes, labels, scores, text, with_scores in sides]

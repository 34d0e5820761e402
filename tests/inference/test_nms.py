"""Non-maximum suppression against the golden detections, a plain restatement of its rules, and its edge cases."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from yolov7.boxes import cxcywh_to_xyxy, pairwise_iou
from yolov7.inference import nms
from yolov7.inference.nms import NMSOptions, nms_image, non_maximum_suppression, to_native
from yolov7.model.heads.base import Predictions
from yolov7.structures import ImageMeta, Instances

GOLDEN = Path(__file__).parents[1] / "golden" / "post"
CASES = json.loads((GOLDEN / "nms.json").read_text())
NAMES = {"conf_thres": "confidence", "iou_thres": "iou"}  # the reference implementation's names -> ours


def build(seed: int, batch: int, boxes: int, classes: int) -> Tensor:
    """Crowded random predictions ``[B, N, 5 + C]`` with cxcywh boxes, in the golden files' order of draws."""
    r = np.random.RandomState(seed)
    centres, sizes = r.uniform(40, 600, (batch, 40, 2)), r.uniform(16, 200, (batch, 40, 2))
    kinds, pick = r.randint(classes, size=(batch, 40)), r.randint(40, size=(batch, boxes))
    image = np.arange(batch)[:, None]
    centre = centres[image, pick] + 6 * r.standard_normal((batch, boxes, 2))
    size = sizes[image, pick] * np.exp(0.15 * r.standard_normal((batch, boxes, 2)))
    objectness = r.random_sample((batch, boxes, 1)) ** 2
    scores = 0.3 * r.random_sample((batch, boxes, classes))
    np.put_along_axis(scores, kinds[image, pick][..., None], r.uniform(0.5, 1.0, (batch, boxes, 1)), axis=2)
    return torch.from_numpy(np.concatenate((centre, size, objectness, scores), axis=2).astype(np.float32))


def split(predictions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return cxcywh_to_xyxy(predictions[..., :4]), predictions[..., 4], predictions[..., 5:]


def one(rows: list[tuple[list[float], float, list[float]]], **options: object) -> Instances:
    """NMS of one image given as (box, objectness, class probabilities)."""
    boxes, objectness, classes = (torch.tensor([column]) for column in zip(*rows, strict=True))
    return non_maximum_suppression(boxes.float(), objectness, classes, NMSOptions(**options))[0]  # type: ignore[arg-type]


def plain_nms(boxes: Tensor, objectness: Tensor, classes: Tensor, options: NMSOptions) -> list[list[float]]:
    """The rules read aloud: every candidate, best first, against every kept box of its class."""
    candidates = []
    for row in range(len(boxes)):
        scores = objectness[row] * classes[row] if classes.shape[1] > 1 else objectness[row : row + 1]
        labels = range(len(scores)) if options.multi_label else [int(scores.argmax())]
        if objectness[row] > options.confidence:
            candidates += [(float(scores[c]), row, c) for c in labels if scores[c] > options.confidence]
    if options.classes is not None:
        candidates = [candidate for candidate in candidates if candidate[2] in options.classes]
    iou = pairwise_iou(boxes.double(), boxes.double())
    kept: list[tuple[float, int, int]] = []
    for score, row, label in sorted(candidates, key=lambda c: (-c[0], c[1], c[2]))[: options.max_candidates]:
        rivals = [r for _, r, c in kept if options.agnostic or c == label]
        if not any(iou[row, rival] > options.iou for rival in rivals):
            kept.append((score, row, label))
    return [[*boxes[row].tolist(), score, label] for score, row, label in kept[: options.max_detections]]


def rows(detections: Instances) -> list[list[float]]:
    columns = (detections.boxes, detections.scores[:, None], detections.labels[:, None].float())
    return torch.cat(columns, dim=1).tolist()


@pytest.mark.parametrize("name", CASES)
def test_golden_post(name: str) -> None:
    case, golden = CASES[name], np.load(GOLDEN / f"{name}.npz")
    settings = {NAMES.get(key, key): value for key, value in case["options"].items()}
    if "classes" in settings:
        settings["classes"] = tuple(settings["classes"])
    predictions = build(case["seed"], case["batch"], case["boxes"], case["classes"])

    found = non_maximum_suppression(*split(predictions), NMSOptions(**settings))

    assert [len(detections) for detections in found] == case["kept"]
    for index, detections in enumerate(found):
        expected = torch.from_numpy(golden[f"det{index}"])
        torch.testing.assert_close(detections.boxes, expected[:, :4], rtol=0, atol=1e-3)
        torch.testing.assert_close(detections.scores, expected[:, 4], rtol=0, atol=1e-6)
        assert torch.equal(detections.labels, expected[:, 5].long())


@pytest.mark.parametrize("multi_label", [False, True], ids=["best_class", "multi_label"])
@pytest.mark.parametrize("agnostic", [False, True], ids=["per_class", "agnostic"])
@pytest.mark.parametrize("classes", [1, 4], ids=["one_class", "four_classes"])
@pytest.mark.parametrize("wanted", [None, (0, 2)], ids=["all", "filtered"])
def test_equals_the_plain_rules(
    multi_label: bool, agnostic: bool, classes: int, wanted: tuple[int, ...] | None
) -> None:
    predictions = build(7, 2, 300, classes)
    predictions[..., 4:] = (predictions[..., 4:] * 8).ceil() / 8  # many equal scores
    options = NMSOptions(0.2, 0.6, 40, multi_label, agnostic, wanted, max_candidates=250)
    found = non_maximum_suppression(*split(predictions), options)
    for detections, image in zip(found, predictions, strict=True):
        assert rows(detections) == plain_nms(*split(image), options)


def test_enough_detections_are_found_however_many_candidates_they_take() -> None:
    predictions = build(8, 1, 3000, 3)
    options = NMSOptions(0.001, 0.3, 60, multi_label=True)  # more than one round of the search
    found = rows(non_maximum_suppression(*split(predictions), options)[0])
    assert 0 < len(found) <= 60
    assert found == plain_nms(*split(predictions[0]), options)


@pytest.mark.parametrize("confidence", [0.25, 0.1, 0.001])
def test_a_score_at_the_threshold_is_dropped(confidence: float) -> None:
    boxes = torch.tensor([[[0.0, 0, 9, 9], [20, 20, 30, 30]]])
    above = float(np.nextafter(np.float32(confidence), np.float32(1)))
    scores = torch.tensor([[confidence, above]])
    for classes in (torch.ones(1, 2, 1), torch.ones(1, 2, 2)):
        for multi_label in (False, True):
            options = NMSOptions(confidence, multi_label=multi_label, classes=(0,))
            found = non_maximum_suppression(boxes, scores, classes, options)[0]
            assert found.boxes.tolist() == [[20, 20, 30, 30]]


@pytest.mark.parametrize(("iou", "shared"), [(0.5, 5), (0.6, 6), (0.7, 7), (0.9, 9), (0.45, 4.5), (0.65, 6.5)])
def test_an_iou_at_the_threshold_is_kept(iou: float, shared: float) -> None:
    whole, part = [0.0, 0, 10, 10], [0.0, 0, 10, shared]
    larger = [0.0, 0, 10, shared + 0.01]
    assert len(one([(whole, 0.9, [1.0]), (part, 0.8, [1.0])], iou=iou)) == 2
    assert len(one([(whole, 0.9, [1.0]), (larger, 0.8, [1.0])], iou=iou)) == 1


def test_one_class_ignores_the_class_score() -> None:
    found = one([([0, 0, 9, 9], 0.6, [0.01])], multi_label=True)
    assert rows(found) == [[0, 0, 9, 9, pytest.approx(0.6), 0]]


def test_objectness_alone_is_not_enough() -> None:
    assert len(one([([0, 0, 9, 9], 0.6, [0.3, 0.2])])) == 0
    assert len(one([([0, 0, 9, 9], 0.2, [1.0, 1.0])])) == 0


def test_multi_label_gives_a_row_for_every_class() -> None:
    row = ([0, 0, 9, 9], 1.0, [0.5, 0.75, 0.125])
    assert [(d[4], d[5]) for d in rows(one([row]))] == [(0.75, 1)]
    assert [(d[4], d[5]) for d in rows(one([row], multi_label=True))] == [(0.75, 1), (0.5, 0)]
    assert [(d[4], d[5]) for d in rows(one([row], multi_label=True, agnostic=True))] == [(0.75, 1)]


def test_class_filter() -> None:
    pair = [([0, 0, 9, 9], 1.0, [0.5, 0.75, 0.3]), ([50, 50, 60, 60], 1.0, [0.75, 0.1, 0.4])]
    assert one(pair, classes=(0,)).labels.tolist() == [0]  # the best class of the first box is another
    assert one(pair, classes=(0,), multi_label=True).labels.tolist() == [0, 0]
    assert len(one(pair, classes=())) == 0


def test_classes_stay_apart_however_large_the_image() -> None:
    far = [4096.0, 4096, 4196, 4196]  # an offset of 4096 pixels a class would lay it on the other box
    found = one([(far, 0.9, [1.0, 0.0]), ([0, 0, 100, 100], 0.8, [0.0, 1.0])])
    assert found.labels.tolist() == [0, 1]
    same = [-20000.0, -20000, 30000, 30000]
    assert len(one([(same, 0.9, [1.0, 0.0]), (same, 0.8, [0.0, 1.0])])) == 2
    assert len(one([(same, 0.9, [1.0, 0.0]), (same, 0.8, [0.0, 1.0])], agnostic=True)) == 1


def test_equal_scores_keep_the_order_of_rows_and_classes() -> None:
    boxes = torch.arange(500)[:, None] * 20 + torch.tensor([0.0, 0, 10, 10])
    found = non_maximum_suppression(
        boxes[None], torch.full((1, 500), 0.5), torch.ones(1, 500, 2), NMSOptions(multi_label=True, max_detections=900)
    )[0]
    assert torch.equal(found.boxes, boxes.repeat_interleave(2, dim=0)[:900])
    assert found.labels.tolist() == [0, 1] * 450
    twin = one([([0, 0, 10, 10], 0.5, [1.0]), ([1, 0, 11, 10], 0.5, [1.0])])
    assert twin.boxes.tolist() == [[0, 0, 10, 10]]


def test_the_best_candidates_enter_nms() -> None:
    count = 31000
    corner = torch.stack((torch.arange(count) % 200, torch.arange(count) // 200), dim=1) * 20.0
    boxes = torch.cat((corner, corner + 10), dim=1)[None]  # apart from each other
    objectness = torch.linspace(0.3, 0.9, count)[None]
    options = NMSOptions(max_detections=count)
    found = non_maximum_suppression(boxes, objectness, torch.ones(1, count, 1), options)[0]
    assert len(found) == 30000
    assert torch.equal(found.boxes, boxes[0].flip(0)[:30000])

    ties = non_maximum_suppression(boxes, torch.full((1, count), 0.5), torch.ones(1, count, 1), options)[0]
    assert torch.equal(ties.boxes, boxes[0, :30000])


def test_at_most_300_detections() -> None:
    boxes = (torch.arange(400)[:, None] * 20 + torch.tensor([0.0, 0, 10, 10]))[None]
    objectness = torch.linspace(0.3, 0.9, 400)[None]
    found = non_maximum_suppression(boxes, objectness, torch.ones(1, 400, 1), NMSOptions())[0]
    assert torch.equal(found.scores, objectness[0].flip(0)[:300])


def test_labels_known_beforehand_are_rows_like_any_other() -> None:
    known = ([0.0, 0, 10, 10], 1.0, [0.0, 1.0])
    found = one([([1, 0, 11, 10], 0.9, [0.1, 0.9]), known])
    assert rows(found) == [[0, 0, 10, 10, 1, 1]]


def test_the_input_stays_as_it_was_and_boxes_are_not_clipped() -> None:
    predictions = split(build(3, 2, 200, 3))
    predictions[0][0, 0] = torch.tensor([-50.0, -60, 5000, 6000])
    predictions[1][0, 0], predictions[2][0, 0, 0] = 1.0, 1.0
    before = [t.clone() for t in predictions]
    found = non_maximum_suppression(*predictions, NMSOptions(multi_label=True))
    assert all(torch.equal(a, b) for a, b in zip(predictions, before, strict=True))
    assert found[0].boxes[0].tolist() == [-50, -60, 5000, 6000]


@pytest.mark.parametrize("options", [NMSOptions(), NMSOptions(multi_label=True, agnostic=True, classes=(1,))])
@pytest.mark.parametrize("count", [0, 5])
def test_nothing_found_is_zero_rows(options: NMSOptions, count: int) -> None:
    found = non_maximum_suppression(torch.zeros(2, count, 4), torch.zeros(2, count), torch.zeros(2, count, 3), options)
    assert [d.boxes.shape for d in found] == [(0, 4), (0, 4)]
    assert [(len(d.scores), len(d.labels)) for d in found] == [(0, 0), (0, 0)]


def test_rows_that_are_not_finite_are_dropped_and_spoil_nothing() -> None:
    box = [0.0, 0, 10, 10]
    good = [(box, 0.9, [1.0, 0.0]), (box, 0.8, [0.0, 1.0]), ([1.0, 0, 10, 10], 0.7, [1.0, 0.0])]
    nan, infinite = float("nan"), float("inf")
    bad = [([nan, 0.0, 1, 1], 0.9, [1.0, 0.0]), ([0, 0, infinite, 1], 0.9, [1.0, 0.0]), (box, nan, [1.0, 0.0]),
           (box, 0.9, [nan, nan])]
    assert rows(one(good + bad)) == rows(one(good))
    assert len(one(good)) == 2


@pytest.mark.parametrize("settings", [{}, {"agnostic": True}, {"classes": (7, 3, 11)}, {"max_candidates": 5000}])
@pytest.mark.parametrize("alike", [False, True])
def test_the_best_of_very_many_are_those_of_all(
    settings: dict[str, Any], alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few scores are sorted where there are very many; with ``alike`` boxes the first look is not enough."""
    boxes, objectness, classes = split(build(9, 1, 4000, 80))
    classes = (classes * 50).round() / 50  # many equal scores
    if alike:
        boxes = boxes[:, :1] + torch.randn(boxes.shape, generator=torch.Generator().manual_seed(0)).abs()
    options = NMSOptions(0.001, 0.65, multi_label=True, **settings)
    looks = []
    thresholds = nms._thresholds

    def counted(*arguments: Any) -> list[Any]:
        looks.append(thresholds(*arguments))
        return looks[-1]

    monkeypatch.setattr(nms, "_thresholds", counted)
    found = non_maximum_suppression(boxes, objectness, classes, options)[0]
    assert len(looks[0]) == (1 if "classes" in settings else 2)
    monkeypatch.setattr(nms, "_thresholds", lambda scores, options: [options.confidence])
    expected = non_maximum_suppression(boxes, objectness, classes, options)[0]
    assert rows(found) == rows(expected) and len(found)


def test_half_precision_gives_float32_detections() -> None:
    boxes, objectness, classes = split(build(5, 1, 200, 3))
    found = non_maximum_suppression(boxes, objectness.half(), classes.half(), NMSOptions())[0]
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert found.labels.dtype == torch.int64
    assert len(found) > 0


@pytest.mark.parametrize("options", [NMSOptions(0.2, 0.5), NMSOptions(0.2, 0.5, multi_label=True, classes=(1, 2))])
def test_columns_of_a_task_follow_their_rows(options: NMSOptions) -> None:
    boxes, objectness, classes = split(build(6, 1, 300, 3))
    index = torch.arange(300)
    extra = {"row": index, "table": torch.stack((index, -index), dim=1)[:, None].float()}  # [300], [300, 1, 2]
    found = nms_image(Predictions(boxes[0], objectness[0], classes[0], extra, {"map": torch.ones(2, 2)}), options)
    assert rows(found) == rows(non_maximum_suppression(boxes, objectness, classes, options)[0]) and len(found) > 10
    assert torch.equal(found.boxes, boxes[0][found.extra["row"]])
    assert torch.equal(found.extra["table"], extra["table"][found.extra["row"]])
    native = to_native(found, {}, ImageMeta("a.jpg", size=(640, 640), gain=(2.0, 2.0)))
    assert native.extra is found.extra
    nothing = nms_image(Predictions(boxes[0], objectness[0], classes[0], extra), NMSOptions(1.0))
    assert nothing.extra["row"].shape == (0,) and nothing.extra["table"].shape == (0, 1, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_the_gpu_finds_the_same(name: str) -> None:
    case = CASES[name]
    predictions = split(build(case["seed"], case["batch"], case["boxes"], case["classes"]))
    options = NMSOptions(0.05, 0.6, multi_label=True)
    ours = non_maximum_suppression(*(t.cuda() for t in predictions), options)
    for gpu, cpu in zip(ours, non_maximum_suppression(*predictions, options), strict=True):
        assert rows(gpu) == rows(cpu)


def letterbox(gain: tuple[float, float], pad: tuple[float, float]) -> Callable[[Tensor], Tensor]:
    return lambda boxes: boxes * torch.tensor(gain * 2) + torch.tensor(pad * 2)


def test_native_pixels_undo_the_letterbox() -> None:
    meta = ImageMeta("a.jpg", 1, size=(427, 640), gain=(0.5, 0.501), pad=(12.0, 53.0))
    native = torch.tensor([[10.0, 20, 300, 400], [0, 0, 640, 427]])
    network = letterbox(meta.gain, meta.pad)(native)
    detections = Instances(network, torch.tensor([0.9, 0.5]), torch.tensor([3, 1]), names=("a", "b"))

    found = to_native(detections, {}, meta)

    torch.testing.assert_close(found.boxes, native)
    assert torch.equal(detections.boxes, network)
    assert torch.equal(found.scores, detections.scores)
    assert torch.equal(found.labels, detections.labels)
    assert found.names == ("a", "b")


def test_native_boxes_are_clipped_to_the_image() -> None:
    meta = ImageMeta("a.jpg", 1, size=(100, 200), gain=(2.0, 2.0), pad=(0.0, 100.0))
    detections = Instances(torch.tensor([[-10.0, 50, 500, 350]]), torch.ones(1), torch.zeros(1).long())
    assert to_native(detections, {}, meta).boxes.tolist() == [[0, 0, 200, 100]]
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    assert to_native(nothing, {}, meta).boxes.shape == (0, 4)

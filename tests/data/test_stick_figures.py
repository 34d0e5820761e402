"""The built-in people: plausible, and their key points, masks and visibility exact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from yolov7.data import stick_body, stick_figures
from yolov7.data.catalog import open_data, open_split
from yolov7.data.images import load_image
from yolov7.data.objects import Sample
from yolov7.data.stick_body import Body, random_body
from yolov7.data.stick_figures import HEIGHTS, MIN_VISIBLE, Seen, generate, paint
from yolov7.data.transforms import flip
from yolov7.keypoints import COCO_PERSON
from yolov7.structures import ImageMeta

TRAIN, VAL = 40, 8
NAMES = COCO_PERSON.names


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "stick-figures"
    generate(folder, TRAIN, VAL)
    return folder


def content(folder: Path, split: str = "train") -> dict:
    return json.loads((folder / "annotations" / f"{split}.json").read_text())


def point(body: Body, name: str) -> np.ndarray:
    return body.points[NAMES.index(name)]


# --- bodies ------------------------------------------------------------------------------------------------------


def bodies(monkeypatch: pytest.MonkeyPatch, yaw: float, count: int = 25) -> Iterator[Body]:
    monkeypatch.setattr(stick_body, "_random_yaw", lambda rng: yaw)
    for index in range(count):
        yield random_body(np.random.default_rng(index), 200, np.zeros(2))


@pytest.mark.parametrize(("yaw", "left_is_right_of"), [(0, True), (180, False)])
def test_left_is_where_it_is_in_photographs(yaw: float, left_is_right_of: bool,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    for body in bodies(monkeypatch, yaw):
        for name in ("shoulder", "hip", "ear"):
            assert (point(body, f"left_{name}")[0] > point(body, f"right_{name}")[0]) == left_is_right_of
        assert bool(body.owners[NAMES.index("nose")]) == left_is_right_of  # a face is seen from the front


@pytest.mark.parametrize(("yaw", "near", "far"), [(-90, "left", "right"), (90, "right", "left")])
def test_from_the_side_the_near_one_covers_the_far_one(yaw: float, near: str, far: str,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    for body in bodies(monkeypatch, yaw):
        names = [part.name for part in body.parts]
        light = {part.name: part.light for part in body.parts}
        for part in ("upper_arm", "thigh"):
            assert names.index(f"{far}_{part}") < names.index("torso") < names.index(f"{near}_{part}")
            assert light[f"{far}_{part}"] < light[f"{near}_{part}"]
        assert body.owners[NAMES.index(f"{near}_ear")] and not body.owners[NAMES.index(f"{far}_ear")]
        assert "torso" not in body.owners[NAMES.index(f"{far}_shoulder")]
        towards = np.sign(yaw) * (point(body, "nose") - (point(body, "left_ear") + point(body, "right_ear")) / 2)[0]
        assert towards > 0  # it faces that way


def angle(joints: dict[str, np.ndarray], side: str, names: tuple[str, str, str]) -> float:
    """Degrees by which a joint is bent."""
    a, b, c = (joints[f"{side}_{name}"] for name in names)
    first, second = (b - a) / np.linalg.norm(b - a), (c - b) / np.linalg.norm(c - b)
    return float(np.degrees(np.arccos(np.clip(first @ second, -1, 1))))


def test_limbs_keep_their_length_and_joints_their_limits() -> None:
    lengths = {("shoulder", "elbow"): stick_body.UPPER_ARM, ("elbow", "wrist"): stick_body.FOREARM,
               ("hip", "knee"): stick_body.THIGH, ("knee", "ankle"): stick_body.SHIN}
    bent = []
    for index in range(200):
        joints = stick_body._joints(np.random.default_rng(index))
        for side in ("left", "right"):
            for (first, last), length in lengths.items():
                assert np.linalg.norm(joints[f"{side}_{last}"] - joints[f"{side}_{first}"]) == pytest.approx(length)
            knee = angle(joints, side, ("hip", "knee", "ankle"))
            elbow = angle(joints, side, ("shoulder", "elbow", "wrist"))
            bent.append((knee, elbow))
            assert knee < 130 and elbow < 150
            thigh = joints[f"{side}_knee"] - joints[f"{side}_hip"]
            shin = joints[f"{side}_ankle"] - joints[f"{side}_knee"]
            assert thigh[2] * shin[1] - thigh[1] * shin[2] > -0.1 * stick_body.THIGH * stick_body.SHIN  # never forwards
    knees, elbows = np.array(bent).T
    assert np.ptp(knees) > 80 and np.ptp(elbows) > 80


# --- images ------------------------------------------------------------------------------------------------------


def test_an_image_depends_on_seed_split_and_index_alone(people: Path, tmp_path: Path) -> None:
    generate(tmp_path / "fewer", 2, 1)
    for name in ("images/train/000002.jpg", "images/val/000001.jpg"):
        assert (tmp_path / "fewer" / name).read_bytes() == (people / name).read_bytes()
    assert len({paint(*where)[0].tobytes() for where in ((0, "train", 0), (0, "val", 0), (1, "train", 0))}) == 3


def test_several_people_of_many_sizes(people: Path) -> None:
    coco = content(people)
    boxes = np.array([item["bbox"] for item in coco["annotations"]])
    per_image = np.bincount([item["image_id"] for item in coco["annotations"]])[1:]
    assert per_image.min() >= 1 and per_image.max() >= 4 and per_image.mean() > 2.5
    sides = boxes[:, 2:].max(axis=1)
    assert sides.min() < 50 and sides.max() > 180
    assert sides.max() < 1.4 * HEIGHTS[-1]
    assert {max(image["height"], image["width"]) for image in coco["images"]} == {320}


def test_points_are_labelled_hidden_and_visible(people: Path) -> None:
    coco = content(people)
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    points = np.array([item["keypoints"] for item in coco["annotations"]]).reshape(-1, 17, 3)
    visibility = points[..., 2]
    assert (np.bincount(visibility.astype(int).ravel()) / visibility.size > (0.05, 0.1, 0.5)).all()
    for item, row in zip(coco["annotations"], points, strict=True):
        assert item["num_keypoints"] == (row[:, 2] > 0).sum()
        assert (row[row[:, 2] == 0] == 0).all()
        assert (row[:, :2] <= sizes[item["image_id"]]).all() and (row >= 0).all()
    assert (visibility.min(axis=1) == 0).mean() > 0.1  # cut by the border
    assert coco["categories"][0]["keypoints"] == list(NAMES)
    assert [(a - 1, b - 1) for a, b in coco["categories"][0]["skeleton"]] == list(COCO_PERSON.limbs)


def figure() -> stick_figures._Canvas:
    """A canvas with one whole figure in its middle."""
    rng = np.random.default_rng(3)
    canvas = stick_figures._Canvas(np.full((640, 640, 3), 128, np.uint8))
    canvas.add(stick_figures._draw(random_body(rng, 300, np.full(2, 320.0)), stick_figures._palette(rng, np.zeros(3))))
    return canvas


def covered(canvas: stick_figures._Canvas, x: float, y: float, half: int = 6) -> Seen:
    """What is seen with a block before this place of the canvas."""
    side = 2 * half
    canvas.add(stick_figures._Sprite(int(x) - half, int(y) - half, np.zeros((side, side, 3), np.uint8),
                                     np.ones((side, side), bool)))
    return canvas.seen(0)


def test_a_block_hides_the_point_behind_it() -> None:
    before = figure().seen(0).keypoints
    assert (before[5:, 2] > 0).all()  # all but what a head hides
    for number in np.flatnonzero(before[:, 2] == 2).tolist():
        after = covered(figure(), *(2 * before[number, :2])).keypoints
        assert after[number].tolist() == [*before[number, :2], 1]
        far = np.abs(before[:, :2] - before[number, :2]).max(axis=1) > 4
        assert np.array_equal(after[far], before[far])


def test_a_block_cuts_its_pixels_out_of_the_mask() -> None:
    canvas = figure()
    whole = sum(stick_figures.cv2.contourArea(polygon) for polygon in canvas.seen(0).polygons)
    assert whole == canvas.sprites[0].mask.sum() / 4
    x, y = canvas.sprites[0].points[NAMES.index("left_shoulder")]
    hidden = canvas.figure_index[int(y) - 6 : int(y) + 6, int(x) - 6 : int(x) + 6] == 0
    polygons = covered(canvas, x, y).polygons
    assert sum(stick_figures.cv2.contourArea(polygon) for polygon in polygons) == whole - hidden.sum() / 4


def test_what_leaves_the_image_is_not_labelled() -> None:
    rng = np.random.default_rng(3)
    canvas = stick_figures._Canvas(np.full((640, 640, 3), 128, np.uint8))
    body = random_body(rng, 300, np.array((320.0, 620.0)))
    canvas.add(stick_figures._draw(body, stick_figures._palette(rng, np.zeros(3))))
    keypoints = canvas.seen(0).keypoints
    inside = body.points[:, 1] < 640
    assert 0 < inside.sum() < 17
    inside &= np.array([bool(owners) for owners in body.owners])  # not behind the own head
    assert np.array_equal(keypoints[:, 2] > 0, inside)
    assert np.allclose(keypoints[inside, :2], body.points[inside] / 2)
    assert np.concatenate(canvas.seen(0).polygons)[:, 1].max() == 320


def test_enough_of_everybody_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    canvases: list[stick_figures._Canvas] = []

    class Kept(stick_figures._Canvas):
        def __init__(self, pixels: np.ndarray) -> None:
            super().__init__(pixels)
            canvases.append(self)

    monkeypatch.setattr(stick_figures, "_Canvas", Kept)
    hidden = 0
    for index in range(10):
        paint(0, "train", index)
        canvas = canvases.pop()
        for number, sprite in enumerate(canvas.sprites):
            visible = (canvas.figure_index == number).sum()
            assert visible == canvas.visible[number]
            assert visible >= MIN_VISIBLE * sprite.mask.sum()
            hidden += int(visible < 0.9 * sprite.mask.sum())
    assert hidden >= 5


# --- annotations -------------------------------------------------------------------------------------------------


def test_boxes_and_areas_are_those_of_the_polygons(people: Path) -> None:
    for item in content(people)["annotations"]:
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in item["segmentation"]])
        low, high = points.min(axis=0), points.max(axis=0)
        assert item["bbox"] == [*low, *(high - low)]
        assert 0.1 * item["bbox"][2] * item["bbox"][3] < item["area"] <= item["bbox"][2] * item["bbox"][3]


def test_pycocotools_scores_the_truth_as_perfect(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO(str(people / "annotations" / "val.json"))
    found = coco.loadRes([{"image_id": item["image_id"], "category_id": 1, "score": 1.0, "keypoints": item["keypoints"]}
                          for item in coco.dataset["annotations"]])
    scored = COCOeval(coco, found, "keypoints")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    capsys.readouterr()
    assert scored.stats[0] == pytest.approx(1)
    for item in coco.dataset["annotations"]:
        assert coco.annToMask(item).sum() == pytest.approx(item["area"], rel=0.15)


def test_the_set_is_opened_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate, "__defaults__", (3, 2, 0))
    source = open_data("stick-figures")
    assert source.names == ("person",)
    train_set = open_split(source, "train", training=True)
    assert (tmp_path / "datasets" / "stick-figures" / "images" / "train").is_dir()
    assert not train_set.faults
    assert train_set.keypoint_layout == COCO_PERSON
    labelled = [seen.keypoints for index in range(3) for seen in paint(0, "train", index)[1]]
    assert np.allclose(train_set.objects.keypoints, labelled, atol=0.006)


def test_a_mirrored_image_is_as_right_as_the_image(people: Path) -> None:
    train_set = open_split(open_data(str(people)), "train")
    agreed, total = 0, 0
    for index in range(len(train_set)):
        image = load_image(train_set.paths[index])
        sample = Sample(image, train_set.objects_of(index), ImageMeta(train_set.paths[index]))
        for seen in (sample, flip(sample, "horizontal", COCO_PERSON.flip)):
            points = seen.objects.keypoints
            eyes_and_shoulders = points[:, [1, 2, 5, 6], 2]
            faces = (eyes_and_shoulders[:, :2] == 2).all(1) & (eyes_and_shoulders > 0).all(1)  # seen from the front
            agreed += int((points[faces, 5, 0] > points[faces, 6, 0]).sum())
            total += int(faces.sum())
    assert total > 30 and agreed == total

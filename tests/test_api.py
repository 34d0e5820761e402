"""Detection from Python: every kind of image, the results, several threads."""

from __future__ import annotations

import copy
import io
import json
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import Forks
from PIL import Image

import yolov7
from yolov7 import api, cli
from yolov7.config import InputError
from yolov7.data.any_image import to_array
from yolov7.data.images import cv2, decode_image, load_image
from yolov7.data.video import VideoWriter
from yolov7.inference.network import TorchNetwork
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec

NAMES = ("cat", "dog", "person")
CONF = 0.02


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    torch.manual_seed(5)
    model = Detector(read_spec(str(Path(__file__).parents[0] / "micro.yaml")), len(NAMES))
    for conv in model.head.convs:  # it finds a lot
        conv.bias.data.view(3, -1)[:, 4:] += 4 + torch.randn(3, 1 + len(NAMES))
    weights.save(weights.describe(model, NAMES, 96) | {"model": model.state_dict(), "epoch": 0}, path)
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "noise.png"
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (160, 120)))
    return path


@pytest.fixture(scope="module")
def model(best: Path) -> yolov7.Model:
    return yolov7.load(best, device="cpu", precision="fp32")


def same(a: yolov7.ImageResult, b: yolov7.ImageResult) -> bool:
    return torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and torch.equal(a.labels, b.labels)


def test_every_kind_of_image_gives_the_same(model: yolov7.Model, image: Path) -> None:
    found = model(image, conf=CONF)
    array = load_image(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    assert len(found) > 20 and found.names == NAMES and found.path == str(image)
    content = image.read_bytes()
    kinds = [str(image), array, Image.open(image), Image.open(image).convert("RGBA"), tensor, tensor / 255, content,
             bytearray(content)]
    for kind in kinds:
        assert same(model(kind, conf=CONF), found), type(kind)
    assert all(same(one, found) for one in model(kinds, conf=CONF))
    with image.open("rb") as file:
        assert same(model(file, conf=CONF), found) and same(model(io.BytesIO(content), conf=CONF), found)
    batch = model(torch.stack((tensor, tensor)), conf=CONF)
    assert len(batch) == 2 and same(batch[1], found)
    assert model([]) == []


def test_detection_from_the_command_line_finds_the_same(model: yolov7.Model, best: Path, image: Path,
                                                        tmp_path: Path) -> None:
    assert cli.main(["detect", "--weights", str(best), "--source", str(image), "--project", str(tmp_path), "--device",
                     "cpu", "--conf-thres", str(CONF), "--precision", "fp32", "--save-json"]) == 0
    (expected,) = json.loads((tmp_path / "exp" / "detections.json").read_text())
    assert json.loads(model(image, conf=CONF).to_json()) == expected


def test_options_of_a_call(model: yolov7.Model, image: Path) -> None:
    every = model(image, conf=CONF)
    some = model(image, conf=CONF, classes=["dog", 2])
    assert set(some.labels.tolist()) <= {1, 2} and 0 < len(some) < len(every)
    assert len(model(image, conf=CONF, max_det=3)) == 3
    assert len(model(image, conf=CONF, iou=0.1)) < len(model(image, conf=CONF, iou=0.9))
    assert len(model(image, conf=CONF, iou=0.1, agnostic=True)) < len(model(image, conf=CONF, iou=0.1))
    assert not torch.equal(model(image, conf=CONF, size=192).boxes, every.boxes)


def test_results(model: yolov7.Model, image: Path, tmp_path: Path) -> None:
    found = model(image, conf=CONF)
    drawn = found.plot(tmp_path / "found.png")
    assert drawn.shape == found.image.shape == (120, 160, 3) and (drawn != found.image).any()
    assert np.array_equal(load_image(tmp_path / "found.png"), drawn)
    record = json.loads(found.to_json())
    assert record["width"] == 160 and len(record["detections"]) == len(found)
    pandas = pytest.importorskip("pandas")
    table = found.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
    assert len(table) == len(found) and table["name"][0] == NAMES[found.labels[0]]
    assert list(model(image, conf=1).to_pandas().columns) == list(table.columns)


def test_a_result_prints_as_a_table(model: yolov7.Model, image: Path) -> None:
    found = model(image, conf=CONF)
    lines = repr(found).splitlines()
    assert len(found) > 20 and lines[0].endswith(f"noise.png: 160 x 120 pixels, {len(found)} detections")
    assert lines[1].split() == ["name", "score", "xmin", "ymin", "xmax", "ymax"]
    box = [f"{x:.0f}" for x in found.boxes[0].tolist()]
    assert lines[2].split() == [NAMES[found.labels[0]], f"{found.scores[0]:.2f}", *box]
    assert lines[-1] == f"  ... and {len(found) - 20} more" and len(lines) == 23
    assert len(set(map(len, lines[1:-1]))) == 1  # one below the other
    assert repr(found[:2]).splitlines() == [lines[0].replace(str(len(found)), "2"), *repr(found[:2]).splitlines()[1:]]
    assert repr(found[:0]).endswith("noise.png: 160 x 120 pixels, nothing found")
    assert repr(replace(found[:1], path="")).startswith("image: 160 x 120 pixels, 1 detection\n")


def test_a_table_holds_whatever_a_model_says(model: yolov7.Model, image: Path) -> None:
    found = model(image, conf=CONF)[:2]
    odd = replace(found, names=("a\nb\x1b", "x" * 99, "\ud800"), boxes=found.boxes * float("nan"), path="p" * 99,
                  labels=torch.tensor([7, 1]), extra={"angle": torch.zeros(2)}, frame=3)
    text = repr(odd)
    assert "ppp, frame 3: 160 x 120 pixels, 2 detections, also angle" in text and "nan" in text
    assert max(map(len, text.splitlines())) < 120 and text.isprintable() is False and text.count("\n") == 3
    assert "a\\x0ab\\x1b" in repr(replace(odd, labels=torch.tensor([0, 0])))


def test_a_notebook_shows_the_image(model: yolov7.Model, image: Path) -> None:
    found = model(image, conf=CONF)
    png = found._repr_png_()
    assert png is not None and np.array_equal(decode_image(png, "it"), found.plot())
    large = model(cv2.resize(found.image, (2000, 1001)), conf=CONF)._repr_png_()
    assert large is not None and decode_image(large, "it").shape == (601, 1200, 3)
    assert yolov7.ImageResult(found.boxes, found.scores, found.labels, NAMES)._repr_png_() is None


def test_several_results_print_as_a_table(model: yolov7.Model, image: Path) -> None:
    every = model([image] * 25, conf=CONF)
    assert isinstance(every, list) and isinstance(every, yolov7.Results)
    lines = repr(every).splitlines()
    assert lines[0] == f"25 images, {25 * len(every[0])} detections" and lines[-1] == "  ... and 5 more"
    counts = Counter(NAMES[label] for label in every[0].labels).most_common()
    assert lines[2].endswith(f"noise.png  160 x 120  {', '.join(f'{count} {name}' for name, count in counts)}")
    assert isinstance(every[:2], yolov7.Results) and same(every[:2][1], every[1])
    assert repr(model([])) == "0 images, 0 detections"
    assert repr(model([image], conf=1)).endswith("nothing")
    assert [json.loads(one.to_json()) for one in every] == json.loads(every.to_json())
    pytest.importorskip("pandas")
    some = yolov7.Results([every[0], model(image, conf=1), every[1]])
    table = some.to_pandas()
    assert list(table.columns) == ["image", "path", *every[0].to_pandas().columns]
    assert table["image"].tolist() == [0] * len(every[0]) + [2] * len(every[0])
    assert set(table["path"]) == {str(image)} and table["confidence"][0] == every[0].scores[0]
    for nothing in (yolov7.Results(), yolov7.Results([model(image, conf=1)])):
        assert len(nothing.to_pandas()) == 0 and list(nothing.to_pandas().columns) == list(table.columns)


def test_detections_of_supervision(model: yolov7.Model, image: Path) -> None:
    supervision = pytest.importorskip("supervision")
    found = replace(model(image, conf=CONF), extra={"angle": torch.arange(len(model(image, conf=CONF)))})
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections) and len(theirs) == len(found) > 20
    assert np.array_equal(theirs.xyxy, found.boxes.numpy()) and np.array_equal(theirs.class_id, found.labels.numpy())
    assert np.array_equal(theirs.confidence, found.scores.numpy())
    assert theirs.data["class_name"].tolist() == [NAMES[label] for label in found.labels]
    assert theirs.data["angle"].tolist() == list(range(len(found)))
    dogs = theirs[theirs.data["class_name"] == "dog"]
    assert set(dogs.class_id) == {1}
    drawn = supervision.BoxAnnotator().annotate(found.image.copy(), theirs)
    assert (drawn != found.image).any()
    nothing = model(image, conf=1).to_supervision()
    assert len(nothing) == 0 and nothing.xyxy.shape == (0, 4)
    assert len(supervision.Detections.merge([theirs, found.to_supervision()])) == 2 * len(found)


def test_supervision_is_asked_for_where_it_is_missing(model: yolov7.Model, image: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match=r"pip install 'yolov7-framework\[supervision\]'"):
        model(image).to_supervision()


# --- sources -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(image: Path, tmp_path: Path) -> Path:
    """Images, a video, and what is neither."""
    for name in ("c.png", "a.PNG", "b1.png"):
        (tmp_path / name).write_bytes(image.read_bytes())
    (tmp_path / "b.jpg").write_bytes(b"no image")
    (tmp_path / "notes").write_text("text")
    with VideoWriter(tmp_path / "clip.mp4", 10, 160, 120) as writer:
        for brightness in (20, 200, 90):
            writer.write(np.full((120, 160, 3), brightness, np.uint8))
    return tmp_path


def test_a_folder_is_its_images_in_the_order_of_detection(folder: Path, model: yolov7.Model, image: Path,
                                                          caplog: pytest.LogCaptureFixture) -> None:
    expected = model(image, conf=CONF)
    with caplog.at_level("INFO", "yolov7"):
        found = model(folder, conf=CONF)
    assert isinstance(found, yolov7.Results)
    assert [Path(one.path).name for one in found] == ["a.PNG", "b1.png", "c.png"]
    assert all(same(one, expected) for one in found)
    left_out, videos, fault = caplog.messages
    assert "1 of 6 entries are left out" in left_out and left_out.endswith(": notes")
    assert videos == f"{str(folder)!r}: videos are left out (1); model.stream() takes them, too"
    assert fault == f"{folder / 'b.jpg'}: not an image that can be read; accepted: BMP, JPEG, MPO, PNG, TIFF, WEBP"
    globbed = model(f"{folder}/*.png", conf=CONF)
    assert [Path(one.path).name for one in globbed] == ["b1.png", "c.png"]
    one = model(str(folder / "c*.png"), conf=CONF)
    assert isinstance(one, yolov7.Results) and len(one) == 1


def test_a_file_that_is_named_like_a_glob_is_one_image(image: Path, tmp_path: Path, model: yolov7.Model) -> None:
    path = tmp_path / "shot [1].png"
    path.write_bytes(image.read_bytes())
    assert isinstance(model(path), yolov7.ImageResult)


def test_sources_without_images_are_explained(folder: Path, model: yolov7.Model) -> None:
    (folder / "empty").mkdir()
    for source, message in ((folder / "empty", "^source '.*empty': the folder holds no image or video"),
                            (folder / "*.bmp", r"^source '.*\*.bmp': the pattern matches no image or video"),
                            (folder / "*.mp4", r"^source '.*': holds videos alone; accepted: images \(model.stream"),
                            ([folder], "is not a regular file; accepted: an image, a folder alone, or a list")):
        with pytest.raises(InputError, match=message):
            model(source)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^model.stream\(\), source: found a list; accepted: a path, an address"):
        model.stream([folder])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^model.stream\(\), conf: "):
        model.stream(folder, conf=2)  # before anything is opened
    with pytest.raises(InputError, match="^source 'nowhere.jpg': no such file"):
        next(model.stream("nowhere.jpg"))


def test_a_stream_of_results(folder: Path, model: yolov7.Model, image: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = list(model.stream(folder, conf=CONF))
    assert [(Path(one.path).name, one.frame, one.seconds) for one in found] == [
        ("a.PNG", 0, None), ("b1.png", 0, None), ("c.png", 0, None),
        ("clip.mp4", 1, 0.0), ("clip.mp4", 2, 0.1), ("clip.mp4", 3, 0.2)]
    assert same(found[0], model(image, conf=CONF))
    assert [round(one.image.mean(), -1) for one in found[3:]] == [20, 200, 90]
    assert json.loads(found[4].to_json())["seconds"] == 0.1 and "seconds" not in json.loads(found[0].to_json())
    assert "clip.mp4, frame 2: 160 x 120 pixels" in repr(found[4])
    assert "b.jpg: not an image" in caplog.text
    early = model.stream(folder / "clip.mp4", conf=CONF)
    next(early)
    early.close()  # type: ignore[attr-defined]


def test_results_of_many_large_images_are_said_to_keep_them(folder: Path, model: yolov7.Model,
                                                            monkeypatch: pytest.MonkeyPatch,
                                                            caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(api, "MANY_BYTES", 100_000)
    model(folder)
    assert sum("the results keep their images" in message for message in caplog.messages) == 1


def test_an_address_is_an_image_too(image: Path, model: yolov7.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    handler = partial(SimpleHTTPRequestHandler, directory=str(image.parent))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{image.name}"
        found, several = model(f"{url}?token=geheim", conf=CONF), model([url, image], conf=CONF)
        with pytest.raises(InputError, match=r"the server answers 404 \(Not Found\)"):
            model(f"{url}x")
        server.shutdown()
    assert same(found, model(image, conf=CONF)) and found.path == f"{url}?token=***"
    assert all(same(one, found) for one in several)
    with pytest.raises(InputError, match="found the scheme 'rtsp'"):
        model("rtsp://127.0.0.1/camera")


# --- other programs, other processes -----------------------------------------------------------------------------


def test_pandas_is_asked_for_where_it_is_missing(model: yolov7.Model, image: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        model(image).to_pandas()


def test_several_threads_find_what_one_finds(model: yolov7.Model) -> None:
    rng = np.random.default_rng(3)
    images = [cv2.resize(rng.integers(0, 255, (9, 12, 3), np.uint8), (64 + 8 * (i % 5), 64)) for i in range(24)]
    expected = [model(image, conf=CONF) for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: model(image, conf=CONF), images))
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(("wrong", "message"), [
    ("nowhere.jpg", "nowhere.jpg: cannot be read"),
    (np.zeros((4, 4, 3)), r"an array float64 \[4, 4, 3\]; accepted: uint8"),
    (np.zeros((4, 4), np.uint8), r"an array uint8 \[4, 4\]"),
    (torch.zeros(4, 4), r"a tensor \[4\]|a tensor \[4, 4\]"),
    (torch.full((3, 4, 4), 7.0), "floats from 7 to 7; accepted: 0 to 1"),
    (torch.zeros(3, 4, 4, dtype=torch.int64), "a tensor of torch.int64"),
    ([3], "found a int; accepted: a path"),
    (3, "found a int; accepted: a path"),
    ({"a": 1}, "found a dict; accepted: a path"),
    (io.StringIO("a"), "found a StringIO; accepted: a path"),
    (b"", "the image's bytes: the file is empty"),
    (io.BytesIO(b"junk"), "the image's bytes: not an image that can be read"),
    (torch.zeros(3, 4, 4, device="meta"), "holds no values"),
    (torch.zeros(3, 4, 4).to_sparse(), "accepted: a dense one"),
    (Image.new("F", (4, 4)), "PIL image of mode F, whose range is not known"),
    ("a\0b", "with a NUL character"),
    ("x" * 300, "a name of 300 bytes; accepted: up to 255"),
    ("/dev/null", "/dev/null: is not a regular file"),
])
def test_what_is_no_image_is_explained(wrong: object, message: str, model: yolov7.Model) -> None:
    with pytest.raises(InputError, match=message):
        model(wrong)  # type: ignore[arg-type]


def test_options_that_do_not_fit_are_explained(model: yolov7.Model, image: Path) -> None:
    with pytest.raises(InputError, match=r"^classes: unknown class 'cow'"):
        model(image, classes=["cow"])
    with pytest.raises(InputError, match="no such file"):
        yolov7.load("nowhere.pt")


@pytest.mark.untraced
@pytest.mark.usefixtures("forked_comparisons")
def test_an_exported_file_is_a_model_too(best: Path, image: Path, model: yolov7.Model, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert cli.main(["export", "--weights", str(best), "--format", "onnx", "--source", str(image), "--output",
                     str(tmp_path), "--img-size", "96", "96", "--batch-size", "2"]) == 0
    exported = yolov7.load(tmp_path / "best.onnx")
    assert exported.names == NAMES
    array = load_image(image)[:, :120]  # square, as the exported input
    every = {"conf": 0.3, "iou": 1.0, "max_det": 3000}  # nearly equal scores may change places in NMS
    expected, found = model(array, **every), exported([array] * 3, **every)
    assert len(found) == 3 and len(expected) > 20
    for one in found:
        assert len(one) == len(expected)
        apart = (one.boxes[:, None] - expected.boxes).abs().amax(-1) + 1e6 * (one.labels[:, None] != expected.labels)
        assert apart.amin(1).max() < 1e-2
    assert same(pickle.loads(pickle.dumps(exported))(array, **every), found[0])
    with ThreadPoolExecutor(4) as pool:
        assert all(same(one, found[0]) for one in pool.map(lambda _: exported(array, **every), range(8)))


def test_importing_the_package_is_light() -> None:
    code = "import sys, yolov7; assert 'torch' not in sys.modules; yolov7.__version__"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        yolov7.lod  # noqa: B018


def test_the_old_name_of_results_still_works() -> None:
    with pytest.warns(DeprecationWarning, match=r"yolov7.PictureDetections is now yolov7.ImageResult; the old name"):
        old = yolov7.PictureDetections
    assert old is yolov7.ImageResult
    with pytest.warns(DeprecationWarning, match="PictureDetections"):
        from yolov7 import PictureDetections  # noqa: F401


@pytest.mark.parametrize(("arguments", "message"), [
    ({"device": 7}, r"^device '7': not on this machine; accepted: cpu"), ({"device": torch.device("meta")}, "'meta'"),
    ({"device": True}, r"^load\(\), device: found a switch"),
    ({"precision": "half"}, r"precision: found 'half'; .* fp16"),
    ({"precision": np.array([1, 2])}, "precision: found"), ({"augment": "yes"}, "augment: found a text"),
    ({"cfg": 5}, "cfg: found a whole number"),
    ({"half_decode": True, "precision": "fp32"}, "^half_decode: .*with precision"),
    ({"weights": None}, "weights"), ({"weights": b"x.pt"}, "weights"),
    ({"weights": "x" * 300}, "weights: .*300 bytes"),
    ({"weights": "a\0.pt"}, "weights: .*NUL")])
def test_arguments_of_load_are_checked_like_flags(arguments: dict[str, object], message: str, best: Path) -> None:
    with pytest.raises(yolov7.InputError, match=message) as caught:
        yolov7.load(**({"weights": best} | arguments))  # type: ignore[arg-type]
    assert "--" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused_by_its_number(best: Path) -> None:
    with pytest.raises(yolov7.InputError, match="^device '0': not on this machine; accepted: cpu"):
        yolov7.load(best, device=0)


@pytest.mark.parametrize("arguments", [
    {"size": (192, 192)}, {"size": -5}, {"size": 0}, {"size": 192.0}, {"size": True}, {"max_det": -1}, {"max_det": 1.5},
    {"classes": []}, {"classes": [0.5]}, {"classes": [True]}, {"conf": 2}, {"conf": float("nan")}, {"conf": None},
    {"iou": -0.1}, {"iou": [1]}, {"agnostic": "x"}], ids=str)
def test_arguments_of_a_call_are_checked_like_flags(arguments: dict[str, object], model: yolov7.Model,
                                                    image: Path) -> None:
    with pytest.raises(yolov7.InputError, match=rf"^model\(\), {next(iter(arguments))}(\[0\])?: ") as caught:
        model(image, **arguments)  # type: ignore[arg-type]
    assert "--" not in str(caught.value)


def test_what_python_programs_have_for_devices_and_numbers(best: Path, model: yolov7.Model, image: Path) -> None:
    for device in (torch.device("cpu"), None) if not torch.cuda.is_available() else (torch.device("cpu"),):
        assert yolov7.load(best, device=device, precision="fp32").names == NAMES  # type: ignore[arg-type]
    expected = model(image, conf=CONF, size=192, classes=["dog"])
    assert same(model(image, conf=np.float64(CONF), size=np.int64(192), classes="dog"), expected)  # type: ignore[arg-type]
    for one in (1, [1], (1,), np.array([1]), torch.tensor(1)):
        assert same(model(image, conf=CONF, size=192, classes=one), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(("path", "message"), [
    ("x.xyz", r"'x.xyz'; accepted: a name that ends with .jpg"), ("nodir/x.png", "the folder 'nodir' is not there"),
    ("x" * 300 + ".png", "a name of 304 bytes"), ("a\0.png", "NUL"), ("d.png", "a folder"), (b"x.png", "a bytes"),
    ("\ud800.png", "characters that no name of a file can hold")])
def test_where_a_plot_cannot_go(path: object, message: str, model: yolov7.Model, image: Path, tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.png").mkdir()
    with pytest.raises(yolov7.InputError, match=rf"^plot\(\), path: found .*{message}"):
        model(image).plot(path)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["d.png"]


PIL_KINDS = {
    "16.png": lambda rgb: Image.fromarray(rgb[..., 0].astype(np.uint16) * 257 + 31),
    "16.tif": lambda rgb: Image.fromarray(rgb[..., 0].astype(np.uint16) * 257 + 31),
    "grey.png": lambda rgb: Image.fromarray(rgb).convert("L"),
    "bits.png": lambda rgb: Image.fromarray(rgb).convert("1"),
    "palette.png": lambda rgb: Image.fromarray(rgb).quantize(64),
    "la.png": lambda rgb: Image.fromarray(rgb).convert("LA"),
    "rgba.png": lambda rgb: Image.fromarray(np.dstack((rgb, rgb[..., :1]))),
    "cmyk.jpg": lambda rgb: Image.fromarray(rgb).convert("CMYK"),
    "cmyk.tif": lambda rgb: Image.fromarray(rgb).convert("CMYK")}


@pytest.mark.parametrize("name", PIL_KINDS)
def test_a_pil_image_is_what_its_file_is(name: str, image: Path, tmp_path: Path) -> None:
    PIL_KINDS[name](load_image(image)).save(tmp_path / name)
    expected, (found, path) = load_image(tmp_path / name), to_array(Image.open(tmp_path / name))
    assert np.array_equal(found, expected) and path == "" and expected.std() > 20


FORK = """
import os, signal, sys
import numpy as np, torch, yolov7
torch.set_num_threads(2)
model = yolov7.load(sys.argv[1], device="cpu", precision="fp32")
image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
if sys.argv[2] == "forward":
    model(image, size=320)
pid = os.fork()
if pid == 0:
    signal.alarm(20)  # ends a process that hangs
    model(image, size=320)
    assert torch.get_num_threads() == 1
    os._exit(0)
assert torch.get_num_threads() == 2
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@pytest.mark.parametrize("before", ["load", "forward"])
def test_a_forked_process_finds_what_it_is_asked_for(before: str, forks: Forks, tmp_path: Path) -> None:
    """At this size OpenMP shares the work out to threads, which do not come along."""
    model = Detector(read_spec("yolov7-tiny"), 3)
    weights.save(weights.describe(model, NAMES, 320) | {"model": model.state_dict(), "epoch": 0}, tmp_path / "w.pt")
    done = forks.run([sys.executable, "-c", FORK, tmp_path / "w.pt", before],
                     {**os.environ, "OMP_NUM_THREADS": "2"}, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_gpu_in_a_forked_process_is_explained(model: yolov7.Model, image: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.network, "device", torch.device("cuda"))
    monkeypatch.setattr(model, "_process", os.getpid() + 1)
    with pytest.raises(yolov7.RunError, match="a GPU cannot be used in a process that was forked .* 'spawn'"):
        model(image)


@pytest.mark.parametrize("name", ["best.onnx", "best.torchscript", "best.xml"])
def test_exported_models_travel_to_other_processes(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip({".onnx": "onnxruntime", ".xml": "openvino"}.get(Path(name).suffix, "torch"))
    folder = Path(__file__).parent / "compat"
    monkeypatch.chdir(folder)
    model = yolov7.load(name)
    packed = pickle.dumps(model)
    monkeypatch.chdir(tmp_path)
    assert same(pickle.loads(packed)(folder / "picture.jpg"), model(folder / "picture.jpg"))


def test_models_of_weights_and_results_travel_to_other_processes(best: Path, image: Path) -> None:
    expected = yolov7.load(best, device="cpu", precision="fp32")(image, conf=CONF)
    for options in ({}, {"augment": True}, {"precision": "bf16"}):
        model = yolov7.load(best, device="cpu", **({"precision": "fp32"} | options))  # type: ignore[arg-type]
        packed = pickle.dumps(model)
        best.rename(best.with_suffix(".away"))  # nothing is read again
        try:
            assert same(pickle.loads(packed)(image, conf=CONF), model(image, conf=CONF))
        finally:
            best.with_suffix(".away").rename(best)
    both = yolov7.load([best, best], device="cpu", precision="fp32")
    assert same(pickle.loads(pickle.dumps(both))(image, conf=CONF), both(image, conf=CONF))
    for result in (expected, pickle.loads(pickle.dumps(expected))):
        assert same(result, expected) and np.array_equal(result.plot(), expected.plot()) and result.path == str(image)
    several = pickle.loads(pickle.dumps(yolov7.Results([expected] * 2)))
    assert isinstance(several, yolov7.Results) and repr(several) == repr(yolov7.Results([expected] * 2))


def test_a_compiled_model_compiles_anew_over_there(best: Path) -> None:
    model = yolov7.load(best, device="cpu", precision="fp32")
    network = TorchNetwork(model.network.model, torch.device("cpu"), info=model.network.info)  # type: ignore[attr-defined]
    compiled = pickle.loads(pickle.dumps(network))
    assert compiled.forward is compiled.model
    network._compiled = True
    network._make_ready()
    there = pickle.loads(pickle.dumps(network))
    assert there.forward is not there.model and there.forward is not network.forward  # compiled when it is called
    grey = torch.full((1, 3, 96, 96), 0.5)
    assert torch.equal(there.model(grey).levels[0], network.model(grey).levels[0])


def test_pickling_for_another_process_moves_no_memory(best: Path, image: Path) -> None:
    """PyTorch's own way moves it under threads that compute with it, and keeps a file open for each tensor."""
    model = yolov7.load(best, device="cpu", precision="bf16")
    weights = list(model.network.model.parameters())  # type: ignore[attr-defined]
    found = model(image, conf=CONF)
    count = len(found)
    found = replace(found, extra={"mask": torch.zeros(count, 0, dtype=torch.bool), "b": torch.ones(count)})
    packed, result = (bytes(ForkingPickler.dumps(each)) for each in (model, found))
    columns = [found.boxes, found.scores, found.labels]
    assert not any(tensor.is_shared() for tensor in (*weights, *columns))
    there = pickle.loads(packed)
    for one, other in zip(weights, there.network.model.parameters(), strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype and one.stride() == other.stride()
        assert type(other) is torch.nn.Parameter and one.data_ptr() != other.data_ptr()
    assert same(pickle.loads(result), found) and pickle.loads(result).extra["mask"].shape == (count, 0)
    for copied in (copy.deepcopy(model), copy.copy(model)):
        assert same(copied(image, conf=CONF), found)
    assert same(copy.copy(found), found) and same(copy.deepcopy(found), found)


@pytest.mark.untraced
def test_spawned_processes_and_threads_find_the_same(model: yolov7.Model, image: Path) -> None:
    """scripts/soak_predictions.py does so a thousand times."""
    expected = model(image, conf=CONF)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as workers, ThreadPoolExecutor(4) as threads:
        found = [pool.submit(model, image, CONF) for pool in (workers, threads) for _ in range(12)]
        assert all(same(one.result(120), expected) for one in found)


def test_the_log_of_a_program_is_its_own(model: yolov7.Model, image: Path) -> None:
    before = list(logging.getLogger().handlers)
    model(image)
    assert logging.getLogger().handlers == before and logging.getLogger("yolov7").handlers == []

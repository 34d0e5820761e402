"""Detection from Python: every kind of image, the results, several threads."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import Forks
from PIL import Image

import yolov7
from yolov7 import cli
from yolov7.config import InputError
from yolov7.data.any_image import to_array
from yolov7.data.images import cv2, load_image
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


def test_the_log_of_a_program_is_its_own(model: yolov7.Model, image: Path) -> None:
    before = list(logging.getLogger().handlers)
    model(image)
    assert logging.getLogger().handlers == before and logging.getLogger("yolov7").handlers == []

"""Exported files give what PyTorch gives; what does not is a failure."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import Forks
from golden_numbers import golden_state_dict
from onnx_files import check_file, check_outputs

import yolov7
from yolov7 import cli
from yolov7.config import InputError
from yolov7.config.options import NetworkOptions
from yolov7.data.images import cv2, load_image
from yolov7.exporting import nms_graph, run, tensorrt
from yolov7.inference.exported import open_openvino
from yolov7.inference.loading import load_network
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.reparam import is_fused
from yolov7.model.spec import ModelSpec, parse_spec, read_spec

pytestmark = pytest.mark.usefixtures("forked_comparisons")

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "coco-mini" / "images" / "val2017"
NAMES = ("cat", "dog", "person")
MODELS = {  # gains of the golden weights, for which scores do not pile up at 1
    "yolov7-tiny": 0.9, "yolov7": 1.0, "yolov7-w6": 1.0, "yolov7-e6e": 1.0,
}
SMALL, LARGE = (("128", "192"), ("96", "192")), (("64", "128"), ("64", "256"))  # the flag's size, and the second one
SIZES = {"yolov7-tiny": SMALL, "yolov7": SMALL, "yolov7-w6": LARGE, "yolov7-e6e": LARGE}  # by what they take to compute
FORMATS = ("weights", "torchscript", "onnx", "openvino")
ON_DEMAND = pytest.mark.skipif(not os.environ.get("YOLOV7_TEST_EXPORTS"), reason="takes minutes: YOLOV7_TEST_EXPORTS=1")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real images where they stand, else two of noise."""
    folder = tmp_path_factory.mktemp("images")
    for index, source in enumerate(sorted(REAL.glob("*.jpg"))[:2]):
        (folder / f"{index}.jpg").write_bytes(source.read_bytes())
    for index in range(2 - len(list(folder.iterdir()))):
        noise = np.random.default_rng(index).integers(0, 255, (12, 16, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(noise, (160, 120)))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that finds a lot, with scores all over their range."""
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    return save_random(read_spec(str(ROOT / "tests" / "micro.yaml")), path)


def save_random(spec: ModelSpec, path: Path) -> Path:
    torch.manual_seed(5)
    model = Detector(spec, len(NAMES))
    for weight in model.parameters():
        if weight.ndim == 4:
            torch.nn.init.kaiming_normal_(weight, nonlinearity="leaky_relu")
    weights.save(weights.describe(model, NAMES, 96) | {"model": model.state_dict(), "epoch": 0}, path)
    return path


def export(state: Path, images: Path, output: Path, *flags: str) -> int:
    return cli.main(["export", "--weights", str(state), "--source", str(images), "--output", str(output), *flags])


def parity(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*-parity.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# --- the paper's models ----------------------------------------------------------------------------------------


class Exports:
    """The models of this module, each exported once, in all formats by one command."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder, self.images = folder, images
        self.done: dict[str, dict[str, Any]] = {}

    def of(self, model: str) -> dict[str, Any]:
        if model not in self.done:
            folder = self.folder / model
            folder.mkdir()
            torch.save(golden_state_dict(f"{model}.training", MODELS[model]), folder / "golden.pt")
            assert export(folder / "golden.pt", self.images, folder, "--cfg", model, "--img-size", *SIZES[model][0],
                          "--dynamic", "--format", *FORMATS) in (0, 1)
            self.done[model] = parity(folder)
            for path in folder.iterdir():
                path.unlink()  # up to 2.5 GB a model
        return self.done[model]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Iterator[Exports]:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    yield Exports(tmp_path_factory.mktemp("models"), images)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("model", ["yolov7-tiny", *(pytest.param(model, marks=ON_DEMAND) for model in MODELS
                                                    if model != "yolov7-tiny")])
def test_export_parity(model: str, form: str, exports: Exports) -> None:
    """Training form = fused = exported, at two sizes, batches of 1 and 3, at least 50 detections an image."""
    result = exports.of(model)[form]
    assert result.get("error") is None
    assert [row["input"] for row in result["inputs"]] == [
        f"{batch}x{height}x{width}" for height, width in SIZES[model] for batch in (1, 3)]
    for row in result["inputs"]:
        assert row["detections"] >= 50 and row["unlike"] == 0
        assert row["boxes"] <= 1e-2 and row["scores"] <= 1e-4
    assert result["passed"]


@pytest.mark.untraced
def test_export_parity_of_four_levels_with_an_auxiliary_head(images: Path, tmp_path: Path) -> None:
    """What W6 and E6E have and the small model has not, in no time."""
    pytest.importorskip("onnxruntime")
    definition = read_spec(str(ROOT / "tests" / "micro.yaml")).definition
    auxiliary = {f"a{level}": {"block": "Conv", "from": f"p{level}", "out": 16} for level in (3, 4, 5, 6)}
    nodes = {"reorg": {"block": "ReOrg"}, **definition["nodes"], "stem": {"block": "Conv", "out": 8, "kernel": 3},
             "c6": {"block": "MaxDown", "from": "c5"}, "p6": {"block": "Conv", "out": 32, "kernel": 3}, **auxiliary}
    anchors = [*definition["head"]["anchors"], [[436, 615], [739, 380], [925, 792]]]
    head = {**definition["head"], "from": ["p3", "p4", "p5", "p6"], "auxiliary": list(auxiliary), "anchors": anchors}
    save_random(parse_spec({**definition, "nodes": nodes, "head": head}, "four levels"), tmp_path / "four.pt")
    assert export(tmp_path / "four.pt", images, tmp_path, "--img-size", "128", "--dynamic-batch", "--format",
                  "onnx") == 0
    for row in parity(tmp_path)["onnx"]["inputs"]:
        assert row["detections"] >= 50 and row["unlike"] == 0


# --- forms -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("flags", [
    ("--format", "onnx", "torchscript", "openvino", "--head", "raw", "--dynamic-batch", "--with-preprocess"),
    ("--format", "onnx", "openvino", "tensorrt", "--head", "end2end", "--dynamic", "--conf-thres", "0.3"),
    ("--format", "onnx", "openvino", "torchscript", "tensorrt", "--head", "end2end"),
    ("--format", "onnx", "torchscript", "openvino", "weights", "--fp16", "--batch-size", "2"),
    ("--format", "onnx", "openvino", "--head", "end2end", "--fp16", "--max-det", "20"),
], ids=lambda flags: " ".join(flags).replace("--", ""))
def test_export_forms_parity(flags: tuple[str, ...], small: Path, images: Path, tmp_path: Path,
                             capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    code = export(small, images, tmp_path, "--img-size", "96", "128", *flags)
    if "torchscript" in flags and "end2end" in flags:
        assert code == 2 and not list(tmp_path.iterdir())
        assert "--head end2end: not for --format torchscript" in capsys.readouterr().err
        return
    found = parity(tmp_path)
    assert code == 0, found
    formats = [name for name in run.FORMATS if name in flags]
    assert set(found) == set(formats)
    for name in formats:
        rows = found[name]["inputs"]
        assert [row["input"] for row in rows][:2] == ["1x96x128", "3x96x128"]
        assert len(rows) == (4 if "--dynamic" in flags or name == "weights" else 2)
        assert all(row["detections"] >= 50 and row["unlike"] == 0 for row in rows)
        if "--fp16" in flags and name != "weights":
            assert all(1e-4 < row["boxes"] < 2 for row in rows)
    for path in tmp_path.glob("*.onnx"):
        check_file(path, static=not any(flag.startswith("--dynamic") for flag in flags))
        if not path.name.endswith("-trt.onnx"):
            check_outputs(path, np.inf if "--fp16" in flags else 1e-4)  # half precision may order them otherwise


def test_export_weights_and_the_reference_layout_parity(images: Path, tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "golden.pt"
    torch.save(golden_state_dict("yolov7-tiny.training", 0.9), state)
    flags = ("--img-size", "64", "96")
    assert export(state, images, tmp_path / "out", "--cfg", "yolov7-tiny", "--format", "weights", "original",
                  *flags) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"golden-deploy.pt", "golden-original.pt",
                                                                    "golden-parity.json"}
    text = capsys.readouterr().out
    assert "written and equal to the model: weights, original" in text and "3x64x96" in text
    loaded = weights.load_model(tmp_path / "out" / "golden-deploy.pt")
    assert is_fused(loaded.model) and len(loaded.names) == 80
    content, theirs = torch.load(tmp_path / "out" / "golden-original.pt"), torch.load(state)
    ours = content["model"]
    read_back = weights.load_model(tmp_path / "out" / "golden-original.pt")  # needs no --cfg
    assert content["epoch"] == -1 and content["ema"] is None and read_back.names == loaded.names
    assert read_back.model.spec == loaded.model.spec and read_back.image_size == loaded.image_size
    assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    again = tmp_path / "again"
    assert export(tmp_path / "out" / "golden-deploy.pt", images, again, "--format", "original") == 2
    assert "is re-parameterized and has no original layout" in capsys.readouterr().err
    assert not again.exists()
    assert export(tmp_path / "out" / "golden-deploy.pt", images, again, "--format", "weights", *flags) == 0


EXPORT = """
import os, runpy, sys
from types import SimpleNamespace
from yolov7.exporting import parity, subprocess_runner

def run(command, **_):  # compares in a fork of this process, not in one that imports torch anew
    process = os.fork()
    if process == 0:
        try:
            sys.argv = command[2:]
            subprocess_runner.main()
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    return SimpleNamespace(returncode=os.waitstatus_to_exitcode(status), stderr="")

parity.subprocess = SimpleNamespace(run=run)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("forms", [("weights", "original", "onnx")], ids=" ".join)
def test_the_same_bytes_from_two_processes_and_folders(forms: tuple[str, ...], small: Path, images: Path,
                                                       tmp_path: Path, forks: Forks) -> None:
    pytest.importorskip("onnxruntime")
    made = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "w.pt").write_bytes(small.read_bytes())
        done = forks.run([sys.executable, "-c", EXPORT, str(ROOT / "export.py"), "--weights", "w.pt", "--source",
                          str(images), "--format", *forms, "--img-size", "64"], os.environ | {"PYTHONPATH": str(ROOT)},
                         folder)
        assert done.returncode == 0, done.stdout + done.stderr
        made.append({path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".pt", ".onnx")})
    assert set(made[0]) == {"w.pt", "w-deploy.pt", "w-original.pt", "w.onnx"}
    assert made[0] == made[1]


@pytest.mark.slow
def test_the_example_needs_onnx_runtime_and_numpy_alone(small: Path, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert export(small, images, tmp_path, "--format", "onnx", "--head", "end2end", "--with-preprocess", "--dynamic",
                  "--conf-thres", "0.3") == 0
    source = sorted(images.iterdir())[0]
    np.save(tmp_path / "image.npy", load_image(source))
    code = ("import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
            "assert not {'torch', 'cv2', 'PIL', 'yolov7'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "scripts" / "onnx_example.py"),
                           str(tmp_path / "small.onnx"), str(tmp_path / "image.npy")], cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    expected = yolov7.load(tmp_path / "small.onnx")(source, conf=0.3, iou=1.0)
    assert len(found) > 5 and abs(len(found) - len(expected)) <= 2  # its pixels differ by rounding
    near = 0
    for name, score, box in found:
        apart = (expected.boxes - torch.tensor(box)).abs().amax(1) + 1e6 * (expected.labels != NAMES.index(name))
        near += bool(apart.min() < 3 and abs(float(expected.scores[apart.argmin()]) - score) < 0.05)
    assert near >= 0.8 * len(found)


# --- what goes wrong -------------------------------------------------------------------------------------------


@pytest.mark.untraced
def test_nms_that_differs_is_a_failure(small: Path, images: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the network of the graph is right."""
    pytest.importorskip("onnxruntime")
    flags = ("--format", "onnx", "--head", "end2end", "--img-size", "64", "--conf-thres", "0.01")
    monkeypatch.setattr(nms_graph, "STANDARD", nms_graph.STANDARD.replace("{{{iou}}}", "{{0.9}}"))
    assert export(small, images, tmp_path, *flags) == 1
    (found,) = parity(tmp_path).values()
    assert all(row["boxes"] <= 1e-2 and row["scores"] <= 1e-4 and row["unlike"] > 0 for row in found["inputs"])


def test_a_graph_without_tensorrts_node_is_a_failure(small: Path, images: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(nms_graph, "TENSORRT", nms_graph.STANDARD)
    assert export(small, images, tmp_path, "--format", "tensorrt", "--head", "end2end", "--img-size", "64") == 1
    assert re.search("last node is .*; expected: .'network/boxes', 'network/scores'. -> EfficientNMS_TRT -> ",
                     parity(tmp_path)["tensorrt"]["error"])


def test_an_engine_is_told_beside_its_graph(small: Path, images: Path, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is built is named; one that cannot be built is a failure, and the graph stands as it was compared."""
    pytest.importorskip("onnxruntime")
    flags = ("--format", "tensorrt", "--head", "end2end", "--img-size", "64")
    monkeypatch.setattr(tensorrt, "write_engine", lambda path, half, static: path.with_suffix(".engine"))
    assert export(small, images, tmp_path, *flags) == 0
    assert parity(tmp_path)["tensorrt"]["engine"] == "small-trt.engine"

    def broken(path: Path, half: bool, static: bool) -> Path:
        raise RuntimeError(f"TensorRT cannot build an engine of {path}, static: {static}")

    monkeypatch.setattr(tensorrt, "write_engine", broken)
    assert export(small, images, tmp_path, *flags) == 1
    found = parity(tmp_path)["tensorrt"]
    assert not found["passed"] and found["error"].endswith("static: True") and found["inputs"][0]["passed"]


def test_comparisons_of_files_that_stand_there_are_kept(small: Path, images: Path, tmp_path: Path) -> None:
    for form in ("weights", "original", "weights"):
        assert export(small, images, tmp_path, "--format", form, "--img-size", "64") == 0
    assert set(parity(tmp_path)) == {"weights", "original"}
    (tmp_path / "small-original.pt").unlink()
    assert export(small, images, tmp_path, "--format", "weights", "--img-size", "64") == 0
    assert set(parity(tmp_path)) == {"weights"}


def test_a_comparison_of_few_detections_says_so(small: Path, images: Path, tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    assert export(small, images, tmp_path, "--format", "weights", "--img-size", "32") == 0
    assert re.search(r"weights: parity was checked on only \d+ detections an image \(50 recommended\); use --source",
                     capsys.readouterr().out)


@pytest.mark.parametrize(("flags", "message"), [
    (["--conf-thres", "0.5"], "--conf-thres: is for --head end2end; found --head decoded"),
    (["--dynamic", "--batch-size", "4"], "--batch-size 4: is for graphs of one batch; leave it out, or --dynamic"),
    (["--format", "weights", "--fp16"], "--fp16: not for --format weights; accepted: torchscript, onnx, openvino"),
    (["--img-size", "64", "96", "128"], "--img-size: found 3 numbers; accepted: height and width, or one"),
    (["--output", "FILE"], "cannot be made a folder: "),
])
def test_export_flags_that_do_not_go_together(small: Path, images: Path, tmp_path: Path, flags: list[str],
                                              message: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "file").touch()
    flags = [str(tmp_path / "file") if flag == "FILE" else flag for flag in flags]
    assert export(small, images, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and not (tmp_path / "out").exists()


def test_an_end_to_end_file_says_what_it_keeps(small: Path, images: Path, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert export(small, images, tmp_path, "--format", "onnx", "--head", "end2end", "--img-size", "64",
                  "--conf-thres", "0.4", "--max-det", "7") == 0
    model = yolov7.load(tmp_path / "small.onnx")
    text = ("NMS is built into this file; --conf-thres and --max-det cannot loosen it: at most 7 detections above 0.4, "
            "of one class up to IoU 0.45")
    assert text in "".join(capsys.readouterr())
    source = sorted(images.iterdir())[0]
    assert len(model(source, conf=0.01)) <= 7
    with pytest.raises(InputError, match="size 128: the exported file takes 64 x 64 alone"):
        model(source, size=128)


def test_a_file_that_differs_is_a_failure(small: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    deployed = run.deployed

    def spoiled(model: Detector) -> Detector:
        fused = deployed(model)
        fused.nodes["stem"].conv.bias.add_(0.1)  # type: ignore[union-attr, operator]
        return fused

    monkeypatch.setattr(run, "deployed", spoiled)
    assert export(small, images, tmp_path, "--format", "weights", "original") == 1
    text = capsys.readouterr().out
    assert "differs" in text and "written and equal to the model: original" in text
    found = parity(tmp_path)
    assert not found["weights"]["passed"] and found["original"]["passed"]


def test_a_format_that_fails_leaves_the_others(small: Path, images: Path, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setitem(run.WRITERS, "torchscript", (broken, ".torchscript"))
    assert export(small, images, tmp_path, "--format", "torchscript", "weights") == 1
    assert "torchscript: failed: no such operator" in capsys.readouterr().out
    assert (tmp_path / "small-deploy.pt").exists() and not list(tmp_path.glob("*.torchscript"))


@pytest.mark.parametrize(("flags", "message"), [
    (("--format", "coreml"), "--format: unknown format 'coreml'; accepted: weights, original, torchscript, onnx"),
    (("--format", "tensorrt"), "--format tensorrt: found --head decoded; accepted: --head end2end"),
    (("--source", "nowhere.jpg"), "nowhere.jpg"),
])
def test_flags_that_do_not_go_together(flags: tuple[str, ...], message: str, small: Path, images: Path,
                                       tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    assert export(small, images, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(small: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert export(small, images, tmp_path / "out", "--format", "openvino") == 2
    assert "--format openvino needs the package 'openvino': pip install 'yolov7-framework[export]'" in (
        capsys.readouterr().err)


def test_no_image_to_compare_on(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["export", "--weights", str(small), "--format", "weights", "--output", str(tmp_path / "out")]
    assert cli.main(flags) == 2
    assert "--source: needed for the comparison with PyTorch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_runtime_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, suffix in (("onnxruntime", ".onnx"), ("openvino", ".xml")):
        monkeypatch.setitem(sys.modules, package, None)
        (path := tmp_path / f"file{suffix}").touch()
        with pytest.raises(InputError, match=rf"file{suffix}: needs the package '{package}': pip install 'yolov7-fr"):
            load_network([path], torch.device("cpu"), NetworkOptions())


def test_openvino_computes_in_two_formats(small: Path, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    assert export(small, images, tmp_path, "--format", "openvino", "--img-size", "64") == 0
    path, images = tmp_path / "small.xml", torch.rand(1, 3, 64, 64)
    exact, half = (open_openvino(path, precision)(images, 0.0)[0] for precision in ("fp32", "bf16"))
    assert (exact.boxes - half.boxes).abs().max() < 2 and (exact.classes - half.classes).abs().max() < 0.05
    with pytest.raises(InputError, match="--precision 'fp16': OpenVINO computes .*small.xml in one of fp32, bf16"):
        load_network([path], torch.device("cpu"), NetworkOptions(precision="fp16"))
    for options in (NetworkOptions(compile=True), NetworkOptions(cfg="yolov7-tiny")):
        with pytest.raises(InputError, match=r"is for weights; .*small.xml computes as it was exported"):
            load_network([path], torch.device("cpu"), options)


def test_files_that_cannot_be_used(small: Path, images: Path, tmp_path: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    """Half a file, a file of another project, one without our metadata, a wrong size: one sentence each."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    assert export(small, images, tmp_path, "--format", "onnx", "torchscript", "openvino", "--img-size", "64") == 0
    for name in ("small.onnx", "small.torchscript", "small.xml"):
        half = tmp_path / f"half{Path(name).suffix}"
        half.write_bytes((tmp_path / name).read_bytes()[:3000])
    graph = onnx.load(tmp_path / "small.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "foreign.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript grows old
        torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), str(tmp_path / "foreign.torchscript"))
    capsys.readouterr()
    for name, reason in (("half.onnx", "ONNX Runtime cannot read it"), ("half.xml", "OpenVINO cannot read it"),
                         ("half.torchscript", "is damaged or cut off"),
                         ("foreign.onnx", "holds no description of the network; accepted: files that export.py wrote"),
                         ("foreign.torchscript", "holds no description of the network")):
        assert cli.main(["detect", "--weights", str(tmp_path / name), "--source", str(images), "--device", "cpu",
                         "--project", str(tmp_path / "runs")]) == 2
        (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
        assert line.startswith(f"error: {tmp_path / name}: {reason}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("cfg", "message"), [
    ("NONSENSE", "--cfg 'NONSENSE': no such file"), ("yolov7-tiny", "holds its own model, .* leave the flag out")])
def test_a_cfg_that_is_not_the_weights_model_is_refused(cfg: str, message: str) -> None:
    path = Path(__file__).parents[1] / "compat" / "best.pt"
    with pytest.raises(InputError, match=message):
        weights.load_model(path, cfg)
    assert weights.load_model(path).names

"""Networks: only what may be a detection is decoded, half precision, test-time augmentation, ensembles."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config as inductor

from yolov7.boxes import mirror
from yolov7.config import InputError
from yolov7.config.options import NetworkOptions
from yolov7.data.images import letterbox
from yolov7.inference import network as networks
from yolov7.inference.loading import load_network, usual_device
from yolov7.inference.network import Augmented, Ensemble, TorchNetwork, compile_frozen, shrink
from yolov7.inference.nms import After, NMSOptions, nms_image, non_maximum_suppression, to_native
from yolov7.inference.predictor import Predictor
from yolov7.model import weights
from yolov7.model.detector import Detector, network_input
from yolov7.model.heads.anchor import AnchorHead
from yolov7.model.heads.base import Channels, Decoder, Head, Predictions
from yolov7.model.reparam import reparameterize
from yolov7.model.scaling import Scale
from yolov7.model.spec import read_spec, scaled_spec
from yolov7.model.weights import ModelInfo
from yolov7.structures import HeadOutput, ImageMeta, Instances

CPU = torch.device("cpu")
NAMES = ("cat", "dog", "person")
MICRO = str(Path(__file__).parents[1] / "micro.yaml")


def small(seed: int = 5, name: str = "yolov7-tiny", classes: int = len(NAMES)) -> Detector:
    """Random weights that find a lot."""
    torch.manual_seed(seed)
    model = Detector(scaled_spec(read_spec(name), Scale(width=0.25, hidden_width=0.25))[0], classes).eval()
    for conv in model.head.convs:
        conv.bias.data.view(3, -1)[:, 4:] += 4
    return model


def sample_images(batch: int = 3, height: int = 96, width: int = 128) -> Tensor:
    torch.manual_seed(1)
    return network_input(torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8), CPU)


# --- decoding ---------------------------------------------------------------------------------------------------


def outputs(seed: int, batch: int, classes: int, spread: float) -> tuple[HeadOutput, Decoder]:
    torch.manual_seed(seed)
    levels = tuple(spread * torch.randn(batch, 3, side, side + 1, 5 + classes) - 2 for side in (8, 4, 2))
    return HeadOutput(levels), decoder(classes, 10 * torch.rand(3, 3, 2) + 5, (8, 16, 32))


def decoder(classes: int, anchors: Tensor, strides: tuple[int, ...]) -> Decoder:
    return Decoder(Channels.of(classes, {}), anchors, strides, AnchorHead.decode_columns)


def fields(predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
    assert not predictions.extra and not predictions.maps
    return predictions.boxes, predictions.objectness, predictions.classes


@pytest.mark.parametrize("confidence", [0.0, 0.001, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_decoding_what_counts_equals_decoding_all(confidence: float, spread: float) -> None:
    output, decode = outputs(3, 4, 5, spread)
    whole, parts = decode(output), decode.above(output, confidence)
    assert len(parts) == 4
    for index, part in enumerate(parts):
        row = whole.objectness[index] > confidence
        for field, expected in zip(fields(part), fields(whole), strict=True):
            torch.testing.assert_close(field, expected[index][row], rtol=1e-6, atol=1e-5)
    options = NMSOptions(confidence, 0.5, multi_label=True)
    for part, expected in zip(parts, non_maximum_suppression(*fields(whole), options), strict=True):
        found = nms_image(part, options)
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-6, atol=1e-5)
        assert torch.equal(found.labels, expected.labels)


def test_an_image_without_anything_is_zero_rows() -> None:
    output, decode = outputs(0, 2, 3, 1.0)
    output.levels[0][1, ..., 4] = 9
    empty, full = decode.above(output, 0.99)
    assert empty.boxes.shape == (0, 4) and empty.classes.shape == (0, 3) and full.boxes.shape == (3 * 8 * 9, 4)


def test_half_decode_rounds_as_half_precision_does() -> None:
    """Steps of half a pixel above 512 px, one above 1024 (docs/reference.md, Half-precision decoding); otherwise
    float32."""
    torch.manual_seed(0)
    output = HeadOutput((torch.randn(1, 3, 40, 40, 8),))
    decode = decoder(3, torch.tensor([[[116.0, 90], [156, 198], [373, 326]]]), (32,))
    exact = decode.above(output, 0.0)[0]
    half = decode.above(output, 0.0, torch.float16)[0]
    assert {field.dtype for field in fields(exact)} == {torch.float32}
    assert {field.dtype for field in fields(half)} == {torch.float16}
    far = half.boxes[(half.boxes > 512).all(1)].double()
    assert len(far) and torch.equal(far * 2, (far * 2).round())
    assert not torch.equal(exact.boxes[:, 0] * 2, (exact.boxes[:, 0] * 2).round())
    assert (half.boxes.float() - exact.boxes).abs().max() < 2
    options = NMSOptions(0.1, 0.5)
    found = nms_image(half, options)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert torch.equal(found.scores, found.scores.half().float())  # the product was rounded, too


# --- PyTorch ----------------------------------------------------------------------------------------------------


def test_a_network_equals_its_model_and_leaves_it_alone() -> None:
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    network, images = TorchNetwork(model, CPU), sample_images()
    with torch.no_grad():
        expected = model.decode(model(images))
    for index, part in enumerate(network(images, 0.0)):
        torch.testing.assert_close(part.boxes, expected.boxes[index], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(part.classes, expected.classes[index], rtol=1e-4, atol=1e-5)
    half = TorchNetwork(reparameterize(model), CPU, "bf16")
    formats = {name: {p.dtype for p in block.parameters()} for name, block in half.model.nodes.items()}
    assert formats.pop("stem") == {torch.float32}
    assert {kind for kinds in formats.values() for kind in kinds} == {torch.bfloat16}
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_half_precision_decodes_in_float32_and_is_close() -> None:
    model, images = small(), sample_images()
    exact, half = (TorchNetwork(model, CPU, precision)(images, 0.0) for precision in ("fp32", "bf16"))
    for a, b in zip(exact, half, strict=True):
        assert b.boxes.dtype == b.classes.dtype == torch.float32
        assert (a.classes - b.classes).abs().max() < 0.02
        assert 0 < (a.boxes - b.boxes).abs().max() < 2


def test_a_deployed_model_can_be_run_in_two_formats() -> None:
    """The first network's format does not become that of the second."""
    model = reparameterize(small())
    first = TorchNetwork(model, CPU, "bf16")
    second = TorchNetwork(model, CPU)
    assert torch.equal(second(sample_images(), 0.0)[0].boxes, TorchNetwork(small(), CPU)(sample_images(), 0.0)[0].boxes)
    assert first.model is not second.model


@pytest.mark.slow
def test_a_compiled_network_finds_the_same_at_every_size(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # without minutes of C++
    path = save(small(name=MICRO), tmp_path / "small.pt")
    plain = load_network([path], CPU, NetworkOptions(precision="fp32"))
    with caplog.at_level("INFO", "yolov7"):
        compiled = load_network([path], CPU, NetworkOptions(precision="fp32", compile=True))
    assert "is compiled at the first images" in caplog.text
    batches = [sample_images(*shape) for shape in ((2, 64, 96), (3, 96, 64), (2, 64, 96))]
    with ThreadPoolExecutor(4) as pool:
        for images, found in zip(batches, pool.map(lambda images: compiled(images, 0.1), batches), strict=True):
            for part, expected in zip(found, plain(images, 0.1), strict=True):
                torch.testing.assert_close(fields(part), fields(expected), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="compiling needs g++")
@pytest.mark.filterwarnings("ignore")  # of the compiler's own parts
def test_compiled_weights_are_frozen() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(8, 4, 1)).eval()
    run = compile_frozen(model)  # type: ignore[arg-type]
    with torch.inference_mode():
        for shape in ((3, 3, 16, 16), (2, 3, 8, 24)):
            torch.testing.assert_close(run(torch.ones(shape)), model(torch.ones(shape)))
        expected = model(torch.ones(2, 3, 8, 24))
        model[0].weight.data.zero_()
        torch.testing.assert_close(run(torch.ones(2, 3, 8, 24)), expected)
    assert not inductor.freezing, "a setting of the whole process was left changed"


# --- test-time augmentation -------------------------------------------------------------------------------------


class Finder:
    """Finds the one bright rectangle of an image, exactly: in any size, mirrored or not."""

    info, device, stride, shape = ModelInfo(NAMES), CPU, 32, None
    task_outputs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        self.seen.append(tuple(images.shape))
        found = []
        for image in images:
            y, x = (image.mean(0) > 0.75).nonzero(as_tuple=True)
            box = torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1)).float()[None]
            found.append(Predictions(box, torch.tensor([0.9]), torch.tensor([[0.0, 1, 0]])))
        return found


def test_augmented_boxes_come_back_to_their_place() -> None:
    images = torch.full((1, 3, 192, 256), 0.3)
    images[:, :, 40:120, 30:90] = 1
    finder = Finder()
    (found,) = Augmented(finder)(images, 0.25)
    assert finder.seen == [(1, 3, 192, 256), (1, 3, 160, 224), (1, 3, 160, 192)]
    assert found.boxes.shape == (3, 4)
    assert torch.equal(found.boxes[0], torch.tensor([30.0, 40, 90, 120]))
    assert (found.boxes - found.boxes[0]).abs().max() <= 1.6  # a pixel of the smallest image
    assert len(nms_image(found, NMSOptions())) == 1


def test_augmentation_of_a_fixed_predictor_is_the_plain_result() -> None:
    """What answers the same to every image answers the same, once for each pass."""
    model = small()
    plain, augmented = TorchNetwork(model, CPU), Augmented(TorchNetwork(model, CPU))
    images = sample_images()
    passes = [plain(shrink(images.flip(-1) if flip else images, scale, 32), 0.05) for scale, flip in networks.PASSES]
    for index, found in enumerate(augmented(images, 0.05)):
        assert len(found.boxes) == sum(len(part[index].boxes) for part in passes)
        start = len(passes[0][index].boxes)
        second = passes[1][index].boxes
        assert torch.equal(found.boxes[:start], passes[0][index].boxes)
        assert torch.equal(found.boxes[start : start + len(second)], mirror(second / 0.83, images.shape[-1]))


def test_shrunk_images_are_padded_with_grey_to_the_stride() -> None:
    images = torch.ones(1, 3, 96, 128)
    shrunk = shrink(images, 0.67, 32)
    assert shrunk.shape == (1, 3, 96, 96)  # 64.32 and 85.76, rounded up to multiples of 32
    assert (shrunk[:, :, :64, :85] == 1).all()
    assert (shrunk[:, :, 64:] == 0.447).all() and (shrunk[..., 85:] == 0.447).all()
    assert shrink(images, 1.0, 32) is images


# --- ensembles --------------------------------------------------------------------------------------------------


def test_an_ensemble_keeps_the_best_of_what_any_of_its_networks_finds() -> None:
    first, second = TorchNetwork(small(1), CPU), TorchNetwork(small(2), CPU)
    together = Ensemble([first, second])
    images = sample_images()
    for found, a, b in zip(together(images, 0.05), first(images, 0.05), second(images, 0.05), strict=True):
        assert torch.equal(found.boxes, torch.cat((a.boxes, b.boxes)))
        assert torch.equal(found.classes, torch.cat((a.classes, b.classes)))
    twice = Ensemble([first, first])(images, 0.05)
    for found, once in zip(twice, first(images, 0.05), strict=True):
        assert len(nms_image(found, NMSOptions(0.05))) == len(nms_image(once, NMSOptions(0.05)))


def test_an_ensemble_takes_the_stride_of_the_coarsest() -> None:
    wide = TorchNetwork(small(1, "yolov7-w6"), CPU)
    assert Ensemble([TorchNetwork(small(), CPU), wide]).stride == wide.stride == 64
    fixed = TorchNetwork(small(), CPU)
    fixed.shape = (96, 128)  # type: ignore[assignment]
    with pytest.raises(InputError, match="needs sides that are multiples of 64; an exported file takes 96 x 128 alone"):
        Ensemble([fixed, wide])


def test_exported_files_run_on_the_cpu_unless_another_device_is_named() -> None:
    files = [Path("a.onnx"), Path("b.pt")]
    assert usual_device(files, "") == usual_device(files[:1], "") == "cpu"
    assert usual_device(files, "cuda:1") == "cuda:1" and usual_device(files[1:], "") == ""


def save(model: Detector, path: Path, names: tuple[str, ...] = NAMES) -> Path:
    weights.save(weights.describe(model, names, 96) | {"model": model.state_dict(), "epoch": 0}, path)
    return path


# --- tasks ------------------------------------------------------------------------------------------------------


class TaskHead(Head):
    """A head that also predicts an angle and two points of each object, and one map of an image."""

    map_names = ("depth",)

    def __init__(self, in_channels: Sequence[int], *arguments: Any, **others: Any) -> None:
        super().__init__(in_channels, *arguments, **others, extra={"angle": 1, "points": 4})
        self.depth = nn.Conv2d(in_channels[0], 2, 1)

    @staticmethod
    def decode_columns(logits: dict[str, Tensor], cells: Tensor, anchors: Tensor, stride: float) -> dict[str, Tensor]:
        points = logits["points"].float().unflatten(-1, (2, 2)) * stride + cells[..., None, :] * stride
        return {"angle": logits["angle"].float().tanh()[..., 0], "points": points}

    def make_maps(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"depth": self.depth(features[0])}


def with_task(model: Detector) -> Detector:
    """The same network with another head."""
    own, node = model.head, model.spec.head
    widths = [conv.in_channels for conv in own.convs]
    model.head = TaskHead(widths, own.strides, own.num_classes, node.anchors, node.implicit).eval()
    for conv in model.head.convs:
        conv.bias.data.view(3, -1)[:, 4 : 5 + own.num_classes] += 4
    return model


SIDES = {(60, 80): (96, 96), (96, 96): (96, 96)}  # of an image -> of the network input


def test_columns_and_maps_reach_the_end_of_a_task() -> None:
    network = TorchNetwork(with_task(small()), CPU)
    assert network.info.head == "TaskHead" and network.task_outputs == ("angle", "points", "depth")
    seen: list[tuple[Instances, dict[str, Tensor], ImageMeta]] = []

    def finish(found: Instances, maps: dict[str, Tensor], meta: ImageMeta) -> Instances:
        seen.append((found, maps, meta))
        native = to_native(found, maps, meta)
        gain = native.boxes.new_tensor(meta.gain)
        return replace(native, extra={"points": found.extra["points"] / gain})

    images = [np.full((60, 80, 3), 90, np.uint8), np.full((96, 96, 3), 30, np.uint8)]
    found = Predictor(network, NMSOptions(0.2), 96, After(finish=finish))(images)
    assert len(seen) == 2 and min(len(each) for each in found) > 5
    for own, (before, maps, meta), image in zip(found, seen, images, strict=True):
        assert meta.size == image.shape[:2] and maps["depth"].shape == (2, *(side // 8 for side in SIDES[meta.size]))
        assert before.extra["angle"].shape == (len(own),) and before.extra["points"].shape == (len(own), 2, 2)
        assert list(own.extra) == ["points"] and own.names == network.info.names
        torch.testing.assert_close(own.extra["points"] * own.boxes.new_tensor(meta.gain), before.extra["points"])
        every = network.model.decode(network.model(network_input(letterboxed(image), CPU)))
        row = (every.boxes[0][:, None] - before.boxes).abs().amax(-1).argmin(0)
        torch.testing.assert_close(before.extra["angle"], every.extra["angle"][0][row], rtol=1e-4, atol=1e-4)


def letterboxed(image: np.ndarray) -> Tensor:
    return torch.from_numpy(letterbox(image, 96, 32)[0].copy()).permute(2, 0, 1)[None]


def test_half_precision_of_a_task() -> None:
    exact, half = (TorchNetwork(with_task(small()), CPU, precision)(sample_images(), 0.0)
                   for precision in ("fp32", "bf16"))
    for a, b in zip(exact, half, strict=True):
        assert b.extra["angle"].dtype == torch.float32
        assert (a.extra["angle"] - b.extra["angle"]).abs().max() < 0.05
        assert (a.maps["depth"] - b.maps["depth"]).abs().max() < 0.1


def test_boxes_alone_can_be_put_together() -> None:
    """Nobody knows how to mirror or to merge what a task adds."""
    task, plain = TorchNetwork(with_task(small()), CPU), TorchNetwork(small(), CPU)
    with pytest.raises(InputError, match="--augment is for networks that predict boxes alone, key points or masks; "
                                         "TaskHead also predicts angle, points, depth"):
        Augmented(task)
    for networks_of_two in ([task, plain], [plain, task]):
        with pytest.raises(InputError, match="--weights: an ensemble is for networks that predict boxes alone, key p"):
            Ensemble(networks_of_two)


# --- files ------------------------------------------------------------------------------------------------------


def test_networks_of_files(tmp_path: Path) -> None:
    one, two = save(small(1), tmp_path / "one.pt"), save(small(2), tmp_path / "two.pt")
    other = save(small(3), tmp_path / "other.pt", ("a", "b", "c"))
    assert isinstance(load_network([one], CPU, NetworkOptions()), TorchNetwork)
    network = load_network([one, two], CPU, NetworkOptions(augment=True))
    assert isinstance(network, Augmented) and isinstance(network.network, Ensemble) and network.info.image_size == 96
    with pytest.raises(InputError, match="an ensemble needs the same classes .*cat, dog, person.* and 3 .a, b, c"):
        load_network([one, other], CPU, NetworkOptions())
    with pytest.raises(InputError, match="--half-decode: .*the network runs in fp32; accepted with --precision fp16"):
        load_network([one], CPU, NetworkOptions(precision="fp32", half_decode=True))
    half = load_network([one], CPU, NetworkOptions(precision="fp16", half_decode=True))
    assert {field.dtype for field in fields(half(sample_images(), 0.0)[0])} == {torch.float16}

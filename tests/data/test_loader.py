"""Collate, order, loader processes, rectangular batches."""

from __future__ import annotations

import gc
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rectangles import make_sample

from yolov7.config import InputError, RunError
from yolov7.config.recipe import AugmentConfig
from yolov7.data import transport
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import TrainingDataset
from yolov7.data.image_set import ImageSet
from yolov7.data.loader import (
    BatchLoader,
    EpochSampler,
    Field,
    collate,
    evaluation_loader,
    fixed_shape_loader,
    rectangular_batches,
    training_loader,
)
from yolov7.data.objects import Sample
from yolov7.engine.interruption import Interrupted, StopSignal
from yolov7.structures import Batch

Squares = Callable[..., ImageSet]


def sample_with(count: int, value: int = 0) -> Sample:
    boxes = np.arange(4 * count, dtype=np.float32).reshape(-1, 4)
    image = np.full((32, 64, 3), (value, 1, 2), np.uint8)
    return make_sample(image, boxes, np.arange(count), (np.zeros((0, 2), np.float32),) * count, str(value))


@pytest.mark.parametrize(("counts", "padded"), [((0, 0), 8), ((3, 8), 8), ((9, 0), 16), ((17,), 24)])
def test_collate_pads_objects(counts: tuple[int, ...], padded: int) -> None:
    batch = collate([sample_with(count, value) for value, count in enumerate(counts)])
    assert batch.images.shape == (len(counts), 3, 32, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.images[-1, :, 5, 5].tolist() == [len(counts) - 1, 1, 2]
    assert batch.targets.boxes.shape == (len(counts), padded, 4)
    assert batch.targets.valid.sum(1).tolist() == list(counts)
    for i, count in enumerate(counts):
        assert batch.targets.labels[i].tolist() == [*range(count), *[0] * (padded - count)]
        np.testing.assert_array_equal(batch.targets.boxes[i, :count], sample_with(count).objects.boxes)
        assert not batch.targets.boxes[i, count:].any()
    assert [meta.path for meta in batch.metas] == [str(i) for i in range(len(counts))]


def box_sides(sample: Sample) -> np.ndarray:
    return sample.objects.boxes[:, 2:] - sample.objects.boxes[:, :2]


def brightness(sample: Sample) -> np.ndarray:
    return sample.image.mean((0, 1)).astype(np.float32)


FIELDS = (Field("sides", box_sides), Field("brightness", brightness, per_object=False))


def test_collate_stacks_what_a_task_names() -> None:
    samples = [sample_with(count, value) for value, count in enumerate((3, 0, 9))]
    batch = collate(samples, FIELDS)
    sides, means = batch.targets.extra["sides"], batch.targets.maps["brightness"]
    assert (sides.shape, sides.dtype, means.shape) == ((3, 16, 2), torch.float32, (3, 3))
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(sides[i, : len(sample.objects)], box_sides(sample))
        assert not sides[i, len(sample.objects) :].any()
        assert means[i].tolist() == [i, 1, 2]
    assert collate(samples).targets.extra == {}


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loaders_stack_fields_in_their_processes(
    squares: Squares, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    monkeypatch.setattr("yolov7.data.loader.available_cores", lambda: 2)
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: [start])
    image_set = squares(4, polygons="mixed")
    dataset = TrainingDataset(image_set, 64, AugmentConfig(mixup=0))
    loaders = (training_loader(dataset, EpochSampler(4, 2, 0), 1, FIELDS),
               evaluation_loader(image_set, 64, 2, 32, 1, fields=FIELDS),
               fixed_shape_loader(image_set, (64, 96), 2, 1, fields=FIELDS))
    for loader in loaders:
        if start == "spawn":
            loader.multiprocessing_context = "spawn"
        for batch in loader:
            boxes = batch.targets.boxes
            assert torch.equal(batch.targets.extra["sides"], boxes[..., 2:] - boxes[..., :2])
            means = batch.images.float().mean((2, 3))
            torch.testing.assert_close(batch.targets.maps["brightness"], means, rtol=1e-4, atol=1e-3)


def loader_of(dataset: TrainingDataset, batch_size: int, workers: int, seed: int = 0) -> BatchLoader:
    return training_loader(dataset, EpochSampler(len(dataset), batch_size, seed), workers)


def stream(image_set: ImageSet, workers: int, epochs: int = 3) -> list[Batch]:
    dataset = TrainingDataset(image_set, 64, AugmentConfig(paste_in=0.3, mixup=0.3), seed=3)
    sampler = EpochSampler(len(dataset), 4, 3)
    loader, batches = training_loader(dataset, sampler, workers), []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        assert len(loader) == math.ceil(len(image_set) / 4)
        batches += list(loader)
    return batches


def test_the_stream_does_not_depend_on_the_workers(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolov7.data.loader.available_cores", lambda: 2)
    image_set = squares(10, polygons="mixed")
    alone, together = stream(image_set, 0), stream(image_set, 2)
    assert len(alone) == len(together) == 9
    for first, second in zip(alone, together, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.targets.boxes, second.targets.boxes)
        assert torch.equal(first.targets.labels, second.targets.labels)
        assert torch.equal(first.targets.valid, second.targets.valid)
        assert first.metas == second.metas
    orders = [[meta.image_id for batch in alone[i : i + 3] for meta in batch.metas] for i in (0, 3, 6)]
    assert all(sorted(order) == list(range(10)) for order in orders)  # every image once, the last batch is kept
    assert len({tuple(order) for order in orders}) == 3  # in a new order every time: no worker lags behind
    assert not torch.equal(alone[0].images, alone[3].images)


def test_another_seed_is_another_order() -> None:
    orders = [[key for keys in EpochSampler(6, 4, seed) for key in keys] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert [key[:2] for key in orders[0]] == [(0, position) for position in range(6)]


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [([(480, 640)] * 2, (512, 672)), ([(960, 640)] * 2, (672, 448)), ([(480, 640), (640, 480)], (672, 672)),
     ([(480, 640), (320, 640)], (512, 672)), ([(960, 640), (1280, 640)], (672, 448)), ([(500, 500)], (672, 672))],
)  # fmt: skip
def test_rectangular_shapes(sizes: list[tuple[int, int]], shape: tuple[int, int]) -> None:
    _, shapes = rectangular_batches(np.array(sizes, np.int32), 640, 2, 32)
    assert shapes.tolist() == [list(shape)] * len(sizes)


def test_rectangular_batches_are_sorted_by_aspect_and_stable() -> None:
    sizes = np.array([(64, 64), (32, 64), (64, 64), (64, 32), (32, 64)], np.int32)
    order, shapes = rectangular_batches(sizes, 64, 2, 32)
    assert order.tolist() == [1, 4, 0, 2, 3]
    assert shapes.tolist() == [[96, 96], [64, 96], [96, 96], [96, 64], [64, 96]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rectangular", [True, False])
def test_evaluation_batches(squares: Squares, workers: int, rectangular: bool) -> None:
    image_set = squares(7, long_side=96)
    loader = evaluation_loader(image_set, 96, 3, 32 if rectangular else None, workers)
    for _ in range(2):
        batches = list(loader)
        assert [len(batch.metas) for batch in batches] == [3, 3, 1]
        assert sorted(meta.image_id for batch in batches for meta in batch.metas) == list(range(7))
        for batch in batches:
            height, width = batch.images.shape[2:]
            assert height % 32 == width % 32 == 0
            if not rectangular:
                assert (height, width) == (96, 96)
            for i, meta in enumerate(batch.metas):
                objects = image_set.objects_of(int(meta.image_id))
                valid = batch.targets.valid[i]
                assert batch.targets.labels[i, valid].tolist() == objects.labels.tolist()
                expected = objects.boxes * np.tile(meta.gain, 2) + np.tile(meta.pad, 2)
                np.testing.assert_allclose(batch.targets.boxes[i, valid], expected, atol=0.5)


class Deadly(TrainingDataset):
    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        if key[1] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(key)


def test_a_worker_that_dies_ends_the_run(squares: Squares) -> None:
    loader = loader_of(Deadly(squares(), 64, AugmentConfig()), 2, 2)
    message = ""
    try:  # not pytest.raises: it keeps the frames in a cycle, and their workers cannot end cleanly then
        list(loader)
    except RuntimeError as error:
        message = str(error)
    assert message.startswith("a loader process ended unexpectedly (DataLoader worker")
    assert "--workers 0 needs no loader process; a container's shared memory grows with --shm-size" in message


def test_a_fault_in_a_worker_is_one_sentence(squares: Squares) -> None:
    image_set = squares(4)
    for path in image_set.paths:
        Path(path).write_bytes(b"")
    loader = loader_of(TrainingDataset(image_set, 64, AugmentConfig()), 2, 2)
    with pytest.raises(InputError) as caught:
        list(loader)
    assert "20 samples in a row cannot be read; the last: " in str(caught.value)
    assert "Traceback" not in str(caught.value) and loader._iterator is None


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_leaves_out_what_cannot_be_read(squares: Squares, workers: int) -> None:
    """One image of a batch, and a batch of nothing else."""
    image_set = squares(4)
    for index in (1, 2, 3):
        Path(image_set.paths[index]).write_bytes(b"")
    batches = list(evaluation_loader(image_set, 64, 2, 32, workers))
    assert [meta.path for batch in batches for meta in batch.metas] == [image_set.paths[0]]
    assert sorted(reason for batch in batches for reason in batch.left_out) == [
        f"{path}: the file is empty (0 bytes)" for path in image_set.paths[1:]]
    assert sorted(len(batch.images) for batch in batches) == [0, 1]


@pytest.mark.parametrize("reason", ["no shared memory", "few descriptors"])
def test_batches_come_through_pipes_where_shared_memory_is_short(squares: Squares, reason: str,
                                                                 monkeypatch: pytest.MonkeyPatch,
                                                                 caplog: pytest.LogCaptureFixture) -> None:
    image_set = squares(6)

    def refuse(_: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm)")

    plain = list(evaluation_loader(image_set, 64, 2, 32, 0))
    monkeypatch.setattr("yolov7.data.loader._slots", lambda *_: None)  # there was too little memory for them
    if reason == "no shared memory":
        monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    else:
        monkeypatch.setattr(transport, "_spare_descriptors", lambda: 50)
    piped = list(evaluation_loader(image_set, 64, 2, 32, 2))
    assert caplog.text.count("batches come from the loader processes through pipes") == 1
    for ours, theirs in zip(piped, plain, strict=True):
        assert torch.equal(ours.images, theirs.images) and ours.images.stride() == theirs.images.stride()
        assert torch.equal(ours.targets.boxes, theirs.targets.boxes) and ours.metas == theirs.metas


def test_without_descriptors_images_are_read_in_this_process(squares: Squares, monkeypatch: pytest.MonkeyPatch,
                                                             caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(transport, "_spare_descriptors", lambda: 20)
    loader = evaluation_loader(squares(2), 64, 2, 32, 2)
    assert loader.num_workers == 0 and len(list(loader)) == 1
    assert "too few file descriptors for 2 loader processes (ulimit -n): images are read in this process" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_that_was_begun_early_is_the_same(squares: Squares, workers: int,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolov7.data.loader.available_cores", lambda: 2)
    image_set = squares(10)
    expected = stream(image_set, 0)
    sampler = EpochSampler(10, 4, 3)
    loader = training_loader(TrainingDataset(image_set, 64, AugmentConfig(paste_in=0.3, mixup=0.3), seed=3), sampler,
                             workers)
    found = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        found += list(loader)
        sampler.set_epoch(epoch + 1)
        loader.begin()
        loader.begin()  # once more changes nothing
    assert all(torch.equal(one.images, other.images) for one, other in zip(found, expected, strict=True))
    sampler.set_epoch(1, start=1)  # not what was begun
    again = list(loader)
    assert len(again) == 2 and torch.equal(again[0].images, expected[4].images)
    loader.begin()
    loader.close()


def test_images_that_are_held_are_not_overwritten(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    """More batches than there are slots, all of them kept; then none, so that slots are used again."""
    monkeypatch.setattr("yolov7.data.loader.available_cores", lambda: 2)
    image_set = squares(60)
    expected = [batch.images for batch in evaluation_loader(image_set, 64, 2, None, 0)]
    loader = evaluation_loader(image_set, 64, 2, None, 2)
    slots = loader.collate_fn.keywords["slots"]  # type: ignore[union-attr]
    assert len(expected) == 30 > len(slots._used[:])
    kept = [batch.images for batch in loader]
    assert slots.in_use > 2
    for one, other in zip(kept, expected, strict=True):
        assert torch.equal(one, other) and one.stride() == other.stride()
    views = [images[0, 0] for images in kept]  # they keep what they are a part of
    del kept, one
    held = slots.in_use
    assert held > 2
    del views
    gc.collect()
    assert slots.in_use == 0
    for batch, images in zip(loader, expected, strict=True):
        assert torch.equal(batch.images, images)


def test_slots_of_workers_that_ended_are_not_lost(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolov7.data.loader.available_cores", lambda: 2)
    loader = evaluation_loader(squares(20), 64, 2, None, 2)
    slots = loader.collate_fn.keywords["slots"]  # type: ignore[union-attr]
    first = next(iter(loader))
    time.sleep(0.3)  # the workers make what is never asked for
    loader.close()
    gc.collect()
    assert slots.in_use > 1
    assert len(list(loader)) == 10
    assert first.images.float().mean() > 0
    del first
    gc.collect()
    assert slots.in_use == 0


def test_much_memory_is_not_shared_from_the_start(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolov7.data.loader.available_cores", lambda: 2)
    monkeypatch.setattr("yolov7.data.loader.free_memory", lambda _: 1_000_000)
    loader = evaluation_loader(squares(4), 64, 2, None, 2)
    assert loader.collate_fn.keywords["slots"] is None and len(list(loader)) == 2  # type: ignore[union-attr]


def test_workers_are_as_many_as_there_are_descriptors_for(squares: Squares, monkeypatch: pytest.MonkeyPatch,
                                                          caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("yolov7.data.loader.available_cores", lambda: 8)
    monkeypatch.setattr(transport, "_spare_descriptors", lambda: 24 + 12 * 3)
    assert evaluation_loader(squares(9), 64, 8, 32, 8).num_workers == 3
    assert "too few file descriptors for 8 loader processes (ulimit -n): there are 3" in caplog.text


class Endless(TrainingDataset):
    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        time.sleep(60)
        return super().__getitem__(key)


def test_a_wait_for_a_batch_ends(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its limit, or when what is called meanwhile says so."""
    monkeypatch.setattr(transport, "MAX_WAIT", 0.0)
    message = ""
    try:
        list(loader_of(Endless(squares(2), 64, AugmentConfig()), 2, 1))
    except RunError as error:
        message = str(error)
    assert message.startswith("the loader processes have sent nothing for 0 s")
    stop = StopSignal()
    stop.give_up()
    stop.received = 15  # long ago
    with pytest.raises(Interrupted):
        stop.give_up()


def test_replaced_samples_are_counted_over_all_workers(squares: Squares) -> None:
    image_set = squares(4)
    dataset = TrainingDataset(image_set, 64, AugmentConfig(mosaic=0))
    Path(image_set.paths[1]).unlink()
    for _ in loader_of(dataset, 2, 2):
        pass
    assert dataset.replaced >= 1


def test_real_images(bccd: Path) -> None:
    dataset = TrainingDataset(open_split(open_data(str(bccd)), "train", training=True), 160, AugmentConfig())
    batch = next(iter(loader_of(dataset, 8, 0)))
    assert batch.images.shape == (8, 3, 160, 160)
    assert batch.targets.valid.any(1).all()
    valid = batch.targets.valid
    assert batch.targets.boxes[valid].min() >= 0
    assert batch.targets.boxes[valid].max() <= 160
    assert batch.targets.labels.max() <= 2


def test_rectangular_training_shuffles_batches(squares: Squares) -> None:
    image_set = squares(10)
    order, shapes = rectangular_batches(image_set.sizes, 64, 4, 32, pad=0)
    batches = [order[start : start + 4] for start in range(0, 10, 4)]
    dataset = TrainingDataset(image_set, 64, AugmentConfig(), batch_shapes=shapes)
    sampler = EpochSampler(10, 4, 0, batches)
    passes = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        indices = [index for keys in sampler for _, _, index in keys]
        assert sorted(indices) == list(range(10))
        assert sorted(indices[8:]) == sorted(batches[2].tolist())  # the smaller batch stays behind
        passes.append(indices)
    assert len({tuple(indices) for indices in passes}) > 1
    found = [tuple(batch.images.shape[2:]) for batch in training_loader(dataset, sampler, 0)]
    assert sorted(found) == sorted(tuple(shapes[batch[0]].tolist()) for batch in batches)


@pytest.mark.parametrize(("length", "batch_size", "processes"), [(10, 4, 2), (9, 4, 3), (13, 6, 4), (3, 8, 2)])
def test_processes_share_every_batch(length: int, batch_size: int, processes: int) -> None:
    alone = list(EpochSampler(length, batch_size, 5))
    parts = [EpochSampler(length, batch_size, 5, part=(rank, processes)) for rank in range(processes)]
    shares = [list(part) for part in parts]
    for index, whole in enumerate(alone):
        joined = [key for share in shares for key in share[index]]
        assert joined[: len(whole)] == whole
        assert len(joined) == parts[0].images(index) == max(len(whole), processes)
        assert all(share[index] for share in shares)  # nobody is without an image


def test_an_epoch_can_begin_in_its_middle() -> None:
    sampler = EpochSampler(10, 4, 0)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.set_epoch(3, start=2)
    assert list(sampler) == whole[2:]
    assert (len(sampler), sampler.epoch_batches) == (1, 3)


def test_processes_share_an_evaluation(squares: Squares) -> None:
    image_set = squares(7, long_side=96)
    parts = [list(evaluation_loader(image_set, 96, 2, 32, 0, part=(rank, 5))) for rank in range(5)]
    assert [len(part) for part in parts] == [1, 1, 1, 1, 0]
    found = [meta.image_id for part in parts for batch in part for meta in batch.metas]
    assert found == [meta.image_id for batch in evaluation_loader(image_set, 96, 2, 32, 0) for meta in batch.metas]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="needs sigwaitinfo: Linux")
def test_signals_to_all_processes_do_not_end_the_workers(squares: Squares, number: int) -> None:
    dataset = TrainingDataset(squares(8), 64, AugmentConfig())
    loader = training_loader(dataset, EpochSampler(8, 2, 0), 2)
    batches = iter(loader)
    next(batches), next(batches)  # of both workers: they are up
    workers = loader._iterator._workers
    stranger = "import os, sys; [os.kill(int(pid), int(sys.argv[1])) for pid in sys.argv[2:]]"
    pids = [str(worker.pid) for worker in workers]
    subprocess.run([sys.executable, "-c", stranger, str(int(number)), *pids], check=True)
    assert len(list(batches)) == 2
    assert all(worker.is_alive() for worker in workers)
    workers[0].terminate()  # by the run itself
    workers[0].join(10)
    assert not workers[0].is_alive()


def test_batches_are_in_the_memory_order_of_convolutions() -> None:
    batch = collate([sample_with(1), sample_with(2)])
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
def test_batches_are_pinned(squares: Squares) -> None:
    loader = loader_of(TrainingDataset(squares(), 64, AugmentConfig()), 2, 0)
    for batch in loader:
        assert batch.images.is_pinned()
        assert batch.targets.boxes.is_pinned()

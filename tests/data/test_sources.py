"""Images and videos for detection: order, names, faults; the written video."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from yolov7.config import InputError
from yolov7.data import video
from yolov7.data.images import cv2
from yolov7.data.sources import VideoInfo, open_source
from yolov7.data.video import VideoWriter

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


def write_image(path: Path, colour: str = "red", height: int = 24, width: int = 32) -> Path:
    image = np.full((height, width, 3), COLOURS[colour], np.uint8)
    path.write_bytes(cv2.imencode(path.suffix.lower(), image[..., ::-1])[1].tobytes())
    return path


def numbered(number: int, height: int = 96, width: int = 128) -> np.ndarray:
    """An image that bears its number as eight bright or dark bars, which survive a video codec."""
    bits = [(number >> bit) & 1 for bit in range(8)]
    image = np.full((height, width, 3), 40, np.uint8)
    for bit, bright in enumerate(bits):
        image[:, bit * width // 8 : (bit + 1) * width // 8] = 220 if bright else 30
    return image


def number_of(image: np.ndarray) -> int:
    width = image.shape[1]
    bars = [image[:, bit * width // 8 : (bit + 1) * width // 8].mean() > 125 for bit in range(8)]
    return sum(int(bright) << bit for bit, bright in enumerate(bars))


def write_video(path: Path, frames: int = 20, fps: float = 25.0, height: int = 96, width: int = 128) -> Path:
    with VideoWriter(path, fps, width, height) as writer:
        for index in range(frames):
            writer.write(numbered(index, height, width))
    return path


def write_avi(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (128, 96))
    for index in range(frames):
        writer.write(numbered(index))
    writer.release()
    return path


# --- images --------------------------------------------------------------------------------------------------


def test_an_image(tmp_path: Path) -> None:
    path = write_image(tmp_path / "red.png")
    source = open_source(str(path))
    assert len(source) == 1
    (frame,) = source
    assert (frame.path, frame.name, frame.index, frame.video) == (str(path), "red", 0, None)
    assert frame.image.shape == (24, 32, 3)
    assert frame.image.dtype == np.uint8
    assert frame.image[0, 0].tolist() == [250, 10, 10]
    assert source.faults == []


def test_a_folder_is_sorted_not_recursive_and_videos_come_last(tmp_path: Path) -> None:
    for name in ("c.png", "a.JPG", "d.bmp"):
        write_image(tmp_path / name)
    write_video(tmp_path / "b.mp4", frames=3)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._a.jpg").write_text("what other systems leave behind")
    (tmp_path / "deeper").mkdir()
    write_image(tmp_path / "deeper" / "e.png")
    source = open_source(str(tmp_path))
    assert len(source) == 6
    expected = [("a", 0), ("c", 0), ("d", 0), ("b", 1), ("b", 2), ("b", 3)]
    assert [(frame.name, frame.index) for frame in source] == expected
    assert [(frame.name, frame.index) for frame in source] == expected
    assert source.faults == []


def test_globs(tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b1.png"):
        write_image(tmp_path / name)
    (tmp_path / "deep").mkdir()
    write_image(tmp_path / "deep" / "a3.png")
    assert [frame.name for frame in open_source(str(tmp_path / "a*.png"))] == ["a1", "a2"]
    assert [frame.name for frame in open_source(str(tmp_path / "**" / "a?.*"))] == ["a1", "a2", "a3"]


def test_a_file_may_be_named_like_a_glob(tmp_path: Path) -> None:
    path = write_image(tmp_path / "shot [1]*.png")
    assert [frame.path for frame in open_source(str(path))] == [str(path)]


def test_names_with_spaces_and_other_scripts(tmp_path: Path) -> None:
    folder = tmp_path / "Ünï 写真"
    folder.mkdir()
    names = ["zwei Wörter", "写真 1"]
    for name in names:
        write_image(folder / f"{name}.png")
    write_video(folder / "фильм 7.mp4", frames=4)
    found = [frame.name for frame in open_source(str(folder))]
    assert found == [*names, *["фильм 7"] * 4]


def test_output_names_never_collide(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        for name in ("a.jpg", "a.png", "a_2.png", "A.bmp", "b.png"):
            write_image(tmp_path / folder / name)
        write_video(tmp_path / folder / "a.mp4", frames=1)
    frames = list(open_source(str(tmp_path / "*" / "*")))
    names = [frame.name for frame in frames]
    assert len({name.casefold() for name in names}) == len(names) == 12
    by_path = {os.path.relpath(frame.path, tmp_path): frame.name for frame in frames}
    assert by_path["x/b.png"] == "b"
    assert by_path["y/b.png"] == "b_2"
    assert by_path["x/a_2.png"] == "a_2"
    assert by_path["x/A.bmp"] == "A"


def test_real_images(coco_mini: Path) -> None:
    folder = coco_mini / "images" / "val2017"
    source = open_source(str(folder))
    frames = list(source)
    assert len(frames) == len(source) == 79
    assert [frame.path for frame in frames] == sorted(frame.path for frame in frames)
    assert all(frame.image.ndim == 3 and frame.image.mean() > 0 for frame in frames)


# --- faults ----------------------------------------------------------------------------------------------------


def test_unreadable_files_in_a_folder_are_skipped_and_listed(tmp_path: Path) -> None:
    good = write_image(tmp_path / "good.png")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:40])
    whole = write_video(tmp_path / "whole.mp4", frames=5)
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:600])
    (tmp_path / "empty.avi").write_bytes(b"")
    source = open_source(str(tmp_path))
    for _ in range(2):
        assert [frame.name for frame in source] == ["good", *["whole"] * 5]
        paths = {os.path.basename(fault.partition(": ")[0]) for fault in source.faults}
        assert paths == {"empty.jpg", "text.png", "cut.png", "cut.mp4", "empty.avi"}
        assert len(source.faults) == 5


@pytest.mark.parametrize("name", ["empty.jpg", "empty.mp4"])
def test_a_single_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"empty \(0 bytes\)"):
        list(open_source(str(tmp_path / name)))


def test_a_single_broken_video_is_an_error(tmp_path: Path) -> None:
    data = write_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="is not a video that can be read"):
        open_source(str(tmp_path / "cut.mp4"))


def test_a_folder_without_any_readable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "b.jpg").write_text("no")
    with pytest.raises(InputError, match="none of 2 files can be read"):
        list(open_source(str(tmp_path)))


def test_a_video_that_ends_early_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    data = write_avi(tmp_path / "whole.avi", 40).read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    source = open_source(str(tmp_path / "cut.avi"))
    assert len(source) == 40
    numbers = [number_of(frame.image) for frame in source]
    assert numbers == list(range(len(numbers)))
    assert 10 <= len(numbers) <= 30
    missing = 40 - len(numbers)
    assert source.faults == [f"{tmp_path / 'cut.avi'}: {missing} of its 40 frames are damaged or missing"]


def test_missing_files_name_the_nearest(tmp_path: Path) -> None:
    write_image(tmp_path / "zidane.png")
    with pytest.raises(InputError, match=r"no such file or folder; did you mean 'zidane\.png'\?"):
        open_source(str(tmp_path / "zidan.png"))
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(str(tmp_path / "nowhere" / "a.png"))
    with pytest.raises(InputError, match="nothing is named"):
        open_source("")


def test_sources_without_images_say_what_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("text")
    (tmp_path / "more.txt").write_text("text")
    with pytest.raises(InputError, match=r"suffix '\.md' is unknown; accepted: bmp, jpg.*mp4"):
        open_source(str(tmp_path / "notes.md"))
    with pytest.raises(InputError, match=r"the folder holds no image or video \(2 other files\); accepted: bmp"):
        open_source(str(tmp_path))
    with pytest.raises(InputError, match="the pattern matches no image or video; accepted: bmp"):
        open_source(str(tmp_path / "*.jpg"))


# --- video -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [25.0, 29.97, 60.0])
def test_frames_in_are_frames_out_in_order(tmp_path: Path, fps: float) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=60, fps=fps)
    source = open_source(str(path))
    assert len(source) == 60
    frames = list(source)
    assert [number_of(frame.image) for frame in frames] == list(range(60))
    assert [frame.index for frame in frames] == list(range(1, 61))
    assert {frame.name for frame in frames} == {"clip"}
    info = frames[0].video
    assert info is not None
    assert info == VideoInfo(pytest.approx(fps, abs=0.01), 128, 96, 60)
    assert frames[0].image.shape == (96, 128, 3)


def test_video_colours_are_rgb(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "red.mp4", 10, 64, 48) as writer:
        writer.write(np.full((48, 64, 3), COLOURS["red"], np.uint8))
    (frame,) = open_source(str(tmp_path / "red.mp4"))
    red, green, blue = frame.image.reshape(-1, 3).mean(axis=0)
    assert red > 220
    assert max(green, blue) < 40


def test_a_video_of_real_images(coco_mini: Path, tmp_path: Path) -> None:
    images = [frame.image for frame in open_source(str(coco_mini / "images" / "val2017" / "*0.jpg"))]
    images = [cv2.resize(image, (320, 240)) for image in images]
    with VideoWriter(tmp_path / "real.mp4", 5, 320, 240) as writer:
        for image in images:
            writer.write(image)
    frames = list(open_source(str(tmp_path / "real.mp4")))
    assert len(frames) == len(images) > 3
    differences = [np.abs(f.image.astype(float) - p).mean() for f, p in zip(frames, images, strict=True)]
    assert max(differences) < 12


def test_an_odd_size_loses_its_last_row_and_column(tmp_path: Path) -> None:
    path = write_video(tmp_path / "odd.mp4", frames=6, height=97, width=129)
    frames = list(open_source(str(path)))
    assert [number_of(frame.image) for frame in frames] == list(range(6))
    assert frames[0].image.shape == (96, 128, 3)


def test_a_video_without_frame_rate_gets_30(tmp_path: Path) -> None:
    path = write_video(tmp_path / "still.mp4", frames=4, fps=0)
    (info,) = {frame.video for frame in open_source(str(path))}
    assert info is not None
    assert info.fps == pytest.approx(30)


def test_nothing_is_left_of_an_interrupted_video(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", 10, 64, 48) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
        raise KeyboardInterrupt
    with VideoWriter(tmp_path / "b.mp4", 10, 64, 48):
        assert not (tmp_path / "b.mp4").exists()
    assert list(tmp_path.iterdir()) == []


def test_the_writer_refuses_other_sizes_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="OpenCV cannot open a video of 64 x 48 pixels for writing"):
        VideoWriter(tmp_path / "nowhere" / "a.mp4", 10, 64, 48)
    with (
        pytest.raises(ValueError, match=r"a frame of shape \(50, 64, 3\) in a video of \(48, 64, 3\)"),
        VideoWriter(tmp_path / "a.mp4", 10, 64, 48) as writer,
    ):
        writer.write(np.zeros((50, 64, 3), np.uint8))


# --- time --------------------------------------------------------------------------------------------------------


def with_durations(path: Path, durations: list[int]) -> None:
    """Give each frame of an MP4 file a time of its own (its table ``stts``), in units of its track's clock.

    Their sum stays: what lies behind the end that the file states is not played.
    """
    content = bytearray(path.read_bytes())
    start = content.index(b"stts") - 4
    size = int.from_bytes(content[start : start + 4], "big")
    table = b"stts" + bytes(4) + len(durations).to_bytes(4, "big")
    table += b"".join((1).to_bytes(4, "big") + duration.to_bytes(4, "big") for duration in durations)
    content[start : start + size] = (len(table) + 4).to_bytes(4, "big") + table
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):  # behind the frames: no offset changes
        place = content.index(parent, content.index(b"moov")) - 4
        grown = int.from_bytes(content[place : place + 4], "big") + len(table) + 4 - size
        content[place : place + 4] = grown.to_bytes(4, "big")
    path.write_bytes(content)


def ticks_of(path: Path) -> int:
    """Duration of a frame in an MP4 file of one frame rate."""
    content = path.read_bytes()
    place = content.index(b"stts") + 16
    return int.from_bytes(content[place : place + 4], "big")


def test_a_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    path = write_video(tmp_path / "vfr.mp4", 12, 10.0)
    tick = ticks_of(path)
    with_durations(path, [tick] * 4 + [4 * tick] + [tick // 2] * 6 + [tick])
    frames = list(open_source(str(path)))
    expected = [0, 0.1, 0.2, 0.3, 0.4, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1]
    assert [number_of(frame.image) for frame in frames] == list(range(12))
    assert [frame.seconds for frame in frames] == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("fps", [10.0, 29.97, 30.0])
def test_a_constant_frame_rate_is_counted(fps: float, tmp_path: Path) -> None:
    frames = list(open_source(str(write_video(tmp_path / "a.mp4", 20, fps))))
    assert len(frames) == 20 and frames[0].video
    assert [frame.seconds for frame in frames] == [index / frames[0].video.fps for index in range(20)]


def test_times_that_make_no_sense_are_not_believed() -> None:
    assert video._shown_at(0.0, 0.5, 0.4) == 0.5 and video._shown_at(float("nan"), 0.5, 0.4) == 0.5
    assert video._shown_at(0.3, 0.2, 0.4) == 0.4 and video._shown_at(7.0, 0.5, 0.4) == 7.0


# --- what is no image --------------------------------------------------------------------------------------------


def test_what_is_left_out_of_a_folder_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(b"x")
    (tmp_path / "c").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "d.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "e.mp4")
    for name in ("a.txt", "classes.names", "sub"):
        (tmp_path / name).mkdir() if name == "sub" else (tmp_path / name).touch()
    with caplog.at_level("INFO", "yolov7"):
        assert [frame.name for frame in open_source(str(tmp_path))] == ["a"]
    (line,) = caplog.messages
    assert "4 of 7 entries are left out" in line
    assert line.endswith("b.heic, c, d.jpg (a broken link), e.mp4 (a device or pipe)")


def test_a_jfif_file_is_a_jpeg(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg").rename(tmp_path / "a.jfif")
    assert [frame.name for frame in open_source(str(tmp_path))] == ["a"]


@pytest.mark.parametrize("name", ["a.jpg", "a.mp4", "a.txt"])
def test_a_pipe_is_no_source(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a device or pipe; accepted: an image"):
        open_source(str(tmp_path / name))
    (tmp_path / "list.txt").write_text(f"{tmp_path / name}\n")
    with pytest.raises(InputError, match="is a device or pipe; accepted: an image"):
        open_source(str(tmp_path / "list.txt"))


@pytest.mark.parametrize(("name", "message"), [
    ("/dev/zero", "is a device or pipe"), ("link.jpg", "is a broken link"), ("x" * 300 + ".jpg", "a name of 304 bytes"),
    ("a\0.jpg", "NUL")])
def test_names_of_no_file_are_explained(name: str, message: str, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link.jpg").symlink_to("nowhere")
    with pytest.raises(InputError, match=f"--source.*{message}"):
        open_source(name)


def test_a_list_of_sources_may_begin_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{write_image(tmp_path / 'a.png')}\n", encoding="utf-8-sig")
    assert [frame.name for frame in open_source(str(tmp_path / "list.txt"))] == ["a"]

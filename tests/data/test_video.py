"""Names of output files: none stands for two frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov7.data.sources import Frame, unique_names

STEMS = st.lists(st.sampled_from(["a", "A", "a_1", "a_2", "a_1_2", "a_02", "1", "1_1", "_1", "ß", "SS"]), max_size=9)


@pytest.mark.parametrize(("images", "videos", "expected"), [
    (["a", "b"], ["c"], ["a", "b", "c"]),
    (["a", "a", "A"], [], ["a", "a_2", "A_3"]),
    (["a", "a", "a_2"], [], ["a", "a_3", "a_2"]),
    (["clip"], ["clip"], ["clip", "clip_2"]),
    (["clip_7"], ["clip"], ["clip_7", "clip_2"]),  # frame 7 of the video would have the image's name
    (["clip_7", "clip_2_1"], ["clip"], ["clip_7", "clip_2_1", "clip_3"]),
    ([], ["clip", "clip_1"], ["clip", "clip_1"]),
])
def test_names(images: list[str], videos: list[str], expected: list[str]) -> None:
    assert unique_names(images, videos) == expected


@given(STEMS, STEMS)
def test_no_frame_has_the_name_of_another(images: list[str], videos: list[str]) -> None:
    names = unique_names(images, videos)
    assert unique_names(images, videos) == names
    files = {name.casefold() for name in names}
    assert len(files) == len(names) == len(images) + len(videos)
    indices = [0] * len(images) + [1] * len(videos)
    frames = [frame(name, index + extra) for name, index in zip(names, indices, strict=True)
              for extra in (range(4) if index else [0])]
    assert len({f.unique_name.casefold() for f in frames}) == len(frames)
    for name, stem in zip(names, (*images, *videos), strict=True):
        assert name == stem or name.startswith(f"{stem}_")


def frame(name: str, index: int) -> Frame:
    return Frame(np.zeros((1, 1, 3), np.uint8), "", name, index, None)


def test_many_files_of_one_name_take_no_time() -> None:
    names = unique_names(["image"] * 100_000, [])
    assert names[-1] == "image_100000"

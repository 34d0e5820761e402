"""Sheets: rows of images of any sizes, without padding, within bounds."""

from __future__ import annotations

import numpy as np
import pytest

from yolov7.data.images import PAD_COLOUR
from yolov7.inference.lettering import font_of, shortened, wrapped, write_line
from yolov7.inference.sheet import (
    MARGIN,
    MAX_RATIO,
    MIN_WIDTH,
    PAPER,
    ROW,
    SINGLE_ROW,
    WIDTH,
    Group,
    Header,
    Panel,
    compose,
    justified,
    resized,
)


class Drawn:
    """Panels that fill their place with a colour of their own, and note its size."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def panel(self, height: int, width: int, caption: str = "") -> Panel:
        number = len(self.sizes)
        self.sizes.append((0, 0))

        def draw(panel_height: int, panel_width: int) -> np.ndarray:
            self.sizes[number] = panel_height, panel_width
            return np.full((panel_height, panel_width, 3), colour_of(number), np.uint8)

        return Panel((height, width), draw, caption)


def colour_of(number: int) -> tuple[int, int, int]:
    return 3, number, 250  # of nothing else on a sheet


def groups_of(sizes: list[tuple[int, int]], panels: int = 1) -> tuple[Drawn, list[Group]]:
    drawn = Drawn()
    return drawn, [Group(tuple(drawn.panel(*size) for _ in range(panels)), f"{size[1]} x {size[0]}") for size in sizes]


def random_sizes(count: int, seed: int = 0, spread: float = 1.0) -> list[tuple[int, int]]:
    r = np.random.RandomState(seed)
    return [(round(300 * np.exp(spread * r.randn())), round(300 * np.exp(spread * r.randn()))) for _ in range(count)]


def places_of(sheet: np.ndarray, count: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom of the panels on a sheet."""
    red, number, blue = (sheet[..., channel] for channel in range(3))
    numbers = np.where((red == 3) & (blue == 250), number, 255)
    places = []
    for panel in range(count):
        found = numbers == panel
        rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
        assert len(rows), f"panel {panel} is not there"
        places.append((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
        assert found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # whole
    return places


@pytest.mark.parametrize("panels", [1, 2])
@pytest.mark.parametrize("sizes", [
    [(480, 640)] * 16, [(100, 100)] * 16, [(64, 64)] * 5, [(1000, 300), (300, 1000)] * 5, random_sizes(16),
    random_sizes(16, 1, 0.3), random_sizes(11, 2, 2.0), [(10, 5000), (5000, 10), (300, 400)], [(9, 9)]], ids=str)
def test_every_image_is_there_in_rows_as_wide_as_the_sheet(sizes: list[tuple[int, int]], panels: int) -> None:
    drawn, groups = groups_of(sizes, panels)
    sheet = compose(Header("A title"), groups)
    assert sheet.dtype == np.uint8 and sheet.shape[1] <= WIDTH and sheet.shape[0] <= 400 * len(sizes) + 200
    grey = (sheet[..., 0] == PAD_COLOUR[0]) & (sheet[..., 1] == PAD_COLOUR[0])
    assert grey.mean() < 0.003  # no padding; edges of letters are grey, too
    places = places_of(sheet, len(sizes) * panels)
    rows: dict[int, list[tuple[int, int, int, int]]] = {}
    for (left, top, right, bottom), (height, width) in zip(places, np.repeat(sizes, panels, axis=0).tolist(),
                                                           strict=True):
        rows.setdefault((top + bottom) // 2, []).append((left, top, right, bottom))
        assert abs((right - left) - (bottom - top) * width / height) <= max(1.5, 1.5 * width / height)  # its aspect
        assert MARGIN <= left < right <= sheet.shape[1] - MARGIN
    if all(1 / MAX_RATIO <= width / height <= MAX_RATIO for height, width in sizes):
        for row in list(rows.values())[:-1]:
            assert min(left for left, *_ in row) == MARGIN
            assert max(right for _, _, right, _ in row) == sheet.shape[1] - MARGIN
            assert len({(top, bottom) for _, top, _, bottom in row}) == 1


def test_images_keep_their_order_and_pairs_stay_together() -> None:
    sizes = random_sizes(16, 3, 0.4)
    _, groups = groups_of(sizes, 2)
    sheet = compose(Header(), groups)
    places = places_of(sheet, 32)
    assert sorted(places, key=lambda place: (place[1], place[0])) == places
    for left, right in zip(places[::2], places[1::2], strict=True):
        assert left[1] == right[1] and left[3] == right[3] and 0 < right[0] - left[2] <= 4


@pytest.mark.parametrize("sizes", [[(480, 640)] * 16, random_sizes(16, 3, 0.3)], ids=["equal", "mixed"])
def test_images_fill_the_sheet(sizes: list[tuple[int, int]]) -> None:
    _, groups = groups_of(sizes, 2)
    sheet = compose(Header("A title"), groups)
    shown = sum((right - left) * (bottom - top) for left, top, right, bottom in places_of(sheet, 32))
    assert shown > 0.8 * sheet[..., 0].size


def test_the_last_row_is_no_higher_than_the_others() -> None:
    _, groups = groups_of([(480, 640)] * 7)
    rows = justified(groups, 1568)
    assert sum(len(row) for row, _ in rows) == 7
    assert rows[-1][1] <= rows[0][1]
    assert [len(row) for row, _ in justified(groups_of([(100, 100)] * 16)[1], 1568)] == [4, 4, 4, 4]  # no widow


def test_heights_come_close_to_what_is_wanted() -> None:
    for seed in range(20):
        rows = justified(groups_of(random_sizes(16, seed, 0.3))[1], 1568)
        assert all(0.6 * ROW < height < 1.6 * ROW for _, height in rows)


def test_a_sheet_without_images_is_a_header() -> None:
    sheet = compose(Header("Nothing", ("There is nothing to show.",)), [])
    assert sheet.shape[1] == MIN_WIDTH and 40 < sheet.shape[0] < 120
    assert (sheet < 100).any()
    assert (compose(Header(), []) == PAPER).all()


def test_one_image_is_not_blown_up() -> None:
    drawn, groups = groups_of([(30, 40)])
    sheet = compose(Header("One"), groups)
    assert drawn.sizes == [(SINGLE_ROW, SINGLE_ROW * 4 // 3)]
    assert sheet.shape[1] == MIN_WIDTH


def test_the_header_says_what_it_was_given() -> None:
    """Whatever the length of its texts, in the room there is."""
    plain = compose(Header("A title"), [])
    more = compose(Header("A title", ("a line of text " * 30,)), [])
    keys = compose(Header("A title", (), [(label, f"class {label}") for label in range(40)]), [])
    assert len(plain) < len(more) and len(plain) < len(keys)
    assert len(more) > len(plain) + 60  # wrapped
    assert (plain[:40] == more[:40]).all() and (plain[:40] == keys[:40]).all()
    odd = compose(Header("\ud800\x1b[0m" + "x" * 10**5, ("y" * 10**5, "猫 Größe"), [(0, "z" * 10**5)]), [])
    assert odd.shape[1] == MIN_WIDTH and odd.shape[0] < 300
    assert (odd[:, : MARGIN - 4] == 255).all() and (odd[:, -MARGIN + 4 :] == 255).all()


def test_captions_stay_over_their_images() -> None:
    drawn = Drawn()
    long = "a caption that goes on and on" * 10
    group = Group((drawn.panel(300, 100, long), drawn.panel(300, 100, "short")), "name.jpg" * 40)
    sheet = compose(Header(), [group])
    left, right = places_of(sheet, 2)
    above = (sheet[: left[1] - 2] < 200).any(axis=(0, 2))
    assert above[left[0] : left[2]].any() and above[right[0] : right[2]].any()
    assert not above[right[2] + 1 :].any()


def test_texts_are_shortened_in_the_middle() -> None:
    text = "000000123456_a_long_name.jpg"
    for width in (40, 80, 120, 1000):
        short = shortened(text, width, 14)
        assert font_of(14).getlength(short) <= width
        assert short == text if width == 1000 else short[0] == "0" and short[-1] == "g" and "…" in short
    assert shortened(text, 1, 14) == ""
    assert wrapped("one two three", 1000, 14) == ["one two three"]
    assert wrapped("one two three", 60, 14) == ["one two", "three"]


def test_text_beyond_the_canvas_is_cut() -> None:
    canvas = np.full((20, 30, 3), 255, np.uint8)
    write_line(canvas, (10, 10), "a long text", 14, (0, 0, 0))
    write_line(canvas, (50, 50), "outside", 14, (0, 0, 0))
    assert write_line(canvas, (0, 0), "", 14, (0, 0, 0)) == 0
    assert (canvas < 100).any()


def test_images_are_resized_both_ways() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert resized(image, 2, 2).shape == (2, 2, 3) and resized(image, 9, 3).shape == (9, 3, 3)

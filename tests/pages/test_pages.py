"""Pages: everything hostile is text, and a browser shows them without a fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser import opened

from yolov7.pages import Chart, DataTable, Facts, Image, Images, Page, Section, svg_of, write_page
from yolov7.pages.page import cell_text, page_text
from yolov7.pages.style import new_figure

HOSTILE = ["<script>document.title='stolen'</script>", "<img src=x onerror=\"document.title='stolen'\">",
           "'\"><svg onload=alert(1)>", "{{ 7 * 7 }}{% raw %}", "</style><b>", "]]><!--", "javascript:alert(1)",
           "\u202eevil", "a\x1b[31m", "&lt;b&gt;", "#000000 id=\"x\" fill: #000000", "$\\frac{1}{2}$"]
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060"
                    "000000050001a5f645400000000049454e44ae426082")


def hostile_chart() -> Chart:
    figure, (axes,) = new_figure(4, 3, 1)
    axes.plot([1, 2], [1, 2], label=HOSTILE[0])
    axes.set_title(HOSTILE[1], parse_math=False)
    axes.legend()
    return Chart(figure, HOSTILE[2], HOSTILE[0])


@pytest.fixture
def hostile_page(tmp_path: Path) -> Path:
    rows = [{HOSTILE[0]: name, "number": place * 1.5, "empty": None} for place, name in enumerate(HOSTILE)]
    page = Page(HOSTILE[0], [
        Section(HOSTILE[1], [DataTable(rows, HOSTILE[0], HOSTILE[1], marked=[2]), hostile_chart(),
                             Facts({name: name for name in HOSTILE})], HOSTILE[4]),
        Section("images", [Images([Image(PNG, name) for name in HOSTILE], HOSTILE[3], HOSTILE[4])])], HOSTILE[5])
    write_page(tmp_path / "page.html", page)
    return tmp_path / "page.html"


def test_nothing_hostile_becomes_markup(hostile_page: Path) -> None:
    text = hostile_page.read_text(encoding="utf-8")
    assert text.count("<script") == 1 and text.count("<svg") == 1
    for name in HOSTILE[:3]:
        assert name not in text
    assert "{{ 7 * 7 }}" in text and "49" not in re.findall(r"<td[^>]*>49</td>", text)
    assert "\u202e" not in text and "\\u202e" in text and "\x1b" not in text


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_names_as_text(hostile_page: Path, width: int, scheme: str) -> None:
    with opened(hostile_page, width, scheme) as page:
        assert page.title() == HOSTILE[0]
        cells = page.locator("tbody tr td:first-child").all_text_contents()
        assert cells[:6] == HOSTILE[:6]
        assert page.locator("svg text").filter(has_text="<script>").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
        ink, paper = page.evaluate("[getComputedStyle(document.documentElement).color, "
                                   "getComputedStyle(document.documentElement).backgroundColor]")
        assert (sum(map(int, re.findall(r"\d+", ink))) > sum(map(int, re.findall(r"\d+", paper)))) == (scheme == "dark")
        assert page.locator("svg text").first.evaluate("text => getComputedStyle(text).fill") == ink
        assert page.locator("img").first.evaluate("image => image.naturalWidth") == 1


def test_columns_sort_by_keyboard(tmp_path: Path) -> None:
    rows = [{"name": "b10", "number": 2.0}, {"name": "b9", "number": None}, {"name": "a", "number": 30.0}]
    write_page(tmp_path / "p.html", Page("sort", [Section("table", [DataTable(rows)])]))
    with opened(tmp_path / "p.html") as page:
        def first() -> list[str]:
            return [str(text) for text in page.locator("tbody tr td:first-child").all_text_contents()]

        page.keyboard.press("Tab")  # the link to the content
        assert page.evaluate("document.activeElement.className") == "skip"
        while page.evaluate("document.activeElement.textContent") != "name":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert first() == ["a", "b9", "b10"] and page.locator("th[aria-sort=ascending]").count() == 1
        page.keyboard.press("Enter")
        assert first() == ["b10", "b9", "a"]
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert first() == ["b10", "a", "b9"]  # what is not known comes last
        page.keyboard.press("Enter")
        assert first() == ["a", "b10", "b9"]


def test_its_policy_allows_no_other_script(hostile_page: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.html"
    text = hostile_page.read_text(encoding="utf-8")
    changed.write_text(text.replace("</main>", "<script>document.title='stolen'</script></main>"), encoding="utf-8")
    with pytest.raises(AssertionError, match="Content Security Policy|Refused"), opened(changed) as page:
        assert page.title() == HOSTILE[0]


def test_two_charts_do_not_share_ids() -> None:
    first, second = hostile_chart(), hostile_chart()
    other = svg_of(second.figure, "another")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first.svg, other)]
    assert ids[0] and not ids[0] & ids[1]
    assert svg_of(hostile_chart().figure, "another") == other  # the same drawing each time
    assert "#000000 " not in other.replace("#000000 id", "")


@pytest.mark.parametrize(("value", "shown"), [(None, ""), (True, "yes"), (1234567, "1,234,567"), (0.123456, "0.1235"),
                                              ("x", "x"), (float("nan"), "nan")])
def test_cells(value: object, shown: str) -> None:
    assert cell_text(value) == shown


def test_page_is_the_same_each_time() -> None:
    page = Page("same", [Section("table", [DataTable([{"a": 1}]), Facts({"b": 2})])])
    assert page_text(page) == page_text(page)

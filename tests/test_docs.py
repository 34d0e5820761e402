"""What the documentation claims of the tests is so; its commands parse, its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from script_module import load_script

from yolov7.commands.table import COMMANDS
from yolov7.config import parse_arguments

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
SHORT = dict(re.findall(r"`(\w+)` is `(tests/[\w/]+\.py)`", TABLE))
NAMED = sorted(set(re.findall(r"`([\w/.]+)::(\w+)", TABLE)))
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IMAGES = ROOT / "docs" / "images"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[":".join(named) for named in NAMED])
def test_a_named_test_is_there(file: str, name: str) -> None:
    path = ROOT / SHORT.get(file, file)
    assert path.is_file() and re.search(rf"^ *(async )?def {name}\(", path.read_text(encoding="utf-8"), re.M)


def test_the_oldest_torch_reads_weights_safely() -> None:
    """Before 2.10 ``weights_only=True`` ran code (CVE-2026-24747)."""
    floors = re.findall(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert floors and all(tuple(map(int, floor.split("."))) >= (2, 10) for floor in floors)


# --- the first page ----------------------------------------------------------------------------------------------


def test_the_two_commands_come_first() -> None:
    first, second = FENCE.findall(README)[:2]
    assert first[0] == second[0] == "bash"
    assert first[1].strip().endswith("&& .venv/bin/python train.py")
    assert second[1].strip().endswith("&& .venv/bin/pytest")
    assert f"<!-- test command -->\n```bash\n{second[1]}" in README
    assert first[1].count("\n") == second[1].count("\n") == 1


def test_the_first_page_is_read_in_five_minutes() -> None:
    prose = re.sub(r"^\|.*\|$", "", FENCE.sub("", README), flags=re.MULTILINE)
    assert len(prose.split()) < 1100  # and two minutes for commands and tables


def test_the_page_says_what_it_owes() -> None:
    install = README[README.index("## Install"):README.index("## Use")]
    assert "```powershell" in install and "macOS" in install
    assert install.count("--index-url https://download.pytorch.org/whl/cpu") == 2
    weights = README[README.index("## Models"):README.index("## What was measured")]
    assert "GPL-3" in weights and "not part of this project" in weights
    assert "Not verified:" in README and "Apache-2.0" in README


def test_images_are_small_and_all_of_them_are_shown() -> None:
    shown = set(re.findall(r"!\[[^\]]+\]\(docs/images/([\w.]+)\)", README))
    files = {path.name: path.stat().st_size for path in IMAGES.iterdir()}
    assert shown == set(files) - {"images.json"} and sum(files.values()) < 600_000


# --- every page --------------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith("https://"):
            continue
        name, _, place = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.M) if place else ()
        assert not place or place in map(anchor, headings), target


def commands_of(page: Path) -> list[str]:
    """Every line of its code that starts a command of ours."""
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    return [line for kind, text in blocks if kind == "bash" for line in text.replace("\\\n", " ").splitlines()
            if re.match(r"(python|torchrun|yolov7) ", line)]


LINES = [(page.name, line) for page in PAGES for line in commands_of(page)]


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}:{line[:60]}" for page, line in LINES])
def test_commands_are_understood(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "torchrun":
        words = ["python", *words[next(i for i, word in enumerate(words) if word.endswith(".py")):]]
    if words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None
        words = ["yolov7", *words[3:]] if words[2] == "yolov7" else []
    elif words[0] == "python":
        script = words[1]
        assert (ROOT / script).is_file()
        words = ["yolov7", script[:-3], *words[2:]] if "/" not in script else []
    if words:
        name = " ".join(words[1:3]) if words[1] == "data" else words[1]
        parse_arguments(COMMANDS[name][0], words[1 + len(name.split()):], "", "")


def test_the_page_of_flags_is_up_to_date() -> None:
    script = load_script("write_flags")
    assert script.TARGET.read_text(encoding="utf-8") == script.text(), "python scripts/write_flags.py"

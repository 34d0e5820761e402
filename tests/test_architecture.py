"""The floors of the house, the shape of its code, and what its prose may say (docs/architecture.md)."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.untraced  # the code is read here, not run

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "yolov7"
FLOORS = [  # rooms of one floor, in order
    ["boxes", "masks", "keypoints", "structures", "config", "runtime", "pages"],
    ["model", "data"],
    ["loss", "inference", "evaluation", "exporting"],
    ["tasks"],
    ["engine"],
    ["experiments"],
    ["api", "commands"],
    ["functions", "cli", "__main__"],
]
APART = {("model", "data"), ("data", "model"), ("inference", "loss"), ("api", "engine")}
POSITION = {room: (floor, place) for floor, rooms in enumerate(FLOORS) for place, room in enumerate(rooms)}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" and "shipped" not in path.parts)
EVERYWHERE = [*MODULES, *sorted((ROOT / "scripts").glob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file, in the order of `ast.walk`; read once for all tests."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def tree_of(path: Path) -> ast.Module:
    tree = nodes_of(path)[0]
    assert isinstance(tree, ast.Module)
    return tree


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of everything that is imported from the package."""
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "yolov7":
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.startswith("yolov7."))


def imported_rooms(path: Path) -> set[str]:
    names = {f"{module}.{name}" if module == "yolov7" else module for module, name in imports_of(path)}
    return {name.split(".")[1] for name in names} & set(POSITION)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_from_its_floor_or_below(path: Path) -> None:
    room = room_of(path)
    assert room in POSITION, f"{room} has no floor"
    for other in imported_rooms(path) - {room}:
        assert POSITION[other] < POSITION[room], f"{room} imports {other}"
        assert (room, other) not in APART, f"{room} imports {other}"


def test_no_module_imports_in_a_circle() -> None:
    graph = {".".join(path.relative_to(ROOT).with_suffix("").parts): set[str]() for path in MODULES}
    for path in MODULES:
        for node in tree_of(path).body:  # what stands at the top is imported at once
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                graph[".".join(path.relative_to(ROOT).with_suffix("").parts)] |= names & set(graph)
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for other in graph[module]:
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", EVERYWHERE, ids=name_of)
def test_nothing_private_crosses_a_room(path: Path) -> None:
    """Tests of a room may look inside it; scripts and other rooms may not."""
    room = room_of(path) if path.is_relative_to(PACKAGE) else path.relative_to(ROOT / "tests").parts[0] \
        if path.is_relative_to(ROOT / "tests") else ""
    for module, name in imports_of(path):
        own = module.split(".")[1:2] == [room] or (room == "tasks" and module.startswith("yolov7.tasks"))
        private = any(part.startswith("_") and not part.startswith("__") for part in (*module.split("."), name))
        assert own or not private, f"{module}.{name}"


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in nodes_of(path):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def length_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def nesting_of(node: ast.AST, depth: int = 0) -> int:
    """Blocks inside blocks; an ``elif`` is no deeper than its ``if``."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        chained = isinstance(node, ast.If) and [child] == node.orelse and isinstance(child, ast.If)
        inside = isinstance(child, (ast.If, ast.For, ast.While, ast.With, ast.Try)) and not chained
        deepest = max(deepest, nesting_of(child, depth + inside))
    return deepest


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_shape_of_the_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in functions_of(path):
        assert length_of(node) <= 60, node.name
        assert nesting_of(node) <= 3, node.name
    for node in nodes_of(path):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec"), f"line {node.lineno}: {node.func.id}"


def test_functions_are_short() -> None:
    lengths = sorted(length_of(node) for path in MODULES for node in functions_of(path))
    assert statistics.median(lengths) <= 12
    assert lengths[int(0.95 * len(lengths))] <= 40


def test_nothing_is_unpickled() -> None:
    """But for checkpoints of the reference implementation, by an unpickler that looks no class up."""
    for path in MODULES:
        imports = [ast.unparse(node) for node in nodes_of(path) if isinstance(node, (ast.Import, ast.ImportFrom))]
        pickling = [text for text in imports if "pickle" in text.split()[1] and text != "import pickletools"]
        if path == PACKAGE / "model" / "reference" / "reader.py":
            uses = {ast.unparse(node) for node in nodes_of(path)
                    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"}
            assert pickling == ["import pickle"] and uses == {"pickle._Unpickler", "pickle.UnpicklingError"}
            reader = next(ast.unparse(node) for node in nodes_of(path) if isinstance(node, ast.ClassDef)
                          and [ast.unparse(base) for base in node.bases] == ["pickle._Unpickler"])
            assert "def find_class" in reader and "super().find_class" not in reader
        else:
            assert not pickling, path
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load" and (
                    ast.unparse(node.func) == "torch.load"):
                assert "weights_only=True" in ast.unparse(node), path


def test_progress_is_shown_in_one_place() -> None:
    users = {path for path in MODULES for module in modules_of(path) if module.partition(".")[0] == "tqdm"}
    assert users == {PACKAGE / "runtime" / "progress.py"}


def modules_of(path: Path) -> Iterator[str]:
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


# --- prose -------------------------------------------------------------------------------------------------------

REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
HEADINGS = {line.lstrip("#").strip() for line in REFERENCE.splitlines() if line.startswith("#")}
CITATION = re.compile(r"docs/reference\.md[,:]\s+([^.;)\"`]+(?:\([^)]*\))?)")
BOOK_THAT_IS_NOT_HERE = re.compile(r"\bspec(ification)? (of|section|\d)|\bspec, section|\bquirk [A-Z]?\d",
                                   re.IGNORECASE)


@pytest.mark.parametrize("path", EVERYWHERE, ids=name_of)
def test_citations_name_headings(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path == Path(__file__):
        return
    assert not BOOK_THAT_IS_NOT_HERE.search(text), BOOK_THAT_IS_NOT_HERE.search(text)
    for match in CITATION.finditer(text):
        cited = " ".join(match[1].replace("#", " ").split())
        for heading in cited.split(", ") if cited not in HEADINGS else [cited]:
            assert heading in HEADINGS, f"{heading!r} is no heading of docs/reference.md"


# --- what is imported --------------------------------------------------------------------------------------------

LIGHT = """
import sys
import numpy as np
import torch
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec
from yolov7.model import weights
model = Detector(read_spec("yolov7-tiny"), 2)
weights.save(weights.describe(model, ("a", "b"), 64) | {"model": model.state_dict(), "epoch": 0}, sys.argv[1])
import yolov7
yolov7.load(sys.argv[1], device="cpu", precision="fp32")(np.zeros((64, 64, 3), np.uint8))
heavy = [name for name in sys.modules if name.startswith(("yolov7.engine", "yolov7.loss", "tensorboard", "matplotlib"))
         or name in ("av", "supervision", "yolov7.data.web")]
assert not heavy, heavy
"""


def test_loading_and_the_first_prediction_import_neither_engine_nor_loss(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, str(tmp_path / "w.pt")], cwd=ROOT, capture_output=True,
                          text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy() -> None:
    program = ("import sys; from yolov7 import cli; cli.main(['--help']); "
               "assert not {'torch', 'cv2', 'numpy'} & set(sys.modules), sorted(sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False,
                          timeout=60)
    assert done.returncode == 0, done.stderr

"""The floors of the house: a module imports from its own floor's earlier rooms or from floors below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "yolov7"
FLOORS = [  # rooms of one floor, in order
    ["boxes", "structures", "config", "options"],
    ["model", "data"],
    ["loss", "inference", "evaluation", "export"],
    ["engine"],
    ["api", "cli"],
]
APART = {("model", "data"), ("data", "model")}  # the model never sees the data, the data never sees the model
POSITION = {room: (floor, place) for floor, rooms in enumerate(FLOORS) for place, room in enumerate(rooms)}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" and "shipped" not in path.parts)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} if node.module != "yolov7" else {f"yolov7.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    rooms = {name.split(".")[1] for name in names if name.startswith("yolov7.")}
    return {room for room in rooms if room in POSITION}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_from_its_floor_or_below(path: Path) -> None:
    room = room_of(path)
    assert room in POSITION, f"{room} has no floor"
    for other in imported_rooms(path) - {room}:
        assert POSITION[other] < POSITION[room], f"{room} imports {other}"
        assert (room, other) not in APART, f"{room} imports {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_shape_of_the_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec"), f"line {node.lineno}: {node.func.id}"


def test_nothing_is_unpickled() -> None:
    """But for the original's checkpoints, by an unpickler that looks no class up."""
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        pickling = [text for text in imports if "pickle" in text.split()[1]]
        if path.name == "original_reader.py":
            uses = {ast.unparse(node) for node in ast.walk(tree)
                    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"}
            assert pickling == ["import pickle"] and uses == {"pickle.Unpickler", "pickle.UnpicklingError"}
            reader = next(ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
                          and [ast.unparse(base) for base in node.bases] == ["pickle.Unpickler"])
            assert "def find_class" in reader and "super().find_class" not in reader
        else:
            assert not pickling, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), path

"""The tutorial's cells run, from the first to the last, and what they show is what the notebook in docs shows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from script_module import load_script

nbformat = pytest.importorskip("nbformat", reason="needs nbformat, of the extra notebook")
pytest.importorskip("nbclient", reason="needs nbclient, of the extra notebook")
pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra notebook")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, of the extra export")

ROOT = Path(__file__).parents[1]
FEW = """import yolov7
from yolov7.data import synthetic

synthetic.generate.__defaults__ = (64, 16, 0)  # images to train on and to evaluate on
"""
WHOLE = "YOLOV7_TEST_TUTORIAL" in os.environ  # minutes: all epochs
pytestmark = pytest.mark.untraced


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("write_tutorial")


def test_the_notebook_has_the_cells_of_its_script(script: Any) -> None:
    notebook = nbformat.read(script.TARGET, as_version=4)
    nbformat.validate(notebook)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == list(script.CELLS)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code) and sum(bool(cell.outputs) for cell in code) >= 10
    shown = [key for cell in code for output in cell.outputs for key in output.get("data", {})]
    assert shown.count("image/png") + shown.count("image/jpeg") >= 4
    assert script.TARGET.stat().st_size < 1_500_000
    assert "/home/" not in str(notebook) and "/tmp/" not in str(notebook)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_cell_runs(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer epochs and images, as nothing here depends on how well it learns; all with YOLOV7_TEST_TUTORIAL=1."""
    notebook = script.notebook()
    if not WHOLE:
        for cell in notebook.cells:
            cell.source = cell.source.replace("EPOCHS = 8", "EPOCHS = 1").replace("import yolov7\n", FEW)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script.execute(notebook, tmp_path)
    texts = {cell.id: str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"}
    assert "'exit_code'" not in str(texts) and "'text/plain': '0'" in texts["cell-3"]
    assert "image/png" in texts["cell-5"] and "best epoch" in texts["cell-5"]
    assert "circle" in texts["cell-10"] and "image/png" in texts["cell-17"]
    assert (tmp_path / "runs" / "train" / "own" / "weights" / "best.pt").is_file()

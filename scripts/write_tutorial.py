"""Write ``docs/tutorial.ipynb`` anew, run from the first cell to the last: what its cells show was made by them.

``python scripts/write_tutorial.py`` takes some minutes on two cores; it needs the extras ``export`` and ``notebook``.
``tests/test_tutorial.py`` runs the same cells.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "tutorial.ipynb"
BAR = "application/vnd.jupyter.widget-view+json"
LIMIT = 600  # seconds of a cell
WIDTH = 900  # pixels
CELLS: list[tuple[str, str]] = [
    ("markdown", """# From zero to a deployed detector

Everything here also works from the command line: `yolov7.train(data="shapes")` is `yolov7 train --data shapes`, and
the names of all arguments are those of the flags. It takes a few minutes on two cores without a GPU.

`pip install 'yolov7-framework[export]' pandas matplotlib`, then run the cells from the top."""),
    ("code", """from pathlib import Path

from IPython.display import Image

import yolov7

EPOCHS = 8  # of the training; 14 is what the data set suggests
FINE_TUNING_EPOCHS = 8  # of the second one; without it the number of images decides"""),
    ("markdown", """## 1. Look at the data first

`shapes` is built in and made on first use. `check_data` opens every file and decodes every image, as training
will; for data of your own it says what was understood and what is wrong. It takes YOLO, COCO or Roboflow folders."""),
    ("code", """facts = yolov7.check_data(data="shapes")
facts.exit_code  # 0: nothing is wrong"""),
    ("markdown", """## 2. Train

The data set suggests size, batch and learning rate for this model; each decision is printed with its reason.
*Interrupt* would write a checkpoint, and `yolov7.train(resume=True)` would go on from that very step."""),
    ("code", """run = yolov7.train(data="shapes", epochs=EPOCHS, name="first")
run"""),
    ("code", """run.to_pandas().tail()"""),
    ("markdown", """## 3. Look at what it sees

Images with the objects on the left and what was found on the right, of the best epoch."""),
    ("code", """Image(filename=run.folder / "val_predictions.jpg", width=900)"""),
    ("markdown", """## 4. Evaluate

The 12 numbers of COCO, a table by class, curves and the confusion matrix."""),
    ("code", """evaluation = yolov7.test(weights=run.best, data="shapes")
evaluation.to_pandas()"""),
    ("code", """Image(filename=evaluation.folder / "precision_recall.png", width=700)"""),
    ("markdown", """## 5. Fine-tune on data of your own

Sixty images with two classes stand for your own. Recipe, size, epochs and patience follow from the number of images
and from the weights; the head of the run says what was decided and why."""),
    ("code", """own = yolov7.convert_data(data="shapes", to="yolo", output="datasets/own", splits=["train", "val"])
lists = Path("datasets/own")
images = sorted((lists / "images" / "train").iterdir())[:60]
(lists / "few.txt").write_text("".join(f"./images/train/{image.name}\\n" for image in images))
(lists / "few.yaml").write_text(Path(own).read_text().replace("train: images/train", "train: few.txt"))
tuned = yolov7.train(weights=run.best, data=lists / "few.yaml", classes=["circle", "star"],
                     epochs=FINE_TUNING_EPOCHS, name="own")
tuned.metrics"""),
    ("markdown", """## 6. Export

The file is run by its own runtime in a fresh process and compared with the network, box by box."""),
    ("code", """exported = yolov7.export(weights=run.best, format=["onnx"], source="datasets/shapes/images/val")
exported.files"""),
    ("markdown", """## 7. Detect

Weights and exported files are used alike. A result is a table when printed, an image in a notebook; `to_pandas()`,
`to_json()` and `to_supervision()` lead on."""),
    ("code", """model = yolov7.load(exported.files["onnx"])
found = model("datasets/shapes/images/val")  # a folder, an image, an address, an array, ...
print(found[0])
found[0]"""),
    ("code", """found[0].to_pandas()"""),
    ("markdown", """Videos, cameras and streams: `yolov7.detect(weights=..., source="street.mp4")` writes them with
boxes, and `for found in model.stream("street.mp4"): ...` gives frame after frame."""),
]


def notebook() -> NotebookNode:
    """The cells, not yet run."""
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"display_name": "Python 3", "language": "python",
                                                             "name": "python3"}})
    makers = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    made.cells = [makers[kind](source, id=f"cell-{place}") for place, (kind, source) in enumerate(CELLS)]
    return made


def execute(made: NotebookNode, folder: Path) -> None:
    """Run all cells in a folder; raises what a cell raises."""
    NotebookClient(made, timeout=LIMIT, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()


def readable(outputs: list[NotebookNode], folder: Path) -> list[NotebookNode]:
    """Without bars, which show nothing once they are done, with lines put together, and paths from where it ran."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if BAR in output.get("data", {}):
            continue
        if output.output_type == "stream":
            for place in (folder.resolve(), ROOT):
                output.text = output.text.replace(f"{place}/", "")
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        if "image/jpeg" in output.get("data", {}):
            output.data["image/jpeg"] = smaller(output.data["image/jpeg"])
        kept.append(output)
    return kept


def smaller(image: str) -> str:
    """A photograph at the width that the notebook shows, both in base64."""
    small, stream = Image.open(io.BytesIO(base64.b64decode(image))), io.BytesIO()
    small.thumbnail((WIDTH, 4 * WIDTH))
    small.save(stream, "JPEG", quality=80)
    return base64.b64encode(stream.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", help="a folder to run in and to keep")
    arguments = parser.parse_args()
    made = notebook()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments.keep or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["YOLOV7_CACHE_DIR"] = str(folder / "cache")
        execute(made, folder)
    for cell in made.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = readable(cell.outputs, folder)
    made.metadata.pop("widgets", None)
    nbformat.write(made, TARGET)
    print(TARGET, f"{TARGET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(main())

"""Execute the notebooks from top to bottom, each in a fresh kernel, and save their outputs.

    python notebooks/run_all.py                         all of them
    python notebooks/run_all.py notebooks/1_gpt.ipynb   some of them
"""
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def read(path):
    """The notebook in `path`, without the times of day at which its cells ran: they would change it
    at every run."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


def execute(notebook, client=NotebookClient):
    """Run all cells, one by one and without a limit of time, and put what they print into the
    notebook. Raises CellExecutionError where one fails."""
    client(notebook, timeout=None, kernel_name="python3", record_timing=False,
           extra_arguments=["--log-level=ERROR"],
           resources={"metadata": {"path": str(FOLDER)}}).execute()
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if svg := output.get("data", {}).get("image/svg+xml"):
            output.data["image/svg+xml"] = " ".join(svg.split())    # one line: a smaller file
    return notebook


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or sorted(FOLDER.glob("*.ipynb"))):
        start = time.time()
        nbformat.write(execute(read(path)), path)
        took, size = time.time() - start, path.stat().st_size / 1000
        print(f"{path.name}: {took:.0f} s, {size:.0f} kB", flush=True)

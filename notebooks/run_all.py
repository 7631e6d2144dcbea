"""Execute the notebooks from top to bottom, each in a fresh kernel, and save them with fresh outputs.

    python notebooks/run_all.py                         all of them
    python notebooks/run_all.py notebooks/1_gpt.ipynb   some of them
"""
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def execute(path):
    """The notebook in `path`, executed as if all its cells were run one by one; the file is left alone.
    Raises nbclient.exceptions.CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)        # times of day would change the file at every run
    NotebookClient(notebook, timeout=600, kernel_name="python3", record_timing=False, extra_arguments=["--log-level=ERROR"],
                   resources={"metadata": {"path": str(FOLDER)}}).execute()
    return notebook


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or sorted(FOLDER.glob("*.ipynb"))):
        start = time.time()
        notebook = execute(path)
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.time() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB")

"""Run the notebooks and save them with their outputs: `python notebooks/execute.py [NOTEBOOK ...]`."""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TIMEOUT = 600
"""Most time for one cell [s]."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore:IProgress not found"}
"""Environment variables of the kernel. Without ipywidgets tqdm warns that it has none."""


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a fresh kernel on one thread. An error in a cell is raised."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute(env=os.environ | ENVIRONMENT)
    # Leave out the version of Python, so that a notebook with the same results stays the same file.
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main() -> None:
    """Execute the notebooks that are named, by default all, and save them."""
    for path in map(Path, sys.argv[1:]) if len(sys.argv) > 1 else NOTEBOOKS:
        nbformat.write(executed(path), path)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()

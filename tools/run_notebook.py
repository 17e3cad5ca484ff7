"""Run a notebook in a folder of its own, and write it back with its outputs, as the one that ships was.

    python tools/run_notebook.py examples/notebook/digits.ipynb

What tells of the machine and the time of the run is left out, so that git shows what has changed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from dcgan_infer.contract.files import replacing


def execute(path: Path, folder: Path, **parameters: object) -> Any:
    """Run all cells of a notebook.

    Args:
        path: of the notebook, which stays as it is.
        folder: to run in.
        parameters: that take the place of those in the cell tagged `parameters`.
    Returns:
        The notebook with its outputs; a cell with the parameters, if there are any, follows the tagged one.
    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    if parameters:
        (place,) = (at for at, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
        lines = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(lines))
    options = {"resources": {"metadata": {"path": str(folder)}}, "record_timing": False}
    return NotebookClient(notebook, kernel_name="python3", **options).execute()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook
    if not path.is_file():
        parser.error(f"there is no notebook {path}")
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(path, Path(folder))
    language = {"name": "python", "file_extension": ".py"}
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": language}
    with replacing(path) as temporary:
        nbformat.write(notebook, temporary)
    return 0


if __name__ == "__main__":
    sys.exit(main())

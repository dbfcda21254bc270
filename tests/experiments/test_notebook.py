"""The notebook runs from its first cell to its last, and is committed without what it prints."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.helpers.machine import ROOT

NOTEBOOK = ROOT / "experiments" / "notebook.ipynb"
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=1200, kernel_name="python3").execute(cwd=".")
nbformat.write(notebook, "executed.ipynb")
"""


def test_it_is_ten_cells_without_outputs():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    assert len(notebook.cells) == 10
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.slow
def test_it_runs_from_a_folder_of_images_to_a_chart(tmp_path):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, NOTEBOOK], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cells = nbformat.read(tmp_path / "executed.ipynb", 4).cells
    shown = [{kind for output in cell.get("outputs", ()) for kind in output.get("data", ())} for cell in cells]
    assert [number for number, kinds in enumerate(shown) if "image/png" in kinds] == [4, 6, 8, 9]
    frame, scores = (str(cells[number].outputs) for number in (7, 9))
    assert frame.count("autoregressive") >= 4
    assert "fd_digits" in scores
    assert len(list((tmp_path / "images").glob("*/*.png"))) == 1797

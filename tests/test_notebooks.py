"""The notebooks agree with their texts, are fit to be seen, and run from start to end."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LARGEST = 500_000  # bytes

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def assert_clean(notebook):
    """Every cell has run, in order, and left neither warning nor traceback nor a path."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = "".join(output.get("text", "") for output in outputs)
    assert not re.search(r"Warning|(^|[\s'\"])/\w+/", printed)


def test_there_are_notebooks_and_each_has_its_text():
    assert NOTEBOOKS
    assert [path.stem for path in NOTEBOOKS] == sorted(
        path.stem for path in NOTEBOOKS[0].parent.glob("*.py")
    )


@each_notebook
def test_notebook_and_text_agree_in_their_cells(path):
    assert cells(nbformat.read(path, 4)) == cells(jupytext.read(path.with_suffix(".py")))


@each_notebook
def test_the_committed_outputs_are_complete_clean_and_small(path):
    assert_clean(nbformat.read(path, 4))
    assert path.stat().st_size < LARGEST


@pytest.mark.notebooks
@each_notebook
def test_the_short_form_runs_from_start_to_end_without_a_warning(path, monkeypatch):
    monkeypatch.setenv("SALERA_SHORT", "1")
    notebook = jupytext.read(path.with_suffix(".py"))
    strict = nbformat.v4.new_code_cell("import warnings\nwarnings.simplefilter('error')")
    notebook.cells.insert(0, strict)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": path.parent}}).execute()
    assert_clean(notebook)

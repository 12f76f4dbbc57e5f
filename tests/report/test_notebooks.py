"""The runner that executes notebooks in the checks."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("run_notebook", ROOT / "experiments" / "run_notebook.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, *sources):
    cells = [{"cell_type": "code", "source": source.splitlines(keepends=True)} for source in sources]
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": ["# no code"]}, *cells]}))
    return path


def test_cells_share_a_namespace_and_magics_are_left_out(runner, tmp_path, capsys):
    path = write(tmp_path / "n.ipynb", "%pip install x\n!ls\nx = 1", "def f():\n    return x + 1\nprint(f())")
    before = path.read_bytes()
    assert runner.run(path) == 2
    assert capsys.readouterr().out == "2\n"
    assert path.read_bytes() == before


def test_a_failing_cell_is_named(runner, tmp_path):
    with pytest.raises(SystemExit, match="code cell 2 failed: ZeroDivisionError"):
        runner.run(write(tmp_path / "n.ipynb", "x = 0", "1 / x"))


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebooks_carry_no_outputs(runner, path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    for source in runner.code_cells(path):
        compile(source, path.name, "exec")

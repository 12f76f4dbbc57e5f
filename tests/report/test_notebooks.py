"""The runner that executes notebooks in the checks, and what notebooks keep of a run."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def loaded(name):
    """A script of experiments/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runner():
    return loaded("run_notebook")


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
def test_committed_notebooks_show_what_they_did_and_a_picture(runner, path):
    assert path.stat().st_size < 500_000
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    # Names of files on the machine that made them, warnings and failures are none of a reader's business.
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} == {"stdout"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for source in runner.code_cells(path):
        compile(source, path.name, "exec")
    printing = [cell for cell in cells if "print(" in "".join(cell["source"])]
    assert all(cell["outputs"] for cell in printing)


def test_kept_outputs_are_what_was_shown():
    keep_outputs = loaded("keep_outputs")
    printed = [{"output_type": "stream", "name": name, "text": text} for name, text in (
        ("stdout", "a\n"), ("stderr", "Warning"), ("stdout", ["b\n", "c"]),
    )]  # fmt: skip
    picture = {"output_type": "display_data", "data": {"image/png": "…"}}
    cell = {"cell_type": "code", "source": "x\ny", "metadata": {"execution": "now"}, "outputs": [*printed, picture]}
    (kept,) = keep_outputs.tidy({"cells": [cell], "metadata": {}})["cells"]
    assert kept["source"] == ["x\n", "y"] and kept["metadata"] == {}
    assert kept["outputs"] == [{"output_type": "stream", "name": "stdout", "text": ["a\n", "b\n", "c"]}, picture]

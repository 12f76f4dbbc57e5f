"""Execute the code cells of notebooks from top to bottom, each notebook in one namespace; the files stay as they are.

Needs no Jupyter. Lines that only a notebook understands (% and !) are left out. A cell that fails stops the run and its
number is named.

    python experiments/run_notebook.py notebooks/01_kprune_bert.ipynb
"""

import json
import sys
from pathlib import Path


def code_cells(path: Path) -> list[str]:
    """The sources of the code cells, without magics and shell lines."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return ["\n".join(line for line in source.splitlines() if line[:1] not in "%!") for source in sources]


def run(path: Path) -> int:
    """Execute a notebook; returns the number of its code cells."""
    namespace = {"__name__": "__main__"}
    cells = code_cells(path)
    for number, source in enumerate(cells, start=1):
        try:
            exec(compile(source, f"{path.name} cell {number}", "exec"), namespace)
        except Exception as error:
            raise SystemExit(f"{path}: code cell {number} failed: {type(error).__name__}: {error}") from error
    return len(cells)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {run(Path(name))} cells ran")

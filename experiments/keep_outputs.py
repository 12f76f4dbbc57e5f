"""Execute notebooks under Jupyter and keep what they show in their files: what they print, and pictures.

    python experiments/keep_outputs.py notebooks/01_kprune_bert.ipynb

What goes to stderr (progress, warnings of libraries) is left out, and so is when and where cells ran, so that a
file changes where its outputs do. Needs the extra `notebooks`.
"""

import json
import sys
from pathlib import Path
from typing import Any


def shown(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The outputs of a cell without stderr; what was printed in parts is one."""
    kept: list[dict[str, Any]] = []
    for output in outputs:
        if output.get("name") == "stdout" and kept and kept[-1].get("name") == "stdout":
            kept[-1]["text"] = lines([*kept[-1]["text"], *output["text"]])
        elif output.get("name") == "stdout":
            kept.append({**output, "text": lines(output["text"])})
        elif output.get("name") != "stderr":
            kept.append(output)
    return kept


def lines(text: Any) -> list[str]:
    """A text, or parts of one, as a notebook's file has it: a list of lines."""
    return "".join(text).splitlines(keepends=True)


def tidy(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook without what differs from run to run beside its outputs; edits it in place."""
    for cell in notebook["cells"]:
        cell |= {"metadata": {}, "source": lines(cell["source"])}
        if cell["cell_type"] == "code":
            cell["outputs"] = shown(cell["outputs"])
    notebook["metadata"]["language_info"] = {"name": "python"}
    return notebook


def execute(path: Path) -> None:
    import nbformat  # pyright: ignore[reportMissingImports]
    from nbclient import NotebookClient  # pyright: ignore[reportMissingImports]

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=None, record_timing=False, resources={"metadata": {"path": path.parent}}).execute()
    path.write_text(json.dumps(tidy(notebook), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        execute(Path(name))
        print(f"{name}: outputs kept")

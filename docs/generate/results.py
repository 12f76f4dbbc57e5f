"""Tables and families as they stand elsewhere in the repository, so that no figure is written twice."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def table(path: str, name: str, pattern: str = "", root: Path = ROOT) -> str:
    """The table between <!-- name --> and <!-- /name -->; with `pattern` only the rows in which it is found.

    Raises `LookupError` where there is no such table, or none of its rows is meant.
    """
    text = (root / path).read_text(encoding="utf-8")
    match = re.search(rf"<!-- {re.escape(name)} -->\n(.*?)\n<!-- /{re.escape(name)} -->", text, re.DOTALL)
    if match is None:
        raise LookupError(f"{path} has no table {name}")
    head, rule, *rows = match[1].splitlines()
    kept = [row for row in rows if re.search(pattern, row)]
    if not kept:
        raise LookupError(f"no row of the table {name} in {path} has {pattern!r}")
    return "\n".join([head, rule, *kept])


def families() -> str:
    """The families that are read, with the heads of each."""
    from jaxprune.checkpoint.families import FAMILIES

    rows = ["| `model_type` | classes of transformers | heads |", "| --- | --- | --- |"]
    for name, family in FAMILIES.items():
        heads = [head.replace("_", " ").replace("causal lm", "language model") for head in family.heads]
        rows.append(f"| `{name}` | `{family.classes}…` | {', '.join([*heads, 'none'])} |")
    return "\n".join(rows)

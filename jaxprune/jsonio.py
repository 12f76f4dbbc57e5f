"""Values as JSON, and files of them, written beside their names and then renamed; CSV for spreadsheets."""

import contextlib
import csv
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import OutputError


def plain(value: Any) -> Any:
    """`value` as JSON has it: NumPy and JAX scalars as numbers, paths as text, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def dumps(value: Any, indent: int | None = None) -> str:
    """Valid JSON, always: what JSON cannot hold becomes null or text."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def replace_file(path: Path, write: Callable[[Path], Any]) -> Path:
    """Have `write` fill a sibling of `path`, then rename it there, so that no half-written file is ever seen.

    Raises `OutputError` where the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return path


def write_json(path: str | Path, value: Any) -> Path:
    return replace_file(Path(path), lambda part: part.write_text(dumps(value, indent=1) + "\n", encoding="utf-8"))


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """One line per row under a header; columns in the order of their first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(plain(row) for row in rows)

    return replace_file(Path(path), write)

"""Results on disk: CSV for spreadsheets, JSON for programs. A file is written beside its name and then renamed."""

import contextlib
import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..plain import plain


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

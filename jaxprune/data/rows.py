"""JSON-lines files, read so that every complaint names the file and the line."""

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError

CHUNK = 2**18  # bytes read at a time


class Row(NamedTuple):
    """One JSON object of a data file, and where it stands."""

    where: str  # "PATH line N"
    values: dict[str, Any]

    def fail(self, problem: str) -> DataError:
        return DataError(f"{self.where}: {problem}")

    def get(self, field: str) -> Any:
        if field not in self.values:
            found = ", ".join(self.values) or "nothing"
            raise self.fail(f'field "{field}" is missing (found: {found}); add it.')
        return self.values[field]

    def text(self, field: str, blank: bool = False) -> str:
        """A string field; a blank one only where the data set is known to have them."""
        value = self.get(field)
        if not isinstance(value, str):
            raise self.fail(f'field "{field}" must be a string, got {shown(value)}.')
        if not blank and not value.strip():
            raise self.fail(f'field "{field}" is blank; give it a text or drop the line.')
        return value

    def number(self, field: str) -> float:
        value = self.get(field)
        # The comparison is False for NaN, and safe for integers that no float holds.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise self.fail(f'field "{field}" must be a finite number, got {shown(value)}.')
        return float(value)


def shown(value: Any) -> str:
    """A value as a message shows it: short, one line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def decode(path: Path) -> str:
    """The whole text of a file; errors as `decoded`."""
    return "".join(decoded(path))


def decoded(path: Path) -> Iterator[str]:
    """The text of a file in parts, so that a large one need not fit the memory.

    Raises DataError where it cannot be read or is not UTF-8, naming the line.
    """
    decoder, lines = codecs.getincrementaldecoder("utf-8-sig")(), 0
    try:
        with path.open("rb") as file:
            while content := file.read(CHUNK):
                yield decoder.decode(content)
                lines += content.count(b"\n")
        yield decoder.decode(b"", final=True)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check the path.") from error
    except UnicodeDecodeError as error:  # its object begins with what was left of the part before: no line ends there
        line = lines + error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); convert it."
        ) from error


def lines_of(parts: Iterable[str]) -> Iterator[str]:
    """The lines of a text that comes in parts, without their ends."""
    # Not splitlines(): it would also cut at separators such as U+2028, which JSON strings may hold as they are.
    open_line: list[str] = []
    for part in parts:
        first, *others = part.split("\n")
        open_line.append(first)
        for line in others:
            yield "".join(open_line)
            open_line = [line]
    yield "".join(open_line)


def read_rows(path: Path) -> list[Row]:
    """The objects of a JSON-lines file, blank lines skipped. Raises DataError, also where there are none."""
    rows = list(iter_rows(path))
    if not rows:
        raise DataError(f"{path} is empty; it needs one JSON object a line.")
    return rows


def iter_rows(path: Path) -> Iterator[Row]:
    """The objects of a JSON-lines file one by one, none where it is empty; errors as `read_rows`."""
    for number, line in enumerate(lines_of(decoded(path)), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", error)
            raise DataError(f"{where}: not JSON ({reason}): {shown(line.strip())}") from error
        if not isinstance(values, dict):
            raise DataError(f"{where}: expected a JSON object, got {shown(values)}.")
        yield Row(where, values)

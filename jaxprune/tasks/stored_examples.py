"""Examples that stay in their JSON lines: of files of any size a place in the file is in memory for each, no more."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from ..errors import DataError
from .example import Example
from .file_text import READ_BYTES, check_no_table
from .hub import Hub, Source, Spool
from .jsonl import SUFFIXES, Row, is_json, iter_rows


@dataclass(frozen=True, eq=False)
class _Part:
    """The rows of one file."""

    path: Path
    name: str  # of a row, before its number: "FILE line"
    numbers: np.ndarray  # [rows]: of lines, from 1
    starts: np.ndarray  # [rows]: bytes before each line
    state: tuple[int, int]  # size and time of the file when it was looked at
    spool: Spool | None = None  # keeps a temporary file

    def row(self, file: Any, row: int) -> Row:
        file.seek(int(self.starts[row]))
        where = f"{self.name} {self.numbers[row]}"
        try:
            values = json.loads(file.readline().decode("utf-8-sig"))
        except ValueError as error:
            raise DataError(f"{where}: the file has changed since it was first read; start anew.") from error
        return Row(where, values)


@dataclass(frozen=True, eq=False)
class StoredExamples(Sequence[Example]):
    """Examples that are read from files, each time anew."""

    parts: tuple[_Part, ...]
    read: Callable[[Row], Example]
    chosen: np.ndarray | None = None  # numbers of the rows that are meant; None: all

    def __len__(self) -> int:
        return self._there if self.chosen is None else len(self.chosen)

    @property
    def _there(self) -> int:
        return sum(len(part.starts) for part in self.parts)

    def picked(self, rows: Sequence[int] | np.ndarray) -> "StoredExamples":
        """Those of these numbers, in this order."""
        rows = np.asarray(rows, np.int64)
        return replace(self, chosen=rows if self.chosen is None else self.chosen[rows])

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "StoredExamples": ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.picked(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return next(iter(self.picked([range(len(self))[index]])))

    def __iter__(self) -> Iterator[Example]:
        ends = np.cumsum([len(part.starts) for part in self.parts])
        rows = range(self._there) if self.chosen is None else self.chosen
        opened, file = -1, None
        try:
            for row in rows:
                number = int(np.searchsorted(ends, row, side="right"))
                part = self.parts[number]
                if number != opened:
                    if file is not None:
                        file.close()
                    opened, file = number, _open(part)
                yield self.read(part.row(file, int(row) - int(ends[number]) + len(part.starts)))
        finally:
            if file is not None:
                file.close()


def stored_examples(sources: Iterable[Source], read: Callable[[Row], Example]) -> StoredExamples:
    """The examples of several files, or rows of the hub, one after another; `read` makes one of a row.

    Every row is read once now, so that what is wrong with one is said at once. What is no plain file of JSON lines
    (gzip, an array, a pipe, the hub) is copied to a temporary one. Raises `DataError`.
    """
    return StoredExamples(tuple(_part(source, read) for source in sources), read)


def _part(source: Source, read: Callable[[Row], Example]) -> _Part:
    path = None if isinstance(source, Hub) else Path(source)
    if path is not None:
        _check_json(path)
    numbers: list[int] = []
    name = f"{source} row"

    def seen(rows: Iterable[Row]) -> Iterator[Any]:
        nonlocal name
        for row in rows:
            read(row)
            name, _, number = row.where.rpartition(" ")
            numbers.append(int(number))
            yield row.values

    plain = path is not None and _is_lines(path)
    if plain:
        assert path is not None
        for _ in seen(iter_rows(path)):
            pass
        spool, starts = None, _line_starts(path)[np.array(numbers, np.int64) - 1]
    else:
        spool = Spool(seen(source.rows() if isinstance(source, Hub) else iter_rows(Path(source))))
        path = spool.path
        starts = _line_starts(path)[:-1]
    if not numbers:
        raise DataError(f"{source} holds no rows; it needs one JSON object a line.")
    state = os.stat(path)
    return _Part(path, name, np.array(numbers, np.int64), starts, (state.st_size, state.st_mtime_ns), spool)


def _check_json(path: Path) -> None:
    """Raise DataError for what is no file of JSON objects by its name."""
    if path.is_dir() or not path.exists():
        raise DataError(f"{path} is not a file; name JSON lines.")
    check_no_table(path, "write JSON lines.")
    if path.is_file() and not is_json(path):
        raise DataError(f"{path} is not called JSON ({', '.join(SUFFIXES)}); write JSON lines, and call it so.")


def _is_lines(path: Path) -> bool:
    """Whether a file can be read from the beginning of any line: no pipe, no gzip, no array."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        begin = file.read(READ_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    return begin[:1] == b"{"


def _line_starts(path: Path) -> np.ndarray:
    """The bytes before each line of a file."""
    ends, done = [np.zeros(1, np.int64)], 0
    with path.open("rb") as file:
        while content := file.read(READ_BYTES):
            ends.append(np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n")) + done + 1)
            done += len(content)
    return np.concatenate(ends)


def _open(part: _Part) -> Any:
    """Raises `DataError` where the file is not the one that was looked at."""
    try:
        file = part.path.open("rb")
    except OSError as error:
        raise DataError(f"{part.path} cannot be read: {error.strerror or error}; check the path.") from error
    state = os.fstat(file.fileno())
    if (state.st_size, state.st_mtime_ns) != part.state:
        file.close()
        raise DataError(f"{part.path} has changed since it was first read; start anew.")
    return file

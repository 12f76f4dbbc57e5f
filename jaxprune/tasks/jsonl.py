"""Data files of JSON objects or of plain lines, read so that every complaint names the file and the line."""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from .plain_text import COLUMNS, LabelColumns, not_plain

FIELDS = ("text", "text_pair")  # of a text and its second text
READ_BYTES = 2**18  # bytes read at a time
# What a file of JSON objects may be called.
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_TABLES = (".csv", ".tsv", ".parquet", ".arrow", ".feather", ".xlsx", ".xls")
# How files begin that are taken for text by mistake.
_BINARY = (
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


class Row(NamedTuple):
    """One JSON object of a data file, and where it stands."""

    where: str  # "PATH line N", of an array "PATH entry N", both from 1
    values: dict[str, Any]

    def fail(self, problem: str) -> DataError:
        return DataError(f"{self.where}: {problem}")

    def get(self, field: str) -> Any:
        if field not in self.values:
            fields = ", ".join(self.values) or "nothing"
            raise self.fail(f'field "{field}" is missing (found: {fields}); add it.')
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
    """The text of a file, plain or gzip, in parts, so that a large one need not fit the memory.

    Raises DataError where it cannot be read or is not UTF-8, naming the line.
    """
    decoder, lines, begin = codecs.getincrementaldecoder("utf-8-sig")(), 0, b""
    try:
        for content in _contents(path):
            begin = begin or content
            part = decoder.decode(content)
            if not lines and "\0" in begin[:2].decode("utf-8", "ignore"):
                # ASCII written as UTF-16 without a mark is UTF-8 too
                raise DataError(f"{path} is UTF-16 or binary, expected text in UTF-8; convert it.")
            yield part
            lines += content.count(b"\n")
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        kind = next((name for start, name in _BINARY if begin.startswith(start)), None)
        if kind is not None:
            raise DataError(f"{path} is {kind}, expected text in UTF-8, plain or gzip; convert it.") from error
        # The object begins with what was left of the part before, in which no line ends.
        line, wrong = lines + error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise DataError(f"{path} line {line}: not UTF-8 (byte 0x{wrong:02x}); convert it.") from error


def _contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file in parts, unzipped."""
    try:
        with path.open("rb") as file:
            zipped = file.peek(2)[:2] == b"\x1f\x8b"
            source = gzip.GzipFile(fileobj=file) if zipped else file
            while content := source.read(READ_BYTES):
                yield content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged gzip ({error}); copy it anew.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check the path.") from error


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


def is_json(path: Path) -> bool:
    """Whether a file is called JSON, in one of the ways that `read_rows` reads."""
    return path.name.lower().endswith(SUFFIXES)


def check_no_table(path: Path, cure: str) -> None:
    """Raise DataError for a file that is called a table: its columns would be taken for text."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(_TABLES):
        raise DataError(f"{path} is a table ({name[name.rindex('.') :]}), which is not read; {cure}")


def split_file(folder: Path, name: str) -> Path | None:
    """The file that holds a split: NAME.jsonl, .json, .jsonl.gz or .json.gz. Raises DataError where there are two."""
    there = [file for suffix in SUFFIXES if (file := folder / f"{name}{suffix}").is_file()]
    if len(there) > 1:
        raise DataError(f"{folder} has {' and '.join(file.name for file in there)}; keep the one that is meant.")
    return there[0] if there else None


def read_rows(path: Path) -> list[Row]:
    """The objects of a JSON file: one a line, blank lines skipped, or an array. Raises DataError, also for none."""
    return rows_of(path, decode(path))


def rows_of(path: Path, text: str) -> list[Row]:
    """`read_rows` of a text that was read from `path`."""
    rows = _array(path, text)
    rows = list(_lines(path, lines_of([text]))) if rows is None else rows
    if not rows:
        raise DataError(f"{path} is empty; it needs one JSON object a line, or an array of them.")
    return rows


def read_texts(path: Path, paired: bool = True) -> tuple[list[str], list[str] | None]:
    """The texts of a file, and their second texts where they have them; `paired` and errors as `iter_texts`."""
    pairs = list(iter_texts(path, paired))
    return [text for text, _ in pairs], [pair for _, pair in pairs if pair is not None] or None


def iter_texts(path: Path, paired: bool = True, fields: tuple[str, str] = FIELDS) -> Iterator[tuple[str, str | None]]:
    """Every text of a file and its second text, one by one.

    Of a file called JSON the `fields`, "text" and "text_pair"; else one text a line, a tab before a second one, blank
    lines skipped. Not `paired`, a tab is part of the text. Raises DataError, also where some have a second text and
    others none, and where what is called plain text is JSON, a table (once all lines are read) or an archive.
    """
    check_no_table(path, "write one text a line, or JSON lines.")
    if is_json(path):
        rows = iter_rows(path)
        texts = ((row.where, row.text(fields[0]), second_text(row, fields[1]) if paired else None) for row in rows)
    else:
        texts = _plain_lines(path, paired)
    second = None
    for where, text, pair in texts:
        second = pair is not None if second is None else second
        if (pair is not None) != second:
            here, first = ("one text", "two") if second else ("two texts", "one")
            raise DataError(f"{where} has {here}, the first {first}; make them alike.")
        yield text, pair
    if second is None:
        raise DataError(f"{path} holds no texts; write one a line.")


def second_text(row: Row, name: str = FIELDS[1]) -> str | None:
    """The field of that name, None where it is null or missing."""
    return row.text(name) if row.values.get(name) is not None else None


def _plain_lines(path: Path, paired: bool) -> Iterator[tuple[str, str, str | None]]:
    columns = LabelColumns()
    for number, line in enumerate(lines_of(decoded(path)), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        if not columns.rows and (wrong := not_plain(line, "texts" if paired else "prompts")):
            raise DataError(f"{path} {wrong}")
        columns.see(line)
        texts, where = line.split("\t") if paired else [line], f"{path} line {number}"
        if len(texts) > 2:
            raise DataError(f"{where} has {len(texts)} columns; write one text, or two with a tab between them.")
        if not all(text.strip() for text in texts):
            raise DataError(f"{where}: one of its two texts is blank; drop the tab, or the line.")
        yield where, texts[0], texts[1] if len(texts) == 2 else None
    if paired and (wrong := columns.wrong()):
        raise DataError(f"{path} {wrong}")


def _array(path: Path, text: str) -> list[Row] | None:
    """The objects of a file that is one JSON array; None where it is something else."""
    if not text.lstrip().startswith("["):
        return None
    try:
        entries = _loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # lines of one array each, which is not this
            return None
        raise _not_json(f"{path} line {error.lineno}", error, text.split("\n")[error.lineno - 1]) from error
    except (ValueError, RecursionError) as error:
        raise _not_json(f"{path} line 1", error, text.lstrip().partition("\n")[0]) from error
    if entries and not any(isinstance(entry, dict) for entry in entries):
        return None
    return [_row(f"{path} entry {number}", entry) for number, entry in enumerate(entries, start=1)]


def iter_rows(path: Path) -> Iterator[Row]:
    """The objects of a JSON file one by one, of an array only all at once; errors as `read_rows`."""
    first = next((part.lstrip()[0] for part in decoded(path) if part.strip()), "")
    if first == "[" or not first:
        yield from read_rows(path)
    else:
        yield from _lines(path, lines_of(decoded(path)))


def _lines(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    first = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            values = _loads(line)
        except (ValueError, RecursionError) as error:
            if first and (whole := _object(decode(path))) is not None:
                _row(str(path), whole)
                raise DataError(f"{path} is one object over several lines; write one a line, or an array.") from error
            raise _not_json(where, error, line) from error
        first = False
        yield _row(where, values)


class _Twice(ValueError):
    """A key that an object has twice: Python's reader would take the last one, and say nothing."""


def _loads(text: str) -> Any:
    """The value of a JSON text. Raises `_Twice`, and what json.loads raises."""
    return json.loads(text, object_pairs_hook=_each_once)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return values


def _object(text: str) -> dict[str, Any] | None:
    """The object that a whole text is; None where it is something else."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return whole if isinstance(whole, dict) else None


def _row(where: str, values: Any) -> Row:
    """Raises DataError for what is no object, and for a table's columns, as pandas and datasets write them."""
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a JSON object, got {shown(values)}.")
    columns = [column for column in values.values() if isinstance(column, list | dict)]
    if len(columns) == len(values) > 0 and len({len(column) for column in columns}) == 1 and COLUMNS & values.keys():
        raise DataError(
            f"{where} holds the columns of a table ({', '.join(values)}), expected an object for each text; write the "
            "rows, one a line."
        )
    return Row(where, values)


def _not_json(where: str, error: Exception, line: str) -> DataError:
    if isinstance(error, _Twice):
        return DataError(f'{where}: field "{error}" is there twice; keep the one that is meant.')
    reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", error)
    return DataError(f"{where}: not JSON ({reason}): {shown(line.strip())}")

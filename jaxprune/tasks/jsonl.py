"""Data files of JSON objects or of plain lines, read so that every complaint names the file and the line."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from .file_text import check_no_table, decode, decoded, lines_of
from .plain_text import COLUMNS, QUOTED, LabelColumns, not_plain, quoted

FIELDS = ("text", "text_pair")  # of a text and its second text
# What the split that is scored is called elsewhere; the first is our own name.
SCORED = ("validation", "val", "valid", "dev", "eval")
# What a second text is called by mistake, in lower-case letters and digits.
SECOND = ("textpair", "text2", "textb")
# What a file of JSON objects may be called.
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")


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


def is_json(path: Path) -> bool:
    """Whether a file is called JSON, in one of the ways that `read_rows` reads."""
    return path.name.lower().endswith(SUFFIXES)


def split_file(folder: Path, name: str) -> Path | None:
    """The file that holds a split: NAME.jsonl, .json, .jsonl.gz or .json.gz; validation is called dev, too (`SCORED`).

    Raises DataError where there are two.
    """
    names = SCORED if name == SCORED[0] else (name,)
    there = [file for name in names for suffix in SUFFIXES if (file := folder / f"{name}{suffix}").is_file()]
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


@dataclass
class Unread:
    """What a file of texts has that is not read, found while they are."""

    blank: list[int] = field(default_factory=list)  # lines of plain text with others behind them, from 1
    titles: int = 0  # objects with a "title" beside their text

    def doubts(self, source: str, by_row: bool) -> tuple[str, ...]:
        """The same in words; lines that are skipped only where texts are told by their row alone."""
        out = ()
        if self.blank and by_row:
            out += (
                f"{source} has blank lines before others ({len(self.blank)}, the first is line {self.blank[0]}): they "
                "are no texts and have no row, so that rows are not numbered as lines are.",
            )
        if self.titles:
            out += (
                f'{source} has a "title" beside {self.titles} of its texts, which is not read; the task retrieval puts '
                "it before the text: write it there to do the same.",
            )
        return out


def read_texts(path: Path, paired: bool = True, prompts: bool = False) -> tuple[list[str], list[str] | None]:
    """The texts of a file, and their second texts where they have them; the rest and errors as `iter_texts`."""
    pairs = list(iter_texts(path, paired, prompts=prompts))
    return [text for text, _ in pairs], [pair for _, pair in pairs if pair is not None] or None


def iter_texts(
    path: Path,
    paired: bool = True,
    fields: tuple[str, str] = FIELDS,
    prompts: bool = False,
    unread: Unread | None = None,
) -> Iterator[tuple[str, str | None]]:
    """Every text of a file and its second text, one by one.

    Of a file called JSON the `fields`, "text" and "text_pair"; else one text a line, a tab before a second one, blank
    lines skipped. Not `paired`, a tab is part of the text; `prompts` may begin JSON that a model is to go on with, and
    end in labels. `unread` is told of what is left out. Raises DataError, also where some have a second text and others
    none, and where what is called plain text is JSON, a table (once all lines are read) or an archive.
    """
    check_no_table(path, "write one text a line, or JSON lines.")
    unread = Unread() if unread is None else unread
    texts = _objects(path, paired, fields, unread) if is_json(path) else _plain_lines(path, paired, prompts, unread)
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
    """The field of that name, None where it is null or missing. Raises DataError where it is called otherwise."""
    check_called(row, name, SECOND)
    return row.text(name) if row.values.get(name) is not None else None


def check_called(row: Row, name: str, alike: Sequence[str]) -> None:
    """Raise DataError for a field that is not called `name`, and nearly so: as one of `alike`."""
    near = [key for key in row.values if key != name and re.sub(r"[\W_]+", "", key.casefold()) in alike]
    if near:
        cure = "drop one of the two" if name in row.values else f'call it "{name}"'
        beside = f' beside "{name}"' if name in row.values else ""
        raise row.fail(f'field "{near[0]}"{beside} is not read; {cure}.')


def _objects(
    path: Path, paired: bool, fields: tuple[str, str], unread: Unread
) -> Iterator[tuple[str, str, str | None]]:
    for row in iter_rows(path):
        unread.titles += bool(str(row.values.get("title") or "").strip())
        yield row.where, row.text(fields[0]), second_text(row, fields[1]) if paired else None


def _plain_lines(path: Path, paired: bool, prompts: bool, unread: Unread) -> Iterator[tuple[str, str, str | None]]:
    columns, blank = LabelColumns(paired), []
    for number, line in enumerate(lines_of(decoded(path)), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            blank.append(number)
            continue
        unread.blank += blank
        blank.clear()
        if not columns.rows and (wrong := not_plain(line, "prompts" if prompts else "texts")):
            raise DataError(f"{path} {wrong}")
        if "\0" in line:
            raise DataError(
                f"{path} line {number} has a NUL, which no text has: it was damaged, or is none; copy it anew."
            )
        if "\r" in line.rstrip():  # all that is known of old Mac files
            raise DataError(f"{path} line {number} has a carriage return within; end lines by a newline.")
        columns.see(line)
        texts, where = line.split("\t") if paired else [line], f"{path} line {number}"
        if paired and quoted(texts):
            raise DataError(f"{where} has quotes that are written twice, as in CSV; {QUOTED}.")
        if len(texts) > 2:
            raise DataError(f"{where} has {len(texts)} columns; write one text, or two with a tab between them.")
        if not all(text.strip() for text in texts):
            raise DataError(f"{where}: one of its two texts is blank; drop the tab, or the line.")
        yield where, texts[0], texts[1] if len(texts) == 2 else None
    if not prompts and (wrong := columns.wrong()):
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
    halves = _ESCAPED_HALF.search(text) is not None
    return [_row(f"{path} entry {number}", entry, halves) for number, entry in enumerate(entries, start=1)]


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
        yield _row(where, values, _ESCAPED_HALF.search(line) is not None)


_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character that takes two of them, as emoji do


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


def _row(where: str, values: Any, halves: bool = False) -> Row:
    """Raises DataError for what is no object, and for a table's columns, as pandas and datasets write them; with
    `halves`, also for an escape of half a character whose other half is not there.
    """
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a JSON object, got {shown(values)}.")
    if halves:
        try:
            json.dumps(values, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where} has a lone surrogate, U+{ord(error.object[error.start]):04X}: half of a character that was "
                "cut in two; correct or drop the text."
            ) from error
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

"""What the labels of one's own texts mean: the kind of task, its classes, and the number of every label."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .example import ClassesFrom, Kind, Label
from .jsonl import Row, shown

MOST_CLASSES = 100_000  # a larger class number is a mistake, such as an identifier
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_WORDS = {"list": "a list", "truth": "true or false", "integer": "a number", "name": "a name"}


class Labels(NamedTuple):
    """How to read the labels of a task."""

    kind: Kind
    names: tuple[str, ...] = ()  # of the classes
    classes_from: ClassesFrom = "names"
    number: Callable[[Row], Label | None] = lambda row: None  # None: the row has no label


def read_labels(rows: Sequence[Row], names: tuple[str, ...] | None) -> Labels:
    """What the labels of these rows mean, all splits together; `names` are those of labels.json.

    Integers, names and truth values are classes; lists of them several classes at once, or where they hold 0 and 1 with
    a point, or true and false, one entry a class; numbers with a point are a regression. A label that is missing or
    null, or -1 where classes are numbered, is none. Raises DataError for what could mean two things.
    """
    forms: dict[str, Row] = {}  # the first row of each
    for row in rows:
        if (form := _form(row)) is not None:
            forms.setdefault(form, row)
    if "point" in forms:  # 3 among 2.5 and 4.0 is a number, a name is not
        if names is not None:
            value = shown(forms["point"].values["label"])
            raise forms["point"].fail(f"label {value} has a point, but labels.json names classes; write integers.")
        return Labels("regression", ("score",), number=lambda row: None if _form(row) is None else row.number("label"))
    forms.pop("filler", None)
    if not forms:
        return Labels("unlabelled")
    if len(forms) > 1 and (names is None or set(forms) != {"integer", "name"}):
        first, other = list(forms)[:2]
        raise forms[other].fail(
            f"label is {_WORDS[other]} here, {_WORDS[first]} in {forms[first].where}; write all labels alike."
        )
    labelled = [row for row in rows if _form(row) not in (None, "filler")]
    read = _several if "list" in forms else _single
    column = read(labelled, names)
    return column._replace(
        number=lambda row: None if _form(row) in (None, "filler") else column.number(row),
    )


def _form(row: Row) -> str | None:
    """How a row's label is written: "list", "truth", "point", "integer", "name", "filler" (-1), None (missing)."""
    value = row.values.get("label")
    if value is None:
        return None
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, float):
        if math.isnan(value):
            raise row.fail("label is NaN; write null where there is no label.")
        return "point"
    if isinstance(value, int):
        return "filler" if value == -1 else "integer"
    if isinstance(value, str):
        if not value.strip():
            raise row.fail("label is blank; write null where there is no label.")
        return "name"
    if isinstance(value, list):
        return "list"
    raise row.fail(f"label must be an integer, a name, a number or a list of classes, got {shown(value)}.")


def _single(rows: Sequence[Row], names: tuple[str, ...] | None) -> Labels:
    """Labels that are one class each."""
    source: ClassesFrom = "names"
    if names is None:
        names, source = _collected(rows, lambda row: [row.values["label"]])
    index = {name: number for number, name in enumerate(names)}
    return Labels("single_label", names, source, lambda row: class_number(row, row.values["label"], names, index))


def _several(rows: Sequence[Row], names: tuple[str, ...] | None) -> Labels:
    """Labels that are lists: the classes that hold, or 0 and 1 for every class."""
    width = _entries_a_class(rows, names)
    if width is not None:
        names, source = (names, "names") if names is not None else (tuple(map(str, range(width))), "entries")
        hot = lambda row: tuple(number for number, entry in enumerate(row.values["label"]) if entry)  # noqa: E731
        return Labels("multi_label", names, source, hot)
    source: ClassesFrom = "names"
    if names is None:
        names, source = _collected(rows, lambda row: row.values["label"])
    index = {name: number for number, name in enumerate(names)}

    def number(row: Row) -> Label:
        several = tuple(class_number(row, each, names, index) for each in row.values["label"])
        if len(set(several)) < len(several):
            raise row.fail(
                f"label {shown(row.values['label'])} names a class twice; list the classes that hold, each once, or in "
                "every row 0 and 1 for each class."
            )
        return several

    return Labels("multi_label", names, source, number)


def _entries_a_class(rows: Sequence[Row], names: tuple[str, ...] | None) -> int | None:
    """The entries of lists that hold 0 and 1 for every class; None where lists name the classes that hold.

    Raises DataError where both can be meant, and where numbers with a point or truth values are no such lists.
    """
    lists: list[list[Any]] = [row.values["label"] for row in rows]
    plain = next((row for row in rows if any(isinstance(entry, bool | float) for entry in row.values["label"])), None)
    width = len((plain or rows[0]).values["label"] if names is None else names)
    # One list that is longer or shorter, or that holds something else, tells.
    odd = next((row for row in rows if len(row.values["label"]) != width or not _zeros_and_ones(row)), None)
    if plain is not None:
        if odd is None:
            return width
        raise odd.fail(
            f"label {shown(odd.values['label'])} must be 0 or 1 for each of {width} classes, as lists with points "
            f"or truth values are ({plain.where}); or name in all rows the classes that hold."
        )
    if odd is not None or not width:
        return None
    if all(len(set(entries)) == len(entries) for entries in lists):
        raise rows[0].fail(
            f"label {shown(lists[0])} can be the classes that hold, or 0 and 1 for each of {width} classes, and so "
            f"can all others; write names ({shown(list(names or 'ab')[:width])}) for the first, a point "
            f"({shown([float(entry) for entry in lists[0]])}) for the second."
        )
    return width


def _zeros_and_ones(row: Row) -> bool:
    return all(isinstance(entry, bool | int | float) and entry in (0, 1) for entry in row.values["label"])


def class_number(row: Row, value: Any, names: tuple[str, ...], index: Mapping[str, int], what: str = "label") -> int:
    """The number of a class, from its number, its name, or true and false where it is called that."""
    numbered: Any = value
    if isinstance(value, bool):
        alike = [number for number, name in enumerate(names) if name.casefold() == str(value).casefold()]
        numbered = alike[0] if len(alike) == 1 else None
    elif isinstance(value, str):
        numbered = index.get(value)
    if not isinstance(numbered, int) or not 0 <= numbered < len(names):
        raise row.fail(f"{what} {shown(value)} is none of the {len(names)} classes ({shown(names)}); correct it.")
    return numbered


def _collected(rows: Sequence[Row], values: Callable[[Row], list[Any]]) -> tuple[tuple[str, ...], ClassesFrom]:
    """Names for classes that nobody named: the names used, sorted, or the numbers up to the largest used."""
    used: dict[Any, Row] = {}
    for row in rows:
        for value in values(row):
            if isinstance(value, list | dict) or value is None or (isinstance(value, str) and not value.strip()):
                raise row.fail(f"label {shown(row.values['label'])} holds {shown(value)}; list names or numbers.")
            used.setdefault(value, row)
    texts = {value: row for value, row in used.items() if isinstance(value, str)}
    if texts and len(texts) < len(used):
        value, row = next((value, row) for value, row in used.items() if not isinstance(value, str))
        raise row.fail(f"label {shown(value)} is a number, others are names; write all labels alike.")
    if any(isinstance(value, bool) for value in used):
        return ("False", "True"), "names"
    if texts:
        return _sorted_names(texts), "sorted names"
    for value, row in used.items():
        if value >= MOST_CLASSES:
            raise row.fail(f"label {shown(value)} is too large for a class; number the classes from 0.")
    return tuple(str(number) for number in range(max(used, default=0) + 1)), "numbers"


def _sorted_names(used: dict[str, Row]) -> tuple[str, ...]:
    """The names in sorted order, whole numbers by their size. Raises DataError for names that differ by accident."""
    if all(_NUMBER.fullmatch(name) for name in used):
        pointed = next((name for name in used if not re.fullmatch(r"[+-]?\d+", name)), None)
        if pointed is not None:
            raise used[pointed].fail(
                f"label {shown(pointed)} is a number in quotes; write it without, or name classes."
            )
        return tuple(sorted(used, key=lambda name: (int(name), name)))
    alike: dict[str, str] = {}
    for name, row in used.items():
        other = alike.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            raise row.fail(
                f"label {shown(name)} differs from {shown(other)} in case or blanks only; write them alike, or list "
                "both in labels.json."
            )
    return tuple(sorted(used))

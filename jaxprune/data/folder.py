"""Labelled texts of your own: a folder with train.jsonl and validation.jsonl."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from .rows import Row, decode, read_rows, shown
from .task import Example, Kind, Task, length_fields

Label = int | float | tuple[int, ...]
METRICS: Mapping[Kind, tuple[str, ...]] = {
    "single_label": ("accuracy",),
    "multi_label": ("f1", "f1_macro", "accuracy"),
    "regression": ("pearson", "spearman"),
}
MOST_CLASSES = 100_000  # a larger class number is a mistake, such as an identifier


def folder(path: str | Path, *, max_length: int | None = None) -> Task:
    """A classification or regression task from JSON lines with `text`, optional `text_pair`, and `label`.

    The labels decide the kind: integers or names are classes; lists of them, several classes at once; numbers with a
    point, a regression. Names are numbered as in labels.json (a JSON list) if that is there, else in sorted order.
    `path` is a folder with validation.jsonl (else test.jsonl) and, to calibrate on, train.jsonl; or one file, which
    is then scored and nothing is left to calibrate on. Beside a validation.jsonl, test.jsonl may be without labels
    (or have -1 or null in their place); it is then not scored. `max_length` is the most tokens of a text (None: 128);
    longer ones are cut, with a warning.
    """
    path = Path(path)
    files = _files(path)
    splits = {split: read_rows(file) for split, file in files.items()}
    hidden = ()
    if {"validation", "test"} <= set(splits) and all(row.values.get("label") in (None, -1) for row in splits["test"]):
        del splits["test"]
        hidden = ("test",)
    kind, labels, number = _labels(splits, _names(path.parent if path.is_file() else path))
    examples = {split: tuple(_example(row, number) for row in rows) for split, rows in splits.items()}
    train = examples.pop("train", ())
    scored = examples.pop("validation") if "validation" in examples else examples["test"]
    return Task(
        name="text-classification",
        kind=kind,
        labels=labels,
        metric=METRICS[kind][0],
        beside=METRICS[kind][1:],
        train=train,
        validation=scored,
        source=str(path),
        others=examples,
        hidden=hidden,
        **length_fields(max_length),
    )


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {"validation": path}
    files = {split: path / f"{split}.jsonl" for split in ("train", "validation", "test")}
    files = {split: file for split, file in files.items() if file.is_file()}
    if "validation" not in files and "test" not in files:
        raise DataError(f"{path} has no validation.jsonl (nor test.jsonl) to score on; add it.")
    return files


def _example(row: Row, number: Callable[[Row], Label]) -> Example:
    pair = row.text("text_pair") if row.values.get("text_pair") is not None else None
    return Example(row.text("text"), pair, number(row))


def _names(path: Path) -> tuple[str, ...] | None:
    file = path / "labels.json"
    if not file.exists():
        return None
    try:
        names = json.loads(decode(file))
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error}); write a list of label names.") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file} must be a JSON list of label names, got {shown(names)}.")
    if len(set(names)) < len(names):
        raise DataError(f"{file} names a label twice; every class needs its own name.")
    return tuple(names)


def _labels(
    splits: Mapping[str, list[Row]], names: tuple[str, ...] | None
) -> tuple[Kind, tuple[str, ...], Callable[[Row], Label]]:
    """The kind of task that the labels of all splits make, the names of its classes, and how to number a label."""
    rows = [row for split in splits.values() for row in split]
    kind = _kind(rows)
    if kind == "regression":
        return kind, ("score",), lambda row: row.number("label")
    names = names or _collected(rows)
    index = {name: number for number, name in enumerate(names)}

    def one(row: Row, value: Any) -> int:
        found = index.get(value) if isinstance(value, str) else value
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < len(names):
            raise row.fail(f"label {shown(value)} is none of the {len(names)} classes ({shown(names)}); correct it.")
        return found

    def number(row: Row) -> Label:
        value = row.get("label")
        if kind == "single_label":
            return one(row, value)
        several = tuple(one(row, each) for each in value)
        if len(set(several)) < len(several):
            raise row.fail(f"label {shown(value)} names a class twice; list the classes that hold, each once.")
        return several

    return kind, names, number


def _kind(rows: list[Row]) -> Kind:
    kinds: dict[Kind, Row] = {}
    for row in rows:
        value = row.get("label")
        if isinstance(value, list):
            kinds.setdefault("multi_label", row)
        elif isinstance(value, float):
            kinds.setdefault("regression", row)
        elif isinstance(value, int | str) and not isinstance(value, bool):
            kinds.setdefault("single_label", row)
        else:
            raise row.fail(f"label must be an integer, a name, a number or a list of classes, got {shown(value)}.")
    if set(kinds) == {"single_label", "regression"}:  # 3 among 2.5 and 4.0 is a number, a name is not
        return "regression"
    if len(kinds) > 1:
        row = kinds["multi_label"]
        raise row.fail("label is a list of classes here and a single one elsewhere; make every label a list.")
    return next(iter(kinds))


def _collected(rows: list[Row]) -> tuple[str, ...]:
    """Names for classes that nobody named: the names used, sorted, or the numbers up to the largest used."""
    names: set[str] = set()
    classes = 1
    for row in rows:
        label = row.get("label")
        for value in label if isinstance(label, list) else [label]:
            if isinstance(value, str):
                names.add(value)
            elif isinstance(value, int):
                if value >= MOST_CLASSES:
                    raise row.fail(f"label {shown(value)} is too large for a class; number the classes from 0.")
                classes = max(classes, value + 1)
    return tuple(sorted(names)) or tuple(str(number) for number in range(classes))

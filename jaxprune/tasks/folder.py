"""Labelled texts of your own: a folder with train.jsonl and validation.jsonl."""

import json
from collections.abc import Sequence
from pathlib import Path

from ..checks import checked
from ..errors import DataError
from .example import Example, length_fields
from .file_text import check_no_table, decode
from .jsonl import SECOND, Row, check_called, read_rows, second_text, shown, split_file
from .kinds import KINDS
from .label_columns import Labels, read_labels
from .task import Task

_NAMES = 16  # of classes, up to which a few rows may have more than different texts


@checked
def folder(path: str | Path, *, max_length: int | None = None) -> Task:
    """A classification or regression task from JSON lines with `text`, optional `text_pair`, and `label`.

    The labels decide the kind. Integers, names, or true and false are classes. Lists are several classes at once: of
    names or integers those that hold; of 0.0 and 1.0, or true and false, one entry a class; lists of integers that can
    be either are an error. Numbers with a point are a regression. Names are numbered as in labels.json (a JSON list) if
    that is there, else in sorted order. A text without a label (none, null, or -1) calibrates; scoring and training on
    its split are errors.

    `path` is a folder with validation.jsonl (or val, valid, dev, eval; else test.jsonl) and, to calibrate on,
    train.jsonl; or one file, which is then scored and nothing is left to calibrate on. Files may also be JSON arrays
    (.json) and gzip (.gz). `max_length` is the most tokens of a text (None: 128); longer ones are cut, with a warning.
    """
    path = Path(path)
    splits = {split: without_fillers(read_rows(file)) for split, file in split_files(path).items()}
    rows = [row for split in splits.values() for row in split]
    _check_fields(rows)
    labels = read_labels(rows, label_names(path))
    examples = {
        split: tuple(Example(row.text("text"), second_text(row), labels.number(row)) for row in rows)
        for split, rows in splits.items()
    }
    _check_not_swapped(rows)
    return own_task("text-classification", labels, KINDS[labels.kind].scores, examples, path, max_length)


def own_task(
    name: str,
    labels: Labels,
    scores: tuple[str, ...],
    examples: dict[str, tuple[Example, ...]],
    path: Path,
    max_length: int | None,
) -> Task:
    """The task of a folder's examples, by split: those of "validation" are scored, else those of "test"."""
    others = {split: entries for split, entries in examples.items() if split not in ("train", "validation")}
    return Task(
        name=name,
        kind=labels.kind,
        labels=labels.names,
        classes_from=labels.classes_from,
        metric=scores[0],
        beside=scores[1:],
        train=examples.get("train", ()),
        validation=examples.get("validation", others.get("test", ())),
        source=str(path),
        others=others,
        **length_fields(max_length),
    )


def split_files(path: Path) -> dict[str, Path]:
    """The files of a folder by split, or the one file, which is scored. Raises DataError where there is none."""
    if path.is_file():
        check_no_table(path, "write JSON lines with text and label.")
        return {"validation": path}
    files = {split: file for split in ("train", "validation", "test") if (file := split_file(path, split)) is not None}
    if not files:
        there = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
        beside = f" (found: {', '.join(there[:5])}{', …' if len(there) > 5 else ''})" if there else ""
        raise DataError(f"{path} has no train.jsonl, validation.jsonl or test.jsonl{beside}; add them.")
    return files


def without_fillers(rows: list[Row], *fields: str) -> list[Row]:
    """The rows of a split; without their label, or `fields`, where all are -1: that is for none, even among ratings."""
    fields = fields or ("label",)
    if any(row.values.get(field) not in (None, -1) for row in rows for field in fields):
        return rows
    return [row._replace(values={key: value for key, value in row.values.items() if key not in fields}) for row in rows]


def _check_fields(rows: list[Row]) -> None:
    """Raise DataError for a field whose name is not quite ours, and a second text that only some rows have."""
    for row in {tuple(row.values): row for row in reversed(rows)}.values():
        check_called(row, "label", ("label", "labels"))
        check_called(row, "text_pair", SECOND)
    paired = next((row for row in rows if row.values.get("text_pair") is not None), None)
    bare = next((row for row in rows if "text_pair" not in row.values), None)
    if paired is not None and bare is not None:
        raise bare.fail(f'field "text_pair" is missing, {paired.where} has one; write null for a single text.')


def _check_not_swapped(rows: Sequence[Row]) -> None:
    """Raise DataError where there are more names of classes than texts, and not by accident."""
    texts = {(row.values["text"], row.values.get("text_pair")) for row in rows}
    names = {row.values["label"] for row in rows if isinstance(row.values.get("label"), str)}
    if len(names) > max(len(texts), _NAMES):
        raise rows[0].fail(
            f"there are {len(names)} different labels and {len(texts)} different texts; text and label may have "
            "changed places."
        )


def label_names(path: Path) -> tuple[str, ...] | None:
    """What labels.json in a folder, or beside a file, calls the classes; None without it.

    Raises DataError for anything but names.
    """
    file = (path.parent if path.is_file() else path) / "labels.json"
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

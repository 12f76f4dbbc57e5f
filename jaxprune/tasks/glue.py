"""The nine GLUE tasks, from local JSON-lines files or from the hub."""

import re
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..checks import checked
from ..errors import DataError
from .example import Example, length_fields
from .jsonl import Row, read_rows, shown, split_file
from .task import Task

HUB = "nyu-mll/glue"


class Glue(NamedTuple):
    """What sets one GLUE task apart."""

    fields: tuple[str, ...]  # names of the one or two texts
    labels: tuple[str, ...]  # in the numbering of the data; one name for a regression
    metric: str = "accuracy"
    beside: tuple[str, ...] = ()  # further metrics
    validation: tuple[str, ...] = ("validation",)  # names of the split that is scored; the first found is taken
    beside_it: tuple[str, ...] = ()  # names of splits that are scored along with it
    others: tuple[str, ...] = ("test",)
    blank: bool = False  # the data set has blank texts


ENTAILMENT = ("entailment", "not_entailment")
PAIR = ("sentence1", "sentence2")
GLUE = MappingProxyType(
    {
        "cola": Glue(("sentence",), ("unacceptable", "acceptable"), "matthews"),
        "sst2": Glue(("sentence",), ("negative", "positive")),
        "mrpc": Glue(PAIR, ("not_equivalent", "equivalent"), beside=("f1",)),
        "stsb": Glue(PAIR, ("similarity",), "pearson", beside=("spearman",)),
        "qqp": Glue(("question1", "question2"), ("not_duplicate", "duplicate"), beside=("f1",), blank=True),
        "mnli": Glue(
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            validation=("validation_matched", "validation"),
            beside_it=("validation_mismatched",),
            others=(),
        ),
        "qnli": Glue(("question", "sentence"), ENTAILMENT),
        "rte": Glue(PAIR, ENTAILMENT),
        "wnli": Glue(PAIR, ("not_entailment", "entailment")),
    }
)


_SPELT = {re.sub(r"[\W_]+", "", name): name for name in GLUE}  # SST-2, STS-B, CoLA


@checked
def glue(name: str, path: str | Path | None = None, *, max_length: int | None = None) -> Task:
    """A GLUE task from PATH/NAME/*.jsonl (or PATH/*.jsonl; .json and .gz will do), or from the hub where that is None.

    The files carry the task's own field names. Texts without a label (none, null, or -1) calibrate; scoring and
    training on their split are errors. `max_length` is the most tokens of a text (None: 128); longer ones are cut, with
    a warning.
    """
    if name not in GLUE:
        raise DataError(f'"{name}" is not a GLUE task; choose from {", ".join(GLUE)}.')
    row = GLUE[name]
    source, splits = _from_hub(name) if path is None else _from_files(name, Path(path))
    scored = next((split for split in row.validation if split in splits), None)
    others = {key: _examples(row, splits[key]) for key in (*row.beside_it, *row.others) if key in splits}
    return Task(
        name=name,
        kind="regression" if name == "stsb" else "single_label",
        labels=row.labels,
        metric=row.metric,
        beside=row.beside,
        scored_beside=row.beside_it,
        train=_examples(row, splits.get("train", [])),
        validation=_examples(row, splits[scored]) if scored else (),
        source=source,
        others=others,
        **length_fields(max_length),
    )


def _examples(row: Glue, rows: Iterable[Row]) -> tuple[Example, ...]:
    return tuple(
        Example(
            entry.text(row.fields[0], row.blank),
            entry.text(row.fields[1], row.blank) if len(row.fields) == 2 else None,
            _label(row, entry),
        )
        for entry in rows
    )


def _label(row: Glue, entry: Row) -> int | float | None:
    """The class or the number; None where it is missing, null, or -1, as on the texts whose labels GLUE keeps."""
    if entry.values.get("label", -1) in (None, -1):
        return None
    if row.metric == "pearson":
        return entry.number("label")
    value = entry.get("label")
    if value in row.labels:
        return row.labels.index(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(row.labels):
        names = ", ".join(f"{index} {name}" for index, name in enumerate(row.labels))
        raise entry.fail(f"label must be one of {names}; got {shown(value)}.")
    return value


def _from_files(name: str, path: Path) -> tuple[str, dict[str, list[Row]]]:
    folder = path / name if (path / name).is_dir() else path
    other = _SPELT.get(re.sub(r"[\W_]+", "", folder.absolute().name.casefold()))
    if other not in (None, name):  # several have columns of the same names
        raise DataError(f"{folder} is called as the task {other}, and {name} is asked for; give the folder of {name}.")
    row = GLUE[name]
    files = {split: split_file(folder, split) for split in ("train", *row.validation, *row.beside_it, *row.others)}
    if not any(files.values()):
        raise DataError(f"no files of {name} under {path}; expected {path / name / row.validation[0]}.jsonl.")
    return str(folder), {split: read_rows(file) for split, file in files.items() if file is not None}


def _from_hub(name: str) -> tuple[str, dict[str, list[Row]]]:
    return f"{HUB} ({name})", from_hub(HUB, name)


def from_hub(dataset: str, config: str | None = None) -> dict[str, list[Row]]:
    """The splits of a hub data set. Raises DataError, in one line, for whatever went wrong."""
    shortly = f"{dataset} {config or ''}".strip()
    try:
        import datasets

        splits: Any = datasets.load_dataset(dataset, config)
        return {
            key: [Row(f"{shortly} {key} row {number}", dict(entry)) for number, entry in enumerate(rows)]
            for key, rows in splits.items()
        }
    except Exception as error:  # the package raises a dozen kinds, most of them for "no network"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{shortly} does not load from the hub: {reason}; check the network, or name local files."
        ) from error

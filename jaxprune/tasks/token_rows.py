"""Texts that are token ids already: rows of whole numbers, with a mask of what is padding; and a task of such rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checks import checked
from ..errors import DataError
from .example import ClassesFrom, Example, Kind, Label, TokenIds
from .kinds import KINDS
from .task import Task
from .token_arrays import token_texts


@checked
def of_ids(
    ids: Any, mask: Any, labels: Any = None, *, types: Any = None, metric: str | None = None,
    source: str = "given token ids",
) -> Task:  # fmt: skip
    """A task of texts that are token ids already: `jaxprune.evaluate` scores it and no tokenizer is asked.

    `ids`, `mask` and `types` are those of `Calibration.of_ids`: whole numbers [texts, length], 1 on tokens and 0 on
    padding. `labels` are whole numbers [texts], the model's classes; numbers with a point [texts], values of a
    regression; or 0 and 1 [texts, classes], the classes that hold. Without labels the rows are a language model's text,
    each on its own: scored is the perplexity of every token but a row's first. `metric` names another primary metric
    than the kind's usual one (accuracy, pearson, f1): "matthews", "spearman", "f1_macro", … Raises `DataError`, naming
    the row.
    """
    texts, kinds = token_texts(ids, mask, types, "row")
    if not texts:
        raise DataError("there are no rows of token ids to score; give at least one.")
    kind, names, classes_from, values = _labels(labels, len(texts))
    if KINDS[kind].running:
        short = next((number for number, row in enumerate(texts) if len(row) < 2), None)
        if short is not None:
            raise DataError(f"row {short} has one token, so that nothing is predicted in it; drop it.")
    rows = (TokenIds(*row) for row in zip(texts, kinds, strict=True))
    examples = tuple(Example("", None, label, tokens) for tokens, label in zip(rows, values, strict=True))
    scores = KINDS[kind].scores
    return Task(
        name="token ids",
        kind=kind,
        labels=names,
        metric=metric or scores[0],
        train=(),
        validation=examples,
        source=source,
        max_length=max(map(len, texts)),
        beside=tuple(name for name in scores if name != (metric or scores[0])),
        classes_from=classes_from,
    )


def _labels(labels: Any, count: int) -> tuple[Kind, tuple[str, ...], ClassesFrom, Sequence[Label | None]]:
    """The kind of labels, the names of their classes, what these are from, and one label a row."""
    if labels is None:
        return "language", (), "names", [None] * count
    values = np.asarray(labels)
    if len(values) != count if values.ndim else True:
        raise DataError(
            f"labels are {values.shape} for {count} rows of token ids; give one, or one line, for each row."
        )
    if values.ndim == 1 and values.dtype.kind in "iub":
        negative = np.flatnonzero(values.astype(np.int64) < 0)
        if negative.size:
            raise DataError(
                f"row {negative[0]} has the label {values[negative[0]]}; classes count from 0, drop others."
            )
        names = tuple(map(str, range(int(values.max()) + 1)))
        return "single_label", names, "numbers", values.astype(np.int64).tolist()
    if values.ndim == 1 and np.issubdtype(values.dtype, np.floating):
        odd = np.flatnonzero(~np.isfinite(values))
        if odd.size:
            raise DataError(f"row {odd[0]} has the label {values[odd[0]]}, expected a finite number; drop it.")
        return "regression", ("score",), "names", values.astype(float).tolist()
    if values.ndim == 2 and values.dtype.kind in "iubf":
        odd = np.flatnonzero(~np.isin(values, (0, 1)).all(axis=1))
        if odd.size:
            raise DataError(f"row {odd[0]} has labels beside 0 and 1; write 1 for each class that holds.")
        held = [tuple(np.flatnonzero(row).tolist()) for row in values]
        return "multi_label", tuple(map(str, range(values.shape[1]))), "entries", held
    raise DataError(f"labels are {values.dtype} of shape {values.shape}; give numbers, [texts] or [texts, classes].")

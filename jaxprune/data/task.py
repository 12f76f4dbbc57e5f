"""What a task is: examples, labels, a metric; and the calibration texts drawn from it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from ..checks import check_seed
from ..errors import DataError

Kind = Literal["single_label", "multi_label", "regression", "question_answering", "language"]
FEW = 64  # calibration texts below which we warn


class Answers(NamedTuple):
    """The right answers to a question, as texts and as first characters in the context; none: not answerable."""

    id: str
    texts: tuple[str, ...]
    starts: tuple[int, ...]


class Example(NamedTuple):
    """A text, or a pair of texts, and its label.

    A class index, a number (regression), the indices of the classes that hold (multi-label), or `Answers`, where the
    text is the question and the pair its context.
    """

    text: str
    pair: str | None
    label: int | float | tuple[int, ...] | Answers | None


@dataclass(frozen=True)
class Calibration:
    """Texts that a method measures a model on, or their token ids; their labels are not used."""

    examples: tuple[Example, ...]  # in the order drawn
    source: str
    seed: int | None = None  # None: not drawn, given
    max_length: int = 128  # tokens
    kind: Kind | None = None
    warnings: tuple[str, ...] = ()
    windows: int | None = None  # of running text: how many windows of `max_length` tokens are drawn
    ids: tuple[tuple[int, ...], ...] = ()  # token ids of every text, in place of `examples`
    types: tuple[tuple[int, ...], ...] = ()  # token types of every text, where ids are given

    def __post_init__(self):
        if not self.examples and not self.ids:
            raise DataError("there are no calibration texts; give at least one, better 512.")

    @property
    def count(self) -> int:
        """Texts, or windows of a running text."""
        return len(self.ids or self.examples) if self.windows is None else self.windows

    @property
    def hash(self) -> str:
        """SHA-256 of the texts, or of their token ids and types, in their order."""
        digest = hashlib.sha256()
        for pair in zip(self.ids, self.types, strict=True):
            digest.update(json.dumps(pair).encode())
        for example in self.examples:
            digest.update(json.dumps([example.text, example.pair], ensure_ascii=False).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @staticmethod
    def of_texts(
        texts: Sequence[str], pairs: Sequence[str] | None = None, *, max_length: int = 128, source: str = "given texts"
    ) -> "Calibration":
        """Calibrate on any texts; `pairs` are their second texts where the model reads pairs."""
        if isinstance(texts, str):
            raise DataError("texts must be a sequence of strings, got one string; pass [text].")
        if pairs is not None and len(pairs) != len(texts):
            raise DataError(f"{len(texts)} texts and {len(pairs)} second texts; there must be as many.")
        others = [None] * len(texts) if pairs is None else pairs
        examples = tuple(Example(text, pair, None) for text, pair in zip(texts, others, strict=True))
        for number, example in enumerate(examples):
            if not isinstance(example.text, str) or not example.text.strip():
                raise DataError(f"calibration text {number} is {example.text!r}; give a text that is not blank.")
        return Calibration(examples, source, max_length=max_length, warnings=_few(len(examples)))

    @staticmethod
    def of_ids(ids: Any, mask: Any, *, types: Any = None, source: str = "given token ids") -> "Calibration":
        """Calibrate on texts that are token ids already: no tokenizer is asked, and nothing is added or cut.

        `ids`, whole numbers [texts, length], and `mask` of the same shape, 1 on tokens and 0 on padding (left or
        right), as tokenizers give them (`input_ids`, `attention_mask`); `types` likewise, where a model tells the two
        texts of a pair apart. A mask of None says that every slot is a token; only then may texts differ in length.
        Raises `DataError`.
        """
        table = [_whole_numbers(row, f"ids of calibration text {number}") for number, row in enumerate(ids)]
        masks = [np.ones_like(row) for row in table] if mask is None else _beside(table, mask, "mask")
        kinds = [np.zeros_like(row) for row in table] if types is None else _beside(table, types, "types")
        for number, row in enumerate(masks):
            if not np.isin(row, (0, 1)).all():
                raise DataError(f"mask of calibration text {number} has values beside 0 and 1; 1 marks a token.")
            if not row.any():
                raise DataError(f"calibration text {number} has no tokens; drop it.")
        chosen = [row.astype(bool) for row in masks]
        texts, kinds = (
            tuple(tuple(row[keep].tolist()) for row, keep in zip(rows, chosen, strict=True)) for rows in (table, kinds)
        )
        longest = max(map(len, texts), default=1)
        return Calibration((), source, max_length=longest, warnings=_few(len(texts)), ids=texts, types=kinds)


@dataclass(frozen=True)
class Task:
    """Labelled texts and how to score predictions on them."""

    name: str
    kind: Kind
    labels: tuple[str, ...]  # names of the classes; empty where there are none
    metric: str  # name of the primary metric
    train: tuple[Example, ...]  # may be empty
    validation: tuple[Example, ...]
    source: str
    max_length: int = 128  # tokens of a text, special tokens included
    beside: tuple[str, ...] = ()  # names of further metrics
    others: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)  # further splits, such as "test"
    windows: int | None = None  # of running text: the first so many are scored (all: None)
    hidden: tuple[str, ...] = ()  # splits that are there without labels, so that nothing can be scored on them

    def split(self, name: str) -> tuple[Example, ...]:
        """The labelled examples of a split. Raises DataError where there is none of that name, or without labels."""
        splits = {"train": self.train, "validation": self.validation, **self.others}
        if not splits.get(name):
            found = ", ".join(key for key, examples in splits.items() if examples)
            problem = "no labels" if name in self.hidden else "no examples"
            raise DataError(f'{self.name} from {self.source} has {problem} in split "{name}"; labelled are {found}.')
        return splits[name]

    def calibration(self, count: int = 512, seed: int = 0) -> Calibration:
        """`count` different training rows, in the order `RandomState(seed).choice(n, count, replace=False)` draws them.

        Doubts (few texts, texts that are evaluation texts too) are the result's `warnings`.
        """
        if count < 1:
            raise DataError(f"{count} calibration samples; ask for at least one, better 512.")
        check_seed(seed)
        if not self.train:
            cure = "calibration=FILE" if self.kind == "language" else "Calibration.of_texts(texts)"
            raise DataError(
                f"{self.name} from {self.source} has no training texts to calibrate on; "
                f"{'' if self.kind == 'language' else 'add train.jsonl there, or '}pass {cure} (--calibration-texts)."
            )
        if self.kind == "language":
            from .text import language_calibration

            return language_calibration(self, count, seed)
        if count > len(self.train):
            raise DataError(
                f"{count} calibration samples, but {self.name} has {len(self.train)} training texts; ask for fewer."
            )
        rows = np.random.RandomState(seed).choice(len(self.train), count, replace=False)
        examples = tuple(self.train[row] for row in rows)
        warnings = _few(count) + _overlap(examples, self.validation)
        return Calibration(examples, f"{self.source} (train)", seed, self.max_length, self.kind, warnings)


def _whole_numbers(row: Any, what: str) -> np.ndarray:
    """One text's row as int64. Raises `DataError` for what are no whole numbers, or not one row."""
    found = np.asarray(row)
    if found.ndim != 1 or found.dtype.kind not in "iub":
        raise DataError(f"{what}: expected a row of whole numbers, got {found.dtype} of shape {found.shape}.")
    return found.astype(np.int64)


def _beside(table: Sequence[np.ndarray], rows: Any, name: str) -> list[np.ndarray]:
    """Rows of the same lengths as those of `table`. Raises `DataError` where they differ."""
    found = [_whole_numbers(row, f"{name} of calibration text {number}") for number, row in enumerate(rows)]
    if [len(row) for row in found] != [len(row) for row in table]:
        raise DataError(f"{name} and ids must have the same shape; give one number for every token id.")
    return found


def _few(count: int) -> tuple[str, ...]:
    if count >= FEW:
        return ()
    return (f"only {count} calibration texts: scores and refits will be noisy; 512 is a good number.",)


def _overlap(examples: Sequence[Example], scored: Sequence[Example]) -> tuple[str, ...]:
    def key(example: Example) -> Any:
        return tuple(" ".join(text.casefold().split()) for text in (example.text, example.pair or ""))

    known = {key(example) for example in scored}
    shared = sum(key(example) in known for example in examples)
    if not shared:
        return ()
    return (f"{shared} of {len(examples)} calibration texts are evaluation texts too: the score will flatter.",)

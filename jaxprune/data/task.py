"""What a task is: examples, labels, a metric; and the calibration texts drawn from it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np

from ..checks import check_seed
from ..errors import DataError

Kind = Literal["single_label", "multi_label", "regression", "question_answering", "language"]
FEW = 64  # calibration texts below which we warn
MAX_LENGTH = 128  # tokens of a text, where nobody asks for another number


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
    """Texts that a method measures a model on; their labels are not used."""

    examples: Sequence[Example]  # in the order drawn
    source: str
    seed: int | None = None  # None: not drawn, given
    max_length: int = MAX_LENGTH  # tokens of a text, special tokens included; a longer one is cut, with a warning
    kind: Kind | None = None
    warnings: tuple[str, ...] = ()
    windows: int | None = None  # of running text: how many windows of `max_length` tokens are drawn
    strict_length: bool = False  # true: `max_length` was asked for, so that a model which reads less is an error

    def __post_init__(self):
        if not self.examples:
            raise DataError("there are no calibration texts; give at least one, better 512.")

    @property
    def count(self) -> int:
        """Texts, or windows of a running text."""
        return len(self.examples) if self.windows is None else self.windows

    @property
    def hash(self) -> str:
        """SHA-256 of the texts in their order."""
        from .running import RunningText

        digest = hashlib.sha256()
        if isinstance(self.examples, RunningText):  # the same, but part by part
            parts = (json.dumps(chunk, ensure_ascii=False)[1:-1] for chunk in self.examples.chunks())
            written: Iterable[str] = chain(['["'], parts, ['", null]'])
        else:
            written = (json.dumps([example.text, example.pair], ensure_ascii=False) for example in self.examples)
        for part in written:
            digest.update(part.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @staticmethod
    def of_texts(
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        source: str = "given texts",
    ) -> "Calibration":
        """Calibrate on any texts; `pairs` are their second texts where the model reads pairs.

        `max_length` is the most tokens of a text (None: 128, or as many as the model reads if that is less).
        """
        if isinstance(texts, str):
            raise DataError("texts must be a sequence of strings, got one string; pass [text].")
        if pairs is not None and len(pairs) != len(texts):
            raise DataError(f"{len(texts)} texts and {len(pairs)} second texts; there must be as many.")
        others = [None] * len(texts) if pairs is None else pairs
        examples = tuple(Example(text, pair, None) for text, pair in zip(texts, others, strict=True))
        for number, example in enumerate(examples):
            if not isinstance(example.text, str) or not example.text.strip():
                raise DataError(f"calibration text {number} is {example.text!r}; give a text that is not blank.")
        return Calibration(examples, source, warnings=_few(len(examples)), **length_fields(max_length))


@dataclass(frozen=True)
class Task:
    """Labelled texts and how to score predictions on them."""

    name: str
    kind: Kind
    labels: tuple[str, ...]  # names of the classes; empty where there are none
    metric: str  # name of the primary metric
    train: Sequence[Example]  # may be empty
    validation: Sequence[Example]
    source: str
    max_length: int = MAX_LENGTH  # tokens of a text, special tokens included; a longer one is cut, with a warning
    beside: tuple[str, ...] = ()  # names of further metrics
    others: Mapping[str, Sequence[Example]] = field(default_factory=dict)  # further splits, such as "test"
    windows: int | None = None  # of running text: the first so many are scored (all: None)
    hidden: tuple[str, ...] = ()  # splits that are there without labels, so that nothing can be scored on them
    strict_length: bool = False  # true: `max_length` was asked for, so that a model which reads less is an error

    def split(self, name: str) -> Sequence[Example]:
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
        return Calibration(
            examples, f"{self.source} (train)", seed, self.max_length, self.kind, warnings,
            strict_length=self.strict_length,
        )  # fmt: skip


def length_fields(asked: int | None, default: int = MAX_LENGTH) -> dict[str, Any]:
    """The fields `max_length` and `strict_length` of a task or calibration: what was asked for, else `default`."""
    if asked is not None and asked < 1:
        raise DataError(f"texts of {asked} tokens were asked for; ask for at least 1.")
    return {"max_length": default if asked is None else asked, "strict_length": asked is not None}


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

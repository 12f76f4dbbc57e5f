"""What a task is: examples, labels, a metric; and the calibration texts drawn from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..checks import check_seed, check_types, checked
from ..errors import DataError
from .calibration import Calibration, check_count, draw_rows, drawn_windows, few_texts, overlap
from .example import MAX_LENGTH, ClassesFrom, Example, Kind, picked
from .kinds import KINDS

CALIBRATION = "calibration"  # the split to calibrate on, where that is not the training texts


@dataclass(frozen=True)
class Task:
    """Labelled texts and how to score predictions on them.

    A metric of your own, for tasks with one answer a text, is a function of the predicted and the true labels, with its
    name in `own_metrics`: `replace(task, metric="cost", own_metrics={"cost": minus_cost})`. Both are arrays in the
    task's numbering: [texts] of classes or numbers, or of several classes a text [texts, labels] of 0 and 1; a
    prediction outside the task's classes is -1. It gives a finite number, of which more is better: training keeps the
    epoch with the highest. The name is what records and JSON say.
    """

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
    scored_beside: tuple[str, ...] = ()  # names of further splits that are scored along with "validation"
    nullable: bool = False  # of questions: some have no answer
    windows: int | None = None  # of running text: the first so many are scored (all: None)
    classes_from: ClassesFrom = "names"
    strict_length: bool = False  # true: `max_length` was asked for, so that a model which reads less is an error
    own_metrics: Mapping[str, Callable[[Any, Any], float]] = field(default_factory=dict)  # by name: see above

    def __post_init__(self):
        check_types(self, DataError)

    @property
    def running(self) -> bool:
        """True for one running text, which has no labels."""
        return KINDS[self.kind].running

    @checked
    def split(self, name: str) -> Sequence[Example]:
        """The labelled examples of a split. Raises DataError where there is none of that name, or one has no label."""
        examples, row = self._splits.get(name, ()), KINDS[self.kind]
        if not row.labelled and not examples:
            there = ", ".join(key for key, entries in self._splits.items() if entries) or "none"
            cure = row.to_train if name == "train" else "name another"
            raise DataError(
                f'{self.name} from {self.source} has no texts in split "{name}"; there are: {there}; {cure}.'
            )
        if not self.is_labelled(name):
            labelled = ", ".join(key for key in self._splits if self.is_labelled(key)) or "none"
            problem = "no labels" if examples else "no examples"
            cure = f"; {row.to_train}" if name == "train" and row.apart else ""
            raise DataError(
                f'{self.name} from {self.source} has {problem} in split "{name}"; labelled are {labelled}{cure}.'
            )
        bare = [n for n, example in enumerate(examples) if example.label is None] if row.labelled else []
        if bare:
            raise DataError(
                f"{self.name} from {self.source}: {name} text {bare[0]} has no label, or -1 ({len(bare)} of "
                f"{len(examples)} have none); add labels or drop these lines."
            )
        return examples

    @property
    def paired(self) -> bool:
        """Whether training texts have a second text, which is read with them."""
        return (
            not self.running and not KINDS[self.kind].apart and any(example.pair is not None for example in self.train)
        )

    @property
    def is_token_ids(self) -> bool:
        """Whether the texts are token ids already, which no tokenizer reads (`tasks.of_ids`)."""
        given = next((texts for texts in self._splits.values() if isinstance(texts, tuple) and texts), ())
        return bool(given) and given[0].tokens is not None

    @property
    def is_images(self) -> bool:
        """Whether its examples are images (`tasks.images`)."""
        given = next((texts for texts in self._splits.values() if isinstance(texts, tuple) and texts), ())
        return bool(given) and given[0].image is not None

    @checked
    def is_labelled(self, name: str) -> bool:
        """Whether a split is there with labels, if not for every text; a language model's texts need none."""
        examples = self._splits.get(name, ())
        if not KINDS[self.kind].labelled:  # whose texts are not read for this
            return len(examples) > 0
        return any(example.label is not None for example in examples)

    @property
    def _splits(self) -> dict[str, Sequence[Example]]:
        return {"train": self.train, "validation": self.validation, **self.others}

    @checked
    def calibration(self, count: int = 512, seed: int = 0) -> Calibration:
        """`count` different training rows, in the order `RandomState(seed).choice(n, count, replace=False)` draws them.

        Doubts (few texts, texts that are evaluation texts too) are the result's `warnings`.
        """
        check_count(count)
        check_seed(seed)
        train = self.others.get(CALIBRATION, self.train)
        if not train:
            cure = KINDS[self.kind].to_calibrate
            raise DataError(f"{self.name} from {self.source} has no training texts to calibrate on; {cure}.")
        if self.running:
            source = f"{self.source} (train)"
            return drawn_windows(train, self.validation, source, count, seed, self.max_length)
        if count > len(train):
            raise DataError(
                f"{count} calibration samples, but {self.name} has {len(train)} training texts; ask for fewer."
            )
        examples = tuple(picked(train, draw_rows(len(train), count, seed)))
        rows = [example.tokens for example in examples if example.tokens is not None]
        if rows:
            ids, types = tuple(row.ids for row in rows), tuple(row.types for row in rows)
            source, longest = f"{self.source} (train)", max(map(len, ids))
            return Calibration((), source, seed, longest, self.kind, few_texts(count), ids=ids, types=types)
        what = "texts" if examples[0].image is None else "images"
        warnings = few_texts(count, what) + overlap(examples, self.validation)
        return Calibration(
            examples, f"{self.source} (train)", seed, self.max_length, self.kind, warnings,
            strict_length=self.strict_length,
        )  # fmt: skip

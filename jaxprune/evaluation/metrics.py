"""Scores of predictions, as fractions: numpy only, in float64; and whichever of them, or of its own, a task asks for.

Where a score is not defined (a constant prediction has no correlation) it is 0, as in the GLUE scripts' libraries for
the Matthews coefficient, so that a collapsed model scores badly instead of NaN.
"""

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, SupportsFloat

import numpy as np

from ..errors import DataError
from ..tasks.task import Task

Metrics = dict[str, float]
LOWER_IS_BETTER = frozenset({"perplexity", "gap"})


def goodness(record: Mapping[str, Any]) -> float:
    """The "score" of a record, of two the higher of the better model: minus it where its "metric" is one of losses."""
    return -record["score"] if record.get("metric") in LOWER_IS_BETTER else record["score"]


def accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    """The share of equal entries; for [examples, labels], of examples with every label right."""
    equal = np.asarray(predicted) == np.asarray(true)
    return float(np.mean(equal.reshape(len(equal), -1).all(axis=1)))


def f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """F1 of class 1; for [examples, labels] of 0 and 1, over all entries together (micro). 0 where nothing is right."""
    predicted, true = np.asarray(predicted) == 1, np.asarray(true) == 1
    total = int(predicted.sum()) + int(true.sum())
    return float(2 * np.sum(predicted & true) / total) if total else 0.0


def f1_macro(predicted: np.ndarray, true: np.ndarray) -> float:
    """The mean over labels of F1, for [examples, labels] of 0 and 1."""
    return float(np.mean([f1(*columns) for columns in zip(np.transpose(predicted), np.transpose(true), strict=True)]))


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    """Matthews correlation of two classes: the correlation of the two columns of 0 and 1."""
    return pearson(np.asarray(predicted) == 1, np.asarray(true) == 1)


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    x, y = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt(np.sum(x**2) * np.sum(y**2))
    return float(np.sum(x * y) / norm) if norm > 0 else 0.0


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """The correlation of ranks; equal values share the mean of their ranks."""
    return pearson(_ranks(predicted), _ranks(true))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


# --- SQuAD: the official evaluation scripts' definitions (evaluate-v1.1.py, evaluate-v2.0.py), as fractions

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized_answer(text: str) -> str:
    """Lower case, without punctuation, articles and extra blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(predicted: str, answers: Sequence[str]) -> float:
    """1 where the prediction equals one of the answers once both are normalised; no answers: where it is empty."""
    return _best(lambda answer: float(normalized_answer(predicted) == normalized_answer(answer)), answers)


def answer_f1(predicted: str, answers: Sequence[str]) -> float:
    """The best F1 over the answers, of the words shared; no answers: 1 where the prediction is empty."""
    return _best(
        lambda answer: _word_f1(normalized_answer(predicted).split(), normalized_answer(answer).split()), answers
    )


def _best(score: Callable[[str], float], answers: Sequence[str]) -> float:
    # As the script for 2.0 does: answers that normalise to nothing do not count, and none left means "no answer".
    return max(map(score, [answer for answer in answers if normalized_answer(answer)] or [""]))


def _word_f1(predicted: list[str], true: list[str]) -> float:
    if not predicted or not true:
        return float(predicted == true)
    shared = sum((collections.Counter(predicted) & collections.Counter(true)).values())
    return 2 * shared / (len(predicted) + len(true))


def squad_scores(predicted: Sequence[str], answers: Sequence[Sequence[str]]) -> Metrics:
    """F1 and exact match over all questions, and apart over those with and without an answer where there are both."""
    exact = np.array([exact_match(*pair) for pair in zip(predicted, answers, strict=True)])
    words = np.array([answer_f1(*pair) for pair in zip(predicted, answers, strict=True)])
    answerable = np.array([bool(answer) for answer in answers])
    scores = {"f1": float(words.mean()), "exact_match": float(exact.mean())}
    if answerable.all():
        return scores
    for name, rows in (("has_answer", answerable), ("no_answer", ~answerable)):
        if rows.any():
            scores |= {f"{name}_f1": float(words[rows].mean()), f"{name}_exact_match": float(exact[rows].mean())}
    return scores


# --- tags of words: seqeval's definition, which is that of the CoNLL-2000 script, for IOB2 tags


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first word, last word) of every entity. I-X where no entity of type X is open begins one."""
    spans, begun = set(), None
    for place, tag in enumerate((*tags, "O")):
        prefix, _, kind = tag.partition("-")
        if begun is not None and (prefix != "I" or kind != begun[0]):
            spans.add((*begun, place - 1))
            begun = None
        if begun is None and prefix in ("B", "I"):
            begun = kind, place
    return spans


def tag_scores(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> Metrics:
    """F1, precision and recall of whole entities over all texts together, and the share of words tagged right."""
    every = lambda rows: {(row, *entity) for row, tags in enumerate(rows) for entity in entities(tags)}  # noqa: E731
    ours, theirs = every(predicted), every(true)
    right, words = len(ours & theirs), sum(map(len, true))
    same = sum(a == b for row, other in zip(predicted, true, strict=True) for a, b in zip(row, other, strict=True))
    return {
        "f1": 2 * right / max(len(ours) + len(theirs), 1),
        "precision": right / max(len(ours), 1),
        "recall": right / max(len(theirs), 1),
        "accuracy": same / max(words, 1),
    }


# --- by name, as tasks ask for them

METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = MappingProxyType(
    {
        "accuracy": accuracy,
        "f1": f1,
        "f1_macro": f1_macro,
        "matthews": matthews,
        "pearson": pearson,
        "spearman": spearman,
    }
)


def metric_of(task: Task, name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """The metric that a task calls so, one of its own or of ours.

    Raises DataError for a name that is neither, or both; what is returned does where the task's own gives no number.
    """
    own = task.own_metrics.get(name)
    if own is None:
        if name not in METRICS:
            raise DataError(
                f"{task.name} is scored by {name}, which is none of {', '.join(METRICS)}; give it in own_metrics."
            )
        return METRICS[name]
    if name in METRICS:
        raise DataError(
            f"{task.name} has {name} in own_metrics, and so is one of ours called; give yours another name."
        )

    def checked(predicted: np.ndarray, true: np.ndarray) -> float:
        value = own(predicted, true)
        if not isinstance(value, SupportsFloat) or not np.isfinite(float(value)):
            raise DataError(f"the metric {name} of {task.name} gave {value!r}, expected a finite number.")
        return float(value)

    return checked


def check_none_own(task: Task) -> None:
    """Raise DataError for metrics of the task's own where it is scored by fixed rules."""
    if task.own_metrics:
        raise DataError(f"{task.name} has own_metrics, which are for tasks with one answer a text; leave them out.")

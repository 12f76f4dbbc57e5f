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
from ..tasks.example import Kind
from ..tasks.kinds import KINDS
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
    """The mean of F1 over classes: those that occur, predicted or true; for [examples, labels] of 0 and 1, all labels.

    As scikit-learn's average="macro". A prediction outside the classes, -1, is a miss and no class of its own.
    """
    predicted, true = np.asarray(predicted), np.asarray(true)
    if true.ndim == 1:
        there = np.union1d(predicted, true)
        there = there[there >= 0]
        predicted, true = predicted[:, None] == there, true[:, None] == there
    return float(np.mean([f1(*columns) for columns in zip(predicted.T, true.T, strict=True)]))


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    """Matthews correlation: of two classes that of the two columns of 0 and 1, of more Gorodkin's R_K (2004, eq. 8).

    One label a text, or [examples, 1] of 0 and 1. A prediction outside the classes, -1, counts as one more class, which
    is never right.
    """
    predicted, true = np.ravel(predicted), np.ravel(true)
    there = np.union1d(predicted, true)
    # In integers, exact: floats would make of a model with one answer a number that is not quite 0.
    ours, theirs = (np.array([np.sum(each == name) for name in there]) for each in (predicted, true))
    shared = np.sum(predicted == true) * len(true) - np.sum(ours * theirs)
    spread = [float(len(true) ** 2 - np.sum(counts**2)) for counts in (ours, theirs)]
    return float(shared / np.sqrt(spread[0] * spread[1])) if all(spread) else 0.0


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
    spans: list[tuple[str, int, int]] = []
    for place, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if prefix == "I" and spans and spans[-1][::2] == (kind, place - 1):
            spans[-1] = kind, spans[-1][1], place
        elif prefix in ("B", "I"):
            spans.append((kind, place, place))
    return set(spans)


def tag_scores(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> Metrics:
    """F1, precision and recall of whole entities over all texts together, and the share of words tagged right."""
    every = lambda rows: {(row, *entity) for row, tags in enumerate(rows) for entity in entities(tags)}  # noqa: E731
    ours, theirs = every(predicted), every(true)
    right, words = len(ours & theirs), [[tag for row in rows for tag in row] for rows in (predicted, true)]
    return {
        "f1": 2 * right / max(len(ours) + len(theirs), 1),
        "precision": right / max(len(ours), 1),
        "recall": right / max(len(theirs), 1),
        "accuracy": accuracy(*map(np.array, words)) if words[1] else 0.0,
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


# What each kind of task can be scored by: of the first five by these functions, of the others by rules of their own.
SCORED_BY: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {
        "single_label": ("accuracy", "f1", "f1_macro", "matthews"),
        "multi_label": ("accuracy", "f1", "f1_macro", "matthews"),
        "regression": ("pearson", "spearman"),
        "sts": ("pearson", "spearman"),
        "pairs": (*KINDS["pairs"].scores, "pearson", "spearman"),  # these where the scored pairs have numbers
        "question_answering": (
            "f1", "exact_match", "has_answer_f1", "has_answer_exact_match", "no_answer_f1", "no_answer_exact_match",
        ),
        **{kind: KINDS[kind].scores for kind in ("token_classification", "retrieval", "language", "chat")},
    }
)  # fmt: skip
# Those that mean something for so many classes at most: why, and what to name instead.
_FEW_CLASSES: Mapping[tuple[Kind, str], tuple[int, str, str]] = {
    ("single_label", "f1"): (2, "that of one class", "f1_macro, the mean over classes, or accuracy"),
    ("multi_label", "matthews"): (1, "of one class a text", "f1, f1_macro or accuracy"),
}
FIXED: tuple[Kind, ...] = ("question_answering", "token_classification", "retrieval", "language", "chat")


def check_metrics(task: Task, kind: Kind, outputs: int) -> None:
    """Raise DataError for a metric that means nothing for labels of this kind, or is no metric at all.

    `outputs` are the model's: of classes known by numbers there may be as many.
    """
    if kind in FIXED:
        check_none_own(task)
    classes = max(len(task.labels), outputs) if task.classes_from == "numbers" else len(task.labels)
    for name in dict.fromkeys((task.metric, *task.beside)):
        if name in task.own_metrics:
            if name in METRICS or name in LOWER_IS_BETTER:  # of the latter less is better, by name
                raise DataError(
                    f"{task.name} has {name} in own_metrics, and so is one of ours called; give yours another name."
                )
            continue
        if name not in SCORED_BY[kind]:
            cure = "name one of these" if kind in FIXED else "give it in own_metrics, or name one of these"
            raise DataError(
                f"{task.name} is scored by {name}, which is none of {', '.join(SCORED_BY[kind])}, the metrics of "
                f"{kind} tasks; {cure}."
            )
        most, why, instead = _FEW_CLASSES.get((kind, name), (classes, "", ""))
        if classes > most:
            raise DataError(
                f"{task.name} is scored by {name}, which is {why}, and there are {classes} classes; name {instead}."
            )


def metric_of(task: Task, name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """The metric that a task calls so, one of its own or of ours; `check_metrics` has seen to the name.

    What is returned raises DataError where the task's own gives no number.
    """
    own = task.own_metrics.get(name)
    if own is None:
        return METRICS[name]

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

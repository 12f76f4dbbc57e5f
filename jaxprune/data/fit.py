"""Whether a task's labels fit a model's head, and which output is which class."""

import re
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..model import Architecture
from .task import Task


class Fit(NamedTuple):
    """How the classes of a task sit in a model's outputs."""

    outputs: np.ndarray  # [classes of the task]: the model's output for each
    warnings: tuple[str, ...] = ()


def fit(architecture: Architecture, task: Task) -> Fit:
    """Match a task's classes to a model's outputs, by name where the names agree, else by number.

    Checkpoints order the same classes differently (MNLI above all), so names go first. Raises DataError where the
    head is of another kind or has too few outputs.
    """
    a = architecture
    head = {"question_answering": "question_answering", "language": "causal_lm"}.get(task.kind, "classification")
    if a.head != head:
        raise DataError(
            f"{task.name} needs a {head} head, the model has {a.head}; load a checkpoint tuned for it, or give it a "
            "new head to train (head= and labels= of jp.load)."
        )
    if head == "question_answering":
        return Fit(np.arange(2))
    if head == "causal_lm":
        return Fit(np.arange(0))
    if a.problem != task.kind:
        raise DataError(
            f"{task.name} is a {task.kind} task, the model's head is {a.problem} with {len(a.labels)} outputs; "
            "load a checkpoint tuned for this task, or correct the labels."
        )
    if task.kind == "regression":
        if len(a.labels) != 1:
            raise DataError(f"{task.name} is one number a text, the model gives {len(a.labels)}; use one that gives 1.")
        return Fit(np.arange(1))
    return by_name(a.labels, task.labels) or _by_number(a.labels, task)


def by_name(labels: tuple[str, ...], wanted: tuple[str, ...]) -> Fit | None:
    """The match by equal names, else by names that are equal in letters and digits; None where neither is unique."""
    for names, sought in ((labels, wanted), (tuple(map(_plain, labels)), tuple(map(_plain, wanted)))):
        place = {name: number for number, name in enumerate(names)}
        if len(place) == len(names) and len(set(sought)) == len(sought) and set(sought) <= set(place):
            return Fit(np.array([place[name] for name in sought]))
    return None


def _by_number(labels: tuple[str, ...], task: Task) -> Fit:
    named = not all(name.isdigit() for name in task.labels)
    if len(task.labels) > len(labels) or (named and len(task.labels) < len(labels)):
        largest = len(task.labels) - 1
        raise DataError(
            f"{task.name} has {len(task.labels)} classes (labels 0 to {largest}), the model's head {len(labels)} "
            f"({', '.join(labels[:5])}{', …' if len(labels) > 5 else ''}); load a checkpoint tuned for these classes, "
            "or correct the labels."
        )
    generic = all(re.fullmatch(r"(label)?\d+", _plain(name)) for name in labels)
    outputs = np.arange(len(task.labels))
    if not named or generic:
        return Fit(outputs)
    twice = next((name for name in labels if labels.count(name) > 1), None)
    if twice is not None:
        warning = (
            f"the model calls two classes {twice}, so names do not tell them apart: matched by number; check the order "
            f"({', '.join(task.labels)})."
        )
    else:
        warning = f"the model calls its classes {', '.join(labels)}, {task.name} {', '.join(task.labels)}: "
        warning += "matched by number."
    return Fit(outputs, (warning,))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())

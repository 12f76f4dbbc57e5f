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
    head = "question_answering" if task.kind == "question_answering" else "classification"
    if a.head != head:
        raise DataError(f"{task.name} needs a {head} head, the model has {a.head}; load a checkpoint tuned for it.")
    if head == "question_answering":
        return Fit(np.arange(2))
    if a.problem != task.kind:
        raise DataError(
            f"{task.name} is a {task.kind} task, the model's head is {a.problem} with {len(a.labels)} outputs; "
            "load a checkpoint tuned for this task, or correct the labels."
        )
    if task.kind == "regression":
        if len(a.labels) != 1:
            raise DataError(f"{task.name} is one number a text, the model gives {len(a.labels)}; use one that gives 1.")
        return Fit(np.arange(1))
    return _by_name(a.labels, task) or _by_number(a.labels, task)


def _by_name(labels: tuple[str, ...], task: Task) -> Fit | None:
    place = {_plain(name): number for number, name in enumerate(labels)}
    wanted = [_plain(name) for name in task.labels]
    if len(place) < len(labels) or len(set(wanted)) < len(wanted) or not set(wanted) <= set(place):
        return None
    return Fit(np.array([place[name] for name in wanted]))


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
    if not named or generic:
        return Fit(np.arange(len(task.labels)))
    return Fit(
        np.arange(len(task.labels)),
        (f"the model calls its classes {', '.join(labels)}, {task.name} {', '.join(task.labels)}: matched by number.",),
    )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())

"""Predictions and labels in the numbering of a task, so that metrics and losses can compare them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsFloat

import numpy as np

from ..errors import DataError
from ..tasks.example import Example
from ..tasks.task import Task
from .label_map import LabelMap


def classes(logits: np.ndarray, task: Task, found: LabelMap) -> np.ndarray:
    """Predictions in the task's numbering: [texts] classes or numbers, or [texts, labels] of 0 and 1.

    A text whose highest output is none of the task's classes is -1, so that it is never right.
    """
    if task.kind == "regression":
        return logits[:, 0]
    if task.kind == "multi_label":
        return (logits[:, found.outputs] > 0).astype(np.int64)
    number = np.full(logits.shape[1], -1)
    number[found.outputs] = np.arange(len(found.outputs))
    return number[logits.argmax(axis=1)]


def _labels_of(task: Task) -> tuple[Callable[[Any], bool], str]:
    """Whether a value is a label of the task, and what is one in words."""
    count = len(task.labels)
    is_class = lambda label: hasattr(label, "__index__") and 0 <= label < count  # noqa: E731
    if task.kind == "regression":
        # The comparison is False for NaN.
        return lambda label: isinstance(label, SupportsFloat) and abs(float(label)) < np.inf, "a finite number"
    if task.kind == "multi_label":
        return lambda label: isinstance(label, Iterable) and all(map(is_class, label)), f"classes from 0 to {count - 1}"
    return is_class, f"a class from 0 to {count - 1}"


def truth(examples: Sequence[Example], task: Task) -> np.ndarray:
    """The labels as an array: [texts] classes or numbers, or [texts, labels] of 0 and 1.

    Raises DataError for a label that is none of the task's: tasks made in Python come unchecked.
    """
    labels: list[Any] = [example.label for example in examples]
    is_one, what = _labels_of(task)
    for number, label in enumerate(labels):
        if not is_one(label):
            raise DataError(f"{task.name}: text {number} has the label {label!r}, expected {what}.")
    if task.kind != "multi_label":
        return np.array(labels)
    several = np.zeros((len(labels), len(task.labels)), np.int64)
    for row, holds in enumerate(labels):
        several[row, list(holds)] = 1
    return several

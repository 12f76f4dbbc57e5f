"""Labels and predictions in the numbering of a task or of a model's outputs: one row for each kind of label."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, SupportsFloat

import numpy as np

from ..errors import DataError
from ..tasks.example import Example, Kind
from ..tasks.task import Task
from .label_map import LabelMap


class Numbering(NamedTuple):
    """How labels of one kind are checked, made one array, read off outputs, and given to training."""

    is_one: Callable[[Any, int], bool]  # whether a value is a label of a task of so many classes
    what: Callable[[int], str]  # the same in words
    array: Callable[[list[Any], int], np.ndarray]  # all labels
    predicted: Callable[[np.ndarray, LabelMap], np.ndarray]  # from logits, [texts, labels], what `array` gives
    targets: Callable[[np.ndarray, LabelMap, int], np.ndarray]  # from what `array` gives, for so many outputs


def _is_class(label: Any, count: int) -> bool:
    return hasattr(label, "__index__") and 0 <= label < count


def _several(labels: list[Any], count: int) -> np.ndarray:
    several = np.zeros((len(labels), count), np.int64)
    for row, holds in enumerate(labels):
        several[row, list(holds)] = 1
    return several


def _highest(logits: np.ndarray, label_map: LabelMap) -> np.ndarray:
    number = np.full(logits.shape[1], -1)
    number[label_map.outputs] = np.arange(len(label_map.outputs))
    return number[logits.argmax(axis=1)]


def _several_targets(labels: np.ndarray, label_map: LabelMap, outputs: int) -> np.ndarray:
    targets = np.zeros((len(labels), outputs), np.float32)
    targets[:, label_map.outputs] = labels
    return targets


NUMBERINGS: Mapping[Kind, Numbering] = MappingProxyType(
    {
        "single_label": Numbering(
            is_one=_is_class,
            what=lambda count: f"a class from 0 to {count - 1}",
            array=lambda labels, count: np.array(labels),
            predicted=_highest,
            targets=lambda labels, label_map, outputs: label_map.outputs[labels].astype(np.int32),
        ),
        "multi_label": Numbering(
            is_one=lambda label, count: isinstance(label, Iterable) and all(_is_class(one, count) for one in label),
            what=lambda count: f"classes from 0 to {count - 1}",
            array=_several,
            predicted=lambda logits, label_map: (logits[:, label_map.outputs] > 0).astype(np.int64),
            targets=_several_targets,
        ),
        "regression": Numbering(
            # The comparison is False for NaN.
            is_one=lambda label, count: isinstance(label, SupportsFloat) and abs(float(label)) < np.inf,
            what=lambda count: "a finite number",
            array=lambda labels, count: np.array(labels),
            predicted=lambda logits, label_map: logits[:, 0],
            targets=lambda labels, label_map, outputs: labels.astype(np.float32),
        ),
    }
)


def classes(logits: np.ndarray, task: Task, label_map: LabelMap) -> np.ndarray:
    """Predictions in the task's numbering: [texts] classes or numbers, or [texts, labels] of 0 and 1.

    A text whose highest output is none of the task's classes is -1, so that it is never right.
    """
    return NUMBERINGS[task.kind].predicted(logits, label_map)


def truth(examples: Sequence[Example], task: Task) -> np.ndarray:
    """The labels as an array: [texts] classes or numbers, or [texts, labels] of 0 and 1.

    Raises DataError for a label that is none of the task's: tasks made in Python come unchecked.
    """
    labels: list[Any] = [example.label for example in examples]
    row, count = NUMBERINGS[task.kind], len(task.labels)
    for number, label in enumerate(labels):
        if not row.is_one(label, count):
            raise DataError(f"{task.name}: text {number} has the label {label!r}, expected {row.what(count)}.")
    return row.array(labels, count)

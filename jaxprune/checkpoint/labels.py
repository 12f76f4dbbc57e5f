"""What config.json says of a classifier's labels: how many, their names and order, and what they are to each other."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import CheckpointError
from ..model.architecture import Problem
from ..model.heads import HEADS

PROBLEMS: Mapping[str, Problem] = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


def labels_of(config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The names of the classes in their order. Raises `CheckpointError` where id2label and num_labels make no sense."""
    named, count = config.get("id2label"), config.get("num_labels")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise CheckpointError(f"{where}: num_labels is {str(count)[:60]!r}, expected an integer of at least 1.")
    if named is None:
        return default_labels(2 if count is None else count)
    keys = {str(number) for number in range(len(named))} if isinstance(named, dict) else set()
    if not keys or set(named) != keys:
        raise CheckpointError(f"{where}: id2label is {str(named)[:60]!r}, expected names for 0, 1, 2, …")
    names = tuple(str(named[str(number)]) for number in range(len(named)))
    if count is not None and count != len(names):
        if names == default_labels(len(names)):  # left behind by a program that set the count alone
            return default_labels(count)
        raise CheckpointError(f"{where}: num_labels is {count!r}, but id2label names {len(named)} labels.")
    return names


def label_warnings(labels: tuple[str, ...], config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """What to say where label2id tells another order than that of `labels`, which come from id2label."""
    numbers = config.get("label2id")
    if not labels or not isinstance(numbers, Mapping) or not numbers:
        return ()
    if config.get("id2label") is None and labels == default_labels(len(labels)):
        differ = numbers != {name: number for number, name in enumerate(labels)}
        said = f"{where} has names of labels in label2id alone, which are not read"
    else:
        order = {name: number for number, name in enumerate(labels)}
        differ = any(str(numbers[name]) != str(order[name]) for name in order.keys() & numbers.keys())
        said = f"{where}: label2id gives labels other numbers than id2label, which counts"
    return (f"{said}, as in transformers: {', '.join(labels[:5])}.",) if differ else ()


def default_labels(count: int) -> tuple[str, ...]:
    """The names that transformers gives."""
    return tuple(f"LABEL_{number}" for number in range(count))


def default_problem(labels: Sequence[str]) -> Problem:
    """What transformers takes a classifier with these labels for, where nothing says it."""
    return "regression" if len(labels) == 1 else "single_label"


def problem_of(config: Mapping[str, Any], labels: tuple[str, ...], where: str) -> Problem:
    """What the labels are to each other. Raises `CheckpointError` for a problem_type that we do not have."""
    problem = config.get("problem_type")
    if problem is None:
        return default_problem(labels)
    if problem not in PROBLEMS:
        raise CheckpointError(f"{where}: problem_type is {problem!r}, expected one of {', '.join(PROBLEMS)}.")
    ours = PROBLEMS[problem]
    if not HEADS["classification", ours].classes and len(labels) != 1:
        raise CheckpointError(f"{where}: a {ours} onto {len(labels)} values is not supported, only onto one.")
    return ours

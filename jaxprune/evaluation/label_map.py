"""Whether a task's labels fit a model's head, which output is which class, and how the head reads whole numbers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np

from ..checkpoint.files import listed
from ..errors import DataError
from ..model import Architecture
from ..model.heads import head_of
from ..tasks.example import Example, Kind, Label
from ..tasks.kinds import KINDS
from ..tasks.task import Task
from .label_rows import gives_rows
from .metrics import SCORED_BY, check_metrics

YES_OR_NO = ("False", "True")


class HeadMismatch(DataError):
    """The model's head is of another kind than the task, or has too few outputs: a new head would do."""


class LabelMap(NamedTuple):
    """How the classes of a task sit in a model's outputs."""

    task: Task  # with its labels as the head reads them
    outputs: np.ndarray  # [classes of the task]: the model's output for each
    warnings: tuple[str, ...] = ()


def match_labels(architecture: Architecture, task: Task) -> LabelMap:
    """Match a task's classes to a model's outputs, by name where the names agree, else by number.

    Checkpoints order the same classes differently (MNLI above all), so names go first; classes that have none go by
    number; those that are numbers go by the names of outputs that are called by other numbers, as by stars from 1 to 5.
    Where the head is a regression, whole numbers are values, not classes. Raises HeadMismatch where the head is
    of another kind or has too few outputs, another DataError where labels say too little, or where the task's metric
    means nothing for labels as the head reads them.
    """
    label_map = _matched(architecture, task)
    check_metrics(label_map.task, label_map.task.kind, len(architecture.labels))
    return label_map


def _matched(a: Architecture, task: Task) -> LabelMap:
    needed = KINDS[task.kind].head
    if needed is None:
        raise DataError(f"{task.name} from {task.source} has no labels; add a label to every text.")
    if KINDS[task.kind].pairs_too and len(a.labels) == 1 and head_of(a).per_text:  # a reranker
        return LabelMap(task, np.arange(0))
    if a.head != needed and a.head not in KINDS[task.kind].also:
        error = HeadMismatch(
            f"{task.name} needs {'an' if needed[0] in 'aeiou' else 'a'} {needed} head, the model has {a.head}; load a "
            f"checkpoint tuned for it, or this one with a new head ({needed}) to train."
        )
        # A note shows in a traceback, beside the code that can follow it, and not on the command line.
        error.add_note("head= and labels= of jp.load give it a new head to train.")
        raise error
    if not a.labels:
        return LabelMap(task, np.arange(0))
    head = head_of(a)
    task, warnings = _READINGS.get((head.name, task.kind), _as_it_is)(a, task)
    if head.name != task.kind:
        raise HeadMismatch(
            f"{task.name} is a {task.kind} task, the model's head is {head.name} with {len(a.labels)} outputs; "
            "load a checkpoint tuned for this task, or correct the labels."
        )
    if not head.classes:
        if len(a.labels) != 1:
            raise HeadMismatch(
                f"{task.name} is one number a text, the model gives {len(a.labels)}; use one that gives 1."
            )
        return LabelMap(task, np.arange(1), warnings)
    label_map = by_name(a.labels, task) or _by_other_numbers(a.labels, task) or _by_number(a.labels, task)
    return label_map._replace(warnings=warnings + label_map.warnings)


# --- labels of another kind than the head's, where whole numbers can be either: the task as the head reads it, and what
# there is to say of it

_Read = tuple[Task, tuple[str, ...]]


def _as_it_is(a: Architecture, task: Task) -> _Read:
    return task, ()


def _classes_as_values(a: Architecture, task: Task) -> _Read:
    values = _values(task)
    if values is None or len(a.labels) != 1:
        return task, ()
    if set(values) <= {0.0, 1.0}:
        error = DataError(
            f"{task.name}: labels 0 and 1 can be values or no and yes to a model with one output; write 0.0 "
            'and 1.0 for values; for yes or no set problem_type to "multi_label_classification" in its config.json.'
        )
        error.add_note('problem="multi_label" of jp.load does the same.')
        raise error
    told = f"labels such as {task.labels[-1]} were read as values: the model's head is a regression."
    return _with_labels(task, "regression", ("score",), lambda label: values[cast(int, label)]), (told,)


def _classes_as_yes_or_no(a: Architecture, task: Task) -> _Read:
    values = _values(task)
    if values is None or len(a.labels) != 1 or not set(values) <= {0.0, 1.0}:
        return task, ()
    return _with_labels(task, "multi_label", a.labels, lambda label: (0,) if values[cast(int, label)] else ()), ()


def _values_as_yes_or_no(a: Architecture, task: Task) -> _Read:
    if len(a.labels) == 1 and _numbers(task) <= {0.0, 1.0}:
        return _with_labels(task, "multi_label", a.labels, lambda label: (0,) if label else ()), ()
    return _values_as_classes(a, task)


def _values_as_classes(a: Architecture, task: Task) -> _Read:
    numbers = _numbers(task)
    if numbers and all(number.is_integer() and 0 <= number < len(a.labels) for number in numbers):
        raise DataError(
            f"{task.name}: labels have a point (0.0), which makes them values, the model's head has "
            f"{len(a.labels)} classes; write integers for classes, or take a model with a new head for values."
        )
    return task, ()


# By the kinds of the head and of the task.
_READINGS: Mapping[tuple[str, Kind], Callable[[Architecture, Task], _Read]] = {
    ("regression", "single_label"): _classes_as_values,
    ("multi_label", "single_label"): _classes_as_yes_or_no,
    ("multi_label", "regression"): _values_as_yes_or_no,
    ("single_label", "regression"): _values_as_classes,
}


def _numbers(task: Task) -> set[float]:
    return {float(label) for label in _labels(task) if isinstance(label, int | float)}


def _values(task: Task) -> list[float] | None:
    """The number that each class is called by, with false 0 and true 1; None where one is called otherwise."""
    if task.labels == YES_OR_NO:
        return [0.0, 1.0]
    if not all(re.fullmatch(r"[+-]?\d+", name) for name in task.labels):
        return None
    return [float(name) for name in task.labels]


def _labels(task: Task) -> list[Label]:
    splits = (task.train, task.validation, *task.others.values())
    return [example.label for examples in splits for example in examples if example.label is not None]


def _with_labels(task: Task, kind: Kind, labels: tuple[str, ...], change: Callable[[Label], Label]) -> Task:
    """The task with every label changed to one of this kind, and metrics of that: those asked for, else its usual ones.

    What was asked for and is no metric of this kind stays, for `check_metrics` to refuse.
    """
    usual, fitting = KINDS[task.kind].scores, {*SCORED_BY[kind], *task.own_metrics}
    metric = KINDS[kind].scores[0] if task.metric == usual[0] else task.metric
    asked = [name for name in task.beside if name in fitting or name not in usual]
    beside = tuple(name for name in dict.fromkeys([*asked, *KINDS[kind].scores]) if name != metric)
    return replace(_relabelled(task, labels, change), kind=kind, metric=metric, beside=beside)


def _relabelled(task: Task, labels: tuple[str, ...], change: Callable[[Label], Label]) -> Task:
    def changed(examples: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(
            example if example.label is None else example._replace(label=change(example.label)) for example in examples
        )

    return replace(
        task,
        labels=labels,
        classes_from="names",
        train=changed(task.train),
        validation=changed(task.validation),
        others={name: changed(examples) for name, examples in task.others.items()},
    )


def by_name(labels: tuple[str, ...], task: Task) -> LabelMap | None:
    """The match by equal names, else by names that are equal in letters and digits; None where neither is unique.

    The names that transformers gives, LABEL_2, also answer to "2". Classes without names have none to match.
    """
    if task.classes_from in ("numbers", "entries"):
        return None
    plain = tuple(map(_plain, labels))
    bare = tuple(name.removeprefix("label") for name in plain)
    for names, sought in ((labels, task.labels), (plain, _all_plain(task)), (bare, _all_plain(task))):
        place = {name: number for number, name in enumerate(names)}
        if len(place) == len(names) and len(set(sought)) == len(sought) and set(sought) <= set(place):
            return LabelMap(task, np.array([place[name] for name in sought]))
    return None


def _by_other_numbers(labels: tuple[str, ...], task: Task) -> LabelMap | None:
    """The match of classes that are numbers to outputs that are called by others, such as stars from 1 to 5.

    By name, as text would be matched; a warning says so where the numbers could count the outputs as well. They do
    count them, with a warning, where names are 0, 1, 2, … in another order, as transformers reads them; where a name
    says more ("1 star"); and where labels are the model's numbers (`gives_rows`) or a metric of the task's own knows
    them by number. None where no output is called by the number of another.
    """
    numbers = [re.findall(r"[+-]?\d+", name) for name in labels]
    single = [(int(held[0]), place) for place, held in enumerate(numbers) if len(held) == 1]
    called = dict(single)
    if task.classes_from != "numbers" or len(called) < len(single) or all(n == place for n, place in single):
        return None
    there = sorted({number for label in _labels(task) for number in _classes_of(label)})
    moved = [number for number in there if called.get(number, number) != number]
    if not moved or not set(there) <= set(called):
        return None
    place = {number: place for place, number in enumerate(there)}
    named = by_name(labels, replace(task, labels=tuple(map(str, there)), classes_from="names"))
    countable = there[-1] < len(labels)
    ordered = sorted(called) == list(range(len(labels)))
    if named is not None and not (ordered or gives_rows(task) or task.own_metrics):
        renamed = _relabelled(task, named.task.labels, lambda label: _renumbered(label, place))
        doubt = (
            f"the model calls its classes {listed(labels)}, and labels such as {moved[0]} were matched to these names; "
            "where they count its classes from 0, list the names in labels.json."
        )
        return LabelMap(renamed, named.outputs, (doubt,) if countable else ())
    if not countable:
        return None
    doubt = (
        f"label {moved[0]} was matched by number to the model's {labels[moved[0]]}, and the model calls another class "
        f"{labels[called[moved[0]]]}; check that labels count its classes from 0."
    )
    return LabelMap(task, np.arange(len(task.labels)), (doubt,))


def _classes_of(label: Label) -> tuple[int, ...]:
    """The classes of a text: one, or several."""
    return cast(tuple[int, ...], label) if isinstance(label, tuple) else (cast(int, label),)


def _renumbered(label: Label, number: Mapping[int, int]) -> Label:
    renumbered = tuple(number[each] for each in _classes_of(label))
    return renumbered if isinstance(label, tuple) else renumbered[0]


def _by_number(labels: tuple[str, ...], task: Task) -> LabelMap:
    """The match by number, with a warning where both sides have names.

    Raises HeadMismatch where the numbers do not say which output is which, DataError where a class would be matched to
    one output though another one has its name.
    """
    count = len(task.labels)
    numbered = task.labels == tuple(map(str, range(count)))
    # Of classes known by numbers only the largest that occurs is known; there may be more.
    if count > len(labels) or (count < len(labels) and (not numbered or task.classes_from == "entries")):
        raise HeadMismatch(
            f"{task.name} has {count} {_counted(labels, task, numbered)}, the model's head {len(labels)} "
            f"({listed(labels)}); load a checkpoint tuned for these classes, or correct the labels."
        )
    outputs = np.arange(count)
    generic = all(re.fullmatch(r"(label)?\d+", _plain(name)) for name in labels)
    if numbered or (generic and task.classes_from == "names"):
        return LabelMap(task, outputs)
    if generic:
        warning = (
            f"the model's classes have no names: {listed(task.labels)} were matched to them in sorted order; check it, "
            "and name the classes in the model's order in labels.json."
        )
        return LabelMap(task, outputs, (warning,))
    known, sought = list(map(_plain, labels)), _all_plain(task)
    differ = [number for number, name in enumerate(sought) if name != known[number]]
    theirs, ours = ([names[number] for number in differ] for names in (labels, task.labels))
    warning = f"the model calls its classes {listed(theirs)}, {task.name} {listed(ours)}: "
    for number in differ:
        if known.count(sought[number]) == 1:
            raise DataError(
                f"{warning}by number {task.labels[number]} would be {labels[number]}; give all classes the model's "
                "names, or list yours in its order in labels.json."
            )
    twice = next((name for name in labels if labels.count(name) > 1), None)
    if twice is not None:
        warning = f"the model calls two classes {twice}, so names do not tell them apart: "
    return LabelMap(task, outputs, (f"{warning}matched by number; check the order ({listed(task.labels)}).",))


def _counted(labels: tuple[str, ...], task: Task, numbered: bool) -> str:
    """What a task has so many of, for a message: of named classes those that the model lacks, and where they occur."""
    if task.classes_from == "entries":
        return "entries in every label"
    if numbered:
        return f"classes (labels 0 to {len(task.labels) - 1})"
    known = set(map(_plain, labels))
    strange = [number for number, name in enumerate(_all_plain(task)) if name not in known]
    if not strange or len(strange) == len(task.labels):
        return f"classes ({listed(task.labels)})"
    told = []
    for number in strange:
        splits = {"train": task.train, "validation": task.validation, **task.others}
        holding = [name for name, examples in splits.items() if any(example.label == number for example in examples)]
        told.append(task.labels[number] + ("" if "train" in holding or not holding else f" (in {holding[0]} only)"))
    return f"classes, {listed(told)} among them"


def _all_plain(task: Task) -> tuple[str, ...]:
    return tuple(map(_plain, task.labels))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())

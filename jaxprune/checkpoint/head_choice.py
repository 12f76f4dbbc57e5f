"""What the last layer of a checkpoint is for: what `config.json` says, and what the caller asks for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast, get_args

from ..checks import is_in_order
from ..errors import CheckpointError, SettingsError, UnknownHeadError
from ..model.architecture import LAST_LAYERS, HeadKind, Problem
from ..model.embedding import Embedding
from ..model.heads import HEADS
from .families import Family
from .head_names import HEAD_NAMES, kind_of_class
from .labels import default_labels, default_problem, labels_of, problem_of


class HeadChoice(NamedTuple):
    """What the last layer is for."""

    head: HeadKind
    labels: tuple[str, ...] = ()
    problem: Problem = "single_label"
    embedding: Embedding | None = None

    def keeps_weights_of(self, other: "HeadChoice") -> bool:
        """True where a head for `other` has the weights that this one needs; the labels' names may differ."""
        same = self.head == other.head and len(self.labels) == len(other.labels)
        return same and self.embedding == other.embedding


def class_of(config: Mapping[str, Any], where: str) -> str | None:
    """The class of transformers that `config` names. Raises `CheckpointError` for anything but a list of names."""
    names = config.get("architectures")
    if not names:
        return None
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise CheckpointError(f"{where}: architectures is {str(names)[:60]!r}, expected a list of class names.")
    return names[0]


def declared_head(family: Family, config: Mapping[str, Any], where: str) -> HeadChoice | None:
    """The task that `config` says the file's head is for; None where the head is of a kind that we do not have."""
    name = class_of(config, where)
    if name is None:
        named = any(config.get(key) for key in ("id2label", "num_labels", "problem_type"))
        kind = "causal_lm" if "causal_lm" in family.heads else "classification" if named else "none"
    else:
        kind = kind_of_class(family, name)
    if kind not in HEAD_NAMES:
        return None
    kind = cast(HeadKind, kind)
    labels = labels_of(config, where) if LAST_LAYERS[kind].labelled else ()
    problem = problem_of(config, labels, where) if HEAD_NAMES[kind].problems else "single_label"
    return HeadChoice(kind, labels, problem)


def choose_head(
    declared: HeadChoice | None, head: str | None, labels: Sequence[str] | int | None, problem: str | None, where: str
) -> HeadChoice:
    """The task that the caller asks for; what was not asked for stays as declared.

    Raises `SettingsError` for a request that has no meaning, `CheckpointError` where nothing says what the head is.
    """
    _check_request(head, labels, problem)
    if declared is None and head is None and labels is None:
        raise unknown_head(where)
    kind: HeadKind = "classification"
    if head is not None:
        kind = cast(HeadKind, head)
    elif declared is not None and (labels is None or LAST_LAYERS[declared.head].labelled):
        kind = declared.head
    if not LAST_LAYERS[kind].labelled:
        if labels is not None or problem is not None:
            raise SettingsError(f"labels and problem are for a classification head, but head is {kind!r}.")
        asked = HeadChoice(kind, embedding=Embedding() if LAST_LAYERS[kind].pooled else None)
        return declared if declared is not None and declared.head == kind else asked
    if problem is not None and not HEAD_NAMES[kind].problems:
        raise SettingsError(f"problem is for the classification of whole texts, but head is {kind!r}.")
    old = declared if declared is not None and declared.head == kind else None
    if labels is None:
        names = old.labels if old else default_labels(2)
    elif isinstance(labels, int):
        names = old.labels if old and len(old.labels) == labels else default_labels(labels)
    else:
        names = tuple(labels)
    if problem is None:
        same = old is not None and len(old.labels) == len(names)
        problem = cast(HeadChoice, old).problem if same else default_problem(names)
    if not HEADS[kind, cast(Problem, problem)].classes and len(names) != 1:
        raise SettingsError(f"a {problem} has one label, got {len(names)}.")
    return HeadChoice(kind, names, cast(Problem, problem))


def renaming(task: HeadChoice, declared: HeadChoice | None, where: str) -> tuple[str, ...]:
    """A warning where a head is kept, and its classes go by each other's names from now on."""
    if declared is None or not task.keeps_weights_of(declared):
        return ()
    places = {name: number for number, name in enumerate(declared.labels)}
    if all(places.get(name, number) == number for number, name in enumerate(task.labels)):
        return ()
    old, new = (", ".join(labels[:5]) + (", …" if len(labels) > 5 else "") for labels in (declared.labels, task.labels))
    return (
        f"the head of {where} has outputs for {old}; as was asked, they are called {new} from now on; leave labels "
        "out, unless the names there are wrong.",
    )


def unknown_head(where: str) -> UnknownHeadError:
    """The error for a checkpoint of a class whose head we do not have, and nobody asks for another one."""
    error = UnknownHeadError(
        f"{where} names a class whose head is not supported; give a checkpoint with a head for classification "
        "of texts or tokens, question answering or language modelling, or one without a head."
    )
    # A note shows in a traceback, beside the code that can follow it, and not on the command line.
    error.add_note(
        "head='none' loads it without a head, "
        "'classification', 'token_classification', 'question_answering' or 'causal_lm' with one."
    )
    return error


def _check_request(head: str | None, labels: Sequence[str] | int | None, problem: str | None) -> None:
    for name, value, known in (("head", head, get_args(HeadKind)), ("problem", problem, get_args(Problem))):
        if value is not None and value not in known:
            raise SettingsError(f"{name} is {value!r}, expected one of {', '.join(known)}.")
    if isinstance(labels, int):
        good = not isinstance(labels, bool)
    else:  # a set has an order of its own in every process, a mapping numbers that would not be read
        good = labels is None or (is_in_order(labels) and all(isinstance(label, str) for label in labels))
    if not good:
        raise SettingsError(f"labels is {labels!r}, expected a count or the names of the classes.")
    if labels is not None and (labels if isinstance(labels, int) else len(labels)) < 1:
        raise SettingsError(f"labels is {labels!r}, expected at least one.")
    if labels is not None and not isinstance(labels, int) and len(set(labels)) < len(labels):
        raise SettingsError(f"labels is {labels!r}, which names a class twice; every class needs its own name.")

"""From `config.json` to an `Architecture`: what is known is read, what would change the result is refused."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

from ..errors import CheckpointError, SettingsError
from ..model.architecture import Architecture, LayerSizes
from .families import ACTIVATIONS, FAMILIES, HARMLESS, Family

HeadKind = Literal["classification", "question_answering", "none"]
Problem = Literal["single_label", "multi_label", "regression"]

_PROBLEMS: Mapping[str, Problem] = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
_CLASSES: Mapping[str, HeadKind] = {
    "Model": "none",
    "ForMaskedLM": "none",
    "ForPreTraining": "none",
    "ForSequenceClassification": "classification",
    "ForQuestionAnswering": "question_answering",
}


class Task(NamedTuple):
    """What the last layer is for."""

    head: HeadKind
    labels: tuple[str, ...] = ()
    problem: Problem = "single_label"

    def keeps_weights_of(self, other: "Task") -> bool:
        """True where a head for `other` has the weights that this one needs; the labels' names may differ."""
        return self.head == other.head and len(self.labels) == len(other.labels)


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The family that `config` names. Raises `CheckpointError` that lists the supported ones for any other."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(
            f"{where} has model_type {str(model_type)[:60]!r}, supported are {', '.join(FAMILIES)}; "
            "another family needs a row in jaxprune/checkpoint/families.py."
        )
    return FAMILIES[model_type]


def declared_task(family: Family, config: Mapping[str, Any], where: str) -> Task | None:
    """The task that `config` says the file's head is for; None where the head is of a kind that we do not have."""
    names = config.get("architectures")
    if names:
        if not isinstance(names, list) or not isinstance(names[0], str):
            raise CheckpointError(f"{where}: architectures is {str(names)[:60]!r}, expected a list of class names.")
        name = names[0].removeprefix("Flax").removeprefix("TF")
        kind = _CLASSES.get(name.removeprefix(family.classes)) if name.startswith(family.classes) else None
    else:
        kind = (
            "classification" if any(config.get(key) for key in ("id2label", "num_labels", "problem_type")) else "none"
        )
    if kind == "classification":
        labels = _labels(config, where)
        return Task(kind, labels, _problem(config, labels, where))
    return Task(kind) if kind else None


def choose_task(
    declared: Task | None, head: str | None, labels: Sequence[str] | int | None, problem: str | None, where: str
) -> Task:
    """The task that the caller asks for; what was not asked for stays as declared.

    Raises `SettingsError` for a request that has no meaning, `CheckpointError` where nothing says what the head is.
    """
    _check_request(head, labels, problem)
    if declared is None and head is None and labels is None:
        raise CheckpointError(
            f"{where} is of a class whose head is not supported; pass head='none' for the encoder alone, or "
            "head='classification' or 'question_answering' for a new head."
        )
    if head is None:
        head = "classification" if labels is not None else cast(Task, declared).head
    if head != "classification":
        if labels is not None or problem is not None:
            raise SettingsError(f"labels and problem are for a classification head, but head is {head!r}.")
        return Task(cast(HeadKind, head))
    old = declared if declared is not None and declared.head == "classification" else None
    if labels is None:
        names = old.labels if old else _default_labels(2)
    elif isinstance(labels, int):
        names = old.labels if old and len(old.labels) == labels else _default_labels(labels)
    else:
        names = tuple(labels)
    if problem is None:
        same = old is not None and len(old.labels) == len(names)
        problem = cast(Task, old).problem if same else ("regression" if len(names) == 1 else "single_label")
    if problem == "regression" and len(names) != 1:
        raise SettingsError(f"a regression has one label, got {len(names)}.")
    return Task("classification", names, cast(Problem, problem))


def _check_request(head: str | None, labels: Sequence[str] | int | None, problem: str | None) -> None:
    for name, value, known in (("head", head, get_args(HeadKind)), ("problem", problem, get_args(Problem))):
        if value is not None and value not in known:
            raise SettingsError(f"{name} is {value!r}, expected one of {', '.join(known)}.")
    if isinstance(labels, (str, bool)) or (
        labels is not None and not isinstance(labels, int) and not all(isinstance(label, str) for label in labels)
    ):
        raise SettingsError(f"labels is {labels!r}, expected a count or the names of the classes.")
    if labels is not None and (labels if isinstance(labels, int) else len(labels)) < 1:
        raise SettingsError(f"labels is {labels!r}, expected at least one.")
    if labels is not None and not isinstance(labels, int) and len(set(labels)) < len(labels):
        raise SettingsError(f"labels is {labels!r}, which names a class twice; every class needs its own name.")


def architecture_from(family: Family, config: Mapping[str, Any], task: Task, where: str) -> Architecture:
    """The architecture that `config` describes, with the head that `task` needs."""
    _refuse_unknown(family, config, where)

    def value(name: str, kind: type, low: int) -> Any:
        if name not in family.keys:
            return None
        key = family.keys[name]
        found = config.get(key)
        found = family.defaults.get(key) if found is None else found
        good = isinstance(found, (int, float) if kind is float else kind) and not isinstance(found, bool)
        if not good or (isinstance(found, (int, float)) and found < low):
            wanted = "a name" if kind is str else f"{'a number' if kind is float else 'an integer'} of at least {low}"
            raise CheckpointError(f"{where}: {key} is {str(config.get(key))[:60]!r}, expected {wanted}.")
        return found

    hidden, heads = value("hidden", int, 1), value("heads", int, 1)
    if hidden % heads:
        raise CheckpointError(f"{where}: {heads} heads do not divide the hidden size {hidden}.")
    activation = value("activation", str, 0)
    if activation not in ACTIVATIONS:
        raise CheckpointError(f"{where}: activation {activation!r} is not supported, only {', '.join(ACTIVATIONS)}.")
    rows, pad = value("positions", int, 1), value("pad_id", int, 0)
    offset = pad + 1 if family.switches.get("positions_count") == "tokens" else 0
    if rows <= offset:
        raise CheckpointError(f"{where}: {family.keys['positions']} is {rows}, expected more than {offset}.")
    read = {
        "token_types": value("token_types", int, 0),
        "norm_eps": value("norm_eps", float, 0),
        "dropout": value("dropout", float, 0),
    }
    layer = LayerSizes(groups=heads, neurons=value("neurons", int, 1))
    return Architecture(
        family=family.model_type,
        vocab=value("vocab", int, 1),
        hidden=hidden,
        head_width=hidden // heads,
        layers=(layer,) * value("layers", int, 1),
        max_positions=rows - offset,
        position_offset=offset,
        pad_id=pad,
        activation=cast(Any, ACTIVATIONS[activation]),
        **{name: number for name, number in read.items() if number is not None},
        **family.switches,
        **head_fields(family, task),
    )


def head_fields(family: Family, task: Task) -> dict[str, Any]:
    """The fields of `Architecture` that a task sets."""
    head = family.heads.get(task.head)
    pooler = head.activation if head else "none"
    return {"pooler": pooler, "head": task.head, "labels": task.labels, "problem": task.problem}


def _refuse_unknown(family: Family, config: Mapping[str, Any], where: str) -> None:
    for key, expected in family.pinned.items():
        if key in config and config[key] not in (expected, None):
            raise CheckpointError(
                f"{where}: {key} is {str(config[key])[:60]!r}, of a {family.model_type} model only {expected!r} is "
                "supported, because it changes the result."
            )
    known = HARMLESS | set(family.keys.values()) | family.pinned.keys()
    for key, value in config.items():
        switched_off = value is None or (isinstance(value, (list, dict, str)) and not value)
        if key not in known and not key.startswith("_") and not switched_off:
            raise CheckpointError(
                f"{where}: the setting {key} = {str(value)[:60]!r} is not known for {family.model_type} and may change "
                "the result; delete it from the file if you are sure that it does not."
            )


def _labels(config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    named, count = config.get("id2label"), config.get("num_labels")
    if named is None:
        if count is not None and (not isinstance(count, int) or count < 1):
            raise CheckpointError(f"{where}: num_labels is {str(count)[:60]!r}, expected an integer of at least 1.")
        return _default_labels(2 if count is None else count)
    keys = {str(number) for number in range(len(named))} if isinstance(named, dict) else set()
    if not keys or set(named) != keys:
        raise CheckpointError(f"{where}: id2label is {str(named)[:60]!r}, expected names for 0, 1, 2, …")
    if count is not None and count != len(named):
        raise CheckpointError(f"{where}: num_labels is {count!r}, but id2label names {len(named)} labels.")
    return tuple(str(named[str(number)]) for number in range(len(named)))


def _default_labels(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{number}" for number in range(count))  # the names that transformers gives


def _problem(config: Mapping[str, Any], labels: tuple[str, ...], where: str) -> Problem:
    problem = config.get("problem_type")
    if problem is None:
        return "regression" if len(labels) == 1 else "single_label"
    if problem not in _PROBLEMS:
        raise CheckpointError(f"{where}: problem_type is {problem!r}, expected one of {', '.join(_PROBLEMS)}.")
    if problem == "regression" and len(labels) != 1:
        raise CheckpointError(f"{where}: a regression onto {len(labels)} values is not supported, only onto one.")
    return _PROBLEMS[problem]

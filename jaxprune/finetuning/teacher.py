"""A teacher for distillation: it must read the same tokens as its student and name the same labels, or is refused."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..checkpoint.files import listed
from ..checkpoint.manifest import check_all_finite
from ..checkpoint.notes import images_of
from ..errors import CheckpointError, DataError, SettingsError
from ..evaluation.label_map import by_name, match_labels
from ..model import Architecture, Model
from ..model.heads import head_of
from ..tasks.task import Task
from ..tokens.encoded import Encoded
from ..tokens.tokenizer import Tokenizer
from .settings import Train


def check_teacher(architecture: Architecture, teacher: Model | None, settings: Train) -> None:
    """Raise `SettingsError` where `settings` need another teacher, need one, or need none."""
    a = architecture
    if not settings.distills:
        if teacher is not None:
            raise SettingsError(
                "the teacher would teach nothing, as distill and distill_hidden are 0; set one, such as distill=0.5, "
                "or leave the teacher out."
            )
        return
    if teacher is None:
        raise SettingsError("distillation needs a teacher, a tuned model with the same head; pass teacher=….")
    t = teacher.architecture
    if (t.head, t.problem) != (a.head, a.problem) or len(t.labels) != len(a.labels):
        raise SettingsError(
            f"the teacher's head ({_told_head(t)}) is not the model's ({_told_head(a)}); take a teacher tuned for "
            "this task."
        )
    if head_of(a).language is not None and t.vocab != a.vocab:
        raise SettingsError(
            f"the teacher's vocabulary has {t.vocab} tokens, the model's {a.vocab}: their predictions cannot be "
            "compared; take a teacher with the model's tokenizer."
        )
    if settings.distill_hidden and (t.hidden, len(t.layers)) != (a.hidden, len(a.layers)):
        raise SettingsError(
            f"hidden states of the teacher ({len(t.layers)} layers of width {t.hidden}) and the model "
            f"({len(a.layers)} of {a.hidden}) cannot be compared; set distill_hidden to 0."
        )


def _told_head(architecture: Architecture) -> str:
    """What kind a head is of, with the first of its labels."""
    a = architecture
    if not a.labels:
        return a.head
    return f"{head_of(a).name}, {len(a.labels)} label{'' if len(a.labels) == 1 else 's'}: {listed(a.labels)}"


def fitting(
    teacher: Model, model: Model, task: Task, encoded: Encoded, read: Callable[[Tokenizer], Encoded]
) -> tuple[Model, tuple[str, ...]]:
    """The teacher with its outputs in the order of the model's labels, and doubts about it.

    Labels are matched as `evaluate` matches them: by name, of the two models or of each with the task's classes; else
    by number. `encoded` are the training texts as the model reads them, `read` gives them by another tokenizer. Raises
    `SettingsError` that names the first label, position or token in which the two differ; `NumericalError` for weights
    of the teacher that are not finite.
    """
    check_all_finite(teacher.params, "the teacher")
    t, a = teacher.architecture, model.architecture
    doubts: tuple[str, ...] = ()
    if a.labels:
        order, doubts = _order(t, a, task)
        teacher = _reordered(teacher, order, a.labels)
    longest = max(range(len(encoded)), key=lambda text: len(encoded.ids[text]))
    tokens = len(encoded.ids[longest])
    if t.positions != "none" and tokens > t.max_positions:
        raise SettingsError(
            f"the teacher has {t.max_positions} positions, training text {longest} has {tokens} tokens, so that token "
            f"{t.max_positions} has none; cut the texts at {t.max_positions} tokens, or take another teacher."
        )
    if a.patches is not None or t.patches is not None:
        return teacher, doubts + check_images(teacher, model)
    if task.is_token_ids:
        return teacher, doubts + check_row_ids(t, encoded)
    return teacher, doubts + check_tokens(teacher, model, encoded, read)


def _order(teacher: Architecture, student: Architecture, task: Task) -> tuple[np.ndarray, tuple[str, ...]]:
    """The teacher's output for each of the student's, and doubts."""
    if not head_of(student).classes:
        return np.arange(len(student.labels)), ()
    named = by_name(teacher.labels, replace(task, labels=student.labels, classes_from="names"))
    if named is not None:
        return named.outputs, ()
    try:
        ours, theirs = match_labels(student, task), match_labels(teacher, task)
    except DataError as error:
        raise SettingsError(f"{different_labels(teacher, student)}: {error}") from error
    order = np.full(len(student.labels), -1)
    if ours.task.labels == theirs.task.labels:  # not where one of the two has numbers for names
        order[ours.outputs] = theirs.outputs
    if np.any(order < 0):
        raise SettingsError(
            f"{different_labels(teacher, student)}, and the task's classes match neither; take a teacher tuned for "
            "this task."
        )
    return order, tuple(f"teacher: {doubt}" for doubt in theirs.warnings)


def different_labels(teacher: Architecture, student: Architecture) -> str:
    """The first label in which two heads of as many outputs differ, as a message begins."""
    number, theirs, ours = next(
        (number, *pair)
        for number, pair in enumerate(zip(teacher.labels, student.labels, strict=True))
        if pair[0] != pair[1]
    )
    return f"label {number} of the teacher is {theirs}, of the model {ours}"


def _reordered(teacher: Model, order: np.ndarray, labels: tuple[str, ...]) -> Model:
    """The same classifier with output i that which was output order[i], called labels[i]."""
    head = {name: np.take(np.asarray(leaf), order, axis=-1) for name, leaf in teacher.params["head"].items()}
    architecture = replace(teacher.architecture, labels=labels)
    return teacher.replace(architecture=architecture, params={**teacher.params, "head": head})


def check_images(teacher: Model, model: Model) -> tuple[str, ...]:
    """Raise `SettingsError` where the two read other patches, or images of other preparation. Returns a doubt where
    that of the teacher is not known.
    """
    if teacher.architecture.patches != model.architecture.patches:
        raise SettingsError(
            f"the teacher reads {teacher.architecture.patches}, the model {model.architecture.patches}; take a teacher "
            "that reads the same patches."
        )
    ours, _ = images_of(model)
    try:
        theirs, _ = images_of(teacher)
    except CheckpointError as error:
        return (f"that the teacher reads the same pixels could not be checked: {error}",)
    if ours != theirs:
        raise SettingsError(
            f"the teacher's image processor is {theirs}, the model's {ours}; take a teacher that reads the same pixels."
        )
    return ()


def check_row_ids(teacher: Architecture, encoded: Encoded) -> tuple[str, ...]:
    """A doubt: no tokenizer says what token ids mean. Raises `SettingsError` for one that the teacher has not."""
    highest = max(int(np.max(ids)) for ids in encoded.ids)
    if highest >= teacher.vocab:
        raise SettingsError(
            f"the texts hold token id {highest}, the teacher's embedding {teacher.vocab} rows; take a teacher with the "
            "model's vocabulary."
        )
    return ("the texts are token ids: that they mean the same to the teacher could not be checked.",)


def check_tokens(
    teacher: Model, model: Model, encoded: Encoded, read: Callable[[Tokenizer], Encoded]
) -> tuple[str, ...]:
    """Raise `SettingsError` for a token of the training texts that is another one, or none, to the teacher.

    What the texts do not hold may differ. Returns a doubt where the teacher has no tokenizer to compare with.
    """
    ours, rows = Tokenizer.of(model), teacher.architecture.vocab
    try:
        # Cut as ours are; what is beyond its embedding is looked for below.
        theirs = replace(Tokenizer.of(teacher), longest=ours.longest, rows=None)
    except CheckpointError as error:
        _check_ids(encoded, encoded, ours, ours, rows)
        return (f"that the teacher reads the same token ids could not be checked: {error}",)
    same = ours.backend.to_str() == theirs.backend.to_str()
    try:
        taught = encoded if same else read(theirs)
    except DataError as error:  # it has no chat template, for instance
        raise SettingsError(
            f"the teacher's tokenizer cannot read the training texts, take a teacher with the model's: {error}"
        ) from error
    _check_ids(encoded, taught, ours, theirs, rows)
    if teacher.architecture.token_types > 1:
        for text, (mine, other) in enumerate(zip(encoded.types, taught.types, strict=True)):
            if np.any(mine != other):
                place = int(np.flatnonzero(mine != other)[0])
                raise SettingsError(
                    f"token {place} of training text {text} is of type {other[place]} to the teacher, of type "
                    f"{mine[place]} to the model; take a teacher with the model's tokenizer."
                )
    return ()


def _check_ids(encoded: Encoded, taught: Encoded, ours: Tokenizer, theirs: Tokenizer, rows: int) -> None:
    told = lambda tokenizer, ids, at: (  # noqa: E731
        f"{ids[at]} ({tokenizer.backend.id_to_token(int(ids[at]))!r})" if at < len(ids) else "nothing"
    )
    if len(taught) != len(encoded):
        raise SettingsError(
            f"the teacher's tokenizer makes {len(taught)} windows of the training texts, the model's {len(encoded)}; "
            "take a teacher with the model's tokenizer."
        )
    for text, (mine, other) in enumerate(zip(encoded.ids, taught.ids, strict=True)):
        if not np.array_equal(mine, other):
            common = min(len(mine), len(other))
            place = next((at for at in range(common) if mine[at] != other[at]), common)
            raise SettingsError(
                f"token {place} of training text {text} has the id {told(theirs, other, place)} for the teacher, "
                f"{told(ours, mine, place)} for the model; take a teacher with the model's tokenizer."
            )
        if mine.max() >= rows:
            place = int(np.argmax(mine >= rows))
            raise SettingsError(
                f"token {place} of training text {text} has the id {told(ours, mine, place)}, the teacher's embedding "
                f"{rows} rows; take a teacher with the model's tokenizer."
            )

"""Whether the labels of rows of token ids, or of arrays of images, can be those of a model's head, said by row."""

from ..errors import DataError
from ..model import Architecture
from ..model.heads import head_of
from ..tasks.task import Task


def gives_rows(task: Task) -> bool:
    """Whether the task is of rows of token ids, or of arrays of images, whose labels are the model's own numbers."""
    return task.is_token_ids or (task.is_images and task.classes_from == "numbers")


def check_rows(architecture: Architecture, task: Task) -> None:
    """Raise `DataError` where a row's label is beyond the head, or where there are none and none can be done without.

    Of other tasks, whose classes have names, `match_labels` says it.
    """
    if not gives_rows(task):
        return
    a, head, outputs = architecture, head_of(architecture), len(architecture.labels)
    if task.running and head.language is None:
        raise DataError(f"{task.source} have no labels, and the model's head is {a.head}; give labels to score it on.")
    what = "image" if task.is_images else "row"
    for number, example in enumerate(task.validation if head.classes else ()):
        if isinstance(example.label, int) and example.label >= outputs > 0:
            raise DataError(
                f"{what} {number} has the label {example.label}, the model's head {outputs} classes (0 to "
                f"{outputs - 1}: {', '.join(a.labels[:5])}); correct it, or take the model that it belongs to."
            )
    if task.classes_from == "entries" and len(task.labels) != outputs > 0:
        raise DataError(
            f"labels have {len(task.labels)} columns from row 0 on, the model's head {outputs} classes; give a column "
            "for each class, in the model's order."
        )

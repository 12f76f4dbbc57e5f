"""Tasks by name: GLUE, SQuAD, or a folder of labelled texts of your own (public as `jaxprune.tasks`)."""

from pathlib import Path
from typing import Any

from ..errors import DataError
from .calibration import Calibration as Calibration
from .example import Answers as Answers, Example as Example
from .folder import folder as folder
from .glue import GLUE, glue as glue
from .language import text as text
from .squad import squad as squad
from .task import Task as Task
from .token_rows import of_ids as of_ids

NAMES = (*GLUE, "squad", "squad2", "text-classification", "text")


def load(name: str, data: str | Path | None = None, *, length: int | None = None, **options: Any) -> Task:
    """The task called `name`, from the files under `data`, or from the hub where that is None.

    `length` is the most tokens of a text, or the tokens of a window. `options` are further ones of `text`, for the task
    of that name.
    """
    if options and name != "text":
        raise DataError(f"{', '.join(options)} belong to the task text, not to {name}.")
    if data is not None and not Path(data).exists():
        raise DataError(f"{data} does not exist; name a folder with the files of {name}, or none to use the hub.")
    if name in GLUE:
        return glue(name, data, max_length=length)
    if name in ("squad", "squad2"):
        return squad(data, version=2 if name == "squad2" else 1, max_length=length)
    if name == "text-classification":
        if data is None:
            raise DataError("text-classification needs data=FOLDER with train.jsonl and validation.jsonl.")
        return folder(data, max_length=length)
    if name == "text":
        return text(data, **options) if length is None else text(data, length=length, **options)
    raise DataError(f'"{name}" is not a task; choose from {", ".join(NAMES)}.')

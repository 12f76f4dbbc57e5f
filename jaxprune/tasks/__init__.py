"""Tasks by name: GLUE, SQuAD, or a folder of labelled texts of your own (public as `jaxprune.tasks`)."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..checks import checked
from ..errors import DataError
from .calibration import Calibration as Calibration
from .example import Answers as Answers, Example as Example
from .folder import folder as folder
from .glue import GLUE, glue as glue
from .language import text as text
from .squad import squad as squad
from .task import Task as Task
from .token_rows import of_ids as of_ids
from .words import token_classification as token_classification

# What reads the files of a task, or where there are none to be named, the hub.
_LOADERS: Mapping[str, Callable[..., Task]] = {
    **{name: partial(glue, name) for name in GLUE},
    "squad": partial(squad, version=1),
    "squad2": partial(squad, version=2),
}
_OWN: Mapping[str, Callable[..., Task]] = {"text-classification": folder, "token-classification": token_classification}
NAMES = (*_LOADERS, *_OWN, "text")


@checked
def load(name: str, data: str | Path | None = None, *, length: int | None = None, **options: Any) -> Task:
    """The task called `name`, from the files under `data`, or from the hub where that is None.

    `length` is the most tokens of a text, or the tokens of a window. `options` are further ones of `text`, for the task
    of that name.
    """
    if options and name != "text":
        raise DataError(f"{', '.join(options)} belong to the task text, not to {name}.")
    if data is not None and not Path(data).exists():
        raise DataError(f"{data} does not exist; name a folder with the files of {name}, or none to use the hub.")
    if name in _LOADERS:
        return _LOADERS[name](data, max_length=length)
    if name in _OWN:
        if data is None:
            raise DataError(f"{name} needs data=FOLDER with train.jsonl and validation.jsonl.")
        return _OWN[name](data, max_length=length)
    if name == "text":
        return text(data, **options) if length is None else text(data, length=length, **options)
    raise DataError(f'"{name}" is not a task; choose from {", ".join(NAMES)}.')

"""Tasks by name: GLUE, SQuAD, texts, conversations and images of your own (public as `jaxprune.tasks`)."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..checks import checked
from ..errors import DataError
from .calibration import Calibration as Calibration
from .chat import chat as chat
from .example import Answers as Answers, Example as Example, Negatives as Negatives
from .folder import folder as folder
from .glue import GLUE, glue as glue
from .hub import Hub as Hub, Sources, listed_sources
from .images import images as images
from .language import text as text
from .pairs import pairs as pairs
from .retrieval import retrieval as retrieval
from .squad import squad as squad
from .sts import sts as sts
from .task import Task as Task
from .token_rows import of_ids as of_ids
from .words import token_classification as token_classification

# What reads the files of a task, or where there are none to be named, the hub.
_LOADERS: Mapping[str, Callable[..., Task]] = {
    **{name: partial(glue, name) for name in GLUE},
    "squad": partial(squad, version=1),
    "squad2": partial(squad, version=2),
}
_OWN: Mapping[str, Callable[..., Task]] = {
    "text-classification": folder,
    "token-classification": token_classification,
    "chat": chat,
    "sts": sts,
    "retrieval": retrieval,
    "pairs": pairs,
    "images": images,
}
# What their folder holds, where that is something else than texts to train on and to score.
_NEEDED = {
    "retrieval": "corpus.jsonl, queries.jsonl and qrels",
    "images": "train/CLASS/*.png and validation/CLASS/*.png, or an .npz with images and labels",
}
NAMES = (*_LOADERS, *_OWN, "text")
FILES = ("text", "chat", "pairs")  # whose data may be several files, and others to train on
# Options beside `data` and `length`, by the task that has them.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "text": ("train", "calibration", "windows", "documents"),
    "chat": ("validation", "calibration", "seed"),
    "pairs": ("validation", "min_score", "seed"),
    "images": ("validation", "seed"),
    "retrieval": (),  # corpus, queries and qrels are three files
}


@checked
def load(name: str, data: Sources | None = None, *, length: int | None = None, **options: Any) -> Task:
    """The task called `name`, from the files under `data`, or from the hub where that is None.

    `length` is the most tokens of a text, or the tokens of a window. `options` are further ones of `text`, `chat`
    and `pairs`, or `images`, for the tasks of these names; for the first three `data` may be several files.
    """
    if name not in NAMES:
        raise DataError(f'"{name}" is not a task; choose from {", ".join(NAMES)}.')
    foreign = [option for option in options if option not in OPTIONS.get(name, ())]
    if foreign:
        of = [other for other, names in OPTIONS.items() if foreign[0] in names]
        raise DataError(
            f"{', '.join(foreign)} belong to the task {' or '.join(of) or 'of another name'}, not to {name}."
        )
    sources = [] if data is None else listed_sources(data)
    if name not in OPTIONS and len(sources) + any(isinstance(source, Hub) for source in sources) > 1:
        raise DataError(f"{name} is read from one folder, got {', '.join(map(str, sources))}; name the folder.")
    for source in sources:
        if not isinstance(source, Hub) and not Path(source).exists():
            raise DataError(f"{source} does not exist; name a folder with the files of {name}, or none to use the hub.")
    if name == "text":
        return text(data, **options) if length is None else text(data, length=length, **options)
    if name in _LOADERS:
        return _LOADERS[name](data, max_length=length)
    if data is None:
        raise DataError(f"{name} needs data=FOLDER with {_NEEDED.get(name, 'train.jsonl and validation.jsonl')}.")
    return _OWN[name](data, max_length=length, **options)

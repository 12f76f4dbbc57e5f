"""What a task is made of: texts and their labels."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import DataError
from .picture import Picture as Picture

Kind = Literal[
    "single_label",
    "multi_label",
    "regression",
    "question_answering",
    "token_classification",
    "language",
    "chat",
    "sts",
    "retrieval",
    "pairs",
    "unlabelled",
]


# What says which class is which: their names; names in sorted order; numbers up to the largest used; lists with one
# entry for each class.
ClassesFrom = Literal["names", "sorted names", "numbers", "entries"]


MAX_LENGTH = 128  # tokens of a text, where nobody asks for another number


class Answers(NamedTuple):
    """The right answers to a question, as texts and as first characters in the context; none: not answerable."""

    id: str
    texts: tuple[str, ...]
    starts: tuple[int, ...]


class Tags(NamedTuple):
    """The words of a text, which is these with a space between them, and the class of each."""

    words: tuple[str, ...]
    classes: tuple[int, ...]


class Relevant(NamedTuple):
    """The judged documents of a query, as rows of the corpus, and how relevant each is: not at all up to 0."""

    documents: tuple[int, ...]
    grades: tuple[float, ...]
    itself: int | None = None  # the document that is the query: it is not searched for


class Negatives(NamedTuple):
    """Of two texts that belong together: texts that do not belong to the first, however alike they look."""

    texts: tuple[str, ...] = ()


Label = int | float | tuple[int, ...] | Answers | Tags | Relevant | Negatives


class TokenIds(NamedTuple):
    """A text as a model reads it."""

    ids: tuple[int, ...]  # special tokens included, padding not
    types: tuple[int, ...]


class Conversation(NamedTuple):
    """Messages that a chat template makes one text of; or, where there are none, a prompt and its completion."""

    where: str  # "FILE line N", for messages
    messages: tuple[Mapping[str, Any], ...] = ()  # as `apply_chat_template` of transformers takes them
    learnt: tuple[bool, ...] = ()  # of every message: whether a model learns to say it
    tools: tuple[Any, ...] = ()  # what a template is told of tools: JSON schemas
    prompt: str = ""
    completion: str = ""


class Example(NamedTuple):
    """A text, or a pair of texts, or an image, and its label.

    A class index, a number (regression, similarity), the indices of the classes that hold (multi-label), or `Answers`,
    where the text is the question and the pair its context; or `Tags`, of a query `Relevant`, of two texts that belong
    together `Negatives`. None: no label, which calibration does not need.
    """

    text: str
    pair: str | None
    label: Label | None
    tokens: TokenIds | None = None  # where the text is token ids already; `text` is empty then
    chat: Conversation | None = None  # where it is one; `text` is empty then
    image: Picture | None = None  # where it is one; `text` is empty then


def length_fields(asked: int | None, default: int = MAX_LENGTH) -> dict[str, Any]:
    """The fields `max_length` and `strict_length` of a task or calibration: what was asked for, else `default`."""
    if asked is not None and asked < 1:
        raise DataError(f"texts of {asked} tokens were asked for; ask for at least 1.")
    return {"max_length": default if asked is None else asked, "strict_length": asked is not None}


def picked(examples: Sequence[Example], rows: Sequence[int] | np.ndarray) -> Sequence[Example]:
    """The examples of these numbers, in this order; those that lie in files stay there."""
    from_files = getattr(examples, "picked", None)
    return tuple(examples[row] for row in rows) if from_files is None else from_files(rows)

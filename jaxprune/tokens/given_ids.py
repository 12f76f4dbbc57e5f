"""Who reads a task's texts or images: what lies beside its model, or nobody where they are token ids already."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from ..model import Model
from ..tasks.example import Example
from ..tasks.task import Task
from .encoded import Encoded
from .image_reader import ImageReader
from .tokenizer import Tokenizer


class GivenIds:
    """Reads texts that are token ids already, where a `Tokenizer` would read words: nothing is added or cut."""

    def encode(self, examples: Sequence[Example], max_length: int, strict: bool = False) -> Encoded:
        rows = [example.tokens for example in examples if example.tokens is not None]
        return Encoded([np.array(row.ids) for row in rows], [np.array(row.types) for row in rows])

    def doubts(self, examples: Sequence[Example]) -> tuple[str, ...]:
        return ()

    def rows(self, examples: Sequence[Example]) -> Iterator[np.ndarray]:
        """The token ids of every text, in turn."""
        return iter(self.encode(examples, 0).ids)


def reader_of(model: Model, task: Task, tokenizer: Any = None) -> Tokenizer | GivenIds | ImageReader:
    """Who reads the task's texts for `model`: `tokenizer` in place of the model's own, where that is handed in.

    Raises `DataError` where one is and the texts are token ids, `CheckpointError` where there is none for texts, or
    for images no settings.
    """
    if task.is_images:
        return ImageReader.of(model.with_tokenizer(tokenizer))
    if not task.is_token_ids:
        return Tokenizer.of(model.with_tokenizer(tokenizer))
    if tokenizer is not None:
        raise DataError(f"{task.source} are token ids, which no tokenizer reads; leave tokenizer= out.")
    return GivenIds()

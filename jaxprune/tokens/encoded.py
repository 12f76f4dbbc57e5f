"""Tokenised texts, patched images, and windows of contexts: what batches are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .unknown import Unknown


@dataclass(frozen=True)
class Masking:
    """What is known of a tokenizer where words are masked."""

    mask: int  # the token that stands in a masked one's place
    special: tuple[int, ...]  # tokens that are never masked
    entries: int  # of the vocabulary, among which other words are drawn


@dataclass(frozen=True)
class Encoded:
    """Tokenised texts: one array of token ids and one of token types a text, special tokens included, no padding."""

    ids: Sequence[np.ndarray]  # a list, or in a file (`token_file.Ragged`)
    types: Sequence[np.ndarray]
    cut: int = 0  # how many texts lost their end, or beginning
    longest: int | None = None  # tokens that they were cut to
    row: int | None = None  # slots of a row that is filled with several, where a batch is counted in rows
    unpooled: int = 0  # tokens at the beginning of every text that are no part of its vector: those of a prompt
    together: int = 1  # so many texts, one after another, belong to one example, and share a row of a batch in training
    masking: Masking | None = None  # words are masked anew in every epoch of training
    unknown: Unknown = Unknown()  # what their tokenizer does not know of them
    patches: Sequence[np.ndarray] | None = None  # of images, [tokens, numbers] each; images are all of one length

    def __len__(self) -> int:
        return len(self.ids)

    def picked(self, rows: Sequence[int] | np.ndarray) -> "Encoded":
        """The texts of these numbers, in this order."""
        patches = None if self.patches is None else [self.patches[row] for row in rows]
        return replace(
            self, ids=[self.ids[row] for row in rows], types=[self.types[row] for row in rows], patches=patches
        )

    @property
    def slots(self) -> int | None:
        """Of a row of images, which holds one, exactly; None: of texts."""
        return None if self.patches is None or not len(self.ids) else len(self.ids[0])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every text, int64."""
        known = getattr(self.ids, "lengths", None)
        return np.array([len(ids) for ids in self.ids], np.int64) if known is None else known

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Windows:
    """Overlapping stretches of contexts, each with its question before it: what a question answerer reads."""

    encoded: Encoded
    question: np.ndarray  # [windows]: which question a window belongs to
    spans: list[np.ndarray]  # per window [tokens, 2]: characters (first, past the last) in the context; -1 elsewhere
    cut: int = 0  # how many questions lost their end
    longest_question: int | None = None  # tokens that they were cut to

"""Where words are in a tokenised text: which token begins each, and which characters it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def word_tokens(words: Sequence[str], encoding: Any) -> np.ndarray:
    """The number of the token that begins each of the words, which make up a text with a space between them; or -1."""
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    # A token belongs to the word of its last character: some begin with the space before it.
    last = np.array(encoding.offsets, np.int64)[:, 1] - 1
    word = np.searchsorted(starts[1:] - 1, last, side="right")
    first = np.full(len(words) + 1, -1)
    for token in np.flatnonzero(last >= starts[word])[::-1]:
        first[word[token]] = token
    return first[:-1]


def words_in(text: str, encoding: Any) -> np.ndarray:
    """[words, 3] of a text: the first token of each word, its first character and one past its last."""
    rows: list[list[int]] = []
    before: int | None = None
    for token, (word, (start, end)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
        start += len(text[start:end]) - len(text[start:end].lstrip())  # some tokens begin with the space before a word
        if word is None or start >= end:
            continue
        if word == before and not any(map(str.isspace, text[rows[-1][2] : start])):
            rows[-1][2] = max(rows[-1][2], end)
        else:
            rows.append([token, start, end])
        before = word
    return np.array(rows, np.int64).reshape(-1, 3)

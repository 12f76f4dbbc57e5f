"""A text of any length to token ids, piece by piece, to the very ids that the whole text has."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from ..runtime.events import OnStep
from ..tasks.example import Example
from ..tasks.running_text import characters_of, chunks_of
from .tokenizer import Tokenizer

PIECE = 2**16  # characters of a piece: a tokenizer takes about 170 bytes for each while it works
TOGETHER = 4  # pieces that are tokenised at a time, by all cores
AROUND = 256  # characters on either side with which a cut is checked
TRIES = 8  # places of one kind that are tried

# Where a text may be cut, the best first: tokenizers divide a text into words before they make tokens, and none that we
# know makes a word across these places.
PLACES = (
    re.compile(r"(?<=\w)(?= \w)"),
    re.compile(r"(?<=\S)(?=\n\S)"),
    re.compile(r"(?<=\S\n)(?=\S)"),
    re.compile(r"(?<=\w)(?=[^\w\s])"),  # scripts without spaces: before a full stop
)


class Piece(NamedTuple):
    """A part of a text, and the characters before it: tokenizers do something else at the beginning of a text."""

    before: str
    text: str


def token_ids(tokenizer: Tokenizer, examples: Sequence[Example], on_step: OnStep | None = None) -> Iterator[np.ndarray]:
    """The ids of all texts one after another, without special tokens, in arrays of no particular length.

    `on_step` hears of {"phase": "tokenise", "done": characters, "of": characters}.
    """
    done, of = 0, characters_of(examples)
    for chunks in chunks_of(examples):
        for batch in _batches(pieces(tokenizer, chunks)):
            arrays = ids_of(tokenizer, batch)
            done += sum(len(piece.text) for piece in batch)
            if on_step is not None:
                on_step({"phase": "tokenise", "done": done, "of": of})
            yield from arrays


def ids_of(tokenizer: Tokenizer, parts: Sequence[Piece]) -> list[np.ndarray]:
    """The token ids of pieces, without those of the characters before them."""
    both = tokenizer.plain_batch([text for before, text in parts for text in (before, before + text)])
    return [whole[len(before) :] for before, whole in zip(both[::2], both[1::2], strict=True)]


def pieces(tokenizer: Tokenizer, chunks: Iterable[str]) -> Iterator[Piece]:
    """A text in pieces of about `PIECE` characters whose token ids, joined, are those of the whole text.

    At every cut the text around it is tokenised with and without what follows, and the cut is taken where that changes
    no token before it. A text that has no such place for long makes a long piece.
    """
    before, held, searched, enough = "", "", PIECE, 2 * PIECE
    for chunk in chunks:
        held += chunk
        while len(held) >= enough:
            place = cut_of(tokenizer, held, searched)
            if place is None:  # look on where we stopped, once there is as much text again
                searched, enough = len(held) - AROUND, 2 * len(held)
                continue
            yield Piece(before, held[:place])
            before, held = held[place - AROUND : place], held[place:]
            searched, enough = PIECE, 2 * PIECE
    if held:
        yield Piece(before, held)


def cut_of(tokenizer: Tokenizer, text: str, first: int) -> int | None:
    """A place at or after `first` characters where a text may be cut; None where none is found.

    `AROUND` characters before and after it are looked at.
    """
    last = len(text) - AROUND
    for kind in PLACES:
        for match in islice(kind.finditer(text, first, last), TRIES):
            place = match.start()
            left, whole = tokenizer.plain_batch([text[place - AROUND : place], text[place - AROUND : place + AROUND]])
            if np.array_equal(left, whole[: len(left)]):
                return place
    return None


def _batches(parts: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    for piece in parts:
        batch.append(piece)
        if len(batch) == TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch

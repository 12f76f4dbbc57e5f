"""Documents as token ids: each its own text, cut into parts that fit a window; packing puts several into a row.

A document begins with the special tokens that the tokenizer puts before a text, and ends with those that it puts after
one, or its end token. No part sees another one, nor another document: a row of a batch keeps them apart.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..errors import DataError
from ..runtime.events import OnStep
from ..tasks.example import Example
from ..tasks.running_text import RunningText, characters_of, chunks_of
from .pieces import PIECE, TOGETHER, Piece, ids_of, pieces
from .tokenizer import Tokenizer
from .windows import check_windows

SHORTEST = 2  # tokens of a part: in one nothing is predicted


def parts_of(
    tokenizer: Tokenizer, texts: Sequence[Example], length: int, what: str, on_step: OnStep | None = None
) -> Iterator[np.ndarray]:
    """All parts of `length` tokens, or what is left at a document's end, in order, as far as they are asked for.

    `on_step` is that of `pieces.token_ids`. Raises `DataError` where there is none.
    """
    check_windows(tokenizer, length)
    before, after = tokenizer.around()
    if not len(after) and tokenizer.end is not None:
        after = np.array([tokenizer.end], np.int32)
    some = False
    for first, ids, last in _stretches(tokenizer, texts, on_step):
        if first:
            rest = before
        rest = np.concatenate([rest, ids, *([after] if last else [])])
        whole = len(rest) if last else len(rest) // length * length
        for at in range(0, whole, length):
            part = rest[at : min(at + length, whole)]
            if len(part) >= SHORTEST:
                some = True
                yield part
        rest = rest[whole:]
    if not some:
        raise DataError(f"{what} has no document of {SHORTEST} tokens; give longer ones.")


def documents_doubts(tokenizer: Tokenizer) -> tuple[str, ...]:
    """A doubt where nothing says where a document ends."""
    if tokenizer.end is not None or len(tokenizer.around()[1]):
        return ()
    return (
        "the tokenizer names no end token (eos_token in tokenizer_config.json): documents are read without one after "
        "them.",
    )


def _stretches(
    tokenizer: Tokenizer, texts: Sequence[Example], on_step: OnStep | None
) -> Iterator[tuple[bool, np.ndarray, bool]]:
    """Token ids of documents in stretches, without special tokens; whether one begins a document, or ends it."""
    done, of = 0, characters_of(texts)
    for group in _groups(tokenizer, texts):
        arrays = ids_of(tokenizer, [piece for _, piece, _ in group])
        done += sum(len(piece.text) for _, piece, _ in group)
        if on_step is not None:
            on_step({"phase": "tokenise", "done": min(done, of), "of": of})
        for (first, _, last), ids in zip(group, arrays, strict=True):
            yield first, ids, last


def _groups(tokenizer: Tokenizer, texts: Sequence[Example]) -> Iterator[list[tuple[bool, Piece, bool]]]:
    """Pieces of documents, short documents whole, as many at a time as keep all cores busy."""
    group: list[tuple[bool, Piece, bool]] = []
    characters = 0
    for document in texts.documents() if isinstance(texts, RunningText) else chunks_of(texts):
        for entry in _ends_told(pieces(tokenizer, document)):
            group.append(entry)
            characters += len(entry[1].text)
            if characters >= PIECE * TOGETHER:
                yield group
                group, characters = [], 0
    if group:
        yield group


def _ends_told(parts: Iterable[Piece]) -> Iterator[tuple[bool, Piece, bool]]:
    """Every piece of a document, and whether it is its first, and its last."""
    first, held = True, None
    for piece in parts:
        if held is not None:
            yield first, held, False
            first = False
        held = piece
    if held is not None:
        yield first, held, True

"""Language modelling: running text, cut into windows of equal length that do not overlap.

Perplexity is over such windows: within one every token but the first is predicted from those before it; what is left
over at the end is dropped, and no special token is added. Calibration draws windows of another text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice

import numpy as np

from ..errors import DataError
from ..model import Model
from ..runtime.events import OnStep
from ..tasks.calibration import Calibration
from ..tasks.example import Example
from ..tasks.kinds import KINDS
from ..tasks.running_text import beginning, characters_of, chunks_of
from .conversations import read_conversations
from .encoded import Encoded
from .image_reader import ImageReader
from .masking import reads_masks, with_masks
from .pieces import AROUND, Piece, cut_of, ids_of, token_ids
from .text_doubts import text_doubts
from .tokenizer import Tokenizer
from .unknown import count_unknown

WHOLE = 2**24  # characters of calibration text above which not all of it is tokenised
STRETCH = 8  # characters a token of a window: more than tokenizers make of a token of prose
BEHIND = 3  # stretches that are read beyond the one in which a window begins


def check_windows(tokenizer: Tokenizer, length: int) -> None:
    """Raise `DataError` for windows longer than the model reads."""
    room = tokenizer.longest
    if room is not None and length > room:
        raise DataError(f"windows of {length} tokens do not fit the model's {room} positions; ask for shorter ones.")


def windows_of(
    tokenizer: Tokenizer, texts: Sequence[Example], length: int, what: str, on_step: OnStep | None = None
) -> Iterator[np.ndarray]:
    """All windows of `length` tokens of the joined texts, in order, tokenised only as far as they are asked for.

    `on_step` is that of `token_ids`. Raises `DataError` where there is no window.
    """
    check_windows(tokenizer, length)
    tokens, rest = 0, np.zeros(0, np.int32)
    for ids in token_ids(tokenizer, texts, on_step):
        tokens += len(ids)
        rest = np.concatenate([rest, ids])
        whole = len(rest) // length * length
        yield from rest[:whole].reshape(-1, length)
        rest = rest[whole:]
    if tokens < length:
        raise DataError(f"{what} has {tokens} tokens, less than one window of {length}; give more, or shorter windows.")


def encoded_for(
    model: Model, calibration: Calibration, on_step: OnStep | None = None
) -> tuple[Encoded, tuple[str, ...]]:
    """Token ids of calibration texts for `model`, and doubts: those given, or what its tokenizer makes of the texts.

    Of conversations all tokens are measured on, whoever says them. `on_step` is that of `token_ids`. Raises `DataError`
    for pairs where the model reads single texts, and the other way round.
    """
    if calibration.ids:
        ids, types = ([np.array(row, np.int64) for row in rows] for rows in (calibration.ids, calibration.types))
        return Encoded(ids, types), ()
    if calibration.windows is None and calibration.examples[0].image is not None:
        reader = ImageReader.of(model)
        return reader.encode(calibration.examples), reader.doubts(calibration.examples)
    tokenizer = Tokenizer.of(model)
    if calibration.kind is not None and KINDS[calibration.kind].pairs_too and model.architecture.labels:
        raise DataError(
            f"the texts of {calibration.source} are single sentences, for embedding models, and the model's "
            f"{model.architecture.head} head reads a pair; pass Calibration.of_texts(texts, pairs)."
        )
    if calibration.paired and model.architecture.embedding is not None:
        raise DataError(
            f"the texts of {calibration.source} are pairs, and an embedding model reads every text by itself; give "
            "both as texts of their own, in a file on a line each."
        )
    if calibration.windows is None and calibration.examples[0].chat is not None:
        rows, reading = read_conversations(
            tokenizer, calibration.examples, calibration.max_length, calibration.strict_length
        )
        ids = [row for row, _ in rows]
        said = reading.warnings("calibration conversations")
        return Encoded(ids, [np.zeros_like(entry) for entry in ids]), tokenizer.doubts(()) + said
    encoded = encode_calibration(tokenizer, calibration, on_step, reads_masks(model.architecture))
    # A running text has no pairs to doubt, and is not read for them.
    doubts = tokenizer.doubts(calibration.examples if calibration.windows is None else ())
    return encoded, doubts + text_doubts(encoded, "calibration texts")


def encode_calibration(
    tokenizer: Tokenizer, calibration: Calibration, on_step: OnStep | None = None, masks: bool = False
) -> Encoded:
    """Token ids of calibration texts: each text, or of a language task the windows that its seed draws.

    `on_step` is that of `token_ids`. With `masks` some tokens are masked, and windows have special tokens around them.
    """
    if masks:
        before, after = tokenizer.around()
        if calibration.windows is not None:
            calibration = replace(calibration, max_length=calibration.max_length - len(before) - len(after))
        encoded = encode_calibration(tokenizer, calibration, on_step)
        if calibration.windows is not None:
            ids = [np.concatenate([before, row, after]) for row in encoded.ids]
            encoded = replace(encoded, ids=ids, types=[np.zeros_like(row) for row in ids])
        return with_masks(tokenizer, encoded, calibration.seed or 0)
    if calibration.windows is None:
        return tokenizer.encode(calibration.examples, calibration.max_length, calibration.strict_length)
    long = characters_of(calibration.examples) > WHOLE
    ids = drawn_stretches(tokenizer, calibration, on_step) if long else None
    ids = windows_drawn(tokenizer, calibration, on_step) if ids is None else ids
    begins = beginning(calibration.examples)
    unknown = count_unknown(((row, 0, begins) for row in ids), *tokenizer.unknown)
    return Encoded(ids, [np.zeros_like(entry) for entry in ids], unknown=unknown)


def windows_drawn(tokenizer: Tokenizer, calibration: Calibration, on_step: OnStep | None = None) -> list[np.ndarray]:
    """Windows drawn among all of a text as tasks draw rows: `RandomState(seed).choice(n, count, replace=False)`."""
    every = first_windows(tokenizer, calibration, None, on_step)
    rows = np.random.RandomState(calibration.seed).choice(len(every), calibration.count, replace=False)
    return [every[row] for row in rows]


def first_windows(
    tokenizer: Tokenizer, calibration: Calibration, most: int | None, on_step: OnStep | None = None
) -> list[np.ndarray]:
    """The first `most` windows of calibration texts (None: all). Raises `DataError` for fewer than are to be drawn."""
    length = calibration.max_length
    windows = list(islice(windows_of(tokenizer, calibration.examples, length, calibration.source, on_step), most))
    if len(windows) < calibration.count:
        raise DataError(
            f"{calibration.count} calibration sequences, but {calibration.source} has {len(windows)} of {length} "
            "tokens; ask for fewer or shorter ones."
        )
    return windows


def windows_there(model: Model, calibration: Calibration) -> int:
    """How many windows a running text has, of those that are to be drawn at most. Raises `DataError` for none."""
    tokenizer, length = Tokenizer.of(model), calibration.max_length
    if reads_masks(model.architecture):
        length -= sum(map(len, tokenizer.around()))
    every = windows_of(tokenizer, calibration.examples, length, calibration.source)
    return sum(1 for _ in islice(every, calibration.count))


def drawn_stretches(
    tokenizer: Tokenizer, calibration: Calibration, on_step: OnStep | None = None
) -> list[np.ndarray] | None:
    """Windows drawn from a text too long to be tokenised for the sake of a few; None where it holds too few stretches.

    The text is divided into stretches of `STRETCH` characters for each token of a window. Stretches are drawn, by the
    rule of `windows_drawn`; a window begins at the first word that begins in its stretch. Windows overlap only where
    tokens are longer than `STRETCH` characters on average.
    """
    length, of = calibration.max_length, characters_of(calibration.examples)
    check_windows(tokenizer, length)
    size = STRETCH * length
    there = of // size - BEHIND
    if calibration.count > there:
        return None
    rows = np.random.RandomState(calibration.seed).choice(there, calibration.count, replace=False).tolist()
    parts: dict[int, list[str]] = {row: [] for row in rows}
    done = 0
    for chunk in chain.from_iterable(chunks_of(calibration.examples)):
        for row in range(max(0, done // size - BEHIND), (done + len(chunk)) // size + 1):
            if row in parts:
                parts[row].append(chunk[max(0, row * size - done) : max(0, (row + 1 + BEHIND) * size - done)])
        done += len(chunk)
        if on_step is not None:
            on_step({"phase": "tokenise", "done": min(done, of), "of": of})
    windows = []
    for row in rows:
        text = "".join(parts[row])
        place = cut_of(tokenizer, text, AROUND) or AROUND
        windows += ids_of(tokenizer, [Piece(text[place - AROUND : place], text[place:])])
    windows = [ids[:length] for ids in windows]
    return windows if all(len(ids) == length for ids in windows) else None

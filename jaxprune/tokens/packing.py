"""Texts to batches of one shape, several short texts a row, and results back to texts.

A text attends only to itself (segment ids), so that packing never changes a result; it only leaves less padding.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ..errors import DataError
from ..model import Architecture, Batch
from ..model.pooling import pool_slots
from .encoded import Encoded as Encoded

CPU_BATCH, DEVICE_BATCH = 768, 16384  # slots a batch aims at: see batch_tokens
ROW_LENGTHS = (64, 128)  # slots a row where all texts are that short: few shapes, and attention costs length²
STEP = 16  # longer rows are a multiple of this
TOGETHER = 4096  # texts that are looked at together


def pack(
    encoded: Encoded,
    architecture: Architecture,
    *,
    length: int | None = None,
    rows: int | None = None,
    group: int | None = None,
    few_shapes: bool = False,
) -> list[Batch]:
    """Batches of numpy arrays, all of one shape, that hold every text once.

    `length` is the slots of a row: by default 64 or 128, or the longest text rounded up to a multiple of 16. `rows` is
    the rows of a batch: by default about `batch_tokens()` slots, spread evenly over the batches. With `group`, each
    consecutive `group` texts make up one batch. With `few_shapes` rows, and texts of a row, are rounded up to powers of
    two or to all of a batch, so that call after call runs programs that are compiled. Deterministic. Raises DataError
    for a text that has no tokens or does not fit.
    """
    lengths = encoded.lengths
    length = row_length(lengths, encoded.slots if length is None else length)
    check_encoded(encoded, lengths, length, architecture)
    texts = np.arange(len(lengths))
    parts = [texts] if group is None else [texts[at : at + group] for at in range(0, len(texts), group)]
    filled = [fill_rows(part, lengths, length) for part in parts]  # [part][row] -> texts
    full = max(1, batch_tokens() // length)
    if few_shapes and rows is None and group is None:
        rows = min(full, _power_of_two(len(filled[0])))
    if group is None:
        filled = _spread(filled[0], full if rows is None else rows, even=rows is None)
    most = max(len(part) for part in filled)
    if rows is not None and most > rows:
        raise DataError(f"a group of {group} texts needs {most} rows of {length} tokens, got rows={rows}; raise it.")
    places = max(len(row) for part in filled for row in part)
    shape = (most if rows is None else rows, length, _power_of_two(places) if few_shapes else places)
    return [batch_of(part, encoded, architecture, shape) for part in filled]


def _power_of_two(count: int) -> int:
    """The least one that is not below `count`."""
    return 1 << (count - 1).bit_length()


def with_empty_rows(batch: Batch, multiple: int) -> Batch:
    """The batch with rows of padding added, so that so many devices can share it evenly. NumPy arrays."""
    missing = -len(batch.ids) % multiple
    if not missing:
        return batch
    filled = jax.tree.map(lambda leaf: np.pad(leaf, [(0, missing), *[(0, 0)] * (leaf.ndim - 1)]), batch)
    return filled._replace(index=np.pad(batch.index, [(0, missing), (0, 0)], constant_values=-1))


def batch_tokens() -> int:
    """Slots a batch aims at. A few hundred keep a CPU's matrix units busy, and what a batch needs then stays in its
    caches; on an accelerator a program must be large, or launching it takes longer than running it.
    """
    return CPU_BATCH if jax.default_backend() == "cpu" else DEVICE_BATCH


def unpack(batches: Iterable[Batch]) -> Encoded:
    """The texts of packed batches, in the order of their index."""
    batches = list(batches)
    return Encoded(unpack_tokens([b.ids for b in batches], batches), unpack_tokens([b.types for b in batches], batches))


def unpack_logits(values: Sequence[Any], batches: Sequence[Batch]) -> np.ndarray:
    """One entry a text, [texts, ...], from one array a batch, [rows, texts of a row, ...]."""
    present = [np.asarray(batch.index) >= 0 for batch in batches]
    index = np.concatenate([np.asarray(batch.index)[real] for batch, real in zip(batches, present, strict=True)])
    values_of_texts = np.concatenate([np.asarray(value)[real] for value, real in zip(values, present, strict=True)])
    ordered = np.empty_like(values_of_texts)
    ordered[index] = values_of_texts
    return ordered


def unpack_tokens(values: Sequence[Any], batches: Sequence[Batch]) -> list[np.ndarray]:
    """One array a text, [tokens, ...], from one array a batch, [rows, length, ...]."""
    by_text: dict[int, np.ndarray] = {}
    for value, batch in zip(values, batches, strict=True):
        value, segments, index = np.asarray(value), np.asarray(batch.segments), np.asarray(batch.index)
        for row, place in zip(*np.nonzero(index >= 0), strict=True):
            by_text[int(index[row, place])] = value[row][segments[row] == place + 1]
    return [by_text[text] for text in sorted(by_text)]


def logits_difference(expected: Any, got: Any, batch: Batch) -> float:
    """Largest difference of two models' logits on the texts of a batch, relative to the largest expected one."""
    expected, got = np.asarray(expected), np.asarray(got)
    real = np.asarray(batch.real if expected.shape[1] == batch.ids.shape[1] else batch.index >= 0)
    return float(np.max(np.abs(expected - got)[real]) / max(float(np.max(np.abs(expected[real]))), 1e-30))


def row_length(lengths: np.ndarray, length: int | None) -> int:
    """Slots of a row: `length`, or by default 64 or 128, or the longest text rounded up to a multiple of 16."""
    if length is not None:
        return length
    longest = int(lengths.max(initial=0))
    return next((short for short in ROW_LENGTHS if longest <= short), -(-longest // STEP) * STEP)


def check_encoded(encoded: Encoded, lengths: np.ndarray, length: int, architecture: Architecture) -> None:
    """Raise `DataError` where there are no texts, or where one has no tokens, does not fit or has foreign ids."""
    if not len(lengths):
        raise DataError("there are no texts to batch; give at least one.")
    if lengths.min() < 1:
        raise DataError(f"text {int(lengths.argmin())} has no tokens; drop it.")
    longest, text = int(lengths.max()), int(lengths.argmax())
    if longest > length:
        raise DataError(f"text {text} has {longest} tokens, a row {length}; raise length or truncate.")
    if (encoded.patches is None) != (architecture.patches is None):
        given, reads = ("texts", "images") if encoded.patches is None else ("images", "texts")
        raise DataError(f"these are {given}, and the model reads {reads}; take a model that reads {given}.")
    if architecture.positions != "none" and longest > architecture.max_positions:
        raise DataError(f"text {text} has {longest} tokens, more than the model's {architecture.limit}; truncate.")
    least, most = _extremes(encoded.ids)
    if least < 0 or most >= architecture.vocab:
        raise DataError(
            f"token ids run from {least} to {most}, the model's embedding has {architecture.vocab} rows; "
            "use the tokenizer that belongs to it."
        )
    if architecture.token_types > 1:  # others read every token as type 0
        least, most = _extremes(encoded.types)
        if least < 0 or most >= architecture.token_types:
            raise DataError(
                f"token types run from {least} to {most}, the model has {architecture.token_types}; "
                "give those of its tokenizer."
            )


def _extremes(rows: Sequence[np.ndarray]) -> tuple[int, int]:
    """The least and the greatest number in all rows, which may lie in a file that is larger than the memory."""
    groups = (np.concatenate(rows[at : at + TOGETHER]) for at in range(0, len(rows), TOGETHER))
    least, most = zip(*((int(group.min()), int(group.max())) for group in groups), strict=True)
    return min(least), max(most)


def fill_rows(texts: np.ndarray, lengths: np.ndarray, length: int, crowd: float = 2.0) -> list[list[int]]:
    """Rows of texts: each text, longest first, goes where it leaves the least room (best-fit decreasing).

    A row holds at most `crowd` times as many texts as fit of the mean length.
    """
    # Without a limit the shortest texts would all share a few rows, and every row pays for the fullest one's slots.
    limit = max(1, int(np.ceil(crowd * length / lengths[texts].mean())))
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(length + 1)]  # room left -> rows, oldest last
    for text in texts[np.lexsort((texts, -lengths[texts]))]:
        need = int(lengths[text])
        room = next((room for room in range(need, length + 1) if by_room[room]), None)
        if room is None:
            row, room = len(rows), length
            rows.append([])
        else:
            row = by_room[room].pop()
        rows[row].append(int(text))
        if len(rows[row]) < limit:
            by_room[room - need].append(row)
    return rows


def _spread(rows: list[list[int]], most: int, even: bool) -> list[list[list[int]]]:
    """Rows to batches of at most `most` rows, of equal size where `even`."""
    size = -(-len(rows) // -(-len(rows) // most)) if even else most
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def batch_of(
    rows: Sequence[Sequence[int] | np.ndarray],
    encoded: Encoded,
    architecture: Architecture,
    shape: tuple[int, int, int],
) -> Batch:
    """A batch whose row i holds the texts numbered rows[i]; `shape`: rows, slots of a row, texts of a row."""
    count, length, places = shape
    ids = np.full((count, length), architecture.pad_id, np.int32)
    segments, positions, types = (np.zeros((count, length), np.int32) for _ in range(3))
    index = np.full((count, places), -1, np.int32)
    numbers = None if architecture.patches is None else architecture.patches.numbers
    patches = None if numbers is None else np.zeros((count, length, numbers), np.float32)
    for row, texts in enumerate(rows):
        start = 0
        for place, text in enumerate(texts):
            stop = start + len(encoded.ids[text])
            ids[row, start:stop] = encoded.ids[text]
            segments[row, start:stop] = place + 1
            positions[row, start:stop] = np.arange(stop - start)
            # A model with one type (RoBERTa) or none reads every token as type 0, as transformers does.
            if architecture.token_types > 1:
                types[row, start:stop] = encoded.types[text]
            index[row, place] = text
            if patches is not None and encoded.patches is not None:
                patches[row, start:stop] = encoded.patches[text]
            start = stop
    pool = pool_slots(architecture, ids, segments, places)
    if encoded.unpooled:
        last = pool_slots(replace(architecture, pool="last", pool_pad=None), ids, segments, places)
        pool = np.minimum(pool + encoded.unpooled, last)
    return Batch(ids, segments, positions, types, pool, index, patches)  # type: ignore[arg-type]

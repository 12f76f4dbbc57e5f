"""Token ids as tokenizers give them, [texts, length] with a mask, as one row of tokens a text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError

Rows = tuple[tuple[int, ...], ...]


def token_texts(ids: Any, mask: Any, types: Any, what: str) -> tuple[Rows, Rows]:
    """The token ids and token types of every text, padding left out; `what` a text is called in errors.

    A mask of None says that every slot is a token; only then may texts differ in length. Raises `DataError`.
    """
    table = [_whole_numbers(row, f"ids of {what} {number}") for number, row in enumerate(ids)]
    masks = [np.ones_like(row) for row in table] if mask is None else _beside(table, mask, "mask", what)
    kinds = [np.zeros_like(row) for row in table] if types is None else _beside(table, types, "types", what)
    for number, row in enumerate(masks):
        if not np.isin(row, (0, 1)).all():
            raise DataError(f"mask of {what} {number} has values beside 0 and 1; 1 marks a token.")
        if not row.any():
            raise DataError(f"{what} {number} has no tokens; drop it.")
    chosen = [row.astype(bool) for row in masks]
    shown, hidden = (
        {number for row, keep in zip(table, chosen, strict=True) for number in row[keep if kept else ~keep].tolist()}
        for kept in (True, False)
    )
    if len(shown) == 1 and len(hidden - shown) > 1:  # padding is one id
        raise DataError(
            f"the mask shows the token {min(shown)} alone, in every {what}; 1 marks a token, 0 padding: turn it round."
        )
    texts, kinds = (
        tuple(tuple(row[keep].tolist()) for row, keep in zip(rows, chosen, strict=True)) for rows in (table, kinds)
    )
    return texts, kinds


def _whole_numbers(row: Any, what: str) -> np.ndarray:
    """One text's row as int64. Raises `DataError` for what are no whole numbers, or not one row."""
    numbers = np.asarray(row)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iub":
        raise DataError(f"{what}: expected a row of whole numbers, got {numbers.dtype} of shape {numbers.shape}.")
    return numbers.astype(np.int64)


def _beside(table: Sequence[np.ndarray], rows: Any, name: str, what: str) -> list[np.ndarray]:
    """Rows of the same lengths as those of `table`. Raises `DataError` where they differ."""
    others = [_whole_numbers(row, f"{name} of {what} {number}") for number, row in enumerate(rows)]
    if len(others) != len(table):
        raise DataError(
            f"{name} and ids must have the same shape, got {len(others)} and {len(table)} rows; give one number for "
            "every token id."
        )
    for number, (row, beside) in enumerate(zip(others, table, strict=True)):
        if len(row) != len(beside):
            raise DataError(
                f"{name} and ids must have the same shape: those of {what} {number} have {len(row)} and {len(beside)} "
                "numbers; give one number for every token id."
            )
    return others

"""Prompts as rows of token ids, padded on the left."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from ..model.architecture import Architecture
from ..model.heads import head_of


def prompt_rows(prompts: Any, attention_mask: Any) -> list[np.ndarray]:
    """The tokens of each prompt, padding dropped wherever it was."""
    for name, given in (("prompts", prompts), ("attention_mask", attention_mask)):
        if given is not None and not hasattr(given, "__iter__"):
            raise DataError(f"{name} is {given!r:.40}, expected lists of whole numbers, or an array, [rows, length].")
    asked = [np.asarray(prompt) for prompt in prompts]
    if any(row.ndim != 1 or (row.size and row.dtype.kind not in "iu") for row in asked):
        raise DataError("prompts must be lists of token ids, or an array of integers, [rows, length].")
    if attention_mask is None:
        return asked
    masks = [np.asarray(mask) for mask in attention_mask]
    if [mask.shape for mask in masks] != [row.shape for row in asked]:
        raise DataError(
            f"attention_mask has shape {np.shape(attention_mask)}, the prompts {np.shape(prompts)}; they must agree."
        )
    return [row[mask > 0] for row, mask in zip(asked, masks, strict=True)]


def check_prompts(a: Architecture, asked: list[np.ndarray], new: int) -> None:
    """Raise `DataError` for prompts that cannot be continued by `new` tokens."""
    if not head_of(a).generates:
        raise DataError(f"generating needs a causal_lm head, the model has {a.head}; load a language model.")
    if not asked:
        raise DataError("there are no prompts; give at least one.")
    for number, prompt in enumerate(asked):
        if not len(prompt):
            raise DataError(f"prompt {number} has no tokens; give at least one token.")
        if prompt.min() < 0 or prompt.max() >= a.vocab:
            foreign = prompt[(prompt < 0) | (prompt >= a.vocab)][0]
            raise DataError(f"prompt {number} has token id {foreign}, the model's embedding has {a.vocab} rows.")
        if a.positions != "none" and len(prompt) + new > a.max_positions:
            raise DataError(
                f"prompt {number}: {len(prompt)} prompt tokens and {new} new ones exceed the model's {a.limit}; "
                "shorten the prompt or ask for fewer."
            )


def rounded_up(count: int) -> int:
    """Up to a multiple of 16, of long ones to three significant bits: few shapes, and little padding."""
    step = max(16, (1 << count.bit_length()) >> 3)
    return -(-count // step) * step


def left_padded(prompts: Sequence[np.ndarray], rows: int, width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """[rows, width] token ids and each row's count; rows beyond the prompts have none, and say nothing."""
    ids, lengths = np.full((rows, width), pad_id, np.int32), np.zeros(rows, np.int32)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], lengths[row] = prompt, len(prompt)
    return ids, lengths

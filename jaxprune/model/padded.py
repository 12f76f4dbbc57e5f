"""Plainly padded token ids, as tokenizers give them: a batch of them, and the model's outputs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..checks import checked
from ..errors import DataError
from .architecture import Architecture
from .heads import head_of
from .model import Batch, Model
from .pooling import pool_slots
from .transformer import whole_forward


def plain_batch(
    architecture: Architecture,
    input_ids: Any,
    attention_mask: Any = None,
    token_type_ids: Any = None,
) -> Batch:
    """One text a row, [rows, length], padded left or right, as tokenizers give them; positions as in transformers.

    So is the token that stands for a text: slot 0, or for a classifier on a decoder the last whose id is not padding's,
    whatever the mask says. Where config.json names no padding, transformers takes the last slot of a single row and
    refuses several; here the mask tells how far each text goes. Traceable. Raises `DataError` where shapes disagree or
    a text is longer than the model reads.
    """
    ids = _integers(input_ids, "input_ids", architecture.vocab, attention_mask)
    if ids.ndim != 2:
        raise DataError(f"input_ids must be [rows, length], got shape {ids.shape}.")
    mask = jnp.ones_like(ids) if attention_mask is None else _integers(attention_mask, "attention_mask", 2)
    types = (
        jnp.zeros_like(ids)
        if token_type_ids is None
        else _integers(token_type_ids, "token_type_ids", architecture.token_types or None)
    )
    for name, array in (("attention_mask", mask), ("token_type_ids", types)):
        if array.shape != ids.shape:
            raise DataError(f"{name} has shape {array.shape}, input_ids {ids.shape}; they must agree.")
    if architecture.positions_count == "tokens":
        # RoBERTa counts the ids that are not padding, whatever the mask says; padding sits just before position 0.
        real = (ids != architecture.pad_id).astype(jnp.int32)
        positions = jnp.cumsum(real, axis=1) * real - 1
    elif architecture.positions_count == "mask":
        positions = jnp.cumsum(mask, axis=1) * mask - 1  # OPT: padding sits just before position 0
    else:
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    if architecture.positions != "none" and ids.shape[1] > architecture.max_positions:
        raise DataError(f"texts of {ids.shape[1]} tokens do not fit the model's {architecture.limit}; truncate.")
    segments = (mask > 0).astype(jnp.int32)
    by_mask = architecture.pool == "last" and architecture.pool_pad is None
    return Batch(
        ids,
        segments,
        positions,
        types,
        pool_slots(architecture, ids, segments if by_mask else jnp.ones_like(ids), 1),
        jnp.arange(ids.shape[0], dtype=jnp.int32)[:, None],  # which may be symbolic, as len() may not
    )


def image_batch(architecture: Architecture, pixel_values: Any) -> Batch:
    """One image a row, from pixels [rows, channels, height, width] as an image processor gives them. Traceable.

    Raises `DataError` for images that are not of the model's size.
    """
    patches = architecture.patches
    if patches is None:
        raise DataError("the model reads token ids, and pixels were given; take a model of images.")
    pixels = pixel_values if isinstance(pixel_values, jax.Array) else jnp.asarray(np.asarray(pixel_values, np.float32))
    cut = patches.cut(pixels)
    rows = cut.shape[0]
    slots = jnp.broadcast_to(jnp.arange(patches.tokens, dtype=jnp.int32), (rows, patches.tokens))
    return Batch(
        jnp.where(slots < patches.specials, slots, 0),
        jnp.ones_like(slots),
        slots,
        jnp.zeros_like(slots),
        jnp.zeros((rows, 1), jnp.int32),
        jnp.arange(rows, dtype=jnp.int32)[:, None],
        jnp.pad(cut, [(0, 0), (patches.specials, 0), (0, 0)]),
    )


def _integers(values: Any, name: str, below: int | None, shown: Any = None) -> Array:
    """Whole numbers from 0 up to `below`, int32. Raises `DataError` for others, where the host has them.

    Padding may have any number: slots where the mask `shown` is 0.
    """
    if isinstance(values, jax.Array):  # NumPy cannot hold traced ones, and looking at others would wait for them
        if values.dtype.kind not in (
            "iubf" if name == "attention_mask" else "iub"
        ):  # a fraction would lose what follows the point
            raise DataError(f"{name} holds {values.dtype} of shape {values.shape}, expected whole numbers.")
        return jnp.asarray(values, jnp.int32)
    try:
        numbers = np.asarray(values)  # lists, and the tensors of others
    except ValueError as error:
        raise DataError(f"{name} has rows of different lengths; pad them, and say so in the mask.") from error
    whole = numbers.dtype.kind in "iub" or (numbers.dtype.kind == "f" and bool(np.all(numbers == np.trunc(numbers))))
    if not whole:
        raise DataError(
            f"{name} is {type(values).__name__} of {numbers.dtype}, expected whole numbers [rows, length]; give what "
            "a tokenizer calls so."
        )
    wrong = (numbers < 0) if below is None else (numbers < 0) | (numbers >= below)
    if isinstance(shown, jax.Array):
        wrong = np.zeros_like(wrong)  # what is padding is not known here
    elif shown is not None and np.shape(shown) == wrong.shape:
        wrong &= np.asarray(shown) != 0
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0]) if numbers.ndim else 0
        most = "" if below is None else f" to {below - 1}"
        raise DataError(f"{name} has {numbers[wrong][0]} in row {row}, expected numbers from 0{most}; correct it.")
    return jnp.asarray(numbers, jnp.int32)


@checked
def logits(
    model: Model,
    input_ids: Any,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    *,
    dtype: Any = jnp.float32,
) -> Array:
    """The model's outputs for plainly padded token ids, [rows, length].

    Classification: [rows, labels]. Question answering: [rows, length, 2] (start, end). Language model: [rows, length,
    vocab]. No head: the hidden states, [rows, length, hidden]. `dtype` is the compute type; results are float32.

    A model of images takes their pixels in the place of ids, [rows, channels, height, width] as an image processor
    gives them, and nothing beside.
    """
    if model.architecture.patches is not None:
        if attention_mask is not None or token_type_ids is not None:
            raise DataError("the model reads images, which have no mask and no token types; give their pixels alone.")
        batch = image_batch(model.architecture, input_ids)
    else:
        batch = plain_batch(model.architecture, input_ids, attention_mask, token_type_ids)
    out = whole_forward(model.params, batch, architecture=model.architecture, dtype=dtype)
    return out[:, 0] if head_of(model.architecture).per_text else out

"""What stands for a text: one of its tokens, for heads that read one; or a vector that is pooled of all of them."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .architecture import Architecture
from .embedding import DenseActivation, Embedding, PoolingMode
from .model import Batch, Params
from .predictions import unit
from .product import product
from .sublayer import ACTIVATIONS, dense


def pool_slots(architecture: Architecture, ids: Any, segments: Any, texts: int) -> Int[Any, "rows texts"]:
    """Of every text of a row, segments 1 to `texts`, the slot of the token that stands for it; 0 where there is none.

    "last" is the last token whose id is not padding's, as in transformers: where the end token serves as padding too,
    the class is read before it. Of a text that is padding throughout it is the first token. NumPy arrays give one.
    """
    xp = np if isinstance(ids, np.ndarray) else jnp
    own = segments[:, None, :] == xp.arange(1, texts + 1)[:, None]  # [rows, texts, length]
    slots = xp.argmax(own, axis=-1)
    if architecture.pool == "last":
        shown = own if architecture.pool_pad is None else own & (ids != architecture.pool_pad)[:, None, :]
        last = xp.max(xp.where(shown, xp.arange(ids.shape[1]), -1), axis=-1)
        slots = xp.where(last < 0, slots, last)
    return slots.astype(np.int32)


def pooled(batch: Batch, architecture: Architecture) -> Batch:
    """A batch that was made for another model, with its texts read where the head of this one reads them."""
    return batch._replace(pool=pool_slots(architecture, batch.ids, batch.segments, batch.pool.shape[1]))


# --- one vector of a text

_Own = Bool[Array, "rows texts length"]  # which tokens of a row a text is pooled of
_Vectors = Float[Array, "rows texts width"]


def _spread(x: Array, weights: Float[Array, "rows texts length"]) -> _Vectors:
    """The weighted sum of a text's states, in float32."""
    return product("rtl,rlh->rth", weights.astype(x.dtype), x, jnp.float32)


def _at(x: Array, slots: Int[Array, "rows texts"]) -> _Vectors:
    return jnp.take_along_axis(x, slots[..., None], axis=1).astype(jnp.float32)


def _count(own: _Own) -> Float[Array, "rows texts 1"]:
    return jnp.maximum(jnp.sum(own, axis=-1, keepdims=True), 1).astype(jnp.float32)


def _weighted_mean(x: Array, own: _Own, whole: _Own) -> _Vectors:
    """Weights are places in the text, from 1, also where its beginning is not pooled."""
    weights = jnp.where(own, jnp.cumsum(whole, axis=-1), 0).astype(jnp.float32)
    return _spread(x, weights) / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-9)


def _greatest(x: Array, own: _Own, whole: _Own) -> _Vectors:
    def of_text(mask: Bool[Array, "rows length"]) -> Float[Array, "rows width"]:
        return jnp.max(jnp.where(mask[..., None], x, -jnp.inf), axis=1)

    greatest = jax.lax.map(of_text, jnp.swapaxes(own, 0, 1)).swapaxes(0, 1)  # one text of every row at a time
    return jnp.where(jnp.any(own, axis=-1, keepdims=True), greatest, 0).astype(jnp.float32)


def _last(x: Array, own: _Own, whole: _Own) -> _Vectors:
    return _at(x, own.shape[-1] - 1 - jnp.argmax(own[..., ::-1], axis=-1))


_MODES: Mapping[PoolingMode, Callable[[Array, Array, Array], Array]] = MappingProxyType(
    {
        "cls": lambda x, own, whole: _at(x, jnp.argmax(own, axis=-1)),
        "max": _greatest,
        "mean": lambda x, own, whole: _spread(x, own.astype(jnp.float32)) / _count(own),
        "mean_sqrt_len_tokens": lambda x, own, whole: _spread(x, own.astype(jnp.float32)) / jnp.sqrt(_count(own)),
        "weightedmean": _weighted_mean,
        "lasttoken": _last,
    }
)
_ACTIVATIONS: Mapping[DenseActivation, Callable[[Array], Array]] = MappingProxyType(
    {
        "identity": lambda x: x,
        "tanh": jnp.tanh,
        "sigmoid": jax.nn.sigmoid,
        "relu": ACTIVATIONS["relu"],
        "gelu": ACTIVATIONS["gelu"],
        "silu": ACTIVATIONS["silu"],
    }
)


def mean_states(x: Float[Array, "rows length hidden"], batch: Batch) -> Float[Array, "rows texts hidden"]:
    """The mean of the states of every text of a row."""
    own = batch.segments[:, None, :] == jnp.arange(1, batch.pool.shape[1] + 1)[:, None]
    return (_spread(x, own.astype(jnp.float32)) / _count(own)).astype(x.dtype)


def vectors(
    head: Sequence[Params], x: Float[Array, "rows length hidden"], batch: Batch, embedding: Embedding
) -> Float[Array, "rows texts dimensions"]:
    """One vector of every text of a row, from its last hidden states and the dense layers of the `head`.

    A text is pooled from the slot in `batch.pool` on: from its first token, or from the first behind a prompt. A slot
    without a text gives a vector without meaning. Source: sentence-transformers, `Pooling`, `Dense` and `Normalize`.
    """
    whole = batch.segments[:, None, :] == jnp.arange(1, batch.pool.shape[1] + 1)[:, None]
    own = whole & (jnp.arange(x.shape[1]) >= batch.pool[..., None])
    y = jnp.concatenate([_MODES[mode](x, own, whole) for mode in embedding.pooling], axis=-1)
    for step, p in zip(embedding.dense, head, strict=True):
        y = _ACTIVATIONS[step.activation](dense(p, y))
    return unit(y) if embedding.normalize else y

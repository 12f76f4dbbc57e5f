"""What attention needs to know of a batch: which tokens see each other, how far apart they are, how they are turned."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .architecture import Architecture
from .attention_kinds import Disentangled, Relative, Window
from .disentangled import pair_rows
from .model import Batch
from .relative import pair_buckets


class Context(NamedTuple):
    """What attention needs to know of a batch."""

    mask: Bool[Array, "rows 1 length length"]  # True where a query may look at a key
    rotation: tuple[Array, Array] | None = None  # cosine and sine, [rows, length, width / 2]; None: not rotary
    # Of relative positions, by query and key: buckets, or rows of what a layer projects of distances. None: there are
    # none.
    buckets: Int[Array, "length length"] | None = None


def context_of(architecture: Architecture, batch: Batch) -> Context:
    """Which tokens see each other, how far their queries and keys are turned, and how far apart they are."""
    lengths, kind = text_lengths(batch) if architecture.rotary_dynamic else None, architecture.attention
    buckets = pair_buckets(kind, batch.ids.shape[1]) if isinstance(kind, Relative) else None
    if isinstance(kind, Disentangled):
        buckets = pair_rows(kind, batch.ids.shape[1])
    return Context(
        attention_mask(architecture, batch),
        rotation_at(architecture, batch.positions, lengths),
        buckets,
    )


def layer_contexts(architecture: Architecture, batch: Batch) -> list[tuple[Architecture, Context]]:
    """For every layer its own description (`Architecture.of_layer`) and context, one for all layers of a kind."""
    return for_layers(architecture, lambda kind: context_of(kind, batch))


def for_layers(
    architecture: Architecture, context: Callable[[Architecture], Context]
) -> list[tuple[Architecture, Context]]:
    """The same, of any kind of context."""
    kinds = [architecture.of_layer(layer) for layer in range(len(architecture.layers))]
    contexts = {kind: context(kind) for kind in dict.fromkeys(kinds)}
    return [(kind, contexts[kind]) for kind in kinds]


def text_lengths(batch: Batch) -> Int[Array, "rows length"]:
    """For every slot, how many positions the text that it belongs to has."""
    same = batch.segments[:, :, None] == batch.segments[:, None, :]
    return jnp.max(jnp.where(same, batch.positions[:, None, :], 0), axis=2) + 1


def rotation_at(
    architecture: Architecture, positions: Int[Array, "rows length"], lengths: Array | None = None
) -> tuple[Array, Array] | None:
    """Cosine and sine for `rotate`; None where positions are not rotary.

    `lengths`, of every slot's text, are read by dynamic scaling alone.
    """
    if architecture.positions != "rotary":
        return None
    frequencies = jnp.asarray(architecture.rotary, jnp.float32)
    if architecture.rotary_dynamic:
        frequencies = frequencies * _slowed(architecture, jnp.asarray(lengths))
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return architecture.rotary_scale * jnp.cos(angles), architecture.rotary_scale * jnp.sin(angles)


def _slowed(architecture: Architecture, lengths: Int[Array, "rows length"]) -> Float[Array, "rows length pairs"]:
    """What dynamic scaling multiplies the frequencies by: 1 in texts up to the length that the model was made for.

    Longer ones raise the base by (1 + factor * (length / made for - 1)) ** (width / (width - 2)). transformers takes
    the longest text of a batch for all of it, and of all batches before; here every text has its own length.
    """
    factor, made_for = architecture.rotary_dynamic
    stretch = 1 + factor * jnp.maximum(lengths.astype(jnp.float32) / made_for - 1, 0)
    steps = np.arange(0, architecture.head_width, 2, dtype=np.float32) / np.float32(architecture.head_width - 2)
    return stretch[..., None] ** -steps


def attention_mask(architecture: Architecture, batch: Batch) -> Bool[Array, "rows 1 length length"]:
    """True where a query may look at a key: within one text, never at padding, backwards only if causal, in a window.

    A padding slot (segment 0) looks at every token of its row, as in transformers: nothing reads it, except the pooled
    slot of a left-padded text. Where padding is blank it looks at none, which attention takes for all slots alike. The
    description is that of one layer (`Architecture.of_layer`).
    """
    query, key = batch.segments[:, :, None], batch.segments[:, None, :]
    seen = (query == key) if architecture.padding_blank else (query == key) | (query == 0)
    allowed = (key > 0) & seen
    slots = jnp.arange(batch.segments.shape[1])
    return (allowed & reach(architecture, slots[:, None], slots[None, :]))[:, None]


def reach(architecture: Architecture, query: Array, key: Array) -> Bool[Array, "..."]:
    """True where the token in slot `key` is not too far, nor too late, for the one in slot `query`."""
    near = query >= key if architecture.causal else jnp.ones((), bool)
    kind = architecture.attention
    if not isinstance(kind, Window):
        return near
    return near & (query - key < kind.size) & (key - query < kind.size)

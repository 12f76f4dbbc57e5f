"""Attention and feed-forward halves of every family, from their input projections to the residual stream after them.

A *sublayer* is one half. Its *features* are the input of its output projection: what a head or a neuron writes before
it is mixed back into the residual stream. Gates multiply features, so a gate at 0 removes a unit without changing a
shape.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .architecture import FEED_FORWARD, HALVES, Architecture
from .attention_kinds import Relative, Window
from .dropout import Dropout, drop
from .model import Batch, Params
from .partial_rows import Split, split_dense, split_project
from .product import product
from .relative import added_scores, pair_buckets

INPUTS = {"attention": ("q", "k", "v"), "feed_forward": ("up", "gate")}  # projections that read the residual stream
OUTPUT = {"attention": "o", "feed_forward": "down"}  # the projection that writes to it

# Activations and norms are cheap: a backward pass works them out again (jax.checkpoint) instead of keeping every step
# of them. For BERT-base, that is a third of all it would keep.
ACTIVATIONS = {
    "gelu": jax.checkpoint(partial(jax.nn.gelu, approximate=False)),
    "gelu_tanh": jax.checkpoint(partial(jax.nn.gelu, approximate=True)),
    "relu": jax.nn.relu,
    "silu": jax.checkpoint(jax.nn.silu),
}


@partial(jax.checkpoint, static_argnums=2)
def rms(x: Float[Array, "... width"], p: Params, architecture: Architecture) -> Float[Array, "... width"]:
    """The RMS norm of queries and keys, over each head's width."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + architecture.norm_eps)
    return (wide * p["scale"]).astype(x.dtype)


@partial(jax.checkpoint, static_argnums=2)
def norm(p: Params, x: Float[Array, "... hidden"], architecture: Architecture) -> Float[Array, "... hidden"]:
    wide = x.astype(jnp.float32)
    if architecture.norm == "layer":
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + architecture.norm_eps)
    wide = wide * p["scale"]
    if "bias" in p:
        wide = wide + p["bias"]
    return wide.astype(x.dtype)


def dense(p: Params, x: Float[Array, "rows length inputs"], adapter: Any = None) -> Array:
    """x @ kernel + bias, for a kernel [inputs, *outputs]; with a low-rank update where an adapter is given."""
    if isinstance(p["kernel"], Split):
        y = split_dense(p, x)
    else:
        y = times(x, p["kernel"], jnp.float32)
        y = (y + p["bias"].astype(y.dtype) if "bias" in p else y).astype(x.dtype)
    if adapter is not None:
        down, up, scale = adapter
        y = y + jnp.asarray(scale, x.dtype) * times(times(x, down), up)
    return y


def times(x: Float[Array, "rows length inputs"], kernel: Array, dtype: Any = None) -> Array:
    """x @ kernel, for a kernel [inputs, *outputs]."""
    flat = product("rli,io->rlo", x, kernel.reshape(kernel.shape[0], prod(kernel.shape[1:])), dtype)
    return flat.reshape(*x.shape[:-1], *kernel.shape[1:])


def project_out(p: Params, features: Array, adapter: Any = None) -> Float[Array, "rows length hidden"]:
    """Mix a sublayer's features back into the residual stream: [rows, length, *units] -> [rows, length, hidden]."""
    rows, length = features.shape[:2]
    flat = features.reshape(rows, length, -1)
    if isinstance(p["kernel"], Split):
        y = split_project(p["kernel"], flat)
        return (y + p["bias"] if "bias" in p else y).astype(features.dtype)
    kernel = p["kernel"].reshape(flat.shape[-1], p["kernel"].shape[-1])
    return dense({**p, "kernel": kernel}, flat, adapter)


class Context(NamedTuple):
    """What attention needs to know of a batch."""

    mask: Bool[Array, "rows 1 length length"]  # True where a query may look at a key
    rotation: tuple[Array, Array] | None = None  # cosine and sine, [rows, length, width / 2]; None: not rotary
    buckets: Int[Array, "length length"] | None = None  # of relative positions, by query and key; None: there are none


def context_of(architecture: Architecture, batch: Batch) -> Context:
    """Which tokens see each other, how far their queries and keys are turned, and how far apart they are."""
    lengths, kind = text_lengths(batch) if architecture.rotary_dynamic else None, architecture.attention
    return Context(
        attention_mask(architecture, batch),
        rotation_at(architecture, batch.positions, lengths),
        pair_buckets(kind, batch.ids.shape[1]) if isinstance(kind, Relative) else None,
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


def rotate(x: Array, rotation: tuple[Array, Array]) -> Array:
    """Rotary positions on [rows, length, ..., width]: feature i is paired with feature i + width / 2.

    Su et al., RoFormer, 2021; the pairing is that of Llama's checkpoints.
    """
    cosine, sine = (part.reshape(*part.shape[:2], *[1] * (x.ndim - 3), part.shape[-1]) for part in rotation)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)


def turned(q: Array, k: Array, rotation: tuple[Array, Array] | None) -> tuple[Array, Array]:
    """Queries and keys, rotated where the family does so."""
    return (q, k) if rotation is None else (rotate(q, rotation), rotate(k, rotation))


def attention_mask(architecture: Architecture, batch: Batch) -> Bool[Array, "rows 1 length length"]:
    """True where a query may look at a key: within one text, never at padding, backwards only if causal, in a window.

    A padding slot (segment 0) looks at every token of its row, as in transformers: nothing reads it, except the pooled
    slot of a left-padded text. The description is that of one layer (`Architecture.of_layer`).
    """
    query, key = batch.segments[:, :, None], batch.segments[:, None, :]
    allowed = (key > 0) & ((query == key) | (query == 0))
    slots = jnp.arange(batch.segments.shape[1])
    return (allowed & reach(architecture, slots[:, None], slots[None, :]))[:, None]


def reach(architecture: Architecture, query: Array, key: Array) -> Bool[Array, "..."]:
    """True where the token in slot `key` is not too far, nor too late, for the one in slot `query`."""
    near = query >= key if architecture.causal else jnp.ones((), bool)
    kind = architecture.attention
    if not isinstance(kind, Window):
        return near
    return near & (query - key < kind.size) & (key - query < kind.size)


def sublayer_inputs(
    half: str, p: Params, x: Float[Array, "rows length hidden"], architecture: Architecture, adapters: Any = None
) -> tuple[Array, ...]:
    """The input projections of one half, from the residual stream: q, k, v or up (and gate); units on axis 2."""
    adapters = adapters or {}
    if architecture.norm_position == "pre":
        x = norm(p["norm"], x, architecture)
    inputs = tuple(dense(p[name], x, adapters.get(name)) for name in INPUTS[half] if name in p)
    if "q_norm" not in p:
        return inputs
    q, k, v = inputs
    return rms(q, p["q_norm"], architecture), rms(k, p["k_norm"], architecture), v


def features_of(
    half: str,
    p: Params,
    inputs: tuple[Array, ...],
    context: Context,
    architecture: Architecture,
    dropout: Dropout | None = None,
) -> Array:
    """Features from input projections: what heads read from other tokens, or what neurons say.

    Of the half's parameters `p` only what stands between is read, a table of relative positions.
    Attention: [rows, length, groups, queries, width]. Feed-forward: [rows, length, neurons].
    """
    if half == FEED_FORWARD:
        activation = ACTIVATIONS[architecture.activation]
        return activation(inputs[1]) * inputs[0] if architecture.gated else activation(inputs[0])
    q, k, v = inputs
    q, k = turned(q, k, context.rotation)
    added = None if context.buckets is None else added_scores(p["relative"]["table"], context.buckets)
    if dropout is not None and q.shape[2]:  # the library's attention does not show its weights
        scale, mask = attention_scale(architecture), context.mask
        weights = product("bqgnw,bkgw->bgnqk", q, k, jnp.float32) * scale
        weights = weights if added is None else weights + added[:, :, None]
        weights = jax.nn.softmax(jnp.where(mask[:, None], weights, jnp.finfo(weights.dtype).min))
        return product("bgnqk,bkgw->bqgnw", drop(weights, dropout, 0).astype(q.dtype), v)
    return attend(q, k, v, context.mask, architecture, added)


def attention_scale(architecture: Architecture) -> float:
    scale = architecture.attention_scale
    return architecture.head_width**-0.5 if scale is None else scale


def attend(q: Array, k: Array, v: Array, mask: Array, architecture: Architecture, added: Array | None = None) -> Array:
    """What queries [rows, length, groups, queries, width] read at keys and values [rows, keys, groups, width].

    `added` to the scores of every head: [1, heads, length, keys].
    """
    rows, length, groups, queries, width = q.shape
    if not groups:  # no heads are left
        return q
    flat = q.reshape(rows, length, groups * queries, width)
    mixed = jax.nn.dot_product_attention(flat, k, v, added, mask, scale=attention_scale(architecture))
    return mixed.reshape(q.shape)


def sublayer_features(
    half: str,
    p: Params,
    x: Array,
    context: Context,
    architecture: Architecture,
    adapters: Any = None,
    dropout: Dropout | None = None,
) -> Array:
    """The features of one half, from the residual stream `x`."""
    return features_of(half, p, sublayer_inputs(half, p, x, architecture, adapters), context, architecture, dropout)


def residual(p: Params, x: Array, update: Array, architecture: Architecture) -> Array:
    """The residual stream after a sublayer that adds `update` to `x`."""
    x = x + update
    return norm(p["norm"], x, architecture) if architecture.norm_position == "post" else x


def sublayer(
    half: str,
    p: Params,
    x: Float[Array, "rows length hidden"],
    context: Context,
    architecture: Architecture,
    gate: Array | None = None,
    adapters: Any = None,
    dropout: Dropout | None = None,
) -> tuple[Array, Array]:
    """One half of a layer: the residual stream after it, and its features (gated)."""
    features = sublayer_features(half, p, x, context, architecture, adapters, dropout)
    if gate is not None:
        features = features * gate
    out = OUTPUT[half]
    update = project_out(p[out], features, (adapters or {}).get(out))
    return residual(p, x, drop(update, dropout, 1 + HALVES.index(half)), architecture), features

"""Attention and feed-forward halves of every family, from their input projections to the residual stream after them.

A *sublayer* is one half. Its *features* are the input of its output projection: what a head or a neuron writes before
it is mixed back into the residual stream. Gates multiply features, so a gate at 0 removes a unit without changing a
shape.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .architecture import FEED_FORWARD, HALVES, Architecture
from .attention_kinds import Disentangled
from .context import Context
from .disentangled import distance_rows, distance_scores
from .dropout import Dropout, drop
from .model import Params
from .partial_rows import Split, split_dense, split_project
from .product import product
from .relative import added_scores

INPUTS = {"attention": ("q", "k", "v"), "feed_forward": ("up", "gate")}  # projections that read the residual stream
OUTPUT = {"attention": "o", "feed_forward": "down"}  # the projection that writes to it
NORMS = ("norm", "update_norm")  # around it

# Activations and norms are cheap: a backward pass works them out again (jax.checkpoint) instead of keeping every step
# of them. For BERT-base, that is a third of all it would keep.
ACTIVATIONS = {
    "gelu": jax.checkpoint(partial(jax.nn.gelu, approximate=False)),
    "gelu_tanh": jax.checkpoint(partial(jax.nn.gelu, approximate=True)),
    "relu": jax.nn.relu,
    "silu": jax.checkpoint(jax.nn.silu),
}


def norm_scale(p: Params, architecture: Architecture) -> Array:
    """What a norm multiplies by."""
    return 1 + p["scale"].astype(jnp.float32) if architecture.norm_plus_one else p["scale"]


@partial(jax.checkpoint, static_argnums=2)
def rms(x: Float[Array, "*axes"], p: Params, architecture: Architecture) -> Float[Array, "*axes"]:
    """The RMS norm of queries and keys, over each head's width, or over all heads: as many axes as its scale has."""
    wide, axes = x.astype(jnp.float32), tuple(range(-p["scale"].ndim, 0))
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=axes, keepdims=True) + architecture.norm_eps)
    return (wide * norm_scale(p, architecture)).astype(x.dtype)


@partial(jax.checkpoint, static_argnums=2)
def norm(p: Params, x: Float[Array, "... hidden"], architecture: Architecture) -> Float[Array, "... hidden"]:
    wide = x.astype(jnp.float32)
    if architecture.norm == "layer":
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + architecture.norm_eps)
    wide = wide * norm_scale(p, architecture)
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


def rotate(x: Array, rotation: tuple[Array, Array]) -> Array:
    """Rotary positions on [rows, length, ..., width]: feature i is paired with feature i + width / 2.

    Where there are angles for the first features only, the others stay. Su et al., RoFormer, 2021; the pairing is that
    of Llama's checkpoints.
    """
    cosine, sine = (part.reshape(*part.shape[:2], *[1] * (x.ndim - 3), part.shape[-1]) for part in rotation)
    pairs = cosine.shape[-1]
    wide, rest = x[..., : 2 * pairs].astype(jnp.float32), x[..., 2 * pairs :]
    first, second = jnp.split(wide, 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    turned = turned.astype(x.dtype)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned


def turned(q: Array, k: Array, rotation: tuple[Array, Array] | None) -> tuple[Array, Array]:
    """Queries and keys, rotated where the family does so."""
    return (q, k) if rotation is None else (rotate(q, rotation), rotate(k, rotation))


def read_stream(p: Params, x: Array, architecture: Architecture) -> Array:
    """What the input projections of a half read of the residual stream."""
    return norm(p["norm"], x, architecture) if architecture.norms_input and "norm" in p else x


def sublayer_inputs(
    half: str,
    p: Params,
    x: Float[Array, "rows length hidden"],
    architecture: Architecture,
    adapters: Any = None,
    dropout: Dropout | None = None,
) -> tuple[Array, ...]:
    """The input projections of one half, from the residual stream: q, k, v or up (and gate); units on axis 2.

    Where attention is disentangled, behind them those of distances (`projected_distances`).
    """
    adapters = adapters or {}
    x = read_stream(p, x, architecture)
    inputs = tuple(dense(p[name], x, adapters.get(name)) for name in INPUTS[half] if name in p)
    if "distances" in p:
        return inputs + projected_distances(p, x, architecture, adapters, dropout)
    if "q_norm" not in p:
        return inputs
    q, k, v = inputs
    return rms(q, p["q_norm"], architecture), rms(k, p["k_norm"], architecture), v


def shares_with_distances(p: Params) -> bool:
    """True where an attention half projects distances by what it projects tokens with."""
    return "distances" in p and not {"distance_k", "distance_q"} & p.keys()


def projected_distances(
    p: Params, x: Array, architecture: Architecture, adapters: Any, dropout: Dropout | None = None
) -> tuple[Array, ...]:
    """Keys and queries, as far as there are such, of how far slots of `x` can be apart: [1, rows, groups, width].

    In training every layer drops other numbers of the table, the same for all texts of a batch, as in transformers.
    """
    kind = architecture.attention
    assert isinstance(kind, Disentangled)  # other models have no table of distances
    first, last = distance_rows(kind, x.shape[1])
    table = p["distances"]["table"][first:last]
    table = norm(p["distances"]["norm"], table, architecture) if kind.norm else table
    table = drop(table, dropout, 1 + len(HALVES))  # behind the places of what halves write
    names = [name for name, there in (("k", kind.keys), ("q", kind.queries)) if there]
    names = names if kind.shared else [f"distance_{name}" for name in names]
    projected = (dense(p[name], table[None].astype(x.dtype), adapters.get(name)) for name in names)
    return tuple(y.reshape(1, y.shape[1], -1, architecture.head_width) for y in projected)


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
    q, k, v, *of_distances = inputs
    q, k = turned(q, k, context.rotation)
    added = _added(p, q, k, of_distances, context, architecture) if q.shape[2] else None  # 0: no heads are left
    return attend(q, k, v, context.mask, architecture, added, dropout)


def _added(
    p: Params, q: Array, k: Array, of_distances: Sequence[Array], context: Context, architecture: Architecture
) -> Array | None:
    """What is added to attention scores for how far apart two tokens are."""
    kind = architecture.attention
    if context.buckets is None:
        return None
    if not isinstance(kind, Disentangled):
        return added_scores(p["relative"]["table"], context.buckets)
    scores = distance_scores(q[:, :, :, 0], k, of_distances, kind, context.buckets)
    return None if scores is None else scores * attention_scale(architecture)


def capped(scores: Array, cap: float | None) -> Array:
    """Scores drawn towards 0, smoothly, so that none is beyond `cap`; as they are without one."""
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def attention_weights(products: Array, mask: Array, architecture: Architecture, added: Array | None = None) -> Array:
    """How much a query attends to each key, from their products [rows, groups, queries, length, keys]."""
    scores = capped(products * attention_scale(architecture), architecture.score_cap)
    scores = scores if added is None else scores + added[:, :, None]
    return jax.nn.softmax(jnp.where(mask[:, None], scores, jnp.finfo(scores.dtype).min))


def attention_scale(architecture: Architecture) -> float:
    scale = architecture.attention_scale
    return architecture.head_width**-0.5 if scale is None else scale


def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    architecture: Architecture,
    added: Array | None = None,
    dropout: Dropout | None = None,
) -> Array:
    """What queries [rows, length, groups, queries, width] read at keys and values [rows, keys, groups, width].

    `added` to the scores of every head: [1 or rows, heads, length, keys].
    """
    rows, length, groups, queries, width = q.shape
    if not groups:  # no heads are left
        return q
    if (
        dropout is not None or architecture.score_cap is not None
    ):  # the library's attention shows no scores, nor weights
        weights = attention_weights(product("bqgnw,bkgw->bgnqk", q, k, jnp.float32), mask, architecture, added)
        weights = weights if dropout is None else drop(weights, dropout, 0)
        return product("bgnqk,bkgw->bqgnw", weights.astype(q.dtype), v)
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
    inputs = sublayer_inputs(half, p, x, architecture, adapters, dropout)
    return features_of(half, p, inputs, context, architecture, dropout)


def residual(p: Params, x: Array, update: Array, architecture: Architecture) -> Array:
    """The residual stream after a sublayer that adds `update` to `x`."""
    if architecture.norms_update:
        return x + norm(p["update_norm"], update, architecture)
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

"""The forward pass of every family: one residual stream, a list of layers, and the sites that methods use.

A *sublayer* is an attention or a feed-forward half; sublayer 2i is the attention of layer i, 2i + 1 its feed-forward
half. Its *features* are the input of its output projection: what a head or a neuron writes before it is mixed back
into the residual stream. Gates multiply features, so a gate at 0 removes a unit without changing a shape.
"""

from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..errors import DataError
from .architecture import Architecture
from .model import Batch, Model, Params

ATTENTION, FEED_FORWARD = "attention", "feed_forward"
HALVES = (ATTENTION, FEED_FORWARD)

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class Sites(NamedTuple):
    """The seam between the model and the methods; every field may be left out.

    gates: a list with one dict per layer, {"attention": …, "feed_forward": …}; each array broadcasts against the
        features, [rows, length, groups, queries, width] or [rows, length, neurons].
    adapters: a list with one dict per layer, {"attention": {"q": (A, B, scale), …}, "feed_forward": {"up": …}}; adds
        scale · (x A) B to a projection's output, with A [inputs, rank] and B [rank, *outputs]; never multiplied out.
    section: (first, last): run sublayers first … last - 1 only, on the residual stream handed to `forward`.
    taps: ask for the residual stream before every sublayer and every sublayer's features.
    """

    gates: Sequence[Any] | None = None
    adapters: Sequence[Any] | None = None
    section: tuple[int, int] | None = None
    taps: bool = False


class Outputs(NamedTuple):
    hidden: Float[Array, "rows length hidden"]  # the residual stream after the last sublayer that ran
    logits: Array | None  # None when a section stopped before the head
    streams: tuple[Array, ...] = ()  # with taps: the residual stream before each sublayer
    features: tuple[Array, ...] = ()  # with taps: the features of each sublayer


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
    y = jnp.tensordot(x, p["kernel"].astype(x.dtype), axes=1)
    if "bias" in p:
        y = y + p["bias"].astype(x.dtype)
    if adapter is not None:
        down, up, scale = adapter
        y = y + scale * jnp.tensordot(jnp.tensordot(x, down, axes=1), up, axes=1)
    return y


def project_out(p: Params, features: Array, adapter: Any = None) -> Float[Array, "rows length hidden"]:
    """Mix a sublayer's features back into the residual stream: [rows, length, *units] -> [rows, length, hidden]."""
    rows, length = features.shape[:2]
    flat = features.reshape(rows, length, -1)
    kernel = p["kernel"].reshape(flat.shape[-1], p["kernel"].shape[-1])
    return dense({**p, "kernel": kernel}, flat, adapter)


def attention_mask(architecture: Architecture, batch: Batch) -> Bool[Array, "rows 1 length length"]:
    """True where a query may look at a key: within one text, never at padding, backwards only if causal.

    A padding slot (segment 0) looks at every token of its row, as in transformers: nothing reads it, except the pooled
    slot of a left-padded text.
    """
    query, key = batch.segments[:, :, None], batch.segments[:, None, :]
    allowed = (key > 0) & ((query == key) | (query == 0))
    if architecture.causal:
        allowed = allowed & (batch.positions[:, :, None] >= batch.positions[:, None, :])
    return allowed[:, None]


def attention_features(
    p: Params,
    x: Float[Array, "rows length hidden"],
    mask: Bool[Array, "rows 1 length length"],
    architecture: Architecture,
    adapters: Any = None,
) -> Float[Array, "rows length groups queries width"]:
    """What every head reads from the other tokens, before the output projection."""
    adapters = adapters or {}
    q, k, v = (dense(p[name], x, adapters.get(name)) for name in "qkv")
    rows, length, groups, queries, width = q.shape
    if groups == 0:
        return q
    scale = architecture.attention_scale if architecture.attention_scale is not None else width**-0.5
    q = q.reshape(rows, length, groups * queries, width)
    context = jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale)
    return context.reshape(rows, length, groups, queries, width)


def feed_forward_features(
    p: Params, x: Float[Array, "rows length hidden"], architecture: Architecture, adapters: Any = None
) -> Float[Array, "rows length neurons"]:
    """The activations of the neurons."""
    adapters = adapters or {}
    activation = ACTIVATIONS[architecture.activation]
    up = dense(p["up"], x, adapters.get("up"))
    if architecture.gated:
        return activation(dense(p["gate"], x, adapters.get("gate"))) * up
    return activation(up)


def sublayer_features(
    half: str, p: Params, x: Array, mask: Array, architecture: Architecture, adapters: Any = None
) -> Array:
    """The features of one half, from the residual stream `x`."""
    if architecture.norm_position == "pre":
        x = norm(p["norm"], x, architecture)
    if half == ATTENTION:
        return attention_features(p, x, mask, architecture, adapters)
    return feed_forward_features(p, x, architecture, adapters)


def residual(p: Params, x: Array, update: Array, architecture: Architecture) -> Array:
    """The residual stream after a sublayer that adds `update` to `x`."""
    x = x + update
    return norm(p["norm"], x, architecture) if architecture.norm_position == "post" else x


def sublayer(
    half: str,
    p: Params,
    x: Float[Array, "rows length hidden"],
    mask: Array,
    architecture: Architecture,
    gate: Array | None = None,
    adapters: Any = None,
) -> tuple[Array, Array]:
    """One half of a layer: the residual stream after it, and its features (gated)."""
    features = sublayer_features(half, p, x, mask, architecture, adapters)
    if gate is not None:
        features = features * gate
    out = "o" if half == ATTENTION else "down"
    update = project_out(p[out], features, (adapters or {}).get(out))
    return residual(p, x, update, architecture), features


def embed(params: Params, batch: Batch, architecture: Architecture) -> Float[Array, "rows length hidden"]:
    """The residual stream before the first sublayer."""
    p = params["embed"]
    x = p["token"][batch.ids]
    if architecture.positions == "learned":
        x = x + p["position"][batch.positions + architecture.position_offset]
    if architecture.token_types:
        x = x + p["type"][batch.types]
    return norm(p["norm"], x, architecture) if architecture.embed_norm else x


def apply_head(params: Params, x: Array, batch: Batch, architecture: Architecture) -> Array:
    """Logits from the last residual stream.

    Classification: [rows, texts, labels], one row per packed text. Question answering: [rows, length, 2], start and
    end. No head: the hidden states themselves, [rows, length, hidden].
    """
    if architecture.norm_position == "pre":
        x = norm(params["final_norm"], x, architecture)
    if architecture.head == "none":
        return x
    if architecture.head == "question_answering":
        return dense(params["head"], x)
    pooled = jnp.take_along_axis(x, batch.pool[..., None], axis=1)
    if architecture.pooler != "none":
        activation = jnp.tanh if architecture.pooler == "tanh" else jax.nn.relu
        pooled = activation(dense(params["pooler"], pooled))
    return dense(params["head"], pooled)


def stackable(params: Params) -> bool:
    """True when all layers have equal shapes."""
    shapes = [jax.tree.map(jnp.shape, layer) for layer in params["layers"]]
    return len(shapes) > 1 and all(shape == shapes[0] for shape in shapes)


def stack(trees: Sequence[Any]) -> Any:
    """One tree with a leading [layers] axis from a list of equal trees."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """The inverse of `stack`."""
    return [jax.tree.map(itemgetter(index), tree) for index in range(count)]


def _layer(p: Params, x: Array, mask: Array, architecture: Architecture, gates: Any, adapters: Any):
    streams, features = [], []
    for half in HALVES:
        streams.append(x)
        gate = None if gates is None else gates.get(half)
        adapter = None if adapters is None else adapters.get(half)
        x, seen = sublayer(half, p[half], x, mask, architecture, gate, adapter)
        features.append(seen)
    return x, streams, features


def _runs(shapes: Sequence[Any]) -> list[tuple[int, int]]:
    """Maximal runs [first, last) of equal neighbours."""
    runs, first = [], 0
    for index in range(1, len(shapes) + 1):
        if index == len(shapes) or shapes[index] != shapes[first]:
            runs.append((first, index))
            first = index
    return runs


def encode(
    params: Params,
    x: Array,
    mask: Array,
    architecture: Architecture,
    sites: Sites = Sites(),
    remat: bool = False,
) -> tuple[Array, list[Array], list[Array]]:
    """All layers; neighbours of equal shape are scanned, so compile time grows with distinct shapes, not depth.

    Returns the last residual stream and, with `sites.taps`, the streams before and the features of every sublayer.
    `remat` recomputes each layer in the backward pass instead of keeping its activations.
    """
    layers = params["layers"]
    none = [None] * len(layers)
    per_layer = list(zip(layers, sites.gates or none, sites.adapters or none, strict=True))
    shapes = [jax.tree.map(jnp.shape, entry) for entry in per_layer]
    streams: list[Array] = []
    features: list[Array] = []

    def body(x: Array, entry: Any) -> tuple[Array, Any]:
        x, streams, features = _layer(entry[0], x, mask, architecture, entry[1], entry[2])
        return x, (streams, features) if sites.taps else None

    step = jax.checkpoint(body) if remat else body
    for first, last in _runs(shapes):
        if last - first == 1:
            x, alone = step(x, per_layer[first])
            seen = [alone]
        else:
            x, stacked = jax.lax.scan(step, x, stack(per_layer[first:last]))
            seen = unstack(stacked, last - first) if sites.taps else []
        for entry in seen if sites.taps else []:
            streams += entry[0]
            features += entry[1]
    return x, streams, features


def forward(
    params: Params,
    batch: Batch,
    architecture: Architecture,
    sites: Sites = Sites(),
    stream: Array | None = None,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Outputs:
    """Run the model, or with `sites.section` a part of it, on one batch. Unjitted: callers compile it once, outside.

    `stream` is the residual stream to start from when a section starts after sublayer 0.
    """
    last = 2 * len(params["layers"])
    first, stop = sites.section or (0, last)
    mask = attention_mask(architecture, batch)
    x = embed(params, batch, architecture).astype(dtype) if stream is None else stream
    if sites.section is None:
        x, streams, features = encode(params, x, mask, architecture, sites, remat)
    else:
        streams, features = [], []
        for index in range(first, stop):
            half, p = HALVES[index % 2], params["layers"][index // 2][HALVES[index % 2]]
            gates = sites.gates[index // 2] if sites.gates is not None else {}
            adapters = sites.adapters[index // 2] if sites.adapters is not None else {}
            streams.append(x)
            x, seen = sublayer(half, p, x, mask, architecture, gates.get(half), adapters.get(half))
            features.append(seen)
    taps = (tuple(streams), tuple(features)) if sites.taps else ((), ())
    if stop < last:
        return Outputs(x, None, *taps)
    return Outputs(x, apply_head(params, x, batch, architecture).astype(jnp.float32), *taps)


def plain_batch(
    architecture: Architecture,
    input_ids: Any,
    attention_mask: Any = None,
    token_type_ids: Any = None,
) -> Batch:
    """One text a row, [rows, length], padded left or right, as tokenizers give them; positions as in transformers.

    Traceable. Raises `DataError` where shapes disagree or a text is longer than the model reads.
    """
    ids = _integers(input_ids)
    if ids.ndim != 2:
        raise DataError(f"input_ids must be [rows, length], got shape {ids.shape}.")
    mask = jnp.ones_like(ids) if attention_mask is None else _integers(attention_mask)
    types = jnp.zeros_like(ids) if token_type_ids is None else _integers(token_type_ids)
    for name, array in (("attention_mask", mask), ("token_type_ids", types)):
        if array.shape != ids.shape:
            raise DataError(f"{name} has shape {array.shape}, input_ids {ids.shape}; they must agree.")
    if architecture.positions_count == "tokens":
        # RoBERTa counts the ids that are not padding, whatever the mask says; padding sits just before position 0.
        real = (ids != architecture.pad_id).astype(jnp.int32)
        positions = jnp.cumsum(real, axis=1) * real - 1
    else:
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    if ids.shape[1] > architecture.max_positions and architecture.positions == "learned":
        raise DataError(
            f"texts of {ids.shape[1]} tokens do not fit the model's {architecture.max_positions} positions; truncate."
        )
    rows = ids.shape[0]
    return Batch(
        ids,
        (mask > 0).astype(jnp.int32),
        positions,
        types,
        jnp.zeros((rows, 1), jnp.int32),
        jnp.arange(rows, dtype=jnp.int32)[:, None],
    )


def _integers(values: Any) -> Array:
    # JAX arrays stay as they are, since NumPy cannot hold traced ones; NumPy reads lists and the tensors of others.
    return jnp.asarray(values if isinstance(values, jax.Array) else np.asarray(values), jnp.int32)


@partial(jax.jit, static_argnames=("architecture", "dtype"))
def _logits(params: Params, batch: Batch, architecture: Architecture, dtype: Any) -> Array:
    return forward(params, batch, architecture, dtype=dtype).logits  # type: ignore[return-value]


def logits(
    model: Model,
    input_ids: Any,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    *,
    dtype: Any = jnp.float32,
) -> Array:
    """The model's outputs for plainly padded token ids, [rows, length].

    Classification: [rows, labels]. Question answering: [rows, length, 2] (start, end). No head: the hidden states,
    [rows, length, hidden]. `dtype` is the compute type; logits come back in float32.
    """
    batch = plain_batch(model.architecture, input_ids, attention_mask, token_type_ids)
    out = _logits(model.params, batch, model.architecture, dtype)
    return out[:, 0] if model.architecture.head == "classification" else out

"""The forward pass of every family: one residual stream, a list of layers, and the sites that methods use.

A *sublayer* is an attention or a feed-forward half; sublayer 2i is the attention of layer i, 2i + 1 its feed-forward
half. Its *features* are the input of its output projection: what a head or a neuron writes before it is mixed back
into the residual stream. Gates multiply features, so a gate at 0 removes a unit without changing a shape.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import DataError
from .architecture import ATTENTION as ATTENTION, FEED_FORWARD, HALVES, Architecture
from .dropout import Dropout, drop, held_back
from .model import Batch, Model, Params
from .product import product
from .remat import recomputed
from .split import Split, look_up, split_dense, split_project

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


class Sites(NamedTuple):
    """The seam between the model and the methods; every field may be left out.

    gates: a list with one dict per layer, {"attention": …, "feed_forward": …}; each array broadcasts against the
        features, [rows, length, groups, queries, width] or [rows, length, neurons].
    adapters: a list with one dict per layer, {"attention": {"q": (A, B, scale), …}, "feed_forward": {"up": …}}; adds
        scale · (x A) B to a projection's output, with A [inputs, rank] and B [rank, *outputs]; never multiplied out.
    section: (first, last): run sublayers first … last - 1 only, on the residual stream handed to `forward`.
    taps: ask for the residual stream before every sublayer and every sublayer's features.
    dropout: for training; left out, a forward pass is deterministic.
    """

    gates: Sequence[Any] | None = None
    adapters: Sequence[Any] | None = None
    section: tuple[int, int] | None = None
    taps: bool = False
    dropout: Dropout | None = None


class Outputs(NamedTuple):
    hidden: Float[Array, "rows length hidden"]  # the residual stream after the last sublayer that ran
    logits: Array | None  # None when a section stopped before the head
    streams: tuple[Array, ...] = ()  # with taps: the residual stream before each sublayer
    features: tuple[Array, ...] = ()  # with taps: the features of each sublayer


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


def context_of(architecture: Architecture, batch: Batch) -> Context:
    """Which tokens see each other, and how far their queries and keys are turned."""
    return Context(attention_mask(architecture, batch), rotation_at(architecture, batch.positions))


def rotation_at(architecture: Architecture, positions: Int[Array, "rows length"]) -> tuple[Array, Array] | None:
    """Cosine and sine for `rotate`; None where positions are not rotary."""
    if architecture.positions != "rotary":
        return None
    angles = positions[..., None].astype(jnp.float32) * jnp.asarray(architecture.rotary, jnp.float32)
    return architecture.rotary_scale * jnp.cos(angles), architecture.rotary_scale * jnp.sin(angles)


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
    """True where a query may look at a key: within one text, never at padding, backwards only if causal.

    A padding slot (segment 0) looks at every token of its row, as in transformers: nothing reads it, except the pooled
    slot of a left-padded text.
    """
    query, key = batch.segments[:, :, None], batch.segments[:, None, :]
    allowed = (key > 0) & ((query == key) | (query == 0))
    if architecture.causal:
        slots = jnp.arange(batch.segments.shape[1])
        allowed = allowed & (slots[:, None] >= slots[None, :])
    return allowed[:, None]


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
    inputs: tuple[Array, ...],
    context: Context,
    architecture: Architecture,
    dropout: Dropout | None = None,
) -> Array:
    """Features from input projections: what heads read from other tokens, or what neurons say.

    Attention: [rows, length, groups, queries, width]. Feed-forward: [rows, length, neurons].
    """
    if half == FEED_FORWARD:
        activation = ACTIVATIONS[architecture.activation]
        return activation(inputs[1]) * inputs[0] if architecture.gated else activation(inputs[0])
    q, k, v = inputs
    q, k = turned(q, k, context.rotation)
    if dropout is not None and q.shape[2]:  # the library's attention does not show its weights
        scale, mask = attention_scale(architecture), context.mask
        weights = product("bqgnw,bkgw->bgnqk", q, k, jnp.float32) * scale
        weights = jax.nn.softmax(jnp.where(mask[:, None], weights, jnp.finfo(weights.dtype).min))
        return product("bgnqk,bkgw->bqgnw", drop(weights, dropout, 0).astype(q.dtype), v)
    return attend(q, k, v, context.mask, architecture)


def attention_scale(architecture: Architecture) -> float:
    scale = architecture.attention_scale
    return architecture.head_width**-0.5 if scale is None else scale


def attend(q: Array, k: Array, v: Array, mask: Array, architecture: Architecture) -> Array:
    """What queries [rows, length, groups, queries, width] read at keys and values [rows, keys, groups, width]."""
    rows, length, groups, queries, width = q.shape
    if not groups:  # no heads are left
        return q
    flat = q.reshape(rows, length, groups * queries, width)
    mixed = jax.nn.dot_product_attention(flat, k, v, mask=mask, scale=attention_scale(architecture))
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
    return features_of(half, sublayer_inputs(half, p, x, architecture, adapters), context, architecture, dropout)


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


def embed(params: Params, batch: Batch, architecture: Architecture) -> Float[Array, "rows length hidden"]:
    """The residual stream before the first sublayer, float32: sums of tables that may be kept in fewer bits."""
    p = params["embed"]
    x = look_up(p["token"], batch.ids).astype(jnp.float32)
    if "project" in p:
        x = dense(p["project"], x)
    if architecture.positions == "learned":
        x = x + p["position"][batch.positions + architecture.position_offset]
    if architecture.token_types:
        x = x + p["type"][batch.types]
    return norm(p["norm"], x, architecture) if architecture.embed_norm else x


def apply_head(
    params: Params, x: Array, batch: Batch, architecture: Architecture, dropout: Dropout | None = None
) -> Array:
    """Logits from the last residual stream.

    Classification: [rows, texts, labels], one row per packed text. Question answering: [rows, length, 2], start and
    end. Language model: [rows, length, vocab]. No head: the hidden states themselves, [rows, length, hidden].
    """
    x = head_input(params, x, architecture)
    if architecture.head == "none":
        return x
    if architecture.head == "causal_lm":
        return vocabulary_logits(params, x, architecture)
    if architecture.head == "question_answering":
        return dense(params["head"], x)
    pooled = jnp.take_along_axis(x, batch.pool[..., None], axis=1)
    if architecture.pooler != "none":
        activation = jnp.tanh if architecture.pooler == "tanh" else jax.nn.relu
        pooled = activation(dense(params["pooler"], pooled))
    return dense(params["head"], drop(pooled, dropout, 1))


def head_input(params: Params, x: Array, architecture: Architecture) -> Array:
    """What the head reads: the last residual stream, normed and projected where the family does so."""
    if architecture.final_norm:
        x = norm(params["final_norm"], x, architecture)
    return dense(params["project_out"], x) if "project_out" in params else x


def vocabulary_logits(
    params: Params, x: Float[Array, "... hidden"], architecture: Architecture
) -> Float[Array, "... vocab"]:
    """A language model's logits from `head_input`, over the whole vocabulary."""
    if architecture.tied:
        return x @ params["embed"]["token"].astype(x.dtype).T
    return jnp.tensordot(x, params["head"]["kernel"].astype(x.dtype), axes=1)


def stack(trees: Sequence[Any]) -> Any:
    """One tree with a leading [layers] axis from a list of equal trees."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """The inverse of `stack`."""
    return [jax.tree.map(itemgetter(index), tree) for index in range(count)]


DEEP = 16  # layers from which on a scan compiles so much faster that a second copy of the weights is worth it


def scannable(params: Params) -> Params:
    """The same parameters, with the layers of a deep model stacked where all are equal, for `forward` to scan.

    To be called outside `jax.jit`: stacking inside a compiled program copies all weights on every call.
    """
    layers = params["layers"]
    shapes = [jax.tree.map(jnp.shape, layer) for layer in layers]
    if len(layers) < DEEP or any(shape != shapes[0] for shape in shapes):
        return params
    return {**params, "layers": stack(layers)}


def whole_layer(
    p: Params,
    x: Array,
    context: Context,
    architecture: Architecture,
    gates: Any = None,
    adapters: Any = None,
    dropout: Dropout | None = None,
) -> tuple[Array, list[Array], list[Array]]:
    """Both halves of a layer: the residual stream after it; the streams before and the features of each half."""
    streams, features = [], []
    for half in HALVES:
        streams.append(x)
        gate = None if gates is None else gates.get(half)
        adapter = None if adapters is None else adapters.get(half)
        x, seen = sublayer(half, p[half], x, context, architecture, gate, adapter, dropout)
        features.append(seen)
    return x, streams, features


def encode(
    params: Params,
    x: Array,
    context: Context,
    architecture: Architecture,
    sites: Sites = Sites(),
    remat: bool = False,
) -> tuple[Array, list[Array], list[Array]]:
    """All layers, written out one by one; scanned where they come stacked (`scannable`), sites stacked like them.

    Returns the last residual stream and, with `sites.taps`, the streams before and the features of every sublayer.
    `remat` recomputes each layer in the backward pass instead of keeping its activations.
    """

    def body(x: Array, entry: Any) -> tuple[Array, Any]:
        dropout = None if sites.dropout is None else sites.dropout._replace(key=held_back(entry[3], x))
        x, streams, features = whole_layer(entry[0], x, context, architecture, entry[1], entry[2], dropout)
        return x, (streams, features) if sites.taps else None

    layers, depth = params["layers"], len(architecture.layers)
    noise = None if sites.dropout is None else [sites.dropout.at(index).key for index in range(depth)]
    step = recomputed(body) if remat else body
    if not isinstance(layers, Mapping):
        none = [None] * depth
        seen = []
        for entry in zip(layers, sites.gates or none, sites.adapters or none, noise or none, strict=True):
            x, out = step(x, entry)
            seen.append(out)
    else:
        x, stacked = jax.lax.scan(
            step, x, (layers, sites.gates, sites.adapters, None if noise is None else jnp.stack(noise))
        )
        seen = unstack(stacked, depth)
    if not sites.taps:
        return x, [], []
    return x, [entry for streams, _ in seen for entry in streams], [entry for _, some in seen for entry in some]


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
    last = 2 * len(architecture.layers)
    first, stop = sites.section or (0, last)
    context = context_of(architecture, batch)
    outside = None if sites.dropout is None else sites.dropout.at(last)
    if stream is None:
        looked_up = lambda batch, p: embed({"embed": p}, batch, architecture)  # noqa: E731
        x = (recomputed(looked_up) if remat else looked_up)(batch, params["embed"])
        x = drop(x.astype(dtype), outside, 0)
    else:
        x = stream
    if sites.section is None:
        x, streams, features = encode(params, x, context, architecture, sites, remat)
    else:
        streams, features = [], []
        for index in range(first, stop):
            half, p = HALVES[index % 2], params["layers"][index // 2][HALVES[index % 2]]
            gates = sites.gates[index // 2] if sites.gates is not None else {}
            adapters = sites.adapters[index // 2] if sites.adapters is not None else {}
            streams.append(x)
            noise = None if sites.dropout is None else sites.dropout.at(index // 2)
            x, seen = sublayer(half, p, x, context, architecture, gates.get(half), adapters.get(half), noise)
            features.append(seen)
    taps = (tuple(streams), tuple(features)) if sites.taps else ((), ())
    if stop < last:
        return Outputs(x, None, *taps)
    return Outputs(x, apply_head(params, x, batch, architecture, outside).astype(jnp.float32), *taps)


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
    elif architecture.positions_count == "mask":
        positions = jnp.cumsum(mask, axis=1) * mask - 1  # OPT: padding sits just before position 0
    else:
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    if ids.shape[1] > architecture.max_positions and architecture.positions != "none":
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
def whole_forward(params: Params, batch: Batch, *, architecture: Architecture, dtype: Any = jnp.float32) -> Array:
    """Logits of one batch, compiled: [rows, texts, labels] and its like for other heads (`apply_head`)."""
    logits = forward(params, batch, architecture, dtype=dtype).logits
    assert logits is not None  # a whole forward pass ends with the head
    return logits


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
    """
    batch = plain_batch(model.architecture, input_ids, attention_mask, token_type_ids)
    out = whole_forward(model.params, batch, architecture=model.architecture, dtype=dtype)
    return out[:, 0] if model.architecture.head == "classification" else out

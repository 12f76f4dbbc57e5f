"""The forward pass of every family: one residual stream, a list of layers, and the sites that methods use.

Sublayers are numbered bottom up (`Architecture.sublayers`); what one computes stands in `sublayer`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .architecture import HALVES, Architecture
from .attention_kinds import Mixed
from .context import Context, layer_contexts
from .dropout import Dropout, drop, held_back
from .ends import embed_tokens, head_input
from .heads import head_of
from .model import Batch, Params
from .relative import shared_tables
from .remat import converts, in_turn, recomputed
from .sublayer import sublayer


class Spread(NamedTuple):
    """How a forward pass that is trained is spread over devices."""

    parts: int  # devices that share the rows of a batch, each as many, in their order
    whole: Callable[[Any], Any]  # parameters as every device reads them, from those of which each holds a part


class Sites(NamedTuple):
    """The seam between the model and the methods; every field may be left out.

    gates: a list with one dict per layer, {"attention": …, "feed_forward": …}; each array broadcasts against the
        features, [rows, length, groups, queries, width] or [rows, length, neurons].
    adapters: a list with one dict per layer, {"attention": {"q": (A, B, scale), …}, "feed_forward": {"up": …}}; adds
        scale · (x A) B to a projection's output, with A [inputs, rank] and B [rank, *outputs]; never multiplied out.
    section: (first, last): run sublayers first … last - 1 only, on the residual stream handed to `forward`.
    taps: ask for the residual stream before every sublayer and every sublayer's features.
    dropout: for training; left out, a forward pass is deterministic.
    spread: of training on several devices. A layer's weights are made whole when it is that layer's turn.
    """

    gates: Sequence[Any] | None = None
    adapters: Sequence[Any] | None = None
    section: tuple[int, int] | None = None
    taps: bool = False
    dropout: Dropout | None = None
    spread: Spread | None = None


class Outputs(NamedTuple):
    hidden: Float[Array, "rows length hidden"]  # the residual stream after the last sublayer that ran
    logits: Array | None  # None when a section stopped before the head
    streams: tuple[Array, ...] = ()  # with taps: the residual stream before each sublayer
    features: tuple[Array, ...] = ()  # with taps: the features of each sublayer


def apply_head(
    params: Params, x: Array, batch: Batch, architecture: Architecture, dropout: Dropout | None = None
) -> Array:
    """Logits from the last residual stream.

    Classification: [rows, texts, labels], one row per packed text. Question answering: [rows, length, 2], start and
    end. Language model: [rows, length, vocab]. No head: the hidden states themselves, [rows, length, hidden].
    """
    return head_of(architecture).logits(params, head_input(params, x, architecture), batch, architecture, dropout)


def stack(trees: Sequence[Any]) -> Any:
    """One tree with a leading [layers] axis from a list of equal trees."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """The inverse of `stack`."""
    return [jax.tree.map(itemgetter(index), tree) for index in range(count)]


DEEP = 16  # layers from which on a scan compiles so much faster that a second copy of the weights is worth it


def scannable(params: Params, architecture: Architecture) -> Params:
    """The same parameters, with the layers of a deep model stacked where all are equal, for `forward` to scan.

    To be called outside `jax.jit`: stacking inside a compiled program copies all weights on every call.
    """
    layers = params["layers"]
    shapes = [jax.tree.map(jnp.shape, layer) for layer in layers]
    if len(layers) < DEEP or isinstance(architecture.attention, Mixed) or any(shape != shapes[0] for shape in shapes):
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
    contexts: Sequence[tuple[Architecture, Context]],
    sites: Sites = Sites(),
    remat: bool = False,
    inference: bool = False,
) -> tuple[Array, list[Array], list[Array]]:
    """All layers, written out one by one; scanned where they come stacked (`scannable`), sites stacked like them.

    `contexts` are those of `layer_contexts`; layers that come stacked are of one kind. Returns the
    last residual stream and, with `sites.taps`, the streams before and the features of every sublayer. `remat`
    recomputes each layer in the backward pass instead of keeping its activations. With it, and where no backward pass
    follows (`inference`), a layer's weights are copied into the type that is computed in when it is its turn.
    """
    layers, depth = params["layers"], len(contexts)
    held = (remat or inference) and not isinstance(layers, Mapping) and converts(layers, x.dtype)

    def step_of(kind: Architecture, context: Context) -> Callable[[Array, Any], tuple[Array, Any]]:
        def body(x: Array, entry: Any) -> tuple[Array, Any]:
            dropout = None if sites.dropout is None else sites.dropout._replace(key=held_back(entry[3], x))
            p = entry[0] if sites.spread is None else sites.spread.whole(entry[0])
            x, streams, features = whole_layer(p, x, context, kind, entry[1], entry[2], dropout)
            return x, (streams, features) if sites.taps else None

        first = in_turn(body) if held else body
        return recomputed(body, first) if remat else first

    noise = None if sites.dropout is None else [sites.dropout.at(index).key for index in range(depth)]
    if not isinstance(layers, Mapping):
        none = [None] * depth
        seen = []
        entries = zip(layers, sites.gates or none, sites.adapters or none, noise or none, strict=True)
        for entry, of_layer in zip(entries, contexts, strict=True):
            x, out = step_of(*of_layer)(x, entry)
            seen.append(out)
    else:
        x, stacked = jax.lax.scan(
            step_of(*contexts[0]), x, (layers, sites.gates, sites.adapters, None if noise is None else jnp.stack(noise))
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
    inference: bool = False,
) -> Outputs:
    """Run the model, or with `sites.section` a part of it, on one batch. Unjitted: callers compile it once, outside.

    `stream` is the residual stream to start from when a section starts after sublayer 0. `remat` and `inference` are
    those of `encode`.
    """
    sublayers, params = architecture.sublayers(), shared_tables(params, architecture)
    last = len(sublayers)
    first, stop = sites.section or (0, last)
    contexts = layer_contexts(architecture, batch)
    outside = None if sites.dropout is None else sites.dropout.at(last)
    if stream is None:
        looked_up = lambda batch, p: embed_tokens({"embed": p}, batch, architecture, dtype)  # noqa: E731
        x = (recomputed(looked_up) if remat else looked_up)(batch, params["embed"])
        x = drop(x.astype(dtype), outside, 0)
    else:
        x = stream
    if sites.section is None:
        x, streams, features = encode(params, x, contexts, sites, remat, inference)
    else:
        streams, features = [], []
        for at in sublayers[first:stop]:
            gates = sites.gates[at.layer] if sites.gates is not None else {}
            adapters = sites.adapters[at.layer] if sites.adapters is not None else {}
            streams.append(x)
            noise = None if sites.dropout is None else sites.dropout.at(at.layer)
            p, (kind, context) = at.of(params["layers"]), contexts[at.layer]
            x, seen = sublayer(at.half, p, x, context, kind, gates.get(at.half), adapters.get(at.half), noise)
            features.append(seen)
    taps = (tuple(streams), tuple(features)) if sites.taps else ((), ())
    if stop < last:
        return Outputs(x, None, *taps)
    return Outputs(x, apply_head(params, x, batch, architecture, outside).astype(jnp.float32), *taps)


@partial(jax.jit, static_argnames=("architecture", "dtype"))
def whole_forward(params: Params, batch: Batch, *, architecture: Architecture, dtype: Any = jnp.float32) -> Array:
    """Logits of one batch, compiled: [rows, texts, labels] and its like for other heads (`apply_head`)."""
    logits = forward(params, batch, architecture, dtype=dtype, inference=True).logits
    assert logits is not None  # a whole forward pass ends with the head
    return logits


@partial(jax.jit, static_argnames=("architecture", "dtype"))
def whole_losses(
    params: Params, batch: Batch, *, architecture: Architecture, dtype: Any = jnp.float32
) -> Float[Array, "rows length"]:
    """A language model's next-token losses of one batch, compiled."""
    language = head_of(architecture).language
    assert language is not None
    # The whole logits beside it are never computed.
    hidden = forward(params, batch, architecture, dtype=dtype, inference=True).hidden
    outside = {name: part for name, part in params.items() if name != "layers"}
    losses = lambda params, hidden, batch: language.losses(params, hidden, batch, architecture)  # noqa: E731
    return (in_turn(losses) if converts(outside, hidden.dtype) else losses)(outside, hidden, batch)


def whole_pass(architecture: Architecture) -> Callable[..., Array]:
    """The compiled program that runs the model and gives logits, or next-token losses where those are too many."""
    return whole_forward if head_of(architecture).language is None else whole_losses

"""The backward sweep over one sublayer, and what it sums: the parts that `measure` runs for every batch."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ..model.architecture import Architecture
from ..model.context import context_of
from ..model.heads import head_of
from ..model.model import Batch, Params
from ..model.sublayer import OUTPUT, features_of, residual, sublayer_inputs
from ..model.transformer import apply_head
from ..runtime.by_sublayer import Trace
from .gram import add_gram


class Statistics(NamedTuple):
    """Sums over calibration tokens for one sublayer with `units` units of `width` features each.

    All in float32 at the highest matmul precision. Divide by `tokens` or `texts` for means. Of `gram` and `sensitivity`
    only the upper part is summed (`gram.whole` fills in the rest). What was not asked for has no entries.
    """

    gram: Float[Any, "features features"]  # Σ_t ω_t f fᵀ, with token weights of mean 1
    mean: Float[Any, " features"]  # Σ_t ω_t f
    sensitivity: Float[Any, "hidden hidden"]  # Σ_t g gᵀ, g the gradient at the sublayer's output
    gates: Float[Any, " units"]  # Σ over texts and seeds of (gradient to the unit's gate)²
    block: Float[Any, "units units"]  # the same as an outer product over units


def empty_statistics(units: int, width: int, hidden: int, *, grams: bool, gates: bool, blocks: bool) -> Statistics:
    features, gate, block = units * width * grams, units * (gates or blocks), units * blocks
    zeros = partial(np.zeros, dtype=np.float32)
    return Statistics(
        zeros((features, features)), zeros(features), zeros((hidden, hidden)), zeros(gate), zeros((block, block))
    )


def output_kernel(p: Params, half: str) -> Float[Any, "features hidden"]:
    """A sublayer's output projection as a matrix."""
    kernel = p[OUTPUT[half]]["kernel"]
    return kernel.reshape(-1, kernel.shape[-1])


def unit_width(p: Params, half: str) -> int:
    """Features per unit of a half: a key-value group's queries × head width, or 1 for a neuron."""
    return math.prod(p[OUTPUT[half]]["kernel"].shape[1:-1])


def segment_sum(values: Float[Array, "rows length n"], batch: Batch) -> Float[Array, "rows texts n"]:
    """Sum over the tokens of every packed text; padding counts nowhere."""
    texts = jax.nn.one_hot(batch.segments - 1, batch.pool.shape[1], dtype=values.dtype)  # 0 for padding
    return jnp.einsum("rts,rtn->rsn", texts, values, precision="highest")


# --- seeds: cotangents at the logits whose outer product is the Fisher information of the model's own prediction


DEALT = 32  # seeds that are dealt to the tokens of a text


@partial(jax.jit, static_argnames=("architecture", "temperature", "exact_up_to", "apart"))
def head_cotangents(
    params: Params,
    x: Array,
    batch: Batch,
    key: Array,
    *,
    architecture: Architecture,
    temperature: float,
    exact_up_to: int,
    apart: bool = False,
) -> Float[Array, "seeds rows length hidden"]:
    """The Fisher seeds pulled back to the last residual stream.

    `apart` is for heads that pool a text's tokens: every token then has a seed of its own. What a refit leaves of a
    unit that went are errors that differ from token to token and cancel in a mean; one seed a text measures them as if
    they added up.
    """
    head = head_of(architecture)
    if head.language is not None:
        return head.language.cotangents(params, x, batch, architecture, temperature, key)[None]
    fisher = head.fisher
    assert fisher is not None
    logits, pull = jax.vjp(lambda x: apply_head(params, x, batch, architecture).astype(jnp.float32), x)
    there = head.present(batch)[..., None]
    seeds = lambda key: jnp.where(there, fisher(logits, batch, temperature, key, exact_up_to), 0)  # noqa: E731
    if not (apart and head.pools):
        return jax.vmap(lambda seed: pull(seed)[0])(seeds(key))

    def deal(dealt: Array, entry: tuple[Array, Array]) -> tuple[Array, None]:
        number, key = entry
        here = (batch.positions % DEALT == number)[..., None]
        return jnp.where(here, pull(seeds(key)[0])[0], dealt), None

    return jax.lax.scan(deal, jnp.zeros_like(x), (jnp.arange(DEALT), jax.random.split(key, DEALT)))[0][None]


# --- the backward sweep


@partial(jax.jit, static_argnames=("half", "architecture", "floor", "features"), donate_argnames=("sums", "cotangents"))
def sweep_back(
    p: Params,
    trace: Trace,
    batch: Batch,
    cotangents: Float[Array, "seeds rows length hidden"],
    sums: tuple[Array, Array, Array],
    *,
    half: str,
    architecture: Architecture,
    floor: float,
    features: bool,
) -> tuple[Array, tuple[Array, Array, Array], Float[Array, "rows length"], tuple[Array, Array] | None]:
    """Pull the cotangents back over one sublayer and add to `sums`: its sensitivity, gates and block.

    Returns cotangents before the sublayer, the sums, and every token's energy |g|², g the gradient at the sublayer's
    output. With `features` also the sublayer's features, each token's times the root of its weight, and these roots,
    [rows, length, 1]: for `add_features`. Tokens weigh by their share of the batch's energy (`token_weights`).
    """
    context = context_of(architecture, batch)
    said, pull_features = jax.vjp(lambda inputs: features_of(half, p, inputs, context, architecture), trace.inputs)
    # Projections are linear and an identity surrounds the norm of the other position, so that one stored stream serves
    # as the point of both derivatives; the values computed on the way are not used, and never computed.
    _, pull_inputs = jax.vjp(lambda x: sublayer_inputs(half, p, x, architecture), trace.around)
    if trace.update is None:
        _, pull_norm = jax.vjp(lambda x: residual(p, x, jnp.zeros((), x.dtype), architecture), trace.around)
    else:  # a norm of the update alone: the stream passes beside it
        _, pull_norm = jax.vjp(lambda u: residual(p, jnp.zeros((), u.dtype), u, architecture), trace.update)
    kernel, flat, units = output_kernel(p, half), said.reshape(*said.shape[:2], -1), said.shape[2]
    sensitivity, gates, block = sums

    def one(cotangent):
        (g,) = pull_norm(cotangent)
        g_features = jnp.einsum("rth,fh->rtf", g, kernel)
        (g_inputs,) = pull_features(g_features.reshape(said.shape))
        (g_through,) = pull_inputs(g_inputs)
        before = g_through + (g if trace.update is None else cotangent)
        if not gates.shape[0]:
            return before, g, None
        per_unit = jnp.sum((flat * g_features).reshape(*flat.shape[:2], units, -1), axis=-1)
        return before, g, segment_sum(per_unit, batch)  # the last: [rows, texts, units]

    before, g, of_gates = jax.vmap(one)(cotangents)
    real = batch.real.astype(jnp.float32)
    g = g * real[..., None]
    energy = jnp.sum(g**2, axis=(0, -1))
    sensitivity = add_gram(sensitivity, g.reshape(-1, g.shape[-1]))
    if of_gates is not None:
        gates = gates + jnp.sum(of_gates**2, axis=(0, 1, 2))
        if block.shape[0]:
            block = block + jnp.einsum("krsu,krsv->uv", of_gates, of_gates, precision="highest")
    if not features:
        return before, (sensitivity, gates, block), energy, None
    root = jnp.sqrt(token_weights(energy, real, jnp.sum(energy), jnp.sum(real), floor))[..., None]
    return before, (sensitivity, gates, block), energy, (flat * root, root)


@partial(jax.jit, donate_argnames="sums")
def add_features(
    weighted: Float[Array, "rows length features"], root: Float[Array, "rows length 1"], sums: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Add one batch to a sublayer's Gram matrix and mean.

    A program of its own: inside `sweep_back` XLA works the features out again for every block of the Gram matrix, which
    takes longer than the blocks do.
    """
    gram, mean = sums
    x = weighted.reshape(root.size, weighted.shape[-1])  # no -1: a sublayer may have come without units
    return add_gram(gram, x), mean + jnp.matmul(root.reshape(-1), x, precision="highest")


def token_weights(energy: Array, real: Array, total: ArrayLike, tokens: ArrayLike, floor: float) -> Array:
    """Weights of mean 1 over `tokens` tokens of `total` energy: `floor` of it uniform, the rest by energy.

    A token whose output nothing reads (all but the first in the last layer of a classifier) then hardly counts.
    """
    mean = jnp.maximum(total / jnp.maximum(tokens, 1), 1e-30)
    return (floor + (1 - floor) * energy / mean) * real

"""Noise for training, drawn cheaply and only when it is needed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array


class Dropout(NamedTuple):
    """Noise for training: a share `rate` of the embeddings, updates, attention weights and pooled vectors is zeroed."""

    rate: float
    key: Array  # a key of jax.random

    def at(self, place: int) -> "Dropout":
        """The same rate, under a key of its own for each place."""
        return Dropout(self.rate, jax.random.fold_in(self.key, place))


def drop(x: Array, dropout: Dropout | None, place: int) -> Array:
    """`x` with a share of its numbers zeroed and the others scaled up, so that the mean stays."""
    if dropout is None or x.size == 0:
        return x
    # 16 random bits a number, two numbers a word: drawing whole words takes three times as long (CPU, threefry), which
    # for attention weights was 15 % of a training step. The rate is met to 1 in 65,536, and the scale is that rate's.
    limit = round(dropout.rate * 2**16)
    words = jax.random.bits(dropout.at(place).key, (*x.shape[:-1], -(-x.shape[-1] // 2)), "uint32")
    bits = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    return jnp.where(bits >= limit, x / (1 - limit / 2**16), 0)


def held_back(key: Array, x: Array) -> Array:
    """`key`, but not before `x` is there.

    Nothing else makes random bits wait: XLA drew those of all layers at once, before the first of them ran, and kept
    them (a fifth of what a step of BERT-base with adapters and recomputed layers needed, 32 x 128, CPU). What is
    compared has to be a number that no compiler can know; where it is NaN, no bits matter any more.
    """
    late = jnp.isnan(x[(0,) * x.ndim]).astype(jnp.uint32)
    return jax.random.wrap_key_data(jax.random.key_data(key) + late, impl=jax.random.key_impl(key))

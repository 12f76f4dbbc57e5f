"""Tokens drawn from their logits, by two numbers a row and not by one for every token of a vocabulary."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BLOCK = 256  # tokens of which one block is drawn first, then one of them


def draw_tokens(keys: Array, logits: Float[Array, "rows vocab"]) -> Int[Array, " rows"]:
    """A token of every row, each with its probability; one key for a row, which alone decides it.

    `jax.random.categorical` makes a Gumbel number for every token, which costs a CPU much where these are many. Here a
    block of tokens is drawn by the blocks' sums, then a token by what the block's own are, so that rounding of long
    sums tells no tokens apart. Sums are in float32 whatever the logits' type. Tokens of logit -inf are never drawn.
    """
    rows, vocab = logits.shape
    size = min(BLOCK, vocab)
    logits = logits.astype(jnp.float32)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    blocks = jnp.pad(weights, ((0, 0), (0, -vocab % size))).reshape(rows, -1, size)
    numbers = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    block = _first_above(jnp.sum(blocks, axis=-1), numbers[:, 0])
    within = _first_above(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], numbers[:, 1])
    return (block * size + within).astype(jnp.int32)


def _first_above(weights: Float[Array, "rows parts"], number: Float[Array, " rows"]) -> Int[Array, " rows"]:
    """The first part at which the sum of the weights passes this share of all; never one that weighs nothing."""
    sums, weighs = jnp.cumsum(weights, axis=-1), weights > 0
    passed = weighs & (sums > (number * sums[:, -1])[:, None])
    last = weights.shape[-1] - 1 - jnp.argmax(weighs[:, ::-1], axis=-1)  # where a rounded product is the whole sum
    return jnp.where(jnp.any(passed, axis=-1), jnp.argmax(passed, axis=-1), last)

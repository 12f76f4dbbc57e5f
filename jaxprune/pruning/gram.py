"""Sums of outer products. They are symmetric, so the blocks below the diagonal are never computed."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BLOCKS = 4  # of rows: five eighths of a full product's work
MIRRORED = 256  # rows of a block that `whole` fills in
SMALLEST = 64  # rows of a block; below, one product is faster than several


def add_gram(
    total: Float[Array, "n n"], x: Float[Array, "tokens n"], weight: Float[Array, " tokens"] | None = None
) -> Float[Array, "n n"]:
    """`total` + Σ_t ω_t x xᵀ, in float32 at the highest matmul precision.

    Only blocks on and above the diagonal are added to; `whole` fills in the others when a sum is read.
    """
    n = x.shape[1]
    left = (x if weight is None else x * weight[:, None]).T
    size = max(-(-n // BLOCKS), SMALLEST)
    for first in range(0, n, size):
        block = jnp.matmul(left[first : first + size], x[:, first:], precision="highest")
        total = total.at[first : first + size, first:].add(block)
    return total


def whole(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """The symmetric matrix of which `add_gram` summed the upper part.

    Block by block, each read and written while it is in the processor's cache: a fifth of the time of a large one.
    """
    out = np.array(gram)
    for first in range(0, len(out), MIRRORED):
        last = first + MIRRORED
        square = out[first:last, first:last]
        square[:] = np.triu(square) + np.triu(square, 1).T
        out[last:, first:last] = out[first:last, last:].T
    return out

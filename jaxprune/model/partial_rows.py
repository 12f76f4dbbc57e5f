"""A matrix in two parts, so that some of its rows can train while the others are constants of the step.

A *row* is what one number of a sublayer's features reads or writes: an output of q, k, v, up or gate, an input of o or
down. The parts are two smaller matrices, and a product with them is two smaller products, whose numbers are then put
in order: no second copy of the weight is ever made, and what is frozen has no gradient.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .product import product


class Split(NamedTuple):
    """A kernel, bias or embedding table in two parts; where a matrix of `Model.params` stands, one of these may.

    Kernel of q, k, v, up, gate: parts [hidden, rows]; of o, down and tables: parts [rows, hidden]; bias: parts [rows].
    """

    frozen: Any
    trained: Any
    place: Any  # shaped as the rows are in the whole array: where a row lies in [frozen, trained]; a bias: its kernel's


def inverse(places: Int[Array, " n"]) -> Int[Array, " n"]:
    """The permutation that undoes `places`."""
    return jnp.zeros_like(places).at[places].set(jnp.arange(len(places), dtype=places.dtype))


@jax.custom_vjp
def permute(x: Array, places: Array) -> Array:
    """x[..., places] for a permutation. Its gradient is a gather too; JAX's own would be a scatter, which is slow."""
    return jnp.take(x, places, axis=-1, mode="clip")


def _permute_forward(x: Array, places: Array) -> tuple[Array, Array]:
    return permute(x, places), places


def _permute_backward(places: Array, g: Array) -> tuple[Array, None]:
    return jnp.take(g, inverse(places), axis=-1, mode="clip"), None


permute.defvjp(_permute_forward, _permute_backward)


def split_dense(p: Any, x: Float[Array, "rows length inputs"]) -> Array:
    """`dense` for a kernel and bias split by outputs: [rows, length, *outputs]."""
    kernel, bias = p["kernel"], p.get("bias")
    parts = []
    for name in ("frozen", "trained"):
        y = product("rli,io->rlo", x, getattr(kernel, name), jnp.float32)
        parts.append((y if bias is None else y + getattr(bias, name)).astype(x.dtype))
    y = permute(jnp.concatenate(parts, axis=-1), kernel.place.reshape(-1))
    return y.reshape(*x.shape[:-1], *kernel.place.shape)


def split_project(kernel: Split, features: Float[Array, "rows length inputs"]) -> Float[Array, "rows length hidden"]:
    """Features times a kernel split by inputs, in float32."""
    ordered = permute(features, inverse(kernel.place.reshape(-1)))
    frozen, trained = jnp.split(ordered, [len(kernel.frozen)], axis=-1)
    of_frozen = product("rli,io->rlo", frozen, kernel.frozen, jnp.float32)
    return of_frozen + product("rli,io->rlo", trained, kernel.trained, jnp.float32)


def look_up(table: Any, ids: Int[Array, "rows length"]) -> Float[Array, "rows length hidden"]:
    """Rows of an embedding table, split or whole."""
    if not isinstance(table, Split):
        return table[ids]
    place, first = table.place[ids], len(table.frozen)
    if not first or not len(table.trained):
        return table.trained[place] if not first else table.frozen[place]
    frozen, trained = table.frozen[jnp.minimum(place, first - 1)], table.trained[jnp.maximum(place - first, 0)]
    return jnp.where((place < first)[..., None], frozen, trained)

"""Sums and maps over the tokens of a batch a slice at a time, where all of them at once would not fit."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .model import Params

SLICE = 256  # tokens, of vocabularies up to 65,536; of larger ones fewer
LEAST = 32


def slice_tokens(vocab: int) -> int:
    """Tokens of a slice: its logits are at most 64 MiB in float32, and a loss needs a handful of such arrays.

    >>> slice_tokens(32_000), slice_tokens(128_256), slice_tokens(262_144)
    (256, 128, 64)
    """
    return max(LEAST, min(SLICE, 2 ** ((2**24 // vocab).bit_length() - 1)))


def _sliced(array: Array, size: int) -> Array:
    """[rows, length, …] as [slices, size, …], filled up with zeros."""
    flat = array.reshape(-1, *array.shape[2:])
    count = -(-len(flat) // size)
    filled = jnp.pad(flat, [(0, count * size - len(flat))] + [(0, 0)] * (flat.ndim - 1))
    return filled.reshape(count, size, *flat.shape[1:])


def _all_sliced(tree: Any, size: int) -> Any:
    return jax.tree.map(lambda array: _sliced(array, size), tree)


def _whole(slices: Array, rows: int, length: int) -> Array:
    """The inverse of `_sliced`."""
    return slices.reshape(-1, *slices.shape[2:])[: rows * length].reshape(rows, length, *slices.shape[2:])


def in_slices(function: Callable[..., Any], *arrays: Array, size: int = SLICE) -> Any:
    """`function` of [tokens, …] arrays on [rows, length, …] ones, `size` tokens at a time to save memory."""
    rows, length = arrays[0].shape[:2]
    results = jax.lax.map(lambda parts: function(*parts), tuple(_sliced(array, size) for array in arrays))
    return jax.tree.map(lambda leaf: _whole(leaf, rows, length), results)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 6))
def sum_in_slices(
    function: Callable[[Params, Array, Any, Any], Array],
    size: int,
    params: Params,
    x: Float[Array, "rows length hidden"],
    constants: Any,
    tokens: Any,
    adds: Callable[[Any], Array] | None = None,
) -> Float[Array, ""]:
    """Σ over slices of `function(params, x, constants, tokens)`, `size` tokens at a time, forwards and backwards.

    `tokens` are arrays [rows, length, …] as `x` is. There are gradients to `params` and `x`. They are computed in the
    forward pass, slice by slice, while the slice's logits are there: to keep these would take [tokens, vocabulary], to
    compute them anew in the backward pass a fourth product with the vocabulary. What differs from slice to slice must
    be an argument: `function` is static. A token of zeros, by which the last slice is filled up, must add 0. `adds`
    says of a slice's tokens whether it adds anything: the others are passed over.
    """

    def add(total: Array, parts: Any) -> tuple[Array, None]:
        value = lambda x, tokens: function(params, x, constants, tokens)  # noqa: E731
        if adds is None:
            return total + value(*parts), None
        return total + jax.lax.cond(adds(parts[1]), value, lambda *_: jnp.zeros(()), *parts), None

    return jax.lax.scan(add, jnp.zeros(()), _all_sliced((x, tokens), size))[0]


def _sum_forward(
    function: Callable[..., Array],
    size: int,
    params: Any,
    x: Any,
    constants: Any,
    tokens: Any,
    adds: Callable[[Any], Array] | None,
) -> tuple[Array, tuple[Any, Any]]:
    # Only what someone asks the gradient of is summed up: of a frozen vocabulary there would be one more copy.
    moves = jax.tree.map(lambda leaf: leaf.perturbed, params, is_leaf=_is_primal)
    params, x, constants, tokens = jax.tree.map(
        lambda leaf: leaf.value, (params, x, constants, tokens), is_leaf=_is_primal
    )
    # None in place of what the other has.
    moving = jax.tree.map(lambda leaf, yes: leaf if yes else None, params, moves)
    still = jax.tree.map(lambda leaf, yes: None if yes else leaf, params, moves)

    def add(carry: Any, parts: Any) -> tuple[Any, Array]:
        total, slope = carry

        def value_of(moving: Any, x: Array) -> Array:
            whole = jax.tree.map(lambda a, b: b if a is None else a, moving, still, is_leaf=lambda leaf: leaf is None)
            return function(whole, x, constants, parts[1])

        value, pull = jax.vjp(value_of, moving, parts[0])
        of_params, of_x = pull(jnp.ones(()))
        return (total + value, jax.tree.map(jnp.add, slope, of_params)), of_x

    def add_if(carry: Any, parts: Any) -> tuple[Any, Array]:
        assert adds is not None
        return jax.lax.cond(adds(parts[1]), add, lambda carry, parts: (carry, jnp.zeros_like(parts[0])), carry, parts)

    zeros = jax.tree.map(jnp.zeros_like, moving)
    step = add if adds is None else add_if
    (total, slope), of_x = jax.lax.scan(step, (jnp.zeros(()), zeros), _all_sliced((x, tokens), size))
    return total, (slope, _whole(of_x, *x.shape[:2]))


def _sum_backward(
    function: Callable[..., Array], size: int, adds: Any, kept: tuple[Any, Any], g: Array
) -> tuple[Any, Any, None, None]:
    slope, of_x = jax.tree.map(lambda leaf: (g * leaf).astype(leaf.dtype), kept)
    return slope, of_x, None, None


def _is_primal(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


sum_in_slices.defvjp(_sum_forward, _sum_backward, symbolic_zeros=True)

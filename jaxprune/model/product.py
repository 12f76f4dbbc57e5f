"""Products of two arrays: in half precision with sums, and gradients of weights, in float32."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def product(spec: str, x: Array, y: Array, dtype: Any = None) -> Array:
    """`jnp.einsum(spec, x, y)` in the type of `x`, the result in `dtype` or that type.

    In bfloat16 all sums are taken in float32, also those of the backward pass, and `y` may be kept in float32: its
    gradient then is float32 too and has never been rounded. A CPU that is faster in bfloat16 is so only in this way.
    """
    dtype = x.dtype if dtype is None else dtype
    if x.dtype != jnp.bfloat16:
        return jnp.einsum(spec, x, y.astype(x.dtype), preferred_element_type=dtype)
    return _half(spec, dtype, x, y)


def _summed(spec: str, x: Array, y: Array) -> Array:
    half = jnp.bfloat16
    return jnp.einsum(spec, x.astype(half), y.astype(half), preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _half(spec: str, dtype: Any, x: Array, y: Array) -> Array:
    return _summed(spec, x, y).astype(dtype)


def _half_forward(spec: str, dtype: Any, x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    return _half(spec, dtype, x, y), (x, y)


def _half_backward(spec: str, dtype: Any, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    (x, y), (inputs, out) = kept, spec.split("->")
    first, second = inputs.split(",")
    of_x = _summed(f"{out},{second}->{first}", g, y).astype(x.dtype)
    return of_x, _summed(f"{first},{out}->{second}", x, g).astype(y.dtype)


_half.defvjp(_half_forward, _half_backward)

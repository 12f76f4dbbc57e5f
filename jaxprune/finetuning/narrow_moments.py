"""Adam's moments in bfloat16: half the bytes.

A step moves the second moment by a thousandth of what is new (1 - b2 = 0.001), the first by a tenth. To the nearest,
a bfloat16 of 8 bits stands still where less than a 256th is new: the second moment would hardly ever move. They are
rounded up or down at random, so that they are right in the mean (Gupta et al., Deep learning with limited numerical
precision, 2015).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ..model.remat import in_place


def narrow_moments(adam: optax.GradientTransformation, key: Array | None) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with its state in bfloat16 between steps; in a step it is float32."""

    def init(params: Any) -> optax.OptState:
        state = adam.init(params)
        assert isinstance(state, optax.ScaleByAdamState)
        mu, nu = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (state.mu, state.nu))
        return state._replace(mu=mu, nu=nu)

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        assert isinstance(state, optax.ScaleByAdamState) and key is not None
        count = state.count

        def of_leaf(gradient: Array, mu: Array, nu: Array, seeds: Array) -> tuple[Any, ...]:
            wide = optax.ScaleByAdamState(count, mu.astype(jnp.float32), nu.astype(jnp.float32))
            done: Any = adam.update(gradient, wide)
            change, after = done
            return change, _rounded(after.mu, seeds[0]), _rounded(after.nu, seeds[1]), seeds + 1  # changed: in the loop

        leaves, form = jax.tree.flatten(updates)
        seeds = jax.vmap(jax.random.bits)(jax.random.split(key, 2 * len(leaves))).reshape(2, -1).T
        parts = leaves, *map(form.flatten_up_to, (state.mu, state.nu)), seeds
        # One by one: else the wide moments of all leaves may be there at once.
        done = [in_place(of_leaf)(*each)[:3] for each in zip(*parts, strict=True)]
        changes, mu, nu = (form.unflatten(each) for each in zip(*done, strict=True))
        return changes, optax.ScaleByAdamState(optax.safe_increment(count), mu, nu)

    return optax.GradientTransformation(init, update)


def rounded_at_random(x: Float[Array, "..."], key: Array) -> Float[Array, "..."]:
    """Finite float32 numbers in bfloat16: up or down, the nearer the likelier, so that their mean is `x`."""
    return _rounded(x, jax.random.bits(key))


def _rounded(x: Float[Array, "..."], seed: Array) -> Float[Array, "..."]:
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = _hash(jax.lax.iota(jnp.uint32, x.size).reshape(x.shape), seed) >> 16
    upper = ((bits + noise) >> 16).astype(jnp.uint16)  # noise is up to one unit of what stays
    return jax.lax.bitcast_convert_type(upper, jnp.bfloat16)


def _hash(number: Array, seed: Array) -> Array:
    """32 bits for every number: MurmurHash3's last mixing (Appleby).

    Where rounding needs little of randomness and no memory: XLA computes these in the loop that rounds, and would hold
    jax.random's bits of all leaves beside each other, 16 bytes a parameter.
    """
    bits = (number ^ seed) * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    return bits ^ (bits >> 16)

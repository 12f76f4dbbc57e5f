"""Least squares for a sublayer's output weights: the pruned stream is made to follow the dense one."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Normal(NamedTuple):
    """Weighted sums over tokens from which least-squares weights follow; f the features, r the target."""

    gram: Float[Array, "n n"]  # Σ ω f fᵀ
    cross: Float[Array, "n hidden"]  # Σ ω f rᵀ
    mean: Float[Array, " n"]  # Σ ω f
    target: Float[Array, " hidden"]  # Σ ω r
    energy: Float[Array, ""]  # Σ ω |r|²
    count: Float[Array, ""]  # Σ ω


def empty_normal(n: int, hidden: int) -> Normal:
    zeros = partial(jnp.zeros, dtype=jnp.float32)
    return Normal(zeros((n, n)), zeros((n, hidden)), zeros(n), zeros(hidden), zeros(()), zeros(()))


def accumulate(
    normal: Normal,
    features: Float[Array, "rows length n"],
    target: Float[Array, "rows length hidden"],
    weight: Float[Array, "rows length"],
) -> Normal:
    """Add one batch of tokens; float32 at the highest matmul precision."""
    features, target = (value.reshape(-1, value.shape[-1]) for value in (features, target))
    flat_weight = weight.reshape(-1)
    weighted = (features * flat_weight[:, None]).T
    return Normal(
        normal.gram + jnp.matmul(weighted, features, precision="highest"),
        normal.cross + jnp.matmul(weighted, target, precision="highest"),
        normal.mean + jnp.sum(weighted, axis=1),
        normal.target + flat_weight @ target,
        normal.energy + flat_weight @ jnp.sum(target**2, axis=1),
        normal.count + jnp.sum(flat_weight),
    )


class Refit(NamedTuple):
    weight: Float[Array, "n hidden"]
    bias: Float[Array, " hidden"]
    rank: Int[Array, ""]  # of the kept features; below their number: the calibration leaves a direction undetermined
    residual: Float[Array, ""]  # Σ ω |f W + b - r|² / Σ ω |r|², dimensionless; 0 is a perfect fit
    before: Float[Array, ""]  # the same with the old weights


@partial(jax.jit, static_argnames="intercept")
def solve(
    normal: Normal,
    present: Float[Array, " n"],
    old_weight: Float[Array, "n hidden"],
    old_bias: Float[Array, " hidden"],
    ridge: Float[Array, ""] | float,
    pull: Float[Array, ""] | float,
    intercept: bool,
) -> Refit:
    """Weights that minimise Σ ω |f W + b - r|² + ridge · mean(diag G) · |W - pull · W_old|².

    `present` is 1 on kept features and 0 on padding, which gets an identity block, so that one compiled program
    serves any number kept. `pull` 1 shrinks towards the old weights, 0 towards none. With `intercept` the bias is
    fitted too (closed form, by centring); else it stays. Source: K-prune section 3.3 (ridge, pull, weights and
    intercept are ours).
    """
    count = jnp.maximum(normal.count, 1.0)
    kept = jnp.maximum(jnp.sum(present), 1.0)
    mean, target = normal.mean / count, normal.target / count
    gram, cross = normal.gram / count, normal.cross / count
    if intercept:
        gram = gram - jnp.outer(mean, mean)
        cross = cross - jnp.outer(mean, target)
    else:
        cross = cross - jnp.outer(mean, old_bias)
    both = present[:, None] * present[None, :]
    scale = jnp.sum(jnp.diag(gram) * present) / kept
    scale = jnp.where(scale > 0, scale, 1.0)
    system = gram * both / scale + jnp.diag(ridge * present + (1 - present))
    old_weight = old_weight * present[:, None]
    right = cross * present[:, None] / scale + ridge * pull * old_weight
    # Jacobi scaling: features differ by orders of magnitude, and float32 Cholesky keeps 1e-6 only once they do not.
    root = jax.lax.rsqrt(jnp.maximum(jnp.diag(system), 1e-30))
    factor = jax.scipy.linalg.cho_factor(system * root[:, None] * root[None, :], lower=True)
    weight = jax.scipy.linalg.cho_solve(factor, right * root[:, None]) * root[:, None]
    weight = weight * present[:, None]
    bias = target - mean @ weight if intercept else old_bias
    pivots = jnp.diag(factor[0]) ** 2 / jnp.maximum(jnp.diag(system) * root**2, 1e-30)
    loose = jnp.sum((pivots < 1e-5) * present)
    return Refit(
        weight,
        bias,
        (jnp.sum(present) - loose).astype(jnp.int32),
        loss(normal, weight, bias),
        loss(normal, old_weight, old_bias),
    )


def solve_scales(
    normal: Normal,
    present: Float[Array, " n"],
    weight: Float[Array, "n hidden"],
    bias: Float[Array, " hidden"],
    ridge: Float[Array, ""] | float,
    width: int,
) -> Refit:
    """One factor per unit of `width` features instead of new weights; the ridge shrinks towards 1.

    The mask rescaling of Kwon et al. (NeurIPS 2022, section 4.3), by normal equations: with u the units' outputs,
    minimise Σ ω |Σ_i s_i u_i + b - r|².
    """
    units = weight.shape[0] // width
    weight = weight * present[:, None]
    there = present[::width]
    pairs = normal.gram * jnp.matmul(weight, weight.T, precision="highest")
    gram = pairs.reshape(units, width, units, width).sum((1, 3))
    reach = weight * (normal.cross - jnp.outer(normal.mean, bias))
    right = reach.sum(1).reshape(units, width).sum(1)
    scale = jnp.maximum(jnp.sum(jnp.diag(gram)) / jnp.maximum(jnp.sum(there), 1), 1e-30)
    system = gram / scale + jnp.diag(ridge * there + (1 - there))
    scales = jnp.linalg.solve(system, right / scale + ridge * there) * there
    fitted = weight * jnp.repeat(scales, width)[:, None]
    rank = jnp.sum(present).astype(jnp.int32)
    return Refit(fitted, bias, rank, loss(normal, fitted, bias), loss(normal, weight, bias))


def loss(normal: Normal, weight: Float[Array, "n hidden"], bias: Float[Array, " hidden"]) -> Float[Array, ""]:
    """Relative squared error of `weight` and `bias` on the tokens summed into `normal`."""
    quadratic = jnp.sum(weight * jnp.matmul(normal.gram, weight, precision="highest"))
    linear = jnp.sum(weight * normal.cross)
    shift = 2 * bias @ (normal.mean @ weight - normal.target) + normal.count * jnp.sum(bias**2)
    return jnp.maximum(quadratic - 2 * linear + shift + normal.energy, 0) / jnp.maximum(normal.energy, 1e-30)

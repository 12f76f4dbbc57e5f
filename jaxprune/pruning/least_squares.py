"""Least squares for a sublayer's output weights: the pruned stream is made to follow the dense one."""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import cho_factor, cho_solve, get_lapack_funcs

from ..errors import NumericalError
from .gram import add_gram, whole


class Normal(NamedTuple):
    """Weighted sums over tokens from which least-squares weights follow; f the features, r the target."""

    gram: Float[Any, "n n"]  # Σ ω f fᵀ, its upper part (`gram.whole`)
    cross: Float[Any, "n hidden"]  # Σ ω f rᵀ
    mean: Float[Any, " n"]  # Σ ω f
    target: Float[Any, " hidden"]  # Σ ω r
    energy: Float[Any, ""]  # Σ ω |r|²
    count: Float[Any, ""]  # Σ ω
    tokens: Float[Any, ""]  # how many of ω > 0


def empty_normal(n: int, hidden: int) -> Normal:
    zeros = partial(np.zeros, dtype=np.float32)
    return Normal(zeros((n, n)), zeros((n, hidden)), zeros(n), zeros(hidden), zeros(()), zeros(()), zeros(()))


def accumulate(
    normal: Normal,
    features: Float[Array, "rows length n"],
    target: Float[Array, "rows length hidden"],
    weight: Float[Array, "rows length"],
) -> Normal:
    """Add one batch of tokens; float32 at the highest matmul precision."""
    features, target = (value.reshape(weight.size, value.shape[-1]) for value in (features, target))
    exact = partial(jnp.matmul, precision="highest")
    flat_weight = weight.reshape(-1)
    weighted = (features * flat_weight[:, None]).T
    return Normal(
        add_gram(normal.gram, features, flat_weight),
        normal.cross + exact(weighted, target),
        normal.mean + jnp.sum(weighted, axis=1),
        normal.target + exact(flat_weight, target),
        normal.energy + exact(flat_weight, jnp.sum(target**2, axis=1)),
        normal.count + jnp.sum(flat_weight),
        normal.tokens + jnp.sum(flat_weight > 0),
    )


class Refit(NamedTuple):
    weight: Float[np.ndarray, "n hidden"]
    bias: Float[np.ndarray, " hidden"]
    rank: int  # of the features; below their number: the calibration texts leave a direction undetermined
    residual: float  # Σ ω |f W + b - r|² / Σ ω |r|², dimensionless; 0 is a perfect fit
    before: float  # the same with the old weights


UNDETERMINED = 1e-6  # a feature's variance given the others, relative to its own: about what float32 sums resolve
HARDLY = 1e-5  # a feature's variance relative to its mean square, below which float32 sums cannot tell it from none
# Of so many features, what only the report reads (rank, the old weights' loss) is exact. Of more it is estimated: to be
# exact would take nearly as long as the solution.
EXACT = 2048
PROBES = 64  # directions of the output on which the old weights' loss is estimated; its rise is then right to about 5 %


def first_features(normal: Normal, count: int) -> Normal:
    """The sums of the first `count` features only, in float64 on the host, where the solves are done.

    The systems are small, differ in size from sublayer to sublayer, and are solved once: compiling a program for each
    size takes longer than LAPACK takes for all of them.
    """
    gram = whole(np.asarray(normal.gram)[:count, :count]).astype(np.float64)
    cross, mean, *rest = (np.asarray(leaf, np.float64) for leaf in normal[1:])
    return Normal(gram, cross[:count], mean[:count], *rest)


def solve(
    normal: Normal,
    old_weight: Float[np.ndarray, "n hidden"],
    old_bias: Float[np.ndarray, " hidden"],
    ridge: float,
    pull: float,
    intercept: bool,
) -> Refit:
    """Weights that minimise Σ ω |f W + b - r|² + ridge · Σ_i var(f_i) |W_i - pull · W_old,i|², solved in float64.

    `ridge` is in tokens: what is known beforehand weighs as much as so many tokens on which features were independent
    of each other and `pull` · W_old was right. Few calibration tokens are thus trusted less than many. `pull` 1 shrinks
    towards the old weights, 0 towards none. With `intercept` the bias is fitted too (closed form, by centring); else
    it stays. Raises `NumericalError` where features determine each other and the ridge is too small to choose.
    Source: K-prune section 3.3 (ridge, pull, token weights and intercept are ours).
    """
    normal = first_features(normal, len(old_weight))
    old_weight, old_bias = np.asarray(old_weight, np.float64), np.asarray(old_bias, np.float64)
    count = np.maximum(normal.count, 1e-30)
    mean, target = normal.mean / count, normal.target / count
    shift = target if intercept else old_bias
    cross = normal.cross / count - np.outer(mean, shift)
    gram = normal.gram  # ours, and in place from here on: fresh memory of its size takes longer than the sums
    gram /= count
    seen = np.diag(gram).copy()  # mean squares
    if intercept:
        gram -= np.outer(mean, mean)
    variance = np.diag(gram).copy()
    # In units of each feature's spread: they differ by orders of magnitude, and so would the pivots that tell the rank.
    spread = np.sqrt(np.maximum(variance, HARDLY * seen + 1e-30))[:, None]
    gram /= spread
    gram /= spread.T
    alone, penalty = gram, ridge / count
    right = cross / spread + penalty * pull * old_weight * spread
    scaled = _positive_solve(_shifted(alone, penalty), right)  # weights in these units
    weight = scaled / spread
    bias = target - mean @ weight if intercept else old_bias
    # What is left, in closed form: where the gradient of ½ tr(Vᵀ A V) - tr(Vᵀ c) + ½ λ |V - V_old|² vanishes, A V is
    # known without a product.
    reach = right - penalty * scaled
    energy = normal.energy / count - 2 * shift @ target + shift @ shift
    left = np.sum(scaled * (reach - 2 * (cross / spread))) + energy
    change = old_weight * spread - scaled
    rise = 2 * np.sum(change * (reach - cross / spread)) + _quadratic(alone, change)
    if intercept:  # the old bias misses the mean
        rise += np.sum((mean @ old_weight + old_bias - target) ** 2)
    total = max(float(normal.energy / count), 1e-30)
    return Refit(
        weight.astype(np.float32),
        bias.astype(np.float32),
        _rank(alone, variance, int(normal.tokens) - intercept),
        max(float(left), 0.0) / total,
        max(float(left + rise), 0.0) / total,
    )


def _quadratic(matrix: np.ndarray, change: np.ndarray) -> float:
    """tr(Cᵀ A C): exact, or of many features the mean over random combinations of the columns of C (Hutchinson)."""
    if len(matrix) > EXACT and change.shape[1] > PROBES:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (change.shape[1], PROBES))
        change = change @ signs / np.sqrt(PROBES)
    narrow = change.astype(np.float32)  # precise enough for a report
    return float(np.sum(narrow * (matrix.astype(np.float32) @ narrow)))


def _shifted(matrix: np.ndarray, by: float) -> np.ndarray:
    """A copy with `by` added to the diagonal."""
    out = matrix.copy()
    out[np.diag_indices_from(out)] += by
    return out


def _positive_solve(system: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The solution for a symmetric `system`, which is overwritten."""
    if not system.size:
        return right
    if not np.isfinite(system).all() or not np.isfinite(right).all():
        raise NumericalError("NaN or Inf in the sums of the refit; check the checkpoint's weights.")
    try:
        # LAPACK reads columns: of the transpose, which is the same matrix, it needs no copy.
        return cho_solve(cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False), right)
    except np.linalg.LinAlgError as error:
        raise NumericalError(
            f"the refit of {len(system)} features has no unique solution; raise the ridge, or calibrate on more texts."
        ) from error


def _rank(correlations: np.ndarray, variance: np.ndarray, tokens: int) -> int:
    """The rank of the features: at most as many as vary, and as there are tokens.

    Where that leaves it full, Cholesky's factor of what exceeds `UNDETERMINED` shows that it is (exists), or its factor
    with pivots says how much less; of many features neither is worked out.
    """
    n = len(correlations)
    most = min(int(np.sum(variance > UNDETERMINED * np.max(variance, initial=0.0))), max(tokens, 0))
    if most < n or n > EXACT or not n:
        return most
    factored, pivoted = get_lapack_funcs(("potrf", "pstrf"), (correlations,))
    if factored(_shifted(correlations, -UNDETERMINED).T, lower=True, overwrite_a=True)[-1] == 0:
        return n
    return int(pivoted(correlations.T, tol=UNDETERMINED)[-2])


def solve_scales(
    normal: Normal,
    weight: Float[np.ndarray, "n hidden"],
    bias: Float[np.ndarray, " hidden"],
    ridge: float,
    units: int,
) -> Refit:
    """One factor for each of `units` equal units instead of new weights; the ridge, in tokens, shrinks towards 1.

    The mask rescaling of Kwon et al. (NeurIPS 2022, section 4.3), by normal equations: with u the units' outputs,
    minimise Σ ω |Σ_i s_i u_i + b - r|².
    """
    normal = first_features(normal, len(weight))
    weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    width = len(weight) // max(units, 1)
    pairs = normal.gram * (weight @ weight.T)
    gram = pairs.reshape(units, width, units, width).sum((1, 3))
    reach = weight * (normal.cross - np.outer(normal.mean, bias))
    right = reach.reshape(units, width * reach.shape[1]).sum(1)
    scale = max(float(np.mean(np.diag(gram))) if units else 0.0, 1e-30)
    penalty = ridge / max(float(normal.count), 1e-30)
    scales = _positive_solve(_shifted(gram / scale, penalty), right / scale + penalty)
    fitted = weight * np.repeat(scales, width)[:, None]
    before, after = squared_error(normal, weight, bias), squared_error(normal, fitted, bias)
    return Refit(fitted.astype(np.float32), bias.astype(np.float32), len(weight), after, before)


def squared_error(normal: Normal, weight: Float[np.ndarray, "n hidden"], bias: Float[np.ndarray, " hidden"]) -> float:
    """Relative squared error of `weight` and `bias` on the tokens summed into `normal`."""
    reach = np.asarray(normal.gram, np.float32) @ np.asarray(weight, np.float32)  # precise enough for a report
    quadratic = np.sum(weight * reach) - 2 * np.sum(weight * normal.cross)
    shift = 2 * bias @ (normal.mean @ weight - normal.target) + normal.count * np.sum(bias**2)
    return max(float(quadratic + shift + normal.energy), 0.0) / max(float(normal.energy), 1e-30)

"""Optimal brain surgeon for structures: in which order a sublayer's units should go, and the damage after a refit.

Removing features u and re-fitting the rest costs tr(W_uᵀ [G⁻¹]_uu⁻¹ W_u), with G the Gram matrix of the features and W
their output weights in a metric in which squared change is damage (Hassibi & Stork 1993; ZipLM, Kurtić et al. 2023).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import NumericalError
from .allocation import Curve

LEAF = 512  # rows of a triangle that is inverted in one piece
COLUMN_BLOCKS = 4  # of columns, in the product of a triangle with its transpose


def positive_inverse(gram: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The inverse of a positive definite matrix; NaN where it is none.

    By Cholesky's factor, of whose inverse only what is not zero is multiplied: half the work of a general inverse.
    """
    n = len(gram)
    lower = _triangular_inverse(jnp.linalg.cholesky(gram))
    upper, size = jnp.zeros_like(gram), max(-(-n // COLUMN_BLOCKS), 1)
    for first in range(0, n, size):
        rows, columns = lower[first:, : first + size].T, lower[first:, first : first + size]
        upper = upper.at[: first + size, first : first + size].set(jnp.matmul(rows, columns, precision="highest"))
    return jnp.triu(upper) + jnp.triu(upper, 1).T


def _triangular_inverse(lower: Float[Array, "n n"]) -> Float[Array, "n n"]:
    n = len(lower)
    if n <= LEAF:
        return jax.scipy.linalg.solve_triangular(lower, jnp.eye(n, dtype=lower.dtype), lower=True)
    half = n // 2
    first, last = _triangular_inverse(lower[:half, :half]), _triangular_inverse(lower[half:, half:])
    between = -jnp.matmul(last, jnp.matmul(lower[half:, :half], first, precision="highest"), precision="highest")
    return jnp.block([[first, jnp.zeros((half, n - half), lower.dtype)], [between, last]])


@partial(jax.jit, static_argnames="chunk")
def eliminate_neurons(
    gram: Float[Array, "n n"], weight: Float[Array, "n hidden"], chunk: int
) -> tuple[Int[Array, " steps"], Float[Array, " steps"]]:
    """Optimal brain surgeon over single features: remove the cheapest, re-fit the rest, repeat.

    `gram` must be positive definite; `weight` are the output weights, in a metric in which squared change is damage.
    Removing feature i and re-fitting the rest costs w_iᵀ w_i / [G⁻¹]_ii. The next `chunk` features come from a
    shortlist of the 2·chunk cheapest, chosen one by one with exact inverse and weights (`_choose`); the large matrices
    are updated once per chunk. Returns the order of removal and each step's damage; steps beyond the last feature (n is
    no multiple of `chunk`) are marked -1.
    """
    n = gram.shape[0]
    short = min(2 * chunk, n)

    def body(state, _):
        # Rows and columns of features that have gone hold rounding errors: they are masked wherever they are read.
        inverse, weight, alive = state
        cost = jnp.where(alive, jnp.sum(weight**2, axis=1) / jnp.diag(inverse), jnp.inf)
        _, shortlist = jax.lax.top_k(-cost, short)
        near = alive[shortlist]
        rows = weight[shortlist] * near[:, None]
        inner = jnp.matmul(rows, rows.T, precision="highest")
        chosen, damage = _choose(inverse[shortlist][:, shortlist], inner, near, chunk)
        gone = shortlist[chosen]
        # The last chunk may choose features that went before; they are marked and change nothing.
        fresh = alive[gone] & jnp.isfinite(damage)
        columns = inverse[gone]  # its rows, as it is symmetric
        block = jnp.where(fresh[:, None] & fresh[None, :], columns[:, gone], jnp.eye(chunk))
        columns = columns * fresh[:, None]
        solved = jax.scipy.linalg.solve(block, columns, assume_a="pos")  # [chunk, n]
        weight = weight - jnp.matmul(solved.T, weight[gone] * fresh[:, None], precision="highest")
        inverse = inverse - jnp.matmul(columns.T, solved, precision="highest")
        return (inverse, weight, alive.at[gone].set(False)), (
            jnp.where(fresh, gone, -1),
            jnp.where(fresh, damage, 0.0),
        )

    steps = -(-n // chunk)
    half = max(min(steps // 2, (n - short) // chunk), 0)  # after which the second half works on smaller matrices
    state = positive_inverse(gram), weight, jnp.ones(n, bool)
    (inverse, weight, alive), (order, damage) = jax.lax.scan(body, state, None, length=half)
    left = jnp.argsort(~alive, stable=True)[: n - half * chunk]
    state = inverse[left][:, left], weight[left], alive[left]
    _, (later, more) = jax.lax.scan(body, state, None, length=steps - half)
    later = jnp.where(later >= 0, left[later], -1)
    return jnp.concatenate([order, later]).reshape(-1), jnp.concatenate([damage, more]).reshape(-1)


def _choose(
    inverse: Float[Array, "short short"], inner: Float[Array, "short short"], alive: Bool[Array, " short"], count: int
) -> tuple[Int[Array, " count"], Float[Array, " count"]]:
    """The `count` features of a shortlist that should go, one by one, and each one's damage.

    `inner` is w wᵀ of their weights. With c = [G⁻¹]_:b / [G⁻¹]_bb the removal of b takes [G⁻¹]_bb c cᵀ from the inverse
    and a cᵀ + c aᵀ from the inner products, a = (w wᵀ)_:b - ½ |w_b|² c (as w_i becomes w_i - c_i w_b). Only these
    vectors are kept, and the diagonals: a column of what is left is worked out when its feature goes.
    """

    exact = partial(jnp.matmul, precision="highest")

    def pick(state, step):
        taken, halves, columns, diagonal, energy, alive = state  # the first three: [count, short]
        cost = jnp.where(alive, energy / diagonal, jnp.inf)
        best = jnp.argmin(cost)
        column = inverse[best] - exact(taken[:, best], columns)
        pivot = column[best]
        column = jnp.where(alive, column / pivot, 0.0)
        mutual = inner[best] - exact(halves[:, best], columns) - exact(columns[:, best], halves)
        halved = jnp.where(alive, mutual - 0.5 * mutual[best] * column, 0.0)
        state = (
            taken.at[step].set(pivot * column),
            halves.at[step].set(halved),
            columns.at[step].set(column),
            diagonal - pivot * column**2,
            energy - 2 * halved * column,
            alive.at[best].set(False),
        )
        return state, (best, cost[best])

    none = jnp.zeros((count, len(alive)))
    start = none, none, none, jnp.diag(inverse), jnp.diag(inner), alive
    return jax.lax.scan(pick, start, jnp.arange(count))[1]


def eliminate_heads(
    gram: Float[np.ndarray, "n n"],
    weight: Float[np.ndarray, "n hidden"],
    groups: int,
    queries: int = 1,
    prices: tuple[int, int] = (1, 0),
) -> Curve:
    """As `eliminate_neurons` for heads, units of several features: damage tr(W_uᵀ [G⁻¹]_uu⁻¹ W_u).

    With `queries` above 1 a step removes a key-value group, or the cheapest query head of every group: whichever costs
    less damage for its price, `prices` being those of a query head and of a group's keys and values. Groups of a layer
    thus stay alike. On the host: a dozen steps on small matrices take less time than compiling them.
    """
    width = len(gram) // (groups * queries)
    inverse, weight = np.linalg.inv(gram), np.asarray(weight)
    left, gone, damage, whole = np.arange(groups * queries).reshape(groups, queries), [], [0.0], []
    while left.size:
        group = int(np.argmin(_alone(inverse, weight, len(left))))
        chosen = np.zeros(left.shape, bool)
        chosen[group] = True
        best = _Step(inverse, weight, chosen, width)
        if left.shape[1] > 1:
            heads = _alone(inverse, weight, left.size).reshape(left.shape)
            slim = _Step(inverse, weight, np.arange(left.shape[1]) == np.argmin(heads, axis=1)[:, None], width)
            dear = left.shape[1] * prices[0] + prices[1]
            if slim.damage / (len(left) * prices[0]) < best.damage / dear:
                best = slim
        whole.append(int(best.chosen.all(axis=1).sum()))
        gone.append(left[best.chosen])
        damage.append(best.damage)
        inverse, weight = best.rest()
        remaining = left[~best.chosen]
        left = remaining.reshape(len(left) - whole[-1], -1) if remaining.size else remaining.reshape(0, 1)
    total = np.cumsum(np.maximum(damage, 0))
    sizes = None if queries == 1 else np.array([len(heads) for heads in gone])
    return Curve(np.concatenate(gone), total, sizes, None if sizes is None else np.array(whole))


def _alone(inverse: np.ndarray, weight: np.ndarray, blocks: int) -> np.ndarray:
    """The damage of removing each of `blocks` equal blocks of features, [blocks]."""
    width = len(inverse) // blocks
    diagonal = np.einsum("uaub->uab", inverse.reshape(blocks, width, blocks, width))
    weight = weight.reshape(blocks, width, -1)
    # tr(Wᵀ D⁻¹ W) as tr(D⁻¹ W Wᵀ): a system of `width` right sides in place of one a direction of the output.
    return np.trace(np.linalg.solve(diagonal, weight @ weight.transpose(0, 2, 1)), axis1=1, axis2=2)


class _Step:
    """The removal of the chosen heads, [groups, queries] flags, and what it does to the inverse and the weights."""

    def __init__(self, inverse: np.ndarray, weight: np.ndarray, chosen: np.ndarray, width: int):
        self.inverse, self.weight, self.chosen = inverse, weight, chosen
        self.rows = np.repeat(chosen.reshape(-1), width)
        self.block = inverse[self.rows][:, self.rows]
        self.damage = float(np.sum(weight[self.rows] * np.linalg.solve(self.block, weight[self.rows])))

    def rest(self) -> tuple[np.ndarray, np.ndarray]:
        """Inverse Gram matrix and re-fitted weights of the heads that are left."""
        stay = ~self.rows
        shift = np.linalg.solve(self.block, self.inverse[self.rows][:, stay])
        inverse = self.inverse[stay][:, stay] - self.inverse[stay][:, self.rows] @ shift
        return inverse, self.weight[stay] - shift.T @ self.weight[self.rows]


def curve(order: Any, damage: Any, units: int) -> Curve:
    """A curve on the host, from what `eliminate_neurons` returned."""
    order_np, damage_np = np.asarray(order), np.asarray(damage, np.float64)
    there = order_np >= 0
    if there.sum() != units:
        raise NumericalError(
            f"the elimination ended after {int(there.sum())} of {units} units: the Gram matrix is too ill-conditioned "
            "for float32; raise elimination_ridge or calibrate on more texts."
        )
    return Curve(order_np[there], np.concatenate([[0.0], np.cumsum(np.maximum(damage_np[there], 0))]))

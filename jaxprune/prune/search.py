"""Which units go: elimination curves inside a sublayer, and one threshold across sublayers."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import BudgetError, NumericalError


class Curve(NamedTuple):
    """A sublayer's units in the order in which they should go, and what that costs."""

    order: np.ndarray  # [units] of integers: first to go first
    damage: np.ndarray  # [units + 1]: predicted damage after the first k have gone and the rest was re-fitted


def keep_mask(scores: np.ndarray, costs: np.ndarray, allowed: int) -> np.ndarray:
    """The units with the highest scores whose costs fit into `allowed`; ties go by index.

    One sort and one cumulative sum. Stops at the first unit that does not fit, so that a larger budget never drops a
    unit and no kept unit scores below a removed one.
    """
    order = np.argsort(-scores, kind="stable")
    fits = np.cumsum(costs[order]) <= allowed
    mask = np.zeros(len(scores), bool)
    mask[order[: int(np.argmin(fits)) if not fits.all() else len(order)]] = True
    return mask


def threshold_mask(scores: np.ndarray, costs: np.ndarray, allowed: int) -> np.ndarray:
    """As `keep_mask`, but units at the threshold go (the published rule): ties with it leave budget unused."""
    mask = keep_mask(scores, costs, allowed)
    if mask.all():
        return mask
    return scores > np.max(scores[~mask])


def score_curve(scores: np.ndarray) -> Curve:
    """The curve of units whose damages add up: the lowest score goes first."""
    order = np.argsort(scores, kind="stable")
    return Curve(order, np.concatenate([[0.0], np.cumsum(np.asarray(scores, np.float64)[order])]))


def uniform_masks(
    curves: Sequence[Curve],
    costs: Sequence[int],
    allowed: int,
    round_to: int = 1,
    keep_heads: bool = False,
    preferred: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """Masks with as many heads and as many neurons in every layer, those of least damage that fit into `allowed`.

    Curves and costs are per sublayer, bottom up; every layer must have the same sizes to begin with. At least one head
    and `round_to` neurons stay in a layer, neurons in multiples of `round_to`. Where a number of heads in `preferred`
    fits, no other is taken. Raises `BudgetError` where nothing fits, or where layers differ.
    """
    sizes = {(len(heads.order), len(neurons.order)) for heads, neurons in zip(curves[::2], curves[1::2], strict=True)}
    if len(sizes) != 1:
        raise BudgetError("uniform needs a model whose layers are all alike; start from the dense one.")
    ((heads, neurons),) = sizes
    depth, best = len(curves) // 2, (np.inf, 0, 0)
    numbers = range(heads if keep_heads else 1, heads + 1)
    for candidates in ([] if preferred is None else [kept for kept in numbers if kept in preferred], numbers):
        for kept in candidates:
            room = allowed // depth - kept * costs[0]
            fitting = min(max(room, 0) // costs[1], neurons) // round_to * round_to
            if not fitting:
                continue
            damage = sum(float(curve.damage[heads - kept]) for curve in curves[::2])
            damage += sum(float(curve.damage[neurons - fitting]) for curve in curves[1::2])
            best = min(best, (damage, kept, fitting))
        if best[1]:
            break
    if not best[1]:
        raise BudgetError(
            f"no heads with at least {round_to} neurons in each of {depth} layers fit into the budget; remove less."
        )
    masks = []
    for index, curve in enumerate(curves):
        mask = np.ones(len(curve.order), bool)
        mask[curve.order[: len(mask) - best[1 + index % 2]]] = False
        masks.append(mask)
    return masks


def psd_root(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """A with A Aᵀ = matrix, for a positive semidefinite matrix; a millionth of its mean diagonal is added.

    More, where fewer tokens than dimensions were seen: rounding then leaves eigenvalues well below zero.
    """
    matrix, n = np.asarray(matrix, np.float64), len(matrix)
    mean = max(float(np.trace(matrix)) / max(n, 1), 1e-30)
    for share in (1e-6, 1e-5, 1e-4, 1e-3):
        with suppress(np.linalg.LinAlgError):
            return np.linalg.cholesky(matrix + share * mean * np.eye(n)).astype(np.float32)
    raise NumericalError("the gradients' second moments are not positive semidefinite; calibrate on more texts.")


@partial(jax.jit, static_argnames="chunk")
def eliminate_neurons(
    gram: Float[Array, "n n"], weight: Float[Array, "n hidden"], chunk: int
) -> tuple[Int[Array, " steps"], Float[Array, " steps"]]:
    """Optimal brain surgeon over single features: remove the cheapest, re-fit the rest, repeat.

    `gram` must be positive definite; `weight` are the output weights, in a metric in which squared change is damage.
    Removing feature i and re-fitting the rest costs w_iᵀ w_i / [G⁻¹]_ii (Hassibi & Stork 1993; ZipLM, Kurtić et al.
    2023, for structures). The next `chunk` features come from a shortlist of the 2·chunk cheapest, chosen one by one
    with the shortlist's inverse and weights kept exact; the large matrices are updated once per chunk. Returns the
    order of removal and each step's damage; steps beyond the last feature (n is no multiple of `chunk`) are marked -1.
    """
    n = gram.shape[0]
    short = min(2 * chunk, n)

    def pick(state, _):
        inverse, cross, alive = state  # of the shortlist: inverse Gram, w wᵀ, still there
        cost = jnp.where(alive, jnp.diag(cross) / jnp.diag(inverse), jnp.inf)
        best = jnp.argmin(cost)
        column = inverse[:, best] / inverse[best, best]
        # w_i -= column_i w_best, hence w wᵀ loses two rank-one terms and gains one.
        cross = cross - jnp.outer(column, cross[best]) - jnp.outer(cross[:, best], column)
        cross = cross + jnp.outer(column, column) * state[1][best, best]
        inverse = inverse - jnp.outer(inverse[:, best], inverse[best]) / state[0][best, best]
        alive = alive.at[best].set(False)
        keep = alive[:, None] & alive[None, :]
        inverse = jnp.where(keep, inverse, jnp.eye(short))
        return (inverse, jnp.where(keep, cross, 0.0), alive), (best, cost[best])

    def body(state, _):
        inverse, weight, alive = state
        cost = jnp.where(alive, jnp.sum(weight**2, axis=1) / jnp.diag(inverse), jnp.inf)
        _, shortlist = jax.lax.top_k(-cost, short)
        near = alive[shortlist]
        pairs = near[:, None] & near[None, :]
        small = jnp.where(pairs, inverse[shortlist][:, shortlist], jnp.eye(short))
        rows = weight[shortlist] * near[:, None]
        _, (chosen, damage) = jax.lax.scan(pick, (small, rows @ rows.T, near), None, length=chunk)
        gone = shortlist[chosen]
        # The last chunk may choose features that went before; they are marked and change nothing.
        fresh = alive[gone] & jnp.isfinite(damage)
        block = jnp.where(fresh[:, None] & fresh[None, :], inverse[gone][:, gone], jnp.eye(chunk))
        columns = inverse[:, gone] * fresh
        solved = jax.scipy.linalg.solve(block, columns.T, assume_a="pos")  # [chunk, n]
        weight = weight - solved.T @ (weight[gone] * fresh[:, None])
        inverse = inverse - columns @ solved
        alive = alive.at[gone].set(False)
        both = alive[:, None] & alive[None, :]
        inverse = jnp.where(both, inverse, jnp.eye(len(alive)))
        weight = jnp.where(alive[:, None], weight, 0.0)
        return (inverse, weight, alive), (jnp.where(fresh, gone, -1), jnp.where(fresh, damage, 0.0))

    steps = -(-n // chunk)
    half = max(min(steps // 2, (n - short) // chunk), 0)  # after which the second half works on smaller matrices
    state = jnp.linalg.inv(gram), weight, jnp.ones(n, bool)
    (inverse, weight, alive), (order, damage) = jax.lax.scan(body, state, None, length=half)
    left = jnp.argsort(~alive, stable=True)[: n - half * chunk]
    state = inverse[left][:, left], weight[left], alive[left]
    _, (later, more) = jax.lax.scan(body, state, None, length=steps - half)
    later = jnp.where(later >= 0, left[later], -1)
    return jnp.concatenate([order, later]).reshape(-1), jnp.concatenate([damage, more]).reshape(-1)


def eliminate_groups(
    gram: Float[np.ndarray, "n n"], weight: Float[np.ndarray, "n hidden"], units: int
) -> tuple[Int[np.ndarray, " units"], Float[np.ndarray, " units"]]:
    """As `eliminate_neurons` for units of several features each (a head): damage tr(W_uᵀ [G⁻¹]_uu⁻¹ W_u).

    On the host: a dozen steps on small matrices take less time than compiling them.
    """
    width = len(gram) // units
    inverse = np.linalg.inv(gram).reshape(units, width, units, width)
    weight = weight.reshape(units, width, -1)
    left, order, damage = np.arange(units), [], []
    while len(left):
        blocks = np.einsum("uaub->uab", inverse)
        costs = np.sum(weight * np.linalg.solve(blocks, weight), axis=(1, 2))
        best = int(np.argmin(costs))
        order.append(left[best])
        damage.append(costs[best])
        shift = np.linalg.solve(blocks[best], inverse[best].reshape(width, -1)).reshape(width, -1, width)
        weight = weight - np.einsum("avb,ah->vbh", shift, weight[best])
        inverse = inverse - np.einsum("uac,cvb->uavb", inverse[:, :, best], shift, optimize=True)
        left, weight = np.delete(left, best), np.delete(weight, best, axis=0)
        inverse = np.delete(np.delete(inverse, best, axis=0), best, axis=2)
    return np.array(order), np.array(damage)


def curve(order: Any, damage: Any, units: int) -> Curve:
    """A curve on the host, from what an elimination returned."""
    order_np, damage_np = np.asarray(order), np.asarray(damage, np.float64)
    there = order_np >= 0
    if there.sum() != units:
        raise NumericalError(
            f"the elimination ended after {int(there.sum())} of {units} units: the Gram matrix is too ill-conditioned "
            "for float32; raise elimination_ridge or calibrate on more texts."
        )
    return Curve(order_np[there], np.concatenate([[0.0], np.cumsum(np.maximum(damage_np[there], 0))]))


def slopes(damage: np.ndarray) -> np.ndarray:
    """Damage per step along the lower convex hull of a curve: never falling, so that thresholds cut it once."""
    hull = [0]
    for point in range(1, len(damage)):
        while len(hull) > 1 and (damage[hull[-1]] - damage[hull[-2]]) * (point - hull[-1]) >= (
            damage[point] - damage[hull[-1]]
        ) * (hull[-1] - hull[-2]):
            hull.pop()
        hull.append(point)
    out = np.empty(len(damage) - 1)
    for first, last in zip(hull[:-1], hull[1:], strict=True):
        out[first:last] = (damage[last] - damage[first]) / (last - first)
    return out


def allocate(curves: Sequence[Curve], costs: Sequence[int], allowed: int) -> list[np.ndarray]:
    """Masks for all sublayers (true keeps) that fit `allowed` at the least total damage the curves predict.

    `costs` is the cost of one unit, per sublayer. Damage per cost along each curve's lower convex hull, one global
    threshold: optimal for the hulls (Lagrangian relaxation of the knapsack).
    """
    scores = np.concatenate([slopes(c.damage) / cost for c, cost in zip(curves, costs, strict=True)])
    unit_costs = np.concatenate([np.full(len(c.order), cost) for c, cost in zip(curves, costs, strict=True)])
    keep = keep_mask(scores, unit_costs, allowed)
    masks, at = [], 0
    for c in curves:
        # Steps of one hull segment tie, so count how many go rather than read off which: the first of the order do.
        gone = int(np.sum(~keep[at : at + len(c.order)]))
        mask = np.ones(len(c.order), bool)
        mask[c.order[:gone]] = False
        masks.append(mask)
        at += len(c.order)
    return masks

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
    """A sublayer's units in the order in which they should go, and what that costs.

    One unit a step; or, where query heads leave key-value groups, those that go together: a group with all its query
    heads, or one query head of every group that is left.
    """

    order: np.ndarray  # [units] of integers: first to go first
    damage: np.ndarray  # [steps + 1]: predicted damage after the first k steps and the refit of the rest
    sizes: np.ndarray | None = None  # [steps]: how many units go at each; None: one
    groups: np.ndarray | None = None  # [steps]: how many key-value groups go whole with them; None: a unit is one

    def mask(self, steps: int) -> np.ndarray:
        """The units that stay after so many steps, [units]."""
        out = np.ones(len(self.order), bool)
        out[self.order[: steps if self.sizes is None else int(np.sum(self.sizes[:steps]))]] = False
        return out

    def steps(self, mask: np.ndarray) -> int:
        """How many steps lead to a mask; the inverse of `mask`."""
        gone = int(np.sum(~mask))
        return gone if self.sizes is None else int(np.searchsorted(np.cumsum(self.sizes), gone, side="right"))


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
    units = [len(curve.order) for curve in curves]
    if len(set(zip(units[::2], units[1::2], costs[::2], costs[1::2], strict=True))) != 1:
        raise BudgetError("uniform needs a model whose layers are all alike; start from the dense one.")
    heads, neurons = units[:2]
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
    kept = best[1:]
    return [curve.mask(len(curve.order) - kept[index % 2]) for index, curve in enumerate(curves)]


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
    return np.sum(weight * np.linalg.solve(diagonal, weight), axis=(1, 2))


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


def slopes(damage: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Damage per cost along the lower convex hull of a curve: never falling, so that thresholds cut it once.

    `damage` [steps + 1] after each step, `costs` [steps] what each saves. Returns [steps].
    """
    at, hull = np.concatenate([[0], np.cumsum(costs)]), [0]
    for point in range(1, len(damage)):
        while len(hull) > 1 and (damage[hull[-1]] - damage[hull[-2]]) * (at[point] - at[hull[-1]]) >= (
            damage[point] - damage[hull[-1]]
        ) * (at[hull[-1]] - at[hull[-2]]):
            hull.pop()
        hull.append(point)
    out = np.empty(len(damage) - 1)
    for first, last in zip(hull[:-1], hull[1:], strict=True):
        out[first:last] = (damage[last] - damage[first]) / (at[last] - at[first])
    return out


def allocate(curves: Sequence[Curve], costs: Sequence[np.ndarray], allowed: int) -> list[np.ndarray]:
    """Masks for all sublayers (true keeps) that fit `allowed` at the least total damage the curves predict.

    `costs` is what every step of a curve saves, per sublayer. Damage per cost along each curve's lower convex hull, one
    global threshold: optimal for the hulls (Lagrangian relaxation of the knapsack).
    """
    scores = np.concatenate([slopes(c.damage, saved) for c, saved in zip(curves, costs, strict=True)])
    keep = keep_mask(scores, np.concatenate(costs), allowed)
    # Steps of one hull segment tie, so count how many go rather than read off which: the first of the order do.
    ends = np.cumsum([len(saved) for saved in costs])[:-1]
    return [c.mask(int(np.sum(~kept))) for c, kept in zip(curves, np.split(keep, ends), strict=True)]

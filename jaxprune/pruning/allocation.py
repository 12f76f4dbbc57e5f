"""Which units go: curves of damage inside a sublayer, and one threshold across sublayers."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..errors import BudgetError, NumericalError
from ..model.architecture import ATTENTION, FEED_FORWARD, HALVES, Architecture
from .cut import Mask

ROUNDING = 1e-3  # of the largest eigenvalue: further below zero no rounding brings one


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
    architecture: Architecture,
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
    by_half = {half: architecture.of_half(half, list(zip(curves, costs, strict=True))) for half in HALVES}
    sizes = {half: {(len(curve.order), cost) for curve, cost in pairs} for half, pairs in by_half.items()}
    if any(len(different) != 1 for different in sizes.values()):
        raise BudgetError("uniform needs a model whose layers are all alike; start from the dense one.")
    (heads, head_cost), (neurons, neuron_cost) = (next(iter(sizes[half])) for half in HALVES)
    depth, best = len(architecture.layers), (np.inf, 0, 0)
    numbers = range(heads if keep_heads else 1, heads + 1)
    for candidates in ([] if preferred is None else [kept for kept in numbers if kept in preferred], numbers):
        for kept in candidates:
            room = allowed // depth - kept * head_cost
            fitting = min(max(room, 0) // neuron_cost, neurons) // round_to * round_to
            if not fitting:
                continue
            damage = sum(float(curve.damage[heads - kept]) for curve, _ in by_half[ATTENTION])
            damage += sum(float(curve.damage[neurons - fitting]) for curve, _ in by_half[FEED_FORWARD])
            best = min(best, (damage, kept, fitting))
        if best[1]:
            break
    if not best[1]:
        raise BudgetError(
            f"no heads with at least {round_to} neurons in each of {depth} layers fit into the budget; remove less."
        )
    kept = {ATTENTION: best[1], FEED_FORWARD: best[2]}
    addresses = zip(architecture.sublayers(), curves, strict=True)
    return [curve.mask(len(curve.order) - kept[at.half]) for at, curve in addresses]


def psd_root(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """A with A Aᵀ = matrix, for a positive semidefinite matrix; a millionth of its mean diagonal is added.

    More, where fewer tokens than dimensions were seen: rounding then leaves eigenvalues well below zero. Where a few
    directions hold almost all of it, as where every text pulls the same way, rounding can outweigh whatever else there
    is: eigenvalues below zero then count as none. Raises `NumericalError` where they are more than rounding.
    """
    matrix, n = np.asarray(matrix, np.float64), len(matrix)
    mean = max(float(np.trace(matrix)) / max(n, 1), 1e-30)
    for share in (1e-6, 1e-5, 1e-4, 1e-3):
        with suppress(np.linalg.LinAlgError):
            return np.linalg.cholesky(matrix + share * mean * np.eye(n)).astype(np.float32)
    values, vectors = np.linalg.eigh(matrix)
    if -values[0] > ROUNDING * np.max(np.abs(values)):
        raise NumericalError("the gradients' second moments are not positive semidefinite; calibrate on more texts.")
    return (vectors * np.sqrt(np.maximum(values, 0) + 1e-3 * mean)).astype(np.float32)


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


def round_masks(
    architecture: Architecture, masks: Sequence[Mask], order: Sequence[np.ndarray], round_to: int
) -> list[Mask]:
    """Masks whose neurons come in multiples of `round_to`: the cheapest kept ones (first in `order`) go too."""
    out = []
    for at, mask, units in zip(architecture.sublayers(), masks, order, strict=True):
        mask = mask.copy()
        extra = int(mask.sum()) % round_to if at.half == FEED_FORWARD else 0
        mask[[unit for unit in units if mask[unit]][:extra]] = False
        out.append(mask)
    return out

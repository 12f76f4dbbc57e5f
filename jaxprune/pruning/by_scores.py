"""What methods share that score units and keep the highest: thresholds, masks, and what is fitted after the cut.

Each has `refit`: with "weights" the output weights of what stays are fitted as K-prune does (`refit.py`), which tells
apart what a choice of units is worth and what the refit is.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from ..model.model import Model
from .allocation import keep_mask, round_masks, score_curve
from .budget import Budget
from .cut import Mask
from .method import Method
from .refit_settings import SCALES, Fit, Kind, kind_of
from .run import Run


@runtime_checkable
class Refitting(Method, Protocol):
    """A method whose field `refit` says what is fitted after the cut."""

    @property
    def refit(self) -> Kind | bool: ...


def by_scores(run: Run, method: Refitting, budgets: Sequence[Budget], scores: Sequence[np.ndarray]) -> list[Model]:
    """One global threshold on score per cost, then the refit that the method names."""
    limits = [run.allowed(entry) for entry in budgets]
    results = []
    for entry, limit in zip(budgets, limits, strict=True):
        with run.phase("search"):
            masks = masks_for(run, entry, scores, limit, threshold)
        results.append(refitted_and_cut(run, method, entry, masks, ()))
    return results


def masks_for(
    run: Run,
    budget: Budget,
    scores: Sequence[np.ndarray],
    allowed: int,
    choose: Callable[[Sequence[np.ndarray], Sequence[int], int], list[Mask]],
) -> list[Mask]:
    """Masks by `choose`(scores, costs, allowed), rounded; or, where the budget asks, the same sizes in every layer."""
    if budget.uniform:
        return run.uniform([score_curve(entry) for entry in scores], budget, allowed)
    costs = run.costs(budget)
    order = [np.argsort(entry, kind="stable") for entry in scores]
    return round_masks(run.model.architecture, choose(scores, costs, allowed), order, budget.round_to)


def refitted_and_cut(
    run: Run,
    method: Refitting,
    budget: Budget,
    masks: list[Mask],
    reused: tuple[str, ...],
    start_from: Model | None = None,
) -> Model:
    """Cut `start_from` (by default the dense model) to `masks` once the refit that the method names is done."""
    fitted, reports = run.model if start_from is None else start_from, []
    kind = kind_of(method.refit)
    if kind != "none":
        fit = SCALES if kind == "scales" else Fit()
        weights = [[batch.real.astype(np.float32)] * len(masks) for batch in run.batches]
        fitted, reports = run.refit(masks, weights, fit)
    return run.finish(method, budget, fitted, masks, reports, reused)


def threshold(scores: Sequence[np.ndarray], costs: Sequence[int], allowed: int) -> list[Mask]:
    """Masks (true keeps) of the units with the highest score per cost that fit into `allowed`."""
    per_cost = np.concatenate([score / cost for score, cost in zip(scores, costs, strict=True)])
    each = np.concatenate([np.full(len(score), cost) for score, cost in zip(scores, costs, strict=True)])
    return split_like(keep_mask(per_cost, each, allowed), scores)


def keep_by_rank(scores: Sequence[np.ndarray], costs: Sequence[int], allowed: int) -> list[Mask]:
    """Masks (true keeps) of the units with the highest scores, whatever they cost, until `allowed` is spent."""
    each = np.concatenate([np.full(len(score), cost) for score, cost in zip(scores, costs, strict=True)])
    return split_like(keep_mask(np.concatenate(list(scores)), each, allowed), scores)


def split_like(flat: np.ndarray, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """One array a sublayer, of the lengths of `like`."""
    return np.split(flat, np.cumsum([len(entry) for entry in like])[:-1])

"""Methods to compare with, on the same calibration texts, budgets, cut and record: Fisher, magnitude, random.

Each has `refit`: the output weights of what stays are then fitted as K-prune does (`refit.py`), which tells apart
what a choice of units is worth and what the refit is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import SettingsError
from ..model.model import Model
from .allocation import keep_mask, score_curve
from .budget import Budget
from .cut import Mask
from .refit import Fit, follow
from .run import Run, as_budgets, round_masks

REPAIRS = ("none", "scales", "weights")


def check_repair(repair: str) -> None:
    if repair not in REPAIRS:
        raise SettingsError(f"repair must be one of {', '.join(REPAIRS)}, got {repair!r}.")


def by_scores(
    run: Run, method: str, settings: Any, budget: Budget | Sequence[Budget], scores: Sequence[np.ndarray]
) -> Any:
    """One global threshold on score per cost, then the repair that the settings name."""
    budgets, alone = as_budgets(budget)
    limits = [run.allowed(entry) for entry in budgets]
    results = []
    for entry, limit in zip(budgets, limits, strict=True):
        with run.phase("search"):
            masks = masks_for(run, entry, scores, limit, threshold)
        results.append(repaired(run, method, settings, entry, masks, ()))
    return results[0] if alone else results


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


def repaired(
    run: Run,
    method: str,
    settings: Any,
    budget: Budget,
    masks: list[Mask],
    reused: tuple[str, ...],
    start_from: Model | None = None,
) -> Model:
    """Cut `start_from` (by default the dense model) to `masks` once the repair that the settings name is done."""
    fitted, reports = run.model if start_from is None else start_from, []
    if settings.repair != "none":
        fit = Fit(kind=settings.repair) if settings.repair == "weights" else SCALES
        weights = [[batch.real.astype(np.float32)] * len(masks) for batch in run.batches]
        with run.phase("refit"):
            fitted, reports = follow(
                run.model,
                run.params,
                masks,
                run.batches,
                weights,
                fit,
                run.programs,
                lambda done: run.step("refit", done, len(masks)),
                run.kept,
            )
    return run.finish(method, settings, budget, fitted, masks, reports, reused)


SCALES = Fit(kind="scales", ridge=10.0, inputs=False)


def threshold(scores: Sequence[np.ndarray], costs: Sequence[int], allowed: int) -> list[Mask]:
    """Masks (true keeps) of the units with the highest score per cost that fit into `allowed`."""
    per_cost = np.concatenate([score / cost for score, cost in zip(scores, costs, strict=True)])
    each = np.concatenate([np.full(len(score), cost) for score, cost in zip(scores, costs, strict=True)])
    return _split(keep_mask(per_cost, each, allowed), scores)


def keep_by_rank(scores: Sequence[np.ndarray], costs: Sequence[int], allowed: int) -> list[Mask]:
    """Masks (true keeps) of the units with the highest scores, whatever they cost, until `allowed` is spent."""
    each = np.concatenate([np.full(len(score), cost) for score, cost in zip(scores, costs, strict=True)])
    return _split(keep_mask(np.concatenate(list(scores)), each, allowed), scores)


def _split(flat: np.ndarray, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(flat, np.cumsum([len(entry) for entry in like])[:-1])

"""Methods to compare with, on the same calibration texts, budgets, cut and record: Fisher, magnitude, random.

Each has `refit`: the output weights of what stays are then fitted as K-prune does (`follow.py`), which tells apart
what a choice of units is worth and what the refit is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jax.sharding import Mesh

from ..checks import check_seed
from ..data.task import Calibration
from ..errors import SettingsError
from ..model.model import Model
from .budget import Budget
from .cut import Mask, map_units, unit_counts, unit_sums
from .follow import Fit, follow
from .kept import KEEP_BYTES
from .measure import HALVES, measure
from .measured import Arrays
from .run import OnStep, Run, as_budgets, round_masks
from .search import keep_mask, score_curve

REPAIRS = ("none", "scales", "weights")


@dataclass(frozen=True, kw_only=True)
class Fisher:
    """Kwon et al., A Fast Post-Training Pruning Framework for Transformers, NeurIPS 2022.

    Gates' diagonal Fisher information picks how many heads and neurons stay, a greedy rearrangement under the
    Fisher blocks of each sublayer picks which, and one scale per unit is fitted to the dense output.
    We use the model's own predictions where the paper uses the training labels: calibration texts have none.
    """

    rearrange: bool = field(default=True, metadata={"help": "choose units inside a sublayer by its Fisher block"})
    repair: Literal["none", "scales", "weights"] = field(
        default="scales", metadata={"help": "after cutting: nothing, one scale per unit, or K-prune's refit"}
    )
    seed: int = field(default=0, metadata={"help": "draws labels for the Fisher factors where classes are many"})
    measures_once: ClassVar[bool] = True  # its measurement can be kept to resume from

    def __post_init__(self):
        check_seed(self.seed)
        check_repair(self.repair)


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """Units with the smallest weights go: the squared norm of all weights of a unit, per cost."""

    repair: Literal["none", "scales", "weights"] = field(
        default="none", metadata={"help": "after cutting: nothing, one scale per unit, or K-prune's refit"}
    )
    measures_once: ClassVar[bool] = False  # there is nothing to keep

    def __post_init__(self):
        check_repair(self.repair)


@dataclass(frozen=True, kw_only=True)
class Random:
    """Units drawn at random: the floor that any score must beat."""

    repair: Literal["none", "scales", "weights"] = field(
        default="none", metadata={"help": "after cutting: nothing, one scale per unit, or K-prune's refit"}
    )
    seed: int = field(default=0, metadata={"help": "draws the units"})
    measures_once: ClassVar[bool] = False  # there is nothing to keep

    def __post_init__(self):
        check_seed(self.seed)
        check_repair(self.repair)


def check_repair(repair: str) -> None:
    if repair not in REPAIRS:
        raise SettingsError(f"repair must be one of {', '.join(REPAIRS)}, got {repair!r}.")


def fisher(
    model: Model,
    calibration: Calibration,
    budget: Budget | Sequence[Budget],
    settings: Fisher = Fisher(),
    *,
    on_step: OnStep | None = None,
    mesh: Mesh | None = None,
    stream: bool = False,
    tokenizer: Any = None,
    keep_bytes: int = KEEP_BYTES,
    out: str | Path | None = None,
    resume: bool = False,
) -> Any:
    """Prune by the Fisher information of gates; see `Fisher`. Same interface as `kprune`."""
    budgets, alone = as_budgets(budget)
    where: dict[str, Any] = {
        "mesh": mesh,
        "stream": stream,
        "tokenizer": tokenizer,
        "keep_bytes": keep_bytes,
        "out": out,
        "resume": resume,
    }
    run = Run.start(model, calibration, on_step, **where)
    allowed = [run.allowed(entry) for entry in budgets]
    found = run.once("fisher", settings, lambda: _fisher_information(run, settings))
    sublayers = range(len(found) // 2)
    scores, blocks = ([found[f"{part}.{index}"] for index in sublayers] for part in ("gates", "block"))
    results = []
    for number, (entry, limit) in enumerate(zip(budgets, allowed, strict=True)):
        with run.phase("search"):
            masks = masks_for(run, entry, scores, limit, fisher_masks)
            if settings.rearrange:
                masks = [rearrange(block, int(mask.sum())) for block, mask in zip(blocks, masks, strict=True)]
        results.append(repaired(run, "fisher", settings, entry, masks, ("measurement",) if number else ()))
    return results[0] if alone else results


def _fisher_information(run: Run, settings: Fisher) -> Arrays:
    """Of every sublayer the Fisher information of its gates: its diagonal, and with `rearrange` all of it."""
    with run.phase("measure"):
        measured = measure(
            run.params,
            run.model.architecture,
            run.batches,
            temperature=1.0,
            floor=1.0,
            exact_up_to=4,
            seed=settings.seed,
            programs=run.programs,
            grams=False,
            gates=True,
            fisher_blocks=settings.rearrange,
            on_part=lambda done, of: run.step("measure", done, of),
            kept=run.kept if settings.repair != "none" else None,
        )
    arrays: Arrays = {}
    for index, (gates, block) in enumerate(run.devices.read([(s.gates, s.block) for s in measured.statistics])):
        arrays |= {f"gates.{index}": np.asarray(gates, np.float64), f"block.{index}": np.asarray(block, np.float64)}
    return arrays


def magnitude(
    model: Model,
    calibration: Calibration,
    budget: Budget | Sequence[Budget],
    settings: Magnitude = Magnitude(),
    *,
    on_step: OnStep | None = None,
    mesh: Mesh | None = None,
    stream: bool = False,
    tokenizer: Any = None,
    keep_bytes: int = KEEP_BYTES,
) -> Any:
    """Prune by the size of weights; see `Magnitude`. Same interface as `kprune`."""
    run = Run.start(model, calibration, on_step, mesh=mesh, stream=stream, tokenizer=tokenizer, keep_bytes=keep_bytes)
    return by_scores(run, "magnitude", settings, budget, weight_norms(run.model))


def random_prune(
    model: Model,
    calibration: Calibration,
    budget: Budget | Sequence[Budget],
    settings: Random = Random(),
    *,
    on_step: OnStep | None = None,
    mesh: Mesh | None = None,
    stream: bool = False,
    tokenizer: Any = None,
    keep_bytes: int = KEEP_BYTES,
) -> Any:
    """Prune units at random; see `Random`. Same interface as `kprune`."""
    run = Run.start(model, calibration, on_step, mesh=mesh, stream=stream, tokenizer=tokenizer, keep_bytes=keep_bytes)
    rng = np.random.default_rng(settings.seed)
    costs_first = run.costs(as_budgets(budget)[0][0])
    # Times the cost, which `by_scores` divides by again: every unit is as likely to go, whatever it costs.
    scores = [
        rng.random(count) * cost for count, cost in zip(unit_counts(model.architecture), costs_first, strict=True)
    ]
    return by_scores(run, "random", settings, budget, scores)


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
    return round_masks(choose(scores, costs, allowed), order, budget.round_to)


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


def fisher_masks(scores: Sequence[np.ndarray], costs: Sequence[int], allowed: int) -> list[Mask]:
    """Masks that keep the most Fisher information within `allowed` (Kwon et al., section 4.1, algorithm 1).

    For every number of heads kept, best heads first, the best neurons fill the rest; the best number wins. Needs heads
    to cost the same in all layers, and neurons likewise (true of a dense model).
    """
    heads, neurons = np.concatenate(scores[::2]), np.concatenate(scores[1::2])
    head_cost, neuron_cost = costs[0], costs[1]
    head_order, neuron_order = (np.argsort(-values, kind="stable") for values in (heads, neurons))
    head_sums = np.concatenate([[0.0], np.cumsum(heads[head_order])])
    neuron_sums = np.concatenate([[0.0], np.cumsum(neurons[neuron_order])])
    kept_heads = np.arange(min(len(heads), allowed // head_cost) + 1)
    kept_neurons = np.minimum((allowed - kept_heads * head_cost) // neuron_cost, len(neurons))
    best = int(np.argmax(head_sums[kept_heads] + neuron_sums[kept_neurons]))
    masks = [np.zeros(len(heads), bool), np.zeros(len(neurons), bool)]
    masks[0][head_order[: kept_heads[best]]] = True
    masks[1][neuron_order[: kept_neurons[best]]] = True
    by_half = [_split(masks[0], scores[::2]), _split(masks[1], scores[1::2])]
    return [by_half[index % 2][index // 2] for index in range(len(scores))]


def rearrange(block: np.ndarray, keep: int) -> Mask:
    """The units to keep so that the removed ones lose little together: rᵀ F r, r the removed, F the Fisher block.

    Greedy: the next to go is the one that raises the sum least (Kwon et al., section 4.2).
    """
    n = len(block)
    mask, rise = np.ones(n, bool), np.diag(block).copy()
    for _ in range(n - keep):
        worst = int(np.argmin(np.where(mask, rise, np.inf)))
        mask[worst] = False
        rise += 2 * block[worst]
    return mask


def weight_norms(model: Model) -> list[np.ndarray]:
    """The squared norm of all weights and biases of every unit, per sublayer."""
    norms = []
    for index, count in enumerate(unit_counts(model.architecture)):
        half, total = HALVES[index % 2], np.zeros(count)

        def add(axis: int, leaf: Any, total: np.ndarray = total) -> Any:
            total += unit_sums(axis, np.asarray(leaf, np.float64) ** 2)
            return leaf

        map_units(half, add, model.params["layers"][index // 2][half])
        norms.append(total)
    return norms


def _split(flat: np.ndarray, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(flat, np.cumsum([len(entry) for entry in like])[:-1])

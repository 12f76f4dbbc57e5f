"""Several methods at several budgets, on one model, one task and the same calibration texts."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..evaluation.evaluate import evaluate
from ..model import Model
from ..pruning.budget import Budget
from ..runtime.events import OnStep
from .methods import Method


@dataclass(frozen=True, kw_only=True)
class Result:
    """One pruned model's figures."""

    method: str
    seed: int  # draws the calibration texts, and the units that random pruning removes
    remove: float  # asked
    removed_flops: float  # obtained, fractions of the prunable cost
    removed_params: float
    score: float
    metric: str
    masked_vs_cut: float | None
    seconds: float  # of pruning, the budgets' shared measuring pass counted with the first
    dense_forwards: float | None
    peak_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A dense score and the results of every method, budget and seed."""

    task: str
    metric: str
    dense_score: float
    examples: int
    calibration_samples: int
    results: tuple[Result, ...]
    warnings: tuple[str, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(result.method for result in self.results))

    def mean_score(self, method: str, remove: float) -> float:
        """Mean over seeds; raises `statistics.StatisticsError` where there is no such run."""
        return statistics.fmean(r.score for r in self.results if r.method == method and r.remove == remove)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    model: Model,
    task: Any,
    methods: Mapping[str, Method],
    budgets: Sequence[Budget],
    *,
    count: int = 512,
    seeds: Sequence[int] = (0,),
    limit: int | None = None,
    on_step: OnStep | None = None,
    on_model: Callable[[Result, Model], None] | None = None,
    calibrate: Callable[[int], Any] | None = None,
) -> Comparison:
    """Prune `model` with every method at every budget and seed; score each result on the task's validation texts.

    The dense model is scored first, with the same code. `limit` scores the first so many texts only. `calibrate`
    gives the calibration texts for a seed: by default `count` training texts of the task. `on_model` is
    called with every result as it arrives and may keep the model; nothing else does.
    """
    dense = evaluate(model, task, limit=limit, on_step=on_step)
    results, warnings = [], list(dense.warnings)
    for seed in seeds:
        calibration = task.calibration(count, seed=seed) if calibrate is None else calibrate(seed)
        warnings += calibration.warnings
        for name, method in methods.items():
            for budget, pruned in zip(budgets, method.run(model, calibration, budgets, seed, on_step), strict=True):
                evaluation = evaluate(pruned, task, limit=limit, on_step=on_step)
                result = _result(name, seed, budget, pruned, evaluation)
                warnings += pruned.provenance.record.get("warnings", [])
                results.append(result)
                if on_model is not None:
                    on_model(result, pruned)
    return Comparison(
        task=task.name,
        metric=dense.metric,
        dense_score=float(dense.score),
        examples=dense.examples,
        calibration_samples=count,
        results=tuple(results),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _result(name: str, seed: int, budget: Budget, pruned: Model, evaluation: Any) -> Result:
    record = pruned.provenance.record
    return Result(
        method=name,
        seed=seed,
        remove=float(budget.remove),
        removed_flops=record["removed"]["flops"],
        removed_params=record["removed"]["params"],
        score=float(evaluation.score),
        metric=evaluation.metric,
        masked_vs_cut=record.get("masked_vs_cut"),
        seconds=float(record.get("seconds", 0.0)),
        dense_forwards=record.get("dense_forwards"),
        peak_bytes=record.get("peak_bytes"),
    )

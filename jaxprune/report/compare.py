"""Several methods at several budgets, on one model, one task and the same calibration texts."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jax.sharding import Mesh

from ..checks import checked
from ..errors import BudgetError, SettingsError
from ..evaluation.evaluate import Evaluation, evaluate
from ..model import Model
from ..pruning.budget import Budget
from ..pruning.by_name import label_of, method_of
from ..pruning.call_checks import as_budgets
from ..pruning.cost import Cost
from ..pruning.kept import KEEP_BYTES
from ..pruning.method import Method, seeded
from ..pruning.prune import prune
from ..runtime.events import OnStep
from ..tasks.calibration import Calibration
from ..tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Result:
    """One pruned model's figures."""

    method: str
    seed: int  # draws the calibration texts, and the units that random pruning removes
    remove: float  # asked, as are the settings of the budget up to keep_heads
    cost: Cost = "flops"
    length: int | None = None
    round_to: int = 1
    uniform: bool = False
    keep_heads: bool = False
    removed_flops: float  # obtained, fractions of the prunable cost
    removed_params: float
    score: float
    metric: str
    masked_vs_cut: float | None
    seconds: float  # of pruning, the budgets' shared measuring pass counted with the first
    dense_forwards: float | None
    peak_bytes: int | None

    @property
    def budget(self) -> Budget:
        return Budget(self.remove, self.cost, self.length, self.round_to, self.uniform, self.keep_heads)


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

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Every budget once, the smallest share first."""
        return tuple(sorted(dict.fromkeys(result.budget for result in self.results), key=lambda entry: entry.remove))

    def mean_score(self, method: str, remove: float | Budget) -> float:
        """Mean over seeds, of the budget with that share; where several have it, of the one that is given.

        Raises `BudgetError` for the share of several, `statistics.StatisticsError` where there is no such run.
        """
        asked = [entry for entry in self.budgets if remove in (entry, entry.remove)]
        if len(asked) > 1:
            raise BudgetError(f"{len(asked)} budgets remove {remove}; pass one of them: {asked[0]} or {asked[1]}.")
        return statistics.fmean(r.score for r in self.results if r.method == method and r.budget in asked)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def budget_differences(budgets: Sequence[Budget]) -> list[tuple[str, ...]]:
    """Of each budget its settings, `remove` aside, as far as not all of `budgets` have them alike."""
    rows = [{name: value for name, value in asdict(budget).items() if name != "remove"} for budget in budgets]
    return [
        tuple(f"{name}={value}" for name, value in row.items() if any(other[name] != value for other in rows))
        for row in rows
    ]


COMPARED = ("kprune", "fisher", "magnitude", "random")  # by default: those that serve every kind of model


@checked
def compare(
    model: Model,
    task: Task,
    budget: Budget | Sequence[Budget],
    methods: Sequence[Method | str] | Mapping[str, Method | str] = COMPARED,
    *,
    calibration: int | Calibration | Callable[[int], Calibration] = 512,
    seeds: Sequence[int] = (0,),
    limit: int | None = None,
    on_step: OnStep | None = None,
    on_model: Callable[[Result, Model], None] | None = None,
    mesh: Mesh | None = None,
    stream: bool = False,
    tokenizer: Any = None,
    keep_bytes: int = KEEP_BYTES,
) -> Comparison:
    """Prune `model` with every method at every budget and seed; score each result on the task's validation texts.

    `methods` are those of `prune`, settings or names ("kprune:published"); as a mapping, under names of your own.
    `calibration` is how many of the task's training texts each seed draws; or the texts, the same for all seeds; or a
    function of a seed that gives them. A seed takes the place of a method's own too. The dense model is scored first,
    with the same code; `limit` scores the first so many texts only. `on_model` is called with every result as it
    arrives and may keep the model; nothing else does. What follows is as in `prune`.

    Raises `BudgetError`, `DataError`, `NumericalError`, `SettingsError`.
    """
    budgets, chosen = as_budgets(budget)[0], _named(methods)
    if not seeds or len({*seeds}) < len(seeds):
        raise SettingsError(f"seeds are {[*seeds]}; give at least one, and each once.")
    model = model.with_tokenizer(tokenizer)
    scored: dict[str, Any] = {"limit": limit, "stream": stream, "on_step": on_step}
    dense = evaluate(model, task, **scored)
    results, warnings, count = [], list(dense.warnings), 0
    for seed in seeds:
        texts = _texts(task, calibration, seed)
        warnings += texts.warnings
        count = texts.count
        for name, method in chosen.items():
            models = prune(
                model, texts, budgets, seeded(method, seed), on_step=on_step, mesh=mesh, stream=stream,
                keep_bytes=keep_bytes,
            )  # fmt: skip
            for entry, pruned in zip(budgets, models, strict=True):
                result = _result(name, seed, entry, pruned, evaluate(pruned, task, **scored))
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


def _named(methods: Sequence[Method | str] | Mapping[str, Method | str]) -> dict[str, Method]:
    """Methods by the name that the results have. Raises `SettingsError` for two of one name, or none."""
    if isinstance(methods, str):
        raise SettingsError(f"methods must be a sequence of methods, got one text; write [{methods!r}].")
    if isinstance(methods, Mapping):
        return {name: method_of(given) for name, given in methods.items()}
    pairs = [(given if isinstance(given, str) else label_of(method_of(given)), method_of(given)) for given in methods]
    named = dict(pairs)
    if len(named) < len(pairs) or not named:
        raise SettingsError(f"methods are {', '.join(name for name, _ in pairs) or 'none'}; give each once.")
    return named


def _texts(task: Task, given: int | Calibration | Callable[[int], Calibration], seed: int) -> Calibration:
    if isinstance(given, int):
        return task.calibration(given, seed=seed)
    return given if isinstance(given, Calibration) else given(seed)


def _result(name: str, seed: int, budget: Budget, pruned: Model, evaluation: Evaluation) -> Result:
    record = pruned.provenance.record
    settings: dict[str, Any] = {**asdict(budget), "remove": float(budget.remove)}
    return Result(
        method=name,
        seed=seed,
        **settings,
        removed_flops=record["removed"]["flops"],
        removed_params=record["removed"]["params"],
        score=float(evaluation.score),
        metric=evaluation.metric,
        masked_vs_cut=record.get("masked_vs_cut"),
        seconds=float(record.get("seconds", 0.0)),
        dense_forwards=record.get("dense_forwards"),
        peak_bytes=record.get("peak_bytes"),
    )

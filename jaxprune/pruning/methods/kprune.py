"""K-prune: which heads and neurons can go, and how the rest is re-fitted, without retraining.

Park, Choi, Kang: Accurate Retraining-free Pruning for Pretrained Encoder-based Language Models, ICLR 2024. The preset
"published" is the paper's own recipe (`kprune_published.py`). The default departs from it where measurement said so:

1. One backward sweep over the dense model replaces one per sublayer. The gradient of the KL divergence is zero at the
   dense model, its Hessian is not: seeds are factors of the Fisher information of the model's own prediction.
2. A unit's score is the damage that stays *after* the refit: structured optimal brain surgeon with the features' Gram
   matrix on one side and the output gradient's second moment on the other (`damage.py`), in units of predicted KL.
3. The refit weighs tokens by how much the prediction depends on them, fits biases, shrinks towards the old weights,
   and fits q, k, v and up to the changed stream as well (`refit.py`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from ...checks import check_effect, check_types
from ...errors import BudgetError, SettingsError
from ...model.architecture import Architecture
from ...model.heads import head_of
from ...model.model import Model
from ..allocation import Curve, allocate, round_masks
from ..budget import Budget
from ..cut import by_query_heads
from ..damage import Scoring, damage_curves, tilted
from ..measure import measure
from ..measured import Arrays
from ..method import Method
from ..refit_settings import PUBLISHED_FIT, REFIT, SCALES, Fit, Kind, kind_of
from ..run import Run
from .kprune_published import published_masks

# What serves a kind of model, for settings that were left open: chosen on texts that no result reports. A classifier
# reads one token of the last layers, a language model all of them; what the first layers lose matters less there. And
# its text is any text, so that the correlations of a few calibration windows are trusted less. An embedding is pooled
# of all tokens, and every fit shows in it: its ridges are those of a model of `FITTED_ON`'s size.
BY_KIND = {
    "task": {"elimination_ridge": 700.0, "depth_ratio": 6.0, "ridge": 2000.0, "input_ridge": 700.0},
    "embedding": {"elimination_ridge": 300.0, "depth_ratio": 3.0, "ridge": 4000.0, "input_ridge": 2000.0},
    "causal_lm": {"elimination_ridge": 8000.0, "depth_ratio": 1.0, "ridge": 8000.0, "input_ridge": 3000.0},
}

FITTED_ON = 384 * 6  # width times layers

# The settings that the pass over the texts reads, and those that damage is then computed by; the others come after.
PASS = ("search", "token_floor", "temperature", "exact_up_to", "seed")
DAMAGE = ("elimination_ridge", "sensitivity", "query_heads")

BATCH_TEXTS = 32  # texts in a batch whose mean gradient the published scores square


@dataclass(frozen=True, kw_only=True)
class KPrune(Method):
    """Settings of K-prune. The defaults serve every task; `KPrune.preset("published")` is the paper's recipe.

    None: what `BY_KIND` says for the model's kind, where it has an effect. A setting that was given and has none is an
    error.
    """

    search: Literal["surgeon", "gates", "published"] = field(
        default="surgeon", metadata={"help": "scores: damage after refit, gate Fisher alone, or the paper's"}
    )
    sensitivity: bool = field(default=True, metadata={"help": "weigh output directions by their gradient"})
    token_floor: float = field(default=0.5, metadata={"help": "share of token weight that every token gets alike"})
    elimination_ridge: float | None = field(
        default=None,
        metadata={
            "help": "ridge of the scores, in tokens of independent features; 700, embeddings 300, language models 8000"
        },
    )
    query_heads: bool = field(
        default=False, metadata={"help": "with grouped queries, remove query heads too, as many from every group"}
    )
    depth_ratio: float | None = field(
        default=None,
        metadata={"help": "weight of damage in the first layer over the last; 6, embeddings 3, language models 1"},
    )
    refit: Kind | bool = field(default="weights", metadata=REFIT)
    ridge: float | None = field(
        default=None,
        metadata={"help": "ridge of the output fit, in tokens; 2000, language models 8000, embeddings by their size"},
    )
    pull: float = field(
        default=1.0, metadata={"help": "the output fit shrinks towards this multiple of the old weights"}
    )
    intercept: bool = field(default=True, metadata={"help": "fit output biases too"})
    refit_inputs: bool = field(default=True, metadata={"help": "fit q, k, v and up to the changed stream"})
    input_ridge: float | None = field(
        default=None,
        metadata={"help": "ridge of the input fit, in tokens; 700, language models 3000, embeddings by their size"},
    )
    temperature: float = field(default=2.0, metadata={"help": "softmax temperature of the predictive term"})
    exact_up_to: int = field(default=4, metadata={"help": "classes up to which the Fisher factors are exact"})
    balance: float = field(default=2.5e-4, metadata={"help": "published only: weight of representational knowledge"})
    head_weight: float = field(default=64.0, metadata={"help": "published only: weight of heads over neurons"})
    seed: int = field(default=0, metadata={"help": "draws labels for the Fisher factors where classes are many"})
    name: ClassVar[str] = "kprune"

    def __post_init__(self):
        object.__setattr__(self, "refit", kind_of(self.refit))
        check_types(self)
        given = {name: value for name, value in asdict(self).items() if value is not None}
        for name in given.keys() & {"elimination_ridge", "ridge", "input_ridge", "pull", "balance"}:
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} must be a number of at least 0, got {getattr(self, name)}.")
        for name in given.keys() & {"temperature", "head_weight", "depth_ratio"}:
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} must be a positive number, got {getattr(self, name)}.")
        if not 0 < self.token_floor <= 1:
            raise SettingsError(f"token_floor must lie in (0, 1], got {self.token_floor}; 1 weighs all tokens alike.")
        if self.query_heads and self.search != "surgeon":
            raise SettingsError(f"query_heads needs search surgeon, got {self.search}, which scores whole groups.")
        self._check_effects()

    def _check_effects(self) -> None:
        """Raise `SettingsError` for a setting that was given and has no effect; what a preset sets is not given."""
        published = self.search == "published"
        preset = {name: getattr(PUBLISHED_FIT, name) for name in ("ridge", "pull", "intercept")} if published else {}
        preset |= {"token_floor": 1.0, "refit_inputs": False} if published else {}
        if self.refit != "weights":
            names = ("ridge", "pull", "intercept", "refit_inputs", "input_ridge")
            names += ("token_floor",) if self.search == "gates" and self.refit == "none" else ()
            check_effect(self, names, f"with refit {self.refit}", preset)
        elif not self.refit_inputs:
            check_effect(self, ("input_ridge",), "without refit_inputs")
        if self.search != "surgeon":
            names = (
                "elimination_ridge",
                "sensitivity",
                *(("depth_ratio", "exact_up_to", "token_floor") if published else ()),
            )
            check_effect(self, names, f"with search {self.search}", preset)
        if not published:
            check_effect(self, ("balance", "head_weight"), f"with search {self.search}: it is of the published scores")

    def _check_for(self, architecture: Architecture) -> None:
        """Raise `SettingsError` for a setting that has no effect on such a model."""
        head = head_of(architecture)
        if not head.exact:
            check_effect(
                self, ("exact_up_to",), f"on a model whose head is {head.name}: it is for single-label classes"
            )
        if not head.softmax:
            check_effect(self, ("temperature",), f"on a model whose head is {head.name}: it has no softmax")
        if self.query_heads and all(layer.queries == 1 for layer in architecture.layers):
            raise SettingsError("query_heads has no effect where every head has its own key and value; leave it out.")

    @classmethod
    def presets(cls) -> dict[str, "KPrune"]:
        """Named settings beside the default: "published" is the paper's recipe."""
        fit = {"ridge": PUBLISHED_FIT.ridge, "pull": PUBLISHED_FIT.pull, "intercept": PUBLISHED_FIT.intercept}
        return {"published": KPrune(search="published", refit_inputs=False, token_floor=1.0, **fit)}

    def settled(self, architecture: Architecture) -> "KPrune":
        """These settings with every open one that has an effect as the kind of model has it.

        Raises `SettingsError` for a setting that has no effect on such a model.
        """
        self._check_for(architecture)
        kind = _left_open(architecture)
        used = {
            "elimination_ridge": self.search == "surgeon",
            "depth_ratio": self.search != "published",
            "ridge": self.refit == "weights",
            "input_ridge": self.refit == "weights" and self.refit_inputs,
        }
        return replace(self, **{name: kind[name] for name in used if used[name] and getattr(self, name) is None})

    @property
    def measures_once(self) -> bool:
        """Whether one measurement serves all that follows, so that it can be kept to resume from."""
        return self.search != "published"

    @property
    def group(self) -> int | None:
        """How many texts have a batch of their own: the published scores square the mean gradient of a batch."""
        return BATCH_TEXTS if self.search == "published" else None

    @property
    def scoring(self) -> Scoring:
        """How damage is predicted. Raises `SettingsError` for settings that are not settled."""
        if self.search == "surgeon" and self.elimination_ridge is None:
            raise _unsettled("elimination_ridge")
        return Scoring(self.search == "gates", self.elimination_ridge or 0.0, self.sensitivity, self.query_heads)

    @property
    def fit(self) -> Fit:
        """How weights are fitted. Raises `SettingsError` for settings that are not settled."""
        if self.refit != "weights":
            return SCALES if self.refit == "scales" else Fit(kind="none")
        if self.ridge is None:
            raise _unsettled("ridge")
        fit = Fit(ridge=self.ridge, pull=self.pull, intercept=self.intercept, inputs=self.refit_inputs)
        return fit if self.input_ridge is None else replace(fit, input_ridge=self.input_ridge)

    def prune(self, run: Run, budgets: Sequence[Budget]) -> list[Model]:
        if self.search == "published":
            return [_published(run, entry, self) for entry in budgets]
        return _default(run, budgets, self)


def _left_open(architecture: Architecture) -> dict[str, float]:
    """What serves a model, of settings that were left open (`BY_KIND`).

    Every sublayer is fitted to streams that the fits below were made on, and agrees with the calibration texts better
    than with others, the more so the wider and the deeper a model is. Of an embedding the ridges of both fits grow with
    the square of that: a model of width 768 and 12 layers loses more with 2000 and 700 than with 10^6, hardly a fit.
    """
    if head_of(architecture).generates:
        return BY_KIND["causal_lm"]
    if not head_of(architecture).pools:
        return BY_KIND["task"]
    grown = max(1.0, architecture.hidden * len(architecture.layers) / FITTED_ON) ** 2
    kind = BY_KIND["embedding"]
    return kind | {name: round(kind[name] * grown, 1) for name in ("ridge", "input_ridge")}


def _unsettled(name: str) -> SettingsError:
    return SettingsError(f"{name} is open: what it comes to depends on the model; ask settled(architecture) first.")


def _default(run: Run, budgets: Sequence[Budget], settings: KPrune) -> list[Model]:
    assert settings.depth_ratio is not None  # settled
    allowed = [run.allowed(budget) for budget in budgets]
    if settings.query_heads and any(budget.uniform for budget in budgets):
        raise BudgetError("uniform keeps key-value groups whole; leave out query_heads, or uniform.")
    curves, weights = _unpacked(run.once(settings, lambda: _measured(run, settings), PASS, DAMAGE))
    results = []
    for number, (entry, limit) in enumerate(zip(budgets, allowed, strict=True)):
        with run.phase("search"):
            weighed = tilted(curves, settings.depth_ratio)
            if entry.uniform:
                masks = run.uniform(weighed, entry, limit)
            else:
                masks = allocate(weighed, run.step_costs(weighed, entry), limit)
                masks = round_masks(run.model.architecture, masks, [c.order for c in curves], entry.round_to)
        predicted = sum(float(c.damage[c.steps(mask)]) for c, mask in zip(curves, masks, strict=True))
        if settings.query_heads:
            masks = by_query_heads(masks, run.model.architecture)
        fitted, reports = run.refit(masks, weights, settings.fit)
        reused = ("measurement", "damage curves") if number else ()
        results.append(run.finish(settings, entry, fitted, masks, reports, reused, {"predicted_kl": predicted}))
    return results


def _measured(run: Run, settings: KPrune) -> Arrays:
    """Damage curves of every sublayer, and the token weights of every batch, [sublayers, rows, length]."""
    with run.phase("measure"):
        measurement = measure(
            run.params,
            run.model.architecture,
            run.batches,
            temperature=settings.temperature,
            floor=settings.token_floor,
            exact_up_to=settings.exact_up_to,
            seed=settings.seed,
            programs=run.programs,
            grams=settings.search == "surgeon",
            gates=settings.search == "gates",
            on_part=lambda done, of: run.step("measure", done, of),
            kept=run.kept,
            parts=run.parts,
        )
    with run.phase("search"):
        of = len(measurement.statistics)
        curves = damage_curves(
            run.model, measurement, settings.scoring, run.programs, lambda done: run.step("search", done, of)
        )
    arrays = {
        f"weights.{number}": np.stack(run.devices.read(batch)) for number, batch in enumerate(measurement.weights)
    }
    for index, entry in enumerate(curves):
        parts = {name: value for name, value in entry._asdict().items() if value is not None}
        arrays |= {f"curve.{index}.{name}": value for name, value in parts.items()}
    return arrays


def _unpacked(arrays: Arrays) -> tuple[list[Curve], list[list[np.ndarray]]]:
    """The inverse of `_measured`."""
    count = lambda kind: len({name.split(".")[1] for name in arrays if name.startswith(kind)})  # noqa: E731
    curves = []
    for index in range(count("curve.")):
        parts: dict[str, Any] = {name: arrays.get(f"curve.{index}.{name}") for name in Curve._fields}
        curves.append(Curve(**parts))
    return curves, [list(arrays[f"weights.{number}"]) for number in range(count("weights."))]


def _published(run: Run, budget: Budget, settings: KPrune) -> Model:
    if budget.uniform:
        raise BudgetError("the published preset decides sublayer by sublayer and cannot be uniform; use the default.")
    with run.phase("search and refit"):
        fitted, masks, reports = published_masks(
            run.model,
            run.params,
            run.batches,
            run.costs(budget),
            run.allowed(budget),
            temperature=settings.temperature,
            balance=settings.balance,
            head_weight=settings.head_weight,
            programs=run.programs,
            fit=settings.fit,
            on_sublayer=lambda done: run.step("search", done, len(run.model.architecture.sublayers())),
            kept=run.kept,
        )
    return run.finish(settings, budget, fitted, masks, reports)

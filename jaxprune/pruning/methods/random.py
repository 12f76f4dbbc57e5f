"""Random: the floor that any score must beat."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ...checks import check_types
from ...model.model import Model
from ...settings import formerly
from ..budget import Budget
from ..by_scores import Refitting, by_scores
from ..cut import unit_counts
from ..refit_settings import REFIT, Kind, kind_of
from ..run import Run


@formerly(repair="refit")
@dataclass(frozen=True, kw_only=True)
class Random(Refitting):
    """Units drawn at random: the floor that any score must beat."""

    refit: Kind | bool = field(default="none", metadata=REFIT)
    seed: int = field(default=0, metadata={"help": "draws the units"})
    name: ClassVar[str] = "random"

    def __post_init__(self):
        object.__setattr__(self, "refit", kind_of(self.refit))
        check_types(self)

    @property
    def needs_texts(self) -> bool:
        """Only a refit measures any."""
        return self.refit != "none"

    def prune(self, run: Run, budgets: Sequence[Budget]) -> list[Model]:
        rng, costs = np.random.default_rng(self.seed), run.costs(budgets[0])
        counts = unit_counts(run.model.architecture)
        # Times the cost, which `by_scores` divides by again: every unit is as likely to go, whatever it costs.
        scores = [rng.random(count) * cost for count, cost in zip(counts, costs, strict=True)]
        return by_scores(run, self, budgets, scores)

"""Magnitude: the units with the smallest weights go. A baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ...model.model import Model
from ...settings import formerly
from ..budget import Budget
from ..by_scores import Refitting, by_scores
from ..cut import map_units, unit_counts, unit_sums
from ..refit_settings import REFIT, Kind, kind_of
from ..run import Run


@formerly(repair="refit")
@dataclass(frozen=True, kw_only=True)
class Magnitude(Refitting):
    """Units with the smallest weights go: the squared norm of all weights of a unit, per cost."""

    refit: Kind | bool = field(default="none", metadata=REFIT)
    name: ClassVar[str] = "magnitude"

    def __post_init__(self):
        object.__setattr__(self, "refit", kind_of(self.refit))

    @property
    def needs_texts(self) -> bool:
        """Only a refit measures any."""
        return self.refit != "none"

    def prune(self, run: Run, budgets: Sequence[Budget]) -> list[Model]:
        return by_scores(run, self, budgets, weight_norms(run.model))


def weight_norms(model: Model) -> list[np.ndarray]:
    """The squared norm of all weights and biases of every unit, per sublayer."""
    norms = []
    for at, count in zip(model.architecture.sublayers(), unit_counts(model.architecture), strict=True):
        total = np.zeros(count)

        def add(axis: int, leaf: Any, total: np.ndarray = total) -> Any:
            total += unit_sums(axis, np.asarray(leaf, np.float64) ** 2)
            return leaf

        map_units(at.half, add, at.of(model.params["layers"]))
        norms.append(total)
    return norms

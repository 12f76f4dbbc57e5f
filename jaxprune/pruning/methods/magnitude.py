"""Magnitude: the units with the smallest weights go. A baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from jax.sharding import Mesh

from ...model.model import Model
from ...runtime.events import OnStep
from ...tasks.calibration import Calibration
from ..budget import Budget
from ..by_scores import by_scores, check_repair
from ..cut import map_units, unit_counts, unit_sums
from ..kept import KEEP_BYTES
from ..run import Run


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """Units with the smallest weights go: the squared norm of all weights of a unit, per cost."""

    repair: Literal["none", "scales", "weights"] = field(
        default="none", metadata={"help": "after cutting: nothing, one scale per unit, or K-prune's refit"}
    )
    measures_once: ClassVar[bool] = False  # there is nothing to keep

    def __post_init__(self):
        check_repair(self.repair)

    @property
    def needs_texts(self) -> bool:
        """Only a repair measures any."""
        return self.repair != "none"


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

"""Random: the floor that any score must beat."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from jax.sharding import Mesh

from ...checks import check_seed
from ...model.model import Model
from ...runtime.events import OnStep
from ...tasks.calibration import Calibration
from ..budget import Budget
from ..by_scores import by_scores, check_repair
from ..cut import unit_counts
from ..kept import KEEP_BYTES
from ..run import Run, as_budgets


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

    @property
    def needs_texts(self) -> bool:
        """Only a repair measures any."""
        return self.repair != "none"


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

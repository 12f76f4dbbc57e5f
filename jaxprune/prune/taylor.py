"""Group Taylor: the first-order importance of LLM-Pruner for units of coupled weights. A baseline.

Ma, Fang, Wang: LLM-Pruner: On the Structural Pruning of Large Language Models, NeurIPS 2023, its element-wise first
order: Σ |w · ∂L/∂w| over all weights of a unit, L the next-token loss on the calibration texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..data.task import Calibration
from ..errors import DataError
from ..model.architecture import Architecture
from ..model.language import next_token_losses
from ..model.model import Batch, Model, Params
from ..model.transformer import HALVES, forward
from .baselines import by_scores, check_repair
from .budget import Budget
from .cut import map_units, unit_counts
from .run import OnStep, Run


@dataclass(frozen=True, kw_only=True)
class Taylor:
    """Settings of group Taylor."""

    repair: Literal["none", "scales", "weights"] = field(
        default="none", metadata={"help": "after cutting: nothing, one scale per unit, or K-prune's refit"}
    )

    def __post_init__(self):
        check_repair(self.repair)


@partial(jax.jit, static_argnames="architecture", donate_argnames="total")
def add_gradient(params: Params, batch: Batch, total: Any, *, architecture: Architecture) -> Any:
    """`total` plus the gradient of the summed next-token loss of a batch, for the layers' parameters."""

    def loss(layers: Any) -> Array:
        whole = {**params, "layers": layers}
        hidden = forward(whole, batch, architecture, remat=True).hidden
        return jnp.sum(next_token_losses(whole, hidden, batch, architecture))

    return jax.tree.map(jnp.add, total, jax.grad(loss)(params["layers"]))


def taylor(
    model: Model,
    calibration: Calibration,
    budget: Budget | Sequence[Budget],
    settings: Taylor = Taylor(),
    *,
    on_step: OnStep | None = None,
) -> Any:
    """Prune a language model by group Taylor importance; see `Taylor`. Same interface as `kprune`.

    Holds a gradient as large as the layers. Raises `DataError` for a model that is no language model.
    """
    if model.architecture.head != "causal_lm":
        raise DataError(
            f"taylor is for language models, the head of this one is {model.architecture.head}; use fisher."
        )
    run = Run.start(model, calibration, on_step)
    with run.phase("measure"):
        total = jax.tree.map(jnp.zeros_like, run.model.params["layers"])
        for number, batch in enumerate(run.batches):
            total = run.programs(add_gradient, run.model.params, batch, total, architecture=model.architecture)
            run.step("measure", number + 1, len(run.batches))
        scores = taylor_scores(run.model, total)
    return by_scores(run, "taylor", settings, budget, scores)


def taylor_scores(model: Model, gradient: Any) -> list[np.ndarray]:
    """Σ |w · g| over the weights and biases of every unit, per sublayer."""
    scores = []
    for index, count in enumerate(unit_counts(model.architecture)):
        half, total = HALVES[index % 2], np.zeros(count)

        def add(axis: int, weight: Any, slope: Any, total: np.ndarray = total) -> Any:
            product = np.abs(np.asarray(weight, np.float64) * np.asarray(slope, np.float64))
            total += np.moveaxis(product, axis, 0).reshape(len(total), -1).sum(1)
            return weight

        map_units(half, add, model.params["layers"][index // 2][half], gradient[index // 2][half])
        scores.append(total)
    return scores

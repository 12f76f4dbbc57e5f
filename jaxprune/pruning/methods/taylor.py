"""Group Taylor: the first-order importance of LLM-Pruner for units of coupled weights. A baseline.

Ma, Fang, Wang: LLM-Pruner: On the Structural Pruning of Large Language Models, NeurIPS 2023, its element-wise first
order: Σ |w · ∂L/∂w| over all weights of a unit, L the next-token loss on the calibration texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ...errors import DataError
from ...model.architecture import Architecture
from ...model.context import context_of
from ...model.heads import head_of
from ...model.language import next_token_losses
from ...model.model import Batch, Model, Params
from ...model.sublayer import sublayer
from ...runtime.by_sublayer import outer_params, streams
from ...runtime.programs import Programs
from ...settings import formerly
from ..budget import Budget
from ..by_scores import Refitting, by_scores
from ..cut import map_units, unit_counts, unit_sums
from ..measured import Arrays, Parts
from ..refit_settings import REFIT, Kind, kind_of
from ..run import Run


@formerly(repair="refit")
@dataclass(frozen=True, kw_only=True)
class Taylor(Refitting):
    """Group Taylor, for language models. Holds a gradient as large as the layers."""

    refit: Kind | bool = field(default="none", metadata=REFIT)
    name: ClassVar[str] = "taylor"
    measures_once: ClassVar[bool] = True

    def __post_init__(self):
        object.__setattr__(self, "refit", kind_of(self.refit))

    def settled(self, architecture: Architecture) -> "Taylor":
        """These settings. Raises `DataError` for a model that is no language model."""
        if not head_of(architecture).generates:
            raise DataError(f"taylor is for language models, the head of this one is {architecture.head}; use fisher.")
        return self

    def prune(self, run: Run, budgets: Sequence[Budget]) -> list[Model]:
        measured = run.once(self, lambda: _measured(run), reads=())
        scores = [measured[f"scores.{index}"] for index in range(len(measured))]
        return by_scores(run, self, budgets, scores)


@partial(jax.jit, static_argnames="architecture")
def loss_cotangent(outer: Params, x: Array, batch: Batch, *, architecture: Architecture) -> Array:
    """The gradient of a batch's summed next-token loss at the last residual stream."""
    return jax.grad(lambda x: jnp.sum(next_token_losses(outer, x, batch, architecture)))(x)


@partial(jax.jit, static_argnames=("half", "architecture"), donate_argnames="total")
def add_gradient(
    p: Params, x: Array, batch: Batch, cotangent: Array, total: Any, *, half: str, architecture: Architecture
) -> tuple[Array, Any]:
    """The cotangent before a sublayer that reads the stream `x`, and `total` plus the gradient of its parameters."""
    context = context_of(architecture, batch)
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), p)
    _, pull = jax.vjp(lambda p, x: sublayer(half, p, x, context, architecture)[0], exact, x)
    slope, cotangent = pull(cotangent)
    return cotangent, jax.tree.map(jnp.add, total, slope)


def _measured(run: Run) -> Arrays:
    with run.phase("measure"):
        gradient = summed_gradient(
            run.params,
            run.model.architecture,
            run.batches,
            run.programs,
            lambda done: run.step("measure", done, len(run.batches)),
            run.parts,
        )
        return {f"scores.{index}": entry for index, entry in enumerate(taylor_scores(run.model, gradient))}


def summed_gradient(
    params: Params,
    architecture: Architecture,
    batches: Sequence[Batch],
    programs: Programs,
    on_batch: Callable[[int], None] = lambda done: None,
    parts: Parts | None = None,
) -> list[Params]:
    """The gradient of the next-token loss summed over all tokens, one tree a sublayer, NumPy arrays.

    `parts` keeps the sum now and then; batches that were in it are not computed again.
    """
    devices = programs.devices
    sublayers = architecture.sublayers()
    zeros = lambda leaf: jnp.zeros(leaf.shape, jnp.float32)  # noqa: E731
    total = [devices.keep(devices.fetch(jax.tree.map(zeros, at.of(params["layers"])))) for at in sublayers]
    first, before = (0, {}) if parts is None else parts.take()
    if before:
        leaves, structure = jax.tree.flatten(total)
        total = structure.unflatten([before[f"gradient.{number}"] for number in range(len(leaves))])
        total = [devices.keep(devices.fetch(jax.tree.map(jnp.array, entry))) for entry in total]
    for number, batch in enumerate(batches[first:], first):
        below = [devices.keep(x) for x in streams(params, batch, architecture, programs)]
        outer = devices.fetch(outer_params(params))
        cotangent = programs(loss_cotangent, outer, devices.rows(below.pop()), batch, architecture=architecture)
        del outer
        for at, p in devices.sublayers(params["layers"], reversed(sublayers)):
            here = devices.fetch(jax.tree.map(jnp.array, total[at.index])) if devices.stream else total[at.index]
            cotangent, here = programs(
                add_gradient,
                p,
                devices.rows(below.pop()),
                batch,
                cotangent,
                here,
                half=at.half,
                architecture=architecture.of_layer(at.layer),
            )
            total[at.index] = devices.keep(here)
        on_batch(number + 1)
        if parts is not None:
            state = {f"gradient.{index}": leaf for index, leaf in enumerate(jax.tree.leaves(total))}
            parts.keep(number + 1, len(batches), state)
    return devices.read(total)


def taylor_scores(model: Model, gradient: Sequence[Params]) -> list[np.ndarray]:
    """Σ |w · g| over the weights and biases of every unit, per sublayer."""
    scores = []
    for at, count in zip(model.architecture.sublayers(), unit_counts(model.architecture), strict=True):
        total = np.zeros(count)

        def add(axis: int, weight: Any, slope: Any, total: np.ndarray = total) -> Any:
            total += unit_sums(axis, np.abs(np.asarray(weight, np.float64) * np.asarray(slope, np.float64)))
            return weight

        map_units(at.half, add, at.of(model.params["layers"]), gradient[at.index])
        scores.append(total)
    return scores

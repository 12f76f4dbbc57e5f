"""FLAP: structured pruning by how much features fluctuate, and bias compensation. A baseline.

An, Zhao, Yu, Tang, Wang: Fluctuation-based Adaptive Structured Pruning for Large Language Models, AAAI 2024. A unit
whose features hardly vary over the calibration tokens can go: its mean output, kept as a bias, says the rest. The
criterion "wanda" is the structured form of Wanda (Sun, Liu, Bair, Kolter, ICLR 2024) that the paper compares with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ...errors import SettingsError
from ...model.architecture import Architecture, Sublayer
from ...model.model import Batch, Model, Params
from ...model.sublayer import OUTPUT, context_of, sublayer
from ...runtime.by_sublayer import outer_params, start
from ...runtime.events import OnStep
from ...tasks.calibration import Calibration
from ..budget import Budget
from ..by_scores import check_repair, keep_by_rank, masks_for, repaired
from ..cut import Mask, with_output_biases
from ..kept import KEEP_BYTES
from ..measure import output_kernel, unit_width
from ..measured import Arrays
from ..run import Run, as_budgets


@dataclass(frozen=True, kw_only=True)
class Flap:
    """Settings of FLAP; the defaults are the paper's."""

    criterion: Literal["fluctuation", "wanda"] = field(
        default="fluctuation", metadata={"help": "variance of features times weights, or their norm times weights"}
    )
    compensate: bool = field(default=True, metadata={"help": "the mean of what goes becomes an output bias"})
    repair: Literal["none", "scales", "weights"] = field(
        default="none", metadata={"help": "after cutting: nothing, one scale per unit, or K-prune's refit"}
    )
    measures_once: ClassVar[bool] = True  # its measurement can be kept to resume from

    def __post_init__(self):
        check_repair(self.repair)
        if self.criterion not in ("fluctuation", "wanda"):
            raise SettingsError(f"criterion must be fluctuation or wanda, got {self.criterion!r}.")


class FeatureSums(NamedTuple):
    """Sums over real tokens of a sublayer's features."""

    first: Float[Any, " features"]
    second: Float[Any, " features"]
    tokens: Float[Any, ""]


@partial(jax.jit, static_argnames=("half", "architecture"), donate_argnames="moments")
def observe_moments(
    p: Params, x: Array, batch: Batch, moments: FeatureSums, *, half: str, architecture: Architecture
) -> tuple[Array, FeatureSums]:
    """The residual stream after a sublayer, and its features' sums."""
    x, features = sublayer(half, p, x, context_of(architecture, batch), architecture)
    flat = jnp.where(batch.real[..., None], features.reshape(*features.shape[:2], -1), 0)
    added = FeatureSums(jnp.sum(flat, axis=(0, 1)), jnp.sum(flat**2, axis=(0, 1)), jnp.sum(batch.real))
    return x, jax.tree.map(jnp.add, moments, FeatureSums(*(leaf.astype(jnp.float32) for leaf in added)))


def flap(
    model: Model,
    calibration: Calibration,
    budget: Budget | Sequence[Budget],
    settings: Flap = Flap(),
    *,
    on_step: OnStep | None = None,
    mesh: Mesh | None = None,
    stream: bool = False,
    tokenizer: Any = None,
    keep_bytes: int = KEEP_BYTES,
    out: str | Path | None = None,
    resume: bool = False,
) -> Any:
    """Prune by fluctuation; see `Flap`. Same interface as `kprune`. Compensation gives a model output biases."""
    budgets, alone = as_budgets(budget)
    dense = with_output_biases(model) if settings.compensate else model
    where: dict[str, Any] = {
        "mesh": mesh,
        "stream": stream,
        "tokenizer": tokenizer,
        "keep_bytes": keep_bytes,
        "out": out,
        "resume": resume,
    }
    run = Run.start(dense, calibration, on_step, **where)
    allowed = [run.allowed(entry) for entry in budgets]
    found = run.once("flap", settings, lambda: _measured(run))
    moments = [
        FeatureSums(*(found[f"{part}.{index}"] for part in FeatureSums._fields)) for index in range(len(found) // 3)
    ]
    scores = [
        unit_scores(entry, np.asarray(_kernel(run.model, at)), settings.criterion, width)
        for at, entry, width in zip(run.model.architecture.sublayers(), moments, _widths(run.model), strict=True)
    ]
    results = []
    for number, (entry, limit) in enumerate(zip(budgets, allowed, strict=True)):
        with run.phase("search"):
            # The paper compares sublayers by standard scores, and ranks units whatever they cost.
            standard = [(s - s.mean()) / max(float(s.std()), 1e-30) if s.size else s for s in scores]
            masks = masks_for(run, entry, standard, limit, keep_by_rank)
        start_from = compensated(run.model, moments, masks) if settings.compensate else run.model
        results.append(repaired(run, "flap", settings, entry, masks, ("measurement",) if number else (), start_from))
    return results[0] if alone else results


def _measured(run: Run) -> Arrays:
    with run.phase("measure"):
        moments = measure_moments(run)
    return {f"{part}.{index}": value for index, sums in enumerate(moments) for part, value in sums._asdict().items()}


def measure_moments(run: Run) -> list[FeatureSums]:
    """One forward pass over the calibration texts: the features' sums of every sublayer, bottom up.

    All batches pass a sublayer before the next one comes.
    """
    architecture, params, devices, sums = run.model.architecture, run.params, run.devices, []
    outer = devices.fetch(outer_params(params))
    xs = [run.programs(start, outer, batch, architecture=architecture) for batch in run.batches]
    del outer
    addresses = architecture.sublayers()
    for at, p in devices.sublayers(params["layers"], addresses):
        zeros = jnp.zeros(len(_kernel(run.model, at)))
        total = devices.everywhere(FeatureSums(zeros, zeros, jnp.zeros(())))
        for number, batch in enumerate(run.batches):
            xs[number], total = run.programs(
                observe_moments, p, xs[number], batch, total, half=at.half, architecture=architecture
            )
        sums.append(devices.read(total))
        run.step("measure", at.index + 1, len(addresses))
    return sums


def unit_scores(
    moments: FeatureSums, kernel: Float[np.ndarray, "features hidden"], criterion: str, width: int
) -> Float[np.ndarray, " units"]:
    """Fluctuation: variance of each feature × squared norm of its weights, the mean over a head's features (WIFV).

    Wanda: root of the sum of squares of each feature × the sum of its absolute weights.
    """
    tokens = float(moments.tokens)
    first, second = np.asarray(moments.first, np.float64), np.asarray(moments.second, np.float64)
    if criterion == "wanda":
        each = np.sqrt(second) * np.abs(kernel).sum(1)
    else:
        each = np.maximum(second / tokens - (first / tokens) ** 2, 0) * (kernel.astype(np.float64) ** 2).sum(1)
    return each.reshape(-1, width).mean(1)


def compensated(model: Model, moments: Sequence[FeatureSums], masks: Sequence[Mask]) -> Model:
    """`model` with the mean output of the units that go added to the output biases."""
    halves = []
    for at, entry, mask in zip(model.architecture.sublayers(), moments, masks, strict=True):
        kernel = np.asarray(_kernel(model, at))
        mean = np.asarray(entry.first) / float(entry.tokens)
        gone = np.repeat(~mask, len(kernel) // max(len(mask), 1))
        p = at.of(model.params["layers"])
        out = p[OUTPUT[at.half]]
        bias = np.asarray(out["bias"]) + mean[gone] @ np.asarray(kernel[gone], np.float32)
        bias = bias.astype(out["bias"].dtype)
        halves.append({**p, OUTPUT[at.half]: {**out, "bias": bias}})
    return model.replace(params={**model.params, "layers": model.architecture.by_layer(halves)})


def _kernel(model: Model, at: Sublayer) -> Float[Any, "features hidden"]:
    return output_kernel(at.of(model.params["layers"]), at.half)


def _widths(model: Model) -> list[int]:
    return [unit_width(at.of(model.params["layers"]), at.half) for at in model.architecture.sublayers()]

"""FLAP: structured pruning by how much features fluctuate, and bias compensation. A baseline.

An, Zhao, Yu, Tang, Wang: Fluctuation-based Adaptive Structured Pruning for Large Language Models, AAAI 2024. A unit
whose features hardly vary over the calibration tokens can go: its mean output, kept as a bias, says the rest. The
criterion "wanda" is the structured form of Wanda (Sun, Liu, Bair, Kolter, ICLR 2024) that the paper compares with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...checks import check_types
from ...model.architecture import Architecture, Sublayer
from ...model.context import context_of
from ...model.model import Batch, Model, Params
from ...model.sublayer import OUTPUT, sublayer
from ...runtime.by_sublayer import outer_params, start
from ...settings import formerly
from ..backward import output_kernel, unit_width
from ..budget import Budget
from ..by_scores import Refitting, keep_by_rank, masks_for, refitted_and_cut
from ..cut import Mask, with_output_biases
from ..measured import Arrays
from ..refit_settings import REFIT, Kind, kind_of
from ..run import Run


@formerly(repair="refit")
@dataclass(frozen=True, kw_only=True)
class Flap(Refitting):
    """Settings of FLAP; the defaults are the paper's."""

    criterion: Literal["fluctuation", "wanda"] = field(
        default="fluctuation", metadata={"help": "variance of features times weights, or their norm times weights"}
    )
    compensate: bool = field(default=True, metadata={"help": "the mean of what goes becomes an output bias"})
    refit: Kind | bool = field(default="none", metadata=REFIT)
    name: ClassVar[str] = "flap"
    measures_once: ClassVar[bool] = True

    def __post_init__(self):
        object.__setattr__(self, "refit", kind_of(self.refit))
        check_types(self)

    def prepared(self, model: Model) -> Model:
        """The model with output biases where it has none: compensation writes them."""
        return with_output_biases(model) if self.compensate else model

    def prune(self, run: Run, budgets: Sequence[Budget]) -> list[Model]:
        allowed = [run.allowed(entry) for entry in budgets]
        measured = run.once(self, lambda: _measured(run), reads=())
        sublayers = range(len(measured) // 3)
        moments = [FeatureSums(*(measured[f"{part}.{index}"] for part in FeatureSums._fields)) for index in sublayers]
        scores = [
            unit_scores(entry, np.asarray(_kernel(run.model, at)), self.criterion, width)
            for at, entry, width in zip(run.model.architecture.sublayers(), moments, _widths(run.model), strict=True)
        ]
        results = []
        for number, (entry, limit) in enumerate(zip(budgets, allowed, strict=True)):
            with run.phase("search"):
                # The paper compares sublayers by standard scores, and ranks units whatever they cost.
                standard = [(s - s.mean()) / max(float(s.std()), 1e-30) if s.size else s for s in scores]
                masks = masks_for(run, entry, standard, limit, keep_by_rank)
            start_from = compensated(run.model, moments, masks) if self.compensate else run.model
            results.append(refitted_and_cut(run, self, entry, masks, ("measurement",) if number else (), start_from))
        return results


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


def _measured(run: Run) -> Arrays:
    with run.phase("measure"):
        return _named(measure_moments(run))


def _named(moments: Sequence[FeatureSums]) -> Arrays:
    return {f"{part}.{index}": value for index, sums in enumerate(moments) for part, value in sums._asdict().items()}


def measure_moments(run: Run) -> list[FeatureSums]:
    """One forward pass over the calibration texts: the features' sums of every sublayer, bottom up.

    All batches pass a sublayer before the next one comes. A part of the pass that the run keeps holds the sums of the
    sublayers that are done, and the residual streams.
    """
    architecture, params, devices = run.model.architecture, run.params, run.devices
    addresses, fields = architecture.sublayers(), FeatureSums._fields
    first, before = (0, {}) if run.parts is None else run.parts.take()
    sums = [FeatureSums(*(before[f"{name}.{index}"] for name in fields)) for index in range(first)]
    if before:
        xs = [devices.rows(before[f"stream.{number}"]) for number in range(len(run.batches))]
    else:
        outer = devices.fetch(outer_params(params))
        xs = [run.programs(start, outer, batch, architecture=architecture) for batch in run.batches]
        del outer
    for at, p in devices.sublayers(params["layers"], addresses[first:]):
        zeros = jnp.zeros(len(_kernel(run.model, at)))
        total = devices.everywhere(FeatureSums(zeros, zeros, jnp.zeros(())))
        kind = architecture.of_layer(at.layer)
        for number, batch in enumerate(run.batches):
            xs[number], total = run.programs(
                observe_moments, p, xs[number], batch, total, half=at.half, architecture=kind
            )
        sums.append(devices.read(total))
        run.step("measure", at.index + 1, len(addresses))
        if run.parts is not None:
            state = {f"stream.{number}": x for number, x in enumerate(xs)} | _named(sums)
            run.parts.keep(at.index + 1, len(addresses), state)
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

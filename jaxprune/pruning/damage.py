"""What a sublayer loses when units go and the rest is fitted: the scores of K-prune's default."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..model.architecture import ATTENTION
from ..model.model import Model
from ..runtime.devices import placed
from ..runtime.programs import Programs
from .allocation import Curve, psd_root, score_curve
from .backward import Statistics, output_kernel
from .cost import part_costs
from .elimination import curve, eliminate_heads, eliminate_neurons
from .gram import whole
from .measure import Measurement


class Scoring(NamedTuple):
    """How damage is predicted."""

    by_gates: bool  # from the gates' Fisher information alone, as if nothing were fitted
    ridge: float  # of the features' Gram matrix, in tokens on which features were independent
    sensitivity: bool  # weigh output directions by their gradient
    query_heads: bool  # with grouped queries, score query heads


def damage_curves(
    model: Model,
    measured: Measurement,
    scoring: Scoring,
    programs: Programs,
    on_sublayer: Callable[[int], None] = lambda done: None,
) -> list[Curve]:
    """For every sublayer: the order in which its units should go, and the predicted KL after the first k have gone."""
    curves: list[Curve] = []
    for at, statistics in zip(model.architecture.sublayers(), measured.statistics, strict=True):
        size, statistics = model.architecture.layers[at.layer], programs.devices.read(statistics)
        on_sublayer(at.index)
        units = size.units[at.half]
        if units == 0:
            curves.append(Curve(np.zeros(0, int), np.zeros(1)))
            continue
        if scoring.by_gates:
            curves.append(gate_curve(statistics, measured.texts))
            continue
        kernel = np.asarray(output_kernel(at.of(model.params["layers"]), at.half), np.float32)
        gram, weight = surgeon_inputs(
            statistics, kernel, measured.tokens, measured.texts, scoring.ridge, scoring.sensitivity
        )
        if at.half == ATTENTION:
            queries = size.queries if scoring.query_heads else 1
            prices = part_costs(model.architecture, "params")
            curves.append(eliminate_heads(gram, weight, units, queries, (prices.query_head, prices.key_value)))
            continue
        order, damage = programs(eliminate_neurons, *placed((gram, weight)), chunk=max(units // 24, 1))
        curves.append(curve(order, damage, units))
    on_sublayer(len(curves))
    return curves


def surgeon_inputs(
    statistics: Statistics, kernel: np.ndarray, tokens: int, texts: int, ridge: float, sensitivity: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The Gram of the features about their mean (the refit moves the bias), and output weights in root-KL units.

    KL of a text ≈ ½ Σ_t (g_t · Δu_t)², tokens taken as independent: ½ (tokens / texts) tr(A ΔWᵀ G ΔW) with A the mean
    of g gᵀ. Without `sensitivity` A is replaced by the multiple of the identity of equal trace.
    """
    mean = np.asarray(statistics.mean) / tokens
    gram = whole(np.asarray(statistics.gram))  # in place from here on: fresh memory takes longer than the sums
    gram /= tokens
    gram -= np.outer(mean, mean)
    # Features in units of their own spread: they differ by orders of magnitude, and the elimination downdates an
    # inverse in float32, which loses as many digits as the diagonal spans.
    spread = np.sqrt(np.maximum(np.diag(gram), 1e-12 * np.max(np.diag(gram)) + 1e-30))
    gram /= spread[:, None]
    gram /= spread[None, :]
    gram[np.diag_indices_from(gram)] += ridge / tokens
    metric = whole(np.asarray(statistics.sensitivity)) / texts / 2
    if not sensitivity:
        metric = np.eye(len(metric), dtype=np.float32) * np.trace(metric) / len(metric)
    return gram, spread[:, None] * (kernel @ psd_root(metric))


def gate_curve(statistics: Statistics, texts: int) -> Curve:
    """Units by their gates alone: ½ mean squared gradient, as if damages added up and nothing was re-fitted."""
    return score_curve(np.asarray(statistics.gates, np.float64) / texts / 2)


def tilted(curves: Sequence[Curve], ratio: float) -> list[Curve]:
    """Curves with the damage of lower sublayers weighed more: by `ratio` at the bottom, 1 at the top, geometrically.

    What a lower sublayer loses passes through every later one, which the prediction, made at the dense model, sees
    only to second order.
    """
    last = max(len(curves) - 1, 1)
    return [entry._replace(damage=entry.damage * ratio ** (1 - index / last)) for index, entry in enumerate(curves)]

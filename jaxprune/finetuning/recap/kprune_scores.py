"""K-prune at the cut, beyond the paper: which units go by the damage that a refit leaves, and the refit itself.

Both read the full model on the host, one sublayer's weights at a time, and need no labels. What a round then trains
starts from fitted weights; the full model gets what training changed, not the fit (`rounds.py`), since units that this
round leaves out expect the others as they were.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ...model import Batch, Model, Params
from ...pruning.allocation import slopes
from ...pruning.cut import Mask
from ...pruning.damage import damage_curves, tilted
from ...pruning.measure import Measurement, measure
from ...pruning.methods.kprune import KPrune
from ...pruning.refit import follow
from ...runtime.programs import Programs

OnPart = Callable[[int, int], None]  # parts done, of how many
Scores = list[np.ndarray]  # one number a unit, per sublayer, bottom up


def measure_knowledge(
    model: Model, batches: Sequence[Batch], seed: int, programs: Programs, on_part: OnPart, *, scores: bool = True
) -> Measurement:
    """What K-prune measures on the model's own predictions; without `scores` only how much each token matters."""
    settings = KPrune(seed=seed)
    return measure(
        programs.devices.params(model.params), model.architecture, [programs.devices.rows(batch) for batch in batches],
        temperature=settings.temperature, floor=settings.token_floor, exact_up_to=settings.exact_up_to,
        seed=settings.seed, programs=programs, grams=scores, on_part=on_part,
    )  # fmt: skip


def damage_scores(model: Model, measurement: Measurement, programs: Programs) -> Scores:
    """Per sublayer [units]: by how much the predicted KL rises when a unit goes in its turn and the rest is fitted.

    Along the lower convex hull of a sublayer's curve, so that one threshold over all sublayers removes first what
    should go first.
    """
    settings = KPrune().settled(model.architecture)
    assert settings.depth_ratio is not None  # settled
    per_sublayer = []
    for curve in tilted(damage_curves(model, measurement, settings.scoring, programs), settings.depth_ratio):
        units = len(curve.order)
        rises = slopes(curve.damage, np.ones(units)) * (1 + 1e-9 * np.arange(units))  # of a tie, the earlier one goes
        scores = np.empty(units)
        scores[curve.order] = np.maximum(rises, 0.0)
        per_sublayer.append(scores)
    return per_sublayer


def fitted(
    model: Model, measurement: Measurement, masks: Sequence[Mask], batches: Sequence[Batch], programs: Programs,
    on_part: OnPart,
) -> Params:  # fmt: skip
    """The model's parameters with the kept units of every sublayer fitted in turn, in full size; NumPy's."""
    whole, _ = follow(
        model, programs.devices.params(model.params), masks, [programs.devices.rows(batch) for batch in batches],
        measurement.weights, KPrune().settled(model.architecture).fit, programs, lambda done: on_part(done, len(masks)),
    )  # fmt: skip
    return whole.params

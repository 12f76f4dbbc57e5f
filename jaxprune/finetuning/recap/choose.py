"""Which units a round keeps and which of their rows train: sorting on the host, in NumPy."""

from collections.abc import Sequence
from math import ceil

import numpy as np

from ...model import Architecture
from ...prune.baselines import threshold
from ...prune.cost import unit_costs
from ...prune.cut import Mask, unit_counts
from .settings import Recap
from .sweep import Rows

Scores = list[np.ndarray]  # one number a unit, per sublayer, bottom up


def unit_sizes(architecture: Architecture, settings: Recap) -> list[int]:
    """What one unit of every sublayer counts for in `settings.remove`."""
    if settings.share_of == "units":
        return [1] * (2 * len(architecture.layers))
    return [size for pair in unit_costs(architecture, "params") for size in pair]


def keep_units(scores: Scores, sizes: Sequence[int], kept: Sequence[Mask], removed: float, cap: float) -> list[Mask]:
    """Masks (true keeps) of one ranking over the units of all sublayers, those in `kept`.

    What stays counts for at most 1 - `removed` of all units; importance is compared per what a unit counts for. A
    sublayer keeps at least 1 - `cap` of its units, its most important ones, and at least one: where these count for
    more than what may stay, they alone do.
    """
    total = sum(size * len(mask) for size, mask in zip(sizes, kept, strict=True))
    ranked, least = [], 0
    for score, mask in zip(scores, kept, strict=True):
        values = np.where(mask, score, -np.inf)
        safe = np.argsort(-values, kind="stable")[: ceil(round((1 - cap) * len(values), 9))]
        values[safe] = np.inf
        ranked.append(values)
        least += len(safe) * sizes[len(ranked) - 1]
    masks = threshold(ranked, sizes, max(least, total - round(removed * total)))
    return [new & old for new, old in zip(masks, kept, strict=True)]


def everything_kept(architecture: Architecture) -> list[Mask]:
    return [np.ones(count, bool) for count in unit_counts(architecture)]


def averaged(earlier: Scores | None, found: Scores, weight: float) -> Scores:
    """The running average over rounds, of importance as shares of its sum: gradients shrink as the loss does."""
    total = max(float(sum(entry.sum() for entry in found)), 1e-300)
    shares = [entry / total for entry in found]
    if earlier is None:
        return shares
    return [weight * old + (1 - weight) * new for old, new in zip(earlier, shares, strict=True)]


def train_rows(fisher: Rows, freeze: float) -> Rows:
    """Masks (true trains) of the rows of every matrix with the most Fisher information: a share 1 - `freeze` of each.

    At least one row of a matrix trains; of equal ones the first. Shares are per matrix, so that what a round needs on
    the device does not depend on the texts.
    """

    def most(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(-1)
        mask = np.zeros(flat.size, bool)
        mask[np.argsort(-flat, kind="stable")[: trained_count(flat.size, freeze)]] = True
        return mask.reshape(values.shape)

    return [
        {half: {name: most(values) for name, values in matrices.items()} for half, matrices in layer.items()}
        for layer in fisher
    ]


def trained_count(rows: int, freeze: float) -> int:
    """How many of `rows` rows of a matrix train."""
    return min(rows, max(1, round((1 - freeze) * rows)))

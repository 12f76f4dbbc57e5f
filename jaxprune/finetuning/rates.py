"""Learning rates of a recovery: which are tried, and what says that one does."""

from collections.abc import Callable

import numpy as np

from ..errors import NumericalError

RATE, APART = 2e-4, 4.0  # the learning rate that is tried first, and the factor between two that are
LIMITS = 1e-6, 1e-1  # no rate beyond these is tried


def lowest(trial: Callable[[float], float], enough: float = -np.inf) -> dict[float, float]:
    """What `trial` gave for `RATE` and those `APART` from it, as far as they still got better: upwards, else downwards.

    Lower rates are not tried where one brings the gap below `enough`. Raises `NumericalError` where all are infinite.
    """
    tried = {RATE: trial(RATE)}
    for factor in (APART, 1 / APART):
        rate = RATE * factor
        while LIMITS[0] <= rate <= LIMITS[1] and (factor > 1 or min(tried.values()) >= enough):
            tried[rate] = trial(rate)
            if not tried[rate] < min(gap for other, gap in tried.items() if other != rate):
                break
            rate *= factor
        if min(tried, key=tried.__getitem__) > RATE:
            break  # higher was better: lower ones need not be tried
    if not np.isfinite(min(tried.values())):
        raise NumericalError("no learning rate gives finite weights; check the texts and the weights.")
    return tried

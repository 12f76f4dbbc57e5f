"""The units of a round: measured, ranked and chosen, now or ahead of time, and fitted where that is asked."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from math import ceil
from threading import Event
from typing import Any, NamedTuple

import jax
import numpy as np

from ...model import Architecture, Params
from ...pruning.by_scores import threshold
from ...pruning.cost import sublayer_costs
from ...pruning.cut import Mask, everything_kept
from ...pruning.measure import Measurement
from ...runtime.events import OnStep
from .kprune_scores import Scores, damage_scores, fitted, measure_knowledge
from .run import HostState, RecapRun
from .settings import Recap, step_shares
from .sweep import Form, Rows, sweep


class Units(NamedTuple):
    """Which units a round keeps, and what goes with that choice."""

    masks: list[Mask]
    average: list[np.ndarray]  # of importance, with this round's
    knowledge: Measurement | None  # K-prune's, for the refit; its statistics are gone


class Ahead(NamedTuple):
    """The next round's choice of units, made while the device was at work."""

    units: Units
    seconds: float


@contextmanager
def measured_ahead(run: RecapRun, state: HostState, number: int) -> Iterator[Future[Ahead] | None]:
    """The next round's units, measured in a thread on the weights that this round starts from; None: not wanted."""
    if not run.settings.prefetch or number + 1 == run.settings.rounds:
        yield None
        return

    gone = Event()

    def check(event: dict[str, Any]) -> None:
        if gone.is_set():
            raise CancelledError

    def choose() -> Ahead:
        began = time.perf_counter()
        return Ahead(choose_units(run, state, number + 1, check), time.perf_counter() - began)

    with ThreadPoolExecutor(1) as thread:  # leaving waits for it: it reads weights that write back consumes
        try:
            yield thread.submit(choose)
        except BaseException:  # nobody asks for the result any more
            gone.set()
            raise


def choose_units(run: RecapRun, state: HostState, number: int, tell: OnStep) -> Units:
    """What the round keeps, chosen in `pruning_steps` parts."""
    settings, architecture, knowledge = run.settings, run.model.architecture, None
    sizes, masks, average, left = unit_sizes(architecture, settings), everything_kept(architecture), [], 1.0
    earlier = state.average if settings.average and number else None
    widths = [int(mask.sum()) for mask in state.masks] if settings.widths == "first" and number else None
    for step, share in enumerate(step_shares(settings.remove, settings.pruning_steps)):
        if settings.importance == "kprune":
            knowledge, scores = _damage(run, state, number, tell)
        else:
            scores = swept(run, state.params, masks, settings.importance, number, tell)
        importance = averaged(earlier, scores, settings.average)
        if not step and settings.average:
            average = importance
        left *= 1 - share
        if widths is None:
            masks = keep_units(importance, sizes, masks, 1 - left, settings.cap)
        else:
            part = (step + 1) / settings.pruning_steps
            masks = keep_widths(importance, widths, masks, part)
    return Units(masks, average, knowledge)


def _damage(run: RecapRun, state: HostState, number: int, tell: OnStep) -> tuple[Measurement, Scores]:
    """K-prune's measurement and the scores that follow from it."""
    model = run.model.replace(params=state.params)
    on_part = lambda done, of: tell({"phase": "importance", "done": done, "of": of})  # noqa: E731
    with jax.default_device(run.placement.host):
        measurement = measure_knowledge(model, run.sampled(number), run.training.seed, run.sweeps, on_part)
        scores = damage_scores(model, measurement, run.sweeps)
    return measurement._replace(statistics=[]), scores


def refitted(run: RecapRun, state: HostState, units: Units, number: int) -> Params:
    """The full model's parameters with those that stay fitted to it, as the small model starts."""
    model, batches, seed = run.model.replace(params=state.params), run.sampled(number), run.training.seed
    on_part = lambda done, of: run.step({"phase": "masking", "done": done, "of": of})  # noqa: E731
    with jax.default_device(run.placement.host):
        measurement = units.knowledge or measure_knowledge(model, batches, seed, run.sweeps, on_part, scores=False)
        return fitted(model, measurement, units.masks, batches, run.sweeps, on_part)


def swept(run: RecapRun, params: Params, masks: list[Mask], form: Form, number: int, tell: OnStep) -> Any:
    batches, placement, on_device = run.sampled(number), run.placement, run.settings.measure_on == "device"
    name = "masking" if form == "fisher" else "importance"
    return sweep(
        params, run.model.architecture, batches, run.targets, masks,
        form=form, place=placement.to_device if on_device else placement.on_host, programs=run.sweeps,
        rows=partial(placement.to_device, places=placement.rows) if on_device else None,
        keep=placement.to_host if on_device else None,
        on_part=lambda done, of: tell({"phase": name, "done": done, "of": of}),
    )  # fmt: skip


def unit_sizes(architecture: Architecture, settings: Recap) -> list[int]:
    """What one unit of every sublayer counts for in `settings.remove`."""
    if settings.cost == "units":
        return [1] * len(architecture.sublayers())
    return sublayer_costs(architecture, "params")


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


def keep_widths(scores: Scores, widths: Sequence[int], kept: Sequence[Mask], part: float = 1.0) -> list[Mask]:
    """Masks (true keeps) of the most important units in `kept`, as many of each sublayer as `widths` says.

    With `part` below 1 only that part of what has to go goes.
    """
    masks = []
    for score, width, mask in zip(scores, widths, kept, strict=True):
        stay = len(mask) - round(part * (len(mask) - width))
        best = np.argsort(np.where(mask, -score, np.inf), kind="stable")[:stay]
        masks.append(np.isin(np.arange(len(mask)), best))
    return masks


def averaged(earlier: Scores | None, new_scores: Scores, weight: float) -> Scores:
    """The running average over rounds, of importance as shares of its sum: gradients shrink as the loss does."""
    total = max(float(sum(entry.sum() for entry in new_scores)), 1e-300)
    shares = [entry / total for entry in new_scores]
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

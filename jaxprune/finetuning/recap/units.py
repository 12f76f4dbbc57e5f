"""The units of a round: measured, ranked and chosen, now or ahead of time, and fitted where that is asked."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any, NamedTuple

import jax
import numpy as np

from ...model import Params
from ...prune.cut import Mask
from ...prune.measure import Measurement
from .choose import Scores, averaged, everything_kept, keep_units, unit_sizes
from .run import HostState, Run
from .settings import step_shares
from .surgeon import damage_scores, fitted, measured
from .sweep import Form, sweep

Tell = Callable[[dict[str, Any]], None]


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
def measured_ahead(run: Run, state: HostState, number: int) -> Iterator[Future[Ahead] | None]:
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


def choose_units(run: Run, state: HostState, number: int, tell: Tell) -> Units:
    """What the round keeps, chosen in `pruning_steps` parts."""
    settings, architecture, knowledge = run.settings, run.model.architecture, None
    sizes, masks, average, left = unit_sizes(architecture, settings), everything_kept(architecture), [], 1.0
    earlier = state.average if settings.average and number else None
    for step, share in enumerate(step_shares(settings.remove, settings.pruning_steps)):
        if settings.importance == "kprune":
            knowledge, scores = _damage(run, state, number, tell)
        else:
            scores = swept(run, state.params, masks, settings.importance, number, tell)
        found = averaged(earlier, scores, settings.average)
        if not step and settings.average:
            average = found
        left *= 1 - share
        masks = keep_units(found, sizes, masks, 1 - left, settings.cap)
    return Units(masks, average, knowledge)


def _damage(run: Run, state: HostState, number: int, tell: Tell) -> tuple[Measurement, Scores]:
    """K-prune's measurement and the scores that follow from it."""
    model = run.model.replace(params=state.params)
    on_part = lambda done, of: tell({"phase": "importance", "done": done, "of": of})  # noqa: E731
    with jax.default_device(run.placement.host):
        found = measured(model, run.sampled(number), run.training.seed, run.sweeps, on_part)
        scores = damage_scores(model, found, run.sweeps)
    return found._replace(statistics=[]), scores


def refitted(run: Run, state: HostState, units: Units, number: int) -> Params:
    """The full model's parameters with those that stay fitted to it, as the small model starts."""
    model, batches, seed = run.model.replace(params=state.params), run.sampled(number), run.training.seed
    on_part = lambda done, of: run.step({"phase": "masking", "done": done, "of": of})  # noqa: E731
    with jax.default_device(run.placement.host):
        found = units.knowledge or measured(model, batches, seed, run.sweeps, on_part, scores=False)
        return fitted(model, found, units.masks, batches, run.sweeps, on_part)


def swept(run: Run, params: Params, masks: list[Mask], form: Form, number: int, tell: Tell) -> Any:
    batches, on_device = run.sampled(number), run.settings.measure_on == "device"
    name = "masking" if form == "fisher" else "importance"
    return sweep(
        params, run.model.architecture, batches, run.targets, masks,
        form=form, place=run.placement.to_device if on_device else run.placement.on_host, programs=run.sweeps,
        on_batch=lambda done: tell({"phase": name, "done": done, "of": len(batches)}),
    )  # fmt: skip

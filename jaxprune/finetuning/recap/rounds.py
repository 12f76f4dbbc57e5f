"""One round of RECAP: importance, masking, teaching where the full model does, tuning, write back, evaluation."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from threading import Event
from typing import Any, NamedTuple

import jax
import numpy as np

from ...data.evaluate import evaluate
from ...data.task import Task
from ...devices import Devices
from ...model import Batch, Model, Params
from ...model.by_sublayer import last_outputs
from ...placement import Books, Placement, free
from ...programs import Programs
from ...prune.cut import Mask, cut_architecture
from ...prune.measure import Measurement
from ..lora import count
from ..train import Train, merge, select
from .choose import Scores, averaged, everything_kept, keep_units, train_rows, unit_sizes
from .scatter import (
    Kept,
    cut,
    cut_layer,
    join,
    join_layer,
    join_outer,
    kept_of,
    split,
    split_layer,
    split_outer,
    with_trained,
    write_layer,
)
from .settings import Recap, step_shares
from .surgeon import damage_scores, fitted, measured
from .sweep import Rows, sweep
from .tuning import BETAS, Moments, decayed, in_float32, trainable_of, tune, whole_parts, zeros

PHASES = ("importance", "masking", "tuning", "write back", "evaluation")  # and "teaching" before tuning, if asked


class HostState(NamedTuple):
    """All that goes from round to round; NumPy's, on the host."""

    params: Params  # of the full model
    moments: Moments | None  # of the full model; None where they are dropped
    average: list[np.ndarray]  # importance over the rounds so far; empty where none is kept
    masks: list[Mask]  # of the last round
    best: list[Mask]  # of the best one
    coming: list[Mask]  # of the next round, where they are measured ahead; empty where they never are


class Chosen(NamedTuple):
    """What a round works on."""

    masks: list[Mask]
    kept: Kept
    rows: Rows
    tokens: np.ndarray | None  # which token embeddings train; None: all or none of them


@dataclass
class Run:
    """What all rounds share."""

    model: Model  # for its architecture and provenance; its parameters are not read
    task: Task
    settings: Recap
    training: Train  # resolved; its epochs are those of the whole run
    batches: Callable[[int], Sequence[Batch]]
    targets: np.ndarray
    batch_count: int  # of an epoch
    tokens: np.ndarray | None  # true at the ids that occur in the training texts
    placement: Placement
    tell: Callable[[dict[str, Any]], None]  # once a phase
    on_step: Callable[[dict[str, Any]], None]  # once a batch
    stopped: Callable[[], bool] = lambda: False  # whether a signal came
    guided: Callable[[int], bool] = lambda number: False  # whether a round learns from the full model's predictions
    # One set for all rounds: shapes stay. Where K-prune measures, layers come one by one as in the sweeps.
    sweeps: Programs = field(default_factory=lambda: Programs(own={}, devices=Devices(stream=True)))
    teaching: Programs = field(default_factory=lambda: Programs(own={}, devices=Devices(stream=True)))

    @property
    def steps(self) -> int:
        return self.settings.epochs * self.batch_count

    def step(self, event: dict[str, Any]) -> None:
        """Tell of a batch. Raises `KeyboardInterrupt` where a signal came."""
        self.on_step(event)
        if self.stopped():
            raise KeyboardInterrupt

    def sampled(self, number: int) -> Sequence[Batch]:
        """The batches that a round is measured on: its first ones, whose shape is that of all others."""
        wanted = ceil(self.settings.samples / self.training.batch_size)
        return self.batches(number * self.settings.epochs_per_round)[:wanted]

    @property
    def split_name(self) -> str:
        return "holdout" if self.training.holdout else "validation"

    @contextmanager
    def phase(
        self, name: str, number: int, phases: dict[str, Any], on_device: bool, programs: Programs | None = None
    ) -> Iterator[Books]:
        with self.placement.phase(name, on_device, programs) as books:
            yield books
        phases[name] = books.as_json()
        self.tell({"phase": name, "round": number, "of": self.settings.rounds, **phases[name]})


def one_round(run: Run, state: HostState, number: int) -> tuple[HostState, Params, dict[str, Any]]:
    """The host's state after a round, the small model's parameters, and the round's record. Consumes `state`."""
    phases: dict[str, Any] = {}
    settings, on_device = run.settings, run.settings.measure_on == "device"
    with run.phase("importance", number, phases, on_device, run.sweeps):
        if settings.prefetch and number:
            units = Units(state.coming, state.average, None)
        else:
            units = _choose_units(run, state, number, run.step)
    masks = units.masks
    with run.phase("masking", number, phases, on_device, run.sweeps):
        source = _refitted(run, state, units, number) if settings.refit else state.params
        chosen = _choose_rows(run, source, masks, number)
    small = cut_architecture(run.model.architecture, masks)
    epochs: list[Any] = [
        lambda epoch=number * settings.epochs_per_round + i: run.batches(epoch)
        for i in range(settings.epochs_per_round)
    ]
    if run.training.distills:
        with run.phase("teaching", number, phases, False, run.teaching):
            guides = _guides(run, state, epochs, number) if run.guided(number) else None
    else:
        guides = None
    before = state._replace(average=units.average)
    with run.phase("tuning", number, phases, True), _ahead(run, before, number) as ahead:
        parts, trains = split(cut(source, chosen.kept), chosen.rows, chosen.tokens), trainable_of(settings)
        del source  # with a refit, a second copy of all layers
        moments, first_step = _moments(state, parts, chosen, settings), number * len(epochs) * run.batch_count
        tuned = tune(
            parts, moments, small, epochs, run.targets, run.training, settings, run.placement, guides,
            steps=run.steps, done=first_step, since=0 if settings.moments == "dropped" else first_step,
            on_step=lambda done, loss: run.step({"phase": "train", "done": done, "of": run.steps, "loss": loss}),
        )  # fmt: skip
        trainable, total = count(select(parts, trains)[0]), count(parts) - _places(parts)
        start = parts if settings.refit else None
        del parts, moments
        coming = None if ahead is None else ahead.result()
    with run.phase("write back", number, phases, True):
        trained = run.placement.to_host(tuned.chosen, keep=True)  # evaluation still reads it
        moments, best = state.moments, None
        if start is None:
            params = written(state.params, chosen, trained)
        else:
            best = join(merge(trained, select(start, trains)[1]))
            params = written(state.params, chosen, _moved(state.params, chosen, trains, start, trained))
        if moments is None:
            free(tuned.moments)
        else:
            triples = zip(moments, tuned.moments, BETAS, strict=True)
            moments = Moments(*[written(full, chosen, run.placement.to_host(new), beta) for full, new, beta in triples])
    with run.phase("evaluation", number, phases, True):
        there = whole_parts(tuned)
        model = run.model.replace(architecture=small, params=there)
        scored = evaluate(model, run.task, split=run.split_name, programs=run.placement.programs)
        free(there)
    record = {
        "round": number,
        "score": scored.score,
        "metric": scored.metric,
        "metrics": scored.metrics,
        "loss": float(np.mean(tuned.losses)),
        "steps": len(tuned.losses),
        "frozen": settings.freeze_at(number),
        "parameters": total,
        "trainable_parameters": trainable,
        "heads": [np.flatnonzero(mask).tolist() for mask in masks[::2]],
        "neurons": [int(mask.sum()) for mask in masks[1::2]],
        "new": {
            name: _new_share(masks[half::2], state.masks[half::2]) for half, name in enumerate(("heads", "neurons"))
        },
        "seconds": sum(phase["seconds"] for phase in phases.values()),
        "seconds_ahead": 0.0 if coming is None else coming.seconds,
        "phases": phases,
    }
    best = cut(params, chosen.kept) if best is None else best
    after = HostState(params, moments, units.average, masks, state.best, state.coming)
    if coming is not None:
        after = after._replace(average=coming.units.average, coming=coming.units.masks)
    return after, best, record


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
def _ahead(run: Run, state: HostState, number: int) -> Iterator[Future[Ahead] | None]:
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
        return Ahead(_choose_units(run, state, number + 1, check), time.perf_counter() - began)

    with ThreadPoolExecutor(1) as thread:  # leaving waits for it: it reads weights that write back consumes
        try:
            yield thread.submit(choose)
        except BaseException:  # nobody asks for the result any more
            gone.set()
            raise


def _choose_units(run: Run, state: HostState, number: int, tell: Callable[[dict[str, Any]], None]) -> Units:
    """What the round keeps, chosen in `pruning_steps` parts."""
    settings, architecture, knowledge = run.settings, run.model.architecture, None
    sizes, masks, average, left = unit_sizes(architecture, settings), everything_kept(architecture), [], 1.0
    earlier = state.average if settings.average and number else None
    for step, share in enumerate(step_shares(settings.remove, settings.pruning_steps)):
        if settings.importance == "kprune":
            knowledge, scores = _damage(run, state, number, tell)
        else:
            scores = _sweep(run, state.params, masks, settings.importance, number, tell)
        found = averaged(earlier, scores, settings.average)
        if not step and settings.average:
            average = found
        left *= 1 - share
        masks = keep_units(found, sizes, masks, 1 - left, settings.cap)
    return Units(masks, average, knowledge)


def _damage(
    run: Run, state: HostState, number: int, tell: Callable[[dict[str, Any]], None]
) -> tuple[Measurement, Scores]:
    """K-prune's measurement and the scores that follow from it."""
    model = run.model.replace(params=state.params)
    on_part = lambda done, of: tell({"phase": "importance", "done": done, "of": of})  # noqa: E731
    with jax.default_device(run.placement.host):
        found = measured(model, run.sampled(number), run.training.seed, run.sweeps, on_part)
        scores = damage_scores(model, found, run.sweeps)
    return found._replace(statistics=[]), scores


def _refitted(run: Run, state: HostState, units: Units, number: int) -> Params:
    """The full model's parameters with those that stay fitted to it, as the small model starts."""
    model, batches, seed = run.model.replace(params=state.params), run.sampled(number), run.training.seed
    on_part = lambda done, of: run.step({"phase": "masking", "done": done, "of": of})  # noqa: E731
    with jax.default_device(run.placement.host):
        found = units.knowledge or measured(model, batches, seed, run.sweeps, on_part, scores=False)
        return fitted(model, found, units.masks, batches, run.sweeps, on_part)


def _guides(
    run: Run, state: HostState, epochs: Sequence[Callable[[], Sequence[Batch]]], number: int
) -> list[list[np.ndarray]]:
    """The full model's logits for every batch of the round's epochs, computed on the host."""
    architecture, found = run.model.architecture, []
    of = run.batch_count * (1 if architecture.head == "classification" else len(epochs))
    table: np.ndarray | None = None  # [texts, labels], of classifiers: one pass serves all epochs
    for batches in epochs:
        guides = []
        for batch in batches():
            texts = np.asarray(batch.index)
            if table is not None:
                guides.append(table[np.maximum(texts, 0)])
                continue
            with jax.default_device(run.placement.host):
                (logits,) = last_outputs(state.params, [batch], architecture, run.teaching, logits=True)
            guides.append(np.array(logits))
            run.step({"phase": "teaching", "done": len(found) * run.batch_count + len(guides), "of": of})
        found.append(guides)
        if architecture.head == "classification" and table is None and len(epochs) > 1:
            table = np.zeros((len(run.targets), guides[0].shape[-1]), np.float32)
            for batch, guide in zip(batches(), guides, strict=True):
                texts = np.asarray(batch.index)
                table[texts[texts >= 0]] = guide[texts >= 0]
    return found


def _moved(full: Params, chosen: Chosen, trains: Any, start: Params, trained: Params) -> Params:
    """The trained leaves of the full model: its own, moved by what training changed of `start`."""
    own = select(split(cut(full, chosen.kept), chosen.rows, chosen.tokens), trains)[0]
    return jax.tree.map(lambda leaf, old, new: leaf + (new - old), own, select(start, trains)[0], trained)


def _choose_rows(run: Run, params: Params, masks: list[Mask], number: int) -> Chosen:
    kept = kept_of(masks)
    found = _sweep(run, params, masks, "fisher", number, run.step)
    of_kept = [
        {
            half: {name: values.take(kept[2 * index + offset], axis=0) for name, values in layer[half].items()}
            for offset, half in enumerate(layer)
        }
        for index, layer in enumerate(found)
    ]
    return Chosen(masks, kept, train_rows(of_kept, run.settings.freeze_at(number)), run.tokens)


def _sweep(
    run: Run, params: Params, masks: list[Mask], form: Any, number: int, tell: Callable[[dict[str, Any]], None]
) -> Any:
    batches, on_device = run.sampled(number), run.settings.measure_on == "device"
    name = "masking" if form == "fisher" else "importance"
    return sweep(
        params, run.model.architecture, batches, run.targets, masks,
        form=form, place=run.placement.to_device if on_device else run.placement.on_host, programs=run.sweeps,
        on_batch=lambda done: tell({"phase": name, "done": done, "of": len(batches)}),
    )  # fmt: skip


def _moments(state: HostState, parts: Params, chosen: Chosen, settings: Recap) -> Moments:
    """Those of the rows that will train, in float32."""
    trains = trainable_of(settings)
    if state.moments is None:
        return zeros(select(parts, trains)[0])
    of_kept = (split(cut(full, chosen.kept), chosen.rows, chosen.tokens) for full in state.moments)
    return Moments(*[in_float32(select(each, trains)[0]) for each in of_kept])


def written(full: Params, chosen: Chosen, trained: Params, beta: float | None = None) -> Params:
    """`full` (parameters, or moments, which then decay by `beta` where they did not train) with what trained.

    Goes layer by layer and consumes `full`, so that there is never a second copy of more than one layer.
    """
    layers = full["layers"]
    for index in range(len(layers)):
        layer = layers[index] if beta is None else decayed(layers[index], beta)
        parts = split_layer(cut_layer(layer, chosen.kept, index), chosen.rows[index])
        small = join_layer(with_trained(parts, trained["layers"][index]))
        layers[index] = write_layer(layer, chosen.kept, index, small)
    outer = full if beta is None else decayed({**full, "layers": []}, beta)
    new = {name: value for name, value in trained.items() if name != "layers"}
    parts = with_trained(split_outer(outer, chosen.tokens), new)
    dtypes = {name: value for name, value in outer.items() if name != "layers"}
    joined = jax.tree.map(lambda value, like: np.asarray(value, like.dtype), join_outer(parts), dtypes)
    return {**joined, "layers": layers}


def _places(parts: Params) -> int:
    """How many numbers of a split model are not parameters: where its rows lie."""
    paths = jax.tree_util.tree_leaves_with_path(parts)
    return sum(leaf.size for path, leaf in paths if getattr(path[-1], "name", None) == "place")


def _new_share(masks: Sequence[Mask], before: Sequence[Mask]) -> float:
    """The share of the kept units that the round before had removed."""
    now, then = np.concatenate(masks), np.concatenate(before)
    return float(np.mean(~then[now])) if now.any() else 0.0

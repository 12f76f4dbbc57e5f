"""One round of RECAP: importance, masking, tuning, write back, evaluation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any, NamedTuple

import jax
import numpy as np

from ...data.evaluate import evaluate
from ...data.task import Task
from ...model import Batch, Model, Params
from ...placement import Books, Placement, free
from ...programs import Programs
from ...prune.cut import Mask, cut_architecture
from ..lora import count
from ..train import Train, select
from .choose import averaged, everything_kept, keep_units, train_rows, unit_sizes
from .scatter import (
    Kept,
    cut,
    cut_layer,
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
from .sweep import Rows, sweep
from .tuning import BETAS, Moments, decayed, in_float32, trainable_of, tune, whole_parts, zeros

PHASES = ("importance", "masking", "tuning", "write back", "evaluation")


class HostState(NamedTuple):
    """All that goes from round to round; NumPy's, on the host."""

    params: Params  # of the full model
    moments: Moments | None  # of the full model; None where they are dropped
    average: list[np.ndarray]  # importance over the rounds so far; empty where none is kept
    masks: list[Mask]  # of the last round
    best: list[Mask]  # of the best one


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
    sweeps: Programs = field(default_factory=lambda: Programs(own={}))  # one set for all rounds: shapes stay

    @property
    def steps(self) -> int:
        return self.settings.epochs * self.batch_count

    def step(self, event: dict[str, Any]) -> None:
        """Tell of a batch. Raises `KeyboardInterrupt` where a signal came."""
        self.on_step(event)
        if self.stopped():
            raise KeyboardInterrupt

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
    measured_on_device = run.settings.measure_on == "device"
    with run.phase("importance", number, phases, measured_on_device, run.sweeps):
        masks, average = _choose_units(run, state, number)
    with run.phase("masking", number, phases, measured_on_device, run.sweeps):
        chosen = _choose_rows(run, state, masks, number)
    small = cut_architecture(run.model.architecture, masks)
    with run.phase("tuning", number, phases, True):
        parts = split(cut(state.params, chosen.kept), chosen.rows, chosen.tokens)
        trains = trainable_of(run.settings)
        moments, done = _moments(state, parts, chosen, run.settings), number * run.settings.epochs_per_round
        first_step = done * run.batch_count
        tuned = tune(
            parts, moments, small,
            [lambda epoch=done + i: run.batches(epoch) for i in range(run.settings.epochs_per_round)],
            run.targets, run.training, run.settings, run.placement,
            steps=run.steps, done=first_step, since=0 if run.settings.moments == "dropped" else first_step,
            on_step=lambda done, loss: run.step({"phase": "train", "done": done, "of": run.steps, "loss": loss}),
        )  # fmt: skip
        trainable, total = count(select(parts, trains)[0]), count(parts) - _places(parts)
        del parts, moments
    with run.phase("write back", number, phases, True):
        trained = run.placement.to_host(tuned.chosen, keep=True)  # evaluation still reads it
        params, moments = written(state.params, chosen, trained), state.moments
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
        "frozen": run.settings.freeze_at(number),
        "parameters": total,
        "trainable_parameters": trainable,
        "heads": [np.flatnonzero(mask).tolist() for mask in masks[::2]],
        "neurons": [int(mask.sum()) for mask in masks[1::2]],
        "new": {
            name: _new_share(masks[half::2], state.masks[half::2]) for half, name in enumerate(("heads", "neurons"))
        },
        "seconds": sum(phase["seconds"] for phase in phases.values()),
        "phases": phases,
    }
    return HostState(params, moments, average, masks, state.best), cut(params, chosen.kept), record


def _choose_units(run: Run, state: HostState, number: int) -> tuple[list[Mask], list[np.ndarray]]:
    """Masks of what the round keeps, in `pruning_steps` parts; and the average of importance with this round's."""
    settings, architecture = run.settings, run.model.architecture
    sizes, masks, average, left = unit_sizes(architecture, settings), everything_kept(architecture), [], 1.0
    earlier = state.average if settings.average and number else None
    for step, share in enumerate(step_shares(settings.remove, settings.pruning_steps)):
        found = averaged(earlier, _sweep(run, state, masks, settings.importance, number), settings.average)
        if not step and settings.average:
            average = found
        left *= 1 - share
        masks = keep_units(found, sizes, masks, 1 - left, settings.cap)
    return masks, average


def _choose_rows(run: Run, state: HostState, masks: list[Mask], number: int) -> Chosen:
    kept = kept_of(masks)
    found = _sweep(run, state, masks, "fisher", number)
    of_kept = [
        {
            half: {name: values.take(kept[2 * index + offset], axis=0) for name, values in layer[half].items()}
            for offset, half in enumerate(layer)
        }
        for index, layer in enumerate(found)
    ]
    return Chosen(masks, kept, train_rows(of_kept, run.settings.freeze_at(number)), run.tokens)


def _sweep(run: Run, state: HostState, masks: list[Mask], form: Any, number: int) -> Any:
    """Measured on the first batches of the round's texts: their shape is that of all others."""
    wanted = ceil(run.settings.samples / run.training.batch_size)
    batches = run.batches(number * run.settings.epochs_per_round)[:wanted]
    on_device = run.settings.measure_on == "device"
    name = "masking" if form == "fisher" else "importance"
    return sweep(
        state.params, run.model.architecture, batches, run.targets, masks,
        form=form, place=run.placement.to_device if on_device else run.placement.on_host, programs=run.sweeps,
        on_batch=lambda done: run.step({"phase": name, "done": done, "of": len(batches)}),
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

"""The training loop: epochs, their records, states to go on from, and what is refused before the first step."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from ..checks import check_effect
from ..errors import DataError, NumericalError, SettingsError
from ..evaluation.metrics import goodness
from ..model import Architecture, Batch, Model
from ..model.heads import head_of
from ..model.in_batch import NEGATIVE, ROLE
from ..runtime.events import OnStep
from ..runtime.programs import Programs
from ..tokens.encoded import Encoded
from .epochs import own_part
from .fingerprint import training_fingerprint
from .guides import beside, check_place, chosen_guides
from .lora import Adapters
from .losses import targets_of, unit_count
from .masters import at_rest
from .run_store import Saved, Store
from .settings import SAVE_MINUTES, Train
from .spread import (
    agreed,
    assembled,
    check_divides,
    check_spread,
    first_told,
    meter_of,
    starting_state,
    training_devices,
)
from .step import Clock, Frozen, Trainable, all_finite, everything, optimizer, select, train_step
from .step_limit import check_compiled
from .teacher import check_teacher, different_labels


class Trained(NamedTuple):
    """What training gives back."""

    model: Model  # with the trained leaves; adapters are not merged
    adapters: Adapters | None
    epochs: tuple[dict[str, Any], ...]  # a record an epoch: loss, score, seconds
    kept: int  # the epoch, from 0, whose weights these are
    compile_seconds: float
    temp_bytes: int  # of the compiled step, beside its arguments and results
    peak_bytes: int  # most bytes that lived at an epoch's end, and the temporaries


def train(
    model: Model,
    batches: Callable[[int], Sequence[Batch]],
    targets: np.ndarray,
    settings: Train = Train(),
    *,
    trainable: Trainable = everything,
    adapters: Adapters | None = None,
    teacher: Model | None = None,
    encoded: Encoded | None = None,
    mesh: jax.sharding.Mesh | None = None,
    score: Callable[[Model, Adapters | None], dict[str, Any]] | None = None,
    store: Store | None = None,
    on_step: OnStep | None = None,
    scored: Mapping[str, Any] = MappingProxyType({}),
    patience: int | None = None,
    device_limit: int | None = None,
) -> Trained:
    """Train the leaves chosen by `trainable`, and `adapters`; the other leaves are shared with `model`.

    What trains is float32, whatever type `model` keeps it in, and comes back so. What does not comes back as it was,
    whatever `settings.frozen_dtype` it was read in.

    `batches(epoch)` gives the batches of an epoch; the first epoch's number sets the length of the schedule.
    `targets[i]` belongs to the example that the batches call i (`Batch.index`); `losses` says which shape it has.
    `score` is called after every epoch and gives a record with a "score", by which the best epoch is kept.
    `teacher` is what `settings.distill` and `distill_hidden` learn from, from where `settings.teacher_in` says; to keep
    what it says on disk takes `store`, and `encoded`, the texts that batches are made of. `mesh` has an axis "data",
    over which the rows of a batch are spread, whose number must be a multiple of its size, and weights with
    `settings.shard`; and perhaps an axis "model", over which units and the vocabulary are. Every process reads its own
    rows. `store` logs, keeps states to resume from, on as many devices as there are then, and turns an interruption
    into one that loses nothing; with `scored`, what `score` depends on, only a run that scores alike goes on. So many
    epochs as `patience` says without a better score end the run. With a `device_limit`, bytes, fewer batches pass
    through a teacher in host memory together, and a run whose compiled step needs more ends before it runs. `on_step`
    gets {"phase": "train", "done", "of", "epoch", "loss", "score"}, and before these {"phase": "teaching", "done",
    "of"} while a teacher is heard.

    Raises NumericalError where a loss is not finite, naming the step, and SettingsError for what cannot be trained so;
    `model` itself is never touched.
    """
    settings = settings.resolved(model.architecture, adapters is not None)
    assert settings.epochs is not None and settings.learning_rate is not None  # resolved
    if store is None:
        check_effect(settings, ("save_minutes",), "without a folder for states (out)")
    elif mesh is None and jax.process_count() > 1:
        raise SettingsError(
            f"{jax.process_count()} processes, each of which trains alone, would write to {store.folder}; pass a mesh "
            "of the devices of all."
        )
    check_targets(model, targets, settings, teacher)
    check_place(settings, teacher, None if store is None else store.folder)
    chosen, frozen = select(model.params, trainable)
    weights, scaling = ([], []) if adapters is None else (adapters.weights, adapters.scaling)
    variables, devices = {"params": chosen, "adapters": weights}, training_devices(mesh, settings)
    if not jax.tree.leaves(variables):
        raise SettingsError("no leaf of the model is trainable; `trainable` must accept at least one path.")
    if not jax.tree.leaves(frozen):
        check_effect(settings, ("frozen_dtype",), "where every weight trains")
    first = batches(0)
    steps = settings.epochs * len(first)
    highest = np.float32(settings.learning_rate)
    check_divides(devices, len(first[0].ids), settings.accumulate)
    check_spread(devices, (variables, frozen))
    share = devices.share
    saved = Saved(starting_state(variables, optimizer(settings, steps, highest), devices), None, 0, ())
    if store is not None:
        saved = store.restore(
            saved, training_fingerprint(model, settings, variables, first, targets, teacher, scaling) | dict(scored)
        )
    resting = at_rest(frozen, settings.frozen_dtype)
    books = Programs(meter_of(devices), replace(devices, stream=True))  # weights that stay on the host, if any, come so
    static, taught, guides = {"architecture": model.architecture, "settings": settings.of_program()}, None, None
    if teacher is not None:
        static["teacher"], taught = teacher.architecture, beside(teacher, settings)
        folder = None if store is None else store.folder
        guides = chosen_guides(teacher, settings, devices, books, encoded, folder, on_step, device_limit)
    constants = devices.fetch(Frozen(resting, scaling, taught))
    state, key = saved.state, devices.everywhere(jax.random.key(settings.seed))
    if devices.mesh is not None:
        static["devices"] = devices
    placed = lambda batch: devices.own_rows((batch, targets_of(batch, targets)))  # noqa: E731
    units_in = lambda rows: float(unit_count(*rows, model.architecture))  # noqa: E731
    best, done, records = saved.best, saved.done, list(saved.records)
    with store.interruptible() if store else nullcontext() as interruption:
        for epoch in range(done // len(first), settings.epochs):
            if patience is not None and _since_best(records) >= patience:
                break
            losses, spent = (list(saved.losses), saved.seconds) if epoch == len(saved.records) else ([], 0.0)
            clocked = _Stopwatch(books, spent)
            todo, behind = own_part(first if epoch == 0 else batches(epoch), share), done - epoch * len(first)
            units = [units_in(placed(batch)) for batch in todo[:behind]]  # of a run that goes on
            spoken = None if guides is None else guides(todo[behind:])
            for batch in todo[behind:]:
                rows, guide = placed(batch), () if spoken is None else (next(spoken),)
                units.append(units_in(rows))
                clock = Clock(np.int32(done), np.int32(steps), highest, key)  # type: ignore[arg-type]
                if done == saved.done and device_limit is not None:
                    books.prepare(train_step, state, constants, *rows, clock, *guide, **static)
                    leaves, temp = (chosen, weights), books.meter.temp
                    check_compiled(device_limit, model, leaves, first, settings, temp, devices, teacher)
                state, value = books(train_step, state, constants, *rows, clock, *guide, **static)
                losses.append(float(value))
                done += 1
                if not np.isfinite(losses[-1]):
                    raise NumericalError(
                        f"the loss is {losses[-1]} at step {done} of {steps} (epoch {epoch}); lower the learning rate, "
                        f"now {settings.learning_rate}, or check the texts and the weights" + _remains(store)
                    )
                if store:
                    store.log(step=done, epoch=epoch, loss=losses[-1])
                if on_step:
                    last = {"score": records[-1]["score"]} if records and "score" in records[-1] else {}
                    event = {"done": done, "of": steps, "epoch": epoch, "loss": losses[-1]}
                    on_step({"phase": "train", **event, **last})
                stopped, due = False, False
                if store and interruption is not None:
                    stopped, due = agreed(interruption(), store.due(settings.save_minutes or SAVE_MINUTES))
                if done == (epoch + 1) * len(first):
                    break  # what is saved then holds the epoch's score as well
                if store and (stopped or due):
                    store.save(Saved(state, best, done, tuple(records), tuple(losses), clocked.seconds))
                if stopped:
                    raise _interrupted(store, done, steps)
            # The loss is that before each step, so it says nothing about the last one.
            if not bool(all_finite(state.params)):
                raise NumericalError(
                    f"step {done} of {steps} left weights that are not finite; lower the learning rate"
                    + _remains(store)
                )
            books.meter.sample("epoch")
            # A step's loss is the mean over its texts or tokens, and the last step has fewer.
            loss = float(np.average(losses, weights=units))
            record = {"epoch": epoch, "loss": loss, "steps": len(losses), "seconds": clocked.seconds}
            if score is not None:
                try:
                    record |= score(*assembled(model, state.params, frozen, adapters, devices))
                    record["score"] = first_told(record["score"])
                except NumericalError as error:
                    raise NumericalError(
                        f"after step {done} of {steps} the model's outputs are not finite; lower the learning rate, "
                        f"now {settings.learning_rate}" + _remains(store)
                    ) from error
            records.append(record)
            if settings.keep == "best" and score is not None:
                if goodness(record) == max(map(goodness, records)):
                    # Host copies; np.asarray would be a view, which keeps the next step from reusing its input.
                    best = jax.tree.map(np.array, devices.read(state.params))
            if store:
                store.log(**record)
                store.save(Saved(state, best, done, tuple(records)))
            if interruption is not None and agreed(interruption())[0] and epoch + 1 < settings.epochs:
                raise _interrupted(store, done, steps)
    kept = len(records) - 1
    if best is not None:
        kept = max(range(len(records)), key=lambda number: (goodness(records[number]), number))
    result, tuned = assembled(model, state.params if best is None else best, frozen, adapters, devices)
    peak, temp = books.meter.peak_bytes, books.meter.temp
    return Trained(result, tuned, tuple(records), kept, books.compile_seconds, temp, peak)


def _since_best(records: Sequence[Mapping[str, Any]]) -> int:
    """Epochs since the one with the best score."""
    return 0 if not records else len(records) - 1 - max(range(len(records)), key=lambda n: goodness(records[n]))


class _Stopwatch:
    """Seconds since it was made, compilation apart, on top of those `spent` before."""

    def __init__(self, books: Programs, spent: float):
        self._books, self._start = books, time.perf_counter() - books.compile_seconds - spent

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._books.compile_seconds - self._start


def _interrupted(store: Store | None, done: int, steps: int) -> KeyboardInterrupt:
    place = store.folder if store else "memory"
    return KeyboardInterrupt(f"interrupted after step {done} of {steps}; nothing is lost: {place} holds the state.")


def _remains(store: Store | None) -> str:
    if store is None or store.last is None:
        return "."
    return f"; the last good state, of step {store.last}, is in {store.folder}."


def check_head(architecture: Architecture) -> None:
    """Raise `DataError` for a model whose head has no loss to train on."""
    head = head_of(architecture)
    if head.check_targets is None:
        raise DataError(
            f"the model has no task head (its head is {head.name}), so there is no loss; load it with one (`labels=`)."
        )


def check_targets(model: Model, targets: np.ndarray, settings: Train, teacher: Model | None) -> None:
    """Targets and teachers that cannot belong to the model are refused before the first step."""
    a = model.architecture
    check_head(a)
    settings.check_for(a)
    check = head_of(a).check_targets
    assert check is not None  # check_head has seen it
    check(targets, len(a.labels))
    if head_of(a).together is not None and targets.size:
        _check_together(targets, settings)
    check_teacher(a, teacher, settings)
    if teacher is not None and teacher.architecture.labels != a.labels:
        raise SettingsError(f"{different_labels(teacher.architecture, a)}; take a teacher tuned for this task.")


def _check_together(targets: np.ndarray, settings: Train) -> None:
    """Raise `SettingsError` for settings that take an anchor's negatives away: these are other texts of its step."""
    if settings.accumulate > 1:
        raise SettingsError(
            f"accumulate {settings.accumulate}: a pair's negatives are the other texts of its step, and of a part it "
            "would see only that part's, so that it is another loss; leave accumulate at 1, and take remat or a "
            "smaller batch_size."
        )
    if settings.batch_size == 1 and not np.any(targets[:, ROLE] == NEGATIVE):
        raise SettingsError(
            "batch_size 1: a pair's negatives are the other pairs of its step, and there are none; take 16 or more."
        )

"""RECAP: fine-tune a model that does not fit the device, by cycles of pruning, tuning and writing back.

Ilhan, Su, Tekin, Huang, Hu, Liu: Resource-Efficient Transformer Pruning for Finetuning of Large Models, CVPR 2024. The
host holds the full model and its moments. A round prunes it by importance, trains some rows of what stays on the
device, and writes them back. Where we go beyond the paper's released code: frozen rows have neither gradient nor
moments, so that the memory is really saved; a killed run goes on; every phase's bytes are counted.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...checkpoint.load import NEW_WEIGHTS
from ...checks import check_effect, checked
from ...errors import NumericalError, SettingsError
from ...evaluation.metrics import goodness
from ...model import Batch, Model
from ...model.heads import head_of
from ...pruning.cut_check import check_model
from ...runtime.events import OnStep
from ...runtime.placement import Placement, Where
from ...tasks.task import Task
from ..epochs import batches_for, remembered
from ..finetune import scored_texts, set_aside
from ..fingerprint import training_fingerprint
from ..masters import result_types
from ..run_store import Saved, Store, check_resume
from ..settings import Train
from ..texts import Texts, prepare
from ..train import check_targets
from .phase_bytes import phase_bytes, uniform
from .recapped import Recapped, finished
from .rounds import one_round
from .run import HostState, RecapRun, first_state
from .settings import Recap


@checked
def recap(
    model: Model,
    task: Task,
    settings: Recap = Recap(),
    training: Train = Train(),
    *,
    host: Where = None,
    device: Where = None,
    device_limit: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    on_phase: OnStep | None = None,
    on_step: OnStep | None = None,
    tokenizer: Any = None,
) -> Model:
    """The best small model of RECAP's rounds on `task`: pruned and tuned.

    `model` may be dense or pruned. `host` and `device` are JAX devices or names ("cpu:0", "gpu:0"): where the full
    model is measured, and where a small one trains; by default the first CPU and JAX's first device. To keep the full
    model off the device, load it under `jax.default_device` of the host. `device_limit`, bytes, stops a run that needs
    more there. `out` is a folder for the log and the state after every round: a run that was killed goes on with
    `resume=True`, to the same numbers. `settings` says how many epochs there are; `training.epochs` stays open. What
    trains is float32 on the host and on the device; every parameter of the result, and of the model that is scored,
    has the type it was loaded in, or `training.result_dtype`. `tokenizer` is that of `finetune`.

    With `training.distill` the full model teaches, as it is when a round starts: its predictions are computed on the
    host. Where its head is new (`labels=`), it begins to teach in the second round.

    `on_phase` gets {"phase", "round", "of", …} with the phase's seconds and bytes (`Books`) after each phase; `on_step`
    {"phase", "done", "of", …} after every batch or, where K-prune measures and fits, part of it. The result's
    `provenance.record` holds all of it by round. Raises `DataError`, `SettingsError`, `NumericalError`, `OutputError`.
    """
    return run_recap(
        model, task, settings, training, host=host, device=device, device_limit=device_limit, out=out, resume=resume,
        on_phase=on_phase, on_step=on_step, tokenizer=tokenizer,
    ).model  # fmt: skip


def run_recap(
    model: Model,
    task: Task,
    settings: Recap = Recap(),
    training: Train = Train(),
    *,
    host: Where = None,
    device: Where = None,
    device_limit: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    on_phase: OnStep | None = None,
    on_step: OnStep | None = None,
    tokenizer: Any = None,
) -> Recapped:
    """What `recap` does, with the full model and the rounds' records handed back as well."""
    model = model.with_tokenizer(tokenizer)
    if device_limit is not None and (not isinstance(device_limit, int) or device_limit < 1):
        raise SettingsError(f"device_limit must be a positive whole number of bytes, got {device_limit!r}.")
    check_resume(out, resume)
    placement = Placement.of(host, device, device_limit)
    store = None if out is None else Store(out, resume)
    training = _resolved(model, settings, training)
    task = set_aside(task, training)
    texts = prepare(model, task)
    check_targets(model, texts.targets, replace(training, distill=0.0), None)  # the full model is the teacher
    check_model(model)
    batches = remembered(batches_for(texts.encoded, model.architecture, training))
    first, nothing = batches(0), lambda event: None
    start = first_state(model, settings)
    run = RecapRun(
        model, task, settings, training, batches, texts.targets, len(first), _touched(model, texts, settings),
        result_types(start.params, None), result_types(model.params, training.result_dtype), placement,
        on_phase or nothing, on_step or nothing, together=texts.encoded.together, new_head=_new_head(model),
    )  # fmt: skip
    _check_limit(run, first, device_limit)
    saved = Saved(start, None, 0, ())
    if store is not None:
        saved = store.restore(saved, _same_run(run, first), on_host=True)
        saved = saved._replace(state=_with_flags(saved.state))
    state, best, records = saved.state, saved.best, list(saved.records)
    # A signal waits for the batch that runs, and for a state that is being saved.
    with store.interruptible() if store is not None else nullcontext(lambda: False) as stopped:
        run.stopped = stopped
        for number in range(len(records), settings.rounds):
            try:
                state, small, record = one_round(run, state, number)
            except NumericalError as error:
                raise NumericalError(
                    f"round {number + 1} of {settings.rounds}: {error}{_remains(store, records)}"
                ) from error
            except KeyboardInterrupt as stop:
                raise KeyboardInterrupt(
                    f"interrupted in round {number + 1} of {settings.rounds}{_remains(store, records)}"
                ) from stop
            records.append(record)
            if training.keep == "last" or goodness(record) >= max(map(goodness, records)):
                best, state = small, state._replace(best=state.masks)
            if store is not None:
                done = len(records) * settings.epochs_per_round * run.batch_count
                store.log(step=done, **record)
                store.save(Saved(state, best, done, tuple(records)))
            if stopped() and len(records) < settings.rounds:
                raise KeyboardInterrupt(
                    f"interrupted after round {len(records)} of {settings.rounds}{_remains(store, records)}"
                )
    assert best is not None  # there is at least one round
    return finished(run, texts, first, state, best, records)


def _check_limit(run: RecapRun, first: Sequence[Batch], limit: int | None) -> None:
    """Raise `SettingsError` before the work where a phase is sure to need more than `limit` bytes on the device."""
    if limit is None:
        return
    dense, (rows, length) = run.model.architecture, first[0].ids.shape
    small = uniform(dense, run.settings.remove)
    predicted = phase_bytes(
        dense, small, run.settings, run.training, rows, length, run.tokens, run.kept_types, run.result_types
    )
    name = max(predicted, key=predicted.__getitem__)
    if 0.9 * predicted[name] > limit:  # predictions are within a tenth
        run.placement.refuse(name, predicted[name], "is predicted to need")


def _resolved(model: Model, settings: Recap, training: Train) -> Train:
    training.check_for(model.architecture)
    if training.distill_hidden:
        raise SettingsError(
            "RECAP distils predictions only: hidden states of the full model would have to come to the device; set "
            "distill_hidden to 0."
        )
    if training.distills and head_of(model.architecture).language is not None:
        raise SettingsError(
            "RECAP on a language model learns from the text alone: the full model's predictions over the vocabulary "
            "would have to come to the device; set distill to 0."
        )
    if training.epochs != settings.epochs:
        said = f"rounds {settings.rounds}, epochs_per_round {settings.epochs_per_round}"
        check_effect(training, ("epochs",), f"in RECAP, whose own settings say how many there are ({said})")
    if settings.outer == "train" and not any(map(settings.freeze_at, range(settings.rounds))):
        check_effect(training, ("frozen_dtype",), "with freeze 0, where every weight trains")
    check_effect(training, ("shard",), "in RECAP, which trains on one device")
    check_effect(training, ("teacher_in", "taught_dtype"), "in RECAP, whose full model teaches from the host")
    check_effect(training, ("save_minutes",), "in RECAP, which keeps its state after every round")
    if training.distills and settings.rounds == 1 and _new_head(model):
        raise SettingsError(
            "distill has no effect in a single round with a new head, which teaches from the second round on; leave it "
            "out, or ask for more rounds."
        )
    named = settings.learning_rate if training.learning_rate is None else training.learning_rate
    training = replace(training, epochs=settings.epochs, learning_rate=named)
    return training.resolved(model.architecture, adapted=False)


def _new_head(model: Model) -> bool:
    return any(NEW_WEIGHTS in entry for entry in model.provenance.warnings)


def _with_flags(state: HostState) -> HostState:
    as_flags = lambda masks: [np.asarray(mask, bool) for mask in masks]  # noqa: E731
    return state._replace(masks=as_flags(state.masks), best=as_flags(state.best), coming=as_flags(state.coming))


def _touched(model: Model, texts: Texts, settings: Recap) -> np.ndarray | None:
    if settings.outer != "touched":
        return None
    tokens = np.zeros(model.architecture.vocab, bool)
    tokens[np.concatenate([*texts.encoded.ids])] = True
    return tokens


def _same_run(run: RecapRun, first: Sequence[Batch]) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped."""
    ours = {f"setting {name}": value for name, value in asdict(run.settings).items() if name != "learning_rate"}
    theirs = training_fingerprint(run.model, run.training, run.model.params, first, run.targets, None)
    return {**theirs, **ours, **scored_texts(run.task, run.split_name), "task": run.task.name}


def _remains(store: Store | None, records: list[Any]) -> str:
    if store is None:
        return "; without a folder (out) nothing is kept."
    if not records:
        return "; no round was complete, so nothing is kept."
    return f"; the state after round {len(records)} is in {store.folder}."

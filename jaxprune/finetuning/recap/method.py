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

import jax
import numpy as np

from ...checkpoint.load import NEW_WEIGHTS
from ...checks import check_effect, check_given, checked
from ...doubts import tell
from ...errors import NumericalError, SettingsError
from ...evaluation.metrics import goodness
from ...model import Batch, Model
from ...model.heads import head_of
from ...pruning.cut_check import check_model
from ...runtime.compilations import compiling
from ...runtime.device_limit import check_limit, recomputes
from ...runtime.events import OnStep
from ...runtime.placement import Placement, Where
from ...tasks.task import Task
from ..epochs import batches_for, remembered
from ..finetune import scored_texts, set_aside
from ..fingerprint import training_fingerprint
from ..masters import result_types
from ..run_store import Saved, Store, check_resume
from ..settings import Train
from ..spread import check_spread, training_devices
from ..step_limit import remat_asked
from ..texts import Texts, prepare
from ..train import check_targets
from .phase_bytes import abstract_parts, least_frozen, phase_bytes, uniform
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
    mesh: jax.sharding.Mesh | None = None,
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
    model off the device, load it under `jax.default_device` of the host. `mesh` takes the place of `device`: the small
    model trains on its devices as `finetune` does on them (`training.shard`), and with `settings.measure_on` "device"
    they share each batch's rows there; one process has all of them. `device_limit`, bytes, stops a run that needs more
    on a device; where `training.remat` is open, layers are recomputed if a run fits only so. `out` is a folder for the
    log and the state after every round: a run that was killed goes on with `resume=True`, to the same numbers.
    `settings` says how many epochs there are; `training.epochs` stays open. What trains is float32 on the host and on
    the device; every parameter of the result, and of the model that is scored, has the type it was loaded in, or
    `training.result_dtype`. `tokenizer` is that of `finetune`.

    With `training.distill` the full model teaches, as it is when a round starts: its predictions are computed on the
    host. Of a language model these are what its head reads, two or four bytes a token and hidden unit there; the device
    gets a batch's at a time. Where the head is new (`labels=`), it begins to teach in the second round.

    `on_phase` gets {"phase", "round", "of", …} with the phase's seconds and bytes (`Books`) after each phase; `on_step`
    {"phase", "done", "of", …} after every batch or, where K-prune measures and fits, part of it. The result's
    `provenance.record` holds all of it by round. Raises `DataError`, `SettingsError`, `NumericalError`, `OutputError`.
    """
    return run_recap(
        model, task, settings, training, host=host, device=device, mesh=mesh, device_limit=device_limit, out=out,
        resume=resume, on_phase=on_phase, on_step=on_step, tokenizer=tokenizer,
    ).model  # fmt: skip


def run_recap(
    model: Model,
    task: Task,
    settings: Recap = Recap(),
    training: Train = Train(),
    *,
    host: Where = None,
    device: Where = None,
    mesh: jax.sharding.Mesh | None = None,
    device_limit: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    on_phase: OnStep | None = None,
    on_step: OnStep | None = None,
    tokenizer: Any = None,
) -> Recapped:
    """What `recap` does, with the full model and the rounds' records handed back as well."""
    check_given(model=(model, Model), task=(task, Task), settings=(settings, Recap), training=(training, Train))
    model = model.with_tokenizer(tokenizer)
    check_limit(device_limit)
    check_resume(out, resume)
    devices = training_devices(mesh, training)
    if mesh is not None and jax.process_count() > 1:
        raise SettingsError(
            f"RECAP has the full model in the memory of one process, and there are {jax.process_count()}; start one, "
            "with a mesh of its own devices."
        )
    settings, placement = settings.resolved(model.architecture), Placement.of(host, device, device_limit, devices)
    store = None if out is None else Store(out, resume)
    asked, training = remat_asked(training, store), _resolved(model, settings, training)
    task = set_aside(task, training)
    texts = prepare(model, task)
    untaught = replace(training, distill=0.0, temperature=None)  # the full model is the teacher
    check_targets(model, texts.targets, untaught, None)
    check_model(model)
    batches = remembered(batches_for(texts.encoded, model.architecture, training, devices))
    first, nothing = batches(0), lambda event: None
    start = first_state(model, settings)
    run = RecapRun(
        model, task, settings, training, texts.encoded, batches, texts.targets, len(first),
        _touched(model, texts, settings), result_types(start.params, None),
        result_types(model.params, training.result_dtype), placement,
        on_phase or nothing, on_step or nothing, together=texts.encoded.together, new_head=_new_head(model),
    )  # fmt: skip
    run.training, run.doubts = _within(run, first, asked)
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
                with compiling() as compiled:
                    state, small, record = one_round(run, state, number)
            except NumericalError as error:
                raise NumericalError(
                    f"round {number + 1} of {settings.rounds}: {error}{_remains(store, records)}"
                ) from error
            except KeyboardInterrupt as stop:
                raise KeyboardInterrupt(
                    f"interrupted in round {number + 1} of {settings.rounds}{_remains(store, records)}"
                ) from stop
            records.append(record | compiled.as_json())
            if training.keep == "last" or goodness(record) >= max(map(goodness, records)):
                best, state = small, state._replace(best=state.masks)
            if store is not None:
                done = len(records) * settings.epochs_per_round * run.batch_count
                store.log(step=done, **records[-1])
                store.save(Saved(state, best, done, tuple(records)))
            if stopped() and len(records) < settings.rounds:
                raise KeyboardInterrupt(
                    f"interrupted after round {len(records)} of {settings.rounds}{_remains(store, records)}"
                )
    assert best is not None  # there is at least one round
    return finished(run, texts, first, state, best, records)


def _within(run: RecapRun, first: Sequence[Batch], asked: bool | None) -> tuple[Train, tuple[str, ...]]:
    """Training's settings, with layers recomputed where that keeps all phases within the limit, and a doubt that says
    so. Raises `SettingsError` before the work where a phase is sure to need more.
    """
    dense, (rows, length) = run.model.architecture, first[0].ids.shape
    small, devices = uniform(dense, run.settings.remove), run.placement.devices
    check_spread(devices, abstract_parts(small, least_frozen(run.settings), types=run.kept_types))

    def needed(remat: bool) -> dict[str, int]:
        training = replace(run.training, remat=remat)
        return phase_bytes(
            dense, small, run.settings, training, rows, length, run.tokens, run.kept_types, run.result_types, devices
        )

    remat, doubts = recomputes(asked, run.placement.limit, needed)
    tell(doubts)
    return replace(run.training, remat=remat), doubts


def _resolved(model: Model, settings: Recap, training: Train) -> Train:
    training.check_for(model.architecture)
    if training.distill_hidden:
        raise SettingsError(
            "RECAP distils predictions only: hidden states of the full model would have to come to the device; set "
            "distill_hidden to 0."
        )
    head = head_of(model.architecture)
    if training.distills and head.language is not None and not head.generates:
        raise SettingsError(
            "RECAP does not distil on masked words: they are others in every epoch, and the full model speaks once a "
            "round; set distill to 0."
        )
    if training.epochs != settings.epochs:
        said = f"rounds {settings.rounds}, epochs_per_round {settings.epochs_per_round}"
        check_effect(training, ("epochs",), f"in RECAP, whose own settings say how many there are ({said})")
    if settings.outer == "train" and not any(map(settings.freeze_at, range(settings.rounds))):
        check_effect(training, ("frozen_dtype",), "with freeze 0, where every weight trains")
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
    """Which tokens occur; the mask is one of them where words are masked, and what stands in a word's place by chance
    is none.
    """
    if settings.outer != "touched":
        return None
    tokens = np.zeros(model.architecture.vocab, bool)
    tokens[np.concatenate([*texts.encoded.ids])] = True
    if texts.encoded.masking is not None:
        tokens[texts.encoded.masking.mask] = True
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

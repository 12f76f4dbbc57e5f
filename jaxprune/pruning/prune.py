"""`prune`: texts or token ids in, smaller models out, by any method; and the same call under each method's name."""

import inspect
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, overload, runtime_checkable

from jax.sharding import Mesh

from ..checkpoint.known_families import known_families
from ..checks import checked
from ..doubts import tell
from ..errors import SettingsError
from ..model.model import Model
from ..runtime.devices import Devices
from ..runtime.events import OnStep
from ..tasks.calibration import Calibration
from ..tokens.packing import pack
from ..tokens.windows import encoded_for
from .budget import Budget
from .by_name import method_of
from .call_checks import as_budgets, check_call, check_recovery, check_results
from .kept import KEEP_BYTES, check_keep_bytes
from .measured import SAVE_MINUTES, Measured
from .method import Method
from .methods import Fisher, Flap, KPrune, Magnitude, Random, Taylor
from .run import Calibrated, Run

WHOLE = (
    "recovery is not streamed: the pruned model was whole on the device, and so was the dense one, but with "
    "Recover(teacher_in='host')."
)


@runtime_checkable
class Recovery(Protocol):
    """What is done to a model after the cut, with the one that it was made from at hand (`jaxprune.Recover`).

    One that has a method `check(dense, calibration)` is asked by it before anything is measured.
    """

    def __call__(
        self,
        pruned: Model,
        dense: Model,
        calibration: Calibration | None = None,
        on_step: OnStep | None = None,
        mesh: Mesh | None = None,
    ) -> Model: ...


@overload
def prune(
    model: Model,
    calibration: Calibration,
    budget: Budget,
    method: Method | str = KPrune(),
    *,
    on_step: OnStep | None = None,
    mesh: Mesh | None = None,
    stream: bool = False,
    tokenizer: Any = None,
    keep_bytes: int = KEEP_BYTES,
    out: str | Path | None = None,
    resume: bool = False,
    save_minutes: float | None = None,
    recover: Recovery | None = None,
) -> Model: ...
@overload
def prune(
    model: Model,
    calibration: Calibration,
    budget: Sequence[Budget],
    method: Method | str = KPrune(),
    *,
    on_step: OnStep | None = None,
    mesh: Mesh | None = None,
    stream: bool = False,
    tokenizer: Any = None,
    keep_bytes: int = KEEP_BYTES,
    out: str | Path | None = None,
    resume: bool = False,
    save_minutes: float | None = None,
    recover: Recovery | None = None,
) -> list[Model]: ...
@checked
def prune(
    model: Model,
    calibration: Calibration,
    budget: Budget | Sequence[Budget],
    method: Method | str = KPrune(),
    *,
    on_step: OnStep | None = None,
    mesh: Mesh | None = None,
    stream: bool = False,
    tokenizer: Any = None,
    keep_bytes: int = KEEP_BYTES,
    out: str | Path | None = None,
    resume: bool = False,
    save_minutes: float | None = None,
    recover: Recovery | None = None,
) -> Model | list[Model]:
    """A smaller model that fits the budget, from a few hundred unlabelled texts and no training.

    `calibration`: `task.calibration(512, seed=0)`, `Calibration.of_texts(texts)` or `Calibration.of_ids(ids, mask)`.
    Several budgets share one measuring pass where the method can (K-prune's published preset cannot: its scores depend
    on what went before) and give a list of models. `method`: settings (`KPrune()`, `Fisher(…)`, or those of a class of
    your own, `jaxprune.pruning.method.Method`), or a name: "kprune", with a preset "kprune:published".

    `mesh` spreads the work over several devices, that of `recover` too; `stream` brings weights from host memory one
    sublayer at a time: see `jaxprune.runtime.devices`. The result's parameters are then NumPy arrays, else JAX arrays.
    `tokenizer`, a folder or a loaded one, takes the place of the model's own and stays with the result. `keep_bytes` is
    how much of one pass may be kept for the next, on the device or, streamed, in host memory: it saves time (a forward
    pass a budget) and changes no bit of the result. `out` is a folder for what was measured, every `save_minutes` (10)
    for a part of it: should the run be stopped, the same call with `resume` goes on from there, with these or other
    budgets and settings of what comes after measuring; delete it when the result is saved.
    `on_step` hears {"phase", "done", "of"}. `recover=jaxprune.Recover(texts)` trains every result a little, without
    labels, to say what `model` says.

    The result's `report` says what was removed, what it cost and how well the refit went. Raises `BudgetError`,
    `DataError`, `NumericalError`, `OutputError`, `SettingsError`.
    """
    began = time.perf_counter()
    check_call(model, calibration, budget)
    budgets, alone = as_budgets(budget)
    chosen = method_of(method).settled(model.architecture)
    check_keep_bytes(keep_bytes)
    if resume and out is None:
        raise SettingsError("resume needs out, the folder that the measurement was kept in.")
    check_recovery(recover)
    if out is not None and not chosen.measures_once:
        raise SettingsError(f"{chosen.name}, as it is set, keeps no measurement to go on from; leave out= out.")
    if save_minutes is not None and out is None:
        raise SettingsError("save_minutes has no effect without out, the folder that is saved to; leave it out.")
    minutes = SAVE_MINUTES if save_minutes is None else save_minutes
    if not 0 < minutes < float("inf"):
        raise SettingsError(f"save_minutes must be a positive number, got {minutes}.")
    measured = None if out is None else Measured(out, resume, model, minutes)
    devices = Devices(mesh, stream)
    dense = model = model.with_tokenizer(tokenizer)
    if (check := getattr(recover, "check", None)) is not None:
        check(dense, calibration)
    model = chosen.prepared(model)
    encoded, surprises = encoded_for(model, calibration, on_step)
    run = Run.start(
        model,
        pack(encoded, model.architecture, group=chosen.group),
        Calibrated(
            tokens=encoded.tokens,
            count=len(encoded),
            source=calibration.source,
            seed=calibration.seed,
            hash=calibration.hash,
            pairs=calibration.paired,
            warnings=(*calibration.warnings, *surprises),
        ),
        on_step=on_step,
        writable_heads=writable_heads(model),
        devices=devices,
        keep_bytes=keep_bytes,
        measured=measured,
    )
    run.phases["prepare"] = time.perf_counter() - began
    for entry in budgets:
        run.allowed(entry)  # a budget that leaves nothing is known before anything is measured
    results = chosen.prune(run, budgets)
    check_results(chosen.name, results, budgets, run.finished)
    if recover is not None:
        over = () if mesh is None else (mesh,)  # one that takes no mesh serves where there is none
        results = [recover(result, dense, calibration, on_step, *over) for result in results]
        if stream:
            tell([WHOLE])
            results = [_doubted(result) for result in results]
    return results[0] if alone else results


def _doubted(result: Model) -> Model:
    notes = result.provenance
    return result.replace(provenance=replace(notes, warnings=tuple(dict.fromkeys([*notes.warnings, WHOLE]))))


def writable_heads(model: Model) -> list[int] | None:
    """The numbers of key-value groups in every layer that an export can write; None: any, or no family of ours."""
    a, source = model.architecture, model.provenance.record.get("source_config")
    family, size = known_families().get(a.family), a.layers[0]
    if family is None:
        return None
    family = family.as_said(source if isinstance(source, dict) else {})
    return [n for n in range(1, size.groups + 1) if family.can_say(n * size.queries, size.heads, a.hidden)]


# --- the same call under each method's name

Settings = TypeVar("Settings", bound=Method, contravariant=True)


class PruneBy(Protocol, Generic[Settings]):
    """`prune` with the settings of one method."""

    @overload
    def __call__(
        self,
        model: Model,
        calibration: Calibration,
        budget: Budget,
        settings: Settings = ...,
        *,
        on_step: OnStep | None = None,
        mesh: Mesh | None = None,
        stream: bool = False,
        tokenizer: Any = None,
        keep_bytes: int = KEEP_BYTES,
        out: str | Path | None = None,
        resume: bool = False,
        save_minutes: float | None = None,
        recover: Recovery | None = None,
    ) -> Model: ...
    @overload
    def __call__(
        self,
        model: Model,
        calibration: Calibration,
        budget: Sequence[Budget],
        settings: Settings = ...,
        *,
        on_step: OnStep | None = None,
        mesh: Mesh | None = None,
        stream: bool = False,
        tokenizer: Any = None,
        keep_bytes: int = KEEP_BYTES,
        out: str | Path | None = None,
        resume: bool = False,
        save_minutes: float | None = None,
        recover: Recovery | None = None,
    ) -> list[Model]: ...


def _prune_by(name: str, default: Any) -> Any:
    """`prune` with `settings` in place of `method`, of the class that `default` is of."""

    def by(model: Model, calibration: Calibration, budget: Any, settings: Any = default, **where: Any) -> Any:
        return prune(model, calibration, budget, settings, **where)

    cls = type(default)
    by.__name__ = by.__qualname__ = name
    by.__doc__ = (
        f"`jaxprune.prune` with method={cls.__name__}(): the same arguments, results and errors.\n\n"
        f"    {inspect.getdoc(cls)}"
    )
    # What help() and an editor show: the call above, with this method's settings.
    signature, settings = inspect.signature(prune), {"name": "settings", "default": default, "annotation": cls}
    by.__signature__ = signature.replace(  # type: ignore[attr-defined]  # read by inspect
        parameters=[p.replace(**settings) if p.name == "method" else p for p in signature.parameters.values()]
    )
    return checked(by)


kprune: PruneBy[KPrune] = _prune_by("kprune", KPrune())
fisher: PruneBy[Fisher] = _prune_by("fisher", Fisher())
magnitude: PruneBy[Magnitude] = _prune_by("magnitude", Magnitude())
random_prune: PruneBy[Random] = _prune_by("random_prune", Random())
flap: PruneBy[Flap] = _prune_by("flap", Flap())
taylor: PruneBy[Taylor] = _prune_by("taylor", Taylor())

"""A limit on the bytes of a training step: of one predicted before the work, and of the compiled one before it runs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..doubts import tell
from ..model import Batch, Model
from ..runtime.device_limit import over, recomputes
from ..runtime.devices import Devices
from .run_store import Store
from .settings import Train
from .training_bytes import training_bytes


def within_limit(
    limit: int | None,
    model: Model,
    parts: Any,
    batches: Sequence[Batch],
    settings: Train,
    devices: Devices = Devices(),
    teacher: Model | None = None,
) -> tuple[Train, tuple[str, ...]]:
    """The settings, with layers recomputed where a step on such batches keeps within `limit` bytes only so, and a
    doubt that says it. Raises `SettingsError` where a step is sure to need more.
    """
    remat, doubts = predicted_remat(limit, model, parts, batches, settings, devices, teacher)
    tell(doubts)
    return replace(settings, remat=remat), doubts


def predicted_remat(
    limit: int | None,
    model: Model,
    parts: Any,
    batches: Sequence[Batch],
    settings: Train,
    devices: Devices,
    teacher: Model | None,
) -> tuple[bool, tuple[str, ...]]:
    """Whether layers are recomputed, and the doubt, which is not told: of a model that need not be there yet."""
    rows, length = batches[0].ids.shape

    def needed(remat: bool) -> dict[str, int]:
        sizes = training_bytes(
            model, parts, rows, length, replace(settings, remat=remat), 0, devices, teacher, len(batches), limit
        )
        return {"a training step": sizes["predicted"]}

    return recomputes(settings.remat, limit, needed)


def remat_asked(settings: Train, store: Store | None) -> bool | None:
    """`settings.remat`; where that is open, what it was in the run that goes on, under whatever limit it began."""
    return settings.remat if settings.remat is not None or store is None else store.setting("remat")


def check_compiled(
    limit: int | None,
    model: Model,
    parts: Any,
    batches: Sequence[Batch],
    settings: Train,
    temp: int,
    devices: Devices = Devices(),
    teacher: Model | None = None,
) -> None:
    """Raise `SettingsError` where the compiled step, which needs `temp` bytes besides, exceeds the limit: predictions
    may say too little.
    """
    if limit is None:
        return
    rows, length = batches[0].ids.shape
    sizes = training_bytes(model, parts, rows, length, settings, temp, devices, teacher, len(batches), limit)
    if sizes["measured"] > limit:
        raise over("a training step, compiled,", sizes["measured"], limit, "needs")

"""The record of a pruning run (`jaxprune.json`), typed: `pruned.report.removed.flops`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import SettingsError
from ..settings import settings_as_now


@dataclass(frozen=True, kw_only=True)
class AskedBudget:
    """What was to be removed; the fields of `jaxprune.Budget`."""

    remove: float  # fraction of the cost
    cost: str = "flops"  # what was counted: flops, params or bytes
    length: int | None = None  # tokens a text at which FLOPs were counted
    round_to: int = 1
    uniform: bool = False
    keep_heads: bool = False


@dataclass(frozen=True, kw_only=True)
class RemovedShares:
    """What was removed, as fractions of what pruning can remove (heads and neurons, not embeddings or the head)."""

    flops: float
    params: float


@dataclass(frozen=True, kw_only=True)
class KeptInLayer:
    """The units that a layer kept, by their numbers in the dense model."""

    heads: tuple[int, ...]  # with grouped queries, key-value groups
    neurons: tuple[int, ...]
    queries: tuple[tuple[int, ...], ...] | None = None  # of every head unit, where query heads left groups


@dataclass(frozen=True, kw_only=True)
class SublayerFit:
    """How well the kept units of a sublayer were fitted. A residual is ‖XW − Y‖² / ‖Y‖²: 0 is a perfect fit."""

    sublayer: int  # bottom up, from 0
    half: str  # "attention" or "feed_forward"
    kept: int  # units
    rank: int | None = None  # of the features; below their number, the texts leave directions undetermined
    features: int | None = None
    residual: float | None = None  # of the sublayer's output
    residual_before: float | None = None  # the same with the old weights
    input_residual: float | None = None  # of what the input projections read
    input_residual_before: float | None = None


@dataclass(frozen=True, kw_only=True)
class CalibrationUsed:
    """The texts that were measured."""

    source: str
    count: int  # texts
    tokens: int  # real ones
    seed: int | None = None  # that drew them; None: they were given
    hash: str | None = None  # SHA-256 of the texts
    pairs: bool | None = None  # whether they have second texts; None: not known


@dataclass(frozen=True, kw_only=True)
class PruningReport:
    """What a pruning run did and cost. None: the record does not say, as those of earlier releases may not.

    Of a model that Prune-LoRA or RECAP made, there are no budget, no costs and no calibration of a pruning run:
    `provenance.record["training"]` says what was done.
    """

    method: str
    settings: Mapping[str, Any]  # by their present names
    removed: RemovedShares
    kept: tuple[KeptInLayer, ...]  # a layer each
    masked_vs_cut: float  # largest difference of logits between silencing and cutting, relative to the largest logit
    warnings: tuple[str, ...] = ()
    budget: AskedBudget | None = None
    calibration: CalibrationUsed | None = None
    refit: tuple[SublayerFit, ...] = ()  # empty: nothing was fitted
    seconds: float | None = None  # of the run, compilation included
    phases: Mapping[str, float] = field(default_factory=dict)  # the same by phase
    compile_seconds: float | None = None
    compiled_programs: int | None = None
    dense_forward_seconds: float | None = None  # one warm pass of the dense model over the calibration texts
    dense_forwards: float | None = None  # what the run cost in such passes, compilation apart
    peak_bytes: int | None = None  # of arrays on the devices
    host_peak_bytes: int | None = None  # of the whole process
    reused: tuple[str, ...] = ()  # what came from an earlier budget, or from a run that was stopped
    predicted_kl: float | None = None  # K-prune: the damage that its curves predict


# What a run of `prune` writes and later methods leave standing beside their own entries.
_OF_A_RUN = (
    "seconds", "compile_seconds", "compiled_programs", "dense_forward_seconds", "dense_forwards", "peak_bytes",
    "host_peak_bytes", "predicted_kl",
)  # fmt: skip


def report_of(record: Mapping[str, Any]) -> PruningReport:
    """A record, typed. Raises `SettingsError` for that of a model that was not pruned."""
    if not {"method", "removed", "kept"} <= record.keys():
        raise SettingsError("the model was not pruned, so it has no report; take the one that jaxprune.prune gave.")
    own = "started_from" not in record  # else the entries of a run are those of the model it started from
    asked = record.get("budget") if own else None
    given = {name: record[name] for name in _OF_A_RUN if name in record} if own else {}
    texts = record.get("calibration") if own else None
    return PruningReport(
        method=record["method"],
        settings=settings_as_now(record.get("settings") or {}),
        removed=_as(RemovedShares, record["removed"]),
        kept=tuple(_kept(layer) for layer in record["kept"]),
        masked_vs_cut=record.get("masked_vs_cut", float("nan")),
        warnings=tuple(record.get("warnings", ())),
        budget=None if asked is None else _as(AskedBudget, asked),
        calibration=None if texts is None else _as(CalibrationUsed, texts),
        refit=tuple(_as(SublayerFit, entry) for entry in record.get("refit", ())) if own else (),
        phases=dict(record.get("phases", {})) if own else {},
        reused=tuple(record.get("reused", ())) if own else (),
        **given,
    )


def _as(cls: type, entries: Mapping[str, Any]) -> Any:
    """The entries of a record that a class has fields for; what a later release adds is left out."""
    names = {entry.name for entry in fields(cls)}
    return cls(**{name: value for name, value in entries.items() if name in names})


def _kept(layer: Mapping[str, Any]) -> KeptInLayer:
    queries = layer.get("queries")
    return KeptInLayer(
        heads=tuple(layer["heads"]),
        neurons=tuple(layer["neurons"]),
        queries=None if queries is None else tuple(map(tuple, queries)),
    )

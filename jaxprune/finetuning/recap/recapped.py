"""What RECAP's rounds come to: the best small model, and the record of all of them."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from math import ceil
from typing import Any, NamedTuple

import jax

from ...checkpoint.load import NEW_WEIGHTS
from ...doubts import tell
from ...evaluation.metrics import goodness
from ...model import Batch, Model, Params
from ...pruning.cost import removed, whole_parameters
from ...pruning.cut import compose_kept, cut_architecture, kept_units
from ...pruning.cut_check import TOLERANCE, MadeLayers, masked_versus_cut_in_turn
from ...runtime.by_sublayer import outer_params
from ...runtime.devices import placed
from ..epochs import batch_doubts, batch_shape
from ..masters import in_types, result_types
from ..texts import Texts
from .phase_bytes import host_bytes, phase_bytes
from .run import HostState, RecapRun
from .scatter import kept_of, write_layer


class Recapped(NamedTuple):
    """What the rounds come to."""

    model: Model  # the best round's small model, with the record
    full: Model  # the full model after the last round
    rounds: tuple[dict[str, Any], ...]


def finished(
    run: RecapRun, texts: Texts, first: Sequence[Batch], state: HostState, best: Params, records: list[dict[str, Any]]
) -> Recapped:
    """The best round's model with the record of all rounds."""
    settings, training, before = run.settings, run.training, run.model.provenance
    warnings = [entry for entry in before.warnings if NEW_WEIGHTS not in entry]
    kept_round = len(records) - 1
    if training.keep == "best":
        kept_round = max(range(len(records)), key=lambda number: (goodness(records[number]), number))
    small_architecture, best = cut_architecture(run.model.architecture, state.best), in_types(best, run.result_types)
    with jax.default_device(run.placement.host):
        error = _masked_versus_cut(run, state, best, first[0])
    if error > TOLERANCE:
        warnings.append(f"masked and cut model differ by {error:.1e} relative; expected at most {TOLERANCE}.")
    length = ceil(texts.encoded.tokens / len(texts.encoded))
    dense = run.model.architecture
    rows, slots = first[0].ids.shape
    predicted = phase_bytes(
        dense, small_architecture, settings, training, rows, slots, run.tokens, run.kept_types, run.result_types,
        run.placement.devices,
    )  # fmt: skip
    measured = {name: max(entry["phases"][name]["peak_bytes"] for entry in records) for name in records[0]["phases"]}
    seconds = [entry["seconds"] for entry in records]
    record = before.record
    notes = {
        "method": "recap",
        "settings": asdict(training),
        "task": run.task.name,
        "source": run.task.source,
        "texts": len(texts.encoded),
        "pairs": run.task.paired,
        "tokens": texts.encoded.tokens,
        "batch": batch_shape(first),
        "epochs": [{**entry, "epoch": entry["round"]} for entry in records],
        "kept_epoch": kept_round,
        "new_head": run.new_head,
        "scored_on": run.split_name,
        "parameters": records[kept_round]["parameters"],
        "trainable_parameters": records[kept_round]["trainable_parameters"],
        "seconds": sum(seconds),
        "seconds_per_epoch": sum(seconds) / settings.epochs,
        "compile_seconds": sum(p["compile_seconds"] for r in records for p in r["phases"].values()),
        "device": str(run.placement.device),
        "host": str(run.placement.host),
        "device_bytes": {"predicted": predicted, "measured": measured},
        "host_bytes": host_bytes(dense, small_architecture, settings, training, run.kept_types, run.result_types),
        "peak_bytes": max(measured.values()),
    }
    mesh, doubts = run.placement.devices.mesh, batch_doubts(first, training, run.placement.devices)
    if mesh is not None:
        notes["mesh"] = {**mesh.shape, "processes": jax.process_count()}
    warnings = list(dict.fromkeys([*warnings, *texts.warnings, *run.doubts, *doubts, *records[kept_round]["warnings"]]))
    tell(warnings)
    layers = state.params["layers"]
    for index, types in enumerate(run.result_types["layers"]):  # in place: there is no second copy of the full model
        layers[index] = in_types(layers[index], types)
    full = run.model.replace(params=in_types(state.params, run.result_types))
    result = run.model.replace(
        architecture=small_architecture, params=placed(best),
        provenance=replace(before, warnings=tuple(warnings)),
    ).with_record(
        method="recap",
        settings=asdict(settings),
        started_from={name: record[name] for name in ("method", "settings", "budget", "removed") if name in record},
        removed=removed(dense, small_architecture, length) | {"length": length},
        parameters={"before": whole_parameters(dense), "after": whole_parameters(small_architecture)},
        kept=compose_kept(record.get("kept"), kept_units(dense, state.best), dense),
        units={"heads": [size.groups for size in dense.layers], "neurons": [size.neurons for size in dense.layers]},
        masked_vs_cut=error,
        warnings=warnings,
        training=notes,
    )  # fmt: skip
    return Recapped(result, full.replace(provenance=replace(before, warnings=tuple(warnings))), tuple(records))


def _masked_versus_cut(run: RecapRun, state: HostState, best: Params, batch: Batch) -> float:
    """Are units silenced in the full model, with what the best round trained written back, those that were cut?"""
    full = run.model.architecture
    kept = kept_of(full, state.best)

    def layer(index: int) -> Params:
        return in_types(best["layers"][index], result_types(best["layers"][index], "float32"))

    def written_back(index: int) -> Params:
        return write_layer(state.params["layers"][index], kept[index], layer(index))

    # Both in float32, whatever the result is kept in: to tell rounding from a fault.
    outer = in_types(outer_params(best), result_types(outer_params(best), "float32"))
    cut, whole = ({**outer, "layers": MadeLayers(len(kept), make)} for make in (layer, written_back))
    return masked_versus_cut_in_turn(whole, cut, full, cut_architecture(full, state.best), state.best, batch)

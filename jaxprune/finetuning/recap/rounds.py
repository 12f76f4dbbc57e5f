"""One round of RECAP: importance, masking, teaching where the full model does, tuning, write back, evaluation."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...evaluation.evaluate import Evaluation, evaluate
from ...model import Architecture, Params
from ...model.architecture import ATTENTION, FEED_FORWARD
from ...model.heads import head_of
from ...model.language import vocabulary
from ...pruning.cut import Mask, cut_architecture
from ...runtime.by_sublayer import outer_params
from ...runtime.placement import free
from ...tokens.packing import unpack_logits, unpack_tokens
from ..guides import guides_of
from ..lora import count
from ..masters import in_types
from ..step import merge, select
from ..taught import Taught
from ..training_bytes import FLOAT
from .phase_bytes import STREAMS
from .run import HostState, RecapRun
from .scatter import (
    KeptIndices,
    cut_and_split,
    cut_layer,
    join,
    join_layer,
    join_outer,
    kept_of,
    narrowed,
    split_layer,
    split_outer,
    with_trained,
    write_layer,
)
from .selection import Units, choose_units, measured_ahead, refitted, swept, train_rows
from .settings import Recap
from .sweep import Rows
from .tuning import (
    BETAS,
    AdamMoments,
    TunedRound,
    decayed,
    in_float32,
    send_round,
    trainable_of,
    tune_round,
    whole_parts,
    zeros,
)


class Chosen(NamedTuple):
    """What a round works on."""

    masks: list[Mask]
    kept: KeptIndices
    rows: Rows
    tokens: np.ndarray | None  # which token embeddings train; None: all or none of them


def one_round(run: RecapRun, state: HostState, number: int) -> tuple[HostState, Params, dict[str, Any]]:
    """The host's state after a round, the small model's parameters, and the round's record. Consumes `state`."""
    phases: dict[str, Any] = {}
    settings, on_device = run.settings, run.settings.measure_on == "device"
    with run.phase("importance", number, phases, on_device, run.sweeps):
        if settings.prefetch and number:
            units = Units(state.coming, state.average, None)
        else:
            units = choose_units(run, state, number, run.step)
    masks = units.masks
    with run.phase("masking", number, phases, on_device, run.sweeps):
        source = refitted(run, state, units, number) if settings.refit != "none" else state.params
        chosen = _choose_rows(run, source, masks, number)
    small = cut_architecture(run.model.architecture, masks)
    epochs: list[Any] = [
        lambda epoch=number * settings.epochs_per_round + i: run.batches(epoch)
        for i in range(settings.epochs_per_round)
    ]
    if run.training.distills:
        with run.phase("teaching", number, phases, False, run.teaching):
            taught = _taught(run, state, number) if number or not run.new_head else None
    else:
        taught = None
    before = state._replace(average=units.average, masks=masks)
    with (
        run.phase("tuning", number, phases, True, run.of_shape("tuning", small)),
        measured_ahead(run, before, number) as ahead,
    ):
        parts = cut_and_split(source, chosen.kept, chosen.rows, chosen.tokens, resting=partial(_resting, run))
        trains = trainable_of(settings, small)
        del source  # with a refit, a second copy of all layers
        first_step = number * len(epochs) * run.batch_count
        sent = send_round(
            parts, _moments(state, parts, chosen, settings, small), small, run.training, settings, run.placement,
            types=run.result_types, steps=run.steps, done=first_step,
            since=0 if settings.moments == "dropped" else first_step,
        )  # fmt: skip
        trainable, total = count(select(parts, trains)[0]), count(parts) - _places(parts)
        start = parts if settings.refit != "none" else None
        del parts  # the device has them
        tuned = tune_round(
            sent, small, epochs, run.targets, run.training, run.placement, taught,
            words=_words(state.params, run.model.architecture, settings) if taught is not None else None,
            types=run.result_types, steps=run.steps, done=first_step,
            on_step=lambda done, loss: run.step({"phase": "train", "done": done, "of": run.steps, "loss": loss}),
        )  # fmt: skip
        del sent
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
            moments = AdamMoments(
                *[written(full, chosen, run.placement.to_host(new), beta) for full, new, beta in triples]
            )
    best = _in_result_types(params, chosen.kept, run) if best is None else in_types(best, run.result_types)
    with run.phase("evaluation", number, phases, True, run.of_shape("evaluation", small)):
        scored = _scored(run, small, tuned, best)
    record = {
        "round": number,
        "score": scored.score,
        "metric": scored.metric,
        "metrics": scored.metrics,
        "warnings": list(scored.warnings),
        "loss": float(np.average(tuned.losses, weights=tuned.counts)),
        "steps": len(tuned.losses),
        "frozen": settings.freeze_at(number),
        "parameters": total,
        "trainable_parameters": trainable,
        "heads": [np.flatnonzero(mask).tolist() for mask in run.model.architecture.of_half(ATTENTION, masks)],
        "neurons": [int(mask.sum()) for mask in run.model.architecture.of_half(FEED_FORWARD, masks)],
        "new": {
            name: _new_share(*(run.model.architecture.of_half(half, either) for either in (masks, state.masks)))
            for half, name in ((ATTENTION, "heads"), (FEED_FORWARD, "neurons"))
        },
        "seconds": sum(phase["seconds"] for phase in phases.values()),
        "seconds_ahead": 0.0 if coming is None else coming.seconds,
        "phases": phases,
    }
    after = HostState(params, moments, units.average, masks, state.best, state.coming)
    if coming is not None:
        after = after._replace(average=coming.units.average, coming=coming.units.masks)
    return after, best, record


def _resting(run: RecapRun, index: int, layer: Params) -> Params:
    """A split layer whose frozen rows are rounded at once, where they rest and end in one type that is asked for."""
    asked = run.training.frozen_dtype
    return layer if asked is None else narrowed(layer, run.result_types["layers"][index], jnp.dtype(asked))


def _in_result_types(full: Params, kept: KeptIndices, run: RecapRun) -> Params:
    """The parameters of the units that stay as they are handed back, without a second copy of more than one layer."""
    pairs = zip(full["layers"], kept, run.result_types["layers"], strict=True)
    layers = [in_types(cut_layer(layer, units), types) for layer, units, types in pairs]
    return {**in_types(outer_params(full), outer_params(run.result_types)), "layers": layers}


def _scored(run: RecapRun, small: Architecture, tuned: TunedRound, best: Params) -> Evaluation:
    """The small model's scores, on one device: with the weights that are there, which are consumed; or, where several
    have a part of them each, from host memory (`best`) one sublayer at a time.
    """
    placement = run.placement
    if placement.devices.splits:
        free(whole_parts(tuned))
        there, params = None, best
        placement.programs.devices = placement.streaming(STREAMS * FLOAT * run.batches(0)[0].ids.size * small.hidden)
    else:
        there = in_types(whole_parts(tuned), run.result_types, free)
        params = there if placement.devices.mesh is None else jax.tree.map(lambda leaf: leaf.addressable_data(0), there)
    model = run.model.replace(architecture=small, params=params)
    scored = evaluate(model, run.task, split=run.split_name, programs=placement.programs)
    free(there)
    return scored


def _taught(run: RecapRun, state: HostState, number: int) -> Taught:
    """What the full model says of every training text as a round begins: worked out on the host, for all its epochs."""
    architecture, batches = run.model.architecture, run.batches(number * run.settings.epochs_per_round)
    head, values = head_of(architecture), []
    # What a language model's head reads is large, and the step computes in this type.
    dtype = jnp.dtype("float32" if head.language is None else run.training.dtype)
    with jax.default_device(run.placement.host):
        for value in guides_of(state.params, batches, architecture, run.teaching):
            values.append(np.asarray(value).astype(dtype))
            run.step({"phase": "teaching", "done": len(values), "of": len(batches)})
    texts = unpack_logits(values, batches) if head.per_text else unpack_tokens(values, batches)
    return Taught(texts, run.encoded, not head.per_text, values[0].shape[-1], dtype)


def _words(full: Params, architecture: Architecture, settings: Recap) -> Params | None:
    """The vocabulary with which a language model teaches, where its student's own may move away from it."""
    if head_of(architecture).language is None or settings.outer == "frozen":
        return None
    return vocabulary(full, architecture)


def _moved(full: Params, chosen: Chosen, trains: Any, start: Params, trained: Params) -> Params:
    """The trained leaves of the full model: its own, moved by what training changed of `start`."""
    own = select(cut_and_split(full, chosen.kept, chosen.rows, chosen.tokens), trains)[0]
    return jax.tree.map(lambda leaf, old, new: leaf + (new - old), own, select(start, trains)[0], trained)


def _choose_rows(run: RecapRun, params: Params, masks: list[Mask], number: int) -> Chosen:
    kept = kept_of(run.model.architecture, masks)
    fisher = swept(run, params, masks, "fisher", number, run.step)
    of_kept = [
        {
            half: {name: values.take(units[half], axis=0) for name, values in matrices.items()}
            for half, matrices in layer.items()
        }
        for layer, units in zip(fisher, kept, strict=True)
    ]
    return Chosen(masks, kept, train_rows(of_kept, run.settings.freeze_at(number)), run.tokens)


def _moments(
    state: HostState, parts: Params, chosen: Chosen, settings: Recap, architecture: Architecture
) -> AdamMoments:
    """Those of the rows that will train, in float32."""
    trains = trainable_of(settings, architecture)
    if state.moments is None:
        return zeros(select(parts, trains)[0])
    of_kept = (cut_and_split(full, chosen.kept, chosen.rows, chosen.tokens) for full in state.moments)
    return AdamMoments(*[in_float32(select(each, trains)[0]) for each in of_kept])


def written(full: Params, chosen: Chosen, trained: Params, beta: float | None = None) -> Params:
    """`full` (parameters, or moments, which then decay by `beta` where they did not train) with what trained.

    Goes layer by layer and consumes `full`, so that there is never a second copy of more than one layer.
    """
    layers = full["layers"]
    for index in range(len(layers)):
        layer = layers[index] if beta is None else decayed(layers[index], beta)
        parts = split_layer(cut_layer(layer, chosen.kept[index]), chosen.rows[index])
        small = join_layer(with_trained(parts, trained["layers"][index]))
        layers[index] = write_layer(layer, chosen.kept[index], small)
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

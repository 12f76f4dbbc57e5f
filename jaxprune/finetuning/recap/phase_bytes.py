"""What every phase of RECAP needs on the device, in bytes: predicted from sizes, and of compiled programs."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...model import Architecture, LayerSizes, Model, Params, parameter_shapes
from ...model.architecture import HALVES
from ...model.heads import head_of
from ...model.language import slice_tokens, vocabulary
from ...model.partial_rows import Split
from ...model.sublayer import INPUTS, OUTPUT
from ...model.transformer import whole_pass
from ...runtime.by_sublayer import outer_params
from ...runtime.devices import Devices
from ...runtime.memory import program_bytes, temp_bytes
from ..lora import count
from ..settings import Train
from ..step import select
from ..training_bytes import (
    FLOAT,
    abstract_batch,
    activation_bytes,
    compiled_step,
    held_bytes,
    in_frozen_type,
    moment_bytes,
    update_bytes,
    whole_bytes,
    wide_copies,
)
from .selection import trained_count
from .settings import Recap
from .sweep import Form, compiled_sweep
from .tuning import ever_trains, trainable_of

STREAMS = 3  # of a training batch, in bytes: what texts that are scored take of the device


def uniform(architecture: Architecture, remove: float) -> Architecture:
    """The architecture with a share `remove` of every sublayer's units gone, one unit at least left."""
    left = lambda units: min(units, max(1, round((1 - remove) * units)))  # noqa: E731
    return architecture.with_layers(
        tuple(
            LayerSizes(groups=left(size.groups), queries=size.queries, neurons=left(size.neurons))
            for size in architecture.layers
        )
    )


def abstract(architecture: Architecture, types: Params | None = None) -> Params:
    """The parameters of an architecture, shapes only: float32, or each in its type of `types`."""
    shapes = parameter_shapes(architecture)
    if types is None:
        types = jax.tree.map(lambda _: jnp.float32, shapes, is_leaf=lambda node: isinstance(node, tuple))
    return jax.tree.map(lambda dtype, shape: jax.ShapeDtypeStruct(shape, dtype), types, shapes)


def abstract_parts(
    small: Architecture, freeze: float, tokens: int | None = None, types: Params | None = None
) -> Params:
    """The split parameters of `small`, shapes only; `tokens`: how many token embeddings train of a split table."""
    params = abstract(small, types)
    for layer in params["layers"]:
        for half in HALVES:
            for name in (*INPUTS[half], OUTPUT[half]):
                if name not in layer[half]:
                    continue
                p = layer[half][name]
                kernel = p["kernel"].shape
                units = kernel[:-1] if name == OUTPUT[half] else kernel[1:]
                trained = trained_count(int(np.prod(units)), freeze)
                if name == OUTPUT[half]:
                    p["kernel"] = _parts(units, trained, p["kernel"], after=kernel[-1:])
                else:
                    p["kernel"] = _parts(units, trained, p["kernel"], before=kernel[:1])
                    if "bias" in p:
                        p["bias"] = _parts(units, trained, p["bias"])._replace(place=None)
    if tokens is not None:
        table = params["embed"]["token"]
        params["embed"]["token"] = _parts((small.vocab,), tokens, table, after=table.shape[1:])
    return params


def _parts(
    units: tuple[int, ...], trained: int, whole: Any, before: tuple[int, ...] = (), after: tuple[int, ...] = ()
) -> Split:
    leaf = lambda n: jax.ShapeDtypeStruct((*before, n, *after), whole.dtype)  # noqa: E731
    return Split(leaf(int(np.prod(units)) - trained), leaf(trained), jax.ShapeDtypeStruct(units, jnp.int32))


def least_frozen(settings: Recap) -> float:
    """The share of frozen rows in the round that needs the most."""
    return min(settings.freeze_at(number) for number in range(settings.rounds))


def phase_bytes(
    dense: Architecture,
    small: Architecture,
    settings: Recap,
    training: Train,
    rows: int,
    length: int,
    tokens: np.ndarray | int | None = None,
    types: Params | None = None,
    results: Params | None = None,
    devices: Devices = Devices(),
) -> dict[str, int]:
    """The predicted peak on the device by phase, for batches of `rows` rows of `length` tokens; of a mesh in `devices`
    that on each of them.

    Exact but for activations, which are estimates (`activation_bytes`). `tokens` are the token embeddings that train
    where only those that occur do. `types` are those of the full model's parameters on the host, `results` those of the
    model that is scored; float32 without.
    """
    training = training.resolved(small, adapted=False)
    touched = None if tokens is None else int(np.sum(tokens))
    parts = abstract_parts(small, least_frozen(settings), touched, types)
    chosen, frozen = select(parts, trainable_of(settings, small))
    trains, own = {id(leaf) for leaf in jax.tree.leaves(chosen)}, devices.part(chosen)
    trained, moments = FLOAT * count(own), moment_bytes(own, training)
    tuned = held_bytes(own) + held_bytes(devices.part(in_frozen_type(frozen, training)))
    stream, share = FLOAT * rows * length * small.hidden, -(-rows // devices.data)
    part = stream * share // rows
    sweep = 0
    if settings.measure_on == "device":
        full = abstract(dense, types)
        layer = max(held_bytes(layer) for layer in full["layers"])
        language = head_of(dense).language is not None
        one = dense.with_layers(dense.layers[:1])
        one = replace(one, head="none") if language and dense.causal else one  # whose words are counted below
        outer = held_bytes(outer_params(full))
        # Of all batches' streams those of one are there; and what is outside the layers while none of them is, with the
        # logits of a slice of tokens and their gradient.
        going = 2 * layer + 2 * part + activation_bytes(one, share, length, Train(dropout=0.0), trained=1.0)
        words = 2 * FLOAT * slice_tokens(dense.vocab) * dense.vocab if language else 0
        sweep = max(outer + 2 * part + words, going)
    # Each device of the mesh's axis model multiplies with some rows of every matrix, and then has all they give.
    activations = activation_bytes(small, share, length, training, 1 - least_frozen(settings), own)
    activations = max(activations, update_bytes(own, training))
    if devices.by_weights:
        activations += whole_bytes(small, in_frozen_type(parts, training, trains), trains, training, devices)
    taught = 0
    if training.distills and head_of(small).language is not None:
        # What is said of two batches, one of which is on its way; and the teacher's vocabulary, where ours moves.
        taught = 2 * share * length * small.hidden * np.dtype(training.dtype).itemsize
        if settings.outer != "frozen":
            taught += held_bytes(devices.part(in_frozen_type(vocabulary(abstract(dense, types), dense), training)))
    rounded = abstract_parts(small, least_frozen(settings), touched, results)
    back = trained + held_bytes(devices.part(select(rounded, trainable_of(settings, small))[1]))
    widest = FLOAT * rows * length * max(size.neurons for size in small.layers)
    scored = held_bytes(rounded)
    if devices.splits:  # one sublayer at a time, while the next comes and the last goes
        whole = abstract(small, results)
        halves = [held_bytes(half) for layer in whole["layers"] for half in layer.values()]
        scored = held_bytes(outer_params(whole)) + 3 * max(halves)
    copies = max(wide_copies(rounded, in_turn=True), _vocabulary_copy(rounded, small))
    return {
        "importance": sweep,
        "masking": sweep,
        **({"teaching": 0} if training.distills else {}),  # the full model stays on the host
        # What rested in fewer bits than the result has comes anew when all is trained.
        "tuning": max(tuned + trained + moments + activations + taught, back + moments),
        "write back": back + moments,
        # What trained is rounded leaf by leaf, so it is never there twice.
        "evaluation": max(back, scored + copies) + STREAMS * stream + 2 * widest,
    }


def host_bytes(
    dense: Architecture, small: Architecture, settings: Recap, training: Train, types: Params, results: Params
) -> dict[str, int]:
    """The predicted peak in host memory by phase, of what goes from round to round and what a round makes of it.

    Beside it: the model that was handed in, the texts, what importance, a refit or a teacher measures, and what a
    device has that is the host itself. `types` and `results` as in `phase_bytes`.
    """
    training = training.resolved(small, adapted=False)
    full, best = abstract(dense, types), abstract(small, results)
    bytes_of_moment = {"carried": 2 * FLOAT, "bfloat16": FLOAT, "dropped": 0}[settings.moments]
    state = held_bytes(full) + bytes_of_moment * count(select(full, ever_trains(settings, dense))[0])
    parts = abstract_parts(small, least_frozen(settings), types=types)
    chosen, frozen = select(parts, trainable_of(settings, small))
    # What lies outside the layers is shared, where it has the same type.
    kept = held_bytes(best["layers"]) + _changed(outer_params(full), outer_params(best))
    former = kept if settings.rounds > 1 else 0
    trained, sent = FLOAT * count(chosen), FLOAT * count(chosen) + moment_bytes(chosen, training)  # and on its way
    layers = 2 * FLOAT * max((count(layer) for layer in full["layers"]), default=0)  # the new one and a decayed one
    rounded = select(abstract_parts(small, least_frozen(settings), types=results), trainable_of(settings, small))[1]
    at_rest = in_frozen_type(frozen, training)
    # Of the layers' frozen rows what is sent, and where the result has them in another type what they are.
    triples = zip(*(jax.tree.leaves(tree["layers"]) for tree in (frozen, at_rest, rounded)), strict=True)
    resting = sum(
        held_bytes([rest] if rest.dtype in (whole.dtype, result.dtype) else [rest, whole])
        for whole, rest, result in triples
    ) + _changed(outer_params(frozen), outer_params(at_rest))
    back = trained * (3 if bytes_of_moment else 1)
    return {
        "tuning": state + former + resting + 3 * trained + sent,
        "write back": state + former + back + sent + layers,
        "evaluation": state + former + trained + kept,
    }


def _changed(one: Params, other: Params) -> int:
    """Bytes of the leaves of `other` that have another type than those of `one`: copies of them."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return held_bytes([theirs for ours, theirs in pairs if ours.dtype != theirs.dtype])


def _vocabulary_copy(params: Params, architecture: Architecture) -> int:
    """What a float32 copy takes of a language model's vocabulary that is kept in fewer bits."""
    if head_of(architecture).language is None:
        return 0
    return FLOAT * count([x for x in jax.tree.leaves(vocabulary(params, architecture)) if x.dtype.itemsize < FLOAT])


def measured_bytes(
    dense: Architecture,
    small: Architecture,
    settings: Recap,
    training: Train,
    rows: int,
    length: int,
    tokens: int | None = None,
    types: Params | None = None,
    results: Params | None = None,
) -> dict[str, int]:
    """The same by compiling each phase's largest program, for what lives and its temporaries; nothing is run.

    Of batches with one text a row.
    """
    training = training.resolved(small, adapted=False)
    parts = abstract_parts(small, least_frozen(settings), tokens, types)
    rounded = abstract_parts(small, least_frozen(settings), tokens, results)
    chosen = select(parts, trainable_of(settings, small))[0]
    moments, trains = moment_bytes(chosen, training), {id(leaf) for leaf in jax.tree.leaves(chosen)}
    tuning = compiled_step(Model(small, parts), rows, length, training, trainable=trainable_of(settings, small))
    batch = abstract_batch(small, rows, length)
    forward = whole_pass(small).lower(rounded, batch, architecture=small).compile()  # type: ignore[attr-defined]
    sweep = 0
    if settings.measure_on == "device":
        outer = FLOAT * (count(outer_params(abstract(dense))) + 2 * rows * length * dense.hidden)
        assert settings.importance != "kprune"  # which is measured on the host
        forms: tuple[Form, ...] = (settings.importance, "fisher")
        programs = [compiled_sweep(dense, abstract(dense)["layers"][0], batch, form) for form in forms]
        sweep = max(outer, *(program_bytes(program) for program in programs))
    back = held_bytes(chosen) + held_bytes(select(rounded, trainable_of(settings, small))[1])
    return {
        "importance": sweep,
        "masking": sweep,
        "tuning": held_bytes(in_frozen_type(parts, training, trains)) + moments + temp_bytes(tuning),
        "write back": back + moments,
        "evaluation": max(back, held_bytes(rounded) + temp_bytes(forward)),
    }

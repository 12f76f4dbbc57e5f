"""Importance and Fisher information of a whole model, one layer's gradients at a time.

A forward pass keeps the residual stream before every layer, nothing else; going down again, each layer is run once more
and differentiated alone. So there is one layer's weight gradient at any time, and only one layer has to be where the
computing is done. A device that is not the host's gets each layer once on the way up and once on the way down: all
batches pass it before the next one comes, and their streams wait in host memory.
Removed units are gates at 0: their gradients vanish, shapes stay, and one program serves all rounds.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ...errors import NumericalError
from ...model import Architecture, Batch, Params
from ...model.architecture import ATTENTION, FEED_FORWARD, HALVES
from ...model.context import context_of
from ...model.sublayer import INPUTS, OUTPUT
from ...model.transformer import whole_layer
from ...pruning.cut import Mask, map_units
from ...runtime.by_sublayer import outer_params, start
from ...runtime.programs import Programs
from ..importance import at_tokens
from ..losses import from_stream, targets_of, unit_count

Rows = list[dict[str, dict[str, np.ndarray]]]  # per layer: {half: {matrix: one entry a row, shaped as units are}}
Form = Literal["weights", "gates", "fisher"]


def _gates(kept: dict[str, Array]) -> dict[str, Array]:
    """A layer's masks in the shape that multiplies features."""
    return {ATTENTION: kept[ATTENTION][:, None, None], FEED_FORWARD: kept[FEED_FORWARD]}


@partial(jax.jit, static_argnames="architecture")
def _through(layer: Params, x: Array, batch: Batch, kept: dict[str, Array], *, architecture: Architecture) -> Array:
    """The residual stream after a layer."""
    return whole_layer(layer, x, context_of(architecture, batch), architecture, _gates(kept))[0]


@partial(jax.jit, static_argnames="architecture")
def _top(outer: Params, x: Array, batch: Batch, targets: Array, *, architecture: Architecture) -> Array:
    """The gradient of the loss, summed over what `unit_count` counts, to the last residual stream."""
    return jax.grad(lambda x: from_stream(outer, x, batch, targets, architecture))(x)


@partial(jax.jit, static_argnames=("architecture", "form"), donate_argnames="cotangent")
def _down(
    layer: Params,
    x: Array,
    batch: Batch,
    kept: dict[str, Array],
    cotangent: Array,
    count: Array,
    *,
    architecture: Architecture,
    form: Form,
) -> tuple[Array, Any]:
    """The gradient before a layer from the one after it, and what `form` asks of the layer's own gradient.

    `count` is the batch's `unit_count`.
    """
    context = context_of(architecture, batch)
    if form == "gates":
        # A text's gates touch its own loss only: one gradient of the sum holds that of every text.
        gates = {half: jnp.broadcast_to(kept[half], (*batch.index.shape, len(kept[half]))) for half in HALVES}
        run = lambda gates, x: whole_layer(layer, x, context, architecture, at_tokens([gates], batch)[0])[0]  # noqa: E731
        gradient, before = jax.vjp(run, gates, x)[1](cotangent)
        return before, {half: jnp.sum(gradient[half] ** 2, axis=(0, 1)) / count for half in HALVES}
    run = lambda layer, x: whole_layer(layer, x, context, architecture, _gates(kept))[0]  # noqa: E731
    gradient, before = jax.vjp(run, layer, x)[1](cotangent)
    gradient = jax.tree.map(lambda leaf: leaf / count, gradient)
    if form == "weights":
        return before, {half: weight_scores(half, layer[half], gradient[half]) for half in HALVES}
    return before, {half: row_scores(half, gradient[half]) for half in HALVES}


def weight_scores(half: str, p: Params, gradient: Params) -> Array:
    """Σ (w·g)² over all weights and biases of each unit: [units]."""
    sums = []

    def add(axis: int, weight: Array, slope: Array) -> Array:
        sums.append(jnp.sum((weight * slope) ** 2, axis=tuple(a for a in range(weight.ndim) if a != axis)))
        return weight

    map_units(half, add, p, gradient)
    return jnp.sum(jnp.stack(sums), axis=0)


def row_scores(half: str, gradient: Params) -> dict[str, Array]:
    """Σ g² over each row of the matrices of a half, shaped as its units: the diagonal of the Fisher information."""
    hidden = {"o": -1, "down": -1}  # where the other axis, that of the residual stream, lies
    names = [name for name in (*INPUTS[half], OUTPUT[half]) if name in gradient]
    return {name: jnp.sum(gradient[name]["kernel"] ** 2, axis=hidden.get(name, 0)) for name in names}


def sweep(
    params: Params,
    architecture: Architecture,
    batches: Sequence[Batch],
    targets: np.ndarray,
    kept: Sequence[Mask],
    *,
    form: Form,
    place: Callable[[Any], Any],
    programs: Programs,
    rows: Callable[[Any], Any] | None = None,
    keep: Callable[[Any], Any] | None = None,
    on_part: Callable[[int, int], None] = lambda done, of: None,
) -> Any:
    """Σ over batches of what `form` says, divided by their number, in float64.

    weights: per sublayer [units], Σ (w·g)² with g the gradient of a batch's mean loss. gates: per sublayer [units], the
    mean over texts of (Σ w·g)², which is the squared gradient to the unit's gate. fisher: `Rows` of Σ g².
    `place` brings a tree to where it is computed; of `params`, one layer at a time is there. `rows` does so with what
    has the rows of a batch, which a mesh shares (None: as `place`). `keep` takes residual streams from there to host
    memory: each layer is then placed twice in all, for all batches. Without it a batch goes all the way before the next
    one, and its streams stay; the numbers are the same to the bit. Units that the masks
    `kept` remove write nothing. `on_part` hears how many parts of how many are done. Raises `NumericalError` where a
    number is not finite.
    """
    depth, rows = len(architecture.layers), rows or place
    gates = place(architecture.by_layer([mask.astype(np.float32) for mask in kept]))
    groups = [[batch] for batch in batches] if keep is None else [batches]
    total: list[Any] = [None] * depth
    for number, group in enumerate(groups):
        walk = _up_and_down(params, architecture, group, targets, gates, form, place, rows, keep, programs)
        for passed, (index, scores) in enumerate(walk):
            for entry in scores:
                share = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) / len(batches), entry)
                total[index] = share if total[index] is None else jax.tree.map(np.add, total[index], share)
            if keep is not None:
                on_part(passed + 1, 2 * depth)
        if keep is None:
            on_part(number + 1, len(groups))
    for index, layer in enumerate(total):
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(layer)):
            raise NumericalError(f"the gradient in layer {index} is NaN or Inf; check the weights and the texts.")
    return total if form == "fisher" else [at.of(total) for at in architecture.sublayers()]


def _up_and_down(
    params: Params,
    architecture: Architecture,
    batches: Sequence[Batch],
    targets: np.ndarray,
    gates: Sequence[Any],
    form: Form,
    place: Callable[[Any], Any],
    rows: Callable[[Any], Any],
    keep: Callable[[Any], Any] | None,
    programs: Programs,
) -> Iterator[tuple[int, list[Any]]]:
    """Every layer that was passed, by its number, first upwards; on the way down with what `form` asks, by batch."""
    static, away = {"architecture": architecture}, keep or jax.block_until_ready
    back = rows if keep is not None else lambda tree: tree
    outer = place(outer_params(params))
    streams = [[away(programs(start, outer, rows(batch), **static)) for batch in batches]]
    # Pixels are read once; what the layers read of a batch is small.
    read = [rows(batch._replace(patches=None)) for batch in batches]
    del outer
    for index in range(len(architecture.layers)):
        layer, kind = place(params["layers"][index]), architecture.of_layer(index)
        after = []
        for x, batch in zip(streams[-1], read, strict=True):
            # Waited for, so that the layer has gone before the next one comes.
            after.append(away(programs(_through, layer, back(x), batch, gates[index], architecture=kind)))
        streams.append(after)
        del layer
        yield index, []
    outer, last, cotangents, counts = place(outer_params(params)), streams.pop(), [], []
    for number, batch in enumerate(read):
        goal = rows(targets_of(batches[number], targets))
        cotangents.append(away(programs(_top, outer, back(last[number]), batch, goal, **static)))
        counts.append(unit_count(batch, goal, architecture))
    del outer, last
    for index in reversed(range(len(architecture.layers))):
        layer, kind, before, scores = place(params["layers"][index]), architecture.of_layer(index), streams.pop(), []
        for number, batch in enumerate(read):
            arrays = layer, back(before[number]), batch, gates[index], back(cotangents[number]), counts[number]
            cotangent, entry = programs(_down, *arrays, architecture=kind, form=form)
            cotangents[number] = away(cotangent)
            scores.append(jax.tree.map(np.asarray, entry))
            del arrays, cotangent, entry
        del layer, before
        yield index, scores


def compiled_sweep(architecture: Architecture, layer: Params, batch: Batch, form: Form) -> Any:
    """The compiled program that differentiates one layer, for its memory analysis; arrays may be shapes only."""
    size, (rows, length) = architecture.layers[0], batch.ids.shape
    flags = {ATTENTION: size.groups, FEED_FORWARD: size.neurons}
    kept = {half: jax.ShapeDtypeStruct((units,), jnp.float32) for half, units in flags.items()}
    stream = jax.ShapeDtypeStruct((rows, length, architecture.hidden), jnp.float32)
    count = jax.ShapeDtypeStruct((), jnp.float32)
    return _down.lower(layer, stream, batch, kept, stream, count, architecture=architecture, form=form).compile()

"""Importance and Fisher information of a whole model, one layer's gradients at a time.

A forward pass keeps the residual stream before every layer, nothing else; going down again, each layer is run once more
and differentiated alone. So there is one layer's weight gradient at any time, and only one layer has to be where the
computing is done. Removed units are gates at 0: their gradients vanish, shapes stay, and one program serves all rounds.
"""

from collections.abc import Callable, Sequence
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
    on_batch: Callable[[int], None] | None = None,
) -> Any:
    """Σ over batches of what `form` says, divided by their number, in float64.

    weights: per sublayer [units], Σ (w·g)² with g the gradient of a batch's mean loss. gates: per sublayer [units], the
    mean over texts of (Σ w·g)², which is the squared gradient to the unit's gate. fisher: `Rows` of Σ g².
    `place` brings a tree to where it is computed; of `params`, one layer at a time is there. Units that `kept` removes
    write nothing. Raises `NumericalError` where a number is not finite.
    """
    depth, total = len(architecture.layers), None
    masks = architecture.by_layer([mask.astype(np.float32) for mask in kept])
    static = {"architecture": architecture}
    for number, batch in enumerate(batches):
        goal = place(targets_of(batch, targets))
        batch, gates = place((batch, masks))
        outer = place(outer_params(params))
        streams = [programs(start, outer, batch, **static)]
        for index in range(depth):
            layer, kind = place(params["layers"][index]), architecture.of_layer(index)
            after = programs(_through, layer, streams[-1], batch, gates[index], architecture=kind)
            streams.append(jax.block_until_ready(after))  # so that the layer has gone before the next one comes
            del layer, after
        cotangent = programs(_top, outer, streams.pop(), batch, goal, **static)
        count = unit_count(batch, goal, architecture)
        del outer
        of_batch: list[Any] = [None] * depth
        for index in reversed(range(depth)):
            layer = place(params["layers"][index])
            arrays = layer, streams.pop(), batch, gates[index], cotangent, count
            cotangent, scores = programs(_down, *arrays, architecture=architecture.of_layer(index), form=form)
            of_batch[index] = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) / len(batches), scores)
            del layer, arrays, scores
        total = of_batch if total is None else jax.tree.map(np.add, total, of_batch)
        if on_batch:
            on_batch(number + 1)
    assert total is not None  # a packed task has a batch
    for index, layer in enumerate(total):
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(layer)):
            raise NumericalError(f"the gradient in layer {index} is NaN or Inf; check the weights and the texts.")
    return total if form == "fisher" else [at.of(total) for at in architecture.sublayers()]


def compiled_sweep(architecture: Architecture, layer: Params, batch: Batch, form: Form) -> Any:
    """The compiled program that differentiates one layer, for its memory analysis; arrays may be shapes only."""
    size, (rows, length) = architecture.layers[0], batch.ids.shape
    flags = {ATTENTION: size.groups, FEED_FORWARD: size.neurons}
    kept = {half: jax.ShapeDtypeStruct((units,), jnp.float32) for half, units in flags.items()}
    stream = jax.ShapeDtypeStruct((rows, length, architecture.hidden), jnp.float32)
    count = jax.ShapeDtypeStruct((), jnp.float32)
    return _down.lower(layer, stream, batch, kept, stream, count, architecture=architecture, form=form).compile()

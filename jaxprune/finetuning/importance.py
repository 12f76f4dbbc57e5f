"""How much a task needs each head and neuron, measured at gates: no weight gradient is computed or stored.

A gate multiplies what one unit writes; |dL/dgate| at 1 is, to first order, how much the loss of a text moves when the
unit goes. Michel, Levy, Neubig: Are Sixteen Heads Really Better than One?, NeurIPS 2019; the normalisation is that of
Prune-LoRA (Wang, Yang, Sun, arXiv 2303.14704).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import NumericalError, SettingsError
from ..model import Architecture, Batch, Model, Params, Sites
from ..model.architecture import ATTENTION, FEED_FORWARD
from ..pruning.cut import unit_counts
from ..runtime.devices import placed
from ..runtime.memory import program_bytes
from ..runtime.programs import Programs
from .losses import summed_losses, targets_of


class Importance(NamedTuple):
    """One number a unit, higher is needed more; lists, since pruned layers differ in size."""

    heads: list[np.ndarray]  # per layer [heads]; with grouped queries, a key-value group with its queries
    neurons: list[np.ndarray]  # per layer [neurons]


def text_gates(architecture: Architecture, batch: Batch, neurons: bool) -> list[dict[str, Array]]:
    """Gates of 1 for every text of every unit, {"attention": [rows, texts, heads], …} a layer."""
    rows, texts = batch.index.shape
    halves = {ATTENTION: "groups", **({FEED_FORWARD: "neurons"} if neurons else {})}
    return [
        {half: jnp.ones((rows, texts, getattr(size, name))) for half, name in halves.items()}
        for size in architecture.layers
    ]


def at_tokens(gates: Sequence[Any], batch: Batch) -> list[dict[str, Array]]:
    """Each token gets the gates of its text, in the shape that `Sites` takes; padding gets those of the first text."""
    place = jnp.maximum(batch.segments - 1, 0)[..., None]  # [rows, length, 1]
    spread = lambda gate: jnp.take_along_axis(gate, place, axis=1)  # noqa: E731 - [rows, length, units]
    return [
        {half: spread(gate)[..., None, None] if half == ATTENTION else spread(gate) for half, gate in layer.items()}
        for layer in gates
    ]


@partial(jax.jit, static_argnames=("architecture", "neurons", "squared"))
def gate_sums(
    params: Params, batch: Batch, targets: Array, *, architecture: Architecture, neurons: bool, squared: bool = False
) -> list[dict[str, Float[Array, " _"]]]:
    """Σ over the texts of a batch of |dL/dgate| (or its square), L the loss of one text, for every unit."""

    def total(gates: Any) -> Array:
        sites = Sites(gates=at_tokens(gates, batch))
        return summed_losses(params, batch, targets, architecture, sites=sites)

    # A text's gates touch its own loss only, so that one gradient of the sum holds the gradient of every text.
    gradient = jax.grad(total)(text_gates(architecture, batch, neurons))
    return jax.tree.map(lambda leaf: jnp.sum(leaf**2 if squared else jnp.abs(leaf), axis=(0, 1)), gradient)


def gate_importance(
    model: Model,
    batches: Sequence[Batch],
    targets: np.ndarray,
    *,
    neurons: bool = False,
    squared: bool = False,
    programs: Programs | None = None,
    on_batch: Callable[[int], None] | None = None,
    device_limit: int | None = None,
) -> Importance:
    """|dL/dgate| of every head (and neuron), summed over texts, per real token; not yet normalised.

    `targets` as for `train`. `squared` sums squares instead: the diagonal of the empirical Fisher information. Without
    `neurons` theirs are empty arrays. Raises `NumericalError` where a gradient is not finite, and `SettingsError` where
    the compiled program needs more than `device_limit` bytes, before it runs.
    """
    programs = programs or Programs()
    params = placed(model.params)
    total: Any = None
    for number, batch in enumerate(batches):
        goal = targets_of(batch, targets)
        static = {"architecture": model.architecture, "neurons": neurons, "squared": squared}
        if device_limit is not None:
            _check_program(programs.prepare(gate_sums, params, batch, goal, **static), device_limit)
        sums = programs(gate_sums, params, batch, goal, **static)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        if on_batch:
            on_batch(number + 1)
    tokens = sum(int(np.sum(np.asarray(batch.segments) > 0)) for batch in batches)
    total = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) / tokens, total)
    for index, layer in enumerate(total):
        for half, values in layer.items():
            if not np.isfinite(values).all():
                raise NumericalError(f"importance in the {half} of layer {index} is NaN or Inf; check the weights.")
    none = np.zeros(0)
    return Importance([layer[ATTENTION] for layer in total], [layer.get(FEED_FORWARD, none) for layer in total])


def _check_program(compiled: Any, limit: int) -> None:
    needed = program_bytes(compiled)
    if needed > limit:
        raise SettingsError(
            f"measuring importance, compiled, needs {needed:,} bytes on the device, the limit is {limit:,}; hand "
            "importance in, or take the score magnitude."
        )


def normalised(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each layer's values over their L2 norm, then all of them stretched to [0, 1].

    The first step makes layers alike: gradients grow towards the output. A layer of zeros stays one; values that are
    all equal become 0.
    """
    scaled = [entry / max(float(np.linalg.norm(entry)), 1e-30) for entry in values]
    flat = np.concatenate([*scaled, np.zeros(0)])
    low, high = (flat.min(), flat.max()) if flat.size else (0.0, 0.0)
    return [(entry - low) / max(high - low, 1e-30) for entry in scaled]


def check_importance(importance: Importance, architecture: Architecture) -> None:
    """Raise `SettingsError` unless there is one finite number for every head, and for every neuron or for none."""
    counts = unit_counts(architecture)
    for name, values, expected in (
        ("heads", importance.heads, architecture.of_half(ATTENTION, counts)),
        ("neurons", importance.neurons, architecture.of_half(FEED_FORWARD, counts)),
    ):
        sizes = [len(entry) for entry in values]
        if sizes != expected and not (name == "neurons" and not any(sizes)):
            raise SettingsError(f"importance has {sizes} {name} a layer, the model {expected}; score every one.")
        if not all(np.isfinite(entry).all() for entry in values):
            raise SettingsError(f"importance of {name} holds NaN or Inf; give a finite number for each.")


def least(values: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Masks, true keeps, without the `count` lowest values over all layers; of equal ones the first goes."""
    flat = np.concatenate([*values, np.zeros(0)])
    mask = np.ones(len(flat), bool)
    mask[np.argsort(flat, kind="stable")[:count]] = False
    return np.split(mask, np.cumsum([len(entry) for entry in values])[:-1])

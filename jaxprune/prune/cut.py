"""From masks to smaller arrays: the one place where units leave a model, for every method."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from ..model.architecture import ATTENTION, HALVES, UNIT_AXES, Architecture, LayerSizes
from ..model.model import Model, Params
from ..model.transformer import OUTPUT

Mask = Bool[np.ndarray, " _"]  # one flag a unit; lists mix lengths, so the axis has no name


def map_units(half: str, function: Any, *trees: Params) -> Params:
    """Apply `function(axis, *leaves)` to every array of a half that has a unit axis; others are the first tree's."""

    def leaf(path: tuple[Any, ...], first: Any, *others: Any) -> Any:
        names = [entry.key for entry in path]
        axis = UNIT_AXES[half].get(names[0], {}).get(names[-1])
        return first if axis is None else function(axis, first, *others)

    return jax.tree_util.tree_map_with_path(leaf, *trees)


def take_units(half: str, p: Params, units: Any) -> Params:
    """The parameters of one half with only `units` (indices, in their order). Traceable."""
    return map_units(half, lambda axis, leaf: leaf.take(units, axis=axis), p)


def put_units(half: str, full: Params, units: np.ndarray, small: Params) -> Params:
    """`full` with `units` replaced by those of `small`, and its other arrays (norms, output bias) from `small`.

    The inverse of `take_units`: units not named keep their numbers.
    """

    def put(axis: int, small_leaf: Any, full_leaf: Any) -> Any:
        out = np.array(full_leaf)
        np.moveaxis(out, axis, 0)[units] = np.moveaxis(np.asarray(small_leaf), axis, 0)[: len(units)]
        return out

    # Norms and output biases are not gathered by unit: they keep their type here, the others in `put`.
    as_before = lambda new, old: np.asarray(new).astype(old.dtype)  # noqa: E731
    return jax.tree.map(as_before, map_units(half, put, small, full), full)


def unit_counts(architecture: Architecture) -> list[int]:
    """Units of every sublayer, bottom up: groups and neurons in turn."""
    return [count for layer in architecture.layers for count in (layer.groups, layer.neurons)]


def cut_architecture(architecture: Architecture, masks: Sequence[Mask]) -> Architecture:
    """The architecture that remains; `masks` per sublayer, true keeps."""
    counts = [int(np.sum(mask)) for mask in masks]
    layers = tuple(
        LayerSizes(groups=counts[2 * index], queries=layer.queries, neurons=counts[2 * index + 1])
        for index, layer in enumerate(architecture.layers)
    )
    return architecture.with_layers(layers)


def cut(model: Model, masks: Sequence[Mask]) -> Model:
    """The model without the units whose mask is false: q, k, v, up and their biases, output rows.

    A sublayer that lost all units still adds its output bias.
    """
    layers = []
    for index, layer in enumerate(model.params["layers"]):
        halves = {}
        for offset, half in enumerate(HALVES):
            kept = np.flatnonzero(masks[2 * index + offset])
            small = map_units(half, lambda axis, leaf: np.take(np.asarray(leaf), kept, axis=axis), layer[half])  # noqa: B023
            halves[half] = jax.tree.map(np.ascontiguousarray, small)
        layers.append(halves)
    params = {**model.params, "layers": layers}
    return model.replace(architecture=cut_architecture(model.architecture, masks), params=params)


def silenced(model: Model, masks: Sequence[Mask]) -> Model:
    """The model in full size, its removed units writing nothing: what gates at 0 do, in the weights."""
    layers = []
    for index, layer in enumerate(model.params["layers"]):
        halves = {}
        for offset, half in enumerate(HALVES):
            out = layer[half][OUTPUT[half]]
            kernel = np.array(out["kernel"])
            kernel[~masks[2 * index + offset]] = 0
            halves[half] = {**layer[half], OUTPUT[half]: {**out, "kernel": kernel}}
        layers.append(halves)
    return model.replace(params={**model.params, "layers": layers})


def with_output_biases(model: Model) -> Model:
    """The same model with biases (zeros, where it had none) on the projections that write to the residual stream."""
    layers = []
    for layer in model.params["layers"]:
        halves = {}
        for half in HALVES:
            out = layer[half][OUTPUT[half]]
            bias = out["bias"] if "bias" in out else np.zeros(model.architecture.hidden, out["kernel"].dtype)
            halves[half] = {**layer[half], OUTPUT[half]: {**out, "bias": bias}}
        layers.append(halves)
    architecture = replace(model.architecture, output_bias=True, down_bias=True)
    return model.replace(architecture=architecture, params={**model.params, "layers": layers})


def gates_of(architecture: Architecture, masks: Sequence[Mask]) -> list[dict[str, np.ndarray]]:
    """Masks as gates for `Sites`: 1.0 keeps, 0.0 removes, broadcastable against the features."""
    gates = []
    for index in range(len(architecture.layers)):
        heads, neurons = (np.asarray(mask, np.float32) for mask in masks[2 * index : 2 * index + 2])
        gates.append({ATTENTION: heads[:, None, None], HALVES[1]: neurons})
    return gates


def kept_units(masks: Sequence[Mask]) -> list[dict[str, list[int]]]:
    """Masks as plain lists of kept indices, for the record."""
    return [
        {
            "heads": np.flatnonzero(masks[2 * index]).tolist(),
            "neurons": np.flatnonzero(masks[2 * index + 1]).tolist(),
        }
        for index in range(len(masks) // 2)
    ]


def compose_kept(
    earlier: Any, kept: list[dict[str, list[int]]], architecture: Architecture
) -> list[dict[str, list[int]]]:
    """Kept units by their numbers in the model that an earlier cut started from, where its record says them."""
    sizes = [{"heads": size.groups, "neurons": size.neurons} for size in architecture.layers]
    if not isinstance(earlier, list) or [{k: len(v) for k, v in layer.items()} for layer in earlier] != sizes:
        return kept
    return [
        {name: [before[name][unit] for unit in units] for name, units in layer.items()}
        for before, layer in zip(earlier, kept, strict=True)
    ]

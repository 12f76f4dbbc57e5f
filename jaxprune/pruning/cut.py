"""From masks to smaller arrays: the one place where units leave a model, for every method."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from ..errors import SettingsError
from ..model.architecture import ATTENTION, FEED_FORWARD, UNIT_AXES, Architecture, LayerSizes
from ..model.attention_kinds import Relative
from ..model.model import Model, Params
from ..model.sublayer import OUTPUT

# One flag a unit: lists mix lengths, so the axis has no name. Where query heads leave the groups of an attention
# sublayer, its mask is [groups, queries]; groups that stay then keep as many query heads as each other.
Mask = Bool[np.ndarray, "*_"]


def map_units(half: str, function: Any, *trees: Params) -> Params:
    """Apply `function(axis, *leaves)` to every array of a half that has a unit axis; others are the first tree's."""

    def leaf(path: tuple[Any, ...], first: Any, *others: Any) -> Any:
        names = [entry.key for entry in path]
        axis = UNIT_AXES[half].get(names[0], {}).get(names[-1])
        return first if axis is None else function(axis, first, *others)

    return jax.tree_util.tree_map_with_path(leaf, *trees)


def unit_sums(axis: int, leaf: np.ndarray) -> np.ndarray:
    """An array summed over all its axes but one, [units]: none is fine."""
    return leaf.sum(axis=tuple(other for other in range(leaf.ndim) if other != axis))


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


def by_query_heads(masks: Sequence[Mask], architecture: Architecture) -> list[Mask]:
    """Masks whose attention sublayers list query heads, as [groups, queries]; layers that have one a group stay."""
    shaped = []
    for at, mask in zip(architecture.sublayers(), masks, strict=True):
        size = architecture.layers[at.layer]
        several = at.half == ATTENTION and size.queries > 1
        shaped.append(mask.reshape(size.groups, size.queries) if several else mask)
    return shaped


def kept_groups(mask: Mask) -> Bool[np.ndarray, " units"]:
    """The units that stay at least in part."""
    return mask if mask.ndim == 1 else np.asarray(mask.any(axis=1))


def kept_queries(mask: Mask) -> np.ndarray:
    """The query heads that stay in every group, [groups, kept]; of groups that go, the first ones."""
    left = np.max(mask.sum(axis=1), initial=0) or mask.shape[1]
    return np.sort(np.argsort(~mask, axis=1, kind="stable")[:, :left], axis=1)


def map_queries(function: Any, *trees: Params) -> Params:
    """Apply `function(axis, *leaves)` to the arrays of an attention half that have one block for every query head.

    `axis` is that of the groups, query heads follow. Other arrays are the first tree's.
    """
    out = {name: dict(leaves) for name, leaves in trees[0].items()}
    for name in ("q", "o"):
        for leaf, axis in UNIT_AXES[ATTENTION][name].items():
            if leaf in out[name]:
                out[name][leaf] = function(axis, *(tree[name][leaf] for tree in trees))
    return out


def take_queries(p: Params, mask: Mask) -> Params:
    """The parameters of an attention half with the query heads of a mask [groups, queries] only, all groups staying."""
    chosen = kept_queries(mask)

    def take(axis: int, leaf: Any) -> np.ndarray:
        leaf = np.moveaxis(np.asarray(leaf), (axis, axis + 1), (0, 1))
        return np.moveaxis(leaf[np.arange(len(chosen))[:, None], chosen], (0, 1), (axis, axis + 1))

    return map_queries(take, p)


def put_queries(full: Params, mask: Mask, small: Params) -> Params:
    """`full` with the query heads of a mask replaced by those of `small`, and its other arrays from `small`."""
    chosen = kept_queries(mask)

    def put(axis: int, small_leaf: Any, full_leaf: Any) -> np.ndarray:
        out = np.array(full_leaf)
        view = np.moveaxis(out, (axis, axis + 1), (0, 1))
        view[np.arange(len(chosen))[:, None], chosen] = np.moveaxis(np.asarray(small_leaf), (axis, axis + 1), (0, 1))
        return out

    return map_queries(put, small, full)


def heads_stay(architecture: Architecture) -> str | None:
    """Why no head of a model can leave; None where they can."""
    if not architecture.whole_query_key_norm:
        return None
    return (
        f"in {architecture.family} models queries and keys are normed over all heads together, so that none can leave "
        "without changing the others"
    )


def unit_counts(architecture: Architecture) -> list[int]:
    """Units of every sublayer, bottom up: groups and neurons in turn."""
    return [architecture.layers[at.layer].units[at.half] for at in architecture.sublayers()]


def cut_architecture(architecture: Architecture, masks: Sequence[Mask]) -> Architecture:
    """The architecture that remains; `masks` per sublayer, true keeps.

    Raises `SettingsError` where heads would go that cannot leave alone.
    """
    if not all(mask.all() for mask in architecture.of_half(ATTENTION, masks)) and (reason := heads_stay(architecture)):
        raise SettingsError(f"{reason}; remove neurons alone.")
    layers, groups = [], []
    for layer, masked in zip(architecture.layers, architecture.by_layer(masks), strict=True):
        heads, neurons = masked[ATTENTION], masked[FEED_FORWARD]
        queries = layer.queries if heads.ndim == 1 else kept_queries(heads).shape[1]
        groups.append(np.flatnonzero(kept_groups(heads)).tolist())
        layers.append(LayerSizes(groups=len(groups[-1]), queries=queries, neurons=int(neurons.sum())))
    kind = architecture.attention
    if isinstance(kind, Relative):
        kind = kind.of_groups(groups, [layer.groups for layer in architecture.layers])
    return replace(architecture, layers=tuple(layers), attention=kind)


def cut(model: Model, masks: Sequence[Mask]) -> Model:
    """The model without the units whose mask is false: q, k, v, up and their biases, output rows.

    A sublayer that lost all units still adds its output bias.
    """
    halves = []
    for at, mask in zip(model.architecture.sublayers(), masks, strict=True):
        p, kept = at.of(model.params["layers"]), np.flatnonzero(kept_groups(mask))
        p = take_queries(p, mask) if mask.ndim == 2 else p
        small = map_units(at.half, lambda axis, leaf: np.take(np.asarray(leaf), kept, axis=axis), p)  # noqa: B023
        halves.append(jax.tree.map(np.ascontiguousarray, small))
    params = {**model.params, "layers": model.architecture.by_layer(halves)}
    return model.replace(architecture=cut_architecture(model.architecture, masks), params=params)


def silenced(model: Model, masks: Sequence[Mask]) -> Model:
    """The model in full size, its removed units writing nothing: what gates at 0 do, in the weights."""
    pairs = zip(model.architecture.sublayers(), masks, strict=True)
    halves = [silenced_half(at.half, at.of(model.params["layers"]), mask) for at, mask in pairs]
    return model.replace(params={**model.params, "layers": model.architecture.by_layer(halves)})


def silenced_half(half: str, p: Params, mask: Mask) -> Params:
    """The parameters of one sublayer, whose removed units write nothing."""
    out = p[OUTPUT[half]]
    kernel = np.array(out["kernel"])
    kernel[~mask] = 0
    return {**p, OUTPUT[half]: {**out, "kernel": kernel}}


def with_output_biases(model: Model) -> Model:
    """The same model with biases (zeros, where it had none) on the projections that write to the residual stream."""
    halves = []
    for at in model.architecture.sublayers():
        p = at.of(model.params["layers"])
        out = p[OUTPUT[at.half]]
        bias = out["bias"] if "bias" in out else np.zeros(model.architecture.hidden, out["kernel"].dtype)
        halves.append({**p, OUTPUT[at.half]: {**out, "bias": bias}})
    architecture = replace(model.architecture, output_bias=True, down_bias=True)
    params = {**model.params, "layers": architecture.by_layer(halves)}
    return model.replace(architecture=architecture, params=params)


def gates_of(architecture: Architecture, masks: Sequence[Mask]) -> list[dict[str, np.ndarray]]:
    """Masks as gates for `Sites`: 1.0 keeps, 0.0 removes, broadcastable against the features."""
    gates = []
    for at, mask in zip(architecture.sublayers(), masks, strict=True):
        gate = np.asarray(mask, np.float32)
        if at.half == ATTENTION:
            gate = gate[:, None, None] if gate.ndim == 1 else gate[:, :, None]
        gates.append(gate)
    return architecture.by_layer(gates)


KeptUnits = list[dict[str, Any]]


def kept_units(architecture: Architecture, masks: Sequence[Mask]) -> KeptUnits:
    """Masks as plain lists of kept indices, for the record.

    A layer: {"heads": […], "neurons": […]}, and where query heads left groups "queries", one list for each head unit.
    """
    out: KeptUnits = []
    for layer in architecture.by_layer(masks):
        heads, neurons = layer[ATTENTION], layer[FEED_FORWARD]
        kept = kept_groups(heads)
        out.append({"heads": np.flatnonzero(kept).tolist(), "neurons": np.flatnonzero(neurons).tolist()})
        if heads.ndim == 2:
            out[-1]["queries"] = kept_queries(heads)[kept].tolist()
    return out


def compose_kept(earlier: Any, kept: KeptUnits, architecture: Architecture) -> KeptUnits:
    """Kept units by their numbers in the model that an earlier cut started from, where its record says them."""
    sizes = [(size.groups, size.neurons) for size in architecture.layers]
    if not isinstance(earlier, list) or [(len(layer["heads"]), len(layer["neurons"])) for layer in earlier] != sizes:
        return kept
    out: KeptUnits = []
    for before, layer in zip(earlier, kept, strict=True):
        out.append({name: [before[name][unit] for unit in layer[name]] for name in ("heads", "neurons")})
        if "queries" in before:
            rows = [before["queries"][unit] for unit in layer["heads"]]
            now = layer.get("queries", [range(len(row)) for row in rows])
            out[-1]["queries"] = [[row[head] for head in chosen] for row, chosen in zip(rows, now, strict=True)]
        elif "queries" in layer:
            out[-1]["queries"] = layer["queries"]
    return out


def everything_kept(architecture: Architecture) -> list[Mask]:
    return [np.ones(count, bool) for count in unit_counts(architecture)]

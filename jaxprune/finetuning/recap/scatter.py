"""Between the full model and what trains of it: units cut and written back, rows split off and put back.

Each pair is inverse: `write_back` undoes `cut_params`, `join` undoes `split`. They serve parameters and moments alike,
whose trees are equal; a moment that is not kept (None) stays None. All arrays are NumPy's, on the host, and no input
changes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ...model import Params
from ...model.architecture import HALVES, Architecture
from ...model.partial_rows import Split
from ...model.sublayer import INPUTS, OUTPUT
from ...pruning.cut import Mask, put_units, take_units
from .sweep import Rows

KeptIndices = list[dict[str, np.ndarray]]  # {half: the indices of the units that stay, ascending} a layer


def kept_of(architecture: Architecture, masks: Sequence[Mask]) -> KeptIndices:
    return architecture.by_layer([np.flatnonzero(mask) for mask in masks])


def cut_params(full: Params, kept: KeptIndices) -> Params:
    """The parameters, or moments, of the units that stay: copies; what lies outside the layers is shared."""
    return {**full, "layers": [cut_layer(*pair) for pair in zip(full["layers"], kept, strict=True)]}


def cut_layer(layer: Params, kept: dict[str, np.ndarray]) -> Params:
    return {half: take_units(half, layer[half], units) for half, units in kept.items()}


def write_back(full: Params, kept: KeptIndices, small: Params) -> Params:
    """`full` with its kept units, and all that is not a unit's, from `small`; units not kept are unchanged."""
    triples = zip(full["layers"], kept, small["layers"], strict=True)
    return {**small, "layers": [write_layer(*triple) for triple in triples]}


def write_layer(layer: Params, kept: dict[str, np.ndarray], small: Params) -> Params:
    return {half: put_units(half, layer[half], units, small[half]) for half, units in kept.items()}


# --- rows


def split(small: Params, rows: Rows, tokens: np.ndarray | None = None) -> Params:
    """The same parameters with every matrix of units in two parts, by the rows that train (true in `rows`).

    `tokens`, [vocab], splits the table of token embeddings likewise. For moments as well.
    """
    layers = [split_layer(layer, rows[index]) for index, layer in enumerate(small["layers"])]
    return {**split_outer(small, tokens), "layers": layers}


def cut_and_split(
    full: Params,
    kept: KeptIndices,
    rows: Rows,
    tokens: np.ndarray | None = None,
    resting: Callable[[int, Params], Params] = lambda index, layer: layer,
) -> Params:
    """`split` of `cut_params`, without a second copy of more than one layer; `resting` may narrow what does not train.

    It gets every layer's number and split parameters.
    """
    triples = enumerate(zip(full["layers"], kept, rows, strict=True))
    layers = [
        resting(index, split_layer(cut_layer(layer, units), trained)) for index, (layer, units, trained) in triples
    ]
    return {**split_outer(full, tokens), "layers": layers}


def narrowed(layer: Params, types: Params, dtype: Any) -> Params:
    """A split layer whose frozen rows are kept in `dtype`, where that is what `types` has in their place."""

    def leaf(result: np.dtype, part: Any) -> Any:
        if not isinstance(part, Split) or result != dtype:
            return part
        return part._replace(frozen=np.asarray(part.frozen, result))

    return jax.tree.map(leaf, types, layer)


def join(parts: Params) -> Params:
    """The inverse of `split`."""
    return {**join_outer(parts), "layers": [join_layer(layer) for layer in parts["layers"]]}


def split_layer(layer: Params, rows: dict[str, dict[str, np.ndarray]]) -> Params:
    halves = {}
    for half in HALVES:
        p = dict(layer[half])
        for name in (*INPUTS[half], OUTPUT[half]):
            if name not in p:
                continue
            masks, whole = rows[half][name], dict(p[name])
            whole["kernel"] = _split(whole["kernel"], masks, first=name == OUTPUT[half])
            if "bias" in whole and name != OUTPUT[half]:  # in the kernel's order
                whole["bias"] = _split(whole["bias"], masks, first=True)._replace(place=None)
            p[name] = whole
        halves[half] = p
    return halves


def join_layer(layer: Params) -> Params:
    halves = {}
    for half in HALVES:
        p = dict(layer[half])
        for name in (*INPUTS[half], OUTPUT[half]):
            if name in p:
                whole, place = dict(p[name]), p[name]["kernel"].place
                whole["kernel"] = _join(whole["kernel"], place, first=name == OUTPUT[half])
                if "bias" in whole:
                    whole["bias"] = _join(whole["bias"], place, first=True)
                p[name] = whole
        halves[half] = p
    return halves


def split_outer(small: Params, tokens: np.ndarray | None) -> Params:
    outer = {name: value for name, value in small.items() if name != "layers"}
    if tokens is not None and outer["embed"]["token"] is not None:
        outer["embed"] = {**outer["embed"], "token": _split(outer["embed"]["token"], tokens, first=True)}
    return outer


def join_outer(parts: Params) -> Params:
    outer = {name: value for name, value in parts.items() if name != "layers"}
    table = outer["embed"]["token"]
    if isinstance(table, Split):
        outer["embed"] = {**outer["embed"], "token": _join(table, table.place, first=True)}
    return outer


def _split(leaf: Any, masks: np.ndarray, first: bool) -> Split:
    """One array in two parts; `first`: its rows are the leading axes, else the trailing ones behind axis 0."""
    flat, mask = np.asarray(leaf), masks.reshape(-1)
    rest = flat.shape[masks.ndim :] if first else flat.shape[:1]
    flat = flat.reshape(mask.size, *rest) if first else flat.reshape(*rest, mask.size)
    axis = 0 if first else 1
    frozen, trained = np.flatnonzero(~mask), np.flatnonzero(mask)
    place = np.empty(mask.size, np.int32)
    place[np.concatenate([frozen, trained])] = np.arange(mask.size, dtype=np.int32)
    return Split(flat.take(frozen, axis), flat.take(trained, axis), place.reshape(masks.shape))


def _join(leaf: Any, place: Any, first: bool) -> Any:
    if not isinstance(leaf, Split):  # the bias of an output projection is no unit's
        return leaf
    axis, place = 0 if first else 1, np.asarray(place)
    flat = np.concatenate([np.asarray(leaf.frozen), np.asarray(leaf.trained)], axis).take(place.reshape(-1), axis)
    return flat.reshape(*place.shape, *flat.shape[1:]) if axis == 0 else flat.reshape(flat.shape[0], *place.shape)


def with_trained(whole: Params, parts: Params) -> Params:
    """Split parameters `whole` with the leaves that `parts` has in place of its own; None there keeps them."""
    return jax.tree.map(lambda new, old: old if new is None else new, parts, whole, is_leaf=lambda leaf: leaf is None)

"""Where the units of a pruned model lie in larger layers, and arrays that have zeros everywhere else."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..model.architecture import ATTENTION, UNIT_AXES, Architecture, LayerSizes
from ..model.model import Model


def unit_places(model: Model, dense: Architecture, warnings: list[str]) -> list[dict[str, list[Any]]]:
    """For every layer, where its groups, the query heads of each and its neurons lay in the source."""
    sizes = model.architecture.layers
    fits = len(sizes) == len(dense.layers) and all(
        size.queries <= room.queries and size.groups <= room.groups and size.neurons <= room.neurons
        for size, room in zip(sizes, dense.layers, strict=False)
    )
    if not fits:
        raise CheckpointError(
            "the model's layers do not fit into those of its source's config.json; load and prune the checkpoint anew."
        )
    recorded = model.provenance.record.get("kept")
    if isinstance(recorded, list) and len(recorded) == len(sizes):
        layers = [_with_queries(layer, size) for layer, size in zip(recorded, sizes, strict=True)]
        if all(_says(layer, size, room) for layer, size, room in zip(layers, sizes, dense.layers, strict=True)):
            return layers
    if sizes != dense.layers:
        warnings.append("the record does not say which units were kept: they lie first in their layers, zeros after.")
    return first_places(sizes)


def first_places(sizes: Sequence[LayerSizes]) -> list[dict[str, list[Any]]]:
    """The same, where the units of every layer lie first."""
    return [
        _with_queries({"heads": list(range(size.groups)), "neurons": list(range(size.neurons))}, size) for size in sizes
    ]


def _with_queries(layer: Any, size: LayerSizes) -> Any:
    """A layer of the record; where it names no query heads, the first ones of every group."""
    if not isinstance(layer, dict) or "queries" in layer:
        return layer
    return {**layer, "queries": [list(range(size.queries))] * size.groups}


def _says(layer: Any, size: LayerSizes, room: LayerSizes) -> bool:
    """True where a layer of the record names units of `room`, as many as `size` has."""
    if not isinstance(layer, dict) or not isinstance(layer.get("queries"), list):
        return False
    return (
        _is_choice(layer.get("heads"), size.groups, room.groups)
        and _is_choice(layer.get("neurons"), size.neurons, room.neurons)
        and len(layer["queries"]) == size.groups
        and all(_is_choice(heads, size.queries, room.queries) for heads in layer["queries"])
    )


def _is_choice(units: Any, count: int, room: int) -> bool:
    """True for a list of `count` numbers below `room`, each once."""
    return (
        isinstance(units, list)
        and len(units) == len(set(map(str, units))) == count
        and all(isinstance(unit, int) and not isinstance(unit, bool) and 0 <= unit < room for unit in units)
    )


def filled_up(
    array: np.ndarray, shape: tuple[int, ...], layer: Mapping[str, list[Any]], half: str, name: str, leaf: str
) -> np.ndarray:
    """A smaller array at its units' places in an array of zeros."""
    full, axis = np.zeros(shape, array.dtype), UNIT_AXES[half][name][leaf]
    units = np.array(layer["heads" if half == ATTENTION else "neurons"], int)
    if name in ("q", "o"):  # a block for every query head: the groups' axis, then theirs
        heads = np.array(layer["queries"], int).reshape(len(units), array.shape[axis + 1])
        here = np.moveaxis(full, (axis, axis + 1), (0, 1))
        here[units[:, None], heads] = np.moveaxis(array, (axis, axis + 1), (0, 1))
    else:
        np.moveaxis(full, axis, 0)[units] = np.moveaxis(array, axis, 0)
    return full

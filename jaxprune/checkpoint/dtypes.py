"""The types that weights are saved in: those they had in the checkpoint, unless another is asked for.

Memory holds float32 as a rule, so saving may round. `as_saved` gives the model as its folder will be read back, so that
it can be scored before it is written.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import NumericalError
from ..model.model import Model
from .files import listed
from .manifest import SAVED, check_finite, check_saved_type, named_parameters


class SavedTypes(NamedTuple):
    """The type of every parameter in a folder, by name."""

    of: Mapping[str, str]
    most: str  # that of most numbers
    warnings: tuple[str, ...]  # where the checkpoint's own type could not hold them


def saved_types(model: Model, dtype: str | None = None) -> SavedTypes:
    """`dtype` for all; without it (None) each parameter's own.

    A parameter's own type is that which the file had that it was read from; or the half precision in which it is kept
    in memory; of a parameter that no file had (a new head, a bias that a refit added) that of most numbers. One with
    numbers too large for it is saved in float32, with a warning. Raises `SettingsError` for a type that is not written.
    """
    parameters, _ = named_parameters(model.params)
    if dtype is not None:
        check_saved_type(dtype)
        return SavedTypes(dict.fromkeys(parameters, dtype), dtype, ())
    known = {name: _own_type(leaf, model.provenance.dtypes.get(name)) for name, leaf in parameters.items()}
    numbers: Counter[str] = Counter()
    for name, kind in known.items():
        if kind is not None:
            numbers[kind] += int(np.size(parameters[name]))
    most = numbers.most_common(1)[0][0] if numbers else "float32"
    types = {name: kind or most for name, kind in known.items()}
    large = [name for name, kind in types.items() if not holds(kind, parameters[name])]
    if not large:
        return SavedTypes(types, most, ())
    kinds = " and ".join(sorted({types[name] for name in large}))
    warning = f"{listed(large)}: numbers too large for {kinds}, the type of the checkpoint; saved in float32."
    return SavedTypes(types | dict.fromkeys(large, "float32"), most, (warning,))


def as_saved(model: Model, dtype: str | None = None) -> Model:
    """The model that `load` will read where `save(model, folder, dtype=dtype)` wrote it: its numbers rounded.

    `model` itself where nothing changes. Raises `NumericalError` for numbers too large for a `dtype` that is asked for,
    and for NaN and Inf.
    """
    parameters, structure = named_parameters(model.params)
    types = saved_types(model, dtype)
    leaves = {name: _read_back(name, leaf, types.of[name]) for name, leaf in parameters.items()}
    if not types.warnings and all(leaves[name] is leaf for name, leaf in parameters.items()):
        return model
    warnings = tuple(dict.fromkeys([*model.provenance.warnings, *types.warnings]))
    return model.replace(
        params=structure.unflatten(leaves.values()), provenance=replace(model.provenance, warnings=warnings)
    )


def rounded(name: str, array: Any, dtype: str) -> np.ndarray:
    """An array in the type it is saved in, contiguous. Raises `NumericalError` for NaN, Inf and numbers too large."""
    # safetensors writes the buffer as it lies: a transposed array would be saved wrong without a word.
    array = np.ascontiguousarray(array, dtype=np.float32)
    check_finite(name, array, "the model")
    out = _cast(array, dtype)
    if not np.isfinite(out).all():
        raise NumericalError(f"tensor {name} of the model has numbers too large for {dtype}; choose float32.")
    return out


def holds(dtype: str, array: Any) -> bool:
    """Whether the finite numbers of an array stay finite in a type."""
    if dtype == "float32" or array.dtype == jnp.dtype(dtype):
        return True
    array = np.asarray(array)
    return bool(np.all(np.isfinite(_cast(array, dtype)) | ~np.isfinite(array)))


def _own_type(leaf: Any, of_file: str | None) -> str | None:
    in_memory = np.dtype(leaf.dtype).name
    if in_memory in SAVED and in_memory != "float32":
        return in_memory
    return of_file if of_file is None or of_file in SAVED else "float32"


def _read_back(name: str, leaf: Any, dtype: str) -> Any:
    if dtype == "float32" or leaf.dtype == jnp.dtype(dtype):
        return leaf
    array = np.asarray(leaf)
    back = rounded(name, array, dtype).astype(array.dtype)
    if np.array_equal(back, array):
        return leaf
    return jax.device_put(back, leaf.sharding) if isinstance(leaf, jax.Array) else back


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(jnp.dtype(dtype), copy=False)

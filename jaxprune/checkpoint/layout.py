"""Tensors that a family stores otherwise than as one [out, in] matrix per projection, to that form and back."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import numpy as np

from ..model.architecture import Architecture
from .families import Family
from .read import Stored


def separated(tensors: Mapping[str, Stored], family: Family, queries: int = 1) -> dict[str, Stored]:
    """Every projection under a name of its own, [out, in]: "h.0.attn.c_attn.weight" becomes "….c_attn.q.weight" …

    `queries` is how many heads share keys and values: so many times as many rows have queries. Nothing is read yet.
    """
    out: dict[str, Stored] = {}
    for name, stored in _as_tables(tensors, family).items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and len(stored.shape) == 2 and _matches(module, family.transposed):
            stored = _transposed(stored)
        parts = next((parts for pattern, parts in family.fused.items() if fnmatchcase(module, pattern)), None)
        shares = [queries if part == "q" else 1 for part in parts or ()]
        if parts is None or not stored.shape or stored.shape[0] % sum(shares):
            out[name] = stored
            continue
        rows, first = stored.shape[0] // sum(shares), 0
        for part, share in zip(parts, shares, strict=True):

            def read(first: int = first, last: int = first + share * rows, whole: Stored = stored) -> np.ndarray:
                return whole.read()[first:last]

            out[f"{module}.{part}.{leaf}"] = Stored((share * rows, *stored.shape[1:]), stored.dtype, read)
            first += share * rows
    return out


def fused(tensors: Mapping[str, Stored], family: Family, architecture: Architecture | None = None) -> dict[str, Stored]:
    """The inverse of `separated`: the tensors as the family's files have them. Nothing is read yet.

    `architecture` is the model's; a family of texts needs none.
    """
    out: dict[str, Stored] = {}
    for name, stored in tensors.items():
        module, _, leaf = name.rpartition(".")
        whole, parts = holder_of(module, family)
        if parts:
            if module != f"{whole}.{parts[0]}":
                continue
            module, pieces = whole, [tensors[f"{whole}.{other}.{leaf}"] for other in parts]

            def read(pieces: list[Stored] = pieces) -> np.ndarray:
                return np.concatenate([piece.read() for piece in pieces])

            rows, types = sum(piece.shape[0] for piece in pieces), {piece.dtype for piece in pieces}
            # One type for all: float32 holds what any of them says.
            dtype = stored.dtype if len(types) == 1 else "float32"
            stored = Stored((rows, *stored.shape[1:]), dtype, read)
        if leaf == "weight" and len(stored.shape) == 2 and _matches(module, family.transposed):
            stored = _transposed(stored)
        out[f"{module}.{leaf}"] = stored
    if architecture is None or architecture.patches is None:
        return out
    return _as_in_files(out, family, architecture)


def _as_tables(tensors: Mapping[str, Stored], family: Family) -> dict[str, Stored]:
    """What models of images store otherwise: special tokens as one table, positions as [rows, hidden], a convolution
    over patches as the matrix [out, in] that it is.
    """
    out = dict(tensors)
    for module in family.convolutions:
        name = f"{module}.weight"
        if name in out and len(out[name].shape) == 4:
            out[name] = _shaped(out[name], (out[name].shape[0], prod(out[name].shape[1:])))
    for module, names in family.stacked.items():
        parts = [tensors[name] for name in names if name in tensors]
        if len(parts) == len(names) and all(len(part.shape) == 3 and part.shape[0] == 1 for part in parts):
            for name in names:
                del out[name]
            rows = sum(part.shape[1] for part in parts)

            def read(parts: list[Stored] = parts) -> np.ndarray:
                return np.concatenate([part.read()[0] for part in parts])

            out[f"{module}.weight"] = Stored((rows, parts[0].shape[2]), parts[0].dtype, read)
    return out | _averaged(out, family)


def _averaged(tensors: dict[str, Stored], family: Family) -> dict[str, Stored]:
    """Heads whose outputs are averaged, taken out of `tensors`, as the one head on all of their inputs that it is."""
    out, share = {}, 1 / max(len(family.averaged), 1)  # a power of two, so that nothing is rounded
    for leaf in ("weight", "bias"):
        names = [f"{module}.{leaf}" for module in family.averaged]
        parts = [tensors.pop(name) for name in names if name in tensors]
        if not parts or len(parts) < len(names):
            continue
        columns = sum(part.shape[-1] for part in parts)
        shape = (*parts[0].shape[:-1], columns) if leaf == "weight" else parts[0].shape

        def read(parts: list[Stored] = parts, leaf: str = leaf) -> np.ndarray:
            arrays = [part.read() for part in parts]
            return share * (np.concatenate(arrays, axis=1) if leaf == "weight" else np.sum(arrays, axis=0))

        out[f"{family.heads['classification'].output}.{leaf}"] = Stored(shape, parts[0].dtype, read)
    return out


def _as_in_files(tensors: Mapping[str, Stored], family: Family, architecture: Architecture) -> dict[str, Stored]:
    """The inverse of `_as_tables`."""
    out, patches = dict(tensors), architecture.patches
    assert patches is not None  # the caller has looked
    for module in family.convolutions:
        if (whole := out.get(f"{module}.weight")) is not None:
            shape = (whole.shape[0], patches.channels, patches.patch_height, patches.patch_width)
            out[f"{module}.weight"] = _shaped(whole, shape)
    for module, names in family.stacked.items():
        table = out.pop(f"{module}.weight", None)
        if table is None:
            continue
        rows = table.shape[0] // len(names)
        for place, name in enumerate(names):

            def read(place: int = place, rows: int = rows, table: Stored = table) -> np.ndarray:
                return table.read()[None, place * rows : (place + 1) * rows]

            out[name] = Stored((1, rows, table.shape[1]), table.dtype, read)
    return out if architecture.pool_tokens == 1 else _with_heads_apart(out, family)


def _with_heads_apart(tensors: dict[str, Stored], family: Family) -> dict[str, Stored]:
    """The inverse of `_averaged`; of biases, which are known as a mean alone, every head has that."""
    heads, module = family.averaged, family.heads["classification"].output
    for leaf in ("weight", "bias"):
        if (whole := tensors.pop(f"{module}.{leaf}", None)) is None:
            continue
        columns = whole.shape[-1] // len(heads)
        shape = (*whole.shape[:-1], columns) if leaf == "weight" else whole.shape
        for place, name in enumerate(heads):

            def read(place: int = place, leaf: str = leaf, whole: Stored = whole) -> np.ndarray:
                array = whole.read()
                return len(heads) * np.split(array, len(heads), axis=1)[place] if leaf == "weight" else array

            tensors[f"{name}.{leaf}"] = Stored(shape, whole.dtype, read)
    return tensors


def _shaped(stored: Stored, shape: tuple[int, ...]) -> Stored:
    return Stored(shape, stored.dtype, lambda: stored.read().reshape(shape))


def shared_by(family: Family, config: Mapping[str, Any]) -> int:
    """How many query heads share keys and values, where `config` says so; what makes no sense is named elsewhere."""
    heads, groups = (config.get(family.keys.get(name, "")) for name in ("heads", "groups"))
    if not isinstance(heads, int) or not isinstance(groups, int) or min(heads, groups) < 1:
        return 1
    return heads // groups


def holder_of(module: str, family: Family) -> tuple[str, tuple[str, ...]]:
    """The module of the files that a projection lies in, and the parts it is made of; itself where it lies alone."""
    whole, _, part = module.rpartition(".")
    parts = next((parts for pattern, parts in family.fused.items() if fnmatchcase(whole, pattern)), ())
    return (whole, parts) if part in parts else (module, ())


def _transposed(stored: Stored) -> Stored:
    return Stored(stored.shape[::-1], stored.dtype, lambda: stored.read().T)


def _matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)

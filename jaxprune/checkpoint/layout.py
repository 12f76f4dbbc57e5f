"""Tensors that a family stores otherwise than as one [out, in] matrix per projection, to that form and back."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np

from .families import Family
from .read import Stored


def separated(tensors: Mapping[str, Stored], family: Family) -> dict[str, Stored]:
    """Every projection under a name of its own, [out, in]: "h.0.attn.c_attn.weight" becomes "….c_attn.q.weight" …

    Nothing is read yet.
    """
    out: dict[str, Stored] = {}
    for name, stored in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and len(stored.shape) == 2 and _matches(module, family.transposed):
            stored = Stored(stored.shape[::-1], stored.dtype, lambda read=stored.read: read().T)
        parts = next((parts for pattern, parts in family.fused.items() if fnmatchcase(module, pattern)), None)
        if parts is None or not stored.shape or stored.shape[0] % len(parts):
            out[name] = stored
            continue
        rows = stored.shape[0] // len(parts)
        for place, part in enumerate(parts):

            def read(place: int = place, rows: int = rows, whole: Stored = stored) -> np.ndarray:
                return whole.read()[place * rows : (place + 1) * rows]

            out[f"{module}.{part}.{leaf}"] = Stored((rows, *stored.shape[1:]), stored.dtype, read)
    return out


def fused(tensors: Mapping[str, np.ndarray], family: Family) -> dict[str, np.ndarray]:
    """The inverse of `separated`, on arrays: as the family's files have them."""
    gathered: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        module, _, leaf = name.rpartition(".")
        whole, _, part = module.rpartition(".")
        parts = next((parts for pattern, parts in family.fused.items() if fnmatchcase(whole, pattern)), None)
        if parts is None or part not in parts:
            gathered[name] = array
        elif part == parts[0]:
            pieces = [tensors[f"{whole}.{other}.{leaf}"] for other in parts]
            gathered[f"{whole}.{leaf}"] = np.concatenate(pieces)
    return {
        name: array.T if array.ndim == 2 and _matches(name.rpartition(".")[0], family.transposed) else array
        for name, array in gathered.items()
    }


def _matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)

"""Tensors that a family stores otherwise than as one [out, in] matrix per projection, to that form and back."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from .families import Family
from .read import Stored


def separated(tensors: Mapping[str, Stored], family: Family, queries: int = 1) -> dict[str, Stored]:
    """Every projection under a name of its own, [out, in]: "h.0.attn.c_attn.weight" becomes "….c_attn.q.weight" …

    `queries` is how many heads share keys and values: so many times as many rows have queries. Nothing is read yet.
    """
    out: dict[str, Stored] = {}
    for name, stored in tensors.items():
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


def fused(tensors: Mapping[str, Stored], family: Family) -> dict[str, Stored]:
    """The inverse of `separated`: the tensors as the family's files have them. Nothing is read yet."""
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
    return out


def shared_by(family: Family, config: Mapping[str, Any]) -> int:
    """How many query heads share keys and values, where `config` says so; what makes no sense is named elsewhere."""
    heads, groups = (config.get(family.keys.get(name, "")) for name in ("heads", "groups"))
    whole = all(isinstance(count, int) and count > 0 for count in (heads, groups))
    return heads // groups if whole else 1


def holder_of(module: str, family: Family) -> tuple[str, tuple[str, ...]]:
    """The module of the files that a projection lies in, and the parts it is made of; itself where it lies alone."""
    whole, _, part = module.rpartition(".")
    parts = next((parts for pattern, parts in family.fused.items() if fnmatchcase(whole, pattern)), ())
    return (whole, parts) if part in parts else (module, ())


def _transposed(stored: Stored) -> Stored:
    return Stored(stored.shape[::-1], stored.dtype, lambda: stored.read().T)


def _matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)

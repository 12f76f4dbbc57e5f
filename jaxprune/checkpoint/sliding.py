"""How far back attention reaches, as config.json says it.

A window is not computed: texts that fit it are read as if it were open, which is the same, and longer ones are refused.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from .families import Family


def sliding_window(
    family: Family, config: Mapping[str, Any], where: str, on: bool, first: int, layers: int
) -> int | None:
    """How many tokens attention reaches back in some layer, itself counted; None where it always reaches the start.

    Sliding are the layers that `layer_types` names, else those from number `first` on, of `layers`, if `on`.
    """
    types = config.get("layer_types")
    kinds = set(types) if isinstance(types, list) and all(isinstance(kind, str) for kind in types) else set()
    known = ("full_attention", "sliding_attention") if "window" in family.keys else ("full_attention",)
    if types and not (kinds and kinds <= {*known}):
        raise CheckpointError(
            f"{where}: layer_types names other layers than {', '.join(known)}; they are not supported."
        )
    slides = "sliding_attention" in kinds if types else layers > first
    if "window" not in family.keys or not slides:
        return None
    key = family.keys["window"]
    size = config[key] if key in config else family.defaults[key]
    if types and not (on and size):
        raise CheckpointError(f"{where}: layer_types names sliding layers, but {key} is off; say how far they reach.")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise CheckpointError(f"{where}: {key} is {str(size)[:60]!r}, expected an integer of at least 1.")
    return size if on else None

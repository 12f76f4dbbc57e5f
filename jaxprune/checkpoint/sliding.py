"""How far attention reaches in each layer, as config.json says it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import CheckpointError
from ..model.attention_kinds import Attention, Full, LayerKind, Window, by_layer
from .families import Family

FULL, SLIDING = "full_attention", "sliding_attention"


def layer_types(
    family: Family, config: Mapping[str, Any], where: str, on: bool, first: int, layers: int
) -> tuple[str, ...]:
    """`FULL` or `SLIDING` for every one of so many `layers`.

    Sliding are the layers that `layer_types` names, where the family reads that, else those from number `first` on, if
    `on`. Raises `CheckpointError` where `layer_types` names other kinds, or other layers than the family computes.
    """
    given = config.get("layer_types") or None
    slides = "window" in family.keys
    size = window_size(family, config, where) if slides else None
    own = tuple(SLIDING if slides and on and size is not None and number >= first else FULL for number in range(layers))
    if given is None:
        return own
    read = "layer_types" in family.keys
    known = (FULL, SLIDING) if read else tuple(dict.fromkeys(own))
    if not isinstance(given, list) or not all(isinstance(kind, str) and kind in known for kind in given):
        raise CheckpointError(
            f"{where}: layer_types names other layers than {', '.join(known)}; they are not supported."
        )
    if len(given) != layers:
        raise CheckpointError(f"{where}: layer_types names {len(given)} layers, and the model has {layers}.")
    if SLIDING in given and not (on and size):
        key = family.keys["window"]
        raise CheckpointError(f"{where}: layer_types names sliding layers, but {key} is off; say how far they reach.")
    return tuple(given)


def window_size(family: Family, config: Mapping[str, Any], where: str) -> int | None:
    """How many tokens sliding layers reach, the token itself counted; None where config.json switches that off."""
    key = family.keys["window"]
    size = config[key] if key in config else family.defaults[key]
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise CheckpointError(f"{where}: {key} is {str(size)[:60]!r}, expected an integer of at least 1.")
    return size


def attention_of(
    family: Family, config: Mapping[str, Any], types: Sequence[str], longest: int, where: str
) -> Attention:
    """What layers of these `types` attend to. A window that is no shorter than the `longest` text is open."""
    size = window_size(family, config, where)
    assert size is not None  # a layer slides
    window = LayerKind(attention=Window(size=size) if size < longest else Full())
    return by_layer([window if kind == SLIDING else LayerKind() for kind in types])

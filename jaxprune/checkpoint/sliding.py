"""How far attention reaches in each layer, and how it turns queries and keys, as config.json says it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import CheckpointError
from ..model.attention_kinds import Attention, Full, LayerKind, Window, by_layer
from .family import Family
from .rotary import MADE_FOR, Rotary, by_type, renamed, rotary_of

FULL, SLIDING = "full_attention", "sliding_attention"


def attention_fields(
    family: Family,
    config: Mapping[str, Any],
    where: str,
    known: Mapping[str, Any],
    positions: int,
    on: bool,
    first: int,
) -> dict[str, Any]:
    """The fields of `Architecture` that say so, beside those that are `known`.

    `positions` are those of config.json. Where the family switches its windows, they are `on`, from layer `first`.
    """
    fields: dict[str, Any] = {}
    rotary: dict[str, Rotary] = {}
    if known.get("positions") == "rotary":
        by_kind = by_type(config, family.rotary_bases, family.scaled_types, where)
        by_kind = by_kind or {FULL: renamed(config, family.rotary_names, where, family.defaults.get(MADE_FOR))}
        base = family.defaults.get("rope_theta", 10000.0)
        rotary = {
            kind: rotary_of(own, known["head_width"], positions, where, base, family.partly_turned)
            for kind, own in by_kind.items()
        }
        fields |= rotary[FULL]._asdict()
    types = layer_types(family, config, where, on, first, len(known["layers"]))
    if SLIDING in types or family.unturned is not None:
        longest = fields.get("max_positions", known["max_positions"])
        fields["attention"] = _attention(family, config, types, known.get("causal", False), longest, rotary, where)
    return fields


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
    off = not slides or not on or size is None
    own = tuple(FULL if off or number < first else SLIDING for number in range(layers))
    if family.unturned is not None:
        own = tuple(FULL if off or turns else SLIDING for turns in turning(family, config, layers, where))
    if family.full_every is not None:
        own = _pattern(family.full_every, config, layers, where)
    if given is None and not (SLIDING in own and off):
        return own
    given = list(own) if given is None else given
    read = "layer_types" in family.keys
    known = (FULL, SLIDING) if read else tuple(dict.fromkeys(own))
    if not isinstance(given, list) or not all(isinstance(kind, str) and kind in known for kind in given):
        raise CheckpointError(
            f"{where}: layer_types names other layers than {', '.join(known)}; they are not supported."
        )
    if len(given) != layers:
        raise CheckpointError(
            f"{where}: layer_types names {len(given)} layers, and the model has {layers}; correct it."
        )
    if SLIDING in given and off:
        key = family.keys["window"]
        said = "layer_types names" if config.get("layer_types") else f"a {family.model_type} model has"
        raise CheckpointError(f"{where}: {said} sliding layers, but {key} is off; say how far they reach.")
    return tuple(given)


def _number(config: Mapping[str, Any], key: str | None, default: int, where: str) -> int:
    count = default if key is None or config.get(key) is None else config[key]
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise CheckpointError(f"{where}: {key} is {str(count)[:60]!r}, expected an integer of at least 1.")
    return count


def turning(family: Family, config: Mapping[str, Any], layers: int, where: str) -> tuple[bool, ...]:
    """For every layer whether it turns queries and keys, in a model with rotary positions."""
    if family.unturned is None:
        return (True,) * layers
    key, interval, default = family.unturned
    given = config.get(key)
    if given is None:
        every = _number(config, interval, default, where)
        return tuple((number + 1) % every != 0 for number in range(layers))
    if not isinstance(given, list) or len(given) < layers or not all(entry in (0, 1) for entry in given):
        raise CheckpointError(
            f"{where}: {key} is {str(given)[:60]!r}, expected a list with 0 or 1 for each of {layers} layers."
        )
    return tuple(bool(entry) for entry in given[:layers])


def _pattern(every: tuple[str | None, int, int], config: Mapping[str, Any], layers: int, where: str) -> tuple[str, ...]:
    key, count, place = every
    count = _number(config, key, count, where)
    return tuple(FULL if number % count == place % count else SLIDING for number in range(layers))


def window_size(family: Family, config: Mapping[str, Any], where: str) -> int | None:
    """How many tokens sliding layers reach, the token itself counted; None where config.json switches that off."""
    key = family.keys["window"]
    size = config[key] if key in config else family.defaults[key]
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise CheckpointError(f"{where}: {key} is {str(size)[:60]!r}, expected an integer of at least 1.")
    return size


def _attention(
    family: Family,
    config: Mapping[str, Any],
    types: Sequence[str],
    causal: bool,
    longest: int,
    rotary: Mapping[str, Rotary],
    where: str,
) -> Attention:
    """What layers of these `types` attend to, and how they turn, where that is not as in layers that see all tokens.

    `rotary` is empty for positions of another kind.

    A window that is no shorter than the `longest` text is open. One that reaches both ways is said by its whole width.
    """
    kinds = {FULL: LayerKind()}
    if SLIDING in types:
        size = window_size(family, config, where)
        assert size is not None  # a layer slides
        size = size if causal else size // 2 + 1
        kinds[SLIDING] = LayerKind(attention=Window(size=size) if size < longest else Full())
    if SLIDING in types and SLIDING in rotary:
        own, others = rotary[SLIDING], rotary[FULL]
        if own.rotary_dynamic or others.rotary_dynamic:
            raise CheckpointError(
                f"{where}: dynamic rotary scaling is not supported in a model with types of layers; take another."
            )
        if (own.rotary, own.rotary_scale) != (others.rotary, others.rotary_scale):
            kinds[SLIDING] = replace(kinds[SLIDING], rotary=own.rotary, rotary_scale=own.rotary_scale)
    own = [kinds[kind] for kind in types]
    if rotary:
        turns = turning(family, config, len(types), where)
        own = [kind if turned else replace(kind, rotary=()) for kind, turned in zip(own, turns, strict=True)]
    return by_layer(own)

"""Disentangled attention (DeBERTa-v2 and v3), as config.json says it."""

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError, SettingsError
from ..model.attention_kinds import Disentangled
from .family import Family

_TYPES = ("c2p", "p2c")  # queries with keys of distances, keys with queries of distances


def disentangled_fields(
    family: Family, config: Mapping[str, Any], where: str, known: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of `Architecture` that say so, beside those that are `known`.

    The row's keys: distances_on, distance_types, distance_shared, distance_norm, distance_buckets, distance_reach,
    positions_added; and head_size and pooler_width, which have to be what the other sizes say.
    """

    def given(name: str, kind: type, wanted: str) -> Any:
        key = family.keys[name]
        value = family.defaults[key] if config.get(key) is None else config[key]
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise CheckpointError(f"{where}: {key} is {str(value)[:60]!r}, expected {wanted}.")
        return value

    for name, size in (("head_size", known["head_width"]), ("pooler_width", known["hidden"])):
        key = family.keys[name]
        if config.get(key) not in (None, size):
            raise CheckpointError(
                f"{where}: {key} is {str(config[key])[:60]!r}, of a model of these sizes only {size} is supported."
            )
    types = _types(family, config, where)
    fields: dict[str, Any] = {
        # Scores of every kind are divided by one root, also where no distances are compared.
        "attention_scale": (known["head_width"] * (1 + len(types))) ** -0.5,
        "positions": "learned" if given("positions_added", bool, "true or false") else "none",
    }
    if not given("distances_on", bool, "true or false"):
        return fields
    norms = {part.strip() for part in given("distance_norm", str, "layer_norm or none").lower().split("|")}
    if not norms <= {"layer_norm", "none", ""}:
        key = family.keys["distance_norm"]
        raise CheckpointError(f"{where}: {key} is {str(config[key])[:60]!r}, expected layer_norm or none.")
    reach = given("distance_reach", int, "a number of tokens")
    attention = Disentangled(
        reach=known["max_positions"] if reach < 1 else reach,
        buckets=max(given("distance_buckets", int, "a number of buckets"), 0),
        keys="c2p" in types,
        queries="p2c" in types,
        shared=given("distance_shared", bool, "true or false"),
        norm="layer_norm" in norms,
    )
    try:
        attention.check(())
    except SettingsError as error:
        raise CheckpointError(f"{where}: {error}") from error
    return {**fields, "attention": attention}


def _types(family: Family, config: Mapping[str, Any], where: str) -> set[str]:
    """Which of `_TYPES` a config.json names: in a list, or in one name with "|" between them."""
    key = family.keys["distance_types"]
    given = config.get(key)
    named = [part.strip() for part in given.lower().split("|")] if isinstance(given, str) else given or []
    if not isinstance(named, list) or not all(part in (*_TYPES, "") for part in named):
        raise CheckpointError(f"{where}: {key} is {str(given)[:60]!r}, expected some of {', '.join(_TYPES)}.")
    return {part for part in named if part}

"""Every family that this process can name tensors of: those of our table, and those that a caller has handed in."""

from collections.abc import Mapping
from dataclasses import fields
from typing import get_args

from ..errors import CheckpointError, SettingsError
from ..model.architecture import Architecture, HeadKind
from ..model.heads import HEADS
from .families import FAMILIES, Family

# Sizes without which there is no architecture, by our names; and settings that need a default where they have a key.
_NEEDED = ("vocab", "hidden", "layers", "heads", "positions", "activation")
_NEEDED_OF_IMAGES = (*(name for name in _NEEDED if name not in ("vocab", "positions")), "image", "patch", "channels")
_SWITCHES = (
    "tied",
    "input_bias",
    "attention_bias",
    "feed_forward_bias",
    "pre_norm",
    "window_on",
    "window",
    "both_ways",
    "norm_bias",
)
_SWITCHES += ("pool", "pooler_bias")
_MODULES = ("embed.token", *(f"layers.{{}}.attention.{name}" for name in "qkvo"), "layers.{}.feed_forward.up")
_MODULES += ("layers.{}.feed_forward.down", "layers.{}.attention.norm", "layers.{}.feed_forward.norm")

_handed_in: dict[str, Family] = {}


def hand_in(family: Family) -> Family:
    """Have `family` known from now on, by its model_type; a row that was handed in before gives way.

    Raises `SettingsError` for a row that lacks what every family needs, and for the model_type of one of ours.
    """
    if not isinstance(family, Family):
        raise SettingsError(f"family is of type {type(family).__name__}, expected a row, Family(…).")
    name = family.model_type
    if FAMILIES.get(name, family) != family:
        raise SettingsError(f"family {name} is known already, with another row; give yours a model_type of its own.")
    needed = _NEEDED_OF_IMAGES if family.reads_images else _NEEDED
    size = ("neurons",) if family.neurons_per_hidden is None else ()
    architecture = {field.name for field in fields(Architecture)}
    # Of halves that norm only what they add, that norm.
    norm = "update_norm" if family.switches.get("norm_position") == "update" else "norm"
    lacking = {
        "keys": [entry for entry in (*needed, *size) if entry not in family.keys],
        "modules": [entry for entry in _MODULES if not {entry, entry.replace("norm", norm)} & family.modules.keys()],
        "defaults": [key for entry in _SWITCHES if (key := family.keys.get(entry)) and key not in family.defaults],
    }
    if "causal_lm" in family.heads and "tied" not in family.keys:
        lacking["keys"].append("tied")
    for table, names in lacking.items():
        if names:
            raise SettingsError(f"family {name} has no {', '.join(names)} in its {table}; name them.")
    if strange := family.switches.keys() - architecture:
        raise SettingsError(
            f"family {name}: switches name {', '.join(sorted(strange))}, expected fields of Architecture."
        )
    if strange := family.heads.keys() - get_args(HeadKind):
        raise SettingsError(
            f"family {name}: heads name {', '.join(sorted(strange))}, expected {', '.join(get_args(HeadKind))}."
        )
    per_text = {kind for (kind, _), row in HEADS.items() if row.per_text}
    read = [kind for kind, modules in family.heads.items() if kind in per_text and modules.token == "first"]
    if family.switches.get("causal") and read:
        raise SettingsError(
            f"family {name} is causal, so that a text's first token says nothing of it, and its {', '.join(read)} head "
            'reads that one; have it read the last, HeadModules(token="last").'
        )
    if name not in FAMILIES:
        _handed_in[name] = family
    return family


def known_families() -> Mapping[str, Family]:
    """All rows by model_type."""
    return {**_handed_in, **FAMILIES}


def family_named(name: str) -> Family:
    """The row of a model's family. Raises `CheckpointError` for one that is not known in this process."""
    rows = known_families()
    if name not in rows:
        raise CheckpointError(
            f"the names of {name} models are not known here, only those of {', '.join(rows)}; load the model with the "
            "row of its family (family=…)."
        )
    return rows[name]

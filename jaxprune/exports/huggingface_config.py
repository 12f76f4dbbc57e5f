"""What the config.json of an exported Hugging Face folder says: sizes and biases as the model has them now."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from ..checkpoint.families import Family
from ..checkpoint.uneven import PER_LAYER, added_biases, with_layers
from ..errors import CheckpointError
from ..model.architecture import Architecture
from ..model.attention_kinds import alike

# Fields of the architecture that one setting of a config.json switches together: our name of its key -> the fields.
_BIASES = {
    "attention_bias": ("attention_bias", "output_bias"),
    "feed_forward_bias": ("feed_forward_bias", "down_bias"),
}


def _needed_biases(family: Family, a: Architecture) -> dict[str, bool]:
    """Which biases a config.json of the family says, so that it has those of `a` that it has a place for."""
    needed: dict[str, bool] = {}
    for key, pair in _BIASES.items():
        if key in family.keys:
            needed |= dict.fromkeys(pair, any(getattr(a, name) for name in pair))
        else:
            needed |= {name: family.switches.get(name, True) for name in pair}
    return needed


def with_biases(family: Family, a: Architecture) -> Architecture:
    """`a` with every bias that the family's config.json needs to have those of `a`; what is added will be zero.

    Raises `CheckpointError` where it has no place for one.
    """
    needed = _needed_biases(family, a)
    for name, there in needed.items():
        if getattr(a, name) and not there:
            raise CheckpointError(
                f"the model has {name.replace('_', ' ')}es, and a {family.model_type} model of transformers has no "
                "place for them; prune without adding them (FLAP: Flap(compensate=False)), then export."
            )
    return replace(a, **needed)


def config_can_say(family: Family, a: Architecture, dense: Architecture) -> bool:
    """Whether a config.json of the family can describe `a`: one size for all layers, and a place for every bias.

    A model with the sizes of its source is left to `with_biases`: transformers would load it without running a file,
    and drop biases that it does not know.
    """
    new, old = a.layers[0], dense.layers[0]
    if a.layers == dense.layers:
        return True
    if a.ragged or min(new.groups, new.neurons) < 1 or not family.can_say(new.heads, old.heads, a.hidden):
        return False
    return not any(getattr(a, name) and not there for name, there in _needed_biases(family, a).items())


def check_shared_heads(family: Family, a: Architecture, dense: Architecture) -> None:
    """Raise `CheckpointError` where the family's class would take the heads of `dense` for those of `a`."""
    heads, old = {(size.groups, size.queries) for size in a.layers}, dense.layers[0]
    if family.shared_config and heads != {(old.groups, old.queries)}:
        raise CheckpointError(
            f"layers of a {family.model_type} model of transformers read the number of their heads from config.json, "
            "and these have lost some, which it cannot say here; export with fill_zeros, or as ONNX."
        )


def with_file(
    config: Mapping[str, Any], family: Family, a: Architecture, dense: Architecture, file: str, warnings: list[str]
) -> tuple[Architecture, dict[str, Any]]:
    """`a` as it is written for the modelling file, without empty sublayers, and `config` that says so.

    torch cannot tell the number of heads of a tensor without numbers.
    """
    layers = tuple(replace(size, groups=max(size.groups, 1), neurons=max(size.neurons, 1)) for size in a.layers)
    if layers == dense.layers:  # as in `config_can_say`; it had one group, and lost it in some layer
        with_biases(family, a)
    needed = {name: getattr(a, name) or getattr(dense, name) for pair in _BIASES.values() for name in pair}
    target = replace(a, layers=layers, **needed)
    told = with_layers(config, family, target, added_biases(target, dense), file)
    if target.causal and PER_LAYER not in told:
        warnings.append(
            f"config.json has no {PER_LAYER}, as transformers refuses {family.model_type} layers whose heads do not "
            f"divide the hidden size {a.hidden}; programs that look there for the sizes of caches do not find them."
        )
    return target, told


def with_sizes(
    config: Mapping[str, Any], family: Family, target: Architecture, dense: Architecture, warnings: list[str]
) -> dict[str, Any]:
    """`config` with the sizes and biases of `target` where they differ from what it says, `dense`."""
    keys, new, old = family.keys, target.layers[0], dense.layers[0]
    changed: dict[str, Any] = {}
    if new.neurons != old.neurons:
        changed[keys["neurons"]] = new.neurons
    if (new.groups, new.queries) != (old.groups, old.queries):
        changed |= {keys["heads"]: new.heads, keys["head_width"]: target.head_width}
        if "groups" in keys:
            changed[keys["groups"]] = new.groups
    for key, (name, _) in _BIASES.items():
        if getattr(target, name) != getattr(dense, name):
            changed[keys[key]] = getattr(target, name)
    for key in family.unlisted:
        if key in changed:
            warnings.append(
                f"{key} is no documented setting of {family.model_type}: transformers 5 reads it, other programs may "
                "refuse the folder."
            )
    return {**config, **changed}


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Under the key that the source uses: transformers 5 reads both, earlier versions only the second."""
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return {**config, **dict.fromkeys(keys, dtype)}


def check_description(as_config: Architecture, target: Architecture) -> None:
    """Raise `CheckpointError` unless config.json, as we read it, says what the tensors are."""
    elsewhere = ("end_ids", *(("head", "embedding") if target.embedding is not None else ()))  # in files of their own
    names = [field.name for field in fields(target) if field.name not in elsewhere]
    differ = [name for name in names if getattr(as_config, name) != getattr(target, name)]
    if "rotary" in differ and np.shape(as_config.rotary) == np.shape(target.rotary):
        if np.allclose(as_config.rotary, target.rotary, rtol=1e-5, atol=0):  # another machine's last bit
            differ.remove("rotary")
    if "attention" in differ and alike(as_config.attention, target.attention, 1e-5):
        differ.remove("attention")
    if differ:
        name = differ[0]
        raise CheckpointError(
            f"the model's {name} is {str(getattr(target, name))[:60]}, and its source's config.json gives "
            f"{str(getattr(as_config, name))[:60]}; load and prune the checkpoint anew."
        )

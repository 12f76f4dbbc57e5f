"""Hugging Face folders whose layers differ: what their config.json says beside the dense model's, written and read.

Beside them lies a modelling file, for transformers. It is never run, nor imported, here: config.json says it all.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import CheckpointError
from ..model.architecture import Architecture, LayerSizes
from .families import Family
from .files import inside
from .head_names import HEAD_NAMES

MODELLING = "modeling_pruned.py"
PREFIX = "Pruned"  # before the name of the class of transformers
LAYERS, BIASES, FILE_HASH = "pruned_layers", "pruned_biases", "pruned_file_sha256"
PER_LAYER, _GLOBAL = "per_layer_config", "allow_global_per_layer_attribute_access"  # transformers' own
_WIDTH = "head_dim"
_SIZES = ("heads", "groups", "neurons")
# Which projections have the biases that a field of the architecture switches.
_PROJECTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "attention_bias": ("q", "k", "v"),
        "output_bias": ("o",),
        "feed_forward_bias": ("up", "gate"),
        "down_bias": ("down",),
    }
)


@dataclass(frozen=True)
class Uneven:
    """What such a config.json says of the layers, beside what it says of the dense model."""

    layers: tuple[LayerSizes, ...]
    biases: tuple[str, ...]  # of projections, which the class of transformers gives none
    width: int  # of a head

    def applied(self, dense: Architecture, where: str) -> Architecture:
        """The model that is meant, where `dense` is the rest. Raises `CheckpointError` where the two do not fit."""
        if len(self.layers) != len(dense.layers):
            raise CheckpointError(
                f"{where}: {LAYERS} has {len(self.layers)} layers, and the model {len(dense.layers)}; export it anew."
            )
        if self.width != dense.head_width:
            raise CheckpointError(
                f"{where}: {_WIDTH} is {self.width}, and heads are {dense.head_width} wide; export the model anew."
            )
        added = {name: True for name, projections in _PROJECTIONS.items() if set(projections) & set(self.biases)}
        return replace(dense, layers=self.layers, **added)


def added_biases(architecture: Architecture, dense: Architecture) -> tuple[str, ...]:
    """The projections that have a bias, though `dense` has none there."""
    names = [name for name in _PROJECTIONS if getattr(architecture, name) and not getattr(dense, name)]
    return tuple(projection for name in names for projection in _PROJECTIONS[name])


def with_layers(
    config: Mapping[str, Any], family: Family, target: Architecture, biases: tuple[str, ...], file: str
) -> dict[str, Any]:
    """`config`, which is the dense model's, with the layers of `target`; `file` is the text of the modelling file.

    Programs that know no such layers see the sizes of the dense model, and fail at the shapes of the tensors.
    """
    names = HEAD_NAMES[target.head]
    own = PREFIX + names.class_name(family)
    classes = {"AutoModel": PREFIX + HEAD_NAMES["none"].class_name(family), names.auto_class: own}
    layers = [{"heads": size.heads, "groups": size.groups, "neurons": size.neurons} for size in target.layers]
    per_layer = _per_layer(family, target)
    return {
        **config,
        "architectures": [own],
        "auto_map": {auto: f"{Path(MODELLING).stem}.{name}" for auto, name in classes.items()},
        _WIDTH: target.head_width,
        LAYERS: layers,
        BIASES: list(biases),
        FILE_HASH: _hash(file),
        # transformers keeps these for itself; without the second, reading a size of the dense model would raise there.
        **({PER_LAYER: per_layer, _GLOBAL: True} if per_layer else {}),
    }


def _per_layer(family: Family, target: Architecture) -> dict[str, dict[str, int]]:
    """The sizes as transformers 5 says them, of language models and their like, whose caches are sized by them.

    Empty where its config class refuses the numbers of heads.
    """
    fit = not family.heads_divide or all(target.hidden % size.heads == 0 for size in target.layers)
    if not target.causal or not fit:
        return {}
    return {str(number): _sizes_there(family, size) for number, size in enumerate(target.layers)}


def _sizes_there(family: Family, size: LayerSizes) -> dict[str, int]:
    keys = {name: family.keys[name] for name in _SIZES if name in family.keys}
    return {key: getattr(size, name) for name, key in keys.items()}


def without_layers(config: Mapping[str, Any], family: Family, where: str) -> tuple[dict[str, Any], Uneven | None]:
    """The dense model's part of a `config`, and what `with_layers` added; None where that is nothing.

    Raises `CheckpointError` for sizes that are none, and for those of `per_layer_config` that are others.
    """
    if LAYERS not in config:
        return dict(config), None
    rest = {
        name: value for name, value in config.items() if name not in (LAYERS, BIASES, FILE_HASH, PER_LAYER, _GLOBAL)
    }
    if "head_width" not in family.keys:
        rest.pop(_WIDTH, None)
    if _is_ours(config.get("auto_map")):
        del rest["auto_map"]
    if isinstance(config.get("architectures"), list):
        rest["architectures"] = [str(name).removeprefix(PREFIX) for name in config["architectures"]]
    layers = config[LAYERS]
    if not isinstance(layers, list) or not layers:
        raise CheckpointError(f"{where}: {LAYERS} is {str(layers)[:60]!r}, expected a list; export the model anew.")
    sizes = tuple(_size(layer, f"{where}: {LAYERS}[{number}]") for number, layer in enumerate(layers))
    biases, known = config.get(BIASES), {name for several in _PROJECTIONS.values() for name in several}
    if not isinstance(biases, list) or not all(isinstance(name, str) and name in known for name in biases):
        raise CheckpointError(
            f"{where}: {BIASES} is {str(biases)[:60]!r}, expected a list of {', '.join(sorted(known))}."
        )
    _check_per_layer(config.get(PER_LAYER), family, sizes, where)
    return rest, Uneven(sizes, tuple(biases), config.get(_WIDTH, 0))


def _size(layer: Any, where: str) -> LayerSizes:
    good = isinstance(layer, Mapping) and layer.keys() == {*_SIZES}
    numbers = [layer[name] for name in _SIZES] if good else []
    if not good or not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise CheckpointError(f"{where} is {str(layer)[:60]!r}, expected integers: {', '.join(_SIZES)}.")
    heads, groups, neurons = numbers
    if min(numbers) < 1 or heads % groups:
        raise CheckpointError(
            f"{where} is {str(layer)[:60]!r}, expected at least 1 of each and whole groups; export it anew."
        )
    return LayerSizes(groups=groups, queries=heads // groups, neurons=neurons)


def _check_per_layer(given: Any, family: Family, sizes: tuple[LayerSizes, ...], where: str) -> None:
    """transformers leaves out what is as in the dense model, and writes numbers of layers as it likes: 00, 01."""
    if given is None:
        return
    try:
        told = {int(number): dict(layer) for number, layer in given.items()}
        same = all(layer.items() <= _sizes_there(family, sizes[number]).items() for number, layer in told.items())
    except (AttributeError, IndexError, TypeError, ValueError):
        same = False
    if not same:
        raise CheckpointError(f"{where}: {PER_LAYER} has other sizes than {LAYERS}; make the two agree, or delete it.")


def _is_ours(auto_map: Any) -> bool:
    """True where every class is one of the modelling file, which may lie in another repository ("org/name--")."""
    start = f"{Path(MODELLING).stem}.{PREFIX}"
    return isinstance(auto_map, Mapping) and all(
        isinstance(name, str) and name.rpartition("--")[2].startswith(start) for name in auto_map.values()
    )


def file_warnings(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """A warning of a modelling file that is not as it was written: it may compute something else than we do."""
    file = inside(folder, MODELLING)
    if LAYERS not in config or not file.is_file():
        return ()
    text = file.read_text(encoding="utf-8", errors="replace")
    if _hash(text) == config.get(FILE_HASH):
        return ()
    return (
        f"{file} is not as jaxprune wrote it: the model is read by config.json alone, and what transformers computes "
        "with that file may differ.",
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

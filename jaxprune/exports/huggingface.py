"""`format="transformers"`: a model as a Hugging Face folder, which transformers loads.

The config.json of a family has one size for all layers. A model that it can describe needs no code of ours. For any
other one, layers as uneven as they are, a modelling file is written beside it (`modelling`), or the layers are written
in the sizes of the checkpoint that they were cut from, with zeros where units were removed (`fill_zeros`).
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..checkpoint.config import as_config, family_of
from ..checkpoint.dtypes import SavedTypes, holds, saved_types
from ..checkpoint.families import Family
from ..checkpoint.files import listed
from ..checkpoint.generation import write_generation
from ..checkpoint.head_names import HEAD_NAMES
from ..checkpoint.layout import fused
from ..checkpoint.manifest import EXPORTED, check_saved_type, manifest_of, manifest_text, named_parameters
from ..checkpoint.notes import write_tokenizer
from ..checkpoint.read import Stored
from ..checkpoint.sentence_files import write_sentence
from ..checkpoint.tensor_names import file_shape, named_shapes, tensor_names
from ..checkpoint.uneven import MODELLING, without_layers
from ..checkpoint.write import SHARD_BYTES, write_folder, write_tensors
from ..doubts import tell
from ..errors import CheckpointError, SettingsError
from ..model.architecture import Architecture
from ..model.attention_kinds import Relative
from ..model.model import Model
from .exported import Exported, ready_to_export, source_config, with_head, with_windows
from .huggingface_config import (
    check_description,
    check_shared_heads,
    config_can_say,
    with_biases,
    with_dtype,
    with_file,
    with_sizes,
)
from .modelling import modelling_text
from .places import filled_up, first_places, unit_places

_WHERE = "the exported config.json"


def export_transformers(
    model: Model,
    folder: str | Path,
    *,
    fill_zeros: bool = False,
    overwrite: bool = False,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    tokenizer: Any = None,
) -> Exported:
    """Write `model` to `folder` as transformers would: config.json, tensors, tokenizer files.

    Tensors are in their own types, as `save` writes them, or in `dtype`. Where numbers are too large for the
    checkpoint's type, all are in float32, with a warning: transformers would turn such numbers into infinities.

    config.json is that of the checkpoint the model was read from, with sizes, biases and head as they are now. Sizes
    and biases that it has no keys for are in keys of ours (`checkpoint.uneven`), for the file `modeling_pruned.py` that
    lies beside it then and that transformers runs with trust_remote_code=True; a sublayer that lost everything has one
    head or neuron of zeros. With `fill_zeros` there is no such file, and the sizes are those of the checkpoint: kept
    units lie at their old places, removed ones are zero.
    The record of the pruning lies beside it in `jaxprune_export.json`.

    The folder is there whole or not at all, as with `save`, and `tokenizer` is that of `save`. Raises `CheckpointError`
    for a model that no config.json of its family can describe, and says what can be done; `OutputError`,
    `NumericalError` as `save` does.
    """
    folder = Path(folder)
    if dtype is not None:
        check_saved_type(dtype)
    source = source_config(model)
    model = ready_to_export(model, folder, overwrite, tokenizer)
    arrays, _ = named_parameters(model.params)
    family = family_of(source, "the model's source_config")
    warnings: list[str] = []
    config = with_head(source, family, model.architecture)
    dense = as_config(family, config, _WHERE)
    model = model.replace(architecture=with_windows(model.architecture, dense))
    kept, file = None, None
    if fill_zeros:
        if model.architecture.layers == dense.layers:
            raise SettingsError("fill_zeros has no effect, as the model has the sizes of its source; leave it out.")
        kept = unit_places(model, dense, warnings)
        target = replace(with_biases(family, model.architecture), layers=dense.layers, attention=dense.attention)
        config = with_sizes(config, family, target, dense, warnings)
    elif isinstance(dense.attention, Relative) and model.architecture.attention != dense.attention:
        raise CheckpointError(
            f"transformers keeps one table of scores by distance for all layers of {family.model_type}, and the layers "
            "have lost different heads; export with fill_zeros, or as ONNX."
        )
    elif config_can_say(family, model.architecture, dense):
        target = with_biases(family, model.architecture)
        config = with_sizes(config, family, target, dense, warnings)
    elif family.reads_images:
        raise CheckpointError(
            f"the layers differ, and how transformers calls the modules of a {family.model_type} model depends on its "
            "version, so that no file is written for it; export with fill_zeros, or prune to one size with "
            "Budget(uniform=True, keep_heads=True)."
        )
    else:
        check_shared_heads(family, model.architecture, dense)
        kept, file = first_places(model.architecture.layers), modelling_text(family, model.architecture.head)
        target, config = with_file(config, family, model.architecture, dense, file, warnings)
    stock, uneven = without_layers(config, family, _WHERE)
    described = as_config(family, stock, _WHERE)
    check_description(described if uneven is None else uneven.applied(described, _WHERE), target)
    types = _types(model, dtype, warnings)
    config = with_dtype(config, types.most)
    tensors = _tensors(arrays, family, target, kept, types)
    if HEAD_NAMES[target.head].bare and target.embedding is None and family.drawn:
        modules = ", ".join(family.drawn)
        warnings.append(
            f"{stock['architectures'][0]} also has {modules}, which is no part of this model: transformers draws it "
            "at random; use last_hidden_state."
        )

    if target.pool == "last" and target.pool_pad is None:
        warnings.append(
            "config.json names no pad_token_id of a token, without which transformers classifies one text at a time; "
            "add the id of the tokenizer's padding, if texts do not end with that token."
        )

    def fill(part: Path) -> None:
        (part / "config.json").write_text(manifest_text(config), encoding="utf-8")
        if file is not None:
            (part / MODELLING).write_text(file, encoding="utf-8", newline="\n")
        write_tensors(part, tensors, shard_bytes, {"format": "pt"})  # without it, transformers refuses the file
        warnings.extend(write_tokenizer(model, part))
        write_generation(model, part)
        write_sentence(model, part, types.of)

    def told() -> dict[str, Any]:
        settings = {"format": "transformers", "fill_zeros": fill_zeros, "dtype": types.most, "warnings": warnings}
        return manifest_of(model) | {"export": settings | ({} if file is None else {"files": [MODELLING]})}

    loader = config["architectures"][0] if file is None else HEAD_NAMES[target.head].auto_class
    write_folder(folder, EXPORTED, told, fill, overwrite, loader)
    size = sum(math.prod(stored.shape) * jnp.dtype(stored.dtype).itemsize for stored in tensors.values())
    tell(warnings)
    return Exported(folder, config, size, tuple(warnings), types.most)


def _types(model: Model, dtype: str | None, warnings: list[str]) -> SavedTypes:
    """What `saved_types` says; or all float32 where transformers, which reads all in one type, would see infinities."""
    types = saved_types(model, dtype)
    parameters, _ = named_parameters(model.params)
    large = [name for name, leaf in parameters.items() if dtype is None and not holds(types.most, leaf)]
    if not large:
        return types
    warnings.append(
        f"{listed(large)}: numbers too large for {types.most}, the type of the checkpoint; all is in float32."
    )
    return saved_types(model, "float32")


# --- what the tensors are


def _tensors(
    arrays: Mapping[str, Any],
    family: Family,
    target: Architecture,
    kept: Sequence[Mapping[str, list[Any]]] | None,
    types: SavedTypes,
) -> dict[str, Stored]:
    """Every tensor of the folder under its name there; numbers are fetched when it is written, a file at a time."""
    shapes = named_shapes(target)
    tensors, copies = {}, defaultdict(list)
    for ours, name in tensor_names(family, target).items():
        layer = kept[int(ours.split(".")[1])] if kept is not None and ours.startswith("layers.") else None
        read = partial(_read, ours, arrays.get(ours), shapes[ours], layer)
        copies[name].append(read)
        tensors[name] = Stored(file_shape(ours, shapes[ours]), types.of.get(ours, types.most), read)
    for name, reads in copies.items():
        if len(reads) > 1:
            whole = _one_of(name, [read() for read in reads])
            tensors[name] = tensors[name]._replace(read=lambda whole=whole: whole)
    modules = [module for head in family.heads.values() for module in head.modules]
    modules += family.averaged
    outside = tuple(f"{module}." for module in modules if not (family.pretrained_pooler and module == "pooler.dense"))
    bare = HEAD_NAMES[target.head].bare  # the class without a head has no prefix
    return {
        name if bare or name.startswith(outside) else family.prefix + name: stored
        for name, stored in fused(tensors, family, target).items()
    }


def _one_of(name: str, copies: Sequence[np.ndarray]) -> np.ndarray:
    """What all layers have a copy of, in part: zero where a layer has removed it, else the same in all.

    Raises `CheckpointError` where copies differ by more than a rounding.
    """
    whole = copies[0]
    for copy in copies[1:]:
        whole = np.where(whole == 0, copy, whole)
    if not all(np.allclose(copy, np.where(copy == 0, 0, whole), rtol=1e-4, atol=1e-6) for copy in copies):
        raise CheckpointError(
            f"the layers' copies of {name} differ, and transformers has one for all of them; load and prune the "
            "checkpoint anew, or train a model that has all its heads."
        )
    return whole


def _read(ours: str, leaf: Any, shape: tuple[int, ...], layer: Mapping[str, list[Any]] | None) -> np.ndarray:
    """The numbers of a parameter as files have them; a bias that the model lacks is zero, as are removed units.

    `layer` says where the units of a layer lay, for parameters that are to be filled up to `shape`.
    """
    array = np.zeros(shape, np.float32) if leaf is None else np.asarray(leaf, np.float32)
    if layer is not None and array.shape != shape:
        array = filled_up(array, shape, layer, *ours.split(".")[2:])
    in_file = file_shape(ours, shape)
    return array.reshape(in_file[::-1]).T if ours.endswith(".kernel") else array.reshape(in_file)

"""Adapter folders of the PEFT library, read without it: factors of plain LoRA, and parameters that were saved whole."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..checkpoint.files import inside, listed, one_line
from ..checkpoint.head_names import HEAD_NAMES
from ..checkpoint.known_families import family_named
from ..checkpoint.layout import separated
from ..checkpoint.manifest import check_finite, named_parameters
from ..checkpoint.pickle_free import read_bin
from ..checkpoint.read import Stored
from ..checkpoint.tensor_names import file_shape
from ..checks import checked
from ..doubts import tell
from ..errors import CheckpointError
from ..model import Model
from .lora import Adapters, merged, place_of, projection_shapes
from .peft import ADAPTER_WEIGHTS, BASE, TASK_TYPES, adapter_digest, peft_tensors
from .peft_config import CONFIG, read_config, size_of, targets

PICKLED = "adapter_model.bin"  # what older versions wrote
EMBEDDING = "embed.token"

# The name of the adapter, which PEFT leaves out of a file, may stand in one that was written otherwise.
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(\.(?P<adapter>[^.]+))?\.weight")
_OF_TABLE = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<factor>[AB])(\.(?P<adapter>[^.]+))?")
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save\.(?P<rest>.+)")


@dataclass
class _Folder:
    """The tensors of a folder by what they are, without PEFT's prefix."""

    pairs: dict[str, dict[str, np.ndarray]]  # module -> {"A": [rank, inputs], "B": [outputs, rank]}
    whole: dict[str, np.ndarray]  # parameters under their names


@checked
def load_adapter(base: Model, folder: str | Path) -> Model:
    """`base` with the adapter of a PEFT folder merged into it, and the modules that the folder saved whole.

    Every parameter keeps the type that it has in `base`. Doubts, such as another base model's name in the folder, are
    warnings in the provenance. Raises `CheckpointError` where the adapter is not plain LoRA or does not fit, naming the
    key or the projection, and where `base` is the model that it was merged into already.
    """
    read, adapters = read_peft(folder, base)
    if base.provenance.record.get("training", {}).get("adapter") == adapter_digest(adapters):
        raise CheckpointError(f"the model has the adapter of {folder} in it already; give the base that it fits.")
    tell(read.provenance.warnings)
    return merged(read, adapters)


def read_peft(folder: str | Path, base: Model) -> tuple[Model, Adapters]:
    """The base with the folder's saved modules in it, and the adapters; `merged` makes them one plain model.

    Adapters on modules that are no projection of a layer, such as a pooler, are merged into the base at once. Every
    parameter keeps the type that it has in `base`. Raises `CheckpointError` where an adapter does not fit the base,
    naming the projection and both shapes, and where it is of a kind that is not read (`peft_config`).
    """
    folder = Path(folder)
    config = read_config(folder)
    held = _sorted(folder, _load(folder), base)
    warnings = _doubts(config, base, folder)
    parameters, structure = named_parameters(base.params)
    _put_whole(held.whole, parameters, config, base, folder)
    kernels = _kernels(base)
    adapters = Adapters([{} for _ in base.architecture.layers], [{} for _ in base.architecture.layers])
    projections = projection_shapes(base.architecture)
    for module, pair in held.pairs.items():
        parts = _parts(module, kernels, base)
        if not parts:
            raise CheckpointError(f"{folder} adapts {module}, which the model does not have; give its base model.")
        if _checkable(config) and not targets(config, module):
            raise CheckpointError(
                f"{folder} holds an adapter of {module}, which {CONFIG} does not target, so that PEFT would leave it "
                "out; correct target_modules, or take the tensors out."
            )
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            raise CheckpointError(f"the adapter in {folder} is incomplete at projection {module}; copy it anew.")
        rank, b = len(pair["A"]), pair["B"].T  # [rank, outputs]
        scaling = size_of(config, module, rank).scaling
        sizes = [file_shape(part, np.shape(parameters[part])) for part in parts]
        if parts == [EMBEDDING]:
            sizes = [(size[1], size[0]) for size in sizes]  # a table is read by its rows
        _check_fit(folder, module, parts, pair, sizes)
        pieces = np.split(b, np.cumsum([outputs for outputs, _ in sizes])[:-1], axis=1)
        for part, piece in zip(parts, pieces, strict=True):
            path = _path(part)
            if path in projections:
                # Of a module that holds several, the ranks that reach this one.
                there = np.any(piece != 0, axis=1) if len(parts) > 1 else np.ones(rank, bool)
                if not there.any():
                    continue
                layer, half, name = place_of(path)
                factors = {"a": jnp.array(pair["A"].T[:, there], jnp.float32)}
                factors["b"] = jnp.array(piece[there].reshape(-1, *projections[path][1]), jnp.float32)
                adapters.weights[layer].setdefault(half, {})[name] = factors
                adapters.scaling[layer].setdefault(half, {})[name] = np.float32(scaling)
            else:
                update = scaling * (pair["A"].T.astype(np.float64) @ piece.astype(np.float64))
                leaf = np.asarray(parameters[part], np.float64)
                parameters[part] = _like(leaf + update.reshape(leaf.shape), parameters[part])
    # With its keys in the order that JAX gives them, which training leaves and `adapter_digest` goes by.
    adapters = jax.tree.map(lambda leaf: leaf, adapters)
    warnings += _untouched(config, held, kernels, base, folder)
    notes = replace(base.provenance, warnings=tuple(dict.fromkeys([*base.provenance.warnings, *warnings])))
    return base.replace(params=structure.unflatten(parameters.values()), provenance=notes), adapters


def _load(folder: Path) -> dict[str, np.ndarray]:
    """The folder's tensors in float32, by the names of the file; nothing that is pickled is run."""
    if not (folder / ADAPTER_WEIGHTS).exists() and (folder / PICKLED).exists():
        file, tensors = folder / PICKLED, read_bin(inside(folder, PICKLED))
    else:
        file = folder / ADAPTER_WEIGHTS
        try:
            tensors = load_file(inside(folder, ADAPTER_WEIGHTS))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} is missing or damaged ({one_line(error)}); copy it anew.") from error
    stray = [name for name in tensors if not name.startswith(BASE)]
    if stray:
        raise CheckpointError(f"{file} holds tensors of no PEFT adapter: {listed(stray)}.")
    for name, tensor in tensors.items():
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise CheckpointError(f"{file}: tensor {name} is {tensor.dtype.name}, expected floats; save it as those.")
        check_finite(name, tensor, str(folder))
    return {name: tensor.astype(np.float32, copy=False) for name, tensor in tensors.items()}


def _sorted(folder: Path, tensors: Mapping[str, np.ndarray], base: Model) -> _Folder:
    held, adapters, known = _Folder({}, {}), set(), _known(base)
    for name, tensor in tensors.items():
        short = name.removeprefix(BASE).replace(".base_layer.", ".")
        match, saved = _FACTOR.fullmatch(short) or _OF_TABLE.fullmatch(short), _SAVED.fullmatch(short)
        if match is not None:
            if tensor.ndim != 2:
                raise CheckpointError(f"{folder}: tensor {name} is {list(tensor.shape)}, expected a matrix.")
            held.pairs.setdefault(match["module"], {})[match["factor"]] = tensor
            adapters |= {match["adapter"]} - {None}
        elif ".lora_" in short:
            raise CheckpointError(f"{folder} holds tensor {name}, which plain LoRA has not; merge it with PEFT.")
        elif saved is not None:  # a second time, as PEFT writes biases, or under the adapter's name
            adapter, _, rest = saved["rest"].partition(".")
            named = f"{saved['module']}.{saved['rest']}" not in known
            held.whole.setdefault(f"{saved['module']}.{rest if named else saved['rest']}", tensor)
            adapters |= {adapter} if named else set()
        elif ".original_module." not in short:  # the base's own, beside the one that was trained
            held.whole[short] = tensor
    if len(adapters) > 1:
        raise CheckpointError(f"{folder} holds adapters {listed(sorted(adapters))}, expected one; save it alone.")
    return held


def _known(base: Model) -> set[str]:
    """Names of the tensors that PyTorch's model has, those that hold several projections among them."""
    names = set(peft_tensors(base.architecture).values())
    joined = {f"{name.rsplit('.', 2)[0]}.{name.rpartition('.')[2]}" for name in names}
    return names | joined


def _kernels(base: Model) -> dict[str, str]:
    """A module that can have an adapter -> our parameter."""
    names = peft_tensors(base.architecture)
    return {
        name.removesuffix(".weight"): ours
        for ours, name in names.items()
        if ours.endswith(".kernel") or (ours == EMBEDDING and not base.architecture.tied)
    }


def _parts(module: str, kernels: Mapping[str, str], base: Model) -> list[str]:
    """Our parameters that lie in a module: one, or several where the family keeps q, k and v in one."""
    if module in kernels:
        return [kernels[module]]
    candidates = (
        [f"{module}.{name}" for name in parts] for parts in family_named(base.architecture.family).fused.values()
    )
    return next(
        ([kernels[each] for each in names] for names in candidates if all(each in kernels for each in names)), []
    )


def _path(part: str) -> str:
    return part.removesuffix(".kernel").replace(".", "/")


def _check_fit(
    folder: Path, module: str, parts: list[str], pair: Mapping[str, np.ndarray], sizes: list[tuple[int, ...]]
) -> None:
    """Raise `CheckpointError` unless both factors have the widths of the parameters that they change."""
    where = _path(parts[0])
    rank, inputs, outputs = len(pair["A"]), sizes[0][1], sum(size[0] for size in sizes)
    for factor, expected in (("A", (rank, inputs)), ("B", (outputs, rank))):
        if pair[factor].shape != expected:
            raise CheckpointError(
                f"the adapter in {folder} does not fit projection {where} of the model: {module}.lora_{factor} is "
                f"{list(pair[factor].shape)}, expected {list(expected)}; give the base model that it was trained on."
            )


def _put_whole(
    whole: Mapping[str, np.ndarray], parameters: dict[str, Any], config: Mapping[str, Any], base: Model, folder: Path
) -> None:
    """Put parameters that were saved whole in their places. Raises `CheckpointError` for one that does not fit."""
    a = base.architecture
    names, family = peft_tensors(a), family_named(a.family)
    prefix = "" if HEAD_NAMES[a.head].bare else family.prefix
    stored_by_name = {
        name: Stored(tensor.shape, tensor.dtype.name, lambda t=tensor: t) for name, tensor in whole.items()
    }
    encoder = {name.removeprefix(prefix): stored_by_name.pop(name) for name in whole if name.startswith(prefix)}
    stored_by_name |= {
        prefix + name: stored
        for name, stored in separated(encoder, family, base.architecture.layers[0].queries).items()
    }
    owners, saved = {name: ours for ours, name in names.items()}, tuple(config.get("modules_to_save") or ())
    for name, stored in stored_by_name.items():
        ours = owners.get(name)
        if ours is None:
            raise CheckpointError(f"{folder} holds tensor {BASE}{name}, for which the model has no place.")
        apart = ours == EMBEDDING and a.tied and not config.get("ensure_weight_tying")
        if apart and name.removesuffix(".weight").endswith(saved):
            raise CheckpointError(
                f"{folder} trained the embeddings apart from the output, which in the model is the same tensor; merge "
                "it with PEFT."
            )
        expected, shape = file_shape(ours, np.shape(parameters[ours])), np.shape(parameters[ours])
        if stored.shape != expected:
            raise CheckpointError(
                f"{folder}: {ours} does not fit the model: tensor {BASE}{name} is {list(stored.shape)}, the model's "
                f"parameter {list(expected)}; give the base model that it was trained on."
            )
        value = stored.read()
        parameters[ours] = _like((value.T if ours.endswith(".kernel") else value).reshape(shape), parameters[ours])
    lost = [name for name in names.values() if saved and _within(name, saved) and name not in stored_by_name]
    if lost:
        raise CheckpointError(f"{folder} names in modules_to_save what it has no tensor of: {listed(lost)}; copy it.")


def _within(name: str, modules: tuple[str, ...]) -> bool:
    """Whether PEFT takes a tensor to be of one of these modules: a module's name ends as one of theirs does."""
    steps = name.split(".")[:-1]
    return any(".".join(steps[: end + 1]).endswith(modules) for end in range(len(steps)))


def _like(value: np.ndarray, leaf: Any) -> Any:
    """`value` in the type of `leaf`, and NumPy's where that is."""
    return (np.array if isinstance(leaf, np.ndarray) else jnp.array)(value.astype(np.float32), leaf.dtype)


def _checkable(config: Mapping[str, Any]) -> bool:
    return config.get("target_modules") not in (None, "all-linear")


def _doubts(config: Mapping[str, Any], base: Model, folder: Path) -> list[str]:
    """Warnings where the folder was made for another task or another model.

    Raises `CheckpointError` where it classifies tokens and the model does not.
    """
    warnings, task, head = [], config.get("task_type"), base.architecture.head
    if task == "TOKEN_CLS" and TASK_TYPES[head] != task:  # whose classifier has the same name
        raise CheckpointError(
            f"{folder} classifies tokens (TOKEN_CLS), the model's head is {head.replace('_', ' ')}; give the token "
            "classifier that it was trained on."
        )
    if task is not None and task != TASK_TYPES[head]:
        warnings.append(f"{folder} was made for the task {task}, the model's is {TASK_TYPES[head]}.")
    made_on, given = config.get("base_model_name_or_path"), base.provenance.record.get("source", base.provenance.source)
    if made_on and given and Path(str(made_on)).name != Path(str(given)).name:
        warnings.append(f"{folder} was made on {made_on}, the model is {given}: see that they are the same.")
    return warnings


def _untouched(
    config: Mapping[str, Any], held: _Folder, kernels: Mapping[str, str], base: Model, folder: Path
) -> list[str]:
    """A warning where modules that the configuration targets have no tensors: PEFT leaves those as they are."""
    if not _checkable(config):
        return []
    fused = {whole for name in kernels if _parts(whole := name.rpartition(".")[0], kernels, base)}
    modules = [name for name in (*kernels, *sorted(fused)) if name.rpartition(".")[0] not in fused]
    bare = [name for name in modules if name not in held.pairs and targets(config, name)]
    return [f"{folder} targets {listed(bare)} and holds no adapter of it; it stays as it is."] if bare else []

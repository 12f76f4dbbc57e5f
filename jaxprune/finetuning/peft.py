"""Adapters as folders of the PEFT library: adapter_config.json and adapter_model.safetensors, without importing it."""

import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..checkpoint.families import FAMILIES
from ..checkpoint.files import inside, listed, one_line, read_json
from ..checkpoint.load import tensor_names
from ..checkpoint.manifest import check_finite, named_parameters
from ..checkpoint.write import check_writable, save
from ..errors import CheckpointError, OutputError
from ..model import Architecture, Model
from .lora import Adapters, Size, adapters_of, each_adapter, place_of, projection_shapes

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE_FOLDER = "base"  # within an adapter's: the cut model that it fits
BASE = "base_model.model."  # what PEFT puts before the name of every module
TASK_TYPES = {"classification": "SEQ_CLS", "question_answering": "QUESTION_ANS", "none": "FEATURE_EXTRACTION"}


def check_adapter_output(folder: str | Path, again: bool = False) -> None:
    """Raise `OutputError` where `write_peft` would refuse `folder`.

    `again`: the run is one that goes on, and may have written an adapter there before it was stopped.
    """
    folder = Path(folder)
    ours = {CONFIG, WEIGHTS, BASE_FOLDER} if again else set()
    if folder.exists() and (not folder.is_dir() or any(path.name not in ours for path in folder.iterdir())):
        raise OutputError(f"{folder} exists and is not an empty folder; choose another one for the adapter.")
    check_writable(folder.absolute().parent)


def adapter_digest(adapters: Adapters) -> str:
    """Tells adapters apart: a hash of their numbers."""
    sha = hashlib.sha256()
    for path, a, b, scaling in each_adapter(adapters):
        sha.update(f"{path} {scaling:.5g}".encode())
        for factor in (a, b):
            sha.update(np.ascontiguousarray(factor, np.float32).tobytes())
    return sha.hexdigest()[:16]


def write_peft(
    folder: str | Path,
    base: Model,
    adapters: Adapters,
    trained: Sequence[str] = (),
    *,
    again: bool = False,
    with_base: bool = False,
) -> Path:
    """Write `adapters` as a PEFT folder, with the parameters of `base` named in `trained` as its modules_to_save.

    The folder is there whole or not at all; `again` replaces an adapter that is there (`check_adapter_output`). Its
    base is the model before training, cut as this one is: PEFT loads it where the shapes agree. `with_base` saves that
    model too, in the folder "base": a cut model may lie nowhere else. Raises `OutputError`, and `CheckpointError`
    for a family whose names are not known.
    """
    folder = Path(folder)
    check_adapter_output(folder, again)
    modules = _modules(base.architecture)
    tensors: dict[str, np.ndarray] = {}
    sizes: dict[str, tuple[int, float]] = {}
    for path, a, b, scaling in each_adapter(adapters):
        name, rank = modules[path], int(np.shape(a)[1])
        # With use_rslora off, PEFT scales by alpha / rank: this alpha gives our scaling, whichever rule made it.
        sizes[name] = rank, round(scaling * rank, 6)  # scaling is a float32
        tensors[f"{BASE}{name}.lora_A.weight"] = np.asarray(a).T
        tensors[f"{BASE}{name}.lora_B.weight"] = np.asarray(b).reshape(rank, -1).T
    parameters, _ = named_parameters(base.params)
    names = _tensors(base.architecture)
    saved = {_saved_module(names[path.replace("/", ".")], base.architecture) for path in trained}
    for ours, name in names.items():
        if _saved_module(name, base.architecture) not in saved:
            continue
        leaf = np.asarray(parameters[ours])
        if ours.endswith(".kernel"):
            leaf = leaf.reshape(-1, leaf.shape[-1]) if ours.endswith((".o.kernel", ".down.kernel")) else leaf
            leaf = leaf.reshape(leaf.shape[0], -1).T
        elif ours.endswith(".bias"):
            leaf = leaf.reshape(-1)
        tensors[BASE + name] = leaf
    config = _config(base, sizes, sorted(saved))
    part = folder.absolute().with_name(f".{folder.name}.jaxprune-tmp-{secrets.token_hex(4)}")
    try:
        part.mkdir(parents=True)
        _save(part / WEIGHTS, tensors)
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for file in part.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if with_base:
            save(base, part / BASE_FOLDER)
        if (folder / CONFIG).exists():
            shutil.rmtree(folder)
        os.replace(part, folder)  # an empty folder may be replaced, nothing else
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror or one_line(error)}); free some room."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def read_peft(folder: str | Path, base: Model) -> tuple[Model, Adapters]:
    """The base with the folder's saved modules in it, and the adapters; `merged` makes them one plain model.

    Raises `CheckpointError` where an adapter does not fit the base, naming the projection and both shapes.
    """
    folder = Path(folder)
    config = read_json(inside(folder, CONFIG), "give a PEFT folder")
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder / CONFIG} has peft_type {config.get('peft_type')!r}, expected LORA.")
    for key in ("use_dora", "fan_in_fan_out", "lora_bias"):
        if config.get(key):
            raise CheckpointError(f"{folder / CONFIG} sets {key}, which changes the mathematics and is not supported.")
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{folder / CONFIG} sets bias to {config['bias']!r}, expected none.")
    tensors = _load(folder)
    modules = {name: path for path, name in _modules(base.architecture).items()}
    shapes = projection_shapes(base.architecture)
    parameters, structure = named_parameters(base.params)
    leaves = {theirs: ours for ours, theirs in _tensors(base.architecture).items()}
    plan: dict[str, Size] = {}
    pairs: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        short = name.removeprefix(BASE)
        module, _, kind = short.rpartition(".lora_")
        if not module:
            if short not in leaves:
                raise CheckpointError(f"{folder} holds tensor {name}, for which the model has no place.")
            ours = leaves[short]
            expected = np.shape(parameters[ours])
            value = tensor.T if ours.endswith(".kernel") else tensor
            if value.size != prod(expected) or (
                ours.endswith(".kernel") and len(expected) == 2 and value.shape != expected
            ):
                raise CheckpointError(
                    f"{folder}: {ours} does not fit the model: tensor {name} is {list(tensor.shape)}, the model's "
                    f"parameter {list(expected)}; give the base model that it was trained on."
                )
            parameters[ours] = jnp.array(value.reshape(expected), jnp.float32)
            continue
        if module not in modules:
            raise CheckpointError(f"{folder} adapts {module}, which the model does not have; give its base model.")
        path = modules[module]
        inputs, outputs = shapes[path]
        expected = (tensor.shape[0], inputs) if kind == "A.weight" else (prod(outputs), tensor.shape[-1])
        if kind not in ("A.weight", "B.weight") or tensor.shape != expected:
            raise CheckpointError(
                f"the adapter in {folder} does not fit projection {path} of the model: {name} is "
                f"{list(tensor.shape)}, expected {list(expected)}; give the base model that it was trained on."
            )
        pairs.setdefault(path, {})[kind[0].lower()] = tensor
    for path, pair in pairs.items():
        if set(pair) != {"a", "b"} or pair["a"].shape[0] != pair["b"].shape[1]:
            raise CheckpointError(f"the adapter in {folder} is incomplete at projection {path}; copy it anew.")
        plan[path] = _size(config, _modules(base.architecture)[path], pair["a"].shape[0])
    adapters = adapters_of(plan, base.architecture)
    for path, pair in pairs.items():
        layer, half, name = place_of(path)
        outputs = shapes[path][1]
        b = np.ascontiguousarray(pair["b"].T).reshape(-1, *outputs)
        adapters.weights[layer][half][name] = {"a": jnp.array(pair["a"].T, jnp.float32), "b": jnp.array(b, jnp.float32)}
    return replace(base, params=structure.unflatten(parameters.values())), adapters


def _tensors(architecture: Architecture) -> dict[str, str]:
    """Our parameter ("layers.0.attention.q.kernel") -> the tensor in a model with its task head."""
    if architecture.family not in FAMILIES:
        raise CheckpointError(f"{architecture.family} models have no names in PEFT; known are {', '.join(FAMILIES)}.")
    family = FAMILIES[architecture.family]
    names = tensor_names(family, architecture)

    def encoder(ours: str) -> bool:
        return not ours.startswith("head.") and (not ours.startswith("pooler.") or family.pretrained_pooler)

    prefix = family.prefix if architecture.head != "none" else ""
    return {ours: (prefix if encoder(ours) else "") + name for ours, name in names.items()}


def _saved_module(name: str, architecture: Architecture) -> str:
    """The module that PEFT keeps whole for this tensor: of a task head all of it, as PEFT itself does."""
    module = name.rpartition(".")[0]
    encoder = architecture.head == "none" or name.startswith(FAMILIES[architecture.family].prefix)
    return module if encoder else module.split(".")[0]


def _modules(architecture: Architecture) -> dict[str, str]:
    """A projection's path -> the module's name."""
    names = _tensors(architecture)
    return {
        path: names[f"{path.replace('/', '.')}.kernel"].removesuffix(".weight")
        for path in projection_shapes(architecture)
    }


def _config(base: Model, sizes: dict[str, tuple[int, float]], saved: Sequence[str]) -> dict[str, Any]:
    rank, alpha = Counter(sizes.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[base.architecture.head],
        "base_model_name_or_path": base.provenance.source,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(sizes),
        "modules_to_save": list(saved) or None,
        "rank_pattern": {name: size[0] for name, size in sizes.items() if size[0] != rank},
        "alpha_pattern": {name: size[1] for name, size in sizes.items() if size[1] != alpha},
    }


def _size(config: dict[str, Any], module: str, rank: int) -> Size:
    """Rank and alpha as PEFT reads them: a pattern is a regular expression for the end of a module's name."""
    import re

    def pattern(name: str, otherwise: Any) -> Any:
        for key, value in (config.get(name) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return otherwise

    declared = pattern("rank_pattern", config.get("r"))
    if declared != rank:
        raise CheckpointError(f"{CONFIG} gives {module} rank {declared}, its tensors have {rank}; copy it anew.")
    return Size(rank, float(pattern("alpha_pattern", config.get("lora_alpha", rank))), bool(config.get("use_rslora")))


def _save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    for name, tensor in tensors.items():
        check_finite(name, tensor, "the adapter")
    try:
        # safetensors writes the buffer as it lies: a transposed array would be saved wrong without a word.
        save_file({n: np.ascontiguousarray(t, np.float32) for n, t in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:  # how the package reports a full disk
        raise OSError(one_line(error)) from error


def _load(folder: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(inside(folder, WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} is missing or damaged ({one_line(error)}); copy it anew.") from error
    stray = [name for name in tensors if not name.startswith(BASE)]
    if stray:
        raise CheckpointError(f"{folder / WEIGHTS} holds tensors of no PEFT adapter: {listed(stray)}.")
    for name, tensor in tensors.items():
        check_finite(name, tensor, str(folder))
    return tensors

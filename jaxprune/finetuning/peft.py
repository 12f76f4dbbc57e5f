"""Adapters written as folders of the PEFT library, without importing it; `peft_read` reads them."""

import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ..checkpoint.files import one_line
from ..checkpoint.head_names import HEAD_NAMES
from ..checkpoint.known_families import family_named
from ..checkpoint.load import tensor_names
from ..checkpoint.manifest import check_finite, named_parameters
from ..checkpoint.write import check_writable, save
from ..errors import OutputError, SettingsError
from ..model import Architecture, Model
from .lora import Adapters, Plan, each_adapter, projection_shapes
from .peft_config import CONFIG

ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_FOLDER = "base"  # within an adapter's: the cut model that it fits
BASE = "base_model.model."  # what PEFT puts before the name of every module
TASK_TYPES = {
    "classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
    "causal_lm": "CAUSAL_LM",
    "none": "FEATURE_EXTRACTION",
}
ADDED = {  # PEFT saves these modules unasked
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


def check_adapter_output(folder: str | Path, again: bool = False) -> None:
    """Raise `OutputError` where `write_peft` would refuse `folder`.

    `again`: the run is one that goes on, and may have written an adapter there before it was stopped.
    """
    folder = Path(folder)
    ours = {CONFIG, ADAPTER_WEIGHTS, BASE_FOLDER} if again else set()
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

    So are the modules that PEFT always saves: without them it cannot load the folder. The folder is there whole or not
    at all; `again` replaces an adapter that is there (`check_adapter_output`). Its base is the model before training,
    cut as this one is: PEFT loads it where the shapes agree. `with_base` saves that model too, in the folder "base": a
    cut model may lie nowhere else. Raises `OutputError`, and `CheckpointError` for a family whose names are not known.
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
    names = peft_tensors(base.architecture)
    saved = _saved_modules(base.architecture, trained)
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
        _save(part / ADAPTER_WEIGHTS, tensors)
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


def peft_tensors(architecture: Architecture) -> dict[str, str]:
    """Our parameter ("layers.0.attention.q.kernel") -> the tensor in a model with its task head."""
    family = family_named(architecture.family)
    names = tensor_names(family, architecture)

    def encoder(ours: str) -> bool:
        return not ours.startswith("head.") and (not ours.startswith("pooler.") or family.pretrained_pooler)

    prefix = "" if HEAD_NAMES[architecture.head].bare else family.prefix
    return {ours: (prefix if encoder(ours) else "") + name for ours, name in names.items()}


def _saved_module(name: str, architecture: Architecture) -> str:
    """The module that PEFT keeps whole for this tensor: of a task head all of it, as PEFT itself does."""
    module = name.rpartition(".")[0]
    encoder = HEAD_NAMES[architecture.head].bare or name.startswith(family_named(architecture.family).prefix)
    return module if encoder else module.split(".")[0]


def _saved_modules(architecture: Architecture, trained: Iterable[str]) -> set[str]:
    """The modules that PEFT will look for: those of the leaves that trained, and what it adds by its own rules.

    A module counts where its name ends as that of a wanted one does: "classifier" takes "pre_classifier" along.
    """
    names = peft_tensors(architecture)
    wanted = {_saved_module(names[path.replace("/", ".")], architecture) for path in trained}
    ends = (*wanted, *ADDED.get(TASK_TYPES[architecture.head], ()))
    return {
        module for module in {_saved_module(name, architecture) for name in names.values()} if module.endswith(ends)
    }


def check_apart(plan: Plan, trained: Iterable[str], architecture: Architecture) -> None:
    """Raise `SettingsError` where a module has an adapter and trains besides: PEFT can save or adapt it, not both."""
    modules, names = _modules(architecture), peft_tensors(architecture)
    adapted = {modules[path]: path for path in plan}
    for path in trained:
        module = names[path.replace("/", ".")].rpartition(".")[0]
        if module in adapted:
            raise SettingsError(
                f"{path} trains and {adapted[module]} has an adapter, which no PEFT folder can hold; train one of the "
                "two, or write no adapter."
            )


def _modules(architecture: Architecture) -> dict[str, str]:
    """A projection's path -> the module's name."""
    names = peft_tensors(architecture)
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


def _save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    for name, tensor in tensors.items():
        check_finite(name, tensor, "the adapter")
    try:
        # safetensors writes the buffer as it lies: a transposed array would be saved wrong without a word.
        save_file({n: np.ascontiguousarray(t, np.float32) for n, t in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:  # how the package reports a full disk
        raise OSError(one_line(error)) from error

"""Adapters written as folders of the PEFT library, without importing it; `peft_read` reads them."""

import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ..checkpoint.files import one_line
from ..checkpoint.head_names import HEAD_NAMES
from ..checkpoint.known_families import family_named
from ..checkpoint.layout import fused, holder_of
from ..checkpoint.manifest import check_finite, named_parameters
from ..checkpoint.output_folder import check_home, check_writable
from ..checkpoint.read import Stored
from ..checkpoint.tensor_names import file_shape, tensor_names
from ..checkpoint.write import save
from ..errors import OutputError, SettingsError
from ..model import Architecture, Model
from ..model.heads import head_of
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
    "masked_lm": "FEATURE_EXTRACTION",  # PEFT has no type for it
    "embedding": "FEATURE_EXTRACTION",
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
    check_home(folder)
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
    tensors: dict[str, np.ndarray] = {}
    sizes: dict[str, tuple[int, float]] = {}
    for name, (a, b, scaling) in _factors(base.architecture, adapters).items():
        # With use_rslora off, PEFT scales by alpha / rank: this alpha gives our scaling, whichever rule made it.
        sizes[name] = len(a), round(scaling * len(a), 6)  # scaling is a float32
        tensors |= {f"{BASE}{name}.lora_A.weight": a, f"{BASE}{name}.lora_B.weight": b}
    saved = _saved_modules(base.architecture, trained)
    tensors |= {BASE + name: leaf for name, leaf in _whole_tensors(base, saved).items()}
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

    prefix = _prefix(architecture)
    return {ours: (prefix if encoder(ours) else "") + name for ours, name in names.items()}


def _factors(architecture: Architecture, adapters: Adapters) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """PEFT's module -> its factors A [rank, inputs] and B [outputs, rank], and the scaling.

    Projections that lie in one module get one pair: A with the rows of all, B with their blocks at their places.
    """
    holders, shapes = _holders(architecture), projection_shapes(architecture)
    given = {path: (np.asarray(a).T, np.asarray(b), scaling) for path, a, b, scaling in each_adapter(adapters)}
    out = {}
    for module in dict.fromkeys(holders[path][0] for path in given):
        paths = sorted((path for path in holders if holders[path][0] == module), key=lambda path: holders[path][1])
        scaling = next(given[path][2] for path in paths if path in given)
        a = np.concatenate([given[path][0] for path in paths if path in given])
        widths = [prod(shapes[path][1]) for path in paths]
        b, row, column = np.zeros((sum(widths), len(a)), np.float32), 0, 0
        for path, width in zip(paths, widths, strict=True):
            if path in given:
                own, block, factor = given[path]
                b[row : row + width, column : column + len(own)] = block.reshape(len(own), -1).T * (factor / scaling)
                column += len(own)
            row += width
        out[module] = a, b, scaling
    return out


def _whole_tensors(base: Model, modules: set[str]) -> dict[str, np.ndarray]:
    """The tensors of modules that are saved whole, as the family's files have them."""
    family, (parameters, _) = family_named(base.architecture.family), named_parameters(base.params)
    prefix = _prefix(base.architecture)
    inner, outer = {}, {}
    for ours, name in peft_tensors(base.architecture).items():
        if _saved_module(name, base.architecture) not in modules:
            continue
        leaf = np.asarray(parameters[ours])
        shape = file_shape(ours, leaf.shape)
        leaf = leaf.reshape(shape[::-1]).T if ours.endswith(".kernel") else leaf.reshape(shape)
        if name.startswith(prefix):
            inner[name.removeprefix(prefix)] = Stored(leaf.shape, leaf.dtype.name, lambda leaf=leaf: leaf)
        else:
            outer[name] = leaf
    return outer | {prefix + name: stored.read() for name, stored in fused(inner, family, base.architecture).items()}


def _prefix(architecture: Architecture) -> str:
    """What PyTorch's model with the head has before the names of the encoder's tensors."""
    return "" if HEAD_NAMES[architecture.head].bare else family_named(architecture.family).prefix


def _holder(name: str, architecture: Architecture) -> tuple[str, int]:
    """The module that a tensor lies in, and its place among those that share it."""
    prefix, module = _prefix(architecture), name.rpartition(".")[0]
    if not module.startswith(prefix):
        return module, 0
    whole, parts = holder_of(module.removeprefix(prefix), family_named(architecture.family))
    return prefix + whole, parts.index(module.rpartition(".")[2]) if parts else 0


def _saved_module(name: str, architecture: Architecture) -> str:
    """The module that PEFT keeps whole for this tensor: of a task head all of it, as PEFT itself does."""
    module, _ = _holder(name, architecture)
    return module if module.startswith(_prefix(architecture)) else module.split(".")[0]


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
    """Raise `SettingsError` where a module has an adapter and trains besides: PEFT can save or adapt it, not both; and
    where embeddings train that are the vocabulary too, of which PEFT would load one and leave the other as it was.
    """
    trained = list(trained)
    if architecture.tied and head_of(architecture).language is not None and "embed/token" in trained:
        raise SettingsError(
            "embed/token trains, which is the vocabulary of the output too: PEFT would load it as embeddings alone; "
            "leave it as it is, or write no adapter."
        )
    holders, names = _holders(architecture), peft_tensors(architecture)
    adapted = {holders[path][0]: path for path in plan}
    for path in trained:
        module, _ = _holder(names[path.replace("/", ".")], architecture)
        if module in adapted:
            raise SettingsError(
                f"{path} trains and {adapted[module]} has an adapter, which no PEFT folder can hold; train one of the "
                "two, or write no adapter."
            )


def _holders(architecture: Architecture) -> dict[str, tuple[str, int]]:
    """A projection's path -> the module that it lies in, and its place there."""
    names = peft_tensors(architecture)
    return {
        path: _holder(names[f"{path.replace('/', '.')}.kernel"], architecture)
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
        "fan_in_fan_out": bool(family_named(base.architecture.family).transposed),
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

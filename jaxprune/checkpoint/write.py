"""Save a model as a folder that is there whole or not at all."""

import contextlib
import ctypes
import json
import math
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ..checks import checked
from ..doubts import tell
from ..errors import CheckpointError, OutputError
from ..model.model import Model
from .card import CARD, CARD_HASH, card_hash, card_text
from .dtypes import rounded, saved_types
from .generation import write_generation
from .manifest import (
    INDEX,
    MANIFEST,
    WEIGHTS,
    check_saved_type,
    check_shapes,
    manifest_of,
    manifest_text,
    named_parameters,
)
from .notes import to_save, write_tokenizer
from .output_folder import RUN_FILES, check_output, reason_of
from .read import Stored, source_hash
from .sentence_files import write_sentence

SHARD_BYTES = 5 * 2**30


@checked
def save(
    model: Model,
    folder: str | Path,
    *,
    overwrite: bool = False,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    run_folder: str | Path | None = None,
    tokenizer: Any = None,
) -> Path:
    """Write `model` to `folder`: tensors, `jaxprune.json`, tokenizer files; `jaxprune.load` reads it back.

    Every parameter is written in its own type: that of the checkpoint the model was read from, or bfloat16 where it is
    kept so in memory (`dtypes.saved_types`); or all are in `dtype`, "float32", "bfloat16" or "float16". Of a float32
    checkpoint, or with "float32", what is read back is the model to the bit; a half type rounds what was computed in
    float32, and `dtypes.as_saved` gives the model as it will be. Numbers too large for the checkpoint's type are kept
    in float32, with a warning in `jaxprune.json`. There is no `config.json`: other loaders would quietly build the
    dense model. Above `shard_bytes` the tensors are spread over several files. The log
    and the heat map in `run_folder` are copied along. `tokenizer`, a folder or a loaded one, is saved in place of the
    model's own.

    Everything is written beside `folder` and renamed there at the end, so that a kill or a full disk leaves the old
    folder or none. Raises `OutputError` where `check_output` does or the disk refuses, `NumericalError` for NaN, Inf
    and numbers too large for `dtype`, `CheckpointError` where the parameters do not fit the architecture or JAX dropped
    the model's notes.
    """
    folder = Path(os.path.expanduser(folder))  # as `load` reads it
    if dtype is not None:  # before the weights are looked at
        check_saved_type(dtype)
    check_output(folder, overwrite)
    model = to_save(model, tokenizer)
    parameters, _ = named_parameters(model.params)
    check_shapes({name: tuple(np.shape(leaf)) for name, leaf in parameters.items()}, model.architecture, "the model")
    types = saved_types(model, dtype)
    tensors = {
        name: Stored(np.shape(leaf), types.of[name], partial(np.asarray, leaf)) for name, leaf in parameters.items()
    }
    told = manifest_of(model)
    told |= _hash_of(model) | {"dtype": ", ".join(sorted(set(types.of.values())))}
    warnings = [*types.warnings]

    def fill(part: Path) -> None:
        write_tensors(part, tensors, shard_bytes)
        warnings.extend(write_tokenizer(model, part))
        write_generation(model, part)
        write_sentence(model, part, types.of)
        if run_folder is not None:
            for file in (Path(run_folder) / name for name in RUN_FILES):
                if file.is_file():
                    shutil.copyfile(file, part / file.name)

    def manifest() -> dict[str, Any]:
        return told | {"warnings": list(dict.fromkeys([*told["warnings"], *warnings]))}

    write_folder(folder, MANIFEST, manifest, fill, overwrite)
    tell([*model.provenance.warnings, *warnings])
    return folder


def write_folder(
    folder: Path,
    mark: str,
    record: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    fill: Callable[[Path], None],
    overwrite: bool,
    class_name: str | None = None,
) -> None:
    """Put a folder in place that holds `record` in the file `mark`, a card of it, and what `fill` writes into the path
    that it gets.

    A record that says what came of filling is a function, called afterwards. `class_name` is that of `card_text`.
    It is made beside `folder` and renamed there once the disk holds all of it, so that a kill leaves what was there.
    Raises `OutputError` where `check_output` does or the disk refuses.
    """
    target = Path(os.path.abspath(folder))
    part = _sibling(target, "tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        fill(part)
        told = record() if callable(record) else record
        card = card_text(told, class_name)
        (part / CARD).write_text(card, encoding="utf-8")
        (part / mark).write_text(manifest_text({**told, CARD_HASH: card_hash(card)}), encoding="utf-8")
        for file in (*part.rglob("*"), part):
            if file.is_file():
                shutil.copymode(part / mark, file)  # which has what the umask allows; safetensors shuts others out
            _sync(file)
        check_output(folder, overwrite)  # again: what another program put there meanwhile is not ours to replace
        _swap(part, target)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({reason_of(error)}); what was there is unchanged.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(OSError):  # some network folders refuse; the model is in place already
        _sync(target.parent)


def write_tensors(
    folder: Path, tensors: Mapping[str, Stored], shard_bytes: int, metadata: dict[str, str] | None = None
) -> None:
    """Write `tensors`, each in its own type, to one safetensors file or, above `shard_bytes`, to several and an index.

    Their numbers are read one file at a time. Raises `NumericalError` for NaN and Inf, and for numbers too large for
    their type.
    """
    sizes = {name: jnp.dtype(stored.dtype).itemsize * math.prod(stored.shape) for name, stored in tensors.items()}
    shards = _shards(sizes, shard_bytes)
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    names = [WEIGHTS] if len(shards) == 1 else names
    for file, shard in zip(names, shards, strict=True):
        arrays = {name: rounded(name, tensors[name].read(), tensors[name].dtype) for name in shard}
        try:
            save_file(arrays, folder / file, metadata)
        except SafetensorError as error:  # how the package reports a full disk
            raise OSError(" ".join(str(error).split())) from error
    if len(shards) > 1:
        places = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in their order, in groups of at most `limit` bytes; a larger tensor gets a group of its own."""
    groups: list[list[str]] = [[]]
    room = limit
    for name, size in sizes.items():
        if groups[-1] and size > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups


def _hash_of(model: Model) -> dict[str, str]:
    """The hash of the weights that the model was read from; one that was read from a folder of ours brings it along."""
    source = model.provenance.source
    if source is None or "source_hash" in model.provenance.record or (Path(source) / MANIFEST).exists():
        return {}
    try:
        return {"source_hash": source_hash(source)}
    except (CheckpointError, OSError):  # moved or deleted since: then there is nothing to say
        return {}


# --- the disk


def _sibling(folder: Path, purpose: str) -> Path:
    """A new name in the same file system, so that a rename is enough."""
    return folder.with_name(f".{folder.name}.jaxprune-{purpose}-{secrets.token_hex(4)}")


def _sync(path: Path) -> None:
    """Have the disk hold what was written; a folder cannot be synced on Windows."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(new: Path, folder: Path) -> None:
    """Put `new` where `folder` is, in one step where the system has one; then delete what was there."""
    if not folder.exists():
        os.rename(new, folder)
    elif not _exchange(new, folder):
        old = _sibling(folder, "old")
        os.rename(folder, old)
        try:
            os.rename(new, folder)
        except BaseException:
            os.rename(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        shutil.rmtree(new, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically; False where system or file system cannot, and then nothing has changed."""
    names = os.fsencode(one), os.fsencode(other)
    try:
        libc = ctypes.CDLL(None)
        if sys.platform == "linux":
            here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
            return libc.renameat2(here, names[0], here, names[1], swap) == 0
        if sys.platform == "darwin":
            return libc.renamex_np(*names, 2) == 0  # RENAME_SWAP
    except (AttributeError, OSError, TypeError):  # an old C library, or Windows
        pass
    return False

"""Save a model as a folder that is there whole or not at all."""

import contextlib
import ctypes
import json
import math
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from .files import read_json
from .generation import GENERATION, write_generation
from .image_settings import PREPROCESSOR
from .manifest import (
    EXPORTED,
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
from .read import Stored, source_hash
from .sentence_files import is_sentence_file, write_sentence
from .tokenizer_files import TOKENIZER_FILES

SHARD_BYTES = 5 * 2**30
RUN_FILES = ("log.jsonl", "importance.png", "rounds.png")  # of the run that made a model, kept beside it


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
    folder = Path(folder)
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
    told |= {"warnings": list(dict.fromkeys([*told["warnings"], *types.warnings]))}
    manifest = told | _hash_of(model) | {"dtype": ", ".join(sorted(set(types.of.values())))}

    def fill(part: Path) -> None:
        write_tensors(part, tensors, shard_bytes)
        write_tokenizer(model, part)
        write_generation(model, part)
        write_sentence(model, part, types.of)
        if run_folder is not None:
            for file in (Path(run_folder) / name for name in RUN_FILES):
                if file.is_file():
                    shutil.copyfile(file, part / file.name)

    write_folder(folder, MANIFEST, manifest, fill, overwrite)
    tell([*model.provenance.warnings, *types.warnings])
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
        raise OutputError(f"{folder} cannot be written ({_reason(error)}); what was there is unchanged.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(OSError):  # some network folders refuse; the model is in place already
        _sync(target.parent)


def check_output(folder: str | Path, overwrite: bool = False) -> None:
    """Raise `OutputError` where `save` would refuse `folder`, so that it is known before the work.

    A folder that is missing or empty is fine. With `overwrite` so is one that holds a model that we saved or exported,
    and nothing else.
    """
    folder = Path(folder)
    if folder.name in ("", ".."):  # ".", "/" and the empty path have no name of their own to rename to
        raise OutputError(f"{str(folder)!r} is no name for a new folder; choose one.")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder} exists and is not a folder; choose another one.")
    try:
        present = sorted(names_in(folder)) if folder.is_dir() else []
    except OSError as error:
        raise OutputError(f"{folder} cannot be read ({_reason(error)}); choose another folder.") from error
    if present and not overwrite:
        raise OutputError(f"{folder} exists and is not empty; choose another folder, or pass overwrite=True.")
    if present and MANIFEST not in present and EXPORTED not in present:
        raise OutputError(f"{folder} was not written by jaxprune ({MANIFEST} is missing); choose another folder.")
    ours = written_by_us(folder, present)
    foreign = [name for name in present if name not in ours]
    if foreign:
        edited = "which was changed since jaxprune wrote it" if foreign[0] == CARD else "which jaxprune did not write"
        raise OutputError(f"{folder} also holds {foreign[0]}, {edited}; move it, then overwrite.")
    check_writable(folder.absolute().parent)


def check_writable(folder: str | Path) -> None:
    """Raise `OutputError` where `folder`, or where it is missing the place it would be made in, cannot be written."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    try:  # permissions do not tell of every place, nor root of any
        os.rmdir(tempfile.mkdtemp(prefix=".jaxprune-", dir=folder))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({_reason(error)}); choose another folder.") from error


def written_by_us(folder: Path, present: Sequence[str]) -> frozenset[str]:
    """Which of the files in a folder that we wrote are ours; a card is while it is as we wrote it."""
    mark = MANIFEST if MANIFEST in present else EXPORTED
    config = ("config.json",) if EXPORTED in present else ()
    made = _made_files(folder, mark) if present else ()
    return frozenset(name for name in present if _ours(name) or name in (*config, *made))


def names_in(folder: Path) -> Iterator[str]:
    """The files of a folder and of the folders in it, and folders that are empty, or are links."""
    for path in folder.iterdir():
        inside = sorted(names_in(path)) if path.is_dir() and not path.is_symlink() else []
        yield from (f"{path.name}/{name}" for name in inside)
        if not inside:
            yield path.name


def _made_files(folder: Path, mark: str) -> tuple[str, ...]:
    """What the record in the file `mark` says was written beside the files of every folder; a card only as written."""
    with contextlib.suppress(CheckpointError, OSError, UnicodeDecodeError):
        record = read_json(folder / mark, "")
        files = record.get("export", {}).get("files", []) if mark == EXPORTED else []
        card = folder / CARD
        as_written = card.is_file() and card_hash(card.read_text(encoding="utf-8")) == record.get(CARD_HASH)
        return (*(name for name in files if isinstance(name, str)), *((CARD,) if as_written else ()))
    return ()


def _ours(name: str) -> bool:
    weights = name.startswith("model") and name.endswith(".safetensors") and "/" not in name
    return (
        weights
        or is_sentence_file(name)
        or name in (MANIFEST, EXPORTED, INDEX, GENERATION, PREPROCESSOR, *TOKENIZER_FILES, *RUN_FILES)
    )


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


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__

"""Tensors in every file format that checkpoints come in, under one naming: that of PyTorch files, [out, in].

No code of a file is ever executed. Shapes and types are read first; numbers come one tensor at a time.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from .files import NAMED, inside, one_line, sha256, shards
from .pickle_free import read_bin


class Stored(NamedTuple):
    """A tensor in a file: what it looks like, and how to get its numbers (as float32 where they are floats)."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name: "float32", "bfloat16", "int64", …
    read: Callable[[], np.ndarray]


# In this order: the first that a folder has is read. The second name of each is the index of a sharded one.
FORMATS: tuple[tuple[str, str, str], ...] = (
    (".safetensors", "model.safetensors", "model.safetensors.index.json"),
    (".msgpack", "flax_model.msgpack", "flax_model.msgpack.index.json"),
    (".bin", "pytorch_model.bin", "pytorch_model.bin.index.json"),
)
FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}  # by safetensors' names
# Flax's names of a leaf, and those that files converted from TensorFlow have for a norm's.
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "gamma": "weight", "beta": "bias"}


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's tensors. Raises `CheckpointError` where there are none, or not inside it."""
    for suffix, single, index in FORMATS:
        if (folder / single).exists():
            return [inside(folder, single)]
        if (folder / index).exists():
            return [inside(folder, name) for name in shards(inside(folder, index), suffix)]
        if names := _numbered(folder, single.removesuffix(suffix), suffix):
            return [inside(folder, name) for name in names]
    expected = ", ".join(single for _, single, _ in FORMATS)
    raise CheckpointError(f"{folder} has no weights: none of {expected}; give a checkpoint's folder.")


def two_formats(folder: Path) -> tuple[str, ...]:
    """A warning of weights that are there twice without safetensors: nothing says that both are of one model."""
    there = [single for _, single, index in FORMATS if (folder / single).exists() or (folder / index).exists()]
    if len(there) < 2 or there[0] == FORMATS[0][1]:
        return ()
    return (
        f"{folder} holds {' and '.join(there)}: the first is read, and transformers on torch reads the other; delete "
        "the one that is out of date.",
    )


def _numbered(folder: Path, stem: str, suffix: str) -> list[str]:
    """The shards "model-00001-of-00002.safetensors", … of a folder without their index, in order; [] if there are none.

    Raises `CheckpointError` where one is missing, or where they are of two checkpoints.
    """
    pattern = re.compile(rf"{stem}-(\d+)-of-(\d+){re.escape(suffix)}")
    present = sorted(path.name for path in folder.iterdir() if pattern.fullmatch(path.name))
    numbers = [tuple(map(int, match.groups())) for name in present if (match := pattern.fullmatch(name))]
    if not numbers:
        return []
    count = numbers[0][1]
    if numbers != [(number, count) for number in range(1, count + 1)]:
        raise CheckpointError(
            f"{folder} has {', '.join(present[:NAMED])}, not all of one checkpoint's {count} files, and no index of "
            "them; copy the rest."
        )
    return present


def read_tensors(folder: str | Path) -> dict[str, Stored]:
    """Every tensor of a folder's checkpoint, by name. Raises `CheckpointError` for damaged or unsafe files.

    Names end in "weight" or "bias" and a dense layer's weight is [out, in], whatever the format.
    """
    tensors: dict[str, Stored] = {}
    for path in weight_files(Path(folder)):
        for name, stored in _read_file(path):
            if name in tensors:
                raise CheckpointError(f"{folder} holds tensor {name} twice; copy the checkpoint anew.")
            tensors[name] = stored
    return tensors


def weight_bytes(folder: str | Path) -> int:
    """What the files that hold a folder's tensors take on disk. Raises `CheckpointError` as `weight_files` does."""
    return sum(path.stat().st_size for path in weight_files(Path(folder)))


def source_hash(folder: str | Path) -> str:
    """SHA-256 of a folder's weights: of the one file, or of the lines "digest  name" where there are several."""
    digests = [(sha256(path), path.name) for path in weight_files(Path(folder))]
    if len(digests) == 1:
        return digests[0][0]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in digests).encode()).hexdigest()


def _read_file(path: Path) -> Iterator[tuple[str, Stored]]:
    try:
        with path.open("rb") as file:
            start = file.read(40)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); copy it anew.") from error
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in its folder.")
    readers = {".safetensors": _read_safetensors, ".msgpack": _read_msgpack, ".bin": _read_bin}
    return readers[path.suffix](path)


def _read_safetensors(path: Path) -> Iterator[tuple[str, Stored]]:
    try:
        file = safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({one_line(error)}); copy it anew.") from error
    for name in file.keys():  # noqa: SIM118 - a safetensors file is no dict
        view = file.get_slice(name)
        dtype = str(view.get_dtype())
        dtype = FLOATS.get(dtype, dtype.lower())
        stored = Stored(tuple(view.get_shape()), dtype, lambda name=name: _float32(file.get_tensor(name)))
        yield _torch_name(name), stored


def _read_msgpack(path: Path) -> Iterator[tuple[str, Stored]]:
    from flax.serialization import msgpack_restore

    try:
        tree = msgpack_restore(path.read_bytes())
    except Exception as error:  # msgpack has no common base for what damaged bytes raise
        raise CheckpointError(f"{path} is damaged ({one_line(error)}); copy it anew.") from error
    if isinstance(tree, dict) and set(tree) == {"params"}:
        tree = tree["params"]
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} holds a {type(tree).__name__}, expected a tree of tensors; copy it anew.")
    for name, array in _leaves(tree, path):
        if name.endswith(".kernel"):
            # Flax has [in, out], and of a convolution [height, width, in, out].
            array = array.T if array.ndim != 4 else array.transpose(3, 2, 0, 1)
        yield _torch_name(name), _stored(array)


def _read_bin(path: Path) -> Iterator[tuple[str, Stored]]:
    for name, array in read_bin(path).items():
        yield _torch_name(name), _stored(array)


def _leaves(tree: dict[Any, Any], path: Path, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for key, entry in tree.items():
        name = f"{prefix}{key}"
        if isinstance(entry, dict):
            yield from _leaves(entry, path, f"{name}.")
        elif isinstance(entry, (np.ndarray, np.generic)):
            yield name, np.asarray(entry)
        else:
            raise CheckpointError(f"{path}: {name} is a {type(entry).__name__}, expected a tensor; copy it anew.")


def _stored(array: np.ndarray) -> Stored:
    return Stored(array.shape, array.dtype.name, lambda: _float32(array))


def _float32(array: np.ndarray) -> np.ndarray:
    floating = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float32, copy=False) if floating else array


def _torch_name(name: str) -> str:
    head, dot, leaf = name.rpartition(".")
    return head + dot + _LEAVES.get(leaf, leaf)

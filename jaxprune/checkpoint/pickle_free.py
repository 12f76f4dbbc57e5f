"""Tensors from a `pytorch_model.bin` without executing what is pickled in it, and without torch.

The file is a zip: a pickle that says how tensors lie in storages, and one plain entry of bytes a storage. Before
PyTorch 1.6 it was several pickles in a row, the fourth of them that one, and the storages after them. Of the pickles
only a handful of names are allowed; each stands for a function of ours.
"""

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ..errors import CheckpointError
from .files import one_line

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


_LEGACY_START = b"".join(pickle.dumps(number, 2) for number in (0x1950A86A20F9469CFC6C, 1001))  # magic, version
# What tensors of 8 bits and less are rebuilt by.
_QUANTISED = ("_rebuild_tensor_v3", "_rebuild_qtensor", "_rebuild_wrapper_subclass", "UntypedStorage")


class _Kind(NamedTuple):
    """Stands for torch.FloatStorage and its like: a type that cannot be called."""

    dtype: str


def read_bin(path: Path) -> dict[str, np.ndarray]:
    """The state dict in a file that `torch.save` wrote, as NumPy arrays that share the file's storages.

    Raises `CheckpointError` for damaged files, for anything that is not a dict of tensors, and for a pickle that asks
    for any function other than those that rebuild tensors: it is refused before anything runs.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            if zipped:
                with zipfile.ZipFile(file) as archive:
                    state = _read(archive)
            else:
                state = _read_legacy(file, path.stat().st_size)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error
    except Exception as error:  # whatever damaged bytes make zipfile, pickle or NumPy raise
        raise CheckpointError(f"{path} is damaged ({one_line(error)}); copy it anew.") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, expected a dict of tensors.")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise CheckpointError(f"{path}: {str(name)[:60]} is a {type(value).__name__}, expected a tensor.")
    return state


def _read(archive: zipfile.ZipFile) -> Any:
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError("has no pickle of tensors; save it anew as safetensors.")
    root = pickles[0].removesuffix("data.pkl")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise CheckpointError("is compressed, which torch.save never does; it was not read.")
    order = f"{root}byteorder"
    if order in entries and archive.read(order) != b"little":
        raise CheckpointError("holds big-endian numbers; save it anew as safetensors.")
    with archive.open(pickles[0]) as file:
        return _ZipUnpickler(file, archive, root).load()


def _read_legacy(file: BufferedReader, size: int) -> Any:
    """The object in a file from before PyTorch 1.6, of `size` bytes; its tensors' storages lie after it."""
    if file.read(len(_LEGACY_START)) != _LEGACY_START:
        raise CheckpointError("is damaged, or no file that torch.save wrote; copy it anew, or save it as safetensors.")
    if _NoNames(file).load().get("little_endian") is not True:
        raise CheckpointError("holds big-endian numbers; save it anew as safetensors.")
    unpickler = _LegacyUnpickler(file, size)
    state, keys = unpickler.load(), _NoNames(file).load()
    if sorted(keys) != sorted(unpickler.storages):
        raise ValueError("storages that no tensor is in, or none for some")
    for key in keys:
        storage = unpickler.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.size or file.readinto(storage.view(np.uint8).data) != storage.nbytes:
            raise ValueError(f"storage {key} is short")
    return state


class _NoNames(pickle.Unpickler):
    """Reads numbers, texts, lists and dicts of them."""

    def find_class(self, module: str, name: str) -> Any:
        raise CheckpointError(_forbidden(module, name))


def _forbidden(module: str, name: str) -> str:
    if module.startswith("torch") and name in _QUANTISED:
        return f"holds quantised or 8-bit tensors ({module}.{name}), which are not read; save it in 16 or 32 bits."
    return f"asks to run {module}.{name}, which no file of tensors needs; nothing was run. Do not trust this file."


class _Unpickler(pickle.Unpickler):
    """Knows the names that a file of tensors needs, and no other."""

    def __init__(self, file: Any):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _Kind(_STORAGES[name])
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        }
        if (module, name) not in allowed:
            raise CheckpointError(_forbidden(module, name))
        return allowed[module, name]


class _ZipUnpickler(_Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str):
        super().__init__(file)
        self.archive, self.root = archive, root

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, kind, key, _, count = pid
        if key not in self.storages:
            data = self.archive.read(f"{self.root}data/{key}")
            self.storages[key] = np.frombuffer(data, _dtype(kind.dtype), count)
        return self.storages[key]


class _LegacyUnpickler(_Unpickler):
    """Gives storages of zeros, to be filled once the pickle is read."""

    def __init__(self, file: Any, size: int):
        super().__init__(file)
        self.room = size  # bytes that storages may take: no more than the file has

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, kind, key, _, count, view = pid
        if key not in self.storages:
            self.room -= count * _dtype(kind.dtype).itemsize
            if count < 0 or self.room < 0:
                raise ValueError("a storage larger than the file")
            self.storages[key] = np.zeros(count, _dtype(kind.dtype))
        if view is None:
            return self.storages[key]
        _, first, count = view
        if not 0 <= first <= first + count <= self.storages[key].size:
            raise ValueError("a view beyond its storage")
        return self.storages[key][first : first + count]


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> np.ndarray:
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or len(shape) != len(stride):
        raise ValueError("a tensor without a storage")
    if not all(isinstance(number, int) and number >= 0 for number in (offset, *shape, *stride)):
        raise ValueError("a tensor with a shape that is none")
    # A stride of 0 could blow a few bytes up to any size.
    if math.prod(shape) > storage.size:
        raise ValueError("a tensor larger than its storage")
    size = storage.itemsize
    # The constructor checks that every element lies inside the buffer; as bytes, because bfloat16 is no buffer type.
    data = storage.view(np.uint8).data
    return np.ndarray(tuple(shape), storage.dtype, data, offset * size, tuple(number * size for number in stride))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data

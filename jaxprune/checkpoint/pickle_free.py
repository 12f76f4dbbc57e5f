"""Tensors from a `pytorch_model.bin` without executing what is pickled in it, and without torch.

The file is a zip: a pickle that says how tensors lie in storages, and one plain entry of bytes a storage. Of the pickle
only a handful of names are allowed; each stands for a function of ours.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

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


class _Kind(NamedTuple):
    """Stands for torch.FloatStorage and its like: a type that cannot be called."""

    dtype: str


def read_bin(path: Path) -> dict[str, np.ndarray]:
    """The state dict in a file that `torch.save` wrote, as NumPy arrays that share the file's storages.

    Raises `CheckpointError` for damaged files, for anything that is not a dict of tensors, and for a pickle that asks
    for any function other than those that rebuild tensors: it is refused before anything runs.
    """
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is damaged, or a pickle from before PyTorch 1.6, which is not read; save it anew as safetensors."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            state = _read(archive)
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
        return _Unpickler(file, archive, root).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str):
        super().__init__(file, encoding="utf-8")
        self.archive, self.root = archive, root
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _Kind(_STORAGES[name])
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        }
        if (module, name) not in allowed:
            raise CheckpointError(
                f"asks to run {module}.{name}, which no file of tensors needs; nothing was run. Do not trust this file."
            )
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, kind, key, _, count = pid
        if key not in self.storages:
            data = self.archive.read(f"{self.root}data/{key}")
            self.storages[key] = np.frombuffer(data, _dtype(kind.dtype), count)
        return self.storages[key]


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

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

"""`pytorch_model.bin` without torch and without running what is pickled in it."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ..errors import CheckpointError

STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _Storage(NamedTuple):
    name: str


def _rebuild(storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> np.ndarray:
    """What torch calls `_rebuild_tensor_v2`: a strided view of a flat storage, copied."""
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if shape else offset
    if min((offset, *shape, *strides), default=0) < 0 or (0 not in shape and last >= len(storage)):
        raise CheckpointError(f"a tensor of shape {shape} reaches beyond its storage of {len(storage)} numbers.")
    item = storage.itemsize
    view = np.lib.stride_tricks.as_strided(storage[offset:], shape, [stride * item for stride in strides])
    return np.array(view)


def _parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


# Every name a file of tensors needs; anything else may be code.
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): _Storage(name) for name in STORAGES},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str, path: Path):
        super().__init__(file)
        self.archive, self.root, self.path = archive, root, path
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise CheckpointError(
                f"{self.path} pickles {module}.{name}, which is not a tensor; nothing was executed. "
                "Convert the checkpoint to safetensors where you trust it."
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        if not (isinstance(pid, tuple) and len(pid) >= 3 and pid[0] == "storage" and isinstance(pid[1], _Storage)):
            raise CheckpointError(f"{self.path} refers to an object of an unknown kind; convert it to safetensors.")
        key = str(pid[2])
        if key not in self.storages:
            data = self.archive.read(f"{self.root}/data/{key}")
            self.storages[key] = np.frombuffer(data, STORAGES[pid[1].name])
        return self.storages[key]


def read_bin(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a `torch.save` file. Nothing in it is executed; a name off the allow list is an error."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if len(pickles) != 1:
                raise CheckpointError(f"{path} is a zip without a data.pkl; it is not a torch checkpoint.")
            root = pickles[0].rsplit("/", 1)[0]
            with archive.open(pickles[0]) as file:
                tensors = _Unpickler(file, archive, root, path).load()
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is truncated or in torch's format from before 1.6; convert it to safetensors."
        ) from error
    except (pickle.UnpicklingError, KeyError, EOFError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read as a file of tensors ({error}); convert it to safetensors.") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, np.ndarray) for value in tensors.values()):
        raise CheckpointError(f"{path} holds something other than tensors by name; save the model's state_dict.")
    return dict(tensors)

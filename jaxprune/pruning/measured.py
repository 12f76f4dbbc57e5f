"""What a run has measured, on disk until its result is saved: a stopped run goes on from there, with any budget."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..checkpoint.files import one_line
from ..checkpoint.manifest import MANIFEST
from ..errors import CheckpointError, OutputError, SettingsError
from ..jsonio import plain, replace_file
from ..model.model import Model
from ..settings import settings_as_now

FILE = "measured.safetensors"
Arrays = dict[str, np.ndarray]


def has_measured(folder: str | Path) -> bool:
    """Whether a run in `folder` kept its measurement."""
    return (Path(folder) / FILE).is_file()


class Measured:
    """Keeps the arrays that a run measured in `folder`, with what they were measured on.

    Without `resume` a folder that holds a measurement is refused, and one that holds anything else always is
    (`OutputError`).
    """

    def __init__(self, folder: str | Path, resume: bool):
        self.folder, self.path = Path(folder), Path(folder) / FILE
        others = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        if MANIFEST in others or self.folder.is_file() or any(FILE not in name for name in others):
            raise OutputError(f"{self.folder} holds something other than a pruning run; choose another folder.")
        if self.path.exists() and not resume:
            raise OutputError(
                f"{self.folder} holds the measurement of an earlier run; go on with it (resume), or delete it."
            )

    def read(self, fingerprint: dict[str, Any]) -> Arrays | None:
        """The arrays, or None where there are none yet.

        Raises `SettingsError` where another run measured them, naming what differs, and `CheckpointError` where the
        file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="numpy") as file:
                notes = json.loads(file.metadata()["run"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.path} cannot be read ({one_line(error)}); delete its folder.") from error
        if notes.get("sum") != _sum(arrays):
            raise CheckpointError(f"{self.path} is damaged: it is not as it was written; delete its folder.")
        theirs, ours = settings_as_now(notes["fingerprint"], "setting "), plain(fingerprint)
        if theirs.get("method") != ours["method"]:
            raise SettingsError(
                f"{self.folder} holds the measurement of {theirs.get('method')}, not of {ours['method']}; resume with "
                "what it was started with, or delete it."
            )
        other = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        if other:
            raise SettingsError(
                f"{self.folder} holds the measurement of another run (other {', '.join(other)}); resume with what it "
                "was started with, or delete it."
            )
        return arrays

    def write(self, fingerprint: dict[str, Any], arrays: Arrays) -> None:
        """Keep the arrays. Raises `OutputError` where the disk refuses."""
        arrays = {name: np.array(array, order="C") for name, array in arrays.items()}  # scalars stay scalars
        notes = {"run": json.dumps({"fingerprint": plain(fingerprint), "sum": _sum(arrays)})}
        replace_file(self.path, lambda part: save_file(arrays, part, notes))

    def remove(self) -> None:
        """Delete the folder, once the result is elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)


def fingerprint(model: Model, batches: Sequence[Any], method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a measurement rests on; not the budget, which comes after. `batches` hold NumPy arrays."""
    return {
        "model": _digest([repr(model.architecture), *jax.tree.leaves(model.params)]),
        "calibration texts": _digest(jax.tree.leaves(batches)),
        "method": method,
        **{f"setting {name}": value for name, value in settings.items()},
    }


def _digest(values: Iterable[Any]) -> str:
    """SHA-256 of arrays, their types and shapes included, and of texts."""
    digest = hashlib.sha256()
    for value in values:
        if not isinstance(value, str):
            array = np.array(value, order="C")
            digest.update(array.reshape(-1).view(np.uint8).data)
            value = f"{array.dtype} {array.shape}"
        digest.update(value.encode())
    return digest.hexdigest()


def _sum(arrays: Arrays) -> str:
    return _digest(part for name in sorted(arrays) for part in (name, arrays[name]))

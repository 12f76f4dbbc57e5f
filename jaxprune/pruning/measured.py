"""What a run has measured, on disk until its result is saved: a stopped run goes on from there, with any budget.

Two files: what the search reads, once it is there (`Measured`); and of passes that take long what they have summed so
far (`Parts`), with which a run that was killed within one goes on, and with which a search of other settings begins.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..checkpoint.files import one_line
from ..checkpoint.manifest import MANIFEST
from ..checkpoint.output_folder import check_home
from ..errors import CheckpointError, OutputError, SettingsError
from ..jsonio import plain, replace_file
from ..model.model import Model
from ..settings import settings_as_now

FILE = "measured.safetensors"
PART = f"part.{FILE}"
SAVE_MINUTES = 10.0  # between parts, as between the states of a training run
# A part is as large as all sums, gigabytes for a large model, and a pass over a small one is over in seconds. Writing
# takes at most a `SHARE`-th of the time: measured by the last part or, before there is one, by what a disk writes.
SHARE, DISK = 20, 2**29  # bytes a second
Arrays = dict[str, np.ndarray]


def has_measured(folder: str | Path) -> bool:
    """Whether a run in `folder` kept its measurement, or a part of it."""
    return any((Path(folder) / name).is_file() for name in (FILE, PART))


class Measured:
    """Keeps the arrays that a run measured in `folder`, with what they were measured on.

    `model` is the one that was given, before any `Method.prepared`. `save_minutes` are those between parts. Without
    `resume` a folder that holds a measurement is refused, and one that holds anything else always is (`OutputError`).
    """

    def __init__(
        self, folder: str | Path, resume: bool, model: Model | None = None, save_minutes: float = SAVE_MINUTES
    ):
        check_home(folder)
        self.folder, self.path = Path(folder), Path(folder) / FILE
        self.model, self.save_minutes = model, save_minutes
        others = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        if MANIFEST in others or self.folder.is_file() or any(FILE not in name for name in others):
            raise OutputError(f"{self.folder} holds something other than a pruning run; choose another folder.")
        if has_measured(self.folder) and not resume:
            raise OutputError(
                f"{self.folder} holds the measurement of an earlier run; go on with it (resume), or delete it."
            )

    def read(self, fingerprint: dict[str, Any], later: Sequence[str] = ()) -> Arrays | None:
        """The arrays, or None where there are none yet, or where a part is there and only settings in `later` differ.

        Raises `SettingsError` where another run measured them, naming what differs, and `CheckpointError` where the
        file is damaged.
        """
        if not self.path.exists():
            return None
        notes, arrays = _read(self.path)
        theirs, ours = settings_as_now(notes["fingerprint"], "setting "), plain(fingerprint)
        named = {f"setting {name}" for name in later} if (self.folder / PART).exists() else set()
        other = _differing(theirs, ours)
        if other and named.issuperset(other):
            return None
        _check_same(self.folder, theirs, ours, other)
        return arrays

    def write(self, fingerprint: dict[str, Any], arrays: Arrays) -> None:
        """Keep the arrays. Raises `OutputError` where the disk refuses."""
        _write(self.path, {"fingerprint": plain(fingerprint)}, arrays)

    def remove(self) -> None:
        """Delete the folder, once the result is elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Parts:
    """What one pass over the calibration texts has summed so far, kept now and then.

    `fingerprint` is what the pass rests on, `read` makes NumPy arrays of what it sums. `whole`: what follows has
    settings of its own, so that the whole pass is worth keeping. A disk that refuses (`refused`) costs the parts, not
    the run. Raises as `Measured.read` does.
    """

    def __init__(
        self,
        measured: Measured,
        fingerprint: dict[str, Any],
        read: Callable[[Any], Any],
        whole: bool,
    ):
        self.path, self.save_minutes = measured.folder / PART, measured.save_minutes
        self.resumed = False  # whether the pass goes on from a part
        self.refused: OutputError | None = None
        self._fingerprint, self._read, self._whole = plain(fingerprint), read, whole
        self._done, self._arrays = 0, {}
        self._began = self._written = time.monotonic()
        self._seconds = 0.0  # that the last part took to write
        if self.path.exists():
            notes, self._arrays = _read(self.path)
            theirs = notes["fingerprint"]
            _check_same(measured.folder, theirs, self._fingerprint, _differing(theirs, self._fingerprint))
            self._done, self.resumed = int(notes["done"]), True

    def take(self) -> tuple[int, Arrays]:
        """How many steps of the pass are done, and what they summed; 0 and nothing where it begins. Once."""
        arrays, self._arrays = self._arrays, {}
        return self._done, arrays

    def keep(self, done: int, of: int, state: Mapping[str, Any]) -> None:
        """Write `state`, all that the pass needs to go on after `done` of its `of` steps, if it is time to."""
        now = time.monotonic()
        if done < of:
            due = now - self._written > max(60 * self.save_minutes, SHARE * self._seconds)
        else:  # with it a search of other settings begins
            seconds = sum(value.nbytes for value in state.values()) / DISK
            due = self._whole and now - self._began > SHARE * seconds
        if self.refused or not due:
            return
        try:
            _write(self.path, {"fingerprint": self._fingerprint, "done": done}, self._read(dict(state)))
        except OutputError as error:
            self.refused = error
        self._written = time.monotonic()
        self._seconds = self._written - now


def fingerprint(model: Model, batches: Sequence[Any], method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a measurement rests on; not the budget, which comes after. `batches` hold NumPy arrays.

    `settings` are those of the method's that measuring reads.
    """
    return {
        "model": digest([repr(model.architecture), *jax.tree.leaves(model.params)]),
        "calibration texts": digest(jax.tree.leaves(batches)),
        "method": method,
        **{f"setting {name}": value for name, value in settings.items()},
    }


def digest(values: Iterable[Any]) -> str:
    """SHA-256 of arrays, their types and shapes included, and of texts."""
    digest = hashlib.sha256()
    for value in values:
        if not isinstance(value, str):
            array = np.asarray(value, order="C")
            digest.update(array.reshape(-1).view(np.uint8).data)
            value = f"{array.dtype} {array.shape}"
        digest.update(value.encode())
    return digest.hexdigest()


def _sum(arrays: Arrays) -> str:
    return digest(part for name in sorted(arrays) for part in (name, arrays[name]))


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What two runs do not share. Settings that only they wrote down are none that measuring reads."""
    names = [name for name in {**theirs, **ours} if name in ours or not name.startswith("setting ")]
    return [name for name in names if theirs.get(name) != ours.get(name)]


def _check_same(folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], other: Sequence[str]) -> None:
    """Raise `SettingsError` where a measurement is another run's, by what differs."""
    if theirs.get("method") != ours["method"]:
        raise SettingsError(
            f"{folder} holds the measurement of {theirs.get('method')}, not of {ours['method']}; resume with what it "
            "was started with, or delete it."
        )
    if other:
        raise SettingsError(
            f"{folder} holds the measurement of another run (other {', '.join(other)}); resume with what it was "
            "started with, or delete it."
        )


def _read(path: Path) -> tuple[dict[str, Any], Arrays]:
    """What `_write` wrote. Raises `CheckpointError` where it is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            notes = json.loads(file.metadata()["run"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({one_line(error)}); delete its folder.") from error
    if notes.get("sum") != _sum(arrays):
        raise CheckpointError(f"{path} is damaged: it is not as it was written; delete its folder.")
    return notes, arrays


def _write(path: Path, notes: Mapping[str, Any], arrays: Arrays) -> None:
    """Raises `OutputError` where the disk refuses."""
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}  # scalars stay scalars
    metadata = {"run": json.dumps({**notes, "sum": _sum(arrays)})}

    def write(part: Path) -> None:
        try:
            save_file(arrays, part, metadata)
        except SafetensorError as error:  # how the package reports a full disk
            raise OSError(" ".join(str(error).split())) from error

    replace_file(path, write)

"""A run's folder while it trains: a log of JSON lines, and the state from which a killed run goes on."""

import contextlib
import json
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..checkpoint.files import sha256
from ..checkpoint.manifest import MANIFEST
from ..checkpoint.output_folder import check_home
from ..errors import CheckpointError, OutputError, SettingsError
from ..jsonio import plain, write_json
from ..settings import settings_as_now
from .spread import agreed

LOG = "log.jsonl"
STATES = "states"  # orbax's folder: one complete state, and while a newer one is written, both
TAUGHT = "taught"  # a folder: what a teacher said of the texts, where that is kept
FULL = "No space left on device"  # as systems say it
SUMS = "sums.json"  # of the files of the newest state, by which damage is noticed before it is computed with


class Saved(NamedTuple):
    """All that a run needs to go on: with the same texts and settings, to the same numbers."""

    state: Any
    best: Any  # the trainable leaves of the best epoch so far; None before there is one
    done: int  # steps
    records: tuple[dict[str, Any], ...]  # of the epochs that are complete
    losses: tuple[float, ...] = ()  # of the epoch that is not
    seconds: float = 0.0  # that it has taken so far


class Store:
    """Keeps a run's log and states under `folder`, which all processes of the run share; the first one writes the log.

    Without `resume`, a folder that holds a run is refused (`OutputError`), unless that kept no state; with it, the run
    goes on where its last state was saved, or starts where there is none. A folder that holds anything else, such as a
    saved model, is refused in both cases.
    """

    def __init__(self, folder: str | Path, resume: bool = False):
        check_home(folder)
        self.folder = Path(folder)
        self.last: int | None = None  # steps of the newest state on disk
        self._saved_at = time.monotonic()
        self._fingerprint: dict[str, Any] = {}
        present = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        if MANIFEST in present or (present and not {LOG, STATES, TAUGHT}.intersection(present)):
            raise OutputError(
                f"{self.folder} holds something other than a run, whose log and states would go there; choose another "
                "folder."
            )
        left_over = set(present) <= {LOG, STATES, SUMS, TAUGHT} and not has_state(self.folder)
        if not resume and self.folder.exists() and not (self.folder.is_dir() and left_over):
            raise OutputError(
                f"{self.folder} holds an earlier run; go on with it (resume), delete it, or choose another folder."
            )

    def log(self, **entries: Any) -> None:
        """Append one line to the log; the folder is made with the first one."""
        if jax.process_index():
            return
        with _as_output_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(plain(entries), allow_nan=False) + "\n")

    def due(self, minutes: float) -> bool:
        """Whether the newest state is older than this."""
        return time.monotonic() - self._saved_at > 60 * minutes

    def save(self, saved: Saved) -> None:
        """Write a state; an older one goes once it is complete. Raises `OutputError` where the disk refuses."""
        notes = {
            "done": saved.done,
            "records": plain(saved.records),
            "losses": list(saved.losses),
            "seconds": saved.seconds,
            "has_best": saved.best is not None,
            "fingerprint": plain(self._fingerprint),
        }
        arrays = {"state": _flat(saved.state)} | ({"best": _flat(saved.best)} if saved.best is not None else {})
        ocp = _orbax()
        self._check_room(arrays)
        with _as_output_error(self.folder), self._manager() as manager:
            manager.save(
                saved.done,
                args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), notes=ocp.args.JsonSave(notes)),
                force=True,
            )
            manager.wait_until_finished()
        if not jax.process_index():
            write_json(self.folder / SUMS, {str(saved.done): self._sums(saved.done)})
        self.last, self._saved_at = saved.done, time.monotonic()

    def restore(self, fresh: Saved, fingerprint: dict[str, Any], *, on_host: bool = False) -> Saved:
        """The newest state, shaped like `fresh`; `fresh` itself where there is none.

        The log loses the lines of steps that will run again. `on_host` gives NumPy arrays, so that nothing touches a
        device; the best leaves may then have other shapes than those of the state. Raises `SettingsError` where the
        run that is there has another `fingerprint`, naming the differences; `CheckpointError` where the state is
        damaged; `OutputError` where there is none and the disk has no room for one.
        """
        self._fingerprint = plain(fingerprint)
        if not has_state(self.folder):
            self._truncate(0)
            self._check_room(fresh.state)
            return fresh
        ocp = _orbax()
        with self._manager() as manager:
            newest = manager.latest_step()
            self._check_sums(newest)
            try:
                notes = manager.restore(newest, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"]
                _same_run(notes["fingerprint"], self._fingerprint, self.folder)
                like = {"state": _shapes(fresh.state)}
                if notes["has_best"]:  # on the host, wherever the state is
                    like["best"] = {
                        name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
                        for name, leaf in _flat(fresh.state.params).items()
                    }
                args = ocp.args.Composite(arrays=ocp.args.StandardRestore(None if on_host else like))
                arrays = manager.restore(newest, args=args)["arrays"]
            except SettingsError:
                raise
            except Exception as error:  # orbax raises many kinds for a damaged folder
                line = " ".join(str(error).split())[:160]
                raise CheckpointError(
                    f"the state in {self.folder} cannot be read ({line}); delete the folder."
                ) from error
        self.last = newest
        self._truncate(newest)
        best, make = None, np.array if on_host else jnp.array
        if notes["has_best"]:
            best = jax.tree.map(np.array, _unflat(arrays["best"], fresh.state.params, np.array))
        state, losses = _unflat(arrays["state"], fresh.state, make), tuple(notes["losses"])
        return Saved(state, best, int(notes["done"]), tuple(notes["records"]), losses, notes["seconds"])

    def setting(self, name: str) -> Any:
        """What a setting was in the run that goes on; None where there is no state, or none that can be read: of that
        `restore` says what is wrong.
        """
        if not has_state(self.folder):
            return None
        ocp = _orbax()
        with self._manager() as manager, contextlib.suppress(Exception):  # as many kinds as in `restore`
            notes = manager.restore(manager.latest_step(), args=ocp.args.Composite(notes=ocp.args.JsonRestore()))
            return settings_as_now(notes["notes"]["fingerprint"], "setting ").get(f"setting {name}")
        return None

    def remove(self) -> None:
        """Delete the run's folder, once its result is elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[Callable[[], bool]]:
        """Within, Ctrl-C and SIGTERM wait for the step to end: the result says whether one came. A second one acts."""
        came: list[int] = []

        def note(number: int, frame: Any) -> None:
            if came:
                raise KeyboardInterrupt
            came.append(number)

        if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
            yield lambda: False
            return
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield lambda: bool(came)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _sums(self, step: int) -> dict[str, str]:
        """SHA-256 of every file of a state."""
        root = self.folder / STATES / str(step)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): sha256(path) for path in files}

    def _check_sums(self, step: int) -> None:
        """Raise `CheckpointError` where a file is not as it was written. A kill may have left a state without sums."""
        try:
            written = json.loads((self.folder / SUMS).read_text(encoding="utf-8")).get(str(step))
        except (OSError, ValueError, AttributeError):
            return
        if written is None:
            return
        there = self._sums(step)
        damaged = [name for name in sorted({*written, *there}) if written.get(name) != there.get(name)]
        if damaged:
            raise CheckpointError(
                f"the state in {self.folder} is damaged: {damaged[0]} is not as it was written; delete the folder."
            )

    def _check_room(self, arrays: Any) -> None:
        """Raise `OutputError` where the disk has no room for these: orbax finds out late, and in many words."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
        check_room(self.folder, needed, "a state", last=self.last)

    def _manager(self) -> Any:
        ocp = _orbax()
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        return ocp.CheckpointManager((self.folder / STATES).absolute(), options=options)

    def _truncate(self, done: int) -> None:
        """Drop log lines of steps after `done`: they run again."""
        path = self.folder / LOG
        if jax.process_index() or not path.exists():
            return
        kept, step = [], 0
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a kill may have cut the last line short
                step = json.loads(line).get("step", step)
                if step <= done:
                    kept.append(line + "\n")
        with _as_output_error(self.folder):
            path.write_text("".join(kept), encoding="utf-8")


def check_room(folder: Path, needed: int, what: str, last: int | None = None) -> None:
    """Raise `OutputError` where the disk has no room for so many bytes of `what`; `last` is the step of the state that
    is there already.
    """
    with _as_output_error(folder):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(there).free
    if agreed(free < needed + 2**16)[0]:
        remains = "" if last is None else f"; the state of step {last} is still there"
        raise OutputError(
            f"{folder} cannot be written (No space left on device: {what} takes {needed:,} bytes, {free:,} are "
            f"free){remains}."
        )


def check_resume(folder: str | Path | None, resume: bool) -> None:
    """Raise `SettingsError` where a run is to go on that has no folder."""
    if resume and folder is None:
        raise SettingsError("resume has no effect without the folder of the run that is to go on; pass out=FOLDER.")


def has_state(folder: str | Path) -> bool:
    """Whether a run in `folder` kept a state to go on from; a log alone is none."""
    states = Path(folder) / STATES
    return states.is_dir() and any(path.name.isdecimal() for path in states.iterdir())


def _orbax() -> Any:
    import orbax.checkpoint as ocp  # a third of a second: only runs that keep states pay for it

    # It tells every step of every save, and of a write that failed the whole stack; the failure itself is raised.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    return ocp


def _flat(tree: Any) -> dict[str, Any]:
    """Leaves by number; empty arrays (of blocks that lost every head) are left out: orbax refuses them."""
    return {f"{number:05}": leaf for number, leaf in enumerate(jax.tree.leaves(tree)) if np.size(leaf)}


def _shapes(tree: Any) -> dict[str, Any]:
    """Where the leaves of `tree` are, the restored ones go, wherever those were that were saved."""
    place = lambda leaf: getattr(leaf, "sharding", None)  # noqa: E731
    return {
        name: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=place(leaf))
        for name, leaf in _flat(tree).items()
    }


def _unflat(flat: dict[str, Any], like: Any, make: Callable[[Any], Any]) -> Any:
    leaves, structure = jax.tree.flatten(like)
    # Copies: the step consumes its state, and these buffers belong to the reader.
    arrays = [make(flat[f"{number:05}"]) if np.size(leaf) else leaf for number, leaf in enumerate(leaves)]
    return structure.unflatten(arrays)


def _same_run(theirs: dict[str, Any], ours: dict[str, Any], folder: Path) -> None:
    theirs = settings_as_now(theirs, "setting ")
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if names:
        told = [
            f"{name} was {theirs.get(name)}, is {ours.get(name)}" if name.startswith("setting") else f"other {name}"
            for name in names
        ]
        raise SettingsError(
            f"{folder} holds another run ({'; '.join(told)}); resume with what it was started with, or delete it."
        )


@contextlib.contextmanager
def _as_output_error(folder: Path) -> Iterator[None]:
    """Whatever a full or read-only disk raises, in one line: orbax wraps it in errors of its own."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        full = FULL if FULL in told else None  # deep in what the writers of arrays say
        reason = getattr(error, "strerror", None) or full or told[:160] or type(error).__name__
        raise OutputError(f"{folder} cannot be written ({reason}); what was saved before is still there.") from error

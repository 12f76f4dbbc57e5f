"""Token ids of many texts in a temporary file that is mapped into memory: texts of any size train in little of it.

What is read of a mapped file is in memory as long as there is room, and goes first where there is none.
"""

import tempfile
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from ..errors import DataError, OutputError
from .encoded import Encoded


class Ragged(Sequence[np.ndarray]):
    """Rows of different lengths, one after another in one flat array."""

    def __init__(self, flat: np.ndarray, ends: np.ndarray):
        self.flat, self.ends = flat, ends  # [all entries]; [rows]: entries up to the end of each row

    @property
    def lengths(self) -> np.ndarray:
        """[rows]."""
        return np.diff(self.ends, prepend=0)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        row = range(len(self))[index]
        return self.flat[self.ends[row - 1] if row else 0 : self.ends[row]]


class Mapped(NamedTuple):
    """Token ids of texts, and which of them are learnt."""

    encoded: Encoded
    learnt: np.ndarray  # [texts, tokens] of 0 and 1, 0 beyond a text's end; [texts, 0]: all are


def mapped(rows: Iterable[tuple[np.ndarray, np.ndarray | None]], longest: int, what: str) -> Mapped:
    """Write rows of token ids, and of 0 and 1 for each of them, to temporary files, and map these.

    None in place of the second: all are learnt, in all rows. No row is longer than `longest`. Raises `DataError` where
    there are none, naming `what`; `OutputError` where there is no room.
    """
    ends: list[int] = []
    most, done = 0, 0
    try:
        with tempfile.TemporaryFile(prefix="jaxprune-") as ids, tempfile.TemporaryFile(prefix="jaxprune-") as learnt:
            for row, mask in rows:
                ids.write(np.ascontiguousarray(row, np.int32).data)
                if mask is not None:
                    learnt.write(np.pad(mask.astype(np.int8), (0, longest - len(row))).data)
                done, most = done + len(row), max(most, len(row))
                ends.append(done)
            if not ends:
                raise DataError(f"{what} has no texts to train on; give at least one.")
            flat = _mapped(ids, np.int32)
            bounds = np.array(ends, np.int64)
            held = _mapped(learnt, np.int8) if learnt.tell() else np.zeros(0, np.int8)
    except OSError as error:
        raise OutputError(
            f"the temporary file of {what} in {tempfile.gettempdir()} cannot be written ({error.strerror or error}); "
            "make room, or name another TMPDIR."
        ) from error
    types = np.broadcast_to(np.zeros(1, np.int32), flat.shape)  # takes no memory
    targets = held.reshape(len(ends), longest if held.size else 0)[:, :most]
    return Mapped(Encoded(Ragged(flat, bounds), Ragged(types, bounds)), targets)


def _mapped(file: Any, dtype: type) -> np.ndarray:
    file.flush()
    return np.asarray(np.memmap(file, dtype, mode="r"))  # whose slices are plain arrays, made in a tenth of the time

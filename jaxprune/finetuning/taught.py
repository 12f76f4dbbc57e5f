"""What a teacher says of every training text, said once and kept in a file that is mapped into memory.

It is kept by text, not by batch, so that it holds for every order of the texts and every size of a batch; and it is
there whole or not at all: the notes, which are written last, say of what it was made and what its bytes sum up to.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from ..checkpoint.files import one_line, sha256
from ..errors import CheckpointError, NumericalError, SettingsError
from ..jsonio import replace_file, write_json
from ..model import Batch, Model
from ..model.heads import head_of
from ..pruning.measured import digest
from ..runtime.events import OnStep
from ..tokens.encoded import Encoded
from ..tokens.packing import pack, row_length, unpack_logits, unpack_tokens
from ..tokens.token_file import Ragged
from .run_store import TAUGHT, check_room

VALUES, NOTES = "said.npy", "said.json"
DTYPE = "float16"  # of what a language model says, where none is asked for: 11 bits, where bfloat16 has 8
_STORED = {"bfloat16": np.uint16}  # what .npy has no name for
SPOKEN = 2**28  # bytes of what is said that are in memory at a time


class Taught(NamedTuple):
    """What a teacher said of every text, by its number."""

    values: Sequence[np.ndarray] | np.ndarray  # [texts, outputs]; or of each text [tokens, width]
    encoded: Encoded  # the texts
    each_token: bool
    width: int
    dtype: Any

    def of(self, batch: Batch) -> np.ndarray:
        """What it said of the texts of a batch, [rows, texts, outputs] or [rows, length, width]; 0 where none is.

        Raises `SettingsError` where the batch holds other tokens than the teacher has read.
        """
        ids, segments, index = (np.asarray(part) for part in (batch.ids, batch.segments, batch.index))
        guide = np.zeros((*(ids if self.each_token else index).shape, self.width), self.dtype)
        for row, place in np.argwhere(index >= 0):
            text, own = int(index[row, place]), segments[row] == place + 1
            if not np.array_equal(ids[row, own], self.encoded.ids[text]):
                raise SettingsError(
                    f"text {text} is trained on with other tokens than the teacher read: what it said before the first "
                    "step says nothing of them; set teacher_in to 'host' or 'device'."
                )
            guide[row, own if self.each_token else place] = self.values[text]
        return guide


def kept(
    folder: Path,
    teacher: Model,
    encoded: Encoded,
    dtype: str | None,
    said: Callable[[Sequence[Batch]], Iterator[Any]],
    on_step: OnStep | None = None,
) -> Taught:
    """What `teacher` says of the texts, from the run's `folder`; computed and written first, where it is not there.

    `said` gives what it says of batches; of language models it is kept in `dtype`. Raises `SettingsError` where
    another teacher spoke, of other texts or in another type, and where a number is too large for the type;
    `CheckpointError` for a damaged file; `OutputError` where the disk refuses; `NumericalError` for what is not finite.
    """
    head = head_of(teacher.architecture)
    name = "float32" if head.language is None else dtype or DTYPE
    place, spoken = folder / TAUGHT, Spoken(teacher, encoded, name, said, on_step or (lambda event: None))
    ours = {
        "teacher": digest([repr(teacher.architecture), *jax.tree.leaves(teacher.params)]),
        "texts, windows or tokenizer": digest(leaf for rows in _read_of(encoded) for leaf in rows),
        "type": name,
    }
    notes = _notes(place)
    if notes is None:
        for left in place.glob(f".{VALUES}.*.part"):  # of a run that was killed while it wrote
            left.unlink(missing_ok=True)
        notes = {"of": ours, "sum": spoken.written(place / VALUES)}
        write_json(place / NOTES, notes)
    other = [name for name, value in ours.items() if notes["of"].get(name) != value]
    if other:
        raise SettingsError(
            f"{place} holds what a teacher said in another run (other {', other '.join(other)}); delete it, or choose "
            "another folder."
        )
    try:
        if sha256(place / VALUES) != notes["sum"]:
            raise ValueError("it is not as it was written")
        values = np.load(place / VALUES, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{place / VALUES} is damaged ({one_line(error)}); delete {place}.") from error
    values = np.asarray(values)  # still mapped, but its slices are plain arrays
    values = values.view(ml_dtypes.bfloat16) if name in _STORED else values
    of_texts = values if head.per_text else Ragged(values, np.cumsum(encoded.lengths))
    return Taught(of_texts, encoded, not head.per_text, values.shape[-1], values.dtype)


def _read_of(encoded: Encoded) -> tuple[Sequence[np.ndarray], ...]:
    return encoded.ids, encoded.types, *(() if encoded.patches is None else (encoded.patches,))


def _notes(place: Path) -> dict[str, Any] | None:
    """Of what the file in `place` was made; None where there is none, or none that was finished."""
    try:
        notes = json.loads((place / NOTES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{place / NOTES} cannot be read ({one_line(error)}); delete {place}.") from error
    if not isinstance(notes, dict) or not isinstance(notes.get("of"), dict):
        raise CheckpointError(f"{place / NOTES} is not what was written there; delete {place}.")
    return notes


class Spoken(NamedTuple):
    """A teacher that says all it has to say of some texts, in their order."""

    teacher: Model
    encoded: Encoded
    dtype: str
    said: Callable[[Sequence[Batch]], Iterator[Any]]
    on_step: OnStep

    def written(self, path: Path) -> str:
        """Write it to `path`, whole or not at all; the SHA-256 of the file."""
        total = hashlib.sha256()

        def write(part: Path) -> None:
            with part.open("wb") as file:
                for piece in self._pieces(path):
                    total.update(piece)
                    file.write(piece)

        replace_file(path, write)
        return total.hexdigest()

    def _pieces(self, path: Path) -> Iterator[Any]:
        """The bytes of the file, head first. Raises `OutputError` where there is no room for them."""
        rows = len(self.encoded) if head_of(self.teacher.architecture).per_text else self.encoded.tokens
        stored, begun = np.dtype(_STORED.get(self.dtype, self.dtype)), False
        for values in self._chunks():
            if not begun:
                shape, begun, head = (rows, values.shape[-1]), True, io.BytesIO()
                described = {"descr": np.lib.format.dtype_to_descr(stored), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(head, described)
                check_room(path.parent, rows * shape[1] * stored.itemsize, "what the teacher says")
                yield head.getvalue()
            yield np.ascontiguousarray(values).view(stored).data

    def _chunks(self) -> Iterator[np.ndarray]:
        """What it says of some texts after others, [texts, outputs] or [tokens, width], in its type."""
        a, done = self.teacher.architecture, 0
        per_text = head_of(a).per_text
        size = max(1, SPOKEN // (4 * a.hidden * int(self.encoded.lengths.max())))
        for at in range(0, len(self.encoded), size):
            part = self.encoded.picked(range(at, min(at + size, len(self.encoded))))
            batches = pack(part, a, length=row_length(self.encoded.lengths, self.encoded.slots), few_shapes=True)
            values = [np.asarray(value) for value in self.said(batches)]
            whole = unpack_logits(values, batches) if per_text else np.concatenate(unpack_tokens(values, batches))
            done += len(part)
            yield self._in_type(whole, at, done)
            self.on_step({"phase": "teaching", "done": done, "of": len(self.encoded)})

    def _in_type(self, values: np.ndarray, first: int, after: int) -> np.ndarray:
        where = f"of training texts {first} to {after - 1}"
        if not np.isfinite(values).all():
            raise NumericalError(f"the teacher says NaN or Inf {where}; check its weights.")
        with np.errstate(over="ignore"):
            kept = values.astype(self.dtype)
        if not np.isfinite(kept).all():
            raise SettingsError(
                f"what the teacher says {where} reaches {np.abs(values).max():.3g}, too large for {self.dtype}; set "
                "taught_dtype to 'bfloat16' or 'float32'."
            )
        return kept

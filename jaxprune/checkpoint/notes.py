"""What a folder takes from a model's notes beside its record: the tokenizer, its own or one that was handed in."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..model.model import REGAIN, Model, Provenance


def to_save(model: Model, tokenizer: Any, files: Sequence[str]) -> Model:
    """The model as a folder is written from it: with `tokenizer`, where one is handed in, in place of its own.

    Raises `CheckpointError` for a folder without any of the tokenizer's `files`, for what is no tokenizer, and for a
    model whose notes JAX dropped: its folder would silently lack record and tokenizer. With a tokenizer it is written,
    and says so.
    """
    model = model.with_tokenizer(tokenizer)
    notes, given = model.provenance, model.provenance.tokenizer
    if isinstance(given, (str, Path)):
        if not any((Path(given) / name).is_file() for name in files):
            raise CheckpointError(f"{given} has no tokenizer files; give the folder of a checkpoint that has.")
    elif given is not None:
        backend_of(given)
    if not notes.dropped:
        return model
    if given is None:
        raise CheckpointError(
            f"the model has lost its notes (record, tokenizer), so its folder would lack them. {REGAIN}. To save "
            "weights without a record, pass tokenizer=FOLDER."
        )
    warning = "the record of what was done to this model was lost before it was saved: it cannot be exported."
    return model.replace(provenance=replace(notes, warnings=(*notes.warnings, warning)))


@contextlib.contextmanager
def tokenizer_folder(notes: Provenance) -> Iterator[str | None]:
    """A folder with the tokenizer's files; None for a model made in memory, which has none."""
    given = notes.tokenizer
    if given is None or isinstance(given, (str, Path)):
        yield notes.source if given is None else str(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        if hasattr(given, "save_pretrained"):
            given.save_pretrained(folder)
        else:
            backend_of(given).save(str(Path(folder) / "tokenizer.json"))
        yield folder


def backend_of(tokenizer: Any) -> Any:
    """The `tokenizers.Tokenizer` in a loaded tokenizer: a copy that neither cuts nor pads, for encoding changes it.

    `tokenizer` is one of the package tokenizers, a fast one of transformers, or a `Tokenizer` of ours; for anything
    else, `CheckpointError`.
    """
    from tokenizers import Tokenizer as Fast

    parts = (tokenizer, getattr(tokenizer, "backend_tokenizer", None), getattr(tokenizer, "backend", None))
    found = next((part for part in parts if isinstance(part, Fast)), None)
    if found is None:
        raise CheckpointError(
            f"tokenizer is a {type(tokenizer).__name__}, expected a folder, or a fast tokenizer of tokenizers or "
            "transformers."
        )
    copy = Fast.from_str(found.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy

"""Which folder may be written, and what in it is ours to replace."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import CheckpointError, OutputError
from .card import CARD, CARD_HASH, card_hash
from .files import read_json
from .generation import GENERATION
from .image_settings import PREPROCESSOR
from .manifest import EXPORTED, INDEX, MANIFEST
from .sentence_files import is_sentence_file
from .tokenizer_files import TOKENIZER_FILES, is_template_file

RUN_FILES = ("log.jsonl", "importance.png", "rounds.png")  # of the run that made a model, kept beside it


def check_output(folder: str | Path, overwrite: bool = False) -> None:
    """Raise `OutputError` where `save` would refuse `folder`, so that it is known before the work.

    A folder that is missing or empty is fine. With `overwrite` so is one that holds a model that we saved or exported,
    and nothing else.
    """
    folder = Path(folder)
    check_home(folder)
    if folder.name in ("", ".."):  # ".", "/" and the empty path have no name of their own to rename to
        raise OutputError(f"{str(folder)!r} is no name for a new folder; choose one.")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder} exists and is not a folder; choose another one.")
    try:
        present = sorted(names_in(folder)) if folder.is_dir() else []
    except OSError as error:
        raise OutputError(f"{folder} cannot be read ({reason_of(error)}); choose another folder.") from error
    if present and not overwrite:
        raise OutputError(f"{folder} exists and is not empty; choose another folder, or pass overwrite=True.")
    if present and MANIFEST not in present and EXPORTED not in present:
        raise OutputError(f"{folder} was not written by jaxprune ({MANIFEST} is missing); choose another folder.")
    ours = written_by_us(folder, present)
    foreign = [name for name in present if name not in ours]
    if foreign:
        edited = "which was changed since jaxprune wrote it" if foreign[0] == CARD else "which jaxprune did not write"
        raise OutputError(f"{folder} also holds {foreign[0]}, {edited}; move it, then overwrite.")
    check_writable(folder.absolute().parent)


def check_writable(folder: str | Path) -> None:
    """Raise `OutputError` where `folder`, or where it is missing the place it would be made in, cannot be written."""
    check_home(folder)
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    try:  # permissions do not tell of every place, nor root of any
        os.rmdir(tempfile.mkdtemp(prefix=".jaxprune-", dir=folder))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({reason_of(error)}); choose another folder.") from error


def check_home(path: str | Path) -> None:
    """Raise `OutputError` for a path from "~" on, which would make a folder of that name where the program runs."""
    if os.path.expanduser(path) != str(path):
        raise OutputError(f"{path} begins with the home folder's short name, which is not read here; write it out.")


def written_by_us(folder: Path, present: Sequence[str]) -> frozenset[str]:
    """Which of the files in a folder that we wrote are ours; a card is while it is as we wrote it."""
    mark = MANIFEST if MANIFEST in present else EXPORTED
    config = ("config.json",) if EXPORTED in present else ()
    made = _made_files(folder, mark) if present else ()
    return frozenset(name for name in present if _ours(name) or name in (*config, *made))


def names_in(folder: Path) -> Iterator[str]:
    """The files of a folder and of the folders in it, and folders that are empty, or are links."""
    for path in folder.iterdir():
        inside = sorted(names_in(path)) if path.is_dir() and not path.is_symlink() else []
        yield from (f"{path.name}/{name}" for name in inside)
        if not inside:
            yield path.name


def _made_files(folder: Path, mark: str) -> tuple[str, ...]:
    """What the record in the file `mark` says was written beside the files of every folder; a card only as written."""
    with contextlib.suppress(CheckpointError, OSError, UnicodeDecodeError):
        record = read_json(folder / mark, "")
        files = record.get("export", {}).get("files", []) if mark == EXPORTED else []
        card = folder / CARD
        as_written = card.is_file() and card_hash(card.read_text(encoding="utf-8")) == record.get(CARD_HASH)
        return (*(name for name in files if isinstance(name, str)), *((CARD,) if as_written else ()))
    return ()


def _ours(name: str) -> bool:
    weights = name.startswith("model") and name.endswith(".safetensors") and "/" not in name
    return (
        weights
        or is_sentence_file(name)
        or is_template_file(name)
        or name in (MANIFEST, EXPORTED, INDEX, GENERATION, PREPROCESSOR, *TOKENIZER_FILES, *RUN_FILES)
    )


def reason_of(error: OSError) -> str:
    """What the system says, in words."""
    return error.strerror or str(error) or type(error).__name__

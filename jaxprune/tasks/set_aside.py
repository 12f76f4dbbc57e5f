"""Which rows of files of one's own are trained on, and which are scored."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from .example import Example, picked
from .folder import split_files
from .hub import Hub, Source, Sources, check_not_both, listed_sources

Validation = Sources | float | int | None
Read = Callable[[list[Source]], Sequence[Example]]


def divided(
    data: Sources, validation: Validation, seed: int, read: Read, what: str, scored: Read | None = None
) -> dict[str, Sequence[Example]]:
    """Examples by split, as `read` reads files; those that `validation` names by `scored`, where that is another way.

    `data` is a folder, whose files say what is trained on, or files: these are scored, or where `validation` says what
    is scored (files, a share, a number of `what`), trained on. Raises `DataError`.
    """
    sources, scored = listed_sources(data), read if scored is None else scored
    folder = len(sources) == 1 and not isinstance(sources[0], Hub) and Path(sources[0]).is_dir()
    if folder:
        if validation is not None:
            raise DataError(f"{sources[0]} is a folder, whose files say what is scored; leave validation out.")
        files = split_files(Path(str(sources[0]))).items()
        return {split: (read if split == "train" else scored)([file]) for split, file in files}
    if validation is None:
        return {"validation": scored(sources)}
    if not isinstance(validation, int | float):
        check_not_both(data, validation)
        return {"train": read(sources), "validation": scored(listed_sources(validation))}
    every = read(sources)
    held, rest = set_aside_rows(len(every), validation, seed, what)
    return {"train": picked(every, rest), "validation": picked(every, held)}


def set_aside_rows(there: int, share: float | int, seed: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of rows set aside, and those of all others, each in rising order: a share below 1, or so many."""
    whole = share >= 1
    if isinstance(share, bool) or not share > 0 or (whole and share != int(share)):
        raise DataError(f"validation is {share}; pass files, a share such as 0.05, or a number of {what}.")
    count = int(share) if whole else max(1, round(share * there))
    if count >= there:
        raise DataError(f"validation {share} leaves nothing of {there} {what} to train on; set aside fewer.")
    order = np.random.RandomState(seed).permutation(there)
    return np.sort(order[:count]), np.sort(order[count:])


def told_sources(data: Sources, validation: Validation, calibration: Sources | None = None) -> str:
    """Where examples come from, in words."""
    told = ", ".join(map(str, listed_sources(data)))
    if isinstance(validation, int | float):
        told += f"; scored: {validation} of it"
    elif validation is not None:
        told += f"; scored: {', '.join(map(str, listed_sources(validation)))}"
    if calibration is not None:
        told += f"; calibration: {', '.join(map(str, listed_sources(calibration)))}"
    return told

"""Conversations, and prompts with their completions: what the assistant says is learnt and scored, nothing else."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..checks import check_seed, checked
from ..errors import DataError
from .conversation import example_of
from .example import Example, length_fields, picked
from .folder import split_files
from .hub import Hub, Sources, listed_sources
from .kinds import KINDS
from .stored_examples import stored_examples
from .task import CALIBRATION, Task

CHAT_LENGTH = 1024  # tokens of a conversation, where nobody asks for another number


@checked
def chat(
    data: Sources,
    *,
    validation: Sources | float | int | None = None,
    calibration: Sources | None = None,
    max_length: int | None = None,
    seed: int = 0,
) -> Task:
    """A task from JSON lines with `messages`, or with `prompt` and `completion`.

    Messages have a `role` and a `content`, and the tokenizer's own chat template makes a text of them; `tools` beside
    them are handed to it. Learnt, and scored by perplexity, is what the assistant says, its end of turn included; not
    what has a `weight` of 0. A prompt and its completion are plain text, of which the completion is learnt with an end
    token after it; or both are lists of messages. `docs/language-data.md` says which token counts.

    `data` is a folder with validation.jsonl (else test.jsonl) and train.jsonl; or a file, or several, or `Hub` rows. Of
    files `validation` says what is scored: other files, a share (0.05) or a number (200) of conversations that are set
    aside, drawn with `seed`; all others are trained and calibrated on. Without it files are scored, all of them.
    `calibration` names other files to calibrate on.

    `max_length` is the most tokens of a conversation (None: 1,024); a longer one loses its end, or its beginning where
    the tokenizer's `truncation_side` is left, with a warning; one in which nothing is left to learn is dropped, with
    another. Files may be of any size. Raises `DataError`, naming the line.
    """
    check_seed(seed)
    splits = _splits(data, validation, seed)
    if calibration is not None:
        splits[CALIBRATION] = stored_examples(listed_sources(calibration), example_of)
    others = {split: entries for split, entries in splits.items() if split not in ("train", "validation")}
    return Task(
        name="chat",
        kind="chat",
        labels=(),
        metric=KINDS["chat"].scores[0],
        train=splits.get("train", ()),
        validation=splits.get("validation", others.get("test", ())),
        source=_told(data, validation, calibration),
        others=others,
        **length_fields(max_length, CHAT_LENGTH),
    )


def _told(data: Sources, validation: Sources | float | int | None, calibration: Sources | None) -> str:
    """Where conversations come from, in words."""
    told = ", ".join(map(str, listed_sources(data)))
    if isinstance(validation, int | float):
        told += f"; scored: {validation} of it"
    elif validation is not None:
        told += f"; scored: {', '.join(map(str, listed_sources(validation)))}"
    if calibration is not None:
        told += f"; calibration: {', '.join(map(str, listed_sources(calibration)))}"
    return told


def _splits(data: Sources, validation: Sources | float | int | None, seed: int) -> dict[str, Sequence[Example]]:
    sources = listed_sources(data)
    folder = len(sources) == 1 and not isinstance(sources[0], Hub) and Path(sources[0]).is_dir()
    if folder:
        if validation is not None:
            raise DataError(f"{sources[0]} is a folder, whose files say what is scored; leave validation out.")
        return {
            split: stored_examples([file], example_of) for split, file in split_files(Path(str(sources[0]))).items()
        }
    every = stored_examples(sources, example_of)
    if validation is None:
        return {"validation": every}
    if not isinstance(validation, int | float):
        both = set(map(str, sources)) & set(map(str, listed_sources(validation)))
        if both:
            raise DataError(f"{sorted(both)[0]} is named to train on and to score; name another file, or a share.")
        return {"train": every, "validation": stored_examples(listed_sources(validation), example_of)}
    held, rest = set_aside_rows(len(every), validation, seed)
    return {"train": picked(every, rest), "validation": picked(every, held)}


def set_aside_rows(
    there: int, share: float | int, seed: int, what: str = "conversations"
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of rows set aside, and those of all others, each in rising order: a share below 1, or so many.

    `what` they are called in errors.
    """
    whole = share >= 1
    if isinstance(share, bool) or not share > 0 or (whole and share != int(share)):
        raise DataError(f"validation is {share}; pass files, a share such as 0.05, or a number of {what}.")
    count = int(share) if whole else max(1, round(share * there))
    if count >= there:
        raise DataError(f"validation {share} leaves nothing of {there} {what} to train on; set aside fewer.")
    order = np.random.RandomState(seed).permutation(there)
    return np.sort(order[:count]), np.sort(order[count:])

"""Conversations, and prompts with their completions: what the assistant says is learnt and scored, nothing else."""

from ..checks import check_seed, checked
from .conversation import example_of
from .example import length_fields
from .hub import Sources, listed_sources
from .kinds import KINDS
from .set_aside import divided, told_sources
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
    read = lambda sources: stored_examples(sources, example_of)  # noqa: E731
    splits = divided(data, validation, seed, read, "conversations")
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
        source=told_sources(data, validation, calibration),
        others=others,
        **length_fields(max_length, CHAT_LENGTH),
    )

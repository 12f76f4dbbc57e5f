"""Language modelling: running text, cut into windows of equal length that do not overlap.

Perplexity is over such windows: within one every token but the first is predicted from those before it; what is left
over at the end is dropped, and no special token is added. Calibration draws windows of another text.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..model import Model
from .glue import from_hub
from .rows import check_no_table, decode, is_json, read_rows
from .task import Calibration, Example, Task
from .tokenizer import Encoded, Tokenizer

LENGTH = 512  # tokens of a window
SHARED = 60  # characters from which on a line that two texts share is no accident
HUB = {
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "test", "train")
}  # name, configuration, scored, calibration


def text(
    data: str | Path | None = None,
    *,
    calibration: str | Path | None = None,
    length: int = LENGTH,
    windows: int | None = None,
) -> Task:
    """The language modelling task on the text of `data`, scored by perplexity over windows of `length` tokens.

    `data` and `calibration` are files: plain text, used as it stands, or JSON objects with a "text" each (.jsonl or
    .json, one a line or in an array), joined by a blank line; either may be gzip. Without `data`, WikiText-2's test
    text from the hub, its training text for calibration. `windows` scores the first so many only. Raises `DataError`.
    """
    for name, value in (("length", length), ("windows", windows)):
        if value is not None and value < (2 if name == "length" else 1):
            raise DataError(f"{name} is {value}, expected at least {2 if name == 'length' else 1}.")
    if data is None:
        name, configuration, scored_split, train_split = HUB["wikitext2"]
        splits = from_hub(name, configuration)
        scored = "".join(row.text("text", blank=True) for row in splits[scored_split])
        train, source = "".join(row.text("text", blank=True) for row in splits[train_split]), f"{name} {configuration}"
    else:
        scored, source, train = read_text(data), str(data), ""
    if calibration is not None:
        train, source = read_text(calibration), f"{source}; calibration: {calibration}"
    return Task(
        name="text",
        kind="language",
        labels=(),
        metric="perplexity",
        train=(Example(train, None, None),) if train else (),
        validation=(Example(scored, None, None),),
        source=source,
        max_length=length,
        windows=windows,
    )


def read_text(file: str | Path) -> str:
    """The text of a file: as it stands, or where it is called JSON its "text"s, a blank line between them."""
    path = Path(file)
    if path.is_dir() or not path.exists():
        raise DataError(f"{path} is not a file; name a text file, or JSON lines with a text each.")
    check_no_table(path, "write plain text, or JSON lines with a text each.")
    if is_json(path):
        found = "\n\n".join(row.text("text") for row in read_rows(path))
    else:
        found = decode(path)
    if not found.strip():
        raise DataError(f"{path} holds no text.")
    return found


def windows_of(tokenizer: Tokenizer, texts: Sequence[str], length: int, what: str) -> list[np.ndarray]:
    """All windows of `length` tokens of the joined texts, in order. Raises `DataError` where there is none."""
    room = tokenizer.longest
    if room is not None and length > room:
        raise DataError(f"windows of {length} tokens do not fit the model's {room} positions; ask for shorter ones.")
    ids = np.concatenate([tokenizer.plain(text) for text in texts]) if texts else np.zeros(0, np.int32)
    count = len(ids) // length
    if not count:
        raise DataError(
            f"{what} has {len(ids)} tokens, less than one window of {length}; give more, or shorter windows."
        )
    return list(ids[: count * length].reshape(count, length))


def encoded_for(model: Model, calibration: Calibration) -> tuple[Encoded, tuple[str, ...]]:
    """Token ids of calibration texts for `model`, and doubts: those given, or what its tokenizer makes of the texts."""
    if calibration.ids:
        ids, types = ([np.array(row, np.int64) for row in rows] for rows in (calibration.ids, calibration.types))
        return Encoded(ids, types), ()
    tokenizer = Tokenizer.of(model)
    return encode_calibration(tokenizer, calibration), tokenizer.doubts(calibration.examples)


def encode_calibration(tokenizer: Tokenizer, calibration: Calibration) -> Encoded:
    """Token ids of calibration texts: each text, or of a language task the windows that its seed draws.

    Windows are drawn as tasks draw rows: `RandomState(seed).choice(n, count, replace=False)`.
    """
    if calibration.windows is None:
        return tokenizer.encode(calibration.examples, calibration.max_length)
    texts = [example.text for example in calibration.examples]
    found = windows_of(tokenizer, texts, calibration.max_length, calibration.source)
    if calibration.windows > len(found):
        raise DataError(
            f"{calibration.windows} calibration sequences, but {calibration.source} has {len(found)} of "
            f"{calibration.max_length} tokens; ask for fewer or shorter ones."
        )
    rows = np.random.RandomState(calibration.seed).choice(len(found), calibration.windows, replace=False)
    ids = [found[row] for row in rows]
    return Encoded(ids, [np.zeros_like(entry) for entry in ids])


def language_calibration(task: Task, count: int, seed: int) -> Calibration:
    """`count` windows of the task's training text, drawn with `seed` once a tokenizer is there."""
    scored = {line for example in task.validation for line in _long_lines(example.text)}
    shared = sum(line in scored for example in task.train for line in _long_lines(example.text))
    warnings = (
        ()
        if count * task.max_length >= 4096
        else (
            f"only {count * task.max_length} calibration tokens: scores and refits will be noisy; take 8,192 or more.",
        )
    )
    if shared:
        warnings += (f"{shared} lines of the calibration text are in the evaluation text too: the score will flatter.",)
    return Calibration(task.train, f"{task.source} (train)", seed, task.max_length, "language", warnings, windows=count)


def _long_lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if len(line) >= SHARED]

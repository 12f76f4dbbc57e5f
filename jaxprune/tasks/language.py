"""Language modelling: running text, scored by perplexity over windows of equal length that do not overlap."""

from pathlib import Path

from ..checks import checked
from ..errors import DataError
from .example import Example
from .glue import from_hub
from .running_text import LENGTH, check_window, text_of
from .task import Task

WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1", "test", "train")  # name, configuration, scored, calibration


@checked
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
    check_window(length)
    if windows is not None and windows < 1:
        raise DataError(f"windows is {windows}, expected at least 1.")
    if data is None:
        name, configuration, scored_split, train_split = WIKITEXT
        splits = from_hub(name, configuration)
        texts = {split: "".join(row.text("text", blank=True) for row in rows) for split, rows in splits.items()}
        scored, train = _in_memory(texts[scored_split]), _in_memory(texts[train_split])
        source = f"{name} {configuration}"
    else:
        scored, source, train = text_of(data), str(data), ()
    if calibration is not None:
        train, source = text_of(calibration), f"{source}; calibration: {calibration}"
    return Task(
        name="text",
        kind="language",
        labels=(),
        metric="perplexity",
        train=train,
        validation=scored,
        source=source,
        max_length=length,
        windows=windows,
    )


def _in_memory(text: str) -> tuple[Example, ...]:
    return (Example(text, None, None),) if text else ()

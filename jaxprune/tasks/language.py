"""Language modelling: running text, scored by perplexity over windows of equal length that do not overlap."""

from collections.abc import Sequence

from ..checks import checked
from ..errors import DataError
from .example import Example
from .glue import from_hub
from .hub import Sources, check_not_both, listed_sources
from .running_text import LENGTH, check_window, text_of
from .task import CALIBRATION, Task

WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1", "test", "train")  # name, configuration, scored, calibration


@checked
def text(
    data: Sources | None = None,
    *,
    train: Sources | None = None,
    calibration: Sources | None = None,
    length: int = LENGTH,
    windows: int | None = None,
    documents: bool = False,
) -> Task:
    """The language modelling task on the text of `data`, scored by perplexity over windows of `length` tokens.

    `data`, `train` and `calibration` are files, each one or several: plain text, used as it stands, or JSON objects
    with a "text" each (.jsonl or .json, one a line or in an array), joined by a blank line; either may be gzip; or rows
    of a data set on the hub (`Hub`). What trains and calibrates is `train`; `calibration` names another text to
    calibrate on. Without `data`, WikiText-2's test text from the hub, its training text for the rest. `windows` scores
    the first so many only. Raises `DataError`.

    With `documents`, every text of a JSON file and every plain file is a text of its own: it begins and ends with the
    tokenizer's own tokens, is cut into parts of `length` tokens, and parts of several texts share a row of a batch
    without seeing each other. Calibration draws windows of the joined text all the same.
    """
    check_window(length)
    if windows is not None and windows < 1:
        raise DataError(f"windows is {windows}, expected at least 1.")
    others: dict[str, Sequence[Example]] = {}
    if data is None:
        name, configuration, scored_split, train_split = WIKITEXT
        splits = from_hub(name, configuration)
        texts = {split: "".join(row.text("text", blank=True) for row in rows) for split, rows in splits.items()}
        scored, trained = _in_memory(texts[scored_split]), _in_memory(texts[train_split])
        source = f"{name} {configuration}"
    else:
        scored, source, trained = text_of(*listed_sources(data), by_document=documents), _named(data), ()
    if train is not None:
        if data is not None:
            check_not_both(train, data)
        trained, source = text_of(*listed_sources(train), by_document=documents), f"{source}; train: {_named(train)}"
    if calibration is not None:
        drawn = text_of(*listed_sources(calibration), by_document=documents)
        source = f"{source}; calibration: {_named(calibration)}"
        # Without a text to train on, that is it.
        trained, others = (drawn, {}) if train is None else (trained, {CALIBRATION: drawn})
    return Task(
        name="text",
        kind="language",
        labels=(),
        metric="perplexity",
        train=trained,
        validation=scored,
        source=source,
        max_length=length,
        windows=windows,
        others=others,
    )


def _named(data: Sources) -> str:
    return ", ".join(map(str, listed_sources(data)))


def _in_memory(text: str) -> tuple[Example, ...]:
    return (Example(text, None, None),) if text else ()

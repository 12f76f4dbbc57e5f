"""Data of the hub, streamed: as many rows as were asked for go through a file, never all through memory."""

import json
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..checks import check_types
from ..errors import DataError, OutputError
from .jsonl import Row


@dataclass(frozen=True)
class Hub:
    """Rows of a data set on the hub, in place of a file: `jp.tasks.chat(jp.tasks.Hub("org/name", count=10_000))`.

    The first `count` rows of a split come over the network once, in their order, and are kept in a temporary file.
    """

    name: str = field(metadata={"help": "ORG/NAME"})
    count: int = field(metadata={"help": "how many rows, from the first on; fewer if there are fewer"})
    split: str = field(default="train", metadata={"help": "train, validation, test, or what the data set calls it"})
    config: str | None = field(default=None, metadata={"help": "configuration, where the data set has several"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit"})

    def __post_init__(self):
        check_types(self, DataError)
        if self.count < 1:
            raise DataError(f"{self.count} rows of {self.name} were asked for; ask for at least 1.")

    def __str__(self) -> str:
        parts = [self.name, *([self.config] if self.config else []), self.split]
        return " ".join(parts) + (f" at {self.revision}" if self.revision else "")

    def rows(self) -> Iterator[Row]:
        """The rows, over the network. Raises DataError, in one line, for whatever went wrong."""
        try:
            import datasets  # a second, and only here

            stream: Any = datasets.load_dataset(
                self.name, self.config, split=self.split, revision=self.revision, streaming=True
            )
            for number, entry in enumerate(islice(stream, self.count), start=1):
                yield Row(f"{self} row {number}", {name: _without_fillers(value) for name, value in entry.items()})
        except Exception as error:  # the package raises a dozen kinds, most of them for "no network"
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"{self} does not load from the hub: {reason}; check the network, or name files."
            ) from error


def _without_fillers(value: Any) -> Any:
    """What is nested in a row without the None that `datasets` writes for a field that only other rows have.

    A tool call would have the arguments of all others, as null (TRL's `remove_none_values`). A message's own content
    stays, as None: templates ask for one beside a tool call.
    """
    if isinstance(value, dict):
        kept = {
            name: each for name, each in value.items() if each is not None or (name == "content" and "role" in value)
        }
        return {name: _without_fillers(each) for name, each in kept.items()}
    return [_without_fillers(each) for each in value] if isinstance(value, list) else value


Source = str | Path | Hub
Sources = Source | Sequence[Source]


def listed_sources(data: Sources) -> list[Source]:
    """One source or several as a list. Raises `DataError` where there is none, or one is there twice."""
    sources = [data] if isinstance(data, str | Path | Hub) else list(data)
    if not sources:
        raise DataError("no files were named; name at least one.")
    places = list(map(_place, sources))
    twice = next((source for source, place in zip(sources, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise DataError(f"{twice} is named twice; name every file once.")
    return sources


def check_not_both(trained: Sources, scored: Sources) -> None:
    """Raise `DataError` where a source is trained on and scored, by whatever name."""
    places = set(map(_place, listed_sources(trained)))
    both = next((source for source in listed_sources(scored) if _place(source) in places), None)
    if both is not None:
        raise DataError(f"{both} is named to train on and to score; name another one, or a share of it.")


def _place(source: Source) -> str:
    """The same for two names of one file."""
    return str(source) if isinstance(source, Hub) else os.path.realpath(source)


class Spool:
    """JSON lines in a temporary file, which goes when this does."""

    def __init__(self, rows: Iterable[Any]):
        handle, name = tempfile.mkstemp(prefix="jaxprune-", suffix=".jsonl")
        self.path = Path(name)
        weakref.finalize(self, self.path.unlink, missing_ok=True)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                for values in rows:
                    file.write(json.dumps(values, ensure_ascii=True, default=str) + "\n")
        except OSError as error:
            raise OutputError(
                f"{name} cannot be written ({error.strerror or error}); make room, or name another TMPDIR."
            ) from error

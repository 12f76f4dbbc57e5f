"""Running text that is read part by part, so that a file of any size takes no more memory than a small one."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .example import Example
from .jsonl import check_no_table, decode, decoded, is_json, iter_rows
from .plain_text import not_plain

LENGTH = 512  # tokens of a window
PART = 2**16  # characters of a text that is in memory already


def check_window(length: int) -> None:
    """Raise `DataError` for windows in which there is nothing to predict."""
    if length < 2:
        raise DataError(f"length is {length}, expected at least 2.")


@dataclass(frozen=True)
class RunningText(Sequence[Example]):
    """The text of a file as one example. Each use reads the file anew; asking for the example itself reads all of it.

    The text is the file's as it stands, or where it is called JSON its "text"s, a blank line between them. A JSON array
    is in memory while it is read; all else goes through it in parts.
    """

    file: Path
    characters: int

    @staticmethod
    def of(file: str | Path) -> "RunningText":
        """Raises DataError where the file is missing, not UTF-8, not what its name says, or blank."""
        path = Path(file)
        if path.is_dir() or not path.exists():
            raise DataError(f"{path} is not a file; name a text file, or JSON lines with a text each.")
        check_no_table(path, "write plain text, or JSON lines with a text each.")
        characters, blank = 0, True
        for chunk in RunningText(path, 0).chunks():
            if blank and not is_json(path):
                _check_plain(path, chunk)
            characters += len(chunk)
            blank = blank and not chunk.strip()
        if blank:
            raise DataError(f"{path} holds no text.")
        return RunningText(path, characters)

    def chunks(self) -> Iterator[str]:
        """The text in parts, in order."""
        if not is_json(self.file):
            yield from decoded(self.file)
            return
        for number, row in enumerate(iter_rows(self.file)):
            if number:
                yield "\n\n"
            yield row.text("text")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index):
        return (Example("".join(self.chunks()), None, None),)[index]


def text_of(file: str | Path) -> Sequence[Example]:
    """The text of a file, of a pipe in memory, as it can be read only once. Errors as `RunningText.of`."""
    path = Path(file)
    if path.is_file() or path.is_dir() or not path.exists():
        return RunningText.of(path)
    text = decode(path)
    if not text.strip():
        raise DataError(f"{path} holds no text.")
    _check_plain(path, text)
    return (Example(text, None, None),)


def _check_plain(path: Path, begin: str) -> None:
    if wrong := not_plain(begin, "running"):
        raise DataError(f"{path} {wrong}")


def chunks_of(examples: Sequence[Example]) -> list[Iterator[str]]:
    """Every text in parts."""
    if isinstance(examples, RunningText):
        return [examples.chunks()]
    texts = [example.text for example in examples]
    return [(text[at : at + PART] for at in range(0, len(text), PART)) for text in texts]


def text_digest(examples: Sequence[Example]) -> str:
    """SHA-256 of every text, or of its token ids, read part by part."""
    digest = hashlib.sha256()
    for chunks in chunks_of(examples):
        for chunk in chunks:
            digest.update(chunk.encode("utf-8", "surrogatepass"))
        digest.update(b"\xff")  # ends a text: no byte of UTF-8
    for tokens in () if isinstance(examples, RunningText) else (example.tokens for example in examples):
        digest.update(repr(tokens).encode())
    return digest.hexdigest()


def characters_of(examples: Sequence[Example]) -> int:
    """Characters of all texts together."""
    if isinstance(examples, RunningText):
        return examples.characters
    return sum(len(example.text) for example in examples)

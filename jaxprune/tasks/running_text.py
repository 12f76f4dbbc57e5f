"""Running text that is read part by part, so that a file of any size takes no more memory than a small one."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .example import Example
from .file_text import check_no_table, decode, decoded
from .hub import Hub, Source, Spool
from .jsonl import is_json, iter_rows
from .plain_text import not_plain

LENGTH = 512  # tokens of a window
PART = 2**16  # characters of a text that is in memory already


def check_window(length: int) -> None:
    """Raise `DataError` for windows in which there is nothing to predict."""
    if length < 2:
        raise DataError(f"length is {length}, expected at least 2.")


@dataclass(frozen=True)
class RunningText(Sequence[Example]):
    """The text of files as one example. Each use reads them anew; asking for the example itself reads all of it.

    The text of a file is it as it stands, or where it is called JSON its "text"s; a blank line stands between these,
    and between files. A JSON array is in memory while it is read; all else goes through it in parts.
    """

    files: tuple[Path, ...]
    characters: int
    by_document: bool = False  # each text of a JSON file, and each plain file, is read as a text of its own
    kept: tuple[Spool, ...] = ()  # temporary files among them

    @staticmethod
    def of(*files: str | Path, by_document: bool = False, kept: tuple[Spool, ...] = ()) -> "RunningText":
        """Raises DataError where a file is missing, not UTF-8, not what its name says, or blank."""
        paths = tuple(map(Path, files))
        characters = 2 * (len(paths) - 1)
        for path in paths:
            if path.is_dir() or not path.exists():
                raise DataError(f"{path} is not a file; name a text file, or JSON lines with a text each.")
            check_no_table(path, "write plain text, or JSON lines with a text each.")
            blank = True
            for chunk in RunningText((path,), 0).chunks():
                if blank and not is_json(path):
                    _check_plain(path, chunk)
                if "\0" in chunk and not is_json(path):
                    raise DataError(f"{path} holds a NUL, which no text has: it was damaged, or is none; copy it anew.")
                characters += len(chunk)
                blank = blank and not chunk.strip()
            if blank:
                raise DataError(f"{path} holds no text.")
        return RunningText(paths, characters, by_document, kept)

    def chunks(self) -> Iterator[str]:
        """The text in parts, in order."""
        for number, document in enumerate(self.documents()):
            if number:
                yield "\n\n"
            yield from document

    def documents(self) -> Iterator[Iterator[str]]:
        """Every text of its own in parts, in order."""
        for file in self.files:
            if is_json(file):
                for row in iter_rows(file):
                    yield iter((row.text("text"),))
            else:
                yield decoded(file)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index):
        return (Example("".join(self.chunks()), None, None),)[index]


def text_of(first: Source, *others: Source, by_document: bool = False) -> Sequence[Example]:
    """The text of files, or rows of the hub; of a pipe, named alone, in memory, as it can be read only once.

    Errors as `RunningText.of`.
    """
    sources = (first, *others)
    if others or isinstance(first, Hub):
        spools = {number: _spooled(source) for number, source in enumerate(sources) if isinstance(source, Hub)}
        files = [spools[n].path if n in spools else str(source) for n, source in enumerate(sources)]
        return RunningText.of(*files, by_document=by_document, kept=tuple(spools.values()))
    path = Path(first)
    if path.is_file() or path.is_dir() or not path.exists():
        return RunningText.of(path, by_document=by_document)
    text = decode(path)
    if not text.strip():
        raise DataError(f"{path} holds no text.")
    _check_plain(path, text)
    return (Example(text, None, None),)


def _spooled(hub: Hub) -> Spool:
    """The texts of the hub's rows that have one; blank ones are no documents."""
    texts = (row.text("text", blank=True) for row in hub.rows())
    return Spool({"text": text} for text in texts if text.strip())


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
    """SHA-256 of every text, of its token ids, or of a conversation, read part by part."""
    digest = hashlib.sha256()
    if not isinstance(examples, RunningText):
        for example in examples:
            digest.update(example.text.encode("utf-8", "surrogatepass") + b"\xff")  # no byte of UTF-8
            digest.update(repr((example.tokens, example.chat and example.chat[1:])).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()
    for chunks in examples.documents() if examples.by_document else [examples.chunks()]:
        for chunk in chunks:
            digest.update(chunk.encode("utf-8", "surrogatepass"))
        digest.update(b"\xff")
    return digest.hexdigest()


def characters_of(examples: Sequence[Example]) -> int:
    """Characters of all texts together."""
    if isinstance(examples, RunningText):
        return examples.characters
    return sum(len(example.text) for example in examples)

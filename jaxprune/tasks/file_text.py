"""The text of a data file, in parts or by line: UTF-8, plain or gzip, and anything else is named."""

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import DataError

READ_BYTES = 2**18  # bytes read at a time
_TABLES = (".csv", ".tsv", ".parquet", ".arrow", ".feather", ".xlsx", ".xls")
# How files begin that are taken for text by mistake.
_BINARY = (
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def decode(path: Path) -> str:
    """The whole text of a file; errors as `decoded`."""
    return "".join(decoded(path))


def decoded(path: Path) -> Iterator[str]:
    """The text of a file, plain or gzip, in parts, so that a large one need not fit the memory.

    Raises DataError where it cannot be read or is not UTF-8, naming the line.
    """
    decoder, lines, begin = codecs.getincrementaldecoder("utf-8-sig")(), 0, b""
    try:
        for content in _contents(path):
            begin = begin or content
            part = decoder.decode(content)
            if not lines and "\0" in begin[:2].decode("utf-8", "ignore"):
                # ASCII written as UTF-16 without a mark is UTF-8 too
                raise DataError(f"{path} is UTF-16 or binary, expected text in UTF-8; convert it.")
            yield part
            lines += content.count(b"\n")
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        kind = next((name for start, name in _BINARY if begin.startswith(start)), None)
        if kind is not None:
            raise DataError(f"{path} is {kind}, expected text in UTF-8, plain or gzip; convert it.") from error
        # The object begins with what was left of the part before, in which no line ends.
        line, wrong = lines + error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise DataError(f"{path} line {line}: not UTF-8 (byte 0x{wrong:02x}); convert it.") from error


def _contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file in parts, unzipped."""
    try:
        with path.open("rb") as file:
            zipped = file.peek(2)[:2] == b"\x1f\x8b"
            source = gzip.GzipFile(fileobj=file) if zipped else file
            while content := source.read(READ_BYTES):
                yield content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged gzip ({error}); copy it anew.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check the path.") from error


def lines_of(parts: Iterable[str]) -> Iterator[str]:
    """The lines of a text that comes in parts, without their ends."""
    # Not splitlines(): it would also cut at separators such as U+2028, which JSON strings may hold as they are.
    open_line: list[str] = []
    for part in parts:
        first, *others = part.split("\n")
        open_line.append(first)
        for line in others:
            yield "".join(open_line)
            open_line = [line]
    yield "".join(open_line)


def check_no_table(path: Path, cure: str) -> None:
    """Raise DataError for a file that is called a table: its columns would be taken for text."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(_TABLES):
        raise DataError(f"{path} is a table ({name[name.rindex('.') :]}), which is not read; {cure}")

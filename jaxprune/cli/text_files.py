"""Texts that come in on a command line, and the file that is made of them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory

from ..checkpoint.output_folder import check_writable
from ..errors import DataError, OutputError


def check_out(out: Path, source: str | None, overwrite: bool) -> None:
    """Raise `OutputError` where a file cannot be written, before what goes into it is made."""
    if source not in (None, "-") and out.exists() and os.path.exists(source) and os.path.samefile(out, source):
        raise OutputError(f"{out} is where the texts are read from; choose another file.")
    if out.is_dir():
        raise OutputError(f"{out} is a folder; name a file.")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another file, or pass overwrite=True.")
    check_writable(out.parent)


@contextmanager
def spooled(source: str) -> Iterator[Path]:
    """The file of texts; of "-", standard input in a file that is called as what it holds."""
    if source != "-":
        yield Path(source)
        return
    with TemporaryDirectory() as folder:
        try:
            yield _copied(Path(folder))
        except DataError as error:
            raise DataError(str(error).replace(f"{folder}{os.sep}", "")) from error


def _copied(folder: Path) -> Path:
    file = folder / "stdin"
    with file.open("wb") as copy:
        copyfileobj(sys.stdin.buffer, copy)
    with file.open("rb") as text:
        is_json = text.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
    return file.rename(folder / ("stdin.jsonl" if is_json else "stdin.txt"))

"""What a command hands back."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoint.read import weight_bytes
from ..errors import CheckpointError
from ..report.tables import si


class Outcome(NamedTuple):
    data: dict[str, Any]  # the JSON object; "warnings" in it also go to stderr
    show: tuple[Any, ...] = ()  # what a person sees instead: lines of text and rich tables


def on_disk(folder: Path, source: str | None) -> tuple[dict[str, int | None], str]:
    """Bytes of the weights in a saved folder and in the checkpoint's, None where that is gone; and in words."""
    saved, before = weight_bytes(folder), None
    if source is not None and folder.resolve() != Path(source).resolve():
        with suppress(CheckpointError, OSError):
            before = weight_bytes(source)
    words = si(saved, "B") + ("" if before is None else f" (the checkpoint: {si(before, 'B')})")
    return {"disk_bytes": saved, "source_disk_bytes": before}, words

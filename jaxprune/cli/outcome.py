"""What a command hands back."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoint.read import weight_bytes
from ..errors import CheckpointError
from ..report.tables import si


class Outcome(NamedTuple):
    data: dict[str, Any]  # the JSON object; "warnings" in it also go to stderr
    show: tuple[Any, ...] = ()  # what a person sees instead: lines of text and rich tables


def on_disk(folder: Path, source: str | None) -> dict[str, int | None]:
    """Bytes of the weights in a saved folder, and in the checkpoint's: None where that is gone."""
    saved, before = weight_bytes(folder), None
    if source is not None and folder.resolve() != Path(source).resolve():
        with suppress(CheckpointError, OSError):
            before = weight_bytes(source)
    return {"disk_bytes": saved, "source_disk_bytes": before}


def told_on_disk(data: Mapping[str, Any]) -> str:
    """The same in words."""
    before = data["source_disk_bytes"]
    return si(data["disk_bytes"], "B") + ("" if before is None else f" (the checkpoint: {si(before, 'B')})")

"""Checkpoints in and out: published folders, and our own."""

from typing import TYPE_CHECKING, Any

from .manifest import read_manifest as read_manifest
from .write import check_output as check_output, save as save

if TYPE_CHECKING:
    from .load import load as load


def __getattr__(name: str) -> Any:
    if name == "load":  # late, so that saving needs no knowledge of other families' files
        from .load import load

        globals()["load"] = load  # the function, where importing has just put the module of the same name
        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

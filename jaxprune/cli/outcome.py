"""What a command hands back."""

from typing import Any, NamedTuple


class Outcome(NamedTuple):
    data: dict[str, Any]  # the JSON object; "warnings" in it also go to stderr
    show: tuple[Any, ...] = ()  # what a person sees instead: lines of text and rich tables

"""What XLA compiles, whoever asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


@dataclass
class Compilations:
    """How many programs XLA has compiled, in any thread, and how many seconds that took."""

    count: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {"compiled": self.count, "compile_seconds": self.seconds}


_LISTENING: list[Compilations] = []


@cache
def _listen() -> None:
    """Once for the life of the process, and not before somebody wants to know."""

    def heard(event: str, duration_secs: float, **_: str | int) -> None:
        if event == EVENT:
            for each in _LISTENING:
                each.count, each.seconds = each.count + 1, each.seconds + duration_secs

    jax.monitoring.register_event_duration_secs_listener(heard)


@contextmanager
def compiling() -> Iterator[Compilations]:
    """What is compiled within, counted as it happens."""
    _listen()
    here = Compilations()
    _LISTENING.append(here)
    try:
        yield here
    finally:
        _LISTENING[:] = [other for other in _LISTENING if other is not here]

"""Doubts (texts that were cut, labels matched by number, a new head) are told as they arise: once each, by the logger
"jaxprune".

Python shows what it says on stderr unless a program sets up logging otherwise; `logging.getLogger("jaxprune")` is where
to silence it, and where to send it elsewhere. Every doubt is also in the result that it is about: `result.warnings`, or
`model.provenance.warnings`, which a saved folder keeps.
"""

import logging
from collections.abc import Iterable

LOGGER = logging.getLogger("jaxprune")

_told: set[str] = set()


def tell(doubts: Iterable[str]) -> None:
    """Log those doubts that this process was not told yet. Nothing while a command runs, which prints its own."""
    for doubt in doubts:
        if doubt not in _told and LOGGER.isEnabledFor(logging.WARNING):
            _told.add(doubt)
            LOGGER.warning("jaxprune: %s", doubt)

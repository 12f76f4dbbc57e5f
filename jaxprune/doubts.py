"""Doubts (texts that were cut, labels matched by number, a new head) are told as they arise: once each, by the logger
"jaxprune".

Python shows what it says on stderr unless a program sets up logging otherwise; `logging.getLogger("jaxprune")` is where
to silence it, and where to send it elsewhere. Every doubt is also in the result that it is about: `result.warnings`, or
`model.provenance.warnings`, which a saved folder keeps.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("jaxprune")

_told: set[str] = set()


@contextmanager
def without_others() -> Iterator[None]:
    """While other packages log notices that say nothing about what is done; none of theirs or ours is shown."""
    before, handlers = logging.root.manager.disable, logging.root.handlers[:]
    logging.disable(logging.WARNING)  # a level of its own logger would not outlast its import
    try:
        yield
    finally:
        logging.disable(before)
        logging.root.handlers[:] = handlers  # logging.warning of the root's sets one up


def tell(doubts: Iterable[str]) -> None:
    """Log those doubts that this process was not told yet. Nothing while a command runs, which prints its own."""
    for doubt in doubts:
        if doubt not in _told and LOGGER.isEnabledFor(logging.WARNING):
            _told.add(doubt)
            LOGGER.warning("jaxprune: %s", doubt)

"""Warnings of an evaluation: texts longer than what is read of them, and scores that one answer to all would have."""

from .encoded import Encoded, Windows

CUT = " were cut to "  # in every such warning


def cut_texts(encoded: Encoded, what: str) -> tuple[str, ...]:
    """A warning where some of the texts, called `what`, lost their end."""
    if not encoded.cut:
        return ()
    return (f"{encoded.cut} of {len(encoded)} {what}{CUT}{encoded.longest} tokens; allow more, or shorten them.",)


def cut_questions(windows: Windows, count: int, what: str) -> tuple[str, ...]:
    """A warning where some of `count` questions lost their end. Contexts lose nothing: they fill several windows."""
    if not windows.cut:
        return ()
    return (f"{windows.cut} of {count} {what}{CUT}{windows.longest_question} tokens; shorten them.",)

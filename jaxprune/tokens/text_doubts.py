"""Warnings of what is read of texts: that some were cut, and that a tokenizer does not know them."""

from collections.abc import Sequence

from ..tasks.example import Example
from .encoded import Encoded, Windows

CUT = " were cut to "  # in every warning of texts longer than what is read of them
EQUAL = 0.1  # of pairs, above which a doubt is told: hardly any pair of a task has the same text twice


def text_doubts(encoded: Encoded, what: str) -> tuple[str, ...]:
    """Warnings where some of the texts, called `what`, lost their end, and where they are unknown to their tokenizer.

    Raises `DataError` where the tokenizer knows nothing of them.
    """
    unknown = encoded.unknown.checked(what)
    if not encoded.cut:
        return unknown
    return (
        f"{encoded.cut} of {len(encoded)} {what}{CUT}{encoded.longest} tokens; allow more, or shorten them.",
        *unknown,
    )


def question_doubts(windows: Windows, count: int, what: str) -> tuple[str, ...]:
    """The same of `count` questions and their contexts. These lose nothing: they fill several windows."""
    unknown = windows.encoded.unknown.checked(f"{what} and contexts")
    if not windows.cut:
        return unknown
    return (f"{windows.cut} of {count} {what}{CUT}{windows.longest_question} tokens; shorten them.", *unknown)


def equal_pairs(examples: Sequence[Example], what: str) -> tuple[str, ...]:
    """A warning where many pairs, called `what`, have the same text on both sides: a column that was read twice."""
    pairs = [(example.text, example.pair) for example in examples if example.pair is not None]
    equal = sum(first.strip() == second.strip() for first, second in pairs)
    if equal <= EQUAL * len(pairs):
        return ()
    example = next(first for first, second in pairs if first.strip() == second.strip())
    return (
        f"{equal} of {len(pairs)} {what} have the same text on both sides, such as {example[:40]!r}: there is nothing "
        "to tell apart; check that the second text is read from its own column.",
    )

"""Tokens that stand for what a tokenizer does not know: what a model says of them says nothing of the text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..errors import DataError

SHARE = 0.2  # of unknown tokens above which a doubt is told: what prose has of names, signs and emoji stays below


@dataclass(frozen=True)
class Unknown:
    """How much of some texts is unknown to their tokenizer."""

    name: str = ""  # of the token that stands there, or of others that count as it
    texts: int = 0
    whole: int = 0  # texts that have tokens, and no other ones
    tokens: int = 0  # the texts' own, special ones that are put around them not counted
    unknown: int = 0  # of these
    example: str = ""  # how the text begins of which most is unknown
    most: float = 0.0  # the share of that

    def __add__(self, other: "Unknown") -> "Unknown":
        worst = other if other.most > self.most else self
        return Unknown(
            self.name or other.name, self.texts + other.texts, self.whole + other.whole, self.tokens + other.tokens,
            self.unknown + other.unknown, worst.example, worst.most,
        )  # fmt: skip

    def doubts(self, what: str) -> tuple[str, ...]:
        """A warning where a good part is unknown, or all of some texts, which are called `what`."""
        if self.unknown > SHARE * self.tokens:
            said = f"{self.unknown / self.tokens:.0%} of the tokens of {self.texts} {what} are {self.name}"
            said += f" ({self.whole} have no other)" if self.whole else ""
        elif self.whole:
            said = f"{self.whole} of {self.texts} {what} have no token but {self.name}"
        else:
            return ()
        return (
            f"{said}, which stands for what the tokenizer does not know, such as {self.example!r}: a model reads "
            "nothing there; take one of their language.",
        )

    def checked(self, what: str) -> tuple[str, ...]:
        """The same. Raises `DataError` where the texts have no other tokens at all."""
        if self.unknown and self.unknown == self.tokens:
            raise DataError(
                f"all {self.tokens:,} tokens of {what} are {self.name}, which stands for what the tokenizer does not "
                f"know, such as {self.example!r}: a model reads nothing there; give text whose words the model's "
                "tokenizer knows."
            )
        return self.doubts(what)


def count_unknown(rows: Iterable[tuple[np.ndarray, int, str]], unknown: int | None, name: str) -> Unknown:
    """Of texts, each with its token ids, how many special ones are among these, and the text.

    `unknown` is the id of the token called `name`; None: the tokenizer knows all.
    """
    texts = whole = tokens = absent = 0
    worst, most = "", 0.0
    for ids, special, text in rows:
        own, there = len(ids) - special, 0 if unknown is None else int(np.sum(ids == unknown))
        texts, tokens, absent, whole = texts + 1, tokens + own, absent + there, whole + (0 < own == there)
        if there > most * own:
            worst, most = text, there / own
    return Unknown(name, texts, whole, tokens, absent, worst[:40], most)


class CountedRows(Iterator[np.ndarray]):
    """Rows of token ids as they come, of one text that `begins` so, and in `so_far` what of them is unknown.

    `unknown` is that of a tokenizer; `special` tokens are put around each row.
    """

    def __init__(self, rows: Iterable[np.ndarray], unknown: tuple[int | None, str], begins: str, special: int = 0):
        self._rows, self._unknown, self._begins, self._special = iter(rows), unknown, begins, special
        self.so_far = Unknown()

    def __next__(self) -> np.ndarray:
        row = next(self._rows)
        here = count_unknown([(row, self._special, self._begins)], *self._unknown)
        self.so_far += replace(here, whole=0)  # a part of a text is none that says nothing
        return row

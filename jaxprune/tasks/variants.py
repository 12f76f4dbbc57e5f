"""Made-up texts beside given ones, for training that needs no labels: the teacher says what they are."""

import random
from collections.abc import Callable, Sequence

from .example import Example

EXCHANGED = 0.15  # share of the words that give way to others


def variants(examples: Sequence[Example], times: int, seed: int) -> tuple[Example, ...]:
    """So many texts for each of `examples`, without labels; the texts themselves are not among them.

    By chance a piece of the text, its beginning with the end of another one, or the text with some words in the place
    of others. Words are what stands between spaces, or characters where there are none; of a pair both texts change.
    """
    draw = random.Random(seed)
    firsts, seconds = ([_words(part) for part in side if part] for side in _sides(examples))
    vocabularies = [sorted({word for words in side for word in words}) for side in (firsts, seconds)]

    def varied(text: str, side: Sequence[Sequence[str]], known: Sequence[str], change: Callable[..., list[str]]) -> str:
        words = _words(text)
        return (" " if " " in text.strip() else "").join(change(draw, words, side, known)) or text

    made = []
    for _ in range(times):
        for example in examples:
            change = draw.choice((_piece, _spliced, _exchanged))
            text = varied(example.text, firsts, vocabularies[0], change)
            pair = example.pair and varied(example.pair, seconds, vocabularies[1], change)
            made.append(Example(text, pair, None))
    return tuple(made)


def _sides(examples: Sequence[Example]) -> tuple[list[str], list[str]]:
    return [example.text for example in examples], [example.pair or "" for example in examples]


def _words(text: str) -> list[str]:
    return words if len(words := text.split()) > 1 else list(text.strip())


def _piece(draw: random.Random, words: list[str], side: Sequence[Sequence[str]], known: Sequence[str]) -> list[str]:
    count = draw.randint(min(2, len(words)), len(words))
    first = draw.randint(0, len(words) - count)
    return words[first : first + count]


def _spliced(draw: random.Random, words: list[str], side: Sequence[Sequence[str]], known: Sequence[str]) -> list[str]:
    other = draw.choice(side)
    return words[: draw.randint(1, len(words))] + [*other[-draw.randint(1, len(other)) :]]


def _exchanged(draw: random.Random, words: list[str], side: Sequence[Sequence[str]], known: Sequence[str]) -> list[str]:
    return [draw.choice(known) if draw.random() < EXCHANGED else word for word in words]

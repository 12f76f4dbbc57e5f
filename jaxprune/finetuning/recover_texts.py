"""The texts of a recovery: which are held back, which are made up, and in what stretches they are read."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import DataError, SettingsError
from ..model import Batch, Model
from ..model.architecture import Architecture
from ..model.heads import head_of
from ..tasks.calibration import Calibration
from ..tasks.variants import variants as made_up
from ..tokens.encoded import Encoded
from ..tokens.windows import encoded_for

HELD_BACK = 0.1  # share of the texts that say when to stop
MOST_HELD_BACK, MOST_TOKENS = 128, 8192  # texts of these at most; of a language model tokens


def split_off(encoded: Encoded, architecture: Architecture, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the texts held back, and of the others. Raises `DataError` where there are too few."""
    there, most = len(encoded), MOST_HELD_BACK
    if head_of(architecture).language is not None:
        most = min(most, max(1, round(MOST_TOKENS / float(encoded.lengths.mean()))))
    count = min(most, round(HELD_BACK * there))
    if count < 1:
        raise DataError(f"{there} texts are too few to recover on; give 1,000 or more, or 64 windows of text.")
    order = np.random.RandomState(seed).permutation(there)
    return np.sort(order[:count]), np.sort(order[count:])


def with_variants(
    dense: Model, texts: Calibration, rest: Encoded, rows: np.ndarray, count: int, seed: int, there: int
) -> Encoded:
    """`rest`, the texts of these numbers out of `there`, and `count` made-up ones beside each. Raises `SettingsError`
    as `check_single` does.
    """
    check_single(texts, there)
    made = made_up([texts.examples[row] for row in rows], count, seed)
    more, _ = encoded_for(dense, replace(texts, examples=made))
    return replace(rest, ids=[*rest.ids, *more.ids], types=[*rest.types, *more.types])


def check_single(texts: Calibration, there: int) -> None:
    """Raise `SettingsError` where the texts are none of which others are made; `there`: how many are read."""
    plain = not texts.ids and texts.windows is None
    plain = plain and all(example.chat is None and example.image is None for example in texts.examples)
    if not plain or len(texts.examples) != there:  # contexts are read in windows
        raise SettingsError(
            "variants are made of texts or pairs that are read whole, not of token ids, running text, conversations, "
            "contexts or images; leave variants out."
        )


def no_targets(architecture: Architecture, texts: int) -> np.ndarray:
    """Targets of the right shape, which a loss of the teacher's predictions alone does not read."""
    blank = head_of(architecture).blank(len(architecture.labels))
    return np.broadcast_to(blank, (texts, *blank.shape))


def stretches(batches: Callable[[int], Any], size: int) -> Callable[[int], list[Batch]]:
    """`size` batches at a time, of as many epochs as that takes: stretch i goes on where stretch i - 1 ended."""
    of_epoch = len(batches(0))

    def of(number: int) -> list[Batch]:
        places = range(number * size, (number + 1) * size)
        epochs = {epoch: batches(epoch) for epoch in range(places[0] // of_epoch, places[-1] // of_epoch + 1)}
        return [epochs[at // of_epoch][at % of_epoch] for at in places]

    return of

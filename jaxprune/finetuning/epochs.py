"""The batches of every epoch: all texts, in a new order, in one shape."""

from collections.abc import Callable
from operator import itemgetter

import jax
import numpy as np

from ..data.batches import pack
from ..data.tokenizer import Encoded
from ..model import Architecture, Batch

Change = Callable[[np.ndarray, np.random.RandomState], np.ndarray]  # a text's token ids -> as many token ids


def shuffled(
    encoded: Encoded,
    architecture: Architecture,
    *,
    seed: int = 0,
    length: int | None = None,
    rows: int | None = None,
    change: Change | None = None,
) -> Callable[[int], list[Batch]]:
    """What `train` takes as batches: `batches(epoch)` packs all texts anew, in an order that seed and epoch decide.

    All batches of all epochs have one shape; `length` and `rows` are those of `pack`. `change` may alter a text's
    tokens, differently in every epoch, such as drop words from it.
    """

    def batches(epoch: int) -> list[Batch]:
        random = np.random.RandomState([seed, epoch])
        order = random.permutation(len(encoded))
        ids = [encoded.ids[text] if change is None else change(encoded.ids[text], random) for text in order]
        packed = pack(Encoded(ids, [encoded.types[text] for text in order]), architecture, length=length, rows=rows)
        # pack() goes from long to short texts. Its rows depend on the lengths only, so that their number and their
        # shape are those of every other order; which of the texts of a length is in which row is new.
        every = jax.tree.map(lambda *parts: np.concatenate(parts), *packed)
        every = every._replace(index=np.where(every.index >= 0, order[every.index], -1))
        mixed, size = random.permutation(len(every.ids)), len(packed[0].ids)
        chosen = (mixed[at : at + size] for at in range(0, len(mixed), size))
        return [jax.tree.map(itemgetter(some), every) for some in chosen]

    return batches

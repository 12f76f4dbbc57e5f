"""Batches of an epoch hold every text once, in a new order, in one shape."""

import numpy as np
import pytest

from jaxprune.data.batches import unpack
from jaxprune.data.tokenizer import Encoded
from jaxprune.finetuning.epochs import shuffled
from jaxprune.model import Architecture, LayerSizes

ARCHITECTURE = Architecture(
    family="bert", vocab=500, hidden=8, head_width=4, max_positions=32, token_types=2,
    layers=(LayerSizes(groups=2, neurons=4),), head="classification", labels=("a", "b"),
)  # fmt: skip


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    random = np.random.RandomState(0)
    lengths = random.randint(3, 20, 100)
    # The first two tokens number the text, so that a mix-up shows.
    ids = [np.concatenate([[2, 100 + i], random.randint(5, 90, n)]).astype(np.int32) for i, n in enumerate(lengths)]
    return Encoded(ids, [(np.arange(len(text)) > 4).astype(np.int32) for text in ids])


@pytest.mark.parametrize("rows", [None, 4])
def test_every_epoch_holds_every_text_once_under_its_own_number(encoded, rows):
    batches = shuffled(encoded, ARCHITECTURE, length=32, rows=rows)
    for epoch in range(3):
        found = unpack(batches(epoch))
        assert len(found) == len(encoded)
        for ours, theirs in zip(found.ids + found.types, encoded.ids + encoded.types, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_all_batches_of_all_epochs_have_one_shape(encoded):
    batches = shuffled(encoded, ARCHITECTURE, length=32, rows=4)
    shapes = {tuple(part.shape for part in batch) for epoch in range(5) for batch in batches(epoch)}
    assert len(shapes) == 1
    assert len({len(batches(epoch)) for epoch in range(5)}) == 1


def test_order_differs_between_epochs_and_seeds_and_is_repeatable(encoded):
    def order(seed: int, epoch: int) -> list[int]:
        return [
            i
            for batch in shuffled(encoded, ARCHITECTURE, seed=seed, length=32, rows=4)(epoch)
            for i in batch.index.ravel()
        ]

    assert order(0, 1) == order(0, 1)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    # A batch mixes long texts and short ones: pack() alone would go from long to short.
    first = shuffled(encoded, ARCHITECTURE, length=32, rows=4)(0)[0]
    lengths = np.array([len(encoded.ids[i]) for i in first.index[first.index >= 0]])
    assert lengths.max() - lengths.min() >= 5


def test_change_alters_tokens_anew_in_every_epoch(encoded):
    def blank(ids: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        return np.where(random.random_sample(len(ids)) < 0.3, 1, ids)

    batches = shuffled(encoded, ARCHITECTURE, length=32, rows=4, change=blank)
    share = [np.mean([np.mean(ids == 1) for ids in unpack(batches(epoch)).ids]) for epoch in range(2)]
    np.testing.assert_allclose(share, 0.3, atol=0.05)  # some 1,200 tokens: a standard error of 0.013
    first, second = (np.concatenate(unpack(batches(epoch)).ids) for epoch in range(2))
    assert np.any(first != second)
    assert not any(np.any(ids == 1) for ids in encoded.ids)  # the texts themselves stay as they are

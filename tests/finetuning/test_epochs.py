"""Batches of an epoch hold every text once, in a new order, in one shape."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxprune.finetuning.epochs import (
    batch_doubts,
    batch_shape,
    batches_for,
    first_steps,
    first_texts,
    shuffled,
    text_counts,
)
from jaxprune.finetuning.settings import Train
from jaxprune.model import Architecture, LayerSizes
from jaxprune.tokens.encoded import Encoded
from jaxprune.tokens.packing import unpack

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


@pytest.mark.parametrize("size", [1, 7, 32, 100, 500])
def test_every_epoch_holds_every_text_once_under_its_own_number(encoded, size):
    batches = shuffled(encoded, ARCHITECTURE, size=size)
    for epoch in range(3):
        found = unpack(batches(epoch))
        assert len(found) == len(encoded)
        for ours, theirs in zip([*found.ids, *found.types], [*encoded.ids, *encoded.types], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@given(
    lengths=st.lists(st.integers(1, 32), min_size=1, max_size=60),
    size=st.integers(1, 20),
    multiple=st.integers(1, 5),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_a_batch_holds_the_texts_that_were_asked_for(lengths, size, multiple, seed):
    """As transformers' Trainer counts: the last batch of an epoch has what is left over."""
    texts = Encoded([np.full(n, 5, np.int32) for n in lengths], [np.zeros(n, np.int32) for n in lengths])
    batches = shuffled(texts, ARCHITECTURE, size=size, seed=seed, multiple=multiple)
    for found in (batches(0), batches(1)):
        counts = [min(size, len(lengths) - at) for at in range(0, len(lengths), size)]
        assert text_counts(found).tolist() == counts
        assert sorted(i for batch in found for i in batch.index.ravel() if i >= 0) == list(range(len(lengths)))
        assert len({batch.ids.shape for batch in found}) == 1
        assert len(found[0].ids) % multiple == 0


def test_rows_have_little_room_to_spare():
    """Texts of 3 to 30 tokens, 32 a batch: a batch in the order drawn would need up to a third more rows."""
    lengths = np.random.RandomState(0).randint(3, 31, 640)
    texts = Encoded([np.full(n, 5, np.int32) for n in lengths], [np.zeros(n, np.int32) for n in lengths])
    for batch in shuffled(texts, ARCHITECTURE, size=32)(0):
        assert np.sum(batch.segments > 0) > 0.85 * batch.segments.size


def test_every_text_may_be_left_over(encoded):
    """The last batch is small, so that a text in it weighs more: none is there in every epoch."""
    batches = shuffled(encoded, ARCHITECTURE, size=33)
    left = [batches(epoch)[-1].index.max() for epoch in range(300)]
    counts = np.bincount(left, minlength=100)
    assert counts.max() < 15 and np.sum(counts > 0) > 80  # of 100 texts, three times each on average


def test_accumulation_fills_rows_up_and_leaves_the_texts_of_a_step_alone(encoded):
    parts = [Train(batch_size=8, accumulate=n) for n in (1, 8)]
    one, eight = (batches_for(encoded, ARCHITECTURE, each)(0) for each in parts)
    assert len(one) == len(eight) == 13
    texts = lambda batch: set(batch.index[batch.index >= 0].tolist())  # noqa: E731
    for plain, filled in zip(one, eight, strict=True):
        assert texts(plain) == texts(filled) and len(filled.index) == 8
    assert batch_shape(eight) == {"rows": 8, "length": eight[0].ids.shape[1], "steps": 13, "texts": 100 / 13}
    assert batch_doubts(one, parts[0]) == ()
    rows = int(np.sum(np.any(eight[0].index >= 0, axis=1)))
    said = (
        f"accumulate 8: the 8 texts of a step fill {rows} rows, so that {8 - rows} of its parts are empty; {rows} parts"
    )
    assert batch_doubts(eight, parts[1])[0].startswith(said)


def test_steps_follow_the_batch_size_down_to_one_text(encoded):
    """Packed rows hold some four texts each; they do not decide how many a step has."""
    steps = [len(batches_for(encoded, ARCHITECTURE, Train(batch_size=size))(0)) for size in (1, 2, 4, 8)]
    assert steps == [100, 50, 25, 13]


def test_the_first_texts_come_from_whole_batches_and_a_part_of_the_last(encoded):
    batches = list(shuffled(encoded, ARCHITECTURE, size=16)(0))
    few = first_texts(batches, 36)
    assert text_counts(few).tolist() == [16, 16, 4]
    assert few[1] is batches[1]
    kept = unpack(few)  # whose texts are whole: the numbers in them say which they are
    assert sorted(int(ids[1]) - 100 for ids in kept.ids) == sorted(i for b in few for i in b.index.ravel() if i >= 0)
    assert text_counts(first_texts(batches, 500)).sum() == 100


def test_the_first_steps_go_on_in_the_next_epoch(encoded):
    batches = shuffled(encoded, ARCHITECTURE, size=32)
    found = first_steps(batches, 5)(0)
    assert text_counts(found).tolist() == [32, 32, 32, 4, 32]
    np.testing.assert_array_equal(found[4].index, batches(1)[0].index)


def test_all_batches_of_all_epochs_have_one_shape(encoded):
    batches = shuffled(encoded, ARCHITECTURE, size=16)
    shapes = {tuple(part.shape for part in jax.tree.leaves(batch)) for epoch in range(5) for batch in batches(epoch)}
    assert len(shapes) == 1
    assert len({len(batches(epoch)) for epoch in range(5)}) == 1


def test_order_differs_between_epochs_and_seeds_and_is_repeatable(encoded):
    def order(seed: int, epoch: int) -> list[int]:
        return [i for batch in shuffled(encoded, ARCHITECTURE, seed=seed, size=16)(epoch) for i in batch.index.ravel()]

    assert order(0, 1) == order(0, 1)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    # A batch mixes long texts and short ones: pack() alone would go from long to short.
    first = shuffled(encoded, ARCHITECTURE, size=16)(0)[0]
    lengths = np.array([len(encoded.ids[i]) for i in first.index[first.index >= 0]])
    assert lengths.max() - lengths.min() >= 5


def test_change_alters_tokens_anew_in_every_epoch(encoded):
    def blank(ids: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        return np.where(random.random_sample(len(ids)) < 0.3, 1, ids)

    batches = shuffled(encoded, ARCHITECTURE, size=16, change=blank)
    share = [np.mean([np.mean(ids == 1) for ids in unpack(batches(epoch)).ids]) for epoch in range(2)]
    np.testing.assert_allclose(share, 0.3, atol=0.05)  # some 1,200 tokens: a standard error of 0.013
    first, second = (np.concatenate(unpack(batches(epoch)).ids) for epoch in range(2))
    assert np.any(first != second)
    assert not any(np.any(ids == 1) for ids in encoded.ids)  # the texts themselves stay as they are

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxprune.errors import DataError
from jaxprune.evaluation.outputs import text_outputs, token_outputs
from jaxprune.model import logits
from jaxprune.model.transformer import whole_forward
from jaxprune.tokens.encoded import Encoded
from jaxprune.tokens.packing import pack, unpack, unpack_logits, unpack_tokens

LENGTH = 24
VOCABULARY = 26  # of the tiny model


def texts_of(lengths: list[int], seed: int = 0) -> Encoded:
    random = np.random.RandomState(seed)
    ids = [random.randint(1, VOCABULARY, length).astype(np.int32) for length in lengths]
    return Encoded(ids, [(np.arange(len(text)) > len(text) // 2).astype(np.int32) for text in ids])


some_lengths = st.lists(st.integers(1, LENGTH), min_size=1, max_size=40)
layouts = st.fixed_dictionaries(
    {"length": st.sampled_from([LENGTH, 40, None])},
    optional={"group": st.integers(1, 12), "rows": st.just(40)},
)


@given(some_lengths, layouts)
def test_every_token_appears_once_in_batches_of_one_shape(tiny, lengths, layout):
    encoded = texts_of(lengths)
    batches = pack(encoded, tiny().architecture, **layout)
    assert len({tuple(leaf.shape for leaf in jax.tree.leaves(batch)) for batch in batches}) == 1
    assert sum(int((batch.segments > 0).sum()) for batch in batches) == encoded.tokens
    back = unpack(batches)
    for ours, theirs in ((back.ids, encoded.ids), (back.types, encoded.types)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    if "group" in layout:
        order = np.arange(len(encoded))
        assert [sorted(batch.index[batch.index >= 0]) for batch in batches] == [
            order[at : at + layout["group"]].tolist() for at in range(0, len(encoded), layout["group"])
        ]


@given(some_lengths)
def test_rows_say_where_each_text_begins(tiny, lengths):
    encoded = texts_of(lengths)
    architecture = tiny().architecture
    for batch in pack(encoded, architecture, length=LENGTH):
        assert np.all(batch.pool[batch.index < 0] == 0)
        for row, place in zip(*np.nonzero(batch.index >= 0), strict=True):
            own = np.flatnonzero(batch.segments[row] == place + 1)
            assert own[0] == batch.pool[row, place] and np.all(np.diff(own) == 1)
            np.testing.assert_array_equal(batch.positions[row, own], np.arange(len(own)))
        padding = batch.segments == 0
        assert np.all(batch.ids[padding] == architecture.pad_id) and not np.any(batch.positions[padding])


def test_packing_leaves_little_padding(tiny):
    encoded = texts_of(np.random.RandomState(0).randint(4, 40, 500).tolist())
    batches = pack(encoded, tiny().architecture)
    assert batches[0].ids.shape[1] == 64 and batches[0].ids.size <= 2048
    assert encoded.tokens / sum(batch.ids.size for batch in batches) > 0.9


@pytest.mark.parametrize("longest, length", [(3, 64), (64, 64), (65, 128), (128, 128), (129, 144), (384, 384)])
def test_row_lengths_are_few(tiny, longest, length):
    architecture = tiny(max_positions=512).architecture
    assert pack(texts_of([longest, 2]), architecture)[0].ids.shape[1] == length


def test_models_without_token_types_read_zeros(tiny):
    architecture = tiny(token_types=1).architecture
    assert not any(batch.types.any() for batch in pack(texts_of([9, 5]), architecture))


@settings(max_examples=3)
@given(st.lists(st.integers(1, LENGTH), min_size=5, max_size=12))
def test_a_packed_text_gives_what_it_gives_alone(tiny, lengths):
    model, encoded = tiny(), texts_of(lengths)
    ids, types, mask = (np.zeros((12, LENGTH), np.int32) for _ in range(3))  # one text a row, plainly padded
    for row, length in enumerate(lengths):
        ids[row, :length], types[row, :length], mask[row, :length] = encoded.ids[row], encoded.types[row], 1
    alone = logits(model, *map(jnp.asarray, (ids, mask, types)))
    np.testing.assert_allclose(text_outputs(model, encoded), alone[: len(lengths)], atol=1e-5)  # float32, two layers


@pytest.mark.parametrize("layout", [{"length": 64}, {"length": 30}, {"rows": 9}, {"group": 3}])
def test_no_layout_changes_a_result(tiny, layout):
    model, encoded = tiny(), texts_of([5, 24, 3, 17, 9, 1, 12])
    batches = pack(encoded, model.architecture, **layout)
    found = [whole_forward(model.params, batch, architecture=model.architecture) for batch in batches]
    np.testing.assert_allclose(unpack_logits(found, batches), text_outputs(model, encoded), atol=1e-5)


def test_what_padding_holds_changes_nothing(tiny):
    model, encoded = tiny(), texts_of([5, 24, 3])
    (batch,) = pack(encoded, model.architecture)
    padding = batch.segments == 0
    dirty = batch._replace(ids=np.where(padding, 7, batch.ids), types=np.where(padding, 1, batch.types))
    clean, other = (
        unpack_logits([whole_forward(model.params, each, architecture=model.architecture)], [each])
        for each in (batch, dirty)
    )
    np.testing.assert_array_equal(clean, other)


def test_token_outputs_go_back_to_their_texts(tiny):
    model, encoded = tiny(head="question_answering", pooler="none", labels=()), texts_of([5, 24, 3, 17])
    together = token_outputs(model, encoded)
    assert [values.shape for values in together] == [(5, 2), (24, 2), (3, 2), (17, 2)]
    alone = token_outputs(model, Encoded(encoded.ids[1:2], encoded.types[1:2]))
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)
    batches = pack(encoded, model.architecture)
    np.testing.assert_array_equal(unpack_tokens([batch.ids for batch in batches], batches)[3], encoded.ids[3])


def test_packing_is_deterministic(tiny):
    first, second = (pack(texts_of([5, 9, 5, 9, 2] * 20), tiny().architecture) for _ in range(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))


@pytest.mark.parametrize(
    "encoded, layout, message",
    [
        (texts_of([]), {}, "no texts to batch"),
        (texts_of([3, 0]), {}, "text 1 has no tokens"),
        (texts_of([3, 9]), {"length": 8}, "text 1 has 9 tokens, a row 8"),
        (texts_of([65]), {}, "text 0 has 65 tokens, more than the model's 64 positions"),
        (texts_of([60] * 4), {"rows": 2, "group": 3}, "a group of 3 texts needs 3 rows"),
        (Encoded([np.array([99], np.int32)], [np.array([0], np.int32)]), {}, "run from 99 to 99, .* has 26 rows"),
    ],
)
def test_texts_that_cannot_be_batched(tiny, encoded, layout, message):
    with pytest.raises(DataError, match=message):
        pack(encoded, tiny().architecture, **layout)

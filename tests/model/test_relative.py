"""Relative positions: which bucket a distance has, packed texts, and one table shared by layers of different heads."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.checkpoint.manifest import architecture_of, manifest_of
from jaxprune.errors import SettingsError
from jaxprune.finetuning.settings import Train
from jaxprune.finetuning.train import train
from jaxprune.model import Batch, Dropout, LayerSizes, Sites, forward
from jaxprune.model.attention_kinds import Relative
from jaxprune.model.padded import plain_batch
from jaxprune.model.relative import distance_buckets, pair_buckets
from jaxprune.model.transformer import stack
from jaxprune.pruning.cost import parameters, total_cost
from jaxprune.pruning.cut import cut, gates_of
from tests.helpers import tiny
from tests.helpers.states import last_states

SETTINGS = tiny.config("mpnet", "none", max_position_embeddings=40)
IDS = np.random.RandomState(1).randint(2, 30, (3, 34))  # longer than the first bucket of a range
MASK = (np.arange(34) >= np.array([0, 20, 31])[:, None]).astype(int)
FIRST = [np.array(mask, bool) for mask in ([1, 0, 1], [1] * 4 + [0] * 6, [0, 1, 1], [0] * 10)]
AGAIN = [np.array(mask, bool) for mask in ([0, 1], [1] * 4, [1, 0], [])]


def table_of(layer):
    return layer["attention"]["relative"]["table"]


def batch_of(architecture):
    return plain_batch(architecture, np.where(MASK > 0, IDS, 1), MASK)


def states(model, gates=None):
    return np.asarray(last_states(model, batch_of(model.architecture), gates))


def test_buckets_of_distances():
    """Eight of one distance each, then the first distances of ranges (transformers, float32), the last from 91 on."""
    near = np.array(distance_buckets(32, 128))
    assert near[:9].tolist() == list(range(9)) and len(near) == 129
    assert [int(np.argmax(near == bucket)) for bucket in range(8, 16)] == [8, 12, 16, 23, 32, 46, 64, 91]
    pairs = np.asarray(pair_buckets(Relative(), 200))
    assert (pairs[5, 5], pairs[5, 6], pairs[6, 5], pairs[0, 199], pairs[199, 0]) == (0, 17, 1, 31, 15)


def test_masked_equals_cut_twice_over():
    """The heads that stay keep their own columns, whatever numbers they have in their layer by then."""
    model = tiny.random_model(SETTINGS)
    small = cut(model, FIRST)
    assert small.architecture.attention == Relative(columns=((0, 2), (1, 2)))
    gated = states(model, gates=jax.tree.map(jnp.asarray, gates_of(model.architecture, FIRST)))
    np.testing.assert_allclose(states(small), gated, rtol=0, atol=1e-5 * np.abs(gated).max())
    smaller = cut(small, AGAIN)
    assert smaller.architecture.attention == Relative(columns=((2,), (1,)))
    np.testing.assert_array_equal(table_of(smaller.params["layers"][1]), table_of(model.params["layers"][0])[:, [1]])
    gated = states(small, gates=jax.tree.map(jnp.asarray, gates_of(small.architecture, AGAIN)))
    np.testing.assert_allclose(states(smaller), gated, rtol=0, atol=1e-5 * np.abs(gated).max())
    empty = cut(model, [np.zeros(3, bool), FIRST[1], FIRST[2], FIRST[3]])
    assert np.isfinite(states(empty)).all() and empty.architecture.attention == Relative(columns=((), (1, 2)))
    # Layers of any size: what tables of costs ask about.
    assert small.architecture.with_layers(small.architecture.layers[:1]).attention == Relative()
    assert small.architecture.with_layers(small.architecture.layers) == small.architecture
    assert architecture_of(manifest_of(smaller)["architecture"]) == smaller.architecture
    # A head takes its column along: 4 * 12 * 4 + 3 * 4 weights and biases, and 32.
    assert parameters(model.architecture) - parameters(small.architecture) == 2 * (4 * 48 + 12 + 32) + 16 * 25
    assert total_cost(model.architecture, "flops", 8) > total_cost(small.architecture, "flops", 8)


def test_texts_packed_into_a_row_are_as_far_apart_as_alone():
    model = tiny.random_model(SETTINGS)
    lengths, start = (9, 25), 0
    row = {name: np.zeros((1, 36), np.int32) for name in ("ids", "segments", "positions")}
    row["ids"][:], row["positions"][:] = 1, -1
    for number, length in enumerate(lengths):
        place = slice(start, start + length)
        row["ids"][0, place], row["segments"][0, place] = IDS[number, :length], number + 1
        row["positions"][0, place] = np.arange(length)
        start += length
    none = np.zeros((1, 1), np.int32)
    packed = Batch(**row, types=np.zeros_like(row["ids"]), pool=none, index=none)  # type: ignore[arg-type]
    together = np.asarray(last_states(model, packed))[0]
    start = 0
    for number, length in enumerate(lengths):
        alone = plain_batch(model.architecture, IDS[number : number + 1, :length])
        expected = np.asarray(last_states(model, alone))[0]
        np.testing.assert_allclose(together[start : start + length], expected, atol=2e-5)
        start += length


def test_stacked_layers_and_a_dropout_of_nothing_say_the_same():
    model = tiny.random_model(SETTINGS)
    sites = Sites(dropout=Dropout(0.0, jax.random.key(0)))
    noisy = jax.jit(lambda params, batch: forward(params, batch, model.architecture, sites).hidden)
    np.testing.assert_allclose(noisy(model.params, batch_of(model.architecture)), states(model), atol=1e-5)
    stacked = {**model.params, "layers": stack(model.params["layers"])}
    np.testing.assert_allclose(states(model.replace(params=stacked)), states(model), atol=1e-5)


def test_every_copy_of_a_column_has_the_gradient_of_all():
    """Of layers that have other heads: as if one table served both, which a difference of the loss shows."""
    small = cut(tiny.random_model(SETTINGS), FIRST)
    batch, weights = batch_of(small.architecture), np.random.RandomState(2).normal(size=(3, 34, 12))

    def loss(params):
        return jnp.sum(forward(params, batch, small.architecture).hidden * weights)

    slope = jax.jit(jax.value_and_grad(loss))
    tables = [np.asarray(table_of(layer)) for layer in slope(small.params)[1]["layers"]]
    np.testing.assert_array_equal(tables[0][:, 1], tables[1][:, 1])  # head 2, which both have
    assert np.abs(tables[0][:, 0] - tables[1][:, 0]).max() > 1e-3  # heads 0 and 1
    assert np.all(tables[0][16] == 0)  # the distance 0 ahead, which no pair has
    for bucket in (0, 1, 18):
        ends = []
        for step in (-0.01, 0.01):
            moved = jax.tree.map(jnp.asarray, small.params)
            for layer in moved["layers"]:
                layer["attention"]["relative"]["table"] = table_of(layer).at[bucket, 1].add(step)
            ends.append(float(slope(moved)[0]))
        # float32, a loss of some tens: the difference is good to about a thousandth.
        np.testing.assert_allclose((ends[1] - ends[0]) / 0.02, tables[0][bucket, 1], rtol=2e-2, atol=2e-2)


def test_training_keeps_the_copies_equal():
    settings = tiny.config("mpnet", max_position_embeddings=40)
    model = cut(tiny.random_model(settings), FIRST)
    batch = jax.tree.map(np.asarray, batch_of(model.architecture))
    settings = Train(epochs=3, learning_rate=1e-2, dropout=0.1)
    trained = train(model, lambda epoch: [batch], np.array([0, 1, 2], np.int32), settings)
    before, after = (table_of(m.params["layers"][0])[:, 1] for m in (model, trained.model))
    assert np.abs(np.asarray(after - before)).max() > 1e-3
    np.testing.assert_allclose(after, table_of(trained.model.params["layers"][1])[:, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": Relative(buckets=6)}, "has 6 buckets .* expected a multiple of 4"),
        ({"attention": Relative(buckets=32, reach=8)}, "reaches 8 tokens, expected .* more tokens than a fourth"),
        ({"attention": Relative(columns=((0,), (1,)))}, r"columns for \[1, 1\] heads in turn, expected \[3, 3\]"),
        ({"layers": (LayerSizes(groups=1, queries=3, neurons=4),) * 2}, "expected no queries that share them"),
    ],
)
def test_tables_that_fit_no_layer_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        replace(tiny.architecture(SETTINGS), **changes)

"""Disentangled attention: which row a distance has, packed texts, cut heads, and one table that all layers share."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.checkpoint.manifest import architecture_of, manifest_of
from jaxprune.errors import SettingsError
from jaxprune.model import Batch, Dropout, Sites, forward, sublayer as of_sublayers
from jaxprune.model.attention_kinds import Disentangled
from jaxprune.model.disentangled import distance_rows, distance_steps, pair_rows
from jaxprune.model.dropout import drop
from jaxprune.model.padded import plain_batch
from jaxprune.pruning.cost import parameters, total_cost, whole_parameters
from jaxprune.pruning.cut import cut, gates_of
from tests.helpers import tiny
from tests.helpers.states import last_states

OWN = tiny.config("deberta-v2", "none", max_position_embeddings=16)
SHARED = OWN | {"share_att_key": True, "pos_att_type": "c2p|p2c"}
IDS = np.random.RandomState(1).randint(2, 30, (3, 24))  # longer than the table reaches
MASK = (np.arange(24) >= np.array([0, 10, 21])[:, None]).astype(int)
KEPT = [np.array(mask, bool) for mask in ([1, 0, 1], [1] * 4 + [0] * 6, [0, 1, 1], [0] * 10)]


def batch_of(architecture):
    return plain_batch(architecture, IDS * MASK, MASK)


def states(model, gates=None):
    return np.asarray(last_states(model, batch_of(model.architecture), gates))


def test_rows_of_distances():
    """Of the published sizes, 128 of one distance each, then ranges; the last at 511, and one more beyond (the figures
    of transformers, float32). A text reads those rows alone that its tokens can have.
    """
    kind = Disentangled(reach=512, buckets=256)
    steps = np.array(distance_steps(kind))
    assert steps[:130].tolist() == [*range(129), 129] and steps[510:513].tolist() == [255, 255, 256]
    assert distance_rows(kind, 20) == (256 - 19, 256 + 20) and distance_rows(kind, 2000) == (0, 512)
    pairs = np.asarray(pair_rows(kind, 20))
    assert (pairs[0, 0], pairs[19, 0], pairs[0, 19]) == (19, 38, 0)
    every = Disentangled(reach=5)
    assert np.asarray(pair_rows(every, 8))[:, 0].tolist() == [5, 6, 7, 8, 9, 9, 9, 9]
    assert np.asarray(pair_rows(every, 8))[0].tolist() == [5, 4, 3, 2, 1, 0, 0, 0]


@pytest.mark.parametrize("settings", [OWN, SHARED], ids=["own projections", "shared"])
def test_masked_equals_cut(settings):
    model = tiny.random_model(settings)
    small = cut(model, KEPT)
    gated = states(model, gates=jax.tree.map(jnp.asarray, gates_of(model.architecture, KEPT)))
    np.testing.assert_allclose(states(small), gated, rtol=0, atol=1e-5 * np.abs(gated).max())
    empty = cut(model, [np.zeros(3, bool), *KEPT[1:]])
    assert np.isfinite(states(empty)).all()
    assert architecture_of(manifest_of(small)["architecture"]) == small.architecture
    # A head: 4 * 12 * 4 + 3 * 4 weights and biases, and of its own projections of distances 2 * (12 * 4 + 4).
    own = 0 if settings is SHARED else 2 * (48 + 4)
    assert parameters(model.architecture) - parameters(small.architecture) == 2 * (4 * 48 + 12 + own) + 16 * 25
    # Its FLOPs at 3 tokens: projections, scores and mix; rows for 2 before to 2 after, projected and compared, twice.
    head = 2 * 3 * 12 * 4 * 4 + 4 * 9 * 4 + 2 * 5 * (2 * 12 * 4 + 2 * 3 * 4)
    neuron = 2 * 2 * 3 * 12
    assert total_cost(model.architecture, "flops", 3) == 2 * (3 * head + 10 * neuron)
    leaves = sum(np.size(leaf) for leaf in jax.tree.leaves(model.params))
    assert whole_parameters(model.architecture) == leaves - (8 * 12 + 24)  # a table and its norm, counted once


def test_texts_packed_into_a_row_are_as_far_apart_as_alone():
    model = tiny.random_model(OWN)
    lengths, start = (5, 18), 0
    row = {name: np.zeros((1, 24), np.int32) for name in ("ids", "segments", "positions")}
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
        ids = np.pad(IDS[number : number + 1, :length], [(0, 0), (0, 24 - length)])
        alone = np.asarray(last_states(model, plain_batch(model.architecture, ids, np.arange(24)[None] < length)))[
            0, :length
        ]
        np.testing.assert_allclose(together[start : start + length], alone, atol=2e-5)
        start += length


def test_every_copy_of_the_table_has_the_gradient_of_all():
    """As if one table served all layers, which a difference of the loss shows; so does one with dropout of nothing."""
    model = tiny.random_model(SHARED)
    batch, weights = batch_of(model.architecture), np.random.RandomState(2).normal(size=(3, 24, 12))

    def loss(params):
        sites = Sites(dropout=Dropout(0.0, jax.random.key(0)))
        return jnp.sum(forward(params, batch, model.architecture, sites).hidden * weights)

    slope = jax.jit(jax.value_and_grad(loss))
    value, gradient = slope(model.params)
    np.testing.assert_allclose(value, np.sum(states(model) * weights), rtol=1e-4)
    first, second = (layer["attention"]["distances"] for layer in gradient["layers"])
    jax.tree.map(np.testing.assert_array_equal, first, second)
    ends = []
    for step in (-0.01, 0.01):
        moved = jax.tree.map(jnp.asarray, model.params)
        for layer in moved["layers"]:
            own = layer["attention"]["distances"]
            own["table"] = own["table"].at[3, 1].add(step)
        ends.append(float(slope(moved)[0]))
    # float32, a loss of some tens: the difference is good to about a thousandth.
    np.testing.assert_allclose((ends[1] - ends[0]) / 0.02, first["table"][3, 1], rtol=2e-2, atol=2e-2)


def test_training_drops_numbers_of_the_table_in_every_layer(monkeypatch):
    """As transformers' `pos_dropout`: of the rows that a text reads, once for the whole batch."""
    model, seen = tiny.random_model(OWN), []

    def recorded(x, dropout, place):
        seen.append((np.shape(x), place))
        return drop(x, dropout, place)

    monkeypatch.setattr(of_sublayers, "drop", recorded)
    sites = Sites(dropout=Dropout(0.5, jax.random.key(0)))
    forward(model.params, batch_of(model.architecture), model.architecture, sites)
    kind = model.architecture.attention
    assert isinstance(kind, Disentangled)
    first, last = distance_rows(kind, 24)
    assert [shape for shape, place in seen if place == 3] == [(last - first, 12)] * 2
    p = model.params["layers"][0]["attention"]
    x = jnp.zeros((3, 24, 12))
    project = lambda dropout: of_sublayers.projected_distances(p, x, model.architecture, {}, dropout)[0]  # noqa: E731
    noisy = jax.vmap(lambda key: project(Dropout(0.5, key)))(jax.random.split(jax.random.key(1), 4000))
    plain = np.asarray(project(None))
    assert np.std(noisy[:, 0, 0, 0, 0]) > 0.1 * np.abs(plain).max()
    np.testing.assert_allclose(np.mean(noisy, axis=0), plain, atol=0.1 * np.abs(plain).max())  # 4000 draws


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Disentangled(reach=512, buckets=7), "has 7 buckets a side and reaches 512 tokens, expected an even number"),
        (Disentangled(reach=4, buckets=6), "reaches 4 tokens, expected .* at least two tokens more than half of it"),
    ],
)
def test_tables_that_no_distance_fits_are_refused(kind, message):
    with pytest.raises(SettingsError, match=message):
        replace(tiny.architecture(OWN), attention=kind)

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, strategies as st

from jaxprune.model import Architecture, LayerSizes, Model, Sites, forward, logits, parameter_shapes
from jaxprune.model.padded import plain_batch
from jaxprune.pruning.cut import (
    compose_kept,
    cut,
    cut_architecture,
    gates_of,
    kept_units,
    put_queries,
    put_units,
    silenced,
    take_queries,
    take_units,
    unit_counts,
)

BERT = Architecture(
    family="bert",
    vocab=20,
    hidden=8,
    head_width=2,
    layers=(LayerSizes(groups=4, neurons=9), LayerSizes(groups=3, neurons=5)),
    max_positions=16,
    pooler="tanh",
    head="classification",
    labels=("a", "b"),
)
DECODER = dataclasses.replace(
    BERT,
    layers=(LayerSizes(groups=3, queries=2, neurons=6), LayerSizes(groups=2, queries=2, neurons=4)),
    norm="rms",
    norm_position="pre",
    gated=True,
    causal=True,
    attention_bias=False,
    feed_forward_bias=False,
    positions="none",
)
FAMILIES = {"bert": BERT, "decoder": DECODER}
families = pytest.mark.parametrize("architecture", FAMILIES.values(), ids=FAMILIES.keys())


def random_model(architecture: Architecture, seed: int = 0) -> Model:
    random = np.random.RandomState(seed)
    return Model(
        architecture,
        jax.tree.map(
            lambda shape: random.normal(0, 0.4, shape).astype(np.float32),
            parameter_shapes(architecture),
            is_leaf=lambda node: isinstance(node, tuple),
        ),
    )


@jax.jit
def run(model: Model, batch, gates=None):
    return forward(model.params, batch, model.architecture, Sites(gates=gates)).logits


def random_masks(architecture: Architecture, seed: int) -> list[np.ndarray]:
    random = np.random.RandomState(seed)
    return [random.rand(count) < 0.6 for count in unit_counts(architecture)]


@families
@pytest.mark.parametrize("seed", range(4))
def test_the_masked_model_and_the_cut_model_agree(architecture, seed):
    model, masks = random_model(architecture), random_masks(architecture, seed)
    if seed == 3:  # whole sublayers go
        masks[0][:], masks[3][:] = False, False
    batch = plain_batch(architecture, np.random.RandomState(seed).randint(0, 20, (2, 7)))
    masked = run(model, batch, gates_of(architecture, masks))
    small = cut(model, masks)
    assert small.architecture == cut_architecture(architecture, masks)
    np.testing.assert_allclose(run(small, batch), masked, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention_bias", [False, True])
@pytest.mark.parametrize("query_key_norm", [False, True])
def test_query_heads_that_go_are_as_good_as_silenced(attention_bias, query_key_norm):
    """Groups that stay keep two, then one of three query heads each, other ones in every group."""
    sizes = tuple(LayerSizes(groups=3, queries=3, neurons=5) for _ in range(2))
    switches = {"attention_bias": attention_bias, "query_key_norm": query_key_norm}
    architecture = dataclasses.replace(DECODER, layers=sizes, head_width=4, **switches)
    model, random = random_model(architecture), np.random.RandomState(0)
    masks = [np.ones(count, bool) for count in unit_counts(architecture)]
    masks[0] = np.array([[True, False, True], [False, False, False], [False, True, True]])
    masks[2] = np.array([[False, False, True], [True, False, False], [False, True, False]])
    batch = plain_batch(architecture, random.randint(0, 20, (2, 7)))
    small = cut(model, masks)
    assert [(size.groups, size.queries) for size in small.architecture.layers] == [(2, 2), (3, 1)]
    assert jax.tree.map(np.shape, small.params) == parameter_shapes(small.architecture)
    for full in (run(model, batch, gates_of(architecture, masks)), run(silenced(model, masks), batch)):
        np.testing.assert_allclose(run(small, batch), full, rtol=1e-5, atol=1e-5)
    p = model.params["layers"][0]["attention"]
    back = put_queries(p, masks[0], jax.tree.map(np.zeros_like, take_queries(p, masks[0])))
    assert not back["o"]["kernel"][masks[0]].any() and not back["q"]["kernel"][:, masks[0]].any()
    gone = ~masks[0]
    gone[1] = [False, False, True]  # of a group that goes, the first two were taken
    np.testing.assert_array_equal(back["o"]["kernel"][gone], p["o"]["kernel"][gone])
    first = kept_units(architecture, masks)
    assert first[0] == {"heads": [0, 2], "neurons": list(range(5)), "queries": [[0, 2], [1, 2]]}
    again = [np.ones(count, bool) for count in unit_counts(small.architecture)]
    again[0], again[2] = np.array([[False, True], [False, False]]), np.array([True, False, True])
    assert [
        layer["queries"] for layer in compose_kept(first, kept_units(small.architecture, again), small.architecture)
    ] == [
        [[2]],
        [[2], [1]],
    ]


@families
def test_a_cut_model_has_the_shapes_its_architecture_says_and_owns_them(architecture):
    model, masks = random_model(architecture), random_masks(architecture, 1)
    small = cut(model, masks)
    shapes = jax.tree.map(np.shape, small.params)
    assert shapes == parameter_shapes(small.architecture)
    assert unit_counts(small.architecture) == [int(mask.sum()) for mask in masks]
    for leaf in jax.tree.leaves(small.params["layers"]):
        assert leaf.flags.c_contiguous


def test_cutting_nothing_changes_nothing_and_cutting_edits_no_input():
    model = random_model(BERT)
    before = jax.tree.map(np.copy, model.params)
    same = cut(model, [np.ones(count, bool) for count in unit_counts(BERT)])
    assert same.architecture == BERT
    jax.tree.map(np.testing.assert_array_equal, same.params, before)
    cut(model, random_masks(BERT, 0))
    jax.tree.map(np.testing.assert_array_equal, model.params, before)


def test_cutting_twice_is_cutting_the_units_that_are_in_both():
    model, first = random_model(BERT), random_masks(BERT, 5)
    second = [np.arange(int(mask.sum())) % 2 == 0 for mask in first]
    both = []
    for mask, again in zip(first, second, strict=True):
        both.append(np.zeros_like(mask))
        both[-1][np.flatnonzero(mask)[again]] = True
    twice, once = cut(cut(model, first), second), cut(model, both)
    jax.tree.map(np.testing.assert_array_equal, twice.params, once.params)
    ids = np.arange(6)[None]
    np.testing.assert_array_equal(logits(twice, ids), logits(once, ids))


@pytest.mark.parametrize("half", ["attention", "feed_forward"])
@families
@given(data=st.data())
def test_put_is_the_inverse_of_take(architecture, half, data):
    full = random_model(architecture).params["layers"][0][half]
    count = unit_counts(architecture)[half == "feed_forward"]
    units = np.array(data.draw(st.lists(st.integers(0, count - 1), unique=True)), np.int64)
    small = take_units(half, full, units)
    jax.tree.map(np.testing.assert_array_equal, put_units(half, full, units, small), full)
    other = take_units(half, jax.tree.map(lambda leaf: -leaf, full), units)
    mixed = put_units(half, full, units, other)
    jax.tree.map(np.testing.assert_array_equal, take_units(half, mixed, units), other)
    rest = np.setdiff1d(np.arange(count), units)
    for name in full.keys() - {"norm"}:  # units that were not named keep their numbers
        before, after = take_units(half, full, rest)[name], take_units(half, mixed, rest)[name]
        np.testing.assert_array_equal(after["kernel"], before["kernel"])


def test_units_are_taken_inside_a_compiled_program():
    full, units = random_model(BERT).params["layers"][0]["attention"], np.array([3, 0])
    traced = jax.jit(lambda p, units: take_units("attention", p, units))(full, units)
    jax.tree.map(np.testing.assert_array_equal, traced, take_units("attention", full, units))


def test_put_ignores_padding_behind_the_units():
    full = random_model(BERT).params["layers"][0]["feed_forward"]
    units = np.array([1, 4])
    small = jax.tree.map(np.array, take_units("feed_forward", full, np.array([1, 4, 0, 0])))
    jax.tree.map(np.testing.assert_array_equal, put_units("feed_forward", full, units, small), full)


def test_kept_units_are_listed_per_layer():
    masks = [np.array([True, False, True]), np.array([False]), np.array([False, True]), np.array([True, True])]
    sizes = LayerSizes(groups=3, neurons=1), LayerSizes(groups=2, neurons=2)
    architecture = dataclasses.replace(BERT, layers=sizes)
    assert kept_units(architecture, masks) == [{"heads": [0, 2], "neurons": []}, {"heads": [1], "neurons": [0, 1]}]

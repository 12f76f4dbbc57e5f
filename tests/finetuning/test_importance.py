"""Importance from gates: every text's own gradient, and no weight gradient anywhere."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

import jaxprune as jp
from jaxprune.errors import NumericalError, SettingsError
from jaxprune.finetuning.importance import check_importance, gate_importance, gate_sums, least, normalised
from jaxprune.finetuning.losses import mean_loss
from jaxprune.finetuning.texts import prepare
from jaxprune.model import Sites, forward
from jaxprune.tokens.packing import pack


@pytest.fixture
def few(model, task):
    return prepare(model, replace(task, train=task.train[:9]))


def test_packed_texts_keep_their_own_gradients(model, few):
    """Against one text at a time, whose gates are one number a head."""
    packed = gate_importance(model, pack(few.encoded, model.architecture), few.targets, neurons=True)
    heads, neurons = np.zeros((2, 3)), np.zeros((2, 10))

    @jax.jit
    def gradient(batch, goal):
        def one(gates):
            sites = Sites(gates=[{"attention": h[:, None, None], "feed_forward": n} for h, n in gates])
            logits = forward(model.params, batch, model.architecture, sites).logits
            assert logits is not None
            return -jax.nn.log_softmax(logits[0, 0])[goal]

        return jax.grad(one)([(jnp.ones(3), jnp.ones(10))] * 2)

    from jaxprune.tokens.encoded import Encoded

    for number in range(9):
        alone = Encoded(few.encoded.ids[number : number + 1], few.encoded.types[number : number + 1])
        (batch,) = pack(alone, model.architecture)
        for layer, (h, n) in enumerate(gradient(jax.tree.map(jnp.asarray, batch), few.targets[number])):
            heads[layer] += np.abs(h)
            neurons[layer] += np.abs(n)
    tokens = few.encoded.tokens
    np.testing.assert_allclose(np.stack(packed.heads), heads / tokens, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(np.stack(packed.neurons), neurons / tokens, rtol=1e-4, atol=1e-8)
    squared = gate_importance(model, pack(few.encoded, model.architecture), few.targets, squared=True)
    assert not any(len(entry) for entry in squared.neurons)
    assert np.all(np.stack(squared.heads) <= np.stack(packed.heads) ** 2 * tokens + 1e-12)  # Σ g² ≤ (Σ |g|)²


def test_no_weight_gradient_is_computed_or_stored(model, few):
    """Beside a full backward pass: results of a few numbers, and temporaries without room for the weights'."""
    (batch,) = pack(few.encoded, model.architecture)
    wide = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (batch, few.targets[batch.index]))
    big = replace(model.architecture, vocab=50_000)  # weights that outweigh all activations
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), model.params)
    params["embed"]["token"] = jax.ShapeDtypeStruct((50_000, 12), jnp.float32)
    weights = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
    gates = gate_sums.lower(params, *wide, architecture=big, neurons=True).compile().memory_analysis()
    full = jax.jit(jax.grad(mean_loss), static_argnums=3).lower(params, *wide, big).compile().memory_analysis()
    assert gates is not None and full is not None
    assert full.output_size_in_bytes >= weights
    assert gates.output_size_in_bytes < 4 * 2 * (3 + 10) + 200
    assert gates.temp_size_in_bytes < weights / 2 < full.temp_size_in_bytes + full.output_size_in_bytes


def test_normalisation_by_hand():
    found = normalised([np.array([3.0, 4.0]), np.array([0.0, 10.0]), np.array([0.0, 0.0])])
    for ours, expected in zip(found, [[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]], strict=True):
        np.testing.assert_allclose(ours, expected)
    assert normalised([np.zeros(0), np.array([2.0])])[1].tolist() == [0.0]  # all equal: nothing stands out


@given(st.lists(st.lists(st.floats(0, 1), max_size=5), min_size=1, max_size=4), st.integers(0, 25))
def test_the_least_go(values, number):
    values = [np.array(entry) for entry in values]
    masks = least(values, number)
    flat, mask = np.concatenate(values), np.concatenate(masks)
    assert [len(entry) for entry in masks] == [len(entry) for entry in values]
    assert np.sum(~mask) == min(number, len(flat))
    assert flat[mask].min(initial=np.inf) >= flat[~mask].max(initial=-np.inf)


def test_importance_that_does_not_fit_is_refused(model):
    right = [np.ones(3)] * 2
    check_importance(jp.Importance(right, [np.zeros(0)] * 2), model.architecture)
    for wrong, says in (
        (jp.Importance([np.ones(3)], [np.ones(10)] * 2), r"\[3\] heads a layer, the model \[3, 3\]"),
        (jp.Importance(right, [np.ones(9)] * 2), r"\[9, 9\] neurons"),
        (jp.Importance([np.ones(3), np.full(3, np.nan)], []), "heads holds NaN"),
    ):
        with pytest.raises(SettingsError, match=says):
            check_importance(wrong, model.architecture)


def test_a_gradient_that_is_not_finite_names_the_layer(model, few):
    params = jax.tree.map(lambda leaf: leaf, model.params)
    params["layers"][1]["attention"]["o"]["kernel"] = jnp.full((3, 1, 4, 12), jnp.nan)
    with pytest.raises(NumericalError, match="in the attention of layer"):
        gate_importance(model.replace(params=params), pack(few.encoded, model.architecture), few.targets)

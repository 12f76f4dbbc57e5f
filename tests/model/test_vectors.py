"""Vectors of texts: every pooling mode computed by hand, whatever the padding and packing; what their Fisher is of."""

from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from jaxprune.model import logits
from jaxprune.model.embedding import DenseActivation, DenseStep, Embedding, PoolingMode
from jaxprune.model.model import Batch
from jaxprune.model.pooling import vectors
from jaxprune.model.predictions import direction_divergence, direction_factors, unit
from tests.helpers import tiny

RANDOM = np.random.RandomState(0)
STATES = RANDOM.normal(0, 1, (2, 7, 4)).astype(np.float32)
SEGMENTS = np.array([[0, 1, 1, 1, 2, 2, 0], [1, 2, 2, 3, 3, 3, 3]], np.int32)  # texts packed, padding on both sides
FIRST = np.array([[1, 4, 0], [0, 1, 3]], np.int32)


def batch(pool=FIRST):
    zeros = jnp.zeros((2, 7), jnp.int32)
    index = jnp.array([[0, 1, -1], [2, 3, 4]])
    return Batch(zeros, jnp.asarray(SEGMENTS), zeros, zeros, jnp.asarray(pool), index)


BY_HAND = {
    "cls": lambda x: x[0],
    "max": lambda x: x.max(0),
    "mean": lambda x: x.mean(0),
    "mean_sqrt_len_tokens": lambda x: x.sum(0) / np.sqrt(len(x)),
    "weightedmean": lambda x: np.arange(1, len(x) + 1) @ x / np.arange(1, len(x) + 1).sum(),
    "lasttoken": lambda x: x[-1],
}


@pytest.mark.parametrize("mode", get_args(PoolingMode))
def test_every_mode_is_what_it_is_by_hand(mode):
    out = np.asarray(vectors((), jnp.asarray(STATES), batch(), Embedding(pooling=(mode,))))
    for row, text in ((0, 1), (0, 2), (1, 1), (1, 2), (1, 3)):
        own = STATES[row][SEGMENTS[row] == text]
        np.testing.assert_allclose(out[row, text - 1], BY_HAND[mode](own), rtol=0, atol=1e-6)
    assert np.isfinite(out).all()  # the place without a text too


def test_several_modes_stand_behind_each_other_and_a_prompt_may_be_left_out():
    settings = Embedding(pooling=("max", "mean"))
    out = np.asarray(vectors((), jnp.asarray(STATES), batch(FIRST + np.array([[1], [0]])), settings))
    own = STATES[0][2:4]  # without the first token of the first text
    np.testing.assert_allclose(out[0, 0], np.concatenate([own.max(0), own.mean(0)]), rtol=0, atol=1e-6)
    weighted = Embedding(pooling=("weightedmean",))
    out = np.asarray(vectors((), jnp.asarray(STATES), batch(FIRST + np.array([[1], [0]])), weighted))
    np.testing.assert_allclose(out[0, 0], (2 * own[0] + 3 * own[1]) / 5, rtol=0, atol=1e-6)  # places stay


def test_dense_layers_and_length_one():
    activations = {
        "identity": lambda x: x, "tanh": np.tanh, "relu": lambda x: np.maximum(x, 0),
        "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2, "silu": lambda x: x / (1 + np.exp(-x)),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    }  # fmt: skip
    assert activations.keys() == {*get_args(DenseActivation)}
    kernel, bias = RANDOM.normal(0, 1, (4, 3)).astype(np.float32), RANDOM.normal(0, 1, 3).astype(np.float32)
    for name in get_args(DenseActivation):
        function = activations[name]
        settings = Embedding(dense=(DenseStep(outputs=3, activation=name),), normalize=True)
        head = [{"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}]
        out = np.asarray(vectors(head, jnp.asarray(STATES), batch(), settings))[1, 2]
        expected = function(STATES[1, 3:].mean(0) @ kernel + bias)
        np.testing.assert_allclose(out, expected / np.linalg.norm(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", get_args(PoolingMode))
def test_padding_on_either_side_changes_nothing(mode):
    model = tiny.random_model(tiny.config("bert", "none"))
    model = model.replace(
        architecture=replace(model.architecture, head="embedding", embedding=Embedding(pooling=(mode,)))
    )
    ids = np.array([[5, 6, 7]])
    expected = np.asarray(logits(model, ids))
    padded = np.asarray(logits(model, np.pad(ids, [(0, 0), (0, 4)]), np.pad(np.ones_like(ids), [(0, 0), (0, 4)])))
    np.testing.assert_allclose(padded, expected, rtol=0, atol=1e-5)


def test_the_direction_alone_is_measured():
    """F = JᵀJ of the unit vector: nothing along the vector itself, and the less the longer it is."""
    x = jnp.asarray(RANDOM.normal(0, 1, (1, 2, 5)), jnp.float32)
    draw = jax.vmap(lambda key: direction_factors(x, batch(), 1.0, key, 4)[0])
    seeds = np.asarray(draw(jax.random.split(jax.random.key(0), 20000)), np.float64)
    for text in range(2):
        v, c = np.asarray(x[0, text], np.float64), seeds[:, 0, text]
        length = float(np.linalg.norm(v))
        u = v / length
        assert np.abs(c @ u).max() < 1e-5
        expected = (np.eye(5) - np.outer(u, u)) / length**2
        np.testing.assert_allclose(c.T @ c / len(c), expected, rtol=0, atol=0.05 / length**2)  # 20,000 draws


def test_the_divergence_is_one_minus_the_cosine_whatever_the_length():
    x, y = (jnp.asarray(RANDOM.normal(0, 1, (1, 3, 5)), jnp.float32) for _ in range(2))
    cosine = jnp.sum(unit(x) * unit(y), axis=-1)
    np.testing.assert_allclose(direction_divergence(3 * x, y, None, 1.0), 1 - cosine, rtol=0, atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(direction_divergence(x, y, None, 1.0)))(jnp.zeros_like(x))
    assert np.isfinite(np.asarray(gradient)).all()

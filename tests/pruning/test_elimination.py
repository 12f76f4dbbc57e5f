"""Elimination curves: the damage that the best refit leaves, whatever is computed in chunks or blocks."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.errors import NumericalError
from jaxprune.pruning.elimination import curve, eliminate_heads, eliminate_neurons, positive_inverse


def problem(features: int, hidden: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * features, features)) @ rng.normal(size=(features, features))
    gram = (x.T @ x / len(x) + 0.1 * np.eye(features)).astype(np.float32)
    return gram, rng.normal(size=(features, hidden)).astype(np.float32)


def exact_damage(gram, weight, gone):
    """tr(W_gᵀ [G⁻¹]_gg⁻¹ W_g): what the best refit of the others cannot repair."""
    inverse = np.linalg.inv(gram.astype(np.float64))
    return float(np.sum(weight[gone] * np.linalg.solve(inverse[np.ix_(gone, gone)], weight[gone])))


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_elimination_curve_is_the_damage_left_by_the_best_refit(chunk):
    gram, weight = problem(20, 5)
    order, damage = eliminate_neurons(jnp.asarray(gram), jnp.asarray(weight), chunk)
    found = curve(order, damage, 20)
    assert sorted(found.order) == list(range(20))
    for removed in (1, 7, 13, 20):
        expected = exact_damage(gram, weight, found.order[:removed])
        np.testing.assert_allclose(found.damage[removed], expected, rtol=2e-3)  # float32 downdates


def test_elimination_beats_removing_by_size():
    # Two copies of one feature: each looks large, and either can go for free.
    gram, weight = problem(6, 3)
    gram = np.pad(gram, (0, 1), mode="edge") + np.diag([0, 0, 0, 0, 0, 0, 1e-3]).astype(np.float32)
    weight = np.concatenate([weight, weight[-1:] * 9])
    order, _ = eliminate_neurons(jnp.asarray(gram), jnp.asarray(weight), 1)
    assert int(order[0]) in (5, 6)


def test_groups_are_eliminated_whole():
    gram, weight = problem(12, 4, seed=1)
    found = eliminate_heads(gram, weight, 4)
    for removed in range(1, 5):
        gone = np.concatenate([np.arange(3 * unit, 3 * unit + 3) for unit in found.order[:removed]])
        np.testing.assert_allclose(found.damage[removed], exact_damage(gram, weight, gone), rtol=2e-3)


@pytest.mark.parametrize("prices", [(1, 0), (1, 100), (100, 1)])
def test_query_heads_leave_groups_evenly_or_groups_go_whole(prices):
    gram, weight = problem(24, 4, seed=2)
    found = eliminate_heads(gram, weight, 4, 3, prices)
    assert found.sizes is not None and found.groups is not None and sorted(found.order) == list(range(12))
    for step in range(len(found.sizes) + 1):
        mask = found.mask(step)
        assert found.steps(mask) == step
        left = mask.reshape(4, 3).sum(axis=1)
        assert len(set(left[left > 0])) <= 1  # groups that stay are alike
        assert 4 - np.sum(left > 0) == found.groups[:step].sum()
        gone = np.flatnonzero(np.repeat(~mask, 2))
        np.testing.assert_allclose(found.damage[step], exact_damage(gram, weight, gone), rtol=2e-3)
    if prices == (1, 100):  # keys and values are dear: groups go whole
        assert found.sizes.tolist() == [3, 3, 3, 3]
    else:
        assert found.groups[0] == 0


def test_an_elimination_that_broke_down_is_an_error():
    with pytest.raises(NumericalError, match="raise elimination_ridge"):
        curve(jnp.array([0, -1]), jnp.array([1.0, 0.0]), 2)


@pytest.mark.parametrize("n", [1, 3, 20, 1100])  # the last in halves of halves, in blocks that differ in size
def test_inverse_of_a_positive_definite_matrix(n):
    gram, _ = problem(n, 1)
    gram = gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram))) + np.eye(n, dtype=np.float32)
    inverse = np.asarray(positive_inverse(jnp.asarray(gram)))
    np.testing.assert_allclose(inverse, np.linalg.inv(gram.astype(np.float64)), atol=2e-6)  # float32; entries up to 1
    np.testing.assert_array_equal(inverse, inverse.T)


def test_a_gram_that_is_not_positive_definite_is_an_error():
    order, damage = eliminate_neurons(-jnp.eye(4), jnp.ones((4, 2)), 2)
    with pytest.raises(NumericalError, match="0 of 4 units"):
        curve(order, damage, 4)

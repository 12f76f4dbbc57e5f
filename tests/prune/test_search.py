"""Thresholds, elimination curves and allocation."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from jaxprune.errors import NumericalError
from jaxprune.prune.search import (
    Curve,
    allocate,
    curve,
    eliminate_heads,
    eliminate_neurons,
    keep_mask,
    psd_root,
    slopes,
    threshold_mask,
)

units = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=1, max_size=40)


@given(units, st.integers(0, 200))
def test_search_fits_budget_and_respects_order(pairs, budget):
    scores, costs = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    mask = keep_mask(scores, costs, budget)
    assert costs[mask].sum() <= budget
    assert scores[mask].min(initial=np.inf) >= scores[~mask].max(initial=-np.inf)
    assert np.all(mask <= keep_mask(scores, costs, budget + 1))  # a larger budget never drops a unit


def test_published_threshold_drops_ties():
    scores = np.array([3.0, 1.0, 1.0, 2.0])
    assert keep_mask(scores, np.ones(4, int), 3).tolist() == [True, True, False, True]
    assert threshold_mask(scores, np.ones(4, int), 3).tolist() == [True, False, False, True]
    assert threshold_mask(scores, np.ones(4, int), 4).all()


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


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_slopes_never_fall_and_keep_the_end(steps):
    damage = np.concatenate([[0.0], np.cumsum(steps)])
    costs = 1 + np.arange(len(steps)) % 3
    found = slopes(damage, costs)
    assert np.all(np.diff(found) >= -1e-9)
    np.testing.assert_allclose(found @ costs, damage[-1], rtol=1e-9, atol=1e-9)


def test_allocation_takes_from_where_it_hurts_least():
    cheap = Curve(np.array([2, 0, 1]), np.array([0.0, 0.1, 0.2, 0.3]))
    dear = Curve(np.array([1, 0]), np.array([0.0, 5.0, 10.0]))
    masks = allocate([cheap, dear], [np.ones(3, int), np.ones(2, int)], 3)
    assert masks[0].tolist() == [False, True, False] and masks[1].all()


def test_allocation_counts_what_a_step_saves():
    """Three query heads without their keys and values, then a group: the second step saves most for its damage."""
    heads = Curve(np.arange(6), np.array([0.0, 1.0, 1.5]), np.array([3, 3]), np.array([0, 1]))
    neurons = Curve(np.arange(4), np.array([0.0, 0.4, 0.8, 1.2, 1.6]))
    costs = [np.array([3, 9]), np.ones(4, int)]  # 12 for 1.5, or 4 for 1.6
    assert [mask.sum() for mask in allocate([heads, neurons], costs, 4)] == [0, 4]
    assert [mask.sum() for mask in allocate([heads, neurons], costs, 3)] == [0, 3]


def test_roots_of_second_moments_of_few_tokens():
    """Ten float32 gradients of 200 dimensions, one direction far above the others: eigenvalues of rounding size."""
    random = np.random.RandomState(0)
    g = (random.normal(size=(10, 200)) * np.array([100.0] + [1.0] * 9)[:, None]).astype(np.float32)
    moments = g.T @ g
    assert np.linalg.eigvalsh(moments.astype(np.float64)).min() < -1e-6 * np.trace(moments) / 200
    root = psd_root(moments)
    np.testing.assert_allclose(root @ root.T, moments, atol=2e-3 * np.trace(moments) / 200)
    with pytest.raises(NumericalError, match="not positive semidefinite; calibrate on more texts"):
        psd_root(-np.eye(3, dtype=np.float32))

"""Thresholds, elimination curves and allocation."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from jaxprune.errors import NumericalError
from jaxprune.pruning.allocation import Curve, allocate, keep_mask, psd_root, slopes, threshold_mask

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


def test_roots_where_rounding_outweighs_all_but_one_direction():
    """Rounding of 3 · 10^-5 on 400 dimensions, of which one holds nearly all."""
    random = np.random.RandomState(0)
    g = random.normal(size=400) * (1 + 1e-3 * random.normal(size=(2000, 400)))
    moments = g.T @ g
    rounding = np.triu(moments * random.normal(size=moments.shape) * 3e-5)
    summed = (moments + rounding + np.triu(rounding, 1).T).astype(np.float32)
    mean = np.trace(moments) / 400
    assert np.linalg.eigvalsh(summed.astype(np.float64)).min() < -1e-3 * mean  # further than is added
    root = psd_root(summed)
    assert np.isfinite(root).all()
    np.testing.assert_allclose(root @ root.T, moments, atol=5e-3 * mean)
    with pytest.raises(NumericalError, match="not positive semidefinite"):
        psd_root(summed - 1e-2 * np.linalg.eigvalsh(moments).max() * np.eye(400))  # no rounding

"""Least squares: against NumPy, with padding, with too little data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.errors import NumericalError
from jaxprune.pruning import least_squares as refit
from jaxprune.pruning.least_squares import accumulate, empty_normal, first_features, solve, solve_scales, squared_error


def data(n=6, hidden=3, tokens=80, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2, tokens // 2, n)).astype(np.float32)
    target = features @ rng.normal(size=(n, hidden)) + 0.3 + 0.1 * rng.normal(size=(2, tokens // 2, hidden))
    weight = rng.random((2, tokens // 2)).astype(np.float32)
    return features, target.astype(np.float32), weight


def sums(features, target, weight):
    empty = jax.tree.map(jnp.asarray, empty_normal(features.shape[-1], target.shape[-1]))
    return accumulate(empty, *map(jnp.asarray, (features, target, weight)))


@pytest.mark.parametrize("intercept", [True, False])
def test_solution_is_weighted_least_squares(intercept):
    features, target, weight = data()
    old = np.zeros((6, 3))
    fit = solve(sums(features, target, weight), old, np.zeros(3), 0.0, 0.0, intercept)
    design = features.reshape(-1, 6)
    if intercept:
        design = np.concatenate([design, np.ones((len(design), 1), np.float32)], axis=1)
    root = np.sqrt(weight.reshape(-1, 1))
    expected = np.linalg.lstsq(design * root, target.reshape(-1, 3) * root, rcond=None)[0]
    np.testing.assert_allclose(fit.weight, expected[:6], atol=1e-4)
    if intercept:
        np.testing.assert_allclose(fit.bias, expected[6], atol=1e-4)
    error = (design @ expected - target.reshape(-1, 3)) * root
    np.testing.assert_allclose(fit.residual, np.sum(error**2) / np.sum((target.reshape(-1, 3) * root) ** 2), rtol=1e-3)
    assert int(fit.rank) == 6


def test_padding_changes_nothing():
    features, target, weight = data()
    padded = np.concatenate([features, np.ones((*features.shape[:2], 2), np.float32)], axis=-1)
    args = (np.ones((6, 3)), np.zeros(3), 1.0, 1.0, True)
    alone, with_padding = (solve(sums(these, target, weight), *args) for these in (features, padded))
    np.testing.assert_allclose(with_padding.weight, alone.weight, atol=1e-6)


def test_too_few_tokens_are_reported_and_stay_near_the_old_weights():
    features, target, weight = data(n=20, tokens=8)
    old = np.ones((20, 3))
    fit = solve(sums(features, target, weight), old, np.zeros(3), 0.1, 1.0, False)
    assert fit.rank == 8
    assert np.isfinite(fit.weight).all()
    far = solve(sums(features, target, weight), old, np.zeros(3), 1e6, 1.0, False)
    np.testing.assert_allclose(far.weight, old, atol=1e-2)  # a huge ridge gives the old weights back


def test_no_unique_solution_is_an_error():
    features, target, weight = data()
    twice = np.concatenate([features, features], axis=-1)
    with pytest.raises(NumericalError, match="raise the ridge"):
        solve(sums(twice, target, weight), np.ones((12, 3)), np.zeros(3), 0.0, 1.0, False)


def test_no_features_leave_the_bias():
    features, target, weight = data()
    fit = solve(sums(features, target, weight), np.ones((0, 3)), np.zeros(3), 1.0, 1.0, True)
    mean = np.average(target.reshape(-1, 3), axis=0, weights=weight.reshape(-1))
    np.testing.assert_allclose(fit.bias, mean, atol=1e-5)
    assert fit.weight.shape == (0, 3) and fit.rank == 0


def test_refit_never_fits_worse_than_the_old_weights():
    features, target, weight = data()
    old = np.random.default_rng(1).normal(size=(6, 3))
    fit = solve(sums(features, target, weight), old, np.zeros(3), 0.1, 1.0, True)
    assert fit.residual < fit.before


def test_the_ridge_is_worth_so_many_tokens_of_independent_features():
    features, target, weight = data(tokens=2000)
    weight = np.ones_like(weight)
    centred = features - features.mean(axis=(0, 1))
    old = np.random.default_rng(1).normal(size=(6, 3))
    found = solve(sums(features, target, weight), old, np.zeros(3), 500.0, 1.0, True)
    # The same as 500 more tokens: one group a feature, in which only that feature varies, by its own spread.
    spread = centred.reshape(-1, 6).std(axis=0) * np.sqrt(500)
    design = np.concatenate([centred.reshape(-1, 6), np.diag(spread)])
    goal = target.reshape(-1, 3) - target.reshape(-1, 3).mean(axis=0)
    expected = np.linalg.lstsq(design, np.concatenate([goal, spread[:, None] * old]), rcond=None)[0]
    np.testing.assert_allclose(found.weight, expected, atol=1e-4)


def test_scales_recover_what_was_scaled():
    features, _, weight = data(n=6)
    kernel = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
    factors = np.repeat([2.0, 0.5, 1.0], 2).astype(np.float32)  # three units of two features
    target = features @ (kernel * factors[:, None]) + 1.0
    fit = solve_scales(sums(features, target, weight), kernel, np.ones(3), 0.0, 3)
    np.testing.assert_allclose(fit.weight, kernel * factors[:, None], rtol=1e-3, atol=1e-4)


def test_scales_of_a_sublayer_that_lost_everything():
    features, target, weight = data()
    fit = solve_scales(sums(features, target, weight), np.ones((0, 3), np.float32), np.ones(3), 1e-3, 0)
    assert fit.weight.shape == (0, 3)
    np.testing.assert_array_equal(fit.bias, 1)


@pytest.mark.parametrize("intercept", [True, False])
def test_both_residuals_are_the_losses_of_their_weights(intercept):
    features, target, weight = data()
    rng = np.random.default_rng(3)
    old_weight, old_bias = rng.normal(size=(6, 3)), rng.normal(size=3)
    normal = sums(features, target, weight)
    fit = solve(normal, old_weight, old_bias, 5.0, 0.7, intercept)
    whole = first_features(normal, 6)
    np.testing.assert_allclose(
        fit.residual, squared_error(whole, fit.weight, fit.bias), rtol=1e-4
    )  # the sums are float32
    np.testing.assert_allclose(fit.before, squared_error(whole, old_weight, old_bias), rtol=1e-4)


def test_of_many_features_the_report_is_an_estimate(monkeypatch):
    features, target, weight = data(n=8, hidden=40, tokens=400)
    features[..., 7] = 0  # a feature that never speaks
    old = np.random.default_rng(4).normal(size=(8, 40))
    args = sums(features, target, weight), old, np.zeros(40), 1.0, 1.0, True
    exact = solve(*args)
    monkeypatch.setattr(refit, "EXACT", 4)
    monkeypatch.setattr(refit, "PROBES", 30)
    estimated = solve(*args)
    np.testing.assert_array_equal(estimated.weight, exact.weight)
    assert estimated.rank == exact.rank == 7 and estimated.residual == exact.residual
    np.testing.assert_allclose(estimated.before, exact.before, rtol=0.15)  # 30 of 40 directions, drawn at random
    assert estimated.before != exact.before


def test_of_many_features_the_rank_is_at_most_the_number_of_tokens(monkeypatch):
    monkeypatch.setattr(refit, "EXACT", 4)
    features, target, weight = data(n=20, tokens=8)
    weight[0, 0] = 0  # this one counts for nothing
    assert solve(sums(features, target, weight), np.ones((20, 3)), np.zeros(3), 0.1, 1.0, False).rank == 7


def test_features_that_hardly_vary_do_not_stop_the_fit():
    features, target, weight = data(n=8, tokens=4000)
    features[..., 5:] = 100 + 1e-4 * features[..., 5:]  # below what float32 sums of squares resolve
    old = np.random.default_rng(5).normal(size=(8, 3))
    fit = solve(sums(features, target, weight), old, np.zeros(3), 700.0, 1.0, True)
    assert fit.rank < 8 and fit.residual < fit.before
    np.testing.assert_allclose(fit.weight[5:], old[5:], atol=0.3)  # little is known of them: they stay near

"""The loss and the divergence of pairs in a batch, by hand; what is no negative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.errors import DataError
from jaxprune.model import Batch
from jaxprune.model.in_batch import SCALE, anchors, ranking_loss, similarity_divergence
from jaxprune.model.targets import pair_targets
from tests.model.test_heads import softmax


def batch_of(index):
    index = jnp.asarray(index, jnp.int32)
    nothing = jnp.zeros((len(index), 2), jnp.int32)
    return Batch(nothing, nothing, nothing, nothing, 0 * index, index)


def vectors(shape, seed=0):
    return np.random.RandomState(seed).normal(0, 1, shape).astype(np.float32)


def cosines(x, y):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T


def test_the_loss_is_a_cross_entropy_over_all_texts_that_are_no_anchors():
    x, index = vectors((2, 6, 5)), np.array([[0, 1, 2, 3, 4, 5], [6, 7, 8, -1, -1, -1]])
    targets = np.zeros((2, 6, 3), np.int32)
    numbers = np.maximum(index, 0)
    targets[..., 0], targets[..., 1], targets[..., 2] = numbers // 3, numbers % 3, numbers
    flat = x.reshape(-1, 5)[index.ravel() >= 0]
    candidates = np.concatenate([flat[1::3], flat[2::3]])  # positives, then negatives
    scores = SCALE * cosines(flat[::3], candidates)
    expected = [-np.log(softmax(scores))[i, i] for i in range(3)]
    found = np.asarray(ranking_loss(jnp.asarray(x), jnp.asarray(targets), batch_of(index)))
    counted = np.asarray(anchors(jnp.asarray(targets))) & (index >= 0)
    np.testing.assert_allclose(found[counted], expected, rtol=1e-5)  # float32
    assert np.all(found[~counted & (index >= 0)] == 0)
    teacher = vectors((2, 6, 3), 1)  # of another width
    p = softmax(
        SCALE
        * cosines(*(teacher.reshape(-1, 3)[index.ravel() >= 0][at] for at in (slice(0, None, 3), [1, 4, 7, 2, 5, 8])))
    )
    gap = np.sum(p * (np.log(p) - np.log(softmax(scores))), axis=1)
    found = np.asarray(
        similarity_divergence(jnp.asarray(x), jnp.asarray(teacher), jnp.asarray(targets), batch_of(index))
    )
    np.testing.assert_allclose(found[counted], gap, rtol=1e-4, atol=1e-5)


def test_texts_that_belong_to_an_anchor_are_none_of_its_negatives():
    # Pairs by text: A-B, A-C, D-B, E-A. For A neither B, C nor A itself is wrong.
    texts = np.array([0, 1, 0, 2, 3, 1, 4, 0])
    targets = np.stack([np.arange(8) // 2, np.arange(8) % 2, texts], axis=1)[None].astype(np.int32)
    by_text = vectors((5, 6))
    x, batch = by_text[texts][None], batch_of(np.arange(8)[None])
    losses = np.asarray(ranking_loss(jnp.asarray(x), jnp.asarray(targets), batch))[0]
    s = np.exp(SCALE * cosines(by_text, by_text))
    a, b, c, d, e = range(5)
    np.testing.assert_allclose(losses[[0, 2]], 0, atol=1e-6)  # nothing is left that does not belong to A
    np.testing.assert_allclose(losses[4], np.log((s[d, b] + s[d, c] + s[d, a]) / s[d, b]), rtol=1e-4)
    np.testing.assert_allclose(losses[6], np.log((s[e, a] + 2 * s[e, b] + s[e, c]) / s[e, a]), rtol=1e-4)
    slope = jax.grad(lambda x: jnp.sum(ranking_loss(x, jnp.asarray(targets), batch)))(jnp.asarray(x))
    assert np.isfinite(np.asarray(slope)).all()


def test_without_pairs_nothing_is_compared_and_directions_are_what_a_teacher_shows():
    x, y, batch = jnp.asarray(vectors((1, 3, 4))), jnp.asarray(vectors((1, 3, 4), 1)), batch_of([[0, 1, 2]])
    none = jnp.zeros((1, 3, 0), jnp.int32)
    assert np.all(np.asarray(ranking_loss(x, none, batch)) == 0) and np.all(np.asarray(anchors(none)))
    apart = np.asarray(similarity_divergence(x, y, none, batch))
    np.testing.assert_allclose(apart[0], 1 - np.diag(cosines(np.asarray(x[0]), np.asarray(y[0]))), rtol=1e-5)


@pytest.mark.parametrize("targets", [np.zeros((4, 2), int), np.zeros(4, int), np.zeros((4, 3))])
def test_targets_that_are_no_pairs_are_refused(targets):
    pair_targets(np.zeros((4, 0), int), 0)
    with pytest.raises(DataError, match="pair, role and number"):
        pair_targets(targets, 0)

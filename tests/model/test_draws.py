"""Tokens drawn by two numbers a row: with their probabilities, and never one that has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.model.draws import BLOCK, _first_above, draw_tokens


def logits_of(vocab):
    """Tokens of very different probability, a tenth of them ruled out."""
    random = np.random.RandomState(vocab)
    logits = random.standard_normal(vocab) * 2
    logits[random.permutation(vocab)[: vocab // 10]] = -np.inf
    return logits.astype(np.float32)


@pytest.mark.parametrize("vocab", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_tokens_come_as_often_as_they_are_likely(vocab):
    logits, count = logits_of(vocab), 20000
    keys = jax.random.split(jax.random.key(3), count)
    drawn = np.bincount(draw_tokens(keys, jnp.broadcast_to(logits, (count, vocab))), minlength=vocab)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    assert drawn.sum() == count and not drawn[p == 0].any()
    # Pearson's statistic, over groups of about equal tokens: its mean is the freedom, its variance twice that.
    groups = np.array_split(np.argsort(p), min(vocab, 40))
    seen, meant = (np.array([numbers[group].sum() for group in groups], np.float64) for numbers in (drawn, p * count))
    statistic = np.sum((seen[meant > 5] - meant[meant > 5]) ** 2 / meant[meant > 5])
    freedom = np.sum(meant > 5)
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)


def test_what_has_no_probability_is_not_drawn_at_either_end():
    """Of rows with nothing at their beginning, their end, or anywhere but once; by the numbers next to 0 and 1."""
    vocab = 3 * BLOCK
    rows = np.full((4, vocab), -np.inf, np.float32)
    rows[0, BLOCK + 5 : BLOCK + 9] = 0
    rows[1, -1] = rows[2, 0] = 0
    rows[3, [1, BLOCK + 1]] = 0, -40.0
    keys = jax.random.split(jax.random.key(0), 2000)
    for row in rows:
        drawn = np.asarray(draw_tokens(keys, jnp.broadcast_to(row, (2000, vocab))))
        assert np.isfinite(row[drawn]).all()
    weights, ends = np.array([[0, 0, 2.0, 1e-3, 5.0, 0, 0]] * 2, np.float32), np.array([0, 1 - 2**-24], np.float32)
    assert _first_above(jnp.asarray(weights), jnp.asarray(ends)).tolist() == [2, 4]


def test_logits_in_half_precision_are_summed_in_float32():
    logits = jnp.zeros((4000, 4 * BLOCK), jnp.bfloat16)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = draw_tokens(keys, logits)
    assert drawn.tolist() == draw_tokens(keys, logits.astype(jnp.float32)).tolist()


def test_a_row_is_drawn_by_its_key_alone():
    logits = jnp.stack([jnp.asarray(logits_of(700))] * 6)
    keys = jax.random.split(jax.random.key(1), 6)
    together = draw_tokens(keys, logits)
    alone = [int(draw_tokens(keys[row : row + 1], logits[row : row + 1])[0]) for row in range(6)]
    assert together.tolist() == alone and len(set(alone)) > 1

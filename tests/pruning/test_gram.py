"""Symmetric sums of which only the upper blocks are computed."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.pruning.gram import add_gram, whole


@pytest.mark.parametrize("n", [0, 1, 5, 64, 65, 300])  # one block, two, and four of which the last is smaller
@pytest.mark.parametrize("weighted", [False, True])
def test_two_batches_sum_to_the_whole_product(n, weighted):
    rng = np.random.default_rng(n)
    x, weight = rng.normal(size=(40, n)), rng.random(40) if weighted else np.ones(40)
    total = jnp.zeros((n, n))
    for rows in (slice(0, 25), slice(25, 40)):
        given = jnp.asarray(weight[rows], jnp.float32) if weighted else None
        total = add_gram(total, jnp.asarray(x[rows], jnp.float32), given)
    np.testing.assert_allclose(whole(np.asarray(total)), (x * weight[:, None]).T @ x, atol=1e-5)  # float32

"""Products in half precision: sums in float32, gradients of weights that were never rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.model.product import product

HALF = jnp.bfloat16


def arrays(*shapes):
    random = np.random.RandomState(0)
    return [jnp.asarray(random.randn(*shape).astype(np.float32)) for shape in shapes]


@pytest.mark.parametrize(
    "spec, shapes",
    [
        ("rli,io->rlo", ((2, 5, 7), (7, 3))),
        ("bqgnw,bkgw->bgnqk", ((2, 4, 2, 3, 5), (2, 4, 2, 5))),
        ("bgnqk,bkgw->bqgnw", ((2, 2, 3, 4, 4), (2, 4, 2, 5))),
        ("rli,io->rlo", ((2, 5, 7), (7, 0))),  # all units of a sublayer are gone
    ],
)
def test_half_precision_is_the_product_of_rounded_numbers(spec, shapes):
    x, y = arrays(*shapes)
    x = x.astype(HALF)
    exact = lambda x, y: jnp.einsum(spec, x, y)  # noqa: E731
    rounded = x.astype(jnp.float32), y.astype(HALF).astype(jnp.float32)
    found, back = jax.vjp(lambda x, y: product(spec, x, y, jnp.float32), x, y)
    expected, exact_back = jax.vjp(exact, *rounded)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # float32 sums in another order
    (g,) = arrays(found.shape)
    of_x, of_y = back(g)
    exact_x, exact_y = exact_back(g.astype(HALF).astype(jnp.float32))
    assert (of_x.dtype, of_y.dtype) == (HALF, jnp.float32)
    np.testing.assert_allclose(of_y, exact_y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_x.astype(jnp.float32), exact_x, rtol=2**-8, atol=1e-5)  # rounded to 8 bits at the end


def test_float32_is_plain_and_weights_in_half_are_widened():
    x, y = arrays((2, 5, 7), (7, 3))
    np.testing.assert_array_equal(product("rli,io->rlo", x, y), jnp.einsum("rli,io->rlo", x, y))
    found = product("rli,io->rlo", x, y.astype(HALF))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, jnp.einsum("rli,io->rlo", x, y.astype(HALF).astype(jnp.float32)), rtol=1e-6)


def test_many_small_terms_are_not_lost():
    ones = jnp.ones((1, 1, 4096), HALF)
    # In bfloat16 a running sum of ones stops at 256.
    assert float(product("rli,io->rlo", ones, jnp.ones((4096, 1)))[0, 0, 0]) == 4096
    slope = jax.grad(lambda w: product("rli,io->rlo", jnp.ones((1, 4096, 1), HALF), w).astype(jnp.float32).sum())
    assert float(slope(jnp.ones((1, 1)))[0, 0]) == 4096

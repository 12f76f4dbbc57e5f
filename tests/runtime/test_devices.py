"""Arrays on their way to the device: copies, and no program for their shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.runtime.devices import Devices, placed


def arrays(size):
    return {"a": np.arange(size, dtype=np.float32), "b": (np.ones((size, 2), jnp.bfloat16), np.arange(size))}


@pytest.mark.parametrize("put", [placed, Devices().fetch, Devices().rows, Devices().everywhere])
def test_arrays_are_copied_without_a_program(compilations, put):
    given = arrays(1237)
    with compilations() as seen:
        there = put(given)
    assert not seen
    given["a"][:] = 7
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(there))
    np.testing.assert_array_equal(there["a"], np.arange(1237))
    assert there["b"][0].dtype == jnp.bfloat16 and there["b"][1].dtype == jnp.int32


def test_arrays_that_are_there_stay_and_are_copied_where_they_may_be_donated():
    x = jnp.arange(5.0)
    assert placed([x])[0] is x and Devices().fetch([x])[0] is x
    copy = Devices().everywhere([x])[0]
    assert copy is not x and copy.unsafe_buffer_pointer() != x.unsafe_buffer_pointer()


def test_donating_a_placed_array_leaves_what_it_came_from():
    original = np.zeros(1000, np.float32)
    added = jax.jit(lambda x: x + 1, donate_argnums=0)(placed(original))
    assert float(added[0]) == 1.0 and not original.any()


def test_the_default_device_is_that_of_the_context():
    host = jax.devices("cpu")[-1]
    with jax.default_device(host):
        assert placed(np.zeros(3)).devices() == {host}

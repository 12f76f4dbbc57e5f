"""A model whose matrices lie in two parts computes what the whole one does, and only one part has gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from jaxprune.finetuning.recap.scatter import join, split
from jaxprune.finetuning.recap.selection import train_rows
from jaxprune.finetuning.recap.sweep import row_scores
from jaxprune.model import forward
from jaxprune.model.architecture import HALVES
from jaxprune.model.padded import plain_batch
from jaxprune.model.partial_rows import inverse, look_up, permute
from tests.helpers import tiny

IDS = np.arange(22).reshape(2, 11) % 30
MASK = np.array([[1] * 11, [1] * 7 + [0] * 4])


def parts_of(model, freeze: float, tokens: np.ndarray | None = None):
    random = np.random.RandomState(1)
    fisher = [
        {half: {name: random.rand(*v.shape) for name, v in row_scores(half, layer[half]).items()} for half in HALVES}
        for layer in model.params["layers"]
    ]
    return split(model.params, train_rows(fisher, freeze), tokens)


@given(st.permutations(range(7)))
def test_a_permutation_is_undone_by_its_inverse_and_differentiates_as_a_gather_does(order):
    places, x = jnp.array(order, jnp.int32), jnp.arange(14.0).reshape(2, 7)
    np.testing.assert_array_equal(permute(permute(x, places), inverse(places)), x)
    weights = jnp.arange(14.0).reshape(2, 7) ** 2
    ours = jax.grad(lambda x: jnp.sum(permute(x, places) * weights))(x)
    np.testing.assert_array_equal(ours, jax.grad(lambda x: jnp.sum(x[:, places] * weights))(x))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("freeze", [0.0, 0.6])
def test_logits_of_a_split_model_are_those_of_the_whole_one(family, freeze):
    model = tiny.random_model(tiny.config(family))
    batch = plain_batch(model.architecture, IDS, MASK)
    run = jax.jit(lambda params: forward(params, batch, model.architecture).logits)
    parts = parts_of(model, freeze, np.arange(30) % 3 > 0)
    # float32, two layers: the same products, summed in another order.
    np.testing.assert_allclose(run(parts), run(model.params), atol=2e-5)
    jax.tree.map(np.testing.assert_array_equal, join(parts), model.params)


def test_gradients_of_trained_rows_are_those_of_the_whole_matrix():
    model = tiny.random_model(tiny.config("bert"))
    batch = plain_batch(model.architecture, IDS, MASK)

    def loss(params):
        return jnp.sum(forward(params, batch, model.architecture).logits ** 2)  # type: ignore[operator]

    parts = parts_of(model, 0.6)
    whole = jax.jit(jax.grad(loss))(model.params)
    apart = jax.jit(jax.grad(loss, allow_int=True))(jax.tree.map(jnp.asarray, parts))
    same = jax.tree.map(  # the gradients of both parts, and the places of the rows in place of theirs
        lambda slope, leaf: np.asarray(leaf if slope.dtype == jax.dtypes.float0 else slope), apart, parts
    )
    for ours, theirs in zip(jax.tree.leaves(join(same)), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trained", [0, 3, 8])
def test_a_split_table_is_read_as_the_whole_one(trained):
    table, mask = np.random.RandomState(0).rand(8, 4).astype(np.float32), np.zeros(8, bool)
    mask[np.random.RandomState(1).permutation(8)[:trained]] = True
    parts = split({"embed": {"token": table}, "layers": []}, [], mask)["embed"]["token"]
    ids = jnp.array([[0, 7, 3], [5, 5, 1]])
    np.testing.assert_array_equal(look_up(jax.tree.map(jnp.asarray, parts), ids), table[np.asarray(ids)])

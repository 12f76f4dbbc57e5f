"""Copies of weights in the type that is computed in: the same numbers, and one layer's at a time."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.finetuning.masters import result_types
from jaxprune.finetuning.recap.phase_bytes import abstract
from jaxprune.finetuning.training_bytes import abstract_batch, wide_copies
from jaxprune.model import LayerSizes, forward
from jaxprune.model.padded import plain_batch
from jaxprune.model.transformer import whole_forward, whole_losses
from jaxprune.runtime.memory import temp_bytes
from tests.helpers import tiny


def test_a_forward_pass_holds_wide_copies_of_one_layer():
    """Eight layers in bfloat16, computed in float32; of a program that is differentiated nothing is said here."""
    a = tiny.architecture(tiny.config("llama", hidden_size=96, vocab_size=50))
    a = a.with_layers((LayerSizes(groups=a.layers[0].groups, queries=a.layers[0].queries, neurons=700),) * 8)
    params = abstract(a, result_types(abstract(a), "bfloat16"))
    temp = temp_bytes(whole_losses.lower(params, abstract_batch(a, 2, 8), architecture=a).compile())
    all_copies, one = (wide_copies(params, in_turn=in_turn) for in_turn in (False, True))
    assert all_copies == 8 * one
    assert one / 2 < temp < 2 * one


def test_layers_in_turn_give_the_same_numbers():
    model = tiny.random_model(tiny.config("bert"))
    coarse = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params)
    batch = plain_batch(model.architecture, 2 + np.arange(12).reshape(2, 6))
    plain = jax.jit(lambda params: forward(params, batch, model.architecture).logits)(coarse)
    np.testing.assert_allclose(whole_forward(coarse, batch, architecture=model.architecture), plain, atol=1e-6)

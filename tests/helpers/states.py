"""Hidden states of whole models, in one program for all tests that compare them."""

from typing import Any

import jax

from jaxprune.model import Batch, Model, Sites, forward


@jax.jit
def last_states(model: Model, batch: Batch, gates: Any = None) -> jax.Array:
    """The last residual stream, [rows, length, hidden]."""
    return forward(model.params, batch, model.architecture, Sites(gates=gates)).hidden

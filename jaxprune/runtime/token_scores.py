"""Probabilities of chosen tokens after chosen places of a batch: a language model's scores of what it is asked about.

Logits exist for one slice of the chosen places at a time, and for no other place.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..model.architecture import Architecture
from ..model.ends import head_input
from ..model.language import surprise, vocabulary_logits
from ..model.model import Batch, Model, Params
from ..model.slices import in_slices, slice_tokens
from ..model.transformer import forward, scannable
from .by_sublayer import last_streams
from .devices import placed
from .programs import Programs


class Asked(NamedTuple):
    """A batch, and which tokens are asked for after which of its slots (row · length + column)."""

    batch: Batch
    slots: Int[Any, " asked"]
    tokens: Int[Any, " asked"]


class Scores(NamedTuple):
    """One entry for every place that was asked for."""

    log_probabilities: Float[Array, " asked"]  # of the token, in nats
    likeliest: Int[Array, " asked"]  # the token that is most likely there; of equal ones the lowest


def token_scores(
    params: Params,
    hidden: Float[Array, "rows length hidden"],
    slots: Int[Array, " asked"],
    tokens: Int[Array, " asked"],
    architecture: Architecture,
) -> Scores:
    """Scores from the last residual stream; the softmax is over the whole vocabulary, in float32."""
    rows, length, width = hidden.shape
    x = head_input(params, hidden.reshape(rows * length, width)[slots][None], architecture)

    def scores(x: Array, token: Array) -> Scores:
        logits = vocabulary_logits(params, x, architecture)
        return Scores(-surprise(logits, token), jnp.argmax(logits, axis=-1).astype(jnp.int32))

    return jax.tree.map(lambda leaf: leaf[0], in_slices(scores, x, tokens[None], size=slice_tokens(architecture.vocab)))


@partial(jax.jit, static_argnames=("architecture", "dtype"))
def whole_scores(params: Params, asked: Asked, *, architecture: Architecture, dtype: Any = jnp.float32) -> Scores:
    """The model's scores for one batch, compiled."""
    hidden = forward(params, asked.batch, architecture, dtype=dtype).hidden
    return token_scores(params, hidden, asked.slots, asked.tokens, architecture)


@partial(jax.jit, static_argnames="architecture")
def finish_scores(params: Params, x: Array, asked: Asked, *, architecture: Architecture) -> Scores:
    """The same from the last residual stream."""
    return token_scores(params, x, asked.slots, asked.tokens, architecture)


def on_device(model: Model, programs: Programs) -> Params:
    """The weights as `scores_of` reads them: where they are, while they are streamed; else on the device, once."""
    return model.params if programs.devices.stream else jax.device_put(scannable(model.params, model.architecture))


def scores_of(
    params: Params, asked: Sequence[Asked], architecture: Architecture, programs: Programs, dtype: Any = jnp.float32
) -> Iterator[Scores]:
    """The scores for every batch in turn, from the weights of `on_device`; streamed weights compute in float32.

    The next batch is at work while a result is read.
    """
    if programs.devices.stream:
        batches = [placed(entry.batch) for entry in asked]
        rest = iter(asked)
        for _, outer, xs in last_streams(params, batches, architecture, programs):
            for x in xs:
                yield programs(finish_scores, outer, x, next(rest), architecture=architecture)
        return
    before = None
    for entry in asked:
        scores = programs(whole_scores, params, entry, architecture=architecture, dtype=jnp.dtype(dtype))
        if before is not None:
            yield before
        before = scores
    if before is not None:
        yield before

"""The loss of a batch that holds several texts in a row; and of a student beside its teacher."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..model import Architecture, Batch, Params, Sites, forward
from ..model.architecture import HALVES
from ..model.heads import head_of
from ..model.pooling import pooled
from ..model.predictions import own_tokens
from ..model.transformer import Outputs


class Distillation(NamedTuple):
    """What a student is to share with its teacher: a static setting of the loss."""

    weight: float = 0.0  # of the teacher's predictions against the labels, in [0, 1]
    temperature: float = 2.0  # of both softmaxes
    hidden: float = 0.0  # weight of the hidden states' term, added to the rest


def prediction_gap(
    student: Array, teacher: Array, batch: Batch, architecture: Architecture, temperature: float
) -> Float[Array, "rows texts"]:
    """How far a student's prediction is from its teacher's, per text: the divergence in the measure of the loss.

    T²·KL(teacher ‖ student) at temperature T. Multi-label: the mean over labels of each label's own KL. Answer spans:
    the mean of start and end. Regression: the squared difference.
    """
    head = head_of(architecture)
    assert head.divergence is not None  # a model that can be trained has one
    return head.divergence(student, teacher, batch, temperature) / head.nats(len(architecture.labels))


def stream_gap(
    student: Float[Array, "rows length hidden"], teacher: Float[Array, "rows length hidden"], batch: Batch
) -> Float[Array, "rows texts"]:
    """The squared difference of two residual streams over the teacher's own energy, per text."""
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    own = own_tokens(batch).astype(jnp.float32)
    gap = jnp.einsum("rst,rt->rs", own, jnp.sum((student.astype(jnp.float32) - teacher) ** 2, axis=-1))
    return gap / jnp.maximum(jnp.einsum("rst,rt->rs", own, jnp.sum(teacher**2, axis=-1)), 1e-12)


def as_taught(batch: Batch, architecture: Architecture) -> Batch:
    """The batch as a model reads it: to one with a single token type, or none, all tokens are of type 0."""
    return batch if architecture.token_types > 1 else batch._replace(types=jnp.zeros_like(batch.types))


def logits_losses(
    logits: Array, batch: Batch, targets: Array, architecture: Architecture, smoothing: float = 0.0
) -> Float[Array, "rows texts"]:
    """The task's loss of every text, from what the head says; slots without a text hold numbers of no meaning."""
    head = head_of(architecture)
    assert head.loss is not None  # a model that can be trained has one
    return head.loss(logits, targets, batch, smoothing)


def text_losses(
    params: Params,
    batch: Batch,
    targets: Array,
    architecture: Architecture,
    *,
    sites: Sites = Sites(),
    smoothing: float = 0.0,
    dtype: Any = jnp.float32,
    teacher: tuple[Architecture, Params] | None = None,
    guide: Array | None = None,
    distillation: Distillation = Distillation(),
    remat: bool = False,
) -> Float[Array, "rows texts"]:
    """The loss of every text: (1 - w)·task + w·T²·KL(teacher ‖ student) + h·mean over layers of the streams' gap.

    Hidden states are compared at every layer boundary, so student and teacher need the same depth and hidden width;
    heads and neurons may differ. Of a teacher that is elsewhere, `guide` has the logits; its hidden states then count
    nothing. Without either: the task's loss. Slots without a text hold numbers of no meaning.
    """
    taps = teacher is not None and distillation.hidden > 0
    out = forward(
        params, as_taught(batch, architecture), architecture, sites._replace(taps=taps), dtype=dtype, remat=remat
    )
    assert out.logits is not None  # a whole forward pass ends with the head
    each = logits_losses(out.logits, batch, targets, architecture, smoothing)
    streams: Any = ()
    if teacher is not None:
        read = pooled(as_taught(batch, teacher[0]), teacher[0])
        theirs = forward(teacher[1], read, teacher[0], Sites(taps=taps), dtype=dtype)
        guide, streams = theirs.logits, layer_ends(theirs, teacher[0]) if taps else ()
    if guide is None:
        return each
    gap = prediction_gap(out.logits, guide, batch, architecture, distillation.temperature)
    each = (1 - distillation.weight) * each + distillation.weight * gap
    if taps:
        ends = zip(layer_ends(out, architecture), streams, strict=True)
        gaps = [stream_gap(ours, other, batch) for ours, other in ends]
        each = each + distillation.hidden * sum(gaps) / len(gaps)
    return each


def layer_ends(out: Outputs, architecture: Architecture) -> list[Array]:
    """The residual stream after every layer, of a forward pass with taps."""
    return [*architecture.of_half(HALVES[0], out.streams)[1:], out.hidden]


def summed_loss(each: Float[Array, "rows texts"], batch: Batch) -> Float[Array, ""]:
    """The sum over the texts of a batch; slots without a text count nothing."""
    return jnp.sum(jnp.where(batch.index >= 0, each, 0.0))


def text_count(batch: Batch) -> Float[Array, ""]:
    """The texts of a batch, at least 1, so that an empty one can be divided by it."""
    return jnp.maximum(jnp.sum((batch.index >= 0).astype(jnp.float32)), 1.0)


def mean_loss(
    params: Params, batch: Batch, targets: Array, architecture: Architecture, smoothing: float = 0.0
) -> Array:
    """The mean loss over the texts of a batch, without noise."""
    each = text_losses(params, batch, targets, architecture, smoothing=smoothing)
    return summed_loss(each, batch) / text_count(batch)

"""The loss of a batch that holds several texts in a row; and of a student beside its teacher."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..model import Architecture, Batch, Params, Sites, forward
from ..model.architecture import HALVES
from ..model.ends import head_input
from ..model.heads import head_of
from ..model.language import Guide, Lesson, vocabulary
from ..model.pooling import pooled
from ..model.predictions import own_tokens
from ..model.transformer import Outputs, Spread, apply_head


class Distillation(NamedTuple):
    """What a student is to share with its teacher: a static setting of the loss."""

    weight: float = 0.0  # of the teacher's predictions against the labels, in [0, 1]
    temperature: float = 2.0  # of both softmaxes
    hidden: float = 0.0  # weight of the hidden states' term, added to the rest


def prediction_gap(
    student: Array,
    teacher: Array,
    batch: Batch,
    architecture: Architecture,
    temperature: float,
    targets: Array | None = None,
) -> Float[Array, "rows texts"]:
    """How far a student's prediction is from its teacher's, per text: the divergence in the measure of the loss.

    T²·KL(teacher ‖ student) at temperature T. Multi-label: the mean over labels of each label's own KL. Answer spans:
    the mean of start and end. Regression: the squared difference. Pairs of texts: KL of their similarities in the
    batch.
    """
    head = head_of(architecture)
    if head.together is not None and targets is not None:
        return head.together.divergence(student, teacher, targets, batch)
    assert head.divergence is not None  # a model that can be trained has one
    return head.divergence(student, teacher, batch, temperature) / head.nats(len(architecture.labels))


def stream_gap(
    student: Float[Array, "rows length hidden"], teacher: Float[Array, "rows length hidden"], batch: Batch
) -> Float[Array, "rows texts"]:
    """The squared difference of two residual streams over the teacher's own energy, per text."""
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    own = own_tokens(batch).astype(jnp.float32)
    summed = partial(jnp.einsum, "rst,rt->rs", own, precision="highest")
    gap = summed(jnp.sum((student.astype(jnp.float32) - teacher) ** 2, axis=-1))
    return gap / jnp.maximum(summed(jnp.sum(teacher**2, axis=-1)), 1e-12)


def targets_of(batch: Batch, targets: np.ndarray) -> np.ndarray:
    """The targets of every slot of a batch, [rows, texts, …]; of one without a text those of example 0."""
    return targets[np.maximum(np.asarray(batch.index), 0)]


def as_taught(batch: Batch, architecture: Architecture) -> Batch:
    """The batch as a model reads it: to one with a single token type, or none, all tokens are of type 0."""
    return batch if architecture.token_types > 1 else batch._replace(types=jnp.zeros_like(batch.types))


def from_stream(params: Params, x: Array, batch: Batch, targets: Array, architecture: Architecture) -> Float[Array, ""]:
    """The task's loss summed over what `unit_count` counts, from the last residual stream."""
    language = head_of(architecture).language
    if language is not None:
        return language.summed(params, x, batch, targets, architecture, None, None)
    logits = apply_head(params, x, batch, architecture).astype(jnp.float32)
    return over_texts(logits_losses(logits, batch, targets, architecture), batch)


def logits_losses(
    logits: Array, batch: Batch, targets: Array, architecture: Architecture, smoothing: float = 0.0
) -> Float[Array, "rows texts"]:
    """The task's loss of every text, from what the head says; slots without a text hold numbers of no meaning."""
    head = head_of(architecture)
    assert head.loss is not None  # a model that can be trained has one
    return head.loss(logits, targets, batch, smoothing)


def summed_losses(
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
) -> Float[Array, ""]:
    """The loss summed over what `unit_count` counts, texts or learnt tokens.

    Of each: (1 - w)·task + w·T²·KL(teacher ‖ student) + h·mean over layers of the streams' gap. Hidden states are
    compared at every layer boundary, so student and teacher need the same depth and hidden width; heads and neurons may
    differ. `guide` is what is known of a teacher that is not run here: its logits; or of a language model what its head
    reads, and `teacher` then holds the parameters of that head alone. Hidden states then count nothing. Without either:
    the task's loss.
    """
    language, spread = head_of(architecture).language, sites.spread
    if spread is not None:
        params = outside_whole(params, spread)
        teacher = None if teacher is None else (teacher[0], outside_whole(teacher[1], spread))
    if language is not None and guide is not None and teacher is None:
        raise ValueError("the guide of a language model is read by its teacher's head; hand that in as teacher")
    taps = teacher is not None and guide is None and distillation.hidden > 0
    out = forward(
        params, as_taught(batch, architecture), architecture, sites._replace(taps=taps), dtype=dtype, remat=remat
    )
    theirs: Outputs | None = None
    if teacher is not None and guide is None:
        taught_batch = pooled(as_taught(batch, teacher[0]), teacher[0])
        theirs = forward(teacher[1], taught_batch, teacher[0], Sites(taps=taps, spread=spread), dtype=dtype)
    if language is None:
        assert out.logits is not None  # a whole forward pass ends with the head
        each = logits_losses(out.logits, batch, targets, architecture, smoothing)
        logits = guide if theirs is None else theirs.logits
        if logits is not None:
            gap = prediction_gap(out.logits, logits, batch, architecture, distillation.temperature, targets)
            each = (1 - distillation.weight) * each + distillation.weight * gap
        total = over_texts(each, batch)
    else:
        lesson = taught = None
        if teacher is not None and distillation.weight > 0:
            a, outer = teacher
            if theirs is not None:
                read = head_input(outer, theirs.hidden, a)
            else:
                assert guide is not None
                read = guide.astype(dtype)  # it may have been kept in fewer bits
            taught = Guide(read, vocabulary(outer, a))
            lesson = Lesson(a, distillation.weight, distillation.temperature)
        summed = lambda x, batch, targets, taught: language.summed(  # noqa: E731
            params, x, batch, targets, architecture, taught, lesson
        )
        if spread is None:
            total = summed(out.hidden, batch, targets, taught)
        else:
            total = summed_by_parts(summed, spread.parts, out.hidden, batch, targets, taught)
    if theirs is not None and taps:
        ends = zip(layer_ends(out, architecture), layer_ends(theirs, teacher[0]), strict=True)  # type: ignore[index]
        gaps = [jnp.sum(stream_gap(ours, other, batch) * units(batch, targets, architecture)) for ours, other in ends]
        total = total + distillation.hidden * sum(gaps) / len(gaps)
    return total


def outside_whole(params: Params, spread: Spread) -> Params:
    """`params`, of which all but the layers are made whole: they are read at both ends of a forward pass."""
    outside = {name: part for name, part in params.items() if name != "layers"}
    return {**params, **spread.whole(outside)}


def summed_by_parts(
    summed: Callable[[Array, Batch, Array, Guide | None], Array],
    parts: int,
    x: Float[Array, "rows length hidden"],
    batch: Batch,
    targets: Array,
    taught: Guide | None,
) -> Float[Array, ""]:
    """Σ of `summed` over as many equal parts of the rows, all at once.

    Rows of one part lie on one device. What goes through a batch in slices of tokens would else have every device
    compute all slices, one after the other.
    """
    split = lambda leaf: leaf.reshape(parts, len(leaf) // parts, *leaf.shape[1:])  # noqa: E731
    rows = jax.tree.map(split, (x, batch, targets, None if taught is None else taught.x))

    def part(x: Array, batch: Batch, targets: Array, read: Array | None) -> Array:
        return summed(x, batch, targets, None if taught is None or read is None else taught._replace(x=read))

    return jnp.sum(jax.vmap(part)(*rows))


def layer_ends(out: Outputs, architecture: Architecture) -> list[Array]:
    """The residual stream after every layer, of a forward pass with taps."""
    return [*architecture.of_half(HALVES[0], out.streams)[1:], out.hidden]


def over_texts(each: Float[Array, "rows texts"], batch: Batch) -> Float[Array, ""]:
    """The sum over the texts of a batch; slots without a text count nothing."""
    return jnp.sum(jnp.where(batch.index >= 0, each, 0.0))


def units(batch: Batch, targets: Array, architecture: Architecture) -> Float[Array, "rows texts"]:
    """How much each text weighs in a batch's mean loss: 1, of a language model the number of its learnt tokens.

    Where texts are compared with one another, of a pair the anchor alone.
    """
    head = head_of(architecture)
    if head.language is None:
        there = batch.index >= 0
        return (there if head.together is None else there & head.together.counted(targets)).astype(jnp.float32)
    counted = head.language.counted(batch, targets)[:, None, :] & own_tokens(batch) & (batch.index >= 0)[..., None]
    return jnp.sum(counted, axis=-1).astype(jnp.float32)


@partial(jax.jit, static_argnames="architecture")
def unit_count(batch: Batch, targets: Array, architecture: Architecture) -> Float[Array, ""]:
    """What a batch's loss is the mean of, texts or learnt tokens; at least 1, so that an empty batch is no division
    by 0.
    """
    return jnp.maximum(jnp.sum(units(batch, targets, architecture)), 1.0)


def mean_loss(
    params: Params, batch: Batch, targets: Array, architecture: Architecture, smoothing: float = 0.0
) -> Array:
    """The mean loss over the texts (of a language model, the learnt tokens) of a batch, without noise."""
    total = summed_losses(params, batch, targets, architecture, smoothing=smoothing)
    return total / unit_count(batch, targets, architecture)

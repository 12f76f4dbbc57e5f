"""The loss of every task head, for batches that hold several texts in a row."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from ..model import Architecture, Batch, Params, forward


def classification_loss(
    logits: Float[Array, "rows texts labels"], targets: Array, architecture: Architecture, smoothing: float = 0.0
) -> Float[Array, "rows texts"]:
    """The loss of every text.

    `targets` is [rows, texts] integers for single-label classes and [rows, texts] floats for a regression;
    [rows, texts, labels] of 0 and 1 for multi-label classes. Multi-label losses are means over the labels.
    """
    if architecture.problem == "single_label":
        classes = jax.nn.one_hot(targets, logits.shape[-1])
        return optax.losses.softmax_cross_entropy(logits, optax.losses.smooth_labels(classes, smoothing))
    if architecture.problem == "multi_label":
        return jnp.mean(optax.losses.sigmoid_binary_cross_entropy(logits, targets), axis=-1)
    return (logits[..., 0] - targets) ** 2


def span_loss(
    logits: Float[Array, "rows length 2"], targets: Int[Array, "rows texts 2"], batch: Batch
) -> Float[Array, "rows texts"]:
    """The loss of every text's answer span: the mean cross entropy of its start and of its end, over its own tokens.

    `targets` are token positions within the text, counted from 0; a position the text does not have costs nothing.
    """
    segment = jnp.take_along_axis(batch.segments, batch.pool, axis=1)  # [rows, texts]
    own: Bool[Array, "rows texts length"] = batch.segments[:, None, :] == segment[..., None]
    losses = []
    for side in range(2):
        scores = jnp.where(own, logits[:, None, :, side], -jnp.inf)
        at = own & (batch.positions[:, None, :] == targets[..., side, None])
        # where(): log_softmax is -inf outside the text, and 0 * -inf would be NaN.
        losses.append(-jnp.sum(jnp.where(at, jax.nn.log_softmax(scores), 0.0), axis=-1))
    return (losses[0] + losses[1]) / 2


def loss(params: Params, batch: Batch, targets: Array, architecture: Architecture, smoothing: float) -> Array:
    """The mean loss over the texts of a batch; slots without a text count nothing."""
    logits = forward(params, batch, architecture).logits
    assert logits is not None  # a whole forward pass ends with the head
    if architecture.head == "question_answering":
        each = span_loss(logits, targets, batch)
    else:
        each = classification_loss(logits, targets, architecture, smoothing)
    real = batch.index >= 0
    return jnp.sum(jnp.where(real, each, 0.0)) / jnp.maximum(jnp.sum(real.astype(jnp.float32)), 1.0)

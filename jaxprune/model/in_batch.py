"""Texts of a batch compared with one another: each anchor's own text against all others of the batch.

Targets of a text are `PAIR, ROLE, TEXT`: which pair it belongs to, what it is there, and a number that equal texts
share. Without any, [rows, texts, 0], nothing is compared.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .model import Batch
from .predictions import direction_divergence, unit
from .product import product

PAIR, ROLE, TEXT = range(3)  # columns of the targets
ANCHOR, POSITIVE, NEGATIVE = range(3)  # roles
SCALE = 20.0  # times the cosine, as in sentence-transformers: a temperature of 0.05
_LITTLE = -1e9  # the similarity of what does not count; finite, so that no gradient is NaN

_Vectors = Float[Array, "rows texts dimensions"]
_Targets = Int[Array, "rows texts columns"]


def anchors(targets: _Targets) -> Bool[Array, "rows texts"]:
    """Which texts the loss is a mean of: those that look for their own; where nothing is compared, all."""
    if not targets.shape[-1]:
        return jnp.ones(targets.shape[:-1], bool)
    return targets[..., ROLE] == ANCHOR


def ranking_loss(vectors: _Vectors, targets: _Targets, batch: Batch, _: float = 0.0) -> Float[Array, "rows texts"]:
    """Cross entropy of every anchor's own text among all texts of the batch that are no anchors; of others 0.

    What is known to belong to an anchor is none of its negatives: a text that is equal to it or to its own, and one
    that an equal anchor of the batch has. Where texts differ, this is `MultipleNegativesRankingLoss` of
    sentence-transformers (Henderson et al., Efficient Natural Language Response Suggestion for Smart Reply, 2017).
    """
    if not targets.shape[-1]:
        return jnp.zeros(targets.shape[:-1])
    own, counts = _candidates(targets, batch)
    scores = jnp.where(counts, _similarities(vectors), _LITTLE)
    losses = jax.nn.logsumexp(scores, axis=-1) - jnp.sum(jnp.where(own, scores, 0.0), axis=-1)
    return jnp.where(jnp.any(own, axis=-1), losses, 0.0).reshape(targets.shape[:-1])


def similarity_divergence(
    student: Float[Array, "rows texts _"], teacher: Float[Array, "rows texts _"], targets: _Targets, batch: Batch
) -> Float[Array, "rows texts"]:
    """KL(teacher ‖ student) of what either says of an anchor's own text among the others; vectors may differ in width.

    Where nothing is compared, how far the directions of two vectors are apart (`direction_divergence`).
    """
    if not targets.shape[-1]:
        return direction_divergence(student, teacher, batch, 1.0)
    own, counts = _candidates(targets, batch)
    p, q = (jax.nn.log_softmax(jnp.where(counts, _similarities(x), _LITTLE)) for x in (teacher, student))
    gaps = jnp.sum(jnp.where(counts, jnp.exp(p) * (p - q), 0.0), axis=-1)
    return jnp.where(jnp.any(own, axis=-1), gaps, 0.0).reshape(targets.shape[:-1])


def _similarities(vectors: Float[Array, "rows texts dimensions"]) -> Float[Array, "slots slots"]:
    flat = unit(vectors.reshape(-1, vectors.shape[-1]).astype(jnp.float32))
    return SCALE * product("ad,cd->ac", flat, flat)


def _candidates(targets: _Targets, batch: Batch) -> tuple[Bool[Array, "slots slots"], Bool[Array, "slots slots"]]:
    """For every slot of a batch, in its first row, then its second …: which is its own text, and which ones count.

    A slot that is no anchor, or an anchor whose text is not in the batch, has none of its own.
    """
    there = (batch.index >= 0).reshape(-1)
    pair, role, text = (targets[..., column].reshape(-1) for column in (PAIR, ROLE, TEXT))
    both = there[:, None] & there
    own = both & (pair[:, None] == pair) & (role[:, None] == ANCHOR) & (role == POSITIVE)
    alike = both & (text[:, None] == text)
    number = alike.astype(jnp.float32)
    belong = (number @ own.astype(jnp.float32) @ number) > 0  # some anchor of this text has some text of that one
    return own, own | (both & (role != ANCHOR) & ~alike & ~belong)

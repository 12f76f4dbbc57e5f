"""What a head is: one row for each kind. Whoever needs to know something of a head asks its row (`head_of`).

Numbers of parameters stand in `architecture.LAST_LAYERS`, below this table; how checkpoints name a head, and how a
prediction is scored, in tables of `checkpoint` and `evaluation`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from . import in_batch, predictions, targets
from .architecture import Architecture, HeadKind, Problem
from .dropout import Dropout, drop
from .language import (
    Guide,
    Lesson,
    learnt,
    masked,
    next_token_losses,
    own_token_losses,
    sampled_cotangents,
    summed_masked_tokens,
    summed_next_tokens,
    vocabulary_logits,
)
from .model import Batch, Params
from .pooling import mean_states, vectors
from .sublayer import ACTIVATIONS, dense, norm

# --- logits, from what the head reads: the last residual stream, normed (`ends.head_input`)

_Logits = Callable[[Params, Array, Batch, Architecture, Dropout | None], Array]
_POOLERS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "gelu": ACTIVATIONS["gelu"]}


def text_logits(
    params: Params, x: Array, batch: Batch, architecture: Architecture, dropout: Dropout | None
) -> Float[Array, "rows texts outputs"]:
    """Of every text, from the token that stands for it, or the mean of all, through the pooler where there is one."""
    if architecture.pool == "mean":
        pooled = mean_states(x, batch)
    else:
        pooled = jnp.take_along_axis(x, batch.pool[..., None], axis=1)
    if architecture.pool_tokens > 1:
        after = [batch.pool[..., None] + place for place in range(1, architecture.pool_tokens)]
        pooled = jnp.concatenate([pooled, *(jnp.take_along_axis(x, slot, axis=1) for slot in after)], axis=-1)
    return dense(params["head"], through_pooler(params, pooled, architecture, dropout))


def through_pooler(params: Params, x: Array, architecture: Architecture, dropout: Dropout | None) -> Array:
    """What the head reads: `x`, or what the pooler makes of it."""
    if architecture.pooler == "none":
        return x
    p = params["pooler"]
    y = _POOLERS[architecture.pooler](dense(p, x))
    y = norm(p["norm"], y, architecture) if "norm" in p else y
    # transformers' classes without a pooler, those on decoders, drop nothing here.
    return drop(y, dropout, 1)


def token_logits(
    params: Params, x: Array, batch: Batch, architecture: Architecture, dropout: Dropout | None
) -> Float[Array, "rows length outputs"]:
    """Of every token, through the pooler where there is one."""
    return dense(params["head"], through_pooler(params, x, architecture, dropout))


def word_logits(
    params: Params, x: Array, batch: Batch, architecture: Architecture, dropout: Dropout | None
) -> Float[Array, "rows length vocab"]:
    """Of every token, over the whole vocabulary."""
    return vocabulary_logits(params, x, architecture)


def no_logits(
    params: Params, x: Array, batch: Batch, architecture: Architecture, dropout: Dropout | None
) -> Float[Array, "rows length hidden"]:
    """The hidden states themselves."""
    return x


def embeddings(
    params: Params, x: Array, batch: Batch, architecture: Architecture, dropout: Dropout | None = None
) -> Float[Array, "rows texts dimensions"]:
    """One vector of every text."""
    assert architecture.embedding is not None
    return vectors(params.get("head", ()), x, batch, architecture.embedding)


# --- the rows


@dataclass(frozen=True)
class Language:
    """What a head over the vocabulary computes for one slice of tokens at a time: whole logits would not fit."""

    losses: Callable[[Params, Array, Batch, Architecture], Array]  # of every token, from the last stream
    # Summed over the learnt tokens: (params, stream, batch, targets, architecture, guide, lesson).
    summed: Callable[[Params, Array, Batch, Array, Architecture, Guide | None, Lesson | None], Array]
    # Fisher factors at the last stream: (params, stream, batch, architecture, temperature, key).
    cotangents: Callable[[Params, Array, Batch, Architecture, float, Array], Array]
    counted: Callable[[Batch, Array], Array]  # which tokens a loss is the mean of, by targets
    causal: bool = True  # the next token is predicted, so that text can be generated; else masked ones


@dataclass(frozen=True)
class Together:
    """What a head computes where texts of a batch are compared with one another, so that a loss is of all of them."""

    counted: Callable[[Array], Array]  # from targets, which texts the loss is a mean of
    divergence: Callable[[Array, Array, Array, Batch], Array]  # (student, teacher, targets, batch)


@dataclass(frozen=True, kw_only=True)
class Head:
    """One kind of head. Functions are pure; `predictions` and `targets` say what they take and give.

    Without a loss, its own or that of `language`, nothing can be trained; without a divergence, or that of `language`,
    nothing can be learnt from a teacher.
    """

    name: str
    per_text: bool = False  # one output a text, [rows, texts, …]; else one a token, [rows, length, …]
    logits: _Logits
    fisher: Callable[[Array, Batch, float, Array, int], Array] | None = None  # None: `language` has its own
    loss: Callable[[Array, Array, Batch, float], Array] | None = None
    check_targets: Callable[[np.ndarray, int], None] | None = None  # (targets, labels); None: it cannot be trained
    blank: Callable[[int], np.ndarray] = lambda labels: np.zeros((), np.int32)  # a text's target where none is read
    divergence: Callable[[Array, Array, Batch, float], Array] | None = None
    nats: Callable[[int], float] = lambda labels: 1.0  # of divergence that weigh as much as a loss of 1, by labels
    together: Together | None = None  # texts of a batch are compared
    language: Language | None = None  # a whole forward pass gives losses of tokens
    classes: bool = False  # outputs are classes, which have names and could stand in another order
    smooths: bool = False  # label smoothing has an effect
    softmax: bool = True  # a temperature has an effect
    exact: bool = False  # Fisher factors are exact where there are few labels
    drawn: bool = True  # for a task that a checkpoint has no head for, a new one is drawn
    pools: bool = False  # a text's output is made of all of its tokens
    every_token: bool = False  # the last layer is computed for every token, in counts of FLOPs

    @property
    def generates(self) -> bool:
        """Whether text can be generated: the next token is predicted."""
        return self.language is not None and self.language.causal

    def present(self, batch: Batch) -> Bool[Array, "rows slots"] | Bool[np.ndarray, "rows slots"]:
        """Which slots of an output are there: texts, or tokens that are no padding."""
        return batch.index >= 0 if self.per_text else batch.segments > 0


_ROWS: Mapping[tuple[HeadKind, Problem], Head] = {
    ("classification", "single_label"): Head(
        name="single_label",
        per_text=True,
        logits=text_logits,
        fisher=predictions.class_factors,
        loss=predictions.class_loss,
        check_targets=targets.class_targets,
        divergence=predictions.class_divergence,
        classes=True,
        smooths=True,
        exact=True,
    ),
    ("classification", "multi_label"): Head(
        name="multi_label",
        per_text=True,
        logits=text_logits,
        fisher=predictions.several_factors,
        loss=predictions.several_loss,
        check_targets=targets.several_targets,
        blank=lambda labels: np.zeros(labels, np.float32),
        divergence=predictions.several_divergence,
        nats=float,  # the loss is a mean over the labels
        classes=True,
    ),
    ("classification", "regression"): Head(
        name="regression",
        per_text=True,
        logits=text_logits,
        fisher=predictions.number_factors,
        loss=predictions.number_loss,
        check_targets=targets.number_targets,
        blank=lambda labels: np.zeros((), np.float32),
        divergence=predictions.number_divergence,
        nats=lambda labels: 0.5,  # the squared error is twice the Gaussian's negative log likelihood
        softmax=False,
    ),
}
_ALONE: Mapping[HeadKind, Head] = {
    "question_answering": Head(
        name="question_answering",
        logits=token_logits,
        fisher=predictions.span_factors,
        loss=predictions.span_loss,
        check_targets=targets.span_targets,
        blank=lambda labels: np.zeros(2, np.int32),
        divergence=predictions.span_divergence,
        every_token=True,
    ),
    "token_classification": Head(
        name="token_classification",
        logits=token_logits,
        fisher=predictions.class_factors,
        loss=predictions.tag_loss,
        check_targets=targets.tag_targets,
        blank=lambda labels: np.zeros(1, np.int32),
        divergence=predictions.tag_divergence,
        classes=True,
        smooths=True,
        exact=True,
        every_token=True,
    ),
    "causal_lm": Head(
        name="causal_lm",
        logits=word_logits,
        check_targets=targets.learnt_targets,
        blank=lambda labels: np.zeros(0, np.int32),
        language=Language(next_token_losses, summed_next_tokens, sampled_cotangents, learnt),
        drawn=False,
        every_token=True,
    ),
    "masked_lm": Head(
        name="masked_lm",
        logits=word_logits,
        check_targets=targets.masked_targets,
        blank=lambda labels: np.zeros(0, np.int32),
        language=Language(own_token_losses, summed_masked_tokens, sampled_cotangents, masked, causal=False),
        drawn=False,
        every_token=True,
    ),
    "embedding": Head(
        name="embedding",
        per_text=True,
        logits=embeddings,
        fisher=predictions.direction_factors,
        loss=in_batch.ranking_loss,
        check_targets=targets.pair_targets,
        blank=lambda labels: np.zeros(0, np.int32),
        divergence=predictions.direction_divergence,
        together=Together(in_batch.anchors, in_batch.similarity_divergence),
        softmax=False,
        drawn=False,
        pools=True,
    ),
    "none": Head(name="none", logits=no_logits, fisher=predictions.state_factors, softmax=False, drawn=False),
}
# A head that is no classification is one row, whatever `problem` says beside it.
HEADS: Mapping[tuple[HeadKind, Problem], Head] = MappingProxyType(
    {**_ROWS, **{(kind, problem): row for kind, row in _ALONE.items() for problem in get_args(Problem)}}
)


def head_of(architecture: Architecture) -> Head:
    """The row of a model's head."""
    return HEADS[architecture.head, architecture.problem]

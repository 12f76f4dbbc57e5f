"""Prediction of tokens, the next or masked ones: logits over a large vocabulary exist for one slice at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .architecture import Architecture
from .draws import draw_tokens
from .ends import head_input
from .model import Batch, Params
from .partial_rows import Split, permute
from .predictions import class_divergence, of_tokens
from .product import product
from .slices import SLICE as SLICE, in_slices, slice_tokens, sum_in_slices
from .sublayer import ACTIVATIONS, capped, norm


def vocabulary(params: Params, architecture: Architecture) -> Params:
    """Those of a language model's parameters that `vocabulary_logits` reads."""
    table = {"embed": {"token": params["embed"]["token"]}} if architecture.tied else {}
    return table | ({"head": params["head"]} if "head" in params else {})


def vocabulary_logits(
    params: Params, x: Float[Array, "... hidden"], architecture: Architecture
) -> Float[Array, "... vocab"]:
    """A language model's logits from `head_input`, over the whole vocabulary; sums, and so the result, in float32."""
    return capped(_products(params, x, architecture), architecture.logit_cap)


def _products(params: Params, x: Array, architecture: Architecture) -> Array:
    bias: Any = 0.0
    if architecture.transform != "none":
        x, bias = _transformed(params["head"], x, architecture), params["head"]["bias"].astype(jnp.float32)
    if architecture.tied:
        table = params["embed"]["token"]
        if isinstance(table, Split):
            parts = [product("...h,vh->...v", x, part, jnp.float32) for part in (table.frozen, table.trained)]
            return permute(jnp.concatenate(parts, axis=-1), table.place) + bias
        return product("...h,vh->...v", x, table, jnp.float32) + bias
    return product("...h,hv->...v", x, params["head"]["kernel"], jnp.float32)


def _transformed(p: Params, x: Float[Array, "... hidden"], architecture: Architecture) -> Float[Array, "... width"]:
    """What a masked language model looks up in the token table."""
    activation = ACTIVATIONS[architecture.activation if architecture.transform == "own" else "gelu"]
    x = product("...h,hw->...w", x, p["transform"]["kernel"])
    x = x + p["transform"]["bias"].astype(x.dtype) if "bias" in p["transform"] else x
    return norm(p["norm"], activation(x), architecture)


def next_tokens(batch: Batch) -> tuple[Int[Array, "rows length"], Bool[Array, "rows length"]]:
    """The token after each, and where there is one in the same text."""
    following = jnp.roll(batch.ids, -1, axis=1)
    same = (jnp.roll(batch.segments, -1, axis=1) == batch.segments) & batch.real
    return following, same.at[:, -1].set(False)


def next_token_losses(
    params: Params, hidden: Float[Array, "rows length hidden"], batch: Batch, architecture: Architecture
) -> Float[Array, "rows length"]:
    """Negative log likelihood of the next token in nats, from the last residual stream; 0 where none follows."""
    return _token_losses(params, hidden, *next_tokens(batch), architecture)


def own_token_losses(
    params: Params, hidden: Float[Array, "rows length hidden"], batch: Batch, architecture: Architecture
) -> Float[Array, "rows length"]:
    """Negative log likelihood of every token at its own place, masked or not; 0 on padding."""
    return _token_losses(params, hidden, batch.ids, batch.real, architecture)


def _token_losses(
    params: Params, hidden: Array, goals: Array, present: Array, architecture: Architecture
) -> Float[Array, "rows length"]:
    def losses(x: Array, target: Array) -> Array:
        return surprise(vocabulary_logits(params, x, architecture), target)

    x, size = head_input(params, hidden, architecture), slice_tokens(architecture.vocab)
    values = in_slices(losses, x, goals, size=size)
    return jnp.where(present, values, 0.0)


def surprise(logits: Float[Array, "tokens vocab"], target: Int[Array, " tokens"]) -> Float[Array, " tokens"]:
    """-log p(target), in nats."""
    return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, target[:, None], axis=-1)[:, 0]


class Guide(NamedTuple):
    """A teacher's predictions of next tokens, from which logits are computed slice by slice."""

    x: Float[Array, "rows length hidden"]  # what its head reads (`head_input`)
    vocabulary: Params  # of the teacher, as `vocabulary` gives them


class Lesson(NamedTuple):
    """How much of a loss is the teacher's. Static."""

    architecture: Architecture  # the teacher's
    weight: float  # of its predictions against the texts' own tokens, in [0, 1]
    temperature: float  # of both softmaxes


def learnt(batch: Batch, targets: Int[Array, "rows texts _"]) -> Bool[Array, "rows length"]:
    """Where the next token counts in the loss: there is one in the same text, and `targets` has a 1 for it.

    `targets` are 0 or 1 for each token of a text; without any, [rows, texts, 0], all are learnt.
    """
    present = next_tokens(batch)[1]
    if not targets.shape[-1]:
        return present
    wanted = jnp.roll(of_tokens(targets, batch), -1, axis=1) > 0
    return present & wanted


def summed_next_tokens(
    params: Params,
    hidden: Float[Array, "rows length hidden"],
    batch: Batch,
    targets: Int[Array, "rows texts _"],
    architecture: Architecture,
    guide: Guide | None = None,
    lesson: Lesson | None = None,
) -> Float[Array, ""]:
    """The loss summed over the tokens that are `learnt`, from the last residual stream.

    (1 - w)·(-log p(next token)) + w·T²·KL(teacher ‖ model), the divergence over the whole vocabulary; without a guide
    the first term alone. No array [tokens, vocabulary] is made, forwards or backwards.
    """
    goals = next_tokens(batch)[0], learnt(batch, targets)
    return _summed_tokens(params, hidden, goals, architecture, guide, lesson)


def masked(batch: Batch, targets: Int[Array, "rows texts _"]) -> Bool[Array, "rows length"]:
    """Where a token counts in the loss of a masked language model: where the batch says which word was masked; else
    where `targets` have a token, 0 or more, for each of a text; without any, [rows, texts, 0], everywhere.
    """
    if batch.words is not None:
        return batch.real & (batch.words >= 0)
    return batch.real & (of_tokens(targets, batch) >= 0) if targets.shape[-1] else batch.real


def summed_masked_tokens(
    params: Params,
    hidden: Float[Array, "rows length hidden"],
    batch: Batch,
    targets: Int[Array, "rows texts _"],
    architecture: Architecture,
    guide: Guide | None = None,
    lesson: Lesson | None = None,
) -> Float[Array, ""]:
    """The same summed over the `masked` tokens, each predicted at its own place; without any named, over all as they
    stand.

    Only slices with masked tokens are computed, and these are brought together first: a share of the vocabulary's work.
    """
    truth = batch.words
    if truth is None:
        truth = of_tokens(targets, batch) if targets.shape[-1] else batch.ids
    counts = masked(batch, targets)
    goals = jnp.maximum(truth, 0), counts
    if batch.words is None and not targets.shape[-1]:
        return _summed_tokens(params, hidden, goals, architecture, guide, lesson)
    order = jnp.argsort(~counts.reshape(-1), stable=True)
    gather = lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[order].reshape(leaf.shape)  # noqa: E731
    hidden, goals = jax.tree.map(gather, (hidden, goals))
    guide = None if guide is None else guide._replace(x=gather(guide.x))
    return _summed_tokens(params, hidden, goals, architecture, guide, lesson, _any_counts)


def _any_counts(tokens: tuple[Array, Array, Any]) -> Bool[Array, ""]:
    return jnp.any(tokens[1])


def _summed_tokens(
    params: Params,
    hidden: Array,
    goals: tuple[Array, Array],
    architecture: Architecture,
    guide: Guide | None,
    lesson: Lesson | None,
    adds: Callable[[Any], Array] | None = None,
) -> Float[Array, ""]:
    """Over tokens that count: `goals` are which token is predicted where, and where that counts."""
    tokens = *goals, None if guide is None else jax.lax.stop_gradient(guide.x)
    function = partial(_slice_loss, architecture=architecture, lesson=lesson)
    taught = None if guide is None else jax.lax.stop_gradient(guide.vocabulary)
    x = head_input(params, hidden, architecture)
    size = slice_tokens(architecture.vocab)
    return sum_in_slices(function, size, vocabulary(params, architecture), x, taught, tokens, adds)


def _slice_loss(
    params: Params, x: Array, taught: Any, tokens: Any, *, architecture: Architecture, lesson: Lesson | None
) -> Float[Array, ""]:
    target, counts, theirs = tokens
    logits = vocabulary_logits(params, x, architecture)
    values: Any = 0.0
    if lesson is None or lesson.weight < 1:
        values = surprise(logits, target)
    if lesson is not None:
        goal = vocabulary_logits(taught, theirs, lesson.architecture)
        gap = class_divergence(logits, goal, None, lesson.temperature)
        values = (1 - lesson.weight) * values + lesson.weight * gap
    return jnp.sum(jnp.where(counts, values, 0.0))


def sampled_cotangents(
    params: Params,
    hidden: Float[Array, "rows length hidden"],
    batch: Batch,
    architecture: Architecture,
    temperature: float,
    key: Array,
) -> Float[Array, "rows length hidden"]:
    """Σ over logits of (e_y - p) pulled back to the last residual stream, y sampled from p for every token.

    p is the model's own prediction at `temperature`. The outer product of these is, in expectation, the Hessian at the
    model of the summed T²·KL(p ‖ ·) of all tokens: labels of different tokens are independent.
    """
    x, pull = jax.vjp(lambda hidden: head_input(params, hidden, architecture), hidden)
    noise = jax.random.randint(key, x.shape[:2], 0, 2**31 - 1)

    def cotangent(x: Array, seed: Array) -> Array:
        logits, back = jax.vjp(lambda x: vocabulary_logits(params, x, architecture), x)
        keys = jax.vmap(partial(jax.random.fold_in, key))(seed)
        sampled = draw_tokens(keys, logits / temperature)
        error = jax.nn.one_hot(sampled, logits.shape[-1]) - jax.nn.softmax(logits / temperature, axis=-1)
        return back(error)[0]

    values = in_slices(cotangent, x, noise, size=slice_tokens(architecture.vocab))
    return pull(jnp.where(batch.real[..., None], values, 0).astype(x.dtype))[0]

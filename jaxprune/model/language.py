"""Prediction of tokens, the next or masked ones: logits over a large vocabulary exist for one slice at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .architecture import Architecture
from .ends import head_input
from .model import Batch, Params
from .partial_rows import Split, permute
from .predictions import class_divergence, of_tokens
from .product import product
from .sublayer import ACTIVATIONS, capped, norm

SLICE = 256  # tokens, of vocabularies up to 65,536; of larger ones fewer
LEAST = 32


def slice_tokens(vocab: int) -> int:
    """Tokens of a slice: its logits are at most 64 MiB in float32, and a loss needs a handful of such arrays.

    >>> slice_tokens(32_000), slice_tokens(128_256), slice_tokens(262_144)
    (256, 128, 64)
    """
    return max(LEAST, min(SLICE, 2 ** ((2**24 // vocab).bit_length() - 1)))


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


def _sliced(array: Array, size: int) -> Array:
    """[rows, length, …] as [slices, size, …], filled up with zeros."""
    flat = array.reshape(-1, *array.shape[2:])
    count = -(-len(flat) // size)
    filled = jnp.pad(flat, [(0, count * size - len(flat))] + [(0, 0)] * (flat.ndim - 1))
    return filled.reshape(count, size, *flat.shape[1:])


def _all_sliced(tree: Any, size: int) -> Any:
    return jax.tree.map(lambda array: _sliced(array, size), tree)


def _whole(slices: Array, rows: int, length: int) -> Array:
    """The inverse of `_sliced`."""
    return slices.reshape(-1, *slices.shape[2:])[: rows * length].reshape(rows, length, *slices.shape[2:])


def in_slices(function: Callable[..., Any], *arrays: Array, size: int = SLICE) -> Any:
    """`function` of [tokens, …] arrays on [rows, length, …] ones, `size` tokens at a time to save memory."""
    rows, length = arrays[0].shape[:2]
    results = jax.lax.map(lambda parts: function(*parts), tuple(_sliced(array, size) for array in arrays))
    return jax.tree.map(lambda leaf: _whole(leaf, rows, length), results)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_in_slices(
    function: Callable[[Params, Array, Any, Any], Array],
    size: int,
    params: Params,
    x: Float[Array, "rows length hidden"],
    constants: Any,
    tokens: Any,
) -> Float[Array, ""]:
    """Σ over slices of `function(params, x, constants, tokens)`, `size` tokens at a time, forwards and backwards.

    `tokens` are arrays [rows, length, …] as `x` is. There are gradients to `params` and `x`. They are computed in the
    forward pass, slice by slice, while the slice's logits are there: to keep these would take [tokens, vocabulary], to
    compute them anew in the backward pass a fourth product with the vocabulary. What differs from slice to slice must
    be an argument: `function` is static. A token of zeros, by which the last slice is filled up, must add 0.
    """

    def add(total: Array, parts: Any) -> tuple[Array, None]:
        return total + function(params, parts[0], constants, parts[1]), None

    return jax.lax.scan(add, jnp.zeros(()), _all_sliced((x, tokens), size))[0]


def _sum_forward(
    function: Callable[..., Array], size: int, params: Any, x: Any, constants: Any, tokens: Any
) -> tuple[Array, tuple[Any, Any]]:
    # Only what someone asks the gradient of is summed up: of a frozen vocabulary there would be one more copy.
    moves = jax.tree.map(lambda leaf: leaf.perturbed, params, is_leaf=_is_primal)
    params, x, constants, tokens = jax.tree.map(
        lambda leaf: leaf.value, (params, x, constants, tokens), is_leaf=_is_primal
    )
    # None in place of what the other has.
    moving = jax.tree.map(lambda leaf, yes: leaf if yes else None, params, moves)
    still = jax.tree.map(lambda leaf, yes: None if yes else leaf, params, moves)

    def add(carry: Any, parts: Any) -> tuple[Any, Array]:
        total, slope = carry

        def value_of(moving: Any, x: Array) -> Array:
            whole = jax.tree.map(lambda a, b: b if a is None else a, moving, still, is_leaf=lambda leaf: leaf is None)
            return function(whole, x, constants, parts[1])

        value, pull = jax.vjp(value_of, moving, parts[0])
        of_params, of_x = pull(jnp.ones(()))
        return (total + value, jax.tree.map(jnp.add, slope, of_params)), of_x

    zeros = jax.tree.map(jnp.zeros_like, moving)
    (total, slope), of_x = jax.lax.scan(add, (jnp.zeros(()), zeros), _all_sliced((x, tokens), size))
    return total, (slope, _whole(of_x, *x.shape[:2]))


def _sum_backward(
    function: Callable[..., Array], size: int, kept: tuple[Any, Any], g: Array
) -> tuple[Any, Any, None, None]:
    slope, of_x = jax.tree.map(lambda leaf: (g * leaf).astype(leaf.dtype), kept)
    return slope, of_x, None, None


def _is_primal(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


sum_in_slices.defvjp(_sum_forward, _sum_backward, symbolic_zeros=True)


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
    """Where a token counts in the loss of a masked language model: `targets` has one there, 0 or more, for each token
    of a text; without any, [rows, texts, 0], everywhere.
    """
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
    """The same summed over the `masked` tokens, each predicted at its own place; without targets, over all as they
    stand.
    """
    truth = of_tokens(targets, batch) if targets.shape[-1] else batch.ids
    goals = jnp.maximum(truth, 0), masked(batch, targets)
    return _summed_tokens(params, hidden, goals, architecture, guide, lesson)


def _summed_tokens(
    params: Params,
    hidden: Array,
    goals: tuple[Array, Array],
    architecture: Architecture,
    guide: Guide | None,
    lesson: Lesson | None,
) -> Float[Array, ""]:
    """Over tokens that count: `goals` are which token is predicted where, and where that counts."""
    tokens = *goals, None if guide is None else jax.lax.stop_gradient(guide.x)
    function = partial(_slice_loss, architecture=architecture, lesson=lesson)
    taught = None if guide is None else jax.lax.stop_gradient(guide.vocabulary)
    x = head_input(params, hidden, architecture)
    size = slice_tokens(architecture.vocab)
    return sum_in_slices(function, size, vocabulary(params, architecture), x, taught, tokens)


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
        draw = lambda seed, row: jax.random.categorical(jax.random.fold_in(key, seed), row)  # noqa: E731
        sampled = jax.vmap(draw)(seed, logits / temperature)
        error = jax.nn.one_hot(sampled, logits.shape[-1]) - jax.nn.softmax(logits / temperature, axis=-1)
        return back(error)[0]

    values = in_slices(cotangent, x, noise, size=slice_tokens(architecture.vocab))
    return pull(jnp.where(batch.real[..., None], values, 0).astype(x.dtype))[0]

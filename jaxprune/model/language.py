"""Next-token prediction over large vocabularies: logits exist for one slice of tokens at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .architecture import Architecture
from .ends import head_input
from .model import Batch, Params

SLICE = 256  # tokens


def vocabulary_logits(
    params: Params, x: Float[Array, "... hidden"], architecture: Architecture
) -> Float[Array, "... vocab"]:
    """A language model's logits from `head_input`, over the whole vocabulary."""
    if architecture.tied:
        return x @ params["embed"]["token"].astype(x.dtype).T
    return jnp.tensordot(x, params["head"]["kernel"].astype(x.dtype), axes=1)


def next_tokens(batch: Batch) -> tuple[Int[Array, "rows length"], Bool[Array, "rows length"]]:
    """The token after each, and where there is one in the same text."""
    following = jnp.roll(batch.ids, -1, axis=1)
    same = (jnp.roll(batch.segments, -1, axis=1) == batch.segments) & batch.real
    return following, same.at[:, -1].set(False)


def in_slices(function: Callable[..., Any], *arrays: Array) -> Any:
    """`function` of [tokens, …] arrays on [rows, length, …] ones, `SLICE` tokens at a time to save memory."""
    rows, length = arrays[0].shape[:2]
    count = -(-rows * length // SLICE)

    def cut(array: Array) -> Array:
        flat = array.reshape(rows * length, *array.shape[2:])
        filled = jnp.pad(flat, [(0, count * SLICE - len(flat))] + [(0, 0)] * (flat.ndim - 1))
        return filled.reshape(count, SLICE, *flat.shape[1:])

    results = jax.lax.map(lambda parts: function(*parts), tuple(map(cut, arrays)))
    return jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: rows * length].reshape(rows, length, *leaf.shape[2:]), results
    )


def next_token_losses(
    params: Params, hidden: Float[Array, "rows length hidden"], batch: Batch, architecture: Architecture
) -> Float[Array, "rows length"]:
    """Negative log likelihood of the next token in nats, from the last residual stream; 0 where none follows."""
    following, present = next_tokens(batch)

    def losses(x: Array, target: Array) -> Array:
        logits = vocabulary_logits(params, x, architecture).astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, target[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen

    values = in_slices(losses, head_input(params, hidden, architecture), following)
    return jnp.where(present, values, 0.0)


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
        logits, back = jax.vjp(lambda x: vocabulary_logits(params, x, architecture).astype(jnp.float32), x)
        draw = lambda seed, row: jax.random.categorical(jax.random.fold_in(key, seed), row)  # noqa: E731
        sampled = jax.vmap(draw)(seed, logits / temperature)
        error = jax.nn.one_hot(sampled, logits.shape[-1]) - jax.nn.softmax(logits / temperature, axis=-1)
        return back(error)[0]

    values = in_slices(cotangent, x, noise)
    return pull(jnp.where(batch.real[..., None], values, 0).astype(x.dtype))[0]

"""Text, one token after the other: keys and values of what was said are kept, so that a step costs one token.

One compiled program reads the prompts and writes all new tokens; layers may be of any sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import DataError, SettingsError
from .architecture import Architecture
from .model import Batch, Model, Params
from .transformer import (
    ATTENTION,
    FEED_FORWARD,
    OUTPUT,
    Context,
    attend,
    embed,
    head_input,
    project_out,
    residual,
    rotate,
    rotation_at,
    sublayer,
    sublayer_inputs,
    vocabulary_logits,
)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 0.0  # 0: the most likely one
    top_k: int | None = None  # among the k most likely
    top_p: float | None = None  # among the fewest that hold this probability

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise SettingsError(f"temperature must be a number of at least 0, got {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise SettingsError(f"top_k must be at least 1, got {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SettingsError(f"top_p must lie in (0, 1], got {self.top_p}.")


class Generated(NamedTuple):
    """New tokens, [rows, max_new_tokens]; what follows a row's end is padding."""

    ids: np.ndarray
    lengths: np.ndarray  # [rows]: how many of them count, the end token included


def generate_ids(
    model: Model,
    prompts: Sequence[Sequence[int] | np.ndarray],
    *,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    seed: int = 0,
    end_ids: Sequence[int] | None = None,
    dtype: Any = jnp.float32,
) -> Generated:
    """Continue every prompt, a list of token ids, by up to `max_new_tokens`.

    A row ends with one of `end_ids` (default: the model's own). What a row says does not depend on the rows beside it,
    but for the draws, which go by the row's number. `dtype` is the compute type. Raises `DataError` for a model that
    is no language model, an empty prompt, foreign ids, or more tokens than the model has positions.
    """
    a = model.architecture
    if a.head != "causal_lm":
        raise DataError(f"generating needs a causal_lm head, the model has {a.head}; load a language model.")
    if max_new_tokens < 1:
        raise SettingsError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
    lengths = np.array([len(prompt) for prompt in prompts], np.int64)
    if not len(lengths) or lengths.min() < 1:
        where = f"prompt {int(lengths.argmin())} has no tokens" if len(lengths) else "there are no prompts"
        raise DataError(f"{where}; give at least one token.")
    longest = int(lengths.max())
    if a.positions != "none" and longest + max_new_tokens > a.max_positions:
        raise DataError(
            f"{longest} prompt tokens and {max_new_tokens} new ones exceed the model's {a.max_positions} positions; "
            "shorten the prompt or ask for fewer."
        )
    ids = np.full((len(prompts), longest), a.pad_id, np.int32)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
    if ids.min() < 0 or ids.max() >= a.vocab:
        raise DataError(f"prompt ids run up to {ids.max()}, the model's embedding has {a.vocab} rows.")
    found, count = continue_rows(
        model.params,
        jnp.asarray(ids),
        jnp.asarray(longest - lengths, jnp.int32),
        jax.random.key(seed),
        architecture=a,
        new=max_new_tokens,
        sampling=sampling,
        end_ids=tuple(a.end_ids if end_ids is None else end_ids),
        dtype=dtype,
    )
    return Generated(np.asarray(found), np.asarray(count))


class Cache(NamedTuple):
    """Keys (turned) and values of one layer, by slot."""

    keys: Float[Array, "rows slots groups width"]
    values: Float[Array, "rows slots groups width"]


@partial(jax.jit, static_argnames=("architecture", "new", "sampling", "end_ids", "dtype"))
def continue_rows(
    params: Params,
    ids: Int[Array, "rows length"],
    padding: Int[Array, " rows"],
    key: Array,
    *,
    architecture: Architecture,
    new: int,
    sampling: Sampling,
    end_ids: tuple[int, ...],
    dtype: Any,
) -> tuple[Int[Array, "rows new"], Int[Array, " rows"]]:
    """New tokens after left-padded prompts, and how many; `padding` is the slots before each row's first token."""
    rows, length = ids.shape
    slots = jnp.arange(length + new)
    visible = slots[None] >= padding[:, None]  # [rows, slots]; later ones are hidden step by step
    caches = [
        Cache(*(jnp.zeros((rows, length + new, size.groups, architecture.head_width), dtype) for _ in "kv"))
        for size in architecture.layers
    ]
    logits, caches = read(params, ids, 0, padding, visible, caches, architecture, dtype)

    def unfinished(state: Any) -> Array:
        step, _, _, done, *_ = state
        return (step < new) & ~jnp.all(done)

    def say(state: Any) -> Any:
        step, said, count, done, logits, caches = state
        token = draw(logits, jax.random.fold_in(key, step), sampling)
        said = said.at[:, step].set(jnp.where(done, architecture.pad_id, token))
        count = jnp.where(done, count, step + 1)
        ended = jnp.isin(token, jnp.asarray(end_ids, jnp.int32)) if end_ids else jnp.zeros_like(done)
        logits, caches = read(params, token[:, None], length + step, padding, visible, caches, architecture, dtype)
        return step + 1, said, count, done | ended, logits, caches

    said = jnp.full((rows, new), architecture.pad_id, jnp.int32)
    state = (0, said, jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool), logits, caches)
    _, said, count, *_ = jax.lax.while_loop(unfinished, say, state)
    return said, count


def read(
    params: Params,
    ids: Int[Array, "rows tokens"],
    first: Any,
    padding: Int[Array, " rows"],
    visible: Bool[Array, "rows slots"],
    caches: Sequence[Cache],
    architecture: Architecture,
    dtype: Any,
) -> tuple[Float[Array, "rows vocab"], list[Cache]]:
    """Take in tokens at slots `first`, `first` + 1, …; the logits after the last one, and the caches with them."""
    here = first + jnp.arange(ids.shape[1])
    # Positions count a row's own tokens; slots before its first one are never seen.
    positions = jnp.maximum(here[None] - padding[:, None], 0)
    real = (here[None] >= padding[:, None]).astype(jnp.int32)
    nothing = jnp.zeros((len(ids), 1), jnp.int32)
    batch = Batch(ids, real, positions, jnp.zeros_like(ids), nothing, nothing)
    slots = jnp.arange(visible.shape[1])
    mask = (visible[:, None, :] & (slots[None, None] <= here[None, :, None]))[:, None]
    context, kept = Context(mask, rotation_at(architecture, positions)), []
    x = embed(params, batch, architecture).astype(dtype)
    for p, cache in zip(params["layers"], caches, strict=True):
        x, cache = attention_step(p[ATTENTION], x, first, context, cache, architecture)
        x, _ = sublayer(FEED_FORWARD, p[FEED_FORWARD], x, context, architecture)
        kept.append(cache)
    last = head_input(params, x[:, -1:], architecture)
    return vocabulary_logits(params, last, architecture)[:, 0].astype(jnp.float32), kept


def attention_step(
    p: Params, x: Array, first: Any, context: Context, cache: Cache, architecture: Architecture
) -> tuple[Array, Cache]:
    """The attention half on new tokens, which see the cache and themselves."""
    features, k, v = sublayer_inputs(ATTENTION, p, x, architecture)
    if features.shape[2]:  # some heads are left
        if context.rotation is not None:
            features, k = rotate(features, context.rotation), rotate(k, context.rotation)
        write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=first, axis=1)
        cache = Cache(write(cache.keys, k), write(cache.values, v))
        features = attend(features, cache.keys, cache.values, context.mask, architecture)
    return residual(p, x, project_out(p[OUTPUT[ATTENTION]], features), architecture), cache


def draw(logits: Float[Array, "rows vocab"], key: Array, sampling: Sampling) -> Int[Array, " rows"]:
    """The next token of every row."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    allowed = candidates(logits / sampling.temperature, sampling)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(logits)))
    return jax.vmap(jax.random.categorical)(keys, allowed).astype(jnp.int32)


def candidates(logits: Float[Array, "rows vocab"], sampling: Sampling) -> Float[Array, "rows vocab"]:
    """Logits, -inf where top-k or top-p rule a token out. Top-p counts what top-k has left."""
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits >= smallest, logits, -jnp.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        p = jax.nn.softmax(ordered, axis=-1)
        inside = jnp.cumsum(p, axis=-1) - p < sampling.top_p  # what comes before holds less than top_p
        smallest = jnp.min(jnp.where(inside, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= smallest, logits, -jnp.inf)
    return logits

"""Text, one token after the other: keys and values of what was said are kept, so that a step costs one token.

One compiled program reads the prompts and writes all new tokens; layers may be of any sizes.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..checks import checked
from ..errors import NumericalError, SettingsError
from ..model.architecture import ATTENTION, FEED_FORWARD, Architecture
from ..model.context import Context, for_layers, layer_contexts, reach, rotation_at
from ..model.ends import embed_tokens, head_input
from ..model.language import vocabulary_logits
from ..model.model import Batch, Model, Params
from ..model.product import product
from ..model.sublayer import OUTPUT, attend, attention_weights, project_out, residual, sublayer, sublayer_inputs, turned
from .programs import Programs
from .prompts import check_prompts, left_padded, prompt_rows, rounded_up
from .sampling import Odds, Sampling, draw


class Generated(NamedTuple):
    """New tokens, [rows, max_new_tokens]; what follows a row's end is padding."""

    ids: np.ndarray
    lengths: np.ndarray  # [rows]: how many of them count, the end token included
    ended: np.ndarray  # [rows]: true where an end token came, false where max_new_tokens stopped the row


@checked
def generate_ids(
    model: Model,
    prompts: Any,
    attention_mask: Any = None,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    end_ids: Sequence[int] | None = None,
    batch: int | None = None,
    dtype: Any = jnp.float32,
    programs: Programs | None = None,
) -> Generated:
    """Continue every prompt by up to `max_new_tokens` tokens.

    `prompts` is a list of lists of token ids, or an array [rows, length], padded on any side where `attention_mask` is
    0. The most likely token is taken each time; with a `temperature` above 0 one is drawn, of the `top_k` best or of
    the best that hold `top_p` together. A row ends with one of `end_ids` (default: the model's own; (): never). In
    float32 what a row says does not depend on the rows beside it, up to ties within a rounding: draws go by `seed`
    (None: 0) and the row's number. `batch` rows run together (None: all). `dtype` is the compute type; in bfloat16 a
    batch of another size or width rounds otherwise, and a row may go another way after some tokens: for texts that do
    not depend on the batch, use float32. `programs` keeps the books of what is compiled: lengths are rounded up, so
    that prompts of about the same length share a program, and so do all temperatures, `top_p`s and seeds.

    Raises `SettingsError` for settings outside their range; `DataError` for a model that is no language model, an empty
    prompt, foreign ids, or more tokens than the model has positions; `NumericalError` for NaN or Inf in the logits.
    """
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    a, asked = model.architecture, prompt_rows(prompts, attention_mask)
    check_prompts(a, asked, max_new_tokens)
    if batch is not None and batch < 1:
        raise SettingsError(f"batch must be at least 1, got {batch}.")
    foreign = [number for number in end_ids or () if not 0 <= number < a.vocab]
    if foreign:
        raise SettingsError(f"end_ids has {foreign[0]}, which is no token: the model's embedding has {a.vocab} rows.")
    ends = np.array(a.end_ids if end_ids is None else tuple(end_ids), np.int32)
    odds = None if temperature == 0 else Odds(*map(np.float32, (temperature, 1.0 if top_p is None else top_p)))
    params, key = jax.device_put(model.params), jax.random.key(seed or 0)
    programs, size = Programs() if programs is None else programs, min(batch or len(asked), len(asked))
    width, room = rounded_up(max(map(len, asked))), rounded_up(max_new_tokens)
    outputs = []
    for first in range(0, len(asked), size):
        ids, lengths = left_padded(asked[first : first + size], size, width, a.pad_id)
        out = programs(
            continue_rows,
            params,
            *(ids, lengths, first + np.arange(size, dtype=np.int32), key, odds, ends, np.int32(max_new_tokens)),
            architecture=a,
            room=room,
            top_k=sampling.top_k if odds is not None else None,
            nucleus=odds is not None and top_p is not None and top_p < 1,
            dtype=jnp.dtype(dtype),
        )
        outputs.append(jax.tree.map(np.asarray, out))
        if not outputs[-1].finite:
            raise NumericalError(
                f"NaN or Inf in the logits of prompts {first} to {min(first + size, len(asked)) - 1}, at or before new "
                f"token {outputs[-1].step}; check the checkpoint's weights."
            )
    join = lambda name: np.concatenate([getattr(out, name) for out in outputs])[: len(asked)]  # noqa: E731
    return Generated(join("said")[:, :max_new_tokens], join("count"), join("ended"))


# --- the compiled program


class Cache(NamedTuple):
    """Keys (turned) and values of one layer, a group's slots side by side: no step has to turn them round."""

    keys: Float[Array, "rows groups slots width"]
    values: Float[Array, "rows groups slots width"]


class Decoding(NamedTuple):
    """What is known after `step` new tokens."""

    step: Array
    said: Int[Array, "rows room"]
    count: Int[Array, " rows"]
    token: Int[Array, " rows"]  # the last one said, not yet read
    live: Bool[Array, " rows"]  # rows that go on
    ended: Bool[Array, " rows"]
    finite: Array  # false: a row that goes on has logits that are not
    caches: list[Cache]


@partial(jax.jit, static_argnames=("architecture", "room", "top_k", "nucleus", "dtype"))
def continue_rows(
    params: Params,
    ids: Int[Any, "rows width"],
    lengths: Int[Any, " rows"],
    numbers: Int[Any, " rows"],
    key: Array,
    odds: Odds | None,
    ends: Int[Any, " ends"],
    limit: Any,
    *,
    architecture: Architecture,
    room: int,
    top_k: int | None = None,
    nucleus: bool = False,
    dtype: Any = jnp.float32,
) -> Decoding:
    """Up to `limit` new tokens after left-padded prompts, `room` at most; `odds` None takes the most likely ones.

    `lengths` are the rows' own tokens, `numbers` what their draws go by. The result has no caches.
    """
    rows, width = ids.shape
    padding = width - lengths  # slots before each row's first token; never seen
    params = ready(params, architecture, dtype)

    def say(state: Decoding, logits: Float[Array, "rows vocab"]) -> Decoding:
        if odds is None:
            token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        else:
            fold = lambda number: jax.random.fold_in(jax.random.fold_in(key, number), state.step)  # noqa: E731
            token = draw(logits, jax.vmap(fold)(numbers), odds.temperature, top_k, odds.top_p if nucleus else None)
        token = jnp.where(state.live, token, architecture.pad_id)
        ended = state.live & jnp.any(token[:, None] == ends, axis=1)
        return state._replace(
            step=state.step + 1,
            said=state.said.at[:, state.step].set(token),
            count=state.count + state.live,
            token=token,
            live=state.live & ~ended,
            ended=state.ended | ended,
            finite=state.finite & jnp.all(jnp.isfinite(logits) | ~state.live[:, None]),
        )

    def unfinished(state: Decoding) -> Array:
        return (state.step < limit) & state.finite & jnp.any(state.live)

    def go_on(state: Decoding) -> Decoding:
        slot = width + state.step - 1
        positions = (lengths + state.step - 1)[:, None]
        slots = jnp.arange(width + room)

        def context_at(kind: Architecture) -> Context:
            mask = (slots >= padding[:, None]) & reach(kind, slot, slots)
            return Context(mask[:, None, None], rotation_at(kind, positions, positions + 1))

        contexts = for_layers(architecture, context_at)
        batch = token_batch(state.token[:, None], positions, jnp.ones_like(positions))
        logits, caches = read(params, batch, contexts, state.caches, slot, architecture, dtype)
        return say(state._replace(caches=caches), logits)

    slots = jnp.arange(width)[None]
    positions = jnp.maximum(slots - padding[:, None], 0)
    batch = token_batch(jnp.asarray(ids), positions, (slots >= padding[:, None]).astype(jnp.int32))
    logits, caches = read(params, batch, layer_contexts(architecture, batch), None, 0, architecture, dtype)
    start = Decoding(
        step=jnp.int32(0),
        said=jnp.full((rows, room), architecture.pad_id, jnp.int32),
        count=jnp.zeros(rows, jnp.int32),
        token=jnp.zeros(rows, jnp.int32),
        live=lengths > 0,
        ended=jnp.zeros(rows, bool),
        finite=jnp.bool_(True),
        caches=jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, 0), (0, room), (0, 0))), caches),
    )
    return jax.lax.while_loop(unfinished, go_on, say(start, logits))._replace(caches=[])


def ready(params: Params, architecture: Architecture, dtype: Any) -> Params:
    """The parameters with their matrices in the compute type: cast once, not at every step."""

    def cast(tree: Any) -> Any:
        if isinstance(tree, list):
            return [cast(entry) for entry in tree]
        if not isinstance(tree, dict):
            return tree
        if "kernel" in tree:
            return {name: leaf.astype(dtype) for name, leaf in tree.items()}
        return {name: cast(entry) for name, entry in tree.items()}

    out = cast({name: entry for name, entry in params.items() if name != "embed"})
    # Embeddings are summed before they are cast, as `forward` does it; as a head the table is a matrix like others.
    table = {"head_table": params["embed"]["token"].astype(dtype)} if architecture.tied else {}
    return {**out, "embed": params["embed"], **table}


def read(
    params: Params,
    batch: Batch,
    contexts: Sequence[tuple[Architecture, Context]],
    caches: Sequence[Cache] | None,
    first: Any,
    architecture: Architecture,
    dtype: Any,
) -> tuple[Float[Array, "rows vocab"], list[Cache]]:
    """Take in tokens at slots `first`, `first` + 1, …: the logits after the last one, and the caches with them.

    Without caches the tokens see one another only, and the caches are theirs. `contexts` has an entry for every layer.
    """
    x, kept = embed_tokens(params, batch, architecture, dtype).astype(dtype), []
    for index, p in enumerate(params["layers"]):
        cache, (kind, context) = None if caches is None else caches[index], contexts[index]
        x, cache = attention_step(p[ATTENTION], x, context, cache, first, kind)
        x, _ = sublayer(FEED_FORWARD, p[FEED_FORWARD], x, context, kind)
        kept.append(cache)
    last = head_input(params, x[:, -1:], architecture)
    head = {"embed": {"token": params["head_table"]}} if architecture.tied else params
    return vocabulary_logits(head, last, architecture)[:, 0], kept


def attention_step(
    p: Params, x: Array, context: Context, cache: Cache | None, first: Any, architecture: Architecture
) -> tuple[Array, Cache]:
    """The attention half on new tokens, which see the cache and themselves."""
    q, k, v = sublayer_inputs(ATTENTION, p, x, architecture)
    q, k = turned(q, k, context.rotation)
    new = Cache(jnp.moveaxis(k, 1, 2), jnp.moveaxis(v, 1, 2))
    if cache is None:
        cache, features = new, attend(q, k, v, context.mask, architecture)
    else:
        if k.shape[2]:  # some heads are left
            write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=first, axis=2)
            cache = Cache(write(cache.keys, new.keys), write(cache.values, new.values))
        features = attend_cache(q, cache, context.mask, architecture)
    return residual(p, x, project_out(p[OUTPUT[ATTENTION]], features), architecture), cache


def attend_cache(q: Array, cache: Cache, mask: Array, architecture: Architecture) -> Array:
    """`attend` at the keys and values of a cache."""
    if not q.shape[2]:  # no heads are left
        return q
    weights = attention_weights(product("bqgnw,bgkw->bgnqk", q, cache.keys, jnp.float32), mask, architecture)
    return product("bgnqk,bgkw->bqgnw", weights.astype(q.dtype), cache.values)


def token_batch(ids: Array, positions: Array, segments: Array) -> Batch:
    """A batch of tokens of one text a row, of which nothing is pooled."""
    nothing = jnp.zeros((ids.shape[0], 1), jnp.int32)  # rows may be symbolic, as len() may not
    return Batch(ids, segments, positions, jnp.zeros_like(ids), nothing, nothing)

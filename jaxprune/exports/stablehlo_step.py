"""A step of generation as a program of jax.export: new tokens and a cache go in, logits and the cache come out.

The prompts are a step too, of several tokens, so that one program of any number of rows, new tokens and slots does all.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from ..checkpoint.head_names import HEAD_NAMES
from ..checkpoint.manifest import named_parameters
from ..errors import CheckpointError
from ..model.architecture import Architecture
from ..model.context import Context, for_layers, reach, rotation_at
from ..model.heads import head_of
from ..model.model import Model
from ..model.padded import logits
from ..runtime.decode import Cache, read, ready, token_batch
from .exported import probe


def check_generates(a: Architecture) -> None:
    """Raise `CheckpointError` for a model that continues no texts."""
    if not head_of(a).generates:
        head = "no head" if HEAD_NAMES[a.head].bare else f"a {a.head.replace('_', ' ')} head"
        raise CheckpointError(f"a step of generation is a language model's, and this one has {head}; leave it out.")


def step_arguments(a: Architecture) -> list[Any]:
    """What the program takes behind the weights, with rows, new tokens and slots of the cache left open.

    New token ids [rows, new]; padding [rows]: the slots before each row's first token; the slot of the first new token;
    the cache [2, rows, groups, slots, width]: keys and values, the groups of all layers one after the other.
    """
    bounds = ["new <= slots", *([f"slots <= {a.max_positions}"] if a.positions != "none" else [])]
    rows, new, slots = jax_export.symbolic_shape("rows, new, slots", scope=jax_export.SymbolicScope(bounds))
    spec, groups = jax.ShapeDtypeStruct, sum(size.groups for size in a.layers)
    cache = spec((2, rows, groups, slots, a.head_width), jnp.float32)
    return [spec((rows, new), jnp.int32), spec((rows,), jnp.int32), spec((), jnp.int32), cache]


def step_of(model: Model) -> Callable[..., tuple[Any, Any]]:
    """The function of the program: from weights by name and `step_arguments` to logits [rows, vocab] and the cache.

    The logits are those after each row's last new token; the cache has the new tokens' keys and values. Where it has no
    room for them, the logits are NaN: a program cannot raise errors.
    """
    a, (names, structure) = model.architecture, named_parameters(model.params)
    ends = np.cumsum([size.groups for size in a.layers])

    def step(weights: dict[str, Any], ids: Any, padding: Any, first: Any, cache: Any) -> tuple[Any, Any]:
        params = ready(structure.unflatten([weights[name] for name in names]), a, jnp.float32)
        new, keys = first + jnp.arange(ids.shape[1], dtype=jnp.int32), jnp.arange(cache.shape[3], dtype=jnp.int32)
        positions = jnp.maximum(new[None] - padding[:, None], 0)
        read_so_far = (first + ids.shape[1] - padding)[:, None]

        def context_at(kind: Architecture) -> Context:
            mask = (keys >= padding[:, None, None]) & reach(kind, new[:, None], keys[None])
            return Context(mask[:, None], rotation_at(kind, positions, read_so_far))

        parts = zip(*(jnp.split(cache[half], ends[:-1], axis=1) for half in (0, 1)), strict=True)
        caches = [Cache(keys, values) for keys, values in parts]
        batch = token_batch(ids, positions, (new[None] >= padding[:, None]).astype(jnp.int32))
        out, caches = read(params, batch, for_layers(a, context_at), caches, first, a, jnp.float32)
        out = jnp.where(first + ids.shape[1] <= cache.shape[3], out, jnp.nan)
        halves = ([cache.keys for cache in caches], [cache.values for cache in caches])
        return out, jnp.stack([jnp.concatenate(half, axis=1) for half in halves])

    return step


def step_difference(model: Model, call: Callable[..., Any]) -> tuple[float, float]:
    """The largest difference of what a program gives from what the model does, and the model's largest logit.

    `call` takes what comes behind the weights. Two rows of random tokens are read: as prompts, then one token more.
    """
    a = model.architecture
    ids, mask, _ = probe(a, 2, 24)
    expected, lengths = np.asarray(logits(model, ids, mask)), mask.sum(axis=1)
    width = ids.shape[1]
    padding = (width - lengths).astype(np.int32)
    left = np.stack([np.roll(row, shift) for row, shift in zip(ids, padding, strict=True)]).astype(np.int32)
    groups = sum(size.groups for size in a.layers)
    cache: Any = np.zeros((2, len(ids), groups, width, a.head_width), np.float32)
    difference, largest = 0.0, 0.0
    for start, stop in ((0, width - 1), (width - 1, width)):
        got, cache = call(left[:, start:stop], padding, np.int32(start), cache)
        said = expected[np.arange(len(ids)), stop - 1 - padding]
        difference = max(difference, float(np.abs(np.asarray(got) - said).max()))
        largest = max(largest, float(np.abs(said).max()))
    return difference, largest

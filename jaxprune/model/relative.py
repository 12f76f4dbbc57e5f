"""Relative positions: what a table adds to attention scores, by head and by how far apart two tokens are."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .attention_kinds import Disentangled, Relative
from .model import Params


@lru_cache
def distance_buckets(buckets: int, reach: int) -> tuple[int, ...]:
    """The bucket of distances 0, 1, … `reach`, in one direction; beyond, that of `reach`.

    In float32 steps, as transformers works them out: a distance on the border of two ranges falls on the same side.
    """
    half = buckets // 2
    exact = half // 2
    distance = np.arange(reach + 1, dtype=np.float32)
    with np.errstate(divide="ignore"):
        steps = np.log(distance / np.float32(exact)) / np.float32(math.log(reach / exact)) * np.float32(half - exact)
    ranges = np.minimum(exact + np.maximum(steps, 0).astype(np.int64), half - 1)
    return tuple(np.where(distance < exact, distance.astype(np.int64), ranges).tolist())


def pair_buckets(kind: Relative, length: Any) -> Int[Array, "length length"]:
    """The bucket of every query slot (row) and key slot (column); `length` may be symbolic.

    By slots, so that padding counts as in transformers: within a text the slots are as far apart as the positions.
    """
    slots = jnp.arange(length)
    ahead = slots[None, :] - slots[:, None]
    near = jnp.asarray(distance_buckets(kind.buckets, kind.reach), jnp.int32)
    return near[jnp.minimum(jnp.abs(ahead), kind.reach)] + jnp.where(ahead > 0, kind.buckets // 2, 0)


def added_scores(
    table: Float[Array, "buckets groups"], buckets: Int[Array, "queries keys"]
) -> Float[Array, "1 groups queries keys"]:
    """What is added to every score, before the softmax."""
    return jnp.moveaxis(table[buckets], -1, 0)[None]


def shared_tables(params: Params, architecture: Any) -> Params:
    """The same parameters, whose layers share one table when they are differentiated.

    A column that several layers have gets the gradient of all of them in each, so that a training step moves equal
    copies equally, as transformers moves its one table. Likewise a table of distances, and its norm.
    """
    kind, layers = architecture.attention, params["layers"]
    if isinstance(layers, Mapping) or not isinstance(kind, Relative | Disentangled):  # stacked layers are only run
        return params
    if isinstance(kind, Disentangled):
        copies = _equal([layer["attention"]["distances"] for layer in layers])
        pairs = zip(layers, copies, strict=True)
        layers = [{**layer, "attention": {**layer["attention"], "distances": copy}} for layer, copy in pairs]
        return {**params, "layers": layers}
    tables = [layer["attention"]["relative"]["table"] for layer in layers]
    columns = kind.columns or tuple(tuple(range(size.groups)) for size in architecture.layers)
    layers = [
        {**layer, "attention": {**layer["attention"], "relative": {"table": table}}}
        for layer, table in zip(layers, _shared(tables, columns), strict=True)
    ]
    return {**params, "layers": layers}


@jax.custom_vjp
def _equal(copies: list[Any]) -> list[Any]:
    return copies


def _equal_forward(copies: list[Any]) -> tuple[list[Any], None]:
    return copies, None


def _equal_backward(_: None, gradients: list[Any]) -> tuple[list[Any]]:
    total = jax.tree.map(lambda *parts: sum(part.astype(jnp.float32) for part in parts), *gradients)
    return ([jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), total, old) for old in gradients],)


_equal.defvjp(_equal_forward, _equal_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _shared(tables: list[Array], columns: Sequence[Sequence[int]]) -> list[Array]:
    return tables


def _shared_forward(tables: list[Array], columns: Sequence[Sequence[int]]) -> tuple[list[Array], None]:
    return tables, None


def _shared_backward(columns: Sequence[Sequence[int]], _: None, gradients: list[Array]) -> tuple[list[Array]]:
    places = [np.array(numbers, int) for numbers in columns]
    width = 1 + max((number for numbers in columns for number in numbers), default=0)
    total = jnp.zeros((len(gradients[0]), width), jnp.float32)
    for gradient, place in zip(gradients, places, strict=True):
        total = total.at[:, place].add(gradient.astype(jnp.float32))
    return ([total[:, place].astype(old.dtype) for old, place in zip(gradients, places, strict=True)],)


_shared.defvjp(_shared_forward, _shared_backward)

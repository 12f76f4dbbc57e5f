"""Disentangled attention: rows of a table of distances, and what they add to scores by what tokens say (DeBERTa)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .attention_kinds import Disentangled
from .product import product


@lru_cache
def distance_steps(kind: Disentangled) -> tuple[int, ...]:
    """How many rows distances 0, 1, … lie from that of distance 0, on either side; farther ones as far as the last.

    In float32 steps, as transformers works them out: a distance on the border of two ranges falls on the same side.
    """
    if not kind.buckets:
        return tuple(range(kind.reach + 1))
    middle = kind.buckets // 2
    distance = np.arange(2 * kind.reach + 1, dtype=np.float32)  # at the end of it, beyond the last row
    ranges = np.log(np.maximum(distance, middle) / np.float32(middle))
    ranges = ranges / np.log(np.array([(kind.reach - 1) / middle], np.float32)) * np.float32(middle - 1)
    steps = np.where(distance <= middle, distance, np.ceil(ranges) + middle)
    return tuple(steps.astype(np.int64).tolist())


def distance_rows(kind: Disentangled, length: Any) -> tuple[int, int]:
    """The first row of the table that a pair of tokens in `length` slots can have, and one past the last.

    Of a symbolic length, all rows.
    """
    if not isinstance(length, int):
        return 0, 2 * kind.span
    steps = distance_steps(kind)
    farthest = steps[min(length - 1, len(steps) - 1)]
    return max(kind.span - farthest, 0), min(kind.span + farthest, 2 * kind.span - 1) + 1


def pair_rows(kind: Disentangled, length: Any) -> Int[Array, "length length"]:
    """Which of the rows that `distance_rows` names every query slot (row) and key slot (column) has.

    By slots, so that padding counts as in transformers: within a text the slots are as far apart as the positions.
    """
    slots, steps = jnp.arange(length), distance_steps(kind)
    behind = slots[:, None] - slots[None, :]
    away = jnp.asarray(steps, jnp.int32)[jnp.minimum(jnp.abs(behind), len(steps) - 1)]
    rows = jnp.clip(kind.span + jnp.where(behind < 0, -away, away), 0, 2 * kind.span - 1)
    return rows - distance_rows(kind, length)[0]


def distance_scores(
    q: Float[Array, "batch length groups width"],
    k: Float[Array, "batch length groups width"],
    of_distances: Sequence[Float[Array, "1 rows groups width"]],
    kind: Disentangled,
    rows: Int[Array, "length length"],
) -> Float[Array, "batch groups length length"] | None:
    """What is added to every score, before it is scaled; None where nothing is compared with distances.

    `of_distances` are their keys and their queries, as far as there are such, and `rows` those of `pair_rows`.
    """
    parts, added = list(of_distances), []
    # The axis that rows are taken along comes second, so that what is taken of it lies together.
    take = jax.vmap(lambda scores, own: scores[own])
    if kind.keys:
        by_row = product("bqgw,rgw->qrbg", q, parts.pop(0)[0], jnp.float32)
        added.append(jnp.transpose(take(by_row, rows), (2, 3, 0, 1)))
    if kind.queries:
        by_row = product("bkgw,rgw->krbg", k, parts.pop(0)[0], jnp.float32)
        added.append(jnp.transpose(take(by_row, rows.T), (2, 3, 1, 0)))
    return sum(added[1:], added[0]) if added else None

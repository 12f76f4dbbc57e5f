"""Float32 masters of weights that are kept in fewer bits.

A usual step is less than half a unit in the last place of most bfloat16 weights: added to one, it changes nothing. What
trains is therefore float32 from the first step to the last, and rounded once, for the score and for the result.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import SettingsError
from ..model import Params


def masters(tree: Any) -> Any:
    """The leaves in float32, as copies: a step consumes its state, and the caller keeps the model."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), tree)


def result_types(params: Params, asked: str | None) -> Params:
    """The type that every leaf has in the end: the one that is asked for, or its own."""
    return jax.tree.map(lambda leaf: jnp.dtype(asked or leaf.dtype), params)


def at_rest(frozen: Params, asked: str | None) -> Params:
    """What does not train, in the type that is asked for while the rest does; None: as it is."""
    return frozen if asked is None else in_types(frozen, result_types(frozen, asked))


def in_types(params: Any, types: Any, spend: Callable[[Any], None] = lambda leaf: None) -> Any:
    """`params` in the types of `result_types`; a leaf that has its type already is shared.

    `spend` gets every other leaf as soon as it has been copied, to free its memory. Raises `SettingsError` for numbers
    too large for float16.
    """

    def cast(dtype: np.dtype, leaf: Any) -> Any:
        if leaf.dtype == dtype or not jnp.issubdtype(leaf.dtype, jnp.floating):  # or the places of a split matrix
            return leaf
        with np.errstate(over="ignore"):
            copy = leaf.astype(dtype)
        if dtype == jnp.float16 and not bool(jnp.all(jnp.isfinite(copy))):
            raise SettingsError("a weight of the result is too large for float16; choose bfloat16 or float32.")
        spend(leaf)
        return copy

    return jax.tree.map(lambda dtype, part: jax.tree.map(partial(cast, dtype), part), types, params)

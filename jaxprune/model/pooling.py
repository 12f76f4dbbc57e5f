"""Which token stands for a text, for heads that read one of each: the first, or the last that is no padding."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from .architecture import Architecture
from .model import Batch


def pool_slots(architecture: Architecture, ids: Any, segments: Any, texts: int) -> Int[Any, "rows texts"]:
    """Of every text of a row, segments 1 to `texts`, the slot of the token that stands for it; 0 where there is none.

    "last" is the last token whose id is not padding's, as in transformers: where the end token serves as padding too,
    the class is read before it. Of a text that is padding throughout it is the first token. NumPy arrays give one.
    """
    xp = np if isinstance(ids, np.ndarray) else jnp
    own = segments[:, None, :] == xp.arange(1, texts + 1)[:, None]  # [rows, texts, length]
    slots = xp.argmax(own, axis=-1)
    if architecture.pool == "last":
        shown = own if architecture.pool_pad is None else own & (ids != architecture.pool_pad)[:, None, :]
        last = xp.max(xp.where(shown, xp.arange(ids.shape[1]), -1), axis=-1)
        slots = xp.where(last < 0, slots, last)
    return slots.astype(np.int32)


def pooled(batch: Batch, architecture: Architecture) -> Batch:
    """A batch that was made for another model, with its texts read where the head of this one reads them."""
    return batch._replace(pool=pool_slots(architecture, batch.ids, batch.segments, batch.pool.shape[1]))

"""The two ends of the residual stream: what tokens put into it, and what a head reads out of it."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .architecture import Architecture
from .model import Batch, Params
from .partial_rows import look_up
from .sublayer import dense, norm


def embed_tokens(
    params: Params, batch: Batch, architecture: Architecture, dtype: Any = jnp.float32
) -> Float[Array, "rows length hidden"]:
    """The residual stream before the first sublayer, float32: sums of tables that may be kept in fewer bits.

    `dtype` is the compute type, to which transformers rounds what scales embeddings.
    """
    p, projected = params["embed"], architecture.embed_projects
    x = look_up(p["token"], batch.ids).astype(jnp.float32)
    if architecture.patches is not None:
        assert batch.patches is not None  # whoever made the batch has looked
        special = batch.positions < architecture.patches.specials
        x = jnp.where(special[..., None], x, dense(p["patch"], batch.patches))
    if "project" in p and projected == "tokens":
        x = dense(p["project"], x)
    if architecture.embed_scaled:
        x = x * jnp.asarray(architecture.hidden**0.5, dtype).astype(jnp.float32)
    if architecture.positions == "learned":
        x = x + p["position"][batch.positions + architecture.position_offset]
    if architecture.token_types:
        x = x + p["type"][batch.types]
    x = dense(p["project"], x) if "project" in p and projected == "tables" else x
    x = norm(p["norm"], x, architecture) if architecture.embed_norm else x
    x = jnp.where(batch.real[..., None], x, 0.0) if architecture.padding_blank else x
    return dense(p["project"], x) if "project" in p and projected == "sum" else x


def head_input(params: Params, x: Array, architecture: Architecture) -> Array:
    """What the head reads: the last residual stream, normed and projected where the family does so."""
    if architecture.final_norm:
        x = norm(params["final_norm"], x, architecture)
    return dense(params["project_out"], x) if "project_out" in params else x

"""How the next token is drawn from its logits."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..checks import check_types
from ..errors import SettingsError
from ..model.draws import draw_tokens


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn, and how many are."""

    max_new_tokens: int = 64
    temperature: float = 0.0  # 0: the most likely one
    top_k: int | None = None  # among the k most likely
    top_p: float | None = None  # among the fewest that hold this probability
    seed: int | None = None  # of the draws; None: 0

    def __post_init__(self):
        check_types(self)
        if self.max_new_tokens < 1:
            raise SettingsError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")
        if not 0 <= self.temperature < float("inf"):
            raise SettingsError(f"temperature must be a number of at least 0, got {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise SettingsError(f"top_k must be at least 1, got {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SettingsError(f"top_p must lie in (0, 1], got {self.top_p}.")
        drawing = [name for name in ("top_k", "top_p", "seed") if getattr(self, name) is not None]
        if self.temperature == 0 and drawing:
            raise SettingsError(
                f"{drawing[0]} has no effect at temperature 0, which draws nothing; leave it out, or pass "
                "temperature=1.0."
            )


class Odds(NamedTuple):
    """What of the sampling may change without a new program."""

    temperature: Any
    top_p: Any


def draw(
    logits: Float[Array, "rows vocab"], keys: Array, temperature: Any, top_k: int | None, top_p: Any
) -> Int[Array, " rows"]:
    """The next token of every row, with a key for each. Without `top_k` and `top_p` (None), of all tokens."""
    logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature
    if top_k is None and top_p is None:
        return draw_tokens(keys, logits)
    tokens, best = candidates(logits, top_k, top_p)
    chosen = draw_tokens(keys, best)
    return jnp.take_along_axis(tokens, chosen[:, None], axis=1)[:, 0]


def candidates(
    logits: Float[Array, "rows vocab"], top_k: int | None, top_p: Any
) -> tuple[Int[Array, "rows best"], Float[Array, "rows best"]]:
    """The tokens that may follow, best first, and their logits; -inf where top-p rules one out.

    Of equal logits the lower token is better. Top-p counts what top-k has left; the best token always stays.
    """
    vocab = logits.shape[-1]
    best, tokens = jax.lax.top_k(logits, vocab if top_k is None else min(top_k, vocab))
    if top_p is not None:
        p = jax.nn.softmax(best, axis=-1)
        before = jnp.cumsum(p, axis=-1) - p  # what better tokens hold
        best = jnp.where(before < top_p, best, -jnp.inf)
    return tokens, best

"""`generate`: texts continued by a language model."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..errors import DataError
from ..model.generate import Sampling, generate_ids
from ..model.model import Model
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Generation:
    """What a model said after every prompt."""

    texts: list[str]  # without the prompt and special tokens
    ids: list[np.ndarray]  # the new tokens, the end token included
    prompt_tokens: int
    tokens: int  # new ones
    seconds: float  # compilation included at the first call of a shape


def generate(
    model: Model,
    prompts: str | Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    end_ids: Sequence[int] | None = None,
    dtype: Any = jnp.float32,
) -> Generation:
    """Continue texts: the most likely token each time, or with a `temperature` drawn, of the `top_k` or `top_p` best.

    One prompt or several, which run together; a prompt is read with the special tokens that its tokenizer begins a text
    with. A text ends at one of `end_ids` (default: the model's own). For token ids use `jaxprune.model.generate`.
    Raises `DataError` and `SettingsError`.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    for number, entry in enumerate(texts):
        if not isinstance(entry, str) or not entry:
            raise DataError(f"prompt {number} is {str(entry)[:40]!r}; give a text that is not empty.")
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    tokenizer = Tokenizer.of(model)
    asked = tokenizer.prompts(texts)
    began = time.perf_counter()
    found = generate_ids(
        model, asked, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed, end_ids=end_ids, dtype=dtype
    )
    seconds = time.perf_counter() - began
    ids = [row[:length] for row, length in zip(found.ids, found.lengths, strict=True)]
    return Generation(
        [tokenizer.text(row) for row in ids], ids, sum(map(len, asked)), int(found.lengths.sum()), seconds
    )

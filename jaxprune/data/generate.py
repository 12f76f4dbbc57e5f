"""`generate`: texts continued by a language model."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp

from ..errors import DataError
from ..model.generate import Sampling, generate_ids
from ..model.model import Model
from ..programs import Programs
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Generation:
    """What a model said after every prompt, and what that cost."""

    texts: list[str]  # without the prompt and special tokens
    ids: list[list[int]]  # the new tokens of each, the end token included
    ended: list[bool]  # true where the model came to an end, false where max_new_tokens stopped it
    prompt_tokens: int
    tokens: int  # new ones
    seconds: float  # reading the prompts included, compilation apart
    compile_seconds: float
    tokens_per_second: float  # new ones

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


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
    batch: int | None = None,
    dtype: Any = jnp.float32,
    programs: Programs | None = None,
    tokenizer: Any = None,
) -> Generation:
    """Continue one text or several; settings and errors are those of `generate_ids`, which does it on token ids.

    A prompt is read with the special tokens that its tokenizer puts before a text. `tokenizer` takes the place
    of the model's own: a folder, or a loaded one.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    for number, entry in enumerate(texts):
        if not isinstance(entry, str) or not entry:
            raise DataError(f"prompt {number} is {str(entry)[:40]!r}; give a text that is not empty.")
    drawn: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    drawn |= {"top_k": top_k, "top_p": top_p}
    Sampling(**drawn)  # checked before the tokenizer is read
    reader, programs = Tokenizer.of(model.with_tokenizer(tokenizer)), Programs() if programs is None else programs
    asked = reader.prompts(texts)
    began, compiled = time.perf_counter(), programs.compile_seconds
    found = generate_ids(model, asked, **drawn, seed=seed, end_ids=end_ids, batch=batch, dtype=dtype, programs=programs)
    compile_seconds = programs.compile_seconds - compiled
    seconds = time.perf_counter() - began - compile_seconds
    ids = [row[:length].tolist() for row, length in zip(found.ids, found.lengths, strict=True)]
    tokens = int(found.lengths.sum())
    return Generation(
        texts=[reader.continuation(prompt, new) for prompt, new in zip(asked, ids, strict=True)],
        ids=ids,
        ended=found.ended.tolist(),
        prompt_tokens=sum(map(len, asked)),
        tokens=tokens,
        seconds=seconds,
        compile_seconds=compile_seconds,
        tokens_per_second=tokens / max(seconds, 1e-9),
    )

"""`generate`: texts continued by a language model."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp

from ..checkpoint.generation import GENERATION, asked_of_generate, unapplied
from ..checks import checked, is_in_order
from ..doubts import tell
from ..errors import DataError, SettingsError
from ..model.model import Model
from ..runtime.decode import generate_ids
from ..runtime.programs import Programs
from ..runtime.sampling import Sampling
from ..tokens.reading_doubts import file_doubts
from ..tokens.tokenizer import Tokenizer
from ..tokens.unknown import count_unknown


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
    warnings: tuple[str, ...] = ()  # where transformers would say something else, by the model's generation_config.json

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "warnings": list(self.warnings)}


@checked
def generate(
    model: Model,
    prompts: str | Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    end_ids: Sequence[int | str] | None = None,
    batch: int | None = None,
    dtype: Any = jnp.float32,
    programs: Programs | None = None,
    tokenizer: Any = None,
) -> Generation:
    """Continue one text or several; settings and errors are those of `generate_ids`, which does it on token ids.

    A prompt is read with the special tokens that its tokenizer puts before a text. `end_ids` may name tokens as the
    tokenizer writes them ("<|im_end|>") beside ids. What generation_config.json asks for beyond its end tokens is not
    done: `warnings` name it. Raises `SettingsError` for an end token that the tokenizer does not have, and for one that
    is in no list.
    `tokenizer` takes the place of the model's own: a folder, or a loaded one.
    """
    if not isinstance(prompts, str) and not is_in_order(prompts):
        raise DataError(f"prompts is a {type(prompts).__name__}, expected a text, or a list of texts in order.")
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    for number, entry in enumerate(texts):
        if not isinstance(entry, str) or not entry:
            raise DataError(f"prompt {number} is {str(entry)[:40]!r}; give a text that is not empty.")
    if isinstance(end_ids, str):  # a list of its characters otherwise, of which some are tokens
        raise SettingsError(f"end_ids is one text, expected a list of tokens; write [{end_ids!r}].")
    drawn: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    drawn |= {"top_k": top_k, "top_p": top_p}
    Sampling(**drawn, seed=seed)  # checked before the tokenizer is read
    reader, programs = Tokenizer.of(model.with_tokenizer(tokenizer)), Programs() if programs is None else programs
    asked = reader.prompts(texts)
    ends = None if end_ids is None else [token_id(reader, entry) for entry in end_ids]
    began, compiled = time.perf_counter(), programs.compile_seconds
    generated = generate_ids(
        model, asked, **drawn, seed=seed, end_ids=ends, batch=batch, dtype=dtype, programs=programs
    )
    compile_seconds = programs.compile_seconds - compiled
    seconds = time.perf_counter() - began - compile_seconds
    ids = [row[:length].tolist() for row, length in zip(generated.ids, generated.lengths, strict=True)]
    tokens = int(generated.lengths.sum())
    unknown = count_unknown(((row, 0, text) for row, text in zip(asked, texts, strict=True)), *reader.unknown)
    warnings = reader.doubts(()) + unknown.doubts("prompts") + _warnings(model, drawn, ends)
    warnings += file_doubts(texts[0]) if len(texts) == 1 else ()
    tell(warnings)
    return Generation(
        texts=[reader.continuation(prompt, new) for prompt, new in zip(asked, ids, strict=True)],
        ids=ids,
        ended=generated.ended.tolist(),
        prompt_tokens=sum(map(len, asked)),
        tokens=tokens,
        seconds=seconds,
        compile_seconds=compile_seconds,
        tokens_per_second=tokens / max(seconds, 1e-9),
        warnings=warnings,
    )


def token_id(tokenizer: Tokenizer, entry: int | str) -> int:
    """The id of a token that ends a text. Raises `SettingsError` for a name that the tokenizer does not have."""
    number = tokenizer.backend.token_to_id(entry) if isinstance(entry, str) else entry
    if number is None:
        raise SettingsError(
            f"the tokenizer has no token {entry!r}; name an end token as its vocabulary does, or its id."
        )
    return number


def _warnings(model: Model, drawn: Mapping[str, Any], ends: Sequence[int] | None) -> tuple[str, ...]:
    file, config = asked_of_generate(model)
    warnings = ()
    if asked := unapplied(config, drawn):
        warnings += (f"{file} asks for {', '.join(asked)}: transformers' generate does that, jaxprune does not.",)
    elsewhere = model.provenance.record.get("source_config", {}).get("eos_token_id")
    if file == GENERATION and ends is None and not model.architecture.end_ids and elsewhere is not None:
        warnings += (
            f"{file} names no eos_token_id, so that no token ends a text, as in transformers; config.json has "
            f"{elsewhere}: pass end tokens.",
        )
    return warnings

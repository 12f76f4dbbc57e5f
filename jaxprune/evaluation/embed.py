"""`embed`: vectors of texts, as sentence-transformers makes them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from ..checkpoint.files import listed
from ..checks import checked, is_in_order, is_whole
from ..doubts import tell
from ..errors import DataError, SettingsError
from ..model import Model
from ..model.embedding import Embedding
from ..runtime.events import OnStep
from ..runtime.programs import Programs
from ..tasks.example import Example
from ..tokens.packing import unpack_logits
from ..tokens.reading_doubts import file_doubts
from ..tokens.tokenizer import Tokenizer
from .onnx_model import OnnxModel, described, runner_of

BATCH = 1024  # texts that are tokenised and sorted by length together
LONGEST = 2**20  # tokens of a text, where nothing bounds it


@dataclass(frozen=True)
class Embedded:
    """Vectors of texts, and what they cost."""

    vectors: np.ndarray  # [texts, dimensions], float32
    tokens: int  # real ones, special tokens included, padding not
    seconds: float  # of the forward passes, compilation apart
    compile_seconds: float
    warnings: tuple[str, ...] = ()


@checked
def embed(
    model: Model | OnnxModel,
    texts: Any,
    *,
    prompt: str | None = None,
    prompt_name: str | None = None,
    normalize: bool | None = None,
    dimensions: int | None = None,
    batch_size: int = BATCH,
    max_length: int | None = None,
    programs: Programs | None = None,
    tokenizer: Any = None,
    on_step: OnStep | None = None,
) -> np.ndarray:
    """Vectors of texts, float32 [texts, dimensions], in their order; of one text that is no list, [dimensions].

    `texts` are a text, a list of texts or any iterable, which is read `batch_size` texts at a time. These are packed by
    length, and what else is in a batch changes a vector by float32 rounding only.

    `prompt` is written before every text, or the model's prompt of the name `prompt_name`; by default its own default
    prompt, where it has one. With `normalize` vectors have length 1 (None: as the files say). `dimensions` keeps
    the first so many numbers, of models that were trained for it (Matryoshka); length 1 is then that of what is kept.
    Longer texts than `max_length` tokens are cut, with a warning (None: as many as the model's files say, or as it
    reads). `tokenizer`, `on_step` and an ONNX file in the place of a model are those of `predict`.

    Raises `DataError` for what is no text, and for a model that makes no vectors; `SettingsError` for a prompt that the
    model does not have and dimensions that it does not have.
    """
    made = embedded(
        model,
        [texts] if isinstance(texts, str) else texts,
        prompt=prompt,
        prompt_name=prompt_name,
        normalize=normalize,
        dimensions=dimensions,
        batch_size=batch_size,
        max_length=max_length,
        programs=programs,
        tokenizer=tokenizer,
        on_step=on_step,
    )
    tell([*(file_doubts(texts) if isinstance(texts, str) else ()), *made.warnings])
    return made.vectors[0] if isinstance(texts, str) else made.vectors


def embedded(
    model: Model | OnnxModel,
    texts: Any,
    *,
    prompt: str | None = None,
    prompt_name: str | None = None,
    normalize: bool | None = None,
    dimensions: int | None = None,
    batch_size: int = BATCH,
    max_length: int | None = None,
    most: int = LONGEST,
    programs: Programs | None = None,
    tokenizer: Any = None,
    on_step: OnStep | None = None,
) -> Embedded:
    """What `embed` gives, its cost and doubts. Without `max_length` no more than `most` tokens of a text are read."""
    notes = described(model).with_tokenizer(tokenizer)
    settings = embedding_of(notes)
    unit = settings.normalize if normalize is None else normalize
    model = _unscaled(model, settings, unit)
    widest = settings.widths(notes.architecture.output_width)[-1]
    for name, value in (("batch_size", batch_size), ("max_length", max_length), ("dimensions", dimensions)):
        if value is not None and (not is_whole(value) or value < 1):
            raise SettingsError(f"{name} must be a whole number of at least 1, got {value!r}.")
    if dimensions is not None and dimensions > widest:
        raise SettingsError(f"dimensions is {dimensions}, the model's vectors have {widest}; ask for at most as many.")
    asked = prompt_of(settings, prompt, prompt_name)
    reader = Tokenizer.of(notes)
    reader = reader if asked is None else replace(reader, prompt=asked)
    if reader.prompt and not reader.prompt_pooled and isinstance(model, OnnxModel):
        raise DataError("the model's prompts are left out of its vectors, which an ONNX file cannot do; run the model.")
    runner = runner_of(model, Programs() if programs is None else programs, few_shapes=True)
    of = len(texts) if isinstance(texts, Sequence) else None
    parts, doubts, cut, longest = [], dict.fromkeys(reader.doubts(())), 0, None
    tokens = count = 0
    seconds = compile_seconds = 0.0
    remaining = _checked(texts)
    while part := list(islice(remaining, batch_size)):
        encoded = replace(reader, first=count).encode(part, max_length or most, max_length is not None)
        empty = next((number for number, ids in enumerate(encoded.ids) if not len(ids)), None)
        if empty is not None:
            raise DataError(f"text {count + empty} has no tokens; drop it.")
        run = runner(encoded)
        parts.append(_finished(unpack_logits(run.values, run.batches), dimensions, unit))
        count, cut, longest = count + len(part), cut + encoded.cut, encoded.longest
        tokens, seconds = tokens + encoded.tokens, seconds + run.seconds
        compile_seconds += run.compile_seconds
        if on_step is not None:
            on_step({"phase": "embed", "done": count, "of": of})
    if not parts:
        raise DataError("there are no texts to embed; give at least one.")
    if cut:
        doubts[f"{cut} of {count} texts were cut to {longest} tokens; shorten or divide them."] = None
    return Embedded(np.concatenate(parts), tokens, seconds, compile_seconds, tuple(doubts))


def embedding_of(model: Model) -> Embedding:
    """How a model makes vectors of texts. Raises `DataError` for one that makes none."""
    settings = model.architecture.embedding
    if settings is None:
        raise DataError(
            f"the model's head is {model.architecture.head}, which makes no vectors of texts; load a folder of "
            "sentence-transformers, or an encoder with head='embedding'."
        )
    return settings


def prompt_of(settings: Embedding, prompt: str | None, name: str | None) -> str | None:
    """The prompt that is asked for; None: none is. Raises `SettingsError` for a name that the model does not have."""
    if prompt is not None and name is not None:
        raise SettingsError("prompt and prompt_name both say what is written before texts; leave one of them out.")
    if name is None:
        return prompt
    known = dict(settings.prompts)
    if name not in known:
        raise SettingsError(f"the model has no prompt {name!r}; its prompts are: {listed(list(known)) or 'none'}.")
    return known[name]


def _unscaled(model: Model | OnnxModel, settings: Embedding, unit: bool) -> Model | OnnxModel:
    """The model without its last step, where vectors are to keep their length. Raises `DataError` for an ONNX file."""
    if unit or not settings.normalize:
        return model
    if isinstance(model, OnnxModel):
        raise DataError("the ONNX file brings vectors to length 1; run the model that it was exported from.")
    return model.replace(architecture=replace(model.architecture, embedding=replace(settings, normalize=False)))


def _finished(vectors: np.ndarray, dimensions: int | None, unit: bool) -> np.ndarray:
    kept = vectors[:, :dimensions].astype(np.float32)
    return unit_rows(kept) if unit else kept


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; those of length 0 stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _checked(texts: Any) -> Iterator[Example]:
    """The texts one by one. Raises `DataError`: at once for what can hold no texts, else when it comes to the text."""
    if not is_in_order(texts):
        kind = type(texts).__name__
        raise DataError(f"texts is a {kind}, expected a text, or a list or another iterable of texts in order.")
    return _each(texts)


def _each(texts: Iterable[Any]) -> Iterator[Example]:
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"text {number} is of type {type(text).__name__}, expected str; convert or drop it.")
        yield Example(str(text), None, None)

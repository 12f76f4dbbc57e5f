"""What a masked language model says of the masked places of a text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import DataError
from ..model import Architecture, Batch, Model, Params
from ..runtime.devices import placed
from ..runtime.programs import Programs
from ..tokens.masking import mask_of
from ..tokens.packing import Encoded, pack, unpack_logits
from ..tokens.tokenizer import Tokenizer
from .masked import logits_at
from .onnx_model import OnnxModel
from .outputs import TextsRun

BEST = 5  # tokens that are told of every masked place, as in transformers' pipeline


@dataclass(frozen=True)
class Filling:
    """One token that may stand at a masked place."""

    token: str
    id: int
    probability: float


@dataclass(frozen=True)
class MaskPrediction:
    """Of every masked place of a text, in their order, the likeliest tokens, the likeliest first."""

    masks: tuple[tuple[Filling, ...], ...]


class Filled(NamedTuple):
    """What was read at masked places."""

    predictions: list[MaskPrediction]  # one a text
    run: TextsRun


FillRunner = Callable[[Encoded, np.ndarray], tuple[np.ndarray, np.ndarray, TextsRun]]


def fill_runner(model: Model | OnnxModel, programs: Programs) -> FillRunner:
    """A function of texts and one place in each: probabilities and ids of the likeliest tokens there, [texts, BEST].

    Raises `DataError` for an ONNX file.
    """
    if isinstance(model, OnnxModel):
        raise DataError("masked places are not read from an ONNX file here; run the model that it was exported from.")
    params = placed(model.params)

    def run(encoded: Encoded, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, TextsRun]:
        before = programs.compile_seconds
        batches, values = pack(encoded, model.architecture, few_shapes=True), []
        for batch in batches:
            at = np.asarray(batch.pool) + places[np.maximum(batch.index, 0)].astype(np.int32)
            values.append(programs(_likeliest, params, batch._replace(pool=at), architecture=model.architecture))
        p, ids = (unpack_logits([np.asarray(value[part]) for value in values], batches) for part in range(2))
        return p, ids, TextsRun([], [], 0.0, programs.compile_seconds - before)

    return run


@partial(jax.jit, static_argnames="architecture")
def _likeliest(
    params: Params, batch: Batch, *, architecture: Architecture
) -> tuple[Float[Array, "rows texts best"], Int[Array, "rows texts best"]]:
    p = jax.nn.softmax(logits_at(params, batch, architecture))
    values, ids = jax.lax.top_k(p, min(BEST, architecture.vocab))
    return values, ids


def filled(encoded: Encoded, tokenizer: Tokenizer, runner: FillRunner) -> Filled:
    """The predictions of tokenised texts. Raises `DataError` for one without a mask, by its number."""
    mask = mask_of(tokenizer)
    places = [np.flatnonzero(ids == mask) for ids in encoded.ids]
    bare = next((number for number, there in enumerate(places) if not len(there)), None)
    if bare is not None:
        name = tokenizer.backend.id_to_token(mask)
        raise DataError(
            f"text {tokenizer.first + bare} has no {name} as far as it is read; write one where a token is to be told."
        )
    text = np.repeat(np.arange(len(places)), [len(there) for there in places])
    p, ids, run = runner(encoded.picked(text), np.concatenate(places))
    told = [
        tuple(Filling(tokenizer.backend.decode([int(n)]), int(n), float(value)) for n, value in zip(*row, strict=True))
        for row in zip(ids, p, strict=True)
    ]
    of_text: Sequence[list[tuple[Filling, ...]]] = [[] for _ in places]
    for number, entry in zip(text, told, strict=True):
        of_text[number].append(entry)
    return Filled([MaskPrediction(tuple(entries)) for entries in of_text], run)

"""Outputs of a model for tokenised texts: what answers and scores are read from."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..errors import DataError, NumericalError
from ..model import Architecture, Batch, Model
from ..model.heads import head_of
from ..model.transformer import scannable, whole_pass
from ..runtime.by_sublayer import last_outputs
from ..runtime.devices import placed
from ..runtime.programs import Programs
from ..tokens.image_reader import KEPT
from ..tokens.packing import Encoded, pack, unpack_logits, unpack_tokens


class TextsRun(NamedTuple):
    """The outputs for some texts, batch by batch, and what they took."""

    values: list[np.ndarray]  # one array a batch
    batches: list[Batch]
    seconds: float
    compile_seconds: float


Scored = tuple[dict[str, float], tuple[str, ...], int, TextsRun]  # metrics, doubts, real tokens, the run
# How a model, or what it was exported to, is run over texts.
Runner = Callable[[Encoded], TextsRun]


def text_outputs(model: Model, encoded: Encoded) -> np.ndarray:
    """The logits of every text, float32 [texts, labels].

    Raises DataError for a model without a classification head and NumericalError where a logit is not finite.
    """
    if not head_of(model.architecture).per_text:
        raise DataError(f'text_outputs needs a classification head, the model has "{model.architecture.head}".')
    run = run_texts(model, encoded)
    return unpack_logits(run.values, run.batches)


def token_outputs(model: Model, encoded: Encoded) -> list[np.ndarray]:
    """The outputs for every token, one array a text, float32 [tokens, outputs].

    Start and end of an answer, or without a head the hidden states. Raises DataError for a model whose outputs are not
    one a token, or too many; NumericalError as `text_outputs`.
    """
    head = head_of(model.architecture)
    if head.per_text or head.language is not None:
        raise DataError(f'token_outputs needs a head for tokens, the model has "{model.architecture.head}".')
    run = run_texts(model, encoded)
    return unpack_tokens(run.values, run.batches)


def run_texts(model: Model, encoded: Encoded, programs: Programs | None = None, few_shapes: bool = False) -> TextsRun:
    """One compiled program over all batches, of one shape; waits for the results, so that the time is true.

    `few_shapes` is that of `pack`. Raises NumericalError where an output is not finite.
    """
    programs = Programs() if programs is None else programs
    values, seen, seconds, compiled = [], [], 0.0, programs.compile_seconds
    for rows in in_parts(encoded):
        part = encoded if len(rows) == len(encoded) else encoded.picked(rows)
        batches = pack(part, model.architecture, few_shapes=few_shapes)
        began, before = time.perf_counter(), programs.compile_seconds
        values += [np.asarray(value) for value in list(outputs_of(model, batches, programs))]
        seconds += time.perf_counter() - began - (programs.compile_seconds - before)
        seen += [without_patches(batch, rows.start) for batch in batches]
    check_outputs(values, seen, model.architecture)
    return TextsRun(values, seen, seconds, programs.compile_seconds - compiled)


def in_parts(encoded: Encoded) -> list[range]:
    """Numbers of texts that are run together: all; of images no more than fit the memory."""
    if encoded.patches is None or not len(encoded):
        return [range(len(encoded))]
    size = max(1, KEPT // encoded.patches[0].nbytes)
    return [range(at, min(at + size, len(encoded))) for at in range(0, len(encoded), size)]


def without_patches(batch: Batch, first: int) -> Batch:
    """What is read of a batch afterwards, its texts numbered from `first` on."""
    index = batch.index if not first else np.where(np.asarray(batch.index) >= 0, batch.index + first, -1)
    return batch._replace(index=index, patches=None)  # type: ignore[arg-type]


def check_outputs(values: Sequence[np.ndarray], batches: Sequence[Batch], architecture: Architecture) -> None:
    """Raise NumericalError where an output of a text, or of a token, is not finite."""
    for number, (value, batch) in enumerate(zip(values, batches, strict=True)):
        if not np.isfinite(value[np.asarray(head_of(architecture).present(batch))]).all():
            first = int(batch.index[batch.index >= 0].min())
            raise NumericalError(
                f"NaN or Inf in the logits of batch {number} of {len(batches)} (the one with text {first}); "
                "check the checkpoint's weights."
            )


def outputs_of(model: Model, batches: Sequence[Batch], programs: Programs) -> Iterator[Any]:
    """Every batch's logits, of a language model its next-token losses."""
    architecture = model.architecture
    if programs.devices.stream:
        on_device = [placed(batch) for batch in batches]
        return last_outputs(model.params, on_device, architecture, programs)
    params, whole = jax.device_put(scannable(model.params, architecture)), whole_pass(architecture)
    return (programs(whole, params, batch, architecture=architecture) for batch in batches)

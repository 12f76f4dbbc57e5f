"""Pseudo-perplexity of a masked language model: every token of a text is masked in turn, and predicted from the others.

Salazar et al., Masked Language Model Scoring, ACL 2020: exp of the mean of -log p(token | all others).
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import DataError, NumericalError
from ..model import Architecture, Batch, Model, Params, forward
from ..model.ends import head_input
from ..model.language import surprise, vocabulary_logits
from ..runtime.devices import placed
from ..runtime.events import OnStep
from ..runtime.programs import Programs
from ..tasks.example import Example
from ..tasks.running_text import beginning
from ..tasks.task import Task
from ..tokens.given_ids import GivenIds
from ..tokens.language_texts import whole_windows
from ..tokens.masking import mask_of
from ..tokens.packing import Encoded, pack, row_length
from ..tokens.tokenizer import Tokenizer
from ..tokens.unknown import CountedRows
from .metrics import check_none_own
from .perplexity import ScoredRows, perplexity_of

COPIES = 512  # of windows, with one token masked in each, that are packed together


def pseudo_perplexity(
    model: Model,
    task: Task,
    texts: Sequence[Example],
    limit: int | None,
    reader: Tokenizer | GivenIds,
    programs: Programs,
    on_step: OnStep | None,
) -> tuple[dict[str, float], tuple[str, ...], ScoredRows]:
    """Over windows of running text, with the tokenizer's own tokens around each, which are not predicted themselves.

    A window takes as many forward passes as it has tokens: few short ones (`windows`, `length`) say enough.
    """
    check_none_own(task)
    if isinstance(reader, GivenIds):
        raise DataError("which token ids are masked, the tokenizer says, and these have none; give text.")
    before, after = reader.around()
    wanted = min([most for most in (limit, task.windows) if most is not None], default=None)
    windows = islice(whole_windows(reader, texts, task.max_length, task.source, on_step), wanted)
    rows = CountedRows(windows, reader.unknown, beginning(texts), len(before) + len(after))
    own = slice(len(before), task.max_length - len(after))
    run = _scored(model, rows, own, mask_of(reader), programs, on_step, wanted)
    perplexity, doubts = perplexity_of(model, run)
    return perplexity, rows.so_far.checked(task.source) + doubts, run


def _scored(
    model: Model,
    rows: Iterator[np.ndarray],
    inside: slice,
    mask: int,
    programs: Programs,
    on_step: OnStep | None,
    wanted: int | None,
) -> ScoredRows:
    """The mean loss of the tokens `inside` every window."""
    params = placed(model.params)
    total, counted, done, tokens = 0.0, 0, 0, 0
    began, compiled = time.perf_counter(), programs.compile_seconds
    size = max(1, COPIES // (inside.stop - inside.start))
    while windows := list(islice(rows, size)):
        places = [(window, place) for window, ids in enumerate(windows) for place in range(len(ids))[inside]]
        for at in range(0, len(places), COPIES):
            for batch, truth in _copies(windows, places[at : at + COPIES], mask, model.architecture):
                losses = programs(surprises, params, batch, truth, architecture=model.architecture)
                total += float(np.sum(np.asarray(losses)[np.asarray(batch.index) >= 0], dtype=np.float64))
        counted, done, tokens = counted + len(places), done + len(windows), tokens + sum(map(len, windows))
        if on_step is not None:
            on_step({"phase": "score", "done": done, "of": wanted})
    if not np.isfinite(total):
        raise NumericalError("NaN or Inf in the losses; check the checkpoint's weights.")
    compile_seconds = programs.compile_seconds - compiled
    seconds = time.perf_counter() - began - compile_seconds
    return ScoredRows(total / max(counted, 1), counted, done, tokens, seconds, compile_seconds)


def _copies(
    windows: Sequence[np.ndarray], places: Sequence[tuple[int, int]], mask: int, architecture: Architecture
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches of copies of windows, each with one place (window, token) masked, at which the head reads; and what stood
    there.
    """
    copies = [windows[window].copy() for window, _ in places]
    at, truth = np.array([place for _, place in places], np.int32), np.zeros(len(places), np.int32)
    for number, (copy, place) in enumerate(zip(copies, at, strict=True)):
        truth[number], copy[place] = copy[place], mask
    encoded = Encoded(copies, [np.zeros_like(copy) for copy in copies])
    for batch in pack(encoded, architecture, length=row_length(encoded.lengths, None), few_shapes=True):
        text = np.maximum(batch.index, 0)
        first = np.asarray(batch.pool)  # the first token of each copy
        yield batch._replace(pool=first + at[text]), truth[text]


@partial(jax.jit, static_argnames="architecture")
def surprises(
    params: Params, batch: Batch, truth: Int[Array, "rows texts"], *, architecture: Architecture
) -> Float[Array, "rows texts"]:
    """-log p of a token at the one place of every text that is read, in nats."""
    logits = logits_at(params, batch, architecture)
    return surprise(logits.reshape(-1, logits.shape[-1]), truth.reshape(-1)).reshape(truth.shape)


def logits_at(params: Params, batch: Batch, architecture: Architecture) -> Float[Array, "rows texts vocab"]:
    """Over the vocabulary, at the place `batch.pool` of every text: whole logits would be those of all tokens."""
    hidden = forward(params, batch, architecture).hidden
    read = jnp.take_along_axis(head_input(params, hidden, architecture), batch.pool[..., None], axis=1)
    return vocabulary_logits(params, read, architecture)

"""Perplexity: of running text, and of what is learnt in conversations."""

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from ..errors import NumericalError
from ..model import Model
from ..runtime.events import OnStep
from ..runtime.programs import Programs
from ..tasks.example import Example
from ..tasks.running_text import beginning
from ..tasks.task import Task
from ..tokens.conversations import read_conversations
from ..tokens.documents import documents_doubts
from ..tokens.given_ids import GivenIds
from ..tokens.language_texts import by_document, running_rows
from ..tokens.packing import Encoded, pack, row_length, unpack_tokens
from ..tokens.tokenizer import Tokenizer
from ..tokens.unknown import CountedRows
from .label_map import LabelMap
from .metrics import check_none_own
from .onnx_model import OnnxModel, described
from .outputs import TextsRun, outputs_of

GROUP = 2**20  # tokens that are packed at a time

Row = tuple[np.ndarray, np.ndarray | None]  # token ids, and 1 at those that count; None: all


class ScoredRows(NamedTuple):
    """What was scored, and what it took."""

    loss: float  # mean negative log likelihood in nats
    counted: int  # tokens that it is the mean over
    texts: int
    tokens: int  # real ones, predicted or not
    seconds: float
    compile_seconds: float


def running_perplexity(
    model: Model | OnnxModel,
    task: Task,
    texts: Sequence[Example],
    limit: int | None,
    reader: Tokenizer | GivenIds,
    programs: Programs,
    on_step: OnStep | None,
) -> tuple[dict[str, float], tuple[str, ...], ScoredRows]:
    """Perplexity over the first windows of running text, the first parts of documents, or rows of token ids."""
    check_none_own(task)
    if isinstance(reader, GivenIds):
        windows = reader.rows(texts)
    else:
        windows = running_rows(reader, texts, task.max_length, task.source, on_step)
        windows = CountedRows(windows, reader.unknown, beginning(texts))
    asked = [most for most in (limit, task.windows) if most is not None]
    wanted = min(asked, default=None)
    rows = ((ids, None) for ids in islice(windows, wanted))
    run = scored_rows(model, rows, GROUP // task.max_length + 1, programs, on_step, wanted)
    metrics, doubts = perplexity_of(model, run)
    if isinstance(windows, CountedRows):
        doubts += windows.so_far.checked(task.source)
    if isinstance(reader, Tokenizer) and by_document(texts):
        doubts += documents_doubts(reader)
    return metrics, doubts, run


def completions(
    model: Model | OnnxModel,
    task: Task,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    label_map: LabelMap,
    programs: Programs,
) -> tuple[dict[str, float], tuple[str, ...], int, TextsRun]:
    """Perplexity of what is learnt in conversations: what the assistant says, completions."""
    check_none_own(task)
    ends = described(model).architecture.end_ids
    rows, reading = read_conversations(tokenizer, examples, task.max_length, task.strict_length, ends)
    run = scored_rows(model, rows, GROUP // reading.longest + 1, programs)
    said = reading.warnings("evaluation conversations")
    metrics, doubts = perplexity_of(model, run)
    return metrics, said + doubts, run.tokens, TextsRun([], [], run.seconds, run.compile_seconds)


def scored_rows(
    model: Model | OnnxModel,
    rows: Iterator[Row],
    group: int,
    programs: Programs,
    on_step: OnStep | None = None,
    wanted: int | None = None,
) -> ScoredRows:
    """The mean loss of the tokens of `rows` that count, each but its first, `group` rows at a time.

    `on_step` hears of {"phase": "score", "done": rows, "of": `wanted`}. Raises `NumericalError`.
    """
    count, tokens, counted, total, seconds, compile_seconds = 0, 0, 0, 0.0, 0.0, 0.0
    length = height = None
    while taken := list(islice(rows, group)):
        encoded = Encoded([ids for ids, _ in taken], [np.zeros_like(ids) for ids, _ in taken])
        tokens += encoded.tokens
        if isinstance(model, OnnxModel):
            batches, outputs = model.losses(encoded)
        else:
            needed = row_length(np.array([len(ids) for ids in encoded.ids]), None)
            if length is None or needed > length:  # one shape for all groups, so that they share a program
                length, height = needed, None
            batches = pack(encoded, model.architecture, length=length, rows=height)
            height = len(batches[0].ids)
            outputs = outputs_of(model, batches, programs)
        compiled, began, values = programs.compile_seconds, time.perf_counter(), []
        for batch, losses in zip(batches, outputs, strict=True):
            values.append(np.asarray(losses))
            count += int(np.sum(batch.index >= 0))
            if on_step is not None:
                on_step({"phase": "score", "done": count, "of": wanted})
        compile_seconds += programs.compile_seconds - compiled
        seconds += time.perf_counter() - began - (programs.compile_seconds - compiled)
        masks = [mask for _, mask in taken if mask is not None]
        if masks:
            # A token's loss stands at the one before it.
            for losses, mask in zip(unpack_tokens(values, batches), masks, strict=True):
                counts = mask[1:] > 0
                total += float(np.sum(losses[:-1][counts], dtype=np.float64))
                counted += int(counts.sum())
        else:
            total += sum(float(np.sum(losses, dtype=np.float64)) for losses in values)
            counted += encoded.tokens - len(encoded)
    if not np.isfinite(total):
        raise NumericalError("NaN or Inf in the losses; check the checkpoint's weights.")
    return ScoredRows(total / counted, counted, count, tokens, seconds, compile_seconds)


def perplexity_of(model: Model | OnnxModel, run: ScoredRows) -> tuple[dict[str, float], tuple[str, ...]]:
    """What is told of a mean loss, and a doubt where a guess would do better."""
    perplexity, doubts, vocab = float(np.exp(min(run.loss, 700.0))), (), described(model).architecture.vocab
    if run.loss > np.log(vocab):
        doubts = (f"perplexity {perplexity:.0f} is above that of a guess among {vocab} tokens.",)
    return {"perplexity": perplexity, "loss": run.loss}, doubts

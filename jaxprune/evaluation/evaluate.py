"""Predictions of a model, and its scores on a task."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import DataError, NumericalError
from ..model import Batch, Model
from ..model.heads import head_of
from ..model.transformer import scannable, whole_pass
from ..runtime.by_sublayer import last_outputs
from ..runtime.devices import Devices
from ..runtime.events import OnStep
from ..runtime.memory import host_peak_bytes
from ..runtime.programs import Programs
from ..tasks.example import Answers, Example
from ..tasks.task import Task
from ..tokens.cut_texts import cut_questions, cut_texts
from ..tokens.given_ids import GivenIds, reader_of
from ..tokens.packing import Encoded, pack, unpack_logits, unpack_tokens
from ..tokens.tokenizer import Tokenizer
from ..tokens.windows import windows_of
from .chance import chance_level
from .label_map import LabelMap, match_labels
from .label_rows import check_rows
from .metrics import METRICS, squad_scores
from .numbering import classes, truth
from .spans import OVERLAP, best_answers

GROUP = 2**20  # tokens of running text that are packed at a time


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on a task, and what they cost.

    Scores are fractions or correlations, higher is better; but perplexity, exp of the mean loss, where lower is.
    """

    score: float  # the primary metric
    metric: str  # its name
    examples: int  # texts, or windows of a running text
    metrics: dict[str, float]  # all metrics by name, the primary one first
    seconds: float  # of the forward passes, compilation apart
    compile_seconds: float
    tokens: int  # real ones, special tokens included, padding not
    tokens_per_second: float
    host_peak_bytes: int | None  # most memory that the process has taken since it began; None: not known here
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "warnings": list(self.warnings)}


class _Run(NamedTuple):
    values: list[np.ndarray]  # one array a batch
    batches: list[Batch]
    seconds: float
    compile_seconds: float


def predict(model: Model, encoded: Encoded) -> np.ndarray:
    """The logits of every text, float32 [texts, labels].

    Raises DataError for a model without a classification head and NumericalError where a logit is not finite.
    """
    if not head_of(model.architecture).per_text:
        raise DataError(f'predict needs a classification head, the model has "{model.architecture.head}".')
    run = _run(model, encoded)
    return unpack_logits(run.values, run.batches)


def predict_spans(model: Model, encoded: Encoded) -> list[np.ndarray]:
    """The start and end logits of every token, one array a text, float32 [tokens, 2]; errors as `predict`."""
    if model.architecture.head != "question_answering":
        raise DataError(f'predict_spans needs a question answering head, the model has "{model.architecture.head}".')
    run = _run(model, encoded)
    return unpack_tokens(run.values, run.batches)


def evaluate(
    model: Model,
    task: Task,
    *,
    split: str = "validation",
    limit: int | None = None,
    programs: Programs | None = None,
    stream: bool = False,
    tokenizer: Any = None,
    on_step: OnStep | None = None,
) -> Evaluation:
    """Score `model` on the first `limit` examples of a split of `task` (all: None).

    Labels are read as the model's head reads them: whole numbers are classes, or values where it is a regression.
    Doubts are the result's `warnings`: label names that differ, a score at chance level. On MNLI, the mismatched
    texts are scored beside the matched ones where they are there. `programs` keeps the books of what is compiled.
    With `stream` weights come to the device one sublayer at a time (load the model with `host=True`). `on_step` hears
    of running text how far it is tokenised and scored: {"phase", "done", "of"}. `tokenizer` takes the place of
    the model's own: a folder, or a loaded one. A task of `tasks.of_ids` needs none.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit} leaves nothing to score; give at least 1.")
    check_rows(model.architecture, task)
    found = match_labels(model.architecture, task)
    task = found.task
    reader = reader_of(model, task, tokenizer)
    programs = Programs() if programs is None else programs
    if stream:
        programs = replace(programs, devices=Devices(stream=True))
    if task.kind == "language":
        return _language(model, task, split, limit, reader, programs, on_step)
    examples = task.split(split)[:limit]
    surprises = reader.doubts(examples)
    score = _answer if task.kind == "question_answering" else _classify
    metrics, doubts, tokens, run = score(model, task, examples, reader, found, programs)
    if split == "validation" and task.is_labelled("validation_mismatched"):
        mismatched = task.split("validation_mismatched")[:limit]
        other, others, more, extra = score(model, task, mismatched, reader, found, programs)
        metrics |= {f"{name}_mismatched": value for name, value in other.items()}
        tokens += more
        doubts += tuple(f"mismatched texts: {doubt}" for doubt in others)
        run = run._replace(
            seconds=run.seconds + extra.seconds, compile_seconds=run.compile_seconds + extra.compile_seconds
        )
    return Evaluation(
        score=metrics[task.metric],
        metric=task.metric,
        examples=len(examples),
        metrics=metrics,
        seconds=run.seconds,
        compile_seconds=run.compile_seconds,
        tokens=tokens,
        tokens_per_second=tokens / max(run.seconds, 1e-9),
        host_peak_bytes=host_peak_bytes(),
        warnings=found.warnings + surprises + doubts,
    )


def _language(
    model: Model,
    task: Task,
    split: str,
    limit: int | None,
    reader: Tokenizer | GivenIds,
    programs: Programs,
    on_step: OnStep | None,
) -> Evaluation:
    """Perplexity over the first windows of a split's running text, or rows of token ids, a group at a time."""
    texts = task.split(split)
    if isinstance(reader, GivenIds):
        found = reader.rows(texts)
    else:
        found = windows_of(reader, texts, task.max_length, task.source, on_step)
    asked = [most for most in (limit, task.windows) if most is not None]
    wanted = min(asked, default=None)
    count, tokens, total, seconds, compile_seconds, rows = 0, 0, 0.0, 0.0, 0.0, None
    while ids := list(islice(found, min([GROUP // task.max_length + 1, *(most - count for most in asked)]))):
        encoded = Encoded(ids, [np.zeros_like(entry) for entry in ids])
        tokens += encoded.tokens
        batches = pack(encoded, model.architecture, rows=rows)
        rows = len(batches[0].ids)  # of every group, so that they share a program
        outputs, compiled, began = _outputs(model, batches, programs), programs.compile_seconds, time.perf_counter()
        sums = []
        for batch, losses in zip(batches, outputs, strict=True):
            sums.append(float(np.sum(np.asarray(losses), dtype=np.float64)))
            count += int(np.sum(batch.index >= 0))
            if on_step is not None:
                on_step({"phase": "score", "done": count, "of": wanted})
        total += sum(sums)
        compile_seconds += programs.compile_seconds - compiled
        seconds += time.perf_counter() - began - (programs.compile_seconds - compiled)
    if not np.isfinite(total):
        raise NumericalError("NaN or Inf in the losses; check the checkpoint's weights.")
    loss = total / (tokens - count)  # the first of a window or row is given
    perplexity = float(np.exp(min(loss, 700.0)))
    doubts = ()
    if loss > np.log(model.architecture.vocab):
        doubts = (f"perplexity {perplexity:.0f} is above that of a guess among {model.architecture.vocab} tokens.",)
    return Evaluation(
        score=perplexity,
        metric="perplexity",
        examples=count,
        metrics={"perplexity": perplexity, "loss": loss},
        seconds=seconds,
        compile_seconds=compile_seconds,
        tokens=tokens,
        tokens_per_second=tokens / max(seconds, 1e-9),
        host_peak_bytes=host_peak_bytes(),
        warnings=reader.doubts(()) + doubts,
    )


def _run(model: Model, encoded: Encoded, programs: Programs | None = None) -> _Run:
    """One compiled program over all batches, of one shape; waits for the results, so that the time is true."""
    programs = Programs() if programs is None else programs
    batches = pack(encoded, model.architecture)
    outputs, began, compiled = _outputs(model, batches, programs), time.perf_counter(), programs.compile_seconds
    values = [np.asarray(value) for value in list(outputs)]
    compile_seconds = programs.compile_seconds - compiled
    seconds = time.perf_counter() - began - compile_seconds
    for number, (value, batch) in enumerate(zip(values, batches, strict=True)):
        real = batch.index >= 0 if value.shape[:2] == batch.index.shape else batch.segments > 0
        if not np.isfinite(value[np.asarray(real)]).all():
            first = int(batch.index[batch.index >= 0].min())
            raise NumericalError(
                f"NaN or Inf in the logits of batch {number} of {len(batches)} (the one with text {first}); "
                "check the checkpoint's weights."
            )
    return _Run(values, batches, seconds, compile_seconds)


def _outputs(model: Model, batches: Sequence[Batch], programs: Programs) -> Iterator[Any]:
    """Every batch's logits, of a language model its next-token losses."""
    architecture = model.architecture
    if programs.devices.stream:
        on_device = [jax.tree.map(jnp.asarray, batch) for batch in batches]
        return last_outputs(model.params, on_device, architecture, programs)
    params = jax.device_put(scannable(model.params))
    whole = whole_pass(architecture)
    return (programs(whole, params, batch, architecture=architecture) for batch in batches)


# --- one scorer a kind of task: (metrics, doubts, real tokens, the run)

_Scored = tuple[dict[str, float], tuple[str, ...], int, _Run]


def _classify(
    model: Model,
    task: Task,
    examples: Sequence[Example],
    reader: Tokenizer | GivenIds,
    found: LabelMap,
    programs: Programs,
) -> _Scored:
    encoded = reader.encode(examples, task.max_length, task.strict_length)
    run = _run(model, encoded, programs)
    logits = unpack_logits(run.values, run.batches)
    predicted, true = classes(logits, task, found), truth(examples, task)
    scores = {name: METRICS[name](predicted, true) for name in (task.metric, *task.beside)}
    values, counts = np.unique(true, axis=0, return_counts=True)
    constant = np.broadcast_to(values[counts.argmax()], true.shape)
    doubts = chance_level(
        task.metric,
        scores[task.metric],
        METRICS[task.metric](constant, true),
        len(examples),
        one_answer=len(np.unique(predicted, axis=0)) == 1,
        one_label=len(values) == 1,
    )
    return scores, cut_texts(encoded, "evaluation texts") + doubts, encoded.tokens, run


def _answer(
    model: Model,
    task: Task,
    examples: Sequence[Example],
    reader: Tokenizer | GivenIds,
    found: LabelMap,
    programs: Programs,
) -> _Scored:
    assert isinstance(reader, Tokenizer)  # a task of token ids has no contexts
    contexts = [example.pair or "" for example in examples]
    questions = [example.text for example in examples]
    windows = reader.windows(questions, contexts, task.max_length, OVERLAP, task.strict_length)
    run = _run(model, windows.encoded, programs)
    logits = unpack_tokens(run.values, run.batches)
    answers = [example.label.texts if isinstance(example.label, Answers) else () for example in examples]
    nullable = task.name == "squad2"
    predicted = best_answers(logits, windows, contexts, nullable)
    scores = squad_scores(predicted, answers)
    doubts = chance_level(
        task.metric,
        scores[task.metric],
        squad_scores([""] * len(answers), answers)[task.metric],
        len(examples),
        one_answer=len(set(predicted)) == 1,
        one_label=len(set(answers)) == 1,
    )
    doubts = cut_questions(windows, len(examples), "evaluation questions") + doubts
    return scores, doubts, windows.encoded.tokens, run

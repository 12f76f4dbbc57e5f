"""Scores of a model on a task, and what they cost."""

import time
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from ..doubts import tell
from ..errors import DataError, NumericalError, SettingsError
from ..model import Model
from ..runtime.devices import Devices
from ..runtime.events import OnStep
from ..runtime.memory import host_peak_bytes
from ..runtime.programs import Programs
from ..tasks.task import Task
from ..tokens.given_ids import GivenIds, reader_of
from ..tokens.packing import Encoded, pack
from ..tokens.tokenizer import Tokenizer
from ..tokens.windows import windows_of
from .label_map import match_labels
from .label_rows import check_rows
from .metrics import check_none_own
from .onnx_model import OnnxModel, described, runner_of
from .outputs import outputs_of
from .scorers import SCORERS

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

    def __post_init__(self):
        tell(self.warnings)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "warnings": list(self.warnings)}


def evaluate(
    model: Model | OnnxModel,
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
    Doubts are the result's `warnings`: label names that differ, a score at chance level. What `task.scored_beside`
    names is scored beside the validation texts where it is there: on MNLI, the mismatched texts. `programs` keeps the
    books of what is compiled.
    With `stream` weights come to the device one sublayer at a time (load the model with `host=True`). `on_step` hears
    of running text how far it is tokenised and scored: {"phase", "done", "of"}. `tokenizer` takes the place of
    the model's own: a folder, or a loaded one. A task of `tasks.of_ids` needs none. An ONNX file that `load_onnx`
    opened takes the place of a model, but for perplexity.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit} leaves nothing to score; give at least 1.")
    shipped, programs = model, Programs() if programs is None else programs
    model = described(model)
    check_rows(model.architecture, task)
    label_map = match_labels(model.architecture, task)
    task = label_map.task
    reader = reader_of(model, task, tokenizer)
    if stream and shipped is not model:
        raise SettingsError("stream has no effect on an ONNX file, which onnxruntime runs; leave it out.")
    if stream:
        programs = replace(programs, devices=Devices(stream=True))
    if task.running and shipped is not model:
        raise DataError("an ONNX file gives no perplexity here; score the model that it was exported from.")
    if task.running:
        return _language(model, task, split, limit, reader, programs, on_step)
    examples = task.split(split)[:limit]
    surprises = reader.doubts(examples)
    score, runner = SCORERS[task.kind], runner_of(shipped, programs)
    metrics, doubts, tokens, run = score(model.architecture, task, examples, reader, label_map, runner)
    for further in task.scored_beside if split == "validation" else ():
        if not task.is_labelled(further):
            continue
        name = further.removeprefix("validation_")
        texts = task.split(further)[:limit]
        other, others, more, extra = score(model.architecture, task, texts, reader, label_map, runner)
        metrics |= {f"{metric}_{name}": value for metric, value in other.items()}
        tokens += more
        doubts += tuple(f"{name} texts: {doubt}" for doubt in others)
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
        warnings=label_map.warnings + surprises + doubts,
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
    check_none_own(task)
    texts = task.split(split)
    if isinstance(reader, GivenIds):
        windows = reader.rows(texts)
    else:
        windows = windows_of(reader, texts, task.max_length, task.source, on_step)
    asked = [most for most in (limit, task.windows) if most is not None]
    wanted = min(asked, default=None)
    count, tokens, total, seconds, compile_seconds, rows = 0, 0, 0.0, 0.0, 0.0, None
    while ids := list(islice(windows, min([GROUP // task.max_length + 1, *(most - count for most in asked)]))):
        encoded = Encoded(ids, [np.zeros_like(entry) for entry in ids])
        tokens += encoded.tokens
        batches = pack(encoded, model.architecture, rows=rows)
        rows = len(batches[0].ids)  # of every group, so that they share a program
        outputs, compiled, began = outputs_of(model, batches, programs), programs.compile_seconds, time.perf_counter()
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

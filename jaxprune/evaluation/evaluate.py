"""Scores of a model on a task, and what they cost."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from ..checks import checked
from ..doubts import tell
from ..errors import DataError, SettingsError
from ..model import Model
from ..runtime.devices import Devices
from ..runtime.events import OnStep
from ..runtime.memory import host_peak_bytes
from ..runtime.programs import Programs
from ..tasks.kinds import KINDS
from ..tasks.task import Task
from ..tokens.given_ids import reader_of
from ..tokens.image_reader import ImageReader
from ..tokens.masking import reads_masks
from .label_map import match_labels
from .label_rows import check_rows
from .masked import pseudo_perplexity
from .onnx_model import OnnxModel, described
from .perplexity import running_perplexity
from .scorers import SCORERS


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on a task, and what they cost.

    Scores are fractions or correlations, higher is better; but perplexity, exp of the mean loss, where lower is. Of a
    masked language model it is the pseudo-perplexity: every token is masked in turn.
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


@checked
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
    opened takes the place of a model, but for the pseudo-perplexity of masked words.
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
    masked = reads_masks(model.architecture)
    if masked and shipped is not model:
        raise DataError("an ONNX file gives no pseudo-perplexity here; score the model that it was exported from.")
    if task.running:
        texts = task.split(split)
        assert not isinstance(reader, ImageReader)  # check_rows has seen to it
        if masked:
            perplexity, doubts, run = pseudo_perplexity(model, task, texts, limit, reader, programs, on_step)
        else:
            perplexity, doubts, run = running_perplexity(shipped, task, texts, limit, reader, programs, on_step)
        return Evaluation(
            score=perplexity["perplexity"],
            metric="perplexity",
            examples=run.texts,
            metrics=perplexity,
            seconds=run.seconds,
            compile_seconds=run.compile_seconds,
            tokens=run.tokens,
            tokens_per_second=run.tokens / max(run.seconds, 1e-9),
            host_peak_bytes=host_peak_bytes(),
            warnings=reader.doubts(()) + doubts,
        )
    examples = task.split(split)[:limit]
    row = KINDS[task.kind]
    surprises = reader.doubts(examples if row.labelled and not row.apart else ())
    score = SCORERS[task.kind]
    metrics, doubts, tokens, run = score(shipped, task, examples, reader, label_map, programs)
    for further in task.scored_beside if split == "validation" else ():
        if not task.is_labelled(further):
            continue
        name = further.removeprefix("validation_")
        texts = task.split(further)[:limit]
        other, others, more, extra = score(shipped, task, texts, reader, label_map, programs)
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

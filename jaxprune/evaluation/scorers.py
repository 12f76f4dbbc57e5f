"""How examples are scored: one scorer for each kind of task, from texts to metrics and doubts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from ..errors import DataError
from ..model import Model
from ..runtime.programs import Programs
from ..tasks.example import Answers, Example, Kind
from ..tasks.task import Task
from ..tokens.given_ids import GivenIds
from ..tokens.image_reader import ImageReader
from ..tokens.packing import unpack_logits, unpack_tokens
from ..tokens.text_doubts import question_doubts, text_doubts
from ..tokens.tokenizer import Tokenizer
from .chance import chance_level
from .label_map import LabelMap
from .metrics import METRICS, check_none_own, metric_of, squad_scores
from .numbering import classes, truth
from .onnx_model import OnnxModel, runner_of
from .outputs import Scored
from .perplexity import completions
from .similarity import matched, retrieved, similar
from .spans import OVERLAP, best_answers
from .tags import tag


def classify(
    model: Model | OnnxModel,
    task: Task,
    examples: Sequence[Example],
    reader: Tokenizer | GivenIds | ImageReader,
    label_map: LabelMap,
    programs: Programs,
) -> Scored:
    """One answer a text."""
    encoded = reader.encode(examples, task.max_length, task.strict_length)
    said = text_doubts(encoded, "evaluation texts")
    run = runner_of(model, programs)(encoded)
    logits = unpack_logits(run.values, run.batches)
    predicted, true = classes(logits, task, label_map), truth(examples, task)
    scores = {name: metric_of(task, name)(predicted, true) for name in (task.metric, *task.beside)}
    values, counts = np.unique(true, axis=0, return_counts=True)
    constant = np.broadcast_to(values[counts.argmax()], true.shape)
    doubts = chance_level(
        task.metric,
        scores[task.metric],
        None if task.metric in task.own_metrics else METRICS[task.metric](constant, true),
        len(examples),
        one_answer=len(np.unique(predicted, axis=0)) == 1,
        one_label=len(values) == 1,
    )
    return scores, said + doubts, encoded.tokens, run


def answer(
    model: Model | OnnxModel,
    task: Task,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    label_map: LabelMap,
    programs: Programs,
) -> Scored:
    """One span of its context a question."""
    check_none_own(task)
    contexts = [example.pair or "" for example in examples]
    questions = [example.text for example in examples]
    windows = tokenizer.windows(questions, contexts, task.max_length, OVERLAP, task.strict_length)
    said = question_doubts(windows, len(examples), "evaluation questions")
    run = runner_of(model, programs)(windows.encoded)
    logits = unpack_tokens(run.values, run.batches)
    answers = [example.label.texts if isinstance(example.label, Answers) else () for example in examples]
    predicted = best_answers(logits, windows, contexts, task.nullable)
    scores = squad_scores(predicted, answers)
    if task.metric not in scores:
        raise DataError(
            f"{task.name} is scored by {task.metric}, and the questions scored do not show it: all or none have an "
            "answer; name f1 or exact_match."
        )
    doubts = chance_level(
        task.metric,
        scores[task.metric],
        squad_scores([""] * len(answers), answers)[task.metric],
        len(examples),
        one_answer=len(set(predicted)) == 1,
        one_label=len(set(answers)) == 1,
    )
    return scores, said + _repeated(examples) + doubts, windows.encoded.tokens, run


def _repeated(examples: Sequence[Example]) -> tuple[str, ...]:
    """A doubt where questions share their id, which stands for one question in SQuAD's own script."""
    ids = Counter(example.label.id for example in examples if isinstance(example.label, Answers) and example.label.id)
    more = ids.total() - len(ids)
    if not more:
        return ()
    most, _ = ids.most_common(1)[0]
    return (
        f"{more} of {len(examples)} evaluation questions have the id of another one, such as {most!r}: each is scored "
        "here, SQuAD's own script scores an id once; keep one of each.",
    )


# Running text has no examples: `evaluate` scores its windows as they come.
SCORERS: Mapping[Kind, Callable[..., Scored]] = MappingProxyType(
    {
        "single_label": classify,
        "multi_label": classify,
        "regression": classify,
        "question_answering": answer,
        "token_classification": tag,
        "chat": completions,
        "sts": similar,
        "retrieval": retrieved,
        "pairs": matched,
    }
)

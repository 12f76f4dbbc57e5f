"""Token classification: one class a word, said by the first of its tokens."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from ..errors import DataError
from ..model import Model
from ..runtime.programs import Programs
from ..tasks.example import Example, Tags
from ..tasks.task import Task
from ..tokens.encoded import Encoded
from ..tokens.packing import unpack_tokens
from ..tokens.text_doubts import text_doubts
from ..tokens.tokenizer import Tokenizer
from .chance import chance_level
from .label_map import LabelMap
from .metrics import tag_scores
from .onnx_model import OnnxModel, described, runner_of


def read_tags(task: Task, examples: Sequence[Example], tokenizer: Tokenizer) -> tuple[Encoded, list[np.ndarray]]:
    """The texts' tokens, and for each text [words, 2]: the first token of every word and its class.

    Words that were cut off, or that the tokenizer drops, are not there, as in transformers' run_ner. Raises DataError
    for a label that is none of the task's.
    """
    tags: list[Any] = [example.label for example in examples]
    for number, (label, example) in enumerate(zip(tags, examples, strict=True)):
        good = isinstance(label, Tags) and " ".join(label.words) == example.text
        if not good or len(label.words) != len(label.classes) or not set(label.classes) <= set(range(len(task.labels))):
            raise DataError(f"{task.name}: text {number} has the label {label!r:.60}, expected words with classes.")
    words = [label.words for label in tags]
    encoded, firsts = tokenizer.encode_words(examples, words, task.max_length, task.strict_length)
    pairs = [np.stack([first, label.classes], axis=1) for first, label in zip(firsts, tags, strict=True)]
    return encoded, [pair[pair[:, 0] >= 0] for pair in pairs]


def tag(
    model: Model | OnnxModel,
    task: Task,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    label_map: LabelMap,
    programs: Programs,
) -> Any:
    """One tag a word; a scorer, for `scorers.SCORERS`."""
    encoded, pairs = read_tags(task, examples, tokenizer)
    of_texts = text_doubts(encoded, "evaluation texts")
    run = runner_of(model, programs)(encoded)
    names = list(
        described(model).architecture.labels
    )  # a class that the task has not keeps its name: its entities are wrong
    for name, output in zip(task.labels, label_map.outputs, strict=True):
        names[output] = name
    true = [[task.labels[number] for number in pair[:, 1]] for pair in pairs]
    logits = unpack_tokens(run.values, run.batches)
    best = [values[pair[:, 0]].argmax(axis=1) for values, pair in zip(logits, pairs, strict=True)]
    predicted = [[names[output] for output in outputs] for outputs in best]
    said, there = (Counter(chain.from_iterable(rows)) for rows in (predicted, true))
    scores, alike = tag_scores(predicted, true), [name for name, _ in there.most_common(1)] * there.total()
    chance = tag_scores([alike], [list(chain.from_iterable(true))])[task.metric]
    one = {"one_answer": len(said) == 1, "one_label": len(there) == 1}
    doubts = chance_level(task.metric, scores[task.metric], chance, there.total(), **one)
    kept = {name: scores[name] for name in (task.metric, *task.beside)}
    return kept, of_texts + doubts, encoded.tokens, run

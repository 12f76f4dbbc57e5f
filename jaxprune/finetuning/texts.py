"""Training texts as the loop reads them: token ids and targets, one reader for each kind of task."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ..checkpoint.files import listed
from ..errors import DataError
from ..evaluation.label_map import LabelMap, match_labels
from ..evaluation.label_rows import check_rows
from ..evaluation.numbering import NUMBERINGS, truth
from ..evaluation.tags import read_tags
from ..model import Architecture, Model
from ..model.in_batch import NEGATIVE, PAIR, ROLE, TEXT
from ..model.targets import IGNORED
from ..tasks.calibration import overlap, shared_lines
from ..tasks.example import Answers, Example, Kind
from ..tasks.kinds import KINDS
from ..tasks.pairs import texts_of
from ..tasks.task import Task
from ..tokens.encoded import Encoded, Windows
from ..tokens.given_ids import GivenIds, reader_of
from ..tokens.image_reader import ImageReader
from ..tokens.language_texts import language_texts, masked_texts
from ..tokens.masking import reads_masks
from ..tokens.text_doubts import equal_pairs, question_doubts, text_doubts
from ..tokens.tokenizer import Tokenizer

Reader = Tokenizer | GivenIds | ImageReader
SHARED_TOKENS = 64  # tokens that windows of a long context share
FEW = 10  # different labels up to which whole numbers may well be classes


class Texts(NamedTuple):
    """Training texts as the loop reads them."""

    encoded: Encoded
    targets: np.ndarray  # in the numbering of the model's outputs; `model.targets` says which shape
    warnings: tuple[str, ...]


def prepare(model: Model, task: Task) -> Texts:
    """Tokenise the training texts and number their labels as the model's outputs are.

    The words of a masked language model's texts are masked by whoever makes batches of them (`epochs.masks_of`). Raises
    `DataError` where there are no texts, where one has no label, where the head is of another kind, or where the task
    scores models and trains none.
    """
    check_rows(model.architecture, task)
    label_map = match_labels(model.architecture, task)
    _check_trains(model.architecture, label_map.task)
    examples = label_map.task.split("train")
    tokenizer = reader_of(model, task)
    row = KINDS[task.kind]
    warnings = label_map.warnings + tokenizer.doubts(examples if row.labelled and not row.apart else ())
    read = _masked_words if reads_masks(model.architecture) else _READERS[label_map.task.kind]
    texts = read(tokenizer, label_map, model.architecture)
    return texts._replace(warnings=warnings + texts.warnings)


def _check_trains(architecture: Architecture, task: Task) -> None:
    """Raise `DataError` for a task that is there to score by, saying which one trains such a model."""
    if task.kind in _READERS:
        return
    cure = "train on pairs of texts that belong together (the task pairs, which takes alike ones of sts by min_score)"
    if architecture.labels:
        cure = "train on lines of text, text_pair and label, a number with a point (the task text-classification)"
    raise DataError(f"{task.name} scores models and trains none; {cure}.")


def encoded_by(task: Task, architecture: Architecture, tokenizer: Reader) -> Encoded:
    """The training texts of a model as a tokenizer reads them; of questions and contexts, the windows."""
    if reads_masks(architecture):
        assert isinstance(tokenizer, Tokenizer)  # whose words are masked
        return masked_texts(tokenizer, task, architecture)
    return _ENCODERS.get(task.kind, _whole)(task, tokenizer)


def _whole(task: Task, tokenizer: Reader) -> Encoded:
    return tokenizer.encode(task.split("train"), task.max_length, task.strict_length)


def _windows(task: Task, tokenizer: Reader) -> Windows:
    """Windows of the training texts' contexts, each with its question."""
    assert isinstance(tokenizer, Tokenizer)  # rows of token ids are no questions
    examples = task.split("train")
    questions, contexts = [example.text for example in examples], [example.pair or "" for example in examples]
    return tokenizer.windows(questions, contexts, task.max_length, SHARED_TOKENS, task.strict_length)


def _labelled(tokenizer: Reader, label_map: LabelMap, architecture: Architecture) -> Texts:
    """One label a text."""
    encoded, labels = _whole(label_map.task, tokenizer), truth(label_map.task.split("train"), label_map.task)
    targets = NUMBERINGS[label_map.task.kind].targets(labels, label_map, len(architecture.labels))
    return Texts(encoded, targets, text_doubts(encoded, "training texts"))


def _one_class(tokenizer: Reader, label_map: LabelMap, architecture: Architecture) -> Texts:
    """One class a text; a warning names those that no text has."""
    texts, there = (
        _labelled(tokenizer, label_map, architecture),
        set(truth(label_map.task.split("train"), label_map.task).tolist()),
    )
    absent = [name for number, name in enumerate(label_map.task.labels) if number not in there]
    if not absent:
        return texts
    return texts._replace(warnings=(*texts.warnings, f"no training text has label {listed(absent)}."))


def _values(tokenizer: Reader, label_map: LabelMap, architecture: Architecture) -> Texts:
    """One number a text; a warning where these may well be classes: a table's integers get a point by accident."""
    texts = _labelled(tokenizer, label_map, architecture)
    labels = {example.label for example in label_map.task.split("train") if isinstance(example.label, int | float)}
    if label_map.warnings or not 1 < len(labels) <= FEW or not all(float(label).is_integer() for label in labels):
        return texts  # with warnings: integers, which the head made values of, as they say
    told = (
        f"labels are {listed([str(label) for label in sorted(labels)])}, whole numbers with a point, and train a "
        "regression; write integers if they are classes."
    )
    return texts._replace(warnings=(*texts.warnings, told))


def _spans(tokenizer: Reader, label_map: LabelMap, architecture: Architecture) -> Texts:
    """Windows of contexts, and the first and last token of the answer in each; token 0 where it is not there."""
    task = label_map.task
    examples, windows = task.split("train"), _windows(task, tokenizer)
    targets, answered = np.zeros((len(windows.spans), 2), np.int32), set()
    for number, (question, spans) in enumerate(zip(windows.question, windows.spans, strict=True)):
        label = examples[question].label
        if not isinstance(label, Answers) or not label.texts:
            continue
        start, stop = label.starts[0], label.starts[0] + len(label.texts[0])
        inside = np.flatnonzero((spans[:, 0] < stop) & (spans[:, 1] > start) & (spans[:, 0] >= 0))
        if inside.size and spans[inside[0], 0] <= start and spans[inside[-1], 1] >= stop:
            targets[number] = inside[0], inside[-1]
            answered.add(int(question))
    warnings = question_doubts(windows, len(examples), "training questions")
    with_answers = sum(isinstance(example.label, Answers) and bool(example.label.texts) for example in examples)
    if len(answered) < with_answers:
        warnings += (
            f"{with_answers - len(answered)} of {with_answers} answers fit no window of {task.max_length} tokens whole "
            "and train as none; take longer windows.",
        )
    return Texts(windows.encoded, targets, warnings)


def _groups(task: Task, tokenizer: Reader) -> Encoded:
    """Anchor, its own text and its negatives, one after another, of every training pair."""
    texts = [texts_of(example) for example in task.split("train")]
    singles = [Example(text, None, None) for group in texts for text in group]
    encoded = tokenizer.encode(singles, task.max_length, task.strict_length)
    return replace(encoded, together=len(texts[0]))


def _compared(tokenizer: Reader, label_map: LabelMap, architecture: Architecture) -> Texts:
    """Texts that are compared with one another: each one's pair, role, and a number that equal token ids share."""
    encoded = _groups(label_map.task, tokenizer)
    each, known = encoded.together, dict[bytes, int]()
    targets = np.zeros((len(encoded), 3), np.int32)
    targets[:, PAIR] = np.arange(len(encoded)) // each
    targets[:, ROLE] = np.minimum(np.arange(len(encoded)) % each, NEGATIVE)
    targets[:, TEXT] = [known.setdefault(np.asarray(ids, np.int32).tobytes(), len(known)) for ids in encoded.ids]
    warnings, settings = text_doubts(encoded, "training texts"), architecture.embedding
    warnings += equal_pairs(label_map.task.split("train"), "training pairs")
    assert settings is not None  # of the head that pairs need
    pairs = targets[:, TEXT].reshape(-1, each)
    again = len(pairs) - len(np.unique(pairs, axis=0))
    if again:
        warnings += (
            f"{again} of {len(pairs)} training pairs were there before, with the same tokens, and count again; drop "
            "them where that is not meant.",
        )
    trained = {texts_of(example)[:2] for example in label_map.task.split("train")}
    scored = [(example.text, example.pair) for example in label_map.task.validation]
    seen = sum(pair in trained for pair in scored)
    if seen:
        warnings += (
            f"{seen} of {len(scored)} pairs that are scored are trained on, too: the score says little of others; set "
            "other pairs aside.",
        )
    others = [name for name, text in settings.prompts if text and name != settings.default_prompt]
    if others:
        warnings += (
            f"the model's prompts {listed(others)} are written before no text of the pairs; write them into the texts "
            "where the model is to be asked with them.",
        )
    return Texts(encoded, targets, warnings)


def _tags(tokenizer: Reader, label_map: LabelMap, architecture: Architecture) -> Texts:
    """One class for the first token of every word."""
    assert isinstance(tokenizer, Tokenizer)  # rows of token ids have no words
    encoded, pairs = read_tags(label_map.task, label_map.task.split("train"), tokenizer)
    targets = np.full((len(encoded), max(map(len, encoded.ids))), IGNORED, np.int32)
    for row, pair in zip(targets, pairs, strict=True):
        row[pair[:, 0]] = label_map.outputs[pair[:, 1]]
    return Texts(encoded, targets, text_doubts(encoded, "training texts"))


def _masked_words(tokenizer: Reader, label_map: LabelMap, architecture: Architecture) -> Texts:
    """Windows of running text whose words are masked in every epoch."""
    if not isinstance(tokenizer, Tokenizer):
        raise DataError("which token ids are masked, the tokenizer says, and these have none; give text.")
    if label_map.task.windows is None:
        raise DataError(
            "every epoch is scored by pseudo-perplexity, which takes a forward pass for every token; say how many "
            "windows of the text are scored, such as windows=20."
        )
    encoded = masked_texts(tokenizer, label_map.task, architecture)
    return Texts(encoded, np.zeros((len(encoded), 0), np.int32), text_doubts(encoded, "training windows"))


def _next_tokens(tokenizer: Reader, label_map: LabelMap, architecture: Architecture) -> Texts:
    """Text or conversations; a warning where what is learnt is scored, too."""
    task, texts = label_map.task, _language(label_map.task, tokenizer, architecture.end_ids)
    if isinstance(tokenizer, GivenIds):
        return texts
    again = shared_lines if KINDS[task.kind].running else overlap
    return texts._replace(warnings=texts.warnings + again(task.split("train"), task.validation, "training"))


def _language(task: Task, tokenizer: Reader, end_ids: tuple[int, ...] = ()) -> Texts:
    """Running text or rows of token ids, of which every token is learnt, or conversations; text in mapped files."""
    if isinstance(tokenizer, GivenIds):
        encoded = tokenizer.encode(task.split("train"), task.max_length)
        return Texts(encoded, np.zeros((len(encoded), 0), np.int8), ())
    assert isinstance(tokenizer, Tokenizer)  # images are no text
    return Texts(*language_texts(tokenizer, task, end_ids=end_ids))


_READERS: Mapping[Kind, Callable[[Reader, LabelMap, Architecture], Texts]] = MappingProxyType(
    {
        "single_label": _one_class,
        "multi_label": _labelled,
        "regression": _values,
        "question_answering": _spans,
        "token_classification": _tags,
        "language": _next_tokens,
        "chat": _next_tokens,
        "pairs": _compared,
    }
)
# How texts become token ids, where a text is not simply read whole.
_ENCODERS: Mapping[Kind, Callable[[Task, Reader], Encoded]] = MappingProxyType(
    {
        "question_answering": lambda task, tokenizer: _windows(task, tokenizer).encoded,
        "language": lambda task, tokenizer: _language(task, tokenizer).encoded,
        "chat": lambda task, tokenizer: _language(task, tokenizer).encoded,
        "pairs": _groups,
    }
)

"""What a model's outputs say of texts: one row for each kind of head, from texts to predictions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..model import Architecture, Model
from ..model.heads import head_of
from ..runtime.programs import Programs
from ..tasks.example import Example
from ..tasks.picture import Picture
from ..tokens.encoded import Encoded
from ..tokens.image_reader import ImageReader
from ..tokens.packing import unpack_logits, unpack_tokens
from ..tokens.tokenizer import Tokenizer
from .fill import FillRunner, MaskPrediction, fill_runner, filled
from .onnx_model import OnnxModel
from .outputs import Runner, TextsRun
from .spans import OVERLAP, Span, best_spans

Reader = Tokenizer | ImageReader
WINDOW = 384  # tokens of a window of a context, as in training and scoring


@dataclass(frozen=True)
class ClassPrediction:
    """The class of a text."""

    label: str
    probability: float
    probabilities: dict[str, float]  # of all classes, in the model's order


@dataclass(frozen=True)
class SeveralPrediction:
    """Which classes hold of a text: those of which the model says so with more than one half."""

    labels: tuple[str, ...]
    probabilities: dict[str, float]  # of each class for itself


@dataclass(frozen=True)
class NumberPrediction:
    """The number of a text: a rating, a similarity."""

    value: float


@dataclass(frozen=True)
class AnswerPrediction:
    """The answer to a question, a stretch of its context."""

    answer: str  # "" where there is none
    start: int | None  # the answer is context[start:end]; None where there is none
    end: int | None
    probability: float  # of this start and this end, or of there being no answer
    score: float  # the sum of their logits, by which spans of several windows are compared
    no_answer_score: float  # the same of there being none; it means something for models that were tuned on such


@dataclass(frozen=True)
class WordTag:
    """A word, what it is, and where it stands in its text."""

    word: str
    tag: str | None  # None: nothing of the word was read, since the text was cut or the tokenizer drops it
    probability: float | None
    start: int  # the word is text[start:end]; of a list of words, these with a space between them
    end: int


@dataclass(frozen=True)
class TagsPrediction:
    """The tag of every word of a text."""

    tags: tuple[WordTag, ...]


Prediction = ClassPrediction | SeveralPrediction | NumberPrediction | AnswerPrediction | TagsPrediction | MaskPrediction


class Text(NamedTuple):
    """A text as it was handed in, checked."""

    text: str
    pair: str | None = None
    words: tuple[str, ...] | None = None  # that `text` is made of, where they were handed in
    image: Picture | None = None  # in the place of a text


class HowToRead(NamedTuple):
    """How texts are to be read."""

    max_length: int | None  # tokens; None: as many as the model reads
    nullable: bool  # of questions: some have no answer


class Read(NamedTuple):
    """What was read of some texts."""

    predictions: list[Prediction]  # one a text
    run: TextsRun
    encoded: Encoded
    cut: int  # texts, or questions, that lost their end
    longest: int | None  # tokens that they were cut to


class HeadReading(NamedTuple):
    """How the predictions of one kind of head are read."""

    # By a tokenizer, or a reader of images.
    read: Callable[[Architecture, Sequence[Text], Any, HowToRead, Any], Read]
    fields: tuple[str, str] = ("text", "text_pair")  # what a line of JSON calls them
    paired: bool | None = None  # true: there has to be a second text; false: there is none; None: as the model is tuned
    words: bool = False  # a text may be a list of words
    nullable: bool = False
    runner: Callable[[Model | OnnxModel, Programs], Any] | None = None  # None: one that gives a head's outputs


def by_text(kind: Callable[[np.ndarray, tuple[str, ...]], Prediction]) -> Callable[..., Read]:
    """A reader of heads with one output a text: `kind` makes a prediction of one text's logits."""

    def read(
        architecture: Architecture, texts: Sequence[Text], tokenizer: Reader, asked: HowToRead, runner: Runner
    ) -> Read:
        encoded = _with_tokens(tokenizer.encode(examples_of(texts), *_length(architecture, asked)), tokenizer)
        run = runner(encoded)
        logits = unpack_logits(run.values, run.batches).astype(np.float64)
        names = class_names(architecture.labels)
        return Read([kind(row, names) for row in logits], run, encoded, encoded.cut, encoded.longest)

    return read


def one_class(logits: np.ndarray, names: tuple[str, ...]) -> ClassPrediction:
    """The class with the highest logit, and the softmax of all."""
    p, best = softmax(logits), int(logits.argmax())
    return ClassPrediction(names[best], float(p[best]), dict(zip(names, p.tolist(), strict=True)))


def several_classes(logits: np.ndarray, names: tuple[str, ...]) -> SeveralPrediction:
    """The classes whose logits are above 0, as in scoring, and the sigmoid of all."""
    p = np.exp(-np.logaddexp(0.0, -logits))
    holding = tuple(name for name, logit in zip(names, logits, strict=True) if logit > 0)
    return SeveralPrediction(holding, dict(zip(names, p.tolist(), strict=True)))


def a_number(logits: np.ndarray, names: tuple[str, ...]) -> NumberPrediction:
    return NumberPrediction(float(logits[0]))


def answers(
    architecture: Architecture, texts: Sequence[Text], tokenizer: Tokenizer, asked: HowToRead, runner: Runner
) -> Read:
    """Answers from the windows of every context; a long context fills several, so that only questions are cut."""
    questions, contexts = [text.text for text in texts], [text.pair or "" for text in texts]
    length, strict = asked.max_length or WINDOW, asked.max_length is not None
    windows = tokenizer.windows(questions, contexts, length, OVERLAP, strict)
    run = runner(windows.encoded)
    spans = best_spans(unpack_tokens(run.values, run.batches), windows, contexts)
    predictions: list[Prediction] = [_answer(span, asked.nullable) for span in spans]
    return Read(predictions, run, windows.encoded, windows.cut, windows.longest_question)


def _answer(span: Span, nullable: bool) -> AnswerPrediction:
    scores = span.score, span.nothing
    if span.first == span.past or (nullable and span.nothing > span.score):
        return AnswerPrediction("", None, None, span.nothing_probability, *scores)
    return AnswerPrediction(span.text, span.first, span.past, span.probability, *scores)


def tags(
    architecture: Architecture, texts: Sequence[Text], tokenizer: Tokenizer, asked: HowToRead, runner: Runner
) -> Read:
    """The tag of every word: that of its first token, as in training and scoring."""
    encoded, places = tokenizer.encode_places(
        examples_of(texts), [text.words for text in texts], *_length(architecture, asked)
    )
    run = runner(_with_tokens(encoded, tokenizer))
    names, predictions = architecture.labels, []
    for text, logits, words in zip(texts, unpack_tokens(run.values, run.batches), places, strict=True):
        p = softmax(logits.astype(np.float64))
        told = []
        for token, start, end in words.tolist():
            best = int(p[token].argmax()) if token >= 0 else None
            of_word = (None, None) if best is None else (names[best], float(p[token, best]))
            told.append(WordTag(text.text[start:end], *of_word, start, end))
        predictions.append(TagsPrediction(tuple(told)))
    return Read(predictions, run, encoded, encoded.cut, encoded.longest)


def fillings(
    architecture: Architecture, texts: Sequence[Text], tokenizer: Tokenizer, asked: HowToRead, runner: FillRunner
) -> Read:
    """The likeliest tokens at the masked places of every text."""
    encoded = tokenizer.encode(examples_of(texts), *_length(architecture, asked))
    said = filled(_with_tokens(encoded, tokenizer), tokenizer, runner)
    return Read([*said.predictions], said.run, encoded, encoded.cut, encoded.longest)


READINGS: Mapping[str, HeadReading] = MappingProxyType(
    {
        "single_label": HeadReading(by_text(one_class)),
        "multi_label": HeadReading(by_text(several_classes)),
        "regression": HeadReading(by_text(a_number)),
        "question_answering": HeadReading(answers, ("question", "context"), paired=True, nullable=True),
        "token_classification": HeadReading(tags, paired=False, words=True),
        "masked_lm": HeadReading(fillings, runner=fill_runner),
    }
)
# By the name of a head that answers nothing: what to do instead.
_OTHERWISE = {
    "causal_lm": "jaxprune.generate continues texts",
    "embedding": "jaxprune.embed gives their vectors",
    "none": "jaxprune.logits gives its hidden states; for answers load a checkpoint that was tuned for a task",
}


def reading_of(architecture: Architecture) -> HeadReading:
    """How a model's predictions are read. Raises `DataError` for a head that answers nothing."""
    name = head_of(architecture).name
    if name not in READINGS:
        cure = _OTHERWISE.get(name, "load a checkpoint that was tuned for a task")
        raise DataError(f"the model's head is {name}, from which nothing is predicted of a text; {cure}.")
    return READINGS[name]


# --- small steps


def examples_of(texts: Sequence[Text]) -> list[Example]:
    return [Example(text.text, text.pair, None, image=text.image) for text in texts]


def class_names(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the classes; where two have one name, with their numbers behind it."""
    return tuple(f"{name} ({number})" if labels.count(name) > 1 else name for number, name in enumerate(labels))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _with_tokens(encoded: Encoded, tokenizer: Reader) -> Encoded:
    """The same. Raises `DataError` for a text of which the tokenizer makes nothing, by its number among all."""
    empty = next((number for number, ids in enumerate(encoded.ids) if not len(ids)), None)
    if empty is not None:
        raise DataError(f"text {tokenizer.first + empty} has no tokens; drop it.")
    return encoded


def _length(architecture: Architecture, asked: HowToRead) -> tuple[int, bool]:
    """The most tokens of a text, and whether it is an error that the model reads fewer."""
    if asked.max_length is not None:
        return asked.max_length, True
    return (architecture.max_positions if architecture.positions != "none" else 2**20), False

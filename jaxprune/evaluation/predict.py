"""`predict`: what a model says of texts, of whatever kind its head is."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from ..checks import checked, is_in_order, is_whole
from ..doubts import tell
from ..errors import DataError, SettingsError
from ..model import Model
from ..runtime.events import OnStep
from ..runtime.programs import Programs
from ..tasks.picture import is_one, picture_of
from ..tokens.image_reader import ImageReader
from ..tokens.reading_doubts import file_doubts
from ..tokens.tokenizer import Tokenizer
from .onnx_model import OnnxModel, described, runner_of
from .readings import HeadReading, HowToRead, Prediction, Read, Text, examples_of, reading_of

BATCH = 256  # texts that are tokenised and sorted by length together


@dataclass(frozen=True)
class Predictions(Sequence[Any]):
    """What a model says of texts: a prediction each, in their order; and what that cost."""

    entries: tuple[Prediction, ...]
    tokens: int  # real ones, special tokens included, padding not
    seconds: float  # of the forward passes, compilation apart
    compile_seconds: float
    warnings: tuple[str, ...] = ()

    def __getitem__(self, at: Any) -> Any:  # which kind of prediction, only the model's head says
        return self.entries[at]

    def __len__(self) -> int:
        return len(self.entries)

    def as_json(self) -> dict[str, Any]:
        """Plain values, the predictions under "predictions"."""
        values = asdict(self)
        return {"predictions": list(values.pop("entries")), **values, "warnings": list(self.warnings)}


@dataclass
class _Books:
    """What has been read so far."""

    texts: int = 0
    tokens: int = 0
    cut: int = 0
    longest: int | None = None
    seconds: float = 0.0
    compile_seconds: float = 0.0
    doubts: dict[str, None] = field(default_factory=dict)

    def add(self, read: Read) -> None:
        self.texts += len(read.predictions)
        self.tokens += read.encoded.tokens
        self.cut += read.cut
        self.longest = read.longest if self.longest is None else self.longest
        self.seconds += read.run.seconds
        self.compile_seconds += read.run.compile_seconds


class PredictionStream(Iterator[Any]):
    """Predictions one by one, in the order of the texts, read as they are asked for."""

    def __init__(self, predictions: Iterator[Prediction], books: _Books, what: str):
        self._predictions, self._books, self._what = predictions, books, what

    def __next__(self) -> Any:
        try:
            return next(self._predictions)
        except StopIteration:
            tell(self.warnings)
            raise

    @property
    def warnings(self) -> tuple[str, ...]:
        """The doubts so far; all of them once the texts have come to an end."""
        books = self._books
        if not books.cut:
            return tuple(books.doubts)
        cut = f"{books.cut} of {books.texts} {self._what} were cut to {books.longest} tokens; shorten or divide them."
        return (*books.doubts, cut)

    def all(self) -> Predictions:
        """Those that are left, together."""
        entries, books = tuple(self), self._books
        return Predictions(entries, books.tokens, books.seconds, books.compile_seconds, self.warnings)


@checked
def predict(
    model: Model | OnnxModel,
    texts: Any,
    pairs: Any = None,
    *,
    batch_size: int = BATCH,
    max_length: int | None = None,
    nullable: bool = False,
    programs: Programs | None = None,
    tokenizer: Any = None,
    on_step: OnStep | None = None,
) -> Any:  # `Predictions`; of an iterable that has no length a `PredictionStream`
    """What `model` says of `texts`: a prediction each, in their order.

    Of a classification, classes with probabilities (`ClassPrediction`, `SeveralPrediction`) or a number
    (`NumberPrediction`); of a token classification, the tag of every word (`TagsPrediction`), where a text may be a
    list of words; of question answering, an answer and its place (`AnswerPrediction`), where `texts` are the questions
    and `pairs` their contexts; of a masked language model, the likeliest tokens at every mask (`MaskPrediction`).

    A model of images says the classes of images instead: of files' names, images of Pillow, or arrays of pixels from 0
    to 255 ([height, width], or with channels before or behind); an array of several is a list of them.

    One text, a list of texts, or any iterable of them, such as a generator. One and a list give `Predictions`, an
    iterable gives a `PredictionStream`, which reads `batch_size` texts at a time and keeps no more than those.
    `pairs` are second texts, as many, of the same kind. Texts of a batch are packed by length, and what else is in it
    changes a prediction by float32 rounding only.

    A text is read up to `max_length` tokens (None: as many as the model reads), and longer ones are cut, with a warning
    that says how many; a context is not cut but read in windows, of `max_length` tokens (384). With `nullable` a
    question may have no answer. `tokenizer` takes the place of the model's own: a folder, or a loaded one. `on_step`
    hears of {"phase": "predict", "done": texts, "of": texts or None}. An ONNX file that `load_onnx` opened takes the
    place of a model.

    Raises `DataError` that names the text for what is none, is blank, or is a pair where there is none; for a model
    whose head answers nothing, such as a language model's.
    """
    programs = Programs() if programs is None else programs
    reading = reading_of(described(model).architecture)
    runner = (reading.runner or partial(runner_of, few_shapes=True))(model, programs)
    model = described(model).with_tokenizer(tokenizer)
    architecture = model.architecture
    if not is_whole(batch_size) or batch_size < 1:
        raise SettingsError(f"batch_size must be a whole number of at least 1, got {batch_size!r}.")
    if max_length is not None and (not is_whole(max_length) or max_length < 1):
        raise SettingsError(f"max_length must be a whole number of at least 1, got {max_length!r}.")
    if nullable and not reading.nullable:
        raise SettingsError(f"nullable has no effect with a {architecture.head} head; leave it out.")
    images = architecture.patches is not None
    one = is_one(texts) if images else isinstance(texts, str)
    several = hasattr(texts, "__len__") and not one
    checked = _checked_images(texts, pairs, max_length) if images else _checked(texts, pairs, reading)
    if several:  # all are looked at before the first is read
        checked = iter(list(checked))
    reader = ImageReader.of(model) if images else Tokenizer.of(model)
    asked, books = HowToRead(max_length, nullable), _Books()
    books.doubts |= dict.fromkeys(file_doubts(texts) if isinstance(texts, str) and not images else ())

    def read(part: Sequence[Text]) -> Read:
        return reading.read(architecture, part, replace(reader, first=books.texts), asked, runner)

    doubt = partial(_doubts, model, reader, reading)
    of = 1 if one else len(texts) if several else None
    stream = PredictionStream(
        _predictions(checked, read, doubt, books, batch_size, of, on_step),
        books,
        "images" if images else "questions" if reading.paired else "texts",
    )
    return stream.all() if one or several else stream


def _predictions(
    texts: Iterator[Text],
    read: Callable[[Sequence[Text]], Read],
    doubt: Callable[[Sequence[Text]], Iterable[str]],
    books: _Books,
    batch_size: int,
    of: int | None,
    on_step: OnStep | None,
) -> Iterator[Prediction]:
    """The predictions of all texts, a batch at a time."""
    while batch := list(islice(texts, batch_size)):
        if not books.texts:
            books.doubts |= dict.fromkeys(doubt(batch))
        part = read(batch)
        books.add(part)
        if on_step is not None:
            on_step({"phase": "predict", "done": books.texts, "of": of})
        yield from part.predictions


# --- what is handed in


def _checked(texts: Any, pairs: Any, reading: HeadReading) -> Iterator[Text]:
    """The texts one by one. Raises `DataError`: at once for what can hold no texts, else when it comes to the text."""
    if isinstance(texts, str):
        texts, pairs = [texts], None if pairs is None else [pairs]
    for name, given in (("texts", texts), *(() if pairs is None else (("pairs", pairs),))):
        if not is_in_order(given):
            kind = type(given).__name__
            raise DataError(f"{name} is a {kind}, expected a text, or a list or another iterable of texts in order.")
    first, second = reading.fields
    if reading.paired and pairs is None:
        raise DataError(f"the model answers a {first} from a {second}; give the {second}s as pairs=, one a {first}.")
    if reading.paired is False and pairs is not None:
        raise DataError("the model tags the words of one text, and pairs were given; leave them out.")
    if pairs is not None and hasattr(texts, "__len__") and hasattr(pairs, "__len__") and len(texts) != len(pairs):
        raise DataError(f"{len(texts)} texts and {len(pairs)} pairs; there must be as many.")
    return _each(texts, pairs, reading)


def _checked_images(images: Any, pairs: Any, max_length: int | None) -> Iterator[Text]:
    """Images one by one, as `_checked`. Raises `DataError`, and `SettingsError` for a length, which they have not."""
    if pairs is not None:
        raise DataError("the model reads images, which have no second texts; leave pairs out.")
    if max_length is not None:
        raise SettingsError(f"max_length ({max_length}) has no effect on images, which are not cut; leave it out.")
    if isinstance(images, bytes | Mapping | set | frozenset) or not (is_one(images) or isinstance(images, Iterable)):
        raise DataError(
            f"images is a {type(images).__name__}, expected an image, or a list or another iterable of them."
        )
    return _each_image([images] if is_one(images) else images)


def _each_image(images: Iterable[Any]) -> Iterator[Text]:
    number = -1
    for number, image in enumerate(images):
        yield Text("", image=picture_of(image, number))
    if number < 0:
        raise DataError("there are no images to predict; give at least one.")


_END = object()


def _each(texts: Iterable[Any], pairs: Iterable[Any] | None, reading: HeadReading) -> Iterator[Text]:
    others = None if pairs is None else iter(pairs)
    number = -1
    for number, text in enumerate(texts):
        if reading.words and isinstance(text, (list, tuple)):
            yield _of_words(number, text)
            continue
        pair = None if others is None else next(others, _END)
        if pair is _END:
            raise DataError(f"text {number} has no second one in pairs; there must be as many.")
        yield Text(_text(number, text, "text"), None if others is None else _text(number, pair, "pair"))
    if others is not None and next(others, _END) is not _END:
        raise DataError(f"pairs has more than the {number + 1} of texts; there must be as many.")
    if number < 0:
        raise DataError("there are no texts to predict; give at least one.")


def _text(number: int, text: Any, what: str) -> str:
    """A text that is one. Raises `DataError`; what half a character is, the tokenizer says."""
    if not isinstance(text, str):
        cure = "give second texts as pairs=" if isinstance(text, (tuple, list)) else "convert or drop it"
        raise DataError(f"{what} {number} is of type {type(text).__name__}, expected str; {cure}.")
    if not text.strip():
        raise DataError(f"{what} {number} is blank; drop it.")
    return str(text)


def _of_words(number: int, words: Sequence[Any]) -> Text:
    bad = next((word for word in words if not isinstance(word, str) or not word.strip()), None)
    if bad is not None or not words:
        said = "no words" if not words else f"the word {bad!r:.40}"
        raise DataError(
            f"text {number} has {said}, expected a text, or a list of words that are not blank; correct it."
        )
    return Text(" ".join(words), None, tuple(words))


def _doubts(
    model: Model, reader: Tokenizer | ImageReader, reading: HeadReading, texts: Sequence[Text]
) -> Iterable[str]:
    """What may surprise in how the texts are read, from the first of them."""
    yield from reader.doubts(examples_of(texts))
    if reading.paired is not None:
        return
    paired, tuned = texts[0].pair is not None, _tuned_on_pairs(model.provenance.record)
    if tuned is not None and tuned[0] != paired:
        before, now = ("pairs of texts", "single ones") if tuned[0] else ("single texts", "pairs")
        yield f"the model was {tuned[1]} {before} and is given {now}: what it says of them means little."


def _tuned_on_pairs(record: Mapping[str, Any]) -> tuple[bool, str] | None:
    """Whether a model was made with pairs of texts, as far as its record says, and what was done with them."""
    for name, done in (("training", "tuned on"), ("calibration", "pruned on")):
        notes = record.get(name)
        if isinstance(notes, Mapping) and isinstance(notes.get("pairs"), bool):
            return notes["pairs"], done
    return None

"""Texts that a method measures a model on; labels are not used."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import check_seed, check_types, checked, is_in_order
from ..errors import DataError
from .example import MAX_LENGTH, Example, Kind, length_fields
from .jsonl import iter_texts
from .picture import pictures, shared_pictures
from .running_text import RunningText, check_window, chunks_of, text_of
from .token_arrays import token_texts

FEW = 64  # calibration texts below which we warn
LONGEST = 2**20  # characters after which a line is taken to end
KNOWN = 500_000  # long lines of the evaluation text that are compared with the calibration text
SHARED = 60  # characters from which on a line that two texts share is no accident


@dataclass(frozen=True)
class Calibration:
    """Texts that a method measures a model on, or their token ids; their labels are not used."""

    examples: Sequence[Example]  # in the order drawn
    source: str
    seed: int | None = None  # None: not drawn, given
    max_length: int = MAX_LENGTH  # tokens of a text, special tokens included; a longer one is cut, with a warning
    kind: Kind | None = None
    warnings: tuple[str, ...] = ()
    windows: int | None = None  # of running text: how many windows of `max_length` tokens are drawn
    strict_length: bool = False  # true: `max_length` was asked for, so that a model which reads less is an error
    ids: tuple[tuple[int, ...], ...] = ()  # token ids of every text, in place of `examples`
    types: tuple[tuple[int, ...], ...] = ()  # token types of every text, where ids are given

    def __post_init__(self):
        check_types(self, DataError)
        if not self.examples and not self.ids:
            raise DataError("there are no calibration texts; give at least one, better 512.")

    @property
    def count(self) -> int:
        """Texts, or windows of a running text."""
        return len(self.ids or self.examples) if self.windows is None else self.windows

    @property
    def paired(self) -> bool | None:
        """Whether texts have second texts; None: not known, of token ids."""
        if self.ids:
            return None
        return self.windows is None and any(example.pair is not None for example in self.examples)

    @property
    def hash(self) -> str:
        """SHA-256 of the texts, or of their token ids and types, in their order."""
        digest = hashlib.sha256()
        for pair in zip(self.ids, self.types, strict=True):
            digest.update(json.dumps(pair).encode())
        if isinstance(self.examples, RunningText):  # the same, but part by part
            parts = (json.dumps(chunk, ensure_ascii=False)[1:-1] for chunk in self.examples.chunks())
            written: Iterable[str] = chain(['["'], parts, ['", null]'])
        else:
            written = (_written(example) for example in self.examples)
        for part in written:
            digest.update(part.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @staticmethod
    @checked
    def of_texts(
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        source: str = "given texts",
    ) -> "Calibration":
        """Calibrate on any texts; `pairs` are their second texts where the model reads pairs.

        `max_length` is the most tokens of a text (None: 128, or as many as the model reads if that is less).
        """
        if isinstance(texts, str):
            raise DataError("texts must be a sequence of strings, got one string; pass [text].")
        for name, given in (("texts", texts), *(() if pairs is None else (("pairs", pairs),))):
            if not is_in_order(given) or not hasattr(given, "__len__"):
                raise DataError(f"{name} is a {type(given).__name__}, expected a sequence of strings; pass a list.")
        if pairs is not None and len(pairs) != len(texts):
            raise DataError(f"{len(texts)} texts and {len(pairs)} second texts; there must be as many.")
        others = [None] * len(texts) if pairs is None else pairs
        examples = tuple(Example(text, pair, None) for text, pair in zip(texts, others, strict=True))
        for number, example in enumerate(examples):
            for text in (example.text, example.pair) if pairs is not None else (example.text,):
                if not isinstance(text, str) or not text.strip():
                    raise DataError(f"calibration text {number} is {text!r}; give a text that is not blank.")
        return Calibration(examples, source, warnings=few_texts(len(examples)), **length_fields(max_length))

    @staticmethod
    @checked
    def of_file(
        path: str | Path, count: int | None = None, seed: int = 0, *, max_length: int | None = None
    ) -> "Calibration":
        """Calibrate on the texts of a file: one a line, a tab before a second text; or JSON, `text` and `text_pair`.

        `count` of them are drawn with `seed`, by the rule of `Task.calibration`; None, or as many as there are: all, in
        their order; more, too, with a warning. JSON (.jsonl, .json) is an object a line or an array; either may be
        gzip. Raises `DataError`.
        """
        if count is not None:
            check_count(count)
        check_seed(seed)
        there, rows, texts = _drawn_texts(Path(path), count, seed)
        drawn = len(rows) < there
        fewer = count is not None and count > there
        told = (f"{path} has {there} texts, fewer than {count}: all of them are taken.",) if fewer else ()
        pairs = [pair for _, pair in texts if pair is not None] or None
        calibration = Calibration.of_texts([text for text, _ in texts], pairs, max_length=max_length, source=str(path))
        return replace(calibration, seed=seed if drawn else None, warnings=calibration.warnings + told)

    @staticmethod
    @checked
    def of_images(images: Any, *, source: str = "given images") -> "Calibration":
        """Calibrate a model of images on any: a list of files' names, images of Pillow or arrays, or one array of
        several, [images, height, width] or with channels, pixels from 0 to 255. Raises `DataError`.
        """
        examples = tuple(Example("", None, None, image=image) for image in pictures(images))
        return Calibration(examples, source, warnings=few_texts(len(examples), "images"))

    @staticmethod
    @checked
    def of_running_text(path: str | Path, count: int = 16, seed: int = 0, *, length: int = 512) -> "Calibration":
        """Calibrate a language model on `count` windows of `length` tokens of a file, drawn with `seed`.

        The file is one that `jaxprune.tasks.text` reads. Raises `DataError`.
        """
        return drawn_windows(text_of(path), (), str(path), count, seed, length)

    @staticmethod
    @checked
    def of_ids(ids: Any, mask: Any, *, types: Any = None, source: str = "given token ids") -> "Calibration":
        """Calibrate on texts that are token ids already: no tokenizer is asked, and nothing is added or cut.

        `ids`, whole numbers [texts, length], and `mask` of the same shape, 1 on tokens and 0 on padding (left or
        right), as tokenizers give them (`input_ids`, `attention_mask`); `types` likewise, where a model tells the two
        texts of a pair apart. A mask of None says that every slot is a token; only then may texts differ in length.
        Raises `DataError`.
        """
        texts, kinds = token_texts(ids, mask, types, "calibration text")
        longest = max(map(len, texts), default=1)
        return Calibration((), source, max_length=longest, warnings=few_texts(len(texts)), ids=texts, types=kinds)


def draw_rows(there: int, count: int, seed: int) -> list[int]:
    """`count` different numbers below `there`, in the order in which calibration rows are drawn."""
    return np.random.RandomState(seed).choice(there, count, replace=False).tolist()


def _drawn_texts(path: Path, count: int | None, seed: int) -> tuple[int, list[int], list[tuple[str, str | None]]]:
    """How many texts a file has, which of them are drawn, and those: of a file of any size no more is in memory."""
    every = None if path.is_file() else list(iter_texts(path))  # a pipe is read only once
    there = sum(1 for _ in iter_texts(path)) if every is None else len(every)
    rows = draw_rows(there, count, seed) if count is not None and count < there else list(range(there))
    wanted = set(rows)
    drawn = {row: entry for row, entry in enumerate(iter_texts(path) if every is None else every) if row in wanted}
    return there, rows, [drawn[row] for row in rows]


def few_texts(count: int, what: str = "texts") -> tuple[str, ...]:
    """A warning where calibration texts, or `what` they are called, are few."""
    if count >= FEW:
        return ()
    return (f"only {count} calibration {what}: scores and refits will be noisy; 512 is a good number.",)


def _written(example: Example) -> str:
    """What an example says, as JSON."""
    if example.image is not None:
        return json.dumps(["image", example.image.hash])
    if example.chat is None:
        return json.dumps([example.text, example.pair], ensure_ascii=False)
    return json.dumps(example.chat[1:], ensure_ascii=False)  # but where it stands


def overlap(examples: Sequence[Example], scored: Sequence[Example], what: str = "calibration") -> tuple[str, ...]:
    """A warning where texts, those of calibration or `what` they are, are among those that are scored."""
    ours, others = ([entry.image for entry in side if entry.image is not None] for side in (examples, scored))
    if ours:
        shared = shared_pictures(ours, others)
        if not shared:
            return ()
        return (f"{shared} of {len(ours)} {what} images are evaluation images too: the score will flatter.",)

    def key(example: Example) -> int:  # a number takes less room than a text
        said = (example.text, example.pair or "") if example.chat is None else (_written(example),)
        return hash(tuple(" ".join(text.casefold().split()) for text in said))

    known = {key(example) for example in scored}
    shared = sum(key(example) in known for example in examples)
    if not shared:
        return ()
    return (f"{shared} of {len(examples)} {what} texts are evaluation texts too: the score will flatter.",)


def shared_lines(text: Sequence[Example], scored: Sequence[Example], what: str = "calibration") -> tuple[str, ...]:
    """A warning where lines of a running text are in the one that is scored."""
    known: set[int] = set()
    for line in _long_lines(scored):
        known.add(hash(line))
        if len(known) == KNOWN:
            break
    shared = sum(hash(line) in known for line in _long_lines(text)) if known else 0
    if not shared:
        return ()
    least = "at least " if len(known) >= KNOWN else ""
    return (f"{least}{shared} lines of the {what} text are in the evaluation text too: the score will flatter.",)


def drawn_windows(
    train: Sequence[Example], scored: Sequence[Example], source: str, count: int, seed: int, length: int
) -> Calibration:
    """`count` windows of `length` tokens of a running text, drawn with `seed` once a tokenizer is there.

    Lines that the text shares with `scored` are a warning. Raises `DataError`.
    """
    check_window(length)
    check_count(count)
    check_seed(seed)
    warnings = ()
    if count * length < 4096:
        warnings = (f"only {count * length} calibration tokens: scores and refits will be noisy; take 8,192 or more.",)
    warnings += shared_lines(train, scored)
    return Calibration(train, source, seed, length, "language", warnings, windows=count)


def check_count(count: int) -> None:
    """Raise `DataError` for a number of calibration texts that leaves none."""
    if count < 1:
        raise DataError(f"{count} calibration samples; ask for at least one, better 512.")


def _long_lines(texts: Sequence[Example]) -> Iterator[str]:
    for chunks in chunks_of(texts):
        rest = ""
        for chunk in chain(chunks, ["\n"]):
            part = rest + chunk
            lines = part.splitlines()
            # A file without line ends is compared all the same, in lines of its own length.
            whole = len(part) > LONGEST or part[-1:].splitlines() == [""]
            rest = "" if whole or not lines else lines.pop()
            yield from (stripped for line in lines if len(line) >= SHARED and len(stripped := line.strip()) >= SHARED)

"""Texts to token ids, with the tokenizer files that lie beside a checkpoint."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.notes import backend_of
from ..errors import CheckpointError, DataError
from ..model import Model
from ..model.model import REGAIN
from .task import Example

# What transformers can build a fast tokenizer from, and the class to use where no configuration names one.
VOCABULARIES = {"vocab.txt": "BertTokenizer", "vocab.json": "RobertaTokenizer", "tokenizer.model": "LlamaTokenizer"}


@dataclass(frozen=True)
class Encoded:
    """Tokenised texts: one array of token ids and one of token types a text, special tokens included, no padding."""

    ids: list[np.ndarray]
    types: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> int:
        return sum(len(ids) for ids in self.ids)


@dataclass(frozen=True)
class Windows:
    """Overlapping stretches of contexts, each with its question before it: what a question answerer reads."""

    encoded: Encoded
    question: np.ndarray  # [windows]: which question a window belongs to
    spans: list[np.ndarray]  # per window [tokens, 2]: characters (first, past the last) in the context; -1 elsewhere


@dataclass(frozen=True)
class Tokenizer:
    """A fast tokenizer and the longest text, in tokens, that its model can read (None: not known)."""

    backend: Any  # tokenizers.Tokenizer
    longest: int | None = None

    @staticmethod
    def of(source: Model | str | Path) -> "Tokenizer":
        """The tokenizer in a folder; or of a model: the one that was handed in, or else in the folder it was read from.

        Handed in (`tokenizer=`) is a folder, a `Tokenizer`, or a fast tokenizer of the packages tokenizers or
        transformers, which is copied. Raises CheckpointError where there are no usable tokenizer files, DataError where
        the tokenizer has ids that the model's embedding lacks.
        """
        if not isinstance(source, Model):
            return Tokenizer(_read(Path(source)))
        notes, a = source.provenance, source.architecture
        given = notes.source if notes.tokenizer is None else notes.tokenizer
        if given is None:
            raise CheckpointError(f"the model has no notes of where its tokenizer is; pass tokenizer=FOLDER. {REGAIN}.")
        folder = given if isinstance(given, (str, Path)) else None
        backend = backend_of(given) if folder is None else _read(Path(folder))
        largest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= a.vocab:
            where = "that was given" if folder is None else f"in {folder}"
            raise DataError(
                f"the tokenizer {where} has token id {largest}, the model's embedding {a.vocab} rows; "
                "use the tokenizer files that belong to this checkpoint."
            )
        return Tokenizer(backend, a.max_positions if a.positions != "none" else None)

    def encode(self, examples: Sequence[Example], max_length: int) -> Encoded:
        """Token ids and types of every example; a text longer than `max_length` tokens loses its end.

        Of a pair, the longer text is cut first. `max_length` is lowered to what the model can read. Raises DataError
        that names the number of a text that is none.
        """
        paired = any(example.pair is not None for example in examples)
        self.backend.enable_truncation(self._room(max_length, paired), strategy="longest_first")
        inputs = [example.text if example.pair is None else (example.text, example.pair) for example in examples]
        return _encoded(self._encode(inputs))

    def plain(self, text: str) -> np.ndarray:
        """The token ids of a whole text, however long, without special tokens."""
        self.backend.no_truncation()
        return np.array(self._encode([text], add_special_tokens=False)[0].ids, np.int32)

    def prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of whole texts to continue: with the special tokens put before a text, without those after it."""
        self.backend.no_truncation()
        found = []
        for encoding in self._encode(list(texts)):
            added = np.array(encoding.special_tokens_mask, bool)
            end = len(added) if added.all() else int(np.flatnonzero(~added)[-1]) + 1
            found.append(np.array(encoding.ids[:end], np.int32))
        return found

    def text(self, ids: Any) -> str:
        """The text of token ids, special tokens left out."""
        return self.backend.decode([int(number) for number in ids], skip_special_tokens=True)

    def continuation(self, prompt: Any, new: Any) -> str:
        """What the new tokens add to the text of a prompt: some tokenizers drop the space that begins a text."""
        before, whole = self.text(prompt), self.text([*prompt, *new])
        return whole[len(before) :] if whole.startswith(before) else self.text(new)

    def windows(self, questions: Sequence[str], contexts: Sequence[str], max_length: int, overlap: int) -> Windows:
        """Every context cut into windows of `max_length` tokens, its question included, that share `overlap` tokens.

        A question is cut at 64 tokens, or at half of `max_length` if that is less.
        """
        max_length = self._room(max_length, pair=True)
        self.backend.no_truncation()
        most = min(64, max_length // 2)
        asked = self._encode(list(questions), add_special_tokens=False)
        # Cut by character, so that the question's own tokens stay the same.
        cut = [
            text if len(tokens) <= most else text[: tokens.offsets[most - 1][1]]
            for text, tokens in zip(questions, asked, strict=True)
        ]
        longest = max((min(len(tokens), most) for tokens in asked), default=0)
        free = max_length - longest - self.backend.num_special_tokens_to_add(True)
        if free < 1:
            raise DataError(f"max_length {max_length} leaves no room for a context beside its question; raise it.")
        self.backend.enable_truncation(max_length, stride=min(overlap, free // 2), strategy="only_second")
        all_windows, question, spans = [], [], []
        for number, first in enumerate(self._encode(list(zip(cut, contexts, strict=True)))):
            for window in (first, *first.overflowing):
                inside = np.array([sequence == 1 for sequence in window.sequence_ids])
                all_windows.append(window)
                question.append(number)
                spans.append(np.where(inside[:, None], np.array(window.offsets, np.int32).reshape(-1, 2), -1))
        return Windows(_encoded(all_windows), np.array(question, np.int32), spans)

    def _encode(self, texts: Sequence[Any], **options: Any) -> Sequence[Any]:
        try:
            return self.backend.encode_batch(texts, **options)
        except TypeError:  # of the whole batch, without a word on which text
            _check_texts(texts)
            raise

    def _room(self, max_length: int, pair: bool) -> int:
        room = max_length if self.longest is None else min(max_length, self.longest)
        special = self.backend.num_special_tokens_to_add(pair)
        if room <= special:
            raise DataError(f"max_length {room} leaves no room beside {special} special tokens; raise it.")
        return room


def _check_texts(texts: Sequence[Any]) -> None:
    """Raise DataError for the first text that is no string, or that holds half a character."""
    for number, entry in enumerate(texts):
        for text in entry if isinstance(entry, tuple) else (entry,):
            if not isinstance(text, str):
                raise DataError(f"text {number} is of type {type(text).__name__}, expected str; convert or drop it.")
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise DataError(
                    f"text {number} has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start}: "
                    "half of a character that was cut in two; correct or drop the text."
                ) from error


def _encoded(encodings: Sequence[Any]) -> Encoded:
    return Encoded(
        [np.array(encoding.ids, np.int32) for encoding in encodings],
        [np.array(encoding.type_ids, np.int32) for encoding in encodings],
    )


def _read(folder: Path) -> Any:
    """The `tokenizers.Tokenizer` of a folder, without the truncation and padding its file may ask for."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder, so it has no tokenizer; give a checkpoint's folder.")
    file = folder / "tokenizer.json"
    if file.is_file():
        from tokenizers import Tokenizer as Fast

        try:
            backend = Fast.from_file(str(file))
        except Exception as error:  # the package raises bare Exceptions
            raise CheckpointError(f"{file} is not a tokenizer: {_line(error)}; copy it anew.") from error
    else:
        backend = _through_transformers(folder)
    backend.no_truncation()
    backend.no_padding()
    return backend


def _through_transformers(folder: Path) -> Any:
    """A fast tokenizer made from older files, such as vocab.txt alone. Imports transformers: seconds."""
    found = [name for name in VOCABULARIES if (folder / name).is_file()]
    if not found:
        raise CheckpointError(
            f"{folder} has no tokenizer files; put the checkpoint's tokenizer.json there (or its vocab.txt)."
        )
    import transformers

    # Our folders have no config.json, and old checkpoints no tokenizer_config.json: then the files say which class.
    named = _names_class(folder / "tokenizer_config.json", "tokenizer_class")
    named = named or _names_class(folder / "config.json", "model_type")
    loader = transformers.AutoTokenizer if named else getattr(transformers, VOCABULARIES[found[0]])
    try:
        tokenizer = loader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(
            f"the tokenizer files in {folder} do not load: {_line(error)}; put the checkpoint's tokenizer.json there."
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            f"{folder} has only a slow tokenizer ({type(tokenizer).__name__}); put its tokenizer.json there."
        )
    return backend


def _names_class(file: Path, key: str) -> bool:
    try:
        return bool(json.loads(file.read_text(encoding="utf-8")).get(key))
    except (OSError, ValueError, AttributeError):
        return False


def _line(error: Exception) -> str:
    """The first line of an error's text: our messages are one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")

"""Texts to token ids, with the tokenizer files that lie beside a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.notes import tokenizer_of
from ..checkpoint.tokenizer_files import TokenizerRead, read_tokenizer
from ..errors import DataError
from ..model import Model
from ..model.embedding import Embedding
from ..tasks.example import Example
from .encoded import Encoded, Windows
from .reading_doubts import pair_doubts, tokenizer_doubts, type_doubts
from .text_doubts import equal_pairs
from .unknown import count_unknown
from .word_places import word_tokens, words_in

# A letter of Linear A, which no vocabulary that we know has: what it becomes is what unknown words become.
RARE, UNKNOWN = "\U00010600", ("[UNK]", "<unk>")  # and how that is called where a tokenizer's files do not name it
UNLIMITED = 10**9  # transformers writes 10**30 where a tokenizer says nothing of how long texts may be


@dataclass(frozen=True)
class Tokenizer:
    """A fast tokenizer, as transformers reads a checkpoint's files, and what its model can take (None: not known)."""

    read: TokenizerRead
    longest: int | None = None  # tokens of a text
    rows: int | None = None  # of the embedding: ids from there on are an error where a text has them
    types: int | None = None  # that its embedding tells apart
    first: int = 0  # the number of the first text, in errors: of texts that come in parts
    usual: int | None = None  # tokens that are read of a text where nobody asks for a number
    prompt: str = ""  # what is written before every text
    prompt_pooled: bool = True  # whether its tokens are part of a text's vector
    family: str | None = None  # of the model

    @staticmethod
    def of(source: Model | str | Path) -> "Tokenizer":
        """The tokenizer in a folder; or of a model: the one that was handed in, or else in the folder it was read from.

        Handed in (`tokenizer=`) is a folder, a `Tokenizer`, or a fast tokenizer of the packages tokenizers or
        transformers, which is copied. Raises CheckpointError where there are no usable tokenizer files.
        """
        if not isinstance(source, Model):
            return Tokenizer(_ready(read_tokenizer(source)))
        if source.architecture.patches is not None:
            raise DataError("these are texts, and the model reads images; give images, or take a model of texts.")
        a, read = source.architecture, _ready(tokenizer_of(source))
        longest = a.max_positions if a.positions != "none" else None
        tokenizer = Tokenizer(read, longest, a.vocab, a.token_types, family=a.family)
        return tokenizer if a.embedding is None else tokenizer._for_vectors(a.embedding)

    def _for_vectors(self, embedding: Embedding) -> "Tokenizer":
        """As sentence-transformers reads texts for a model: their length, small letters, the default prompt."""
        if embedding.lower_case:
            from tokenizers import normalizers

            before = self.backend.normalizer
            lower = normalizers.Lowercase()
            self.backend.normalizer = lower if before is None else normalizers.Sequence([lower, before])
        own = getattr(self.read.own, "model_max_length", None)
        usual = own if embedding.max_tokens is None else embedding.max_tokens
        prompt = dict(embedding.prompts).get(embedding.default_prompt or "", "")
        return replace(
            self,
            usual=None if usual is None or usual > UNLIMITED else usual,
            prompt=prompt,
            prompt_pooled=embedding.include_prompt,
        )

    @property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer`."""
        return self.read.backend

    def doubts(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """What may surprise in how these texts are read."""
        said = tokenizer_doubts(self.read, self.rows) + type_doubts(self.read, self.family)
        if any(example.pair is not None for example in examples):
            said += (*pair_doubts(self.read, self.types), *equal_pairs(examples, "pairs"))
        return said

    def encode(self, examples: Sequence[Example], max_length: int, strict: bool = False) -> Encoded:
        """Token ids and types of every example; a text longer than `max_length` tokens loses its end, and is counted.

        Where the tokenizer's `truncation_side` is left it loses its beginning. Of a pair, the longer text is cut first.
        `max_length` is lowered to what the model can read; with `strict` that is an error. Raises DataError that names
        the number of a text that is none, or that has a token which the model's embedding lacks.
        """
        return self._read_all(examples, max_length, strict)[0]

    def encode_words(
        self, examples: Sequence[Example], words: Sequence[Sequence[str]], max_length: int, strict: bool = False
    ) -> tuple[Encoded, list[np.ndarray]]:
        """`encode`, and for every text the number of the token that begins each of its words; -1: there is none.

        A text is its `words` with a space between them; the tokenizer may drop some, and the end may be cut off.
        """
        encoded, encodings = self._read_all(examples, max_length, strict)
        return encoded, [word_tokens(*pair) for pair in zip(words, encodings, strict=True)]

    def encode_places(
        self,
        examples: Sequence[Example],
        words: Sequence[Sequence[str] | None],
        max_length: int,
        strict: bool = False,
    ) -> tuple[Encoded, list[np.ndarray]]:
        """`encode`, and for every text its words, [words, 3]: the first token (-1: none), first character, one past.

        Words are those of `words`, of which the text is made with a space between them; or where that is None, what the
        tokenizer takes for words and what spaces divide: "here" and "." of "here.", as far as the text is read.
        """
        encoded, encodings = self._read_all(examples, max_length, strict)
        places = []
        for example, given, encoding in zip(examples, words, encodings, strict=True):
            if given is None:
                places.append(words_in(example.text, encoding))
                continue
            ends = np.cumsum([len(word) + 1 for word in given]) - 1
            starts = ends - [len(word) for word in given]
            places.append(np.stack([word_tokens(given, encoding), starts, ends], axis=1))
        return encoded, places

    def plain(self, text: str) -> np.ndarray:
        """The token ids of a whole text, however long, without special tokens."""
        return self.plain_batch([text])[0]

    def plain_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The same of several pieces of text, by all cores."""
        self.backend.no_truncation()
        encodings = self._encode(texts, numbered=False, add_special_tokens=False)
        return [np.array(entry.ids, np.int32) for entry in encodings]

    def around(self) -> tuple[np.ndarray, np.ndarray]:
        """The special tokens that are put before a text, and after it."""
        self.backend.no_truncation()
        encoding = self._encode(["a"], numbered=False)[0]
        own = np.flatnonzero(~np.array(encoding.special_tokens_mask, bool))
        ids = np.array(encoding.ids, np.int32)
        return ids[: own[0]], ids[own[-1] + 1 :]

    @property
    def end(self) -> int | None:
        """The token that ends a text; None where none is named."""
        return None if self.read.own is None else self.read.own.eos_token_id

    @property
    def unknown(self) -> tuple[int | None, str]:
        """The token that stands for what is not known, and its name; None: it takes any text apart, to bytes at last.

        Some have such a token and never say it (GPT-2's is the one that ends a text): what they make of a rare letter
        tells.
        """
        own = None if self.read.own is None else self.read.own.unk_token
        made = self.backend.encode(RARE, add_special_tokens=False).ids
        for name in (str(own),) if own else UNKNOWN:
            if (number := self.backend.token_to_id(name)) in made:
                return number, name
        return None, ""

    def located(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The token ids of whole texts, as `plain_batch`, and the first and past the last character of each token."""
        self.backend.no_truncation()
        encodings = self._encode(list(texts), numbered=False, add_special_tokens=False)
        return [(np.array(entry.ids, np.int32), np.array(entry.offsets).reshape(-1, 2)) for entry in encodings]

    def prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of whole texts to continue: with the special tokens put before a text, without those after it."""
        self.backend.no_truncation()
        rows = []
        for encoding in self._encode(list(texts)):
            added = np.array(encoding.special_tokens_mask, bool)
            end = len(added) if added.all() else int(np.flatnonzero(~added)[-1]) + 1
            rows.append(np.array(encoding.ids[:end], np.int32))
        return rows

    def text(self, ids: Any) -> str:
        """The text of token ids, special tokens left out."""
        return self.backend.decode([int(number) for number in ids], skip_special_tokens=True)

    def continuation(self, prompt: Any, new: Any) -> str:
        """What the new tokens add to the text of a prompt: some tokenizers drop the space that begins a text."""
        before, whole = self.text(prompt), self.text([*prompt, *new])
        return whole[len(before) :] if whole.startswith(before) else self.text(new)

    def windows(
        self, questions: Sequence[str], contexts: Sequence[str], max_length: int, overlap: int, strict: bool = False
    ) -> Windows:
        """Every context cut into windows of `max_length` tokens, its question included, that share `overlap` tokens.

        A question is cut at 64 tokens, or at half of `max_length` if that is less. `strict` is that of `encode`.
        """
        max_length = self.room(max_length, True, strict)
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
        self._cut(max_length, stride=min(overlap, free // 2), strategy="only_second")
        all_windows, question, spans = [], [], []
        for number, first in enumerate(self._encode(list(zip(cut, contexts, strict=True)))):
            for window in (first, *first.overflowing):
                inside = np.array([sequence == 1 for sequence in window.sequence_ids])
                all_windows.append(window)
                question.append(number)
                spans.append(np.where(inside[:, None], np.array(window.offsets, np.int32).reshape(-1, 2), -1))
        shortened = sum(len(tokens) > most for tokens in asked)
        read = self._encoded(all_windows, [contexts[int(number)] for number in question], True)
        return Windows(read, np.array(question, np.int32), spans, shortened, most)

    def _read_all(self, examples: Sequence[Example], max_length: int, strict: bool) -> tuple[Encoded, Sequence[Any]]:
        """What `encode` gives, and the encodings it was made of."""
        given = next((number for number, example in enumerate(examples) if example.tokens is not None), None)
        if given is not None:
            raise DataError(
                f"text {given} is token ids already, and training reads texts; give the texts, or score and prune only."
            )
        paired = any(example.pair is not None for example in examples)
        room = self.room(max_length, paired, strict)
        self._cut(room, strategy="longest_first")
        texts = [self.prompt + example.text if self.prompt else example.text for example in examples]
        inputs = [
            text if example.pair is None else (text, example.pair)
            for text, example in zip(texts, examples, strict=True)
        ]
        encodings = self._encode(inputs)
        cut = sum(bool(encoding.overflowing) for encoding in encodings)
        read = self._encoded(encodings, texts, paired)
        return replace(read, cut=cut, longest=room, unpooled=self._unpooled()), encodings

    def _unpooled(self) -> int:
        """Tokens of a text up to the end of its prompt, where these are no part of its vector."""
        if not self.prompt or self.prompt_pooled:
            return 0
        self.backend.no_truncation()
        encoding = self._encode([self.prompt], numbered=False)[0]
        return len(encoding.ids) - (encoding.special_tokens_mask[-1] if encoding.ids else 0)

    def _cut(self, max_length: int, **options: Any) -> None:
        """Have texts cut from now on, at the side that the tokenizer's settings name."""
        self.backend.enable_truncation(max_length, direction="left" if self.read.cut_left else "right", **options)

    def _encode(self, texts: Sequence[Any], numbered: bool = True, **options: Any) -> Sequence[Any]:
        try:
            encodings = self.backend.encode_batch(texts, **options)
        except TypeError:  # of the whole batch, without a word on which text
            check_each_text(texts, self.first)
            raise
        for number, encoding in enumerate(encodings):
            if self.rows is not None and max(encoding.ids, default=0) >= self.rows:
                token = max(encoding.ids)
                name = f"text {self.first + number}" if numbered else "the text"
                raise DataError(
                    f"{name} has the token {self.backend.id_to_token(token)!r}, id {token}, and the model's "
                    f"embedding has {self.rows} rows; drop the token, or use the tokenizer files of this checkpoint."
                )
        return encodings

    def _encoded(self, encodings: Sequence[Any], texts: Sequence[str], paired: bool) -> Encoded:
        """`texts` are those that examples of unknown words are taken from."""
        types = [encoding.type_ids if self.read.types else [0] * len(encoding.ids) for encoding in encodings]
        ids = [np.array(encoding.ids, np.int32) for encoding in encodings]
        special = self.backend.num_special_tokens_to_add(paired)
        unknown = count_unknown(((row, special, text) for row, text in zip(ids, texts, strict=True)), *self.unknown)
        return Encoded(ids, [np.array(entry, np.int32) for entry in types], unknown=unknown)

    def room(self, max_length: int, pair: bool, strict: bool) -> int:
        """The most tokens of a text or pair: `max_length`, or what the model reads if that is less; without `strict`
        also what it reads of texts as a rule.

        Raises `DataError` where it is less and `strict`, and where special tokens alone would fill it.
        """
        if strict and self.longest is not None and max_length > self.longest:
            raise DataError(
                f"texts of {max_length} tokens do not fit the model's {self.longest} positions; ask for shorter ones."
            )
        limits = [self.longest, None if strict else self.usual]
        room = min([max_length, *(limit for limit in limits if limit is not None)])
        special = self.backend.num_special_tokens_to_add(pair)
        if room <= special:
            raise DataError(f"max_length {room} leaves no room beside {special} special tokens; raise it.")
        return room


def check_each_text(texts: Sequence[Any], first: int = 0) -> None:
    """Raise DataError for the first text that is no string, or that holds half a character."""
    for number, entry in enumerate(texts, start=first):
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


def _ready(read: TokenizerRead) -> TokenizerRead:
    """Without the truncation and padding that its file may ask for: it would cut and pad on its own."""
    read.backend.no_truncation()
    read.backend.no_padding()
    return read

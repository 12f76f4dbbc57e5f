"""Requests of lm-evaluation-harness to token ids, as its own class for models of transformers (HFLM) makes them.

Numbers of two models compare only where texts become the same tokens. So this follows that class where one would do it
otherwise: a text that its tokenizer begins with a BOS token is scored with a second one before it (`windows`), and a
continuation is what is left of the whole text's tokens beyond as many as the context alone has (`pair`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..checkpoint.notes import loaded, whole_tokenizer
from ..errors import DataError, SettingsError
from ..model import Model
from .tokenizer import Tokenizer, check_each_text
from .unknown import Unknown, count_unknown


class Continuation(NamedTuple):
    """Tokens that a model reads, and those that it is to say after the last of them: one a token read, or fewer."""

    read: np.ndarray
    said: np.ndarray
    lost: int = 0  # tokens at the beginning of the context that there was no room for


@dataclass(frozen=True)
class RequestReader:
    """A tokenizer, and how requests are read with it."""

    tokenizer: Any  # transformers' own object
    longest: int  # tokens that a model reads at once
    rows: int  # of its embedding
    add_bos_token: bool | None = None  # whether special tokens are put around a text; None: as the tokenizer does it
    prefix_id: int | None = None  # read before a text that has no context; None: the BOS token, else the EOS token
    chat_template_args: Mapping[str, Any] | None = None

    @staticmethod
    def of(model: Model, longest: int, add_bos_token: bool | None = None, **options: Any) -> "RequestReader":
        """Of a model's tokenizer (`Tokenizer.of`); `options` are fields. Raises `SettingsError`, `CheckpointError`."""
        changes = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
        tokenizer = whole_tokenizer(model, **changes)
        reader = RequestReader(tokenizer, longest, model.architecture.vocab, add_bos_token, **options)
        prefix = reader.prefix_token_id
        if prefix is not None and not 0 <= prefix < reader.rows:
            raise SettingsError(
                f"the prefix token has id {prefix}, the model's embedding has {reader.rows} rows; pass another "
                "prefix_token_id."
            )
        return reader

    @property
    def prefix_token_id(self) -> int | None:
        """What is read before a text without a context; None: the tokenizer has no such token."""
        if self.prefix_id is not None:
            return self.prefix_id
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos

    @property
    def end_text(self) -> str:
        """The tokenizer's EOS token as a text holds it; empty where there is none."""
        return self.tokenizer.eos_token or ""

    def doubts(self) -> tuple[str, ...]:
        """What may surprise in how texts are read."""
        return self._plain.doubts(())

    def unknown(self, rows: Iterable[np.ndarray]) -> Unknown:
        """How much of these rows of tokens stands for what the tokenizer does not know."""
        number, name = self._plain.unknown
        if number is None:  # there are many rows, and most tokenizers know all
            return Unknown()
        begins = lambda row: self.text(row[:20].tolist(), special=True) if np.any(row == number) else ""  # noqa: E731
        return count_unknown(((row, 0, begins(row)) for row in rows), number, name)

    @cached_property
    def _plain(self) -> Tokenizer:
        return Tokenizer(loaded(self.tokenizer), self.longest, self.rows)

    def encode(self, texts: Sequence[str], special: bool | None = None, begins: str | None = None) -> list[list[int]]:
        """Token ids of texts; with special tokens, without, or (None) as `add_bos_token` says.

        In the last case a text that `begins` with its BOS token gets none.
        """
        check_each_text(texts)
        out: list[list[int]] = [[] for _ in texts]
        own = special is None and begins is not None
        kinds = [own and text.startswith(str(begins)) for text in texts]
        for bare in (False, True):
            places = [place for place, kind in enumerate(kinds) if kind == bare]
            added = False if bare else self.add_bos_token if special is None else special
            options = {} if added is None else {"add_special_tokens": added}
            if places:
                encoded = self.tokenizer(
                    [texts[place] for place in places], return_attention_mask=False, verbose=False, **options
                )
                for place, ids in zip(places, encoded["input_ids"], strict=True):
                    out[place] = ids
        return out

    def continuations(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """What is to be read and said for every (context, continuation).

        A context's trailing spaces go to its continuation; in place of an empty one stands the prefix token. What is
        too long loses its beginning. Raises `DataError` that names the request for a continuation without tokens or
        longer than the model reads, and for tokens that the model has not.
        """
        for number, (context, continuation) in enumerate(pairs):
            if not continuation:
                raise DataError(f"request {number} has an empty continuation after {context[-40:]!r}; drop it.")
        moved = [_spaces_moved(*pair) for pair in pairs]
        texts = dict.fromkeys(
            text
            for (context, _), (kept, said) in zip(pairs, moved, strict=True)
            if context
            for text in (kept, kept + said)
        )
        known = dict(zip(texts, self.encode(list(texts), begins=self._prefix_text()), strict=True))
        alone = dict.fromkeys(continuation for context, continuation in pairs if not context)
        bare = dict(zip(alone, self.encode(list(alone), special=False), strict=True))
        out = []
        for number, (pair, (kept, said)) in enumerate(zip(pairs, moved, strict=True)):
            if pair[0]:
                before = known[kept]
                after = known[kept + said][len(before) :]
            else:
                before, after = self._after_prefix(number, bare[said])
            out.append(self._fitted(number, pair, before, after))
        return out

    def windows(self, number: int, text: str, ids: Sequence[int]) -> Iterator[Continuation]:
        """The whole of a text's tokens, each said once, in windows as long as the model reads.

        The first begins with the prefix token; the others end where their last token does and take what comes before
        their own as context, as much as there is room for.
        """
        self._check(number, text, ids)
        for first in range(0, len(ids), self.longest):
            last = min(first + self.longest, len(ids))
            read = ids[last - self.longest - 1 : last - 1] if first else [self._needed_prefix(number), *ids[: last - 1]]
            yield Continuation(np.array(read, np.int32), np.array(ids[first:last], np.int32))

    def rolling(self, texts: Sequence[str]) -> list[list[Continuation]]:
        """The windows of every text; none for an empty one."""
        encoded = self.encode(texts, begins=self._prefix_text())
        return [
            list(self.windows(number, text, ids)) for number, (text, ids) in enumerate(zip(texts, encoded, strict=True))
        ]

    def prompts(
        self, texts: Sequence[str], new: int, numbers: Sequence[int] | None = None
    ) -> list[tuple[np.ndarray, int]]:
        """Token ids of texts to continue by up to `new` tokens, and how many at their beginning had no room.

        `numbers` are those of the requests, for errors; None: they are in order.
        """
        room = self.longest - new
        if room < 1:
            raise DataError(
                f"{new} new tokens leave no room for a prompt among the {self.longest} that the model reads; lower "
                "max_gen_toks in the task's generation_kwargs."
            )
        encoded, out = self.encode(texts, begins=self.tokenizer.bos_token), []
        for number, text, ids in zip(numbers or range(len(texts)), texts, encoded, strict=True):
            if not ids:
                raise DataError(f"request {number} has an empty prompt; drop it, or pass add_bos_token=True.")
            self._check(number, text, ids)
            out.append((np.array(ids[-room:], np.int32), max(0, len(ids) - room)))
        return out

    def text(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of token ids, with its special tokens if asked."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=not special)

    def chat(self, history: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> tuple[str, tuple[str, ...]]:
        """Messages as the tokenizer's chat template writes them, and doubts: the system's go where it takes none."""
        if self.tokenizer.chat_template is None and "chat_template" not in (self.chat_template_args or {}):
            raise DataError(
                "the tokenizer has no chat template; leave apply_chat_template out, or pass the template: "
                "chat_template_args={'chat_template': …}."
            )
        try:
            return self._chat(history, add_generation_prompt), ()
        except Exception as error:
            if type(error).__module__.split(".")[0] != "jinja2":  # which comes with transformers' templates
                raise
            without = [message for message in history if message["role"] != "system"]
            if len(without) == len(history):
                raise DataError(f"the chat template fails: {str(error)[:200]}; look at the messages' roles.") from error
            doubt = 'the chat template takes no system messages, and they are left out, as the package\'s "hf" does it.'
            return self._chat(without, add_generation_prompt), (doubt,)

    def _chat(self, history: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            list(history),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **(self.chat_template_args or {}),
        )

    def _prefix_text(self) -> str | None:
        prefix = self.prefix_token_id
        return None if prefix is None else self.tokenizer.decode(prefix)

    def _needed_prefix(self, number: int) -> int:
        prefix = self.prefix_token_id
        if prefix is None:
            raise DataError(
                f"request {number} has no context, and the tokenizer neither a BOS nor an EOS token to put before it; "
                "pass prefix_token_id."
            )
        return prefix

    def _after_prefix(self, number: int, ids: list[int]) -> tuple[list[int], list[int]]:
        prefix = self._needed_prefix(number)
        return (ids[:1], ids[1:]) if ids and ids[0] == prefix else ([prefix], ids)

    def _fitted(self, number: int, pair: tuple[str, str], before: list[int], after: list[int]) -> Continuation:
        """What of a context and a continuation fits the model. The last token is said, and not read."""
        if not before or not after:
            what = "context: it is of spaces, which belong to the continuation"
            if before:
                what = "continuation: the whole text has no more of them than its context alone"
            raise DataError(
                f"request {number} ({pair[0][-40:]!r}, {pair[1][:40]!r}) has no tokens for its {what}; change the text."
            )
        if len(after) > self.longest:
            raise DataError(
                f"request {number} has a continuation of {len(after)} tokens, the model reads {self.longest} at once; "
                "shorten it, or raise max_length where the model has positions for it."
            )
        whole = before + after
        self._check(number, "".join(pair), whole)
        return Continuation(
            np.array(whole[-(self.longest + 1) :][:-1], np.int32),
            np.array(after, np.int32),
            max(0, len(whole) - self.longest - 1),
        )

    def _check(self, number: int, text: str, ids: Sequence[int]) -> None:
        """Raise `DataError` for a token that the model has no row for."""
        highest = max(ids, default=0)
        if highest >= self.rows:
            raise DataError(
                f"request {number} ({text[:40]!r}) has the token {self.tokenizer.convert_ids_to_tokens(highest)!r}, id "
                f"{highest}, and the model's embedding has {self.rows} rows; use this checkpoint's tokenizer."
            )


def _spaces_moved(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation

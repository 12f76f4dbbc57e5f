"""Conversations, and prompts with completions, as token ids, and which of these are learnt.

A prompt is read as it is when a model is asked to continue it: with the special tokens that the tokenizer puts before a
text. Its completion follows as in the whole text; where a token of the whole text would begin in the prompt and end in
the completion, both are read apart, as generation would have it. The end token comes after, and is learnt (as in TRL).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from ..errors import DataError
from ..tasks.conversation import SPEAKER
from ..tasks.example import Conversation, Example
from .chat_template import ChatTemplate
from .tokenizer import Tokenizer
from .unknown import Unknown, count_unknown

TOGETHER = 256  # conversations that are tokenised at a time

Learnt = tuple[np.ndarray, np.ndarray]  # token ids, and 1 at those that are learnt


@dataclass
class Reading:
    """What was met while conversations were read: counts, for warnings."""

    longest: int  # tokens of a conversation
    end_ids: tuple[int, ...] = ()  # tokens at which the model stops, where that is known
    endings: Counter[int] = field(default_factory=Counter)  # last learnt tokens of conversations that were not cut
    read: int = 0
    cut: int = 0
    dropped: int = 0  # cut so short that nothing was left to learn
    apart: int = 0  # prompts that end within a token
    endless: int = 0  # completions without an end token
    begun: int = 0  # prompts that had the special tokens of a beginning already
    unknown: Unknown = Unknown()  # what the tokenizer does not know of those that are read
    template: ChatTemplate | None = None  # where there are messages
    special: dict[str, str] = field(default_factory=dict)  # special tokens in what is said -> where first

    def warnings(self, what: str) -> tuple[str, ...]:
        """In words; `what` the conversations are called."""
        said = () if self.template is None else self.template.doubts() + self._unheard_end(self.template)
        if self.cut:
            said += (f"{self.cut} of {self.read} {what} were cut to {self.longest} tokens; allow more.",)
        if self.dropped:
            said += (
                f"{self.dropped} of {self.read} {what} were dropped: in {self.longest} tokens nothing is left of what "
                "is learnt; allow more.",
            )
        if self.apart:
            said += (
                f"{self.apart} of {self.read} {what} have a prompt that ends within a token (a blank at its end?): "
                "prompt and completion are read apart, as generation has it.",
            )
        if self.begun:
            said += (
                f"{self.begun} of {self.read} {what} begin with the tokenizer's own first token: it is not added.",
            )
        if self.endless:
            said += (
                "the tokenizer names no end token (eos_token in tokenizer_config.json): completions are learnt without "
                "one, so that nothing teaches where to stop.",
            )
        if self.special:
            token, where = next(iter(self.special.items()))
            said += (
                f"what is said has special tokens in it, such as {token} in {where}: they are read as such, as "
                "transformers reads them; if a template was applied already, write the messages themselves.",
            )
        return said + self.unknown.doubts(what)

    def _unheard_end(self, template: ChatTemplate) -> tuple[str, ...]:
        """A doubt where what the assistant says ends with a token at which the model does not stop."""
        if not self.end_ids or not self.endings or self.endings.keys() & set(self.end_ids):
            return ()
        name = template.tokenizer.backend.id_to_token(self.endings.most_common(1)[0][0])
        return (
            f"what the assistant says ends with {name}, at which the model does not stop by its "
            "generation_config.json: pass end_ids when text is generated.",
        )


def read_conversations(
    tokenizer: Tokenizer,
    examples: Iterable[Example],
    max_length: int,
    strict: bool = False,
    end_ids: tuple[int, ...] = (),
) -> tuple[Iterator[Learnt], Reading]:
    """Token ids of every conversation and what of them is learnt, a few at a time; and what was met, once all are read.

    `max_length` tokens are left of each, those of its beginning, or its end where the tokenizer's truncation side is
    left; it is lowered to what the model reads, with `strict` that is an error. `end_ids` are those of the model's
    architecture. Raises `DataError`, naming the line; also where nothing is left to learn in any of them.
    """
    reading = Reading(tokenizer.room(max_length, False, strict), end_ids)
    return _read(tokenizer, iter(examples), reading), reading


def _read(tokenizer: Tokenizer, examples: Iterator[Example], reading: Reading) -> Iterator[Learnt]:
    special, known = _special_tokens(tokenizer), tokenizer.unknown
    while group := [example.chat for example in islice(examples, TOGETHER) if example.chat is not None]:
        if reading.template is None and any(conversation.messages for conversation in group):
            reading.template = ChatTemplate.of(tokenizer)
        for conversation in group:
            if special and (there := special.search(_said(conversation))):
                reading.special.setdefault(there.group(), conversation.where)
        rows: list[Learnt | None] = [None] * len(group)
        with_messages = [number for number, conversation in enumerate(group) if conversation.messages]
        plain = [number for number, conversation in enumerate(group) if not conversation.messages]
        if reading.template is not None and with_messages:
            chosen = [group[number] for number in with_messages]
            for number, row in zip(with_messages, spoken(reading.template, chosen), strict=True):
                rows[number] = row
        if plain:
            for number, row in zip(plain, completed(tokenizer, [group[n] for n in plain], reading), strict=True):
                rows[number] = row
        for row in rows:
            assert row is not None  # every conversation is of one of the two kinds
            reading.read += 1
            kept = cut_row(row, reading.longest, tokenizer.read.cut_left)
            if len(kept[0]) < len(row[0]):
                reading.cut += 1
            else:
                reading.endings[int(row[0][np.flatnonzero(row[1])[-1]])] += 1
            if kept[1][1:].any():  # a first token is not predicted
                reading.unknown += count_unknown([(kept[0], 0, tokenizer.text(kept[0]))], *known)
                yield kept
            else:
                reading.dropped += 1
    if reading.read and reading.dropped == reading.read:
        raise DataError(
            f"nothing that is learnt is left of {reading.read} conversations in {reading.longest} tokens; allow more."
        )


def cut_row(row: Learnt, longest: int, left: bool) -> Learnt:
    """The first `longest` tokens, or the last."""
    part = slice(-longest, None) if left else slice(longest)
    return row[0][part], row[1][part]


def spoken(template: ChatTemplate, conversations: Sequence[Conversation]) -> list[Learnt]:
    """Token ids of conversations in messages, and what the assistant says in them."""
    for conversation in conversations:
        template.check(conversation)
    texts = [template.text(conversation) for conversation in conversations]
    rows = []
    for conversation, text, (ids, places) in zip(conversations, texts, template.tokenizer.located(texts), strict=True):
        if template.marks(conversation):
            ids, mask = template.marked(conversation)
            _check_turns(conversation, mask)
            if not _all_learnt(conversation):
                mask = mask * _within(places, template.spans(conversation, text))
        else:
            mask = _within(places, template.spans(conversation, text))
        if not mask.any():
            raise DataError(f"{conversation.where}: the chat template leaves nothing of what the assistant says.")
        rows.append((ids, mask))
    return rows


def _check_turns(conversation: Conversation, mask: np.ndarray) -> None:
    """Raise `DataError` where transformers' mask has fewer stretches than the assistant has turns.

    It looks for the tokens of a stretch's first and last character. Where no token has the first, it leaves out that
    stretch and all after it; where none has the last, it goes on to the end of the conversation: over other turns of
    the assistant, or over what another says at the end.
    """
    speaks = [message["role"] == SPEAKER for message in conversation.messages]
    turns = sum(now and not before for before, now in zip([False, *speaks], speaks, strict=False))
    stretches = int(np.sum(np.diff(mask.astype(np.int8), prepend=0) == 1))
    if stretches < turns:
        raise DataError(
            f"{conversation.where}: the assistant has {turns} turns, and transformers finds {stretches} of them by the "
            "marks of the chat template; put {% generation %} before a character that is no blank, or take it out."
        )
    if mask[-1] and not speaks[-1]:
        raise DataError(
            f"{conversation.where}: by the marks of the chat template transformers takes what follows the assistant's "
            "last turn for a part of it; put {% endgeneration %} behind a character that is no blank, as the token "
            "that ends a turn, or take the marks out."
        )


def _all_learnt(conversation: Conversation) -> bool:
    """Whether all that the assistant says is learnt."""
    roles = {message["role"] for message, learnt in zip(*conversation[1:3], strict=True) if learnt}
    return all(learnt or message["role"] not in roles for message, learnt in zip(*conversation[1:3], strict=True))


def _within(places: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """1 for every token that has a character in one of the spans."""
    mask = np.zeros(len(places), np.uint8)
    for start, stop in spans:
        mask[(places[:, 0] < stop) & (places[:, 1] > start)] = 1
    return mask


def completed(tokenizer: Tokenizer, pairs: Sequence[Conversation], reading: Reading) -> list[Learnt]:
    """Token ids of prompts and their completions, of which the latter are learnt, with an end token."""
    before, after = tokenizer.around()
    ends = after if len(after) or tokenizer.end is None else np.array([tokenizer.end], np.int32)
    prompts = tokenizer.prompts([pair.prompt for pair in pairs])
    wholes = tokenizer.prompts([pair.prompt + pair.completion for pair in pairs])
    rows = []
    for pair, prompt, whole in zip(pairs, prompts, wholes, strict=True):
        if np.array_equal(whole[: len(prompt)], prompt):
            completion = whole[len(prompt) :]
        else:
            completion = _in_the_middle(tokenizer, pair.completion)
            reading.apart += 1
        if len(before) and np.array_equal(prompt[len(before) : 2 * len(before)], before):
            prompt = prompt[len(before) :]
            reading.begun += 1
        reading.endless += not len(ends)
        if len(ends) and not np.array_equal(completion[-len(ends) :], ends):
            completion = np.concatenate([completion, ends])
        ids = np.concatenate([prompt, completion])
        rows.append((ids, (np.arange(len(ids)) >= len(prompt)).astype(np.uint8)))
    return rows


def _in_the_middle(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Token ids of what is not the beginning of a text, before which some tokenizers would put a blank."""
    line, both = tokenizer.plain_batch(["\n", "\n" + text])
    return both[len(line) :] if np.array_equal(both[: len(line)], line) else tokenizer.plain(text)


def _said(conversation: Conversation) -> str:
    """What messages say; a prompt may well have the tokens of a template."""
    return "\n".join(str(message.get("content") or "") for message in conversation.messages)


def _special_tokens(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """The special tokens that nobody writes by chance."""
    tokens = tokenizer.backend.get_added_tokens_decoder().values()
    names = sorted((token.content for token in tokens if token.special and len(token.content.strip()) > 2), key=len)
    return re.compile("|".join(map(re.escape, names[::-1]))) if names else None

"""A tokenizer's chat template: conversations as texts, and which of their characters the assistant says.

transformers renders the template. Where it marks what is generated (`{% generation %}`), that is what is learnt, by
transformers' own mask. Few do. Without marks it is what the assistant has to say once it is asked: what a rendering of
the messages before, with the generation prompt, has not yet, up to where a rendering that ends with this message ends.
That holds if each of these is the beginning of the whole; a template of which it does not is refused. Blanks that the
template puts behind the token that ends a turn are not learnt: generation stops at that token.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..tasks.conversation import ROLES, SPEAKER
from ..tasks.example import Conversation
from .tokenizer import Tokenizer

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
_REASONING = ("reasoning_content", "thinking", "reasoning")  # the same by three names: transformers fills in the others
_AS_JSON = re.compile(r"arguments\s*\|\s*tojson")
_MARK = "jaxprunemark"  # put behind what is said, to see whether a template writes it
_ELSEWHERE = ("system", "developer", "tool")  # roles that a template may take for the assistant's, as for any other
MARKS = "put {% generation %} and {% endgeneration %} around what the assistant says in the chat template"


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer, as transformers renders it."""

    tokenizer: Tokenizer
    tokens: tuple[str, ...]  # that the tokenizer has beside its words: one of them may end a turn

    @staticmethod
    def of(tokenizer: Tokenizer) -> "ChatTemplate":
        """Raises `DataError` where the tokenizer has none."""
        if tokenizer.read.own is None or not tokenizer.read.own.chat_template:
            raise DataError(
                "the tokenizer has no chat template, which makes a text of messages; use the tokenizer of a chat model "
                "(chat_template.jinja, or chat_template in tokenizer_config.json), or write prompt and completion."
            )
        added = tokenizer.backend.get_added_tokens_decoder().values()
        return ChatTemplate(tokenizer, tuple(token.content for token in added if token.content.strip()))

    @property
    def _own(self) -> Any:
        return self.tokenizer.read.own

    def source(self, tools: Sequence[Any] = ()) -> str:
        """The template itself: the one that is for tools, where there are several. Raises `DataError` for none."""
        try:
            return self._own.get_chat_template(None, list(tools) or None)
        except ValueError as error:  # of several none is called default
            raise DataError(
                f"the tokenizer has the chat templates {', '.join(sorted(self._own.chat_template))}, none of them "
                'called "default", which is read; give one that name.'
            ) from error

    def doubts(self) -> tuple[str, ...]:
        """What may surprise in how conversations are read."""
        template, said = self.source(), ()
        before, _ = self.tokenizer.around()
        starts = [self.tokenizer.backend.id_to_token(int(number)) for number in before]
        if starts and "bos_token" not in template and not any(token in template for token in starts):
            said += (
                f"the chat template does not begin with {''.join(starts)}, which the tokenizer puts before every other "
                "text: conversations are read without, as transformers reads them.",
            )
        if "strftime_now" in template:
            said += (
                "the chat template writes the date of today into conversations: they are other tokens on another day, "
                "when a run that was interrupted does not go on.",
            )
        return said

    def check(self, conversation: Conversation) -> None:
        """Raise `DataError` for what the template would leave out or misread, without a word."""
        where, template = conversation.where, self.source(conversation.tools)
        if conversation.tools and "tools" not in template:
            raise DataError(f"{where}: there are tools, and the chat template does not read any; drop them.")
        for number, message in enumerate(conversation.messages, start=1):
            role = message["role"]
            if role not in ROLES and not _names(template, role):
                raise DataError(
                    f'{where}: message {number} has the role "{role}", which the chat template does not know; write '
                    f"one of {', '.join(sorted(ROLES))}."
                )
            for name in ("tool_calls", *_REASONING):
                read = any(other in template for other in _REASONING) if name in _REASONING else name in template
                if message.get(name) and not read:
                    raise DataError(
                        f"{where}: message {number} has {name}, which the chat template leaves out; write it into the "
                        "content, or use a template that has it."
                    )
            calls = message.get("tool_calls")
            if _AS_JSON.search(template) and "arguments is string" not in template and _has_text_arguments(calls):
                raise DataError(
                    f"{where}: the arguments of a tool call in message {number} are a text, which the chat template "
                    "would write as JSON once more; write them as an object."
                )

    def text(self, conversation: Conversation) -> str:
        """The whole conversation. Raises `DataError` where the template refuses it, leaves something out, or writes
        what others say as the assistant's.
        """
        text = self._rendered(conversation, conversation.messages)
        self._check_speakers(conversation, text)
        unwritten = self._unwritten(conversation)
        for number, message in enumerate(conversation.messages, start=1):
            content = str(message.get("content") or "").strip()
            # Templates write what a tool said as JSON, and drop what was thought before an earlier answer.
            there = message["role"] == "tool" or "</think>" in content or content in text
            if number in unwritten or not there:
                raise DataError(
                    f"{conversation.where}: the chat template leaves out message {number} ({message['role']}), or "
                    "alters it; drop it, or use a template that has it."
                )
        return text

    def _check_speakers(self, conversation: Conversation, text: str) -> None:
        """Raise `DataError` for a role that the template does not name, and writes as it writes the assistant's."""
        template, messages = self.source(conversation.tools), conversation.messages
        for number, message in enumerate(messages, start=1):
            role = message["role"]
            if role not in _ELSEWHERE or _names(template, role):
                continue
            said_by = {other: [*messages[: number - 1], {**message, "role": other}, *messages[number:]]
                       for other in (SPEAKER, "user")}  # fmt: skip
            written = {other: self._accepted(conversation, entries) for other, entries in said_by.items()}
            if written[SPEAKER] == text != written["user"]:
                raise DataError(
                    f"{conversation.where}: message {number} has the role {role}, which the chat template does not "
                    "know and writes as what the assistant says; give it another role, or drop it."
                )

    def _accepted(self, conversation: Conversation, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """Messages as the template writes them; None where it refuses them."""
        try:
            return self._rendered(conversation, messages)
        except DataError:
            return None

    def _unwritten(self, conversation: Conversation) -> set[int]:
        """Numbers of messages that are written in no form: of a mark behind the content nothing is seen.

        JSON escapes nothing in a mark, which is letters and digits, so that it shows whatever else becomes of a text.
        Where a template refuses the marks, as one that knows a few answers, those behind what tools say count alone.
        """
        marks = {
            number: f"{_MARK}{number}end"
            for number, message in enumerate(conversation.messages, start=1)
            if str(message.get("content") or "").strip()
        }
        text = self._accepted(conversation, _with_marks(conversation, marks))
        if text is None:
            tools = {number for number in marks if conversation.messages[number - 1]["role"] == "tool"}
            marks = {number: marks[number] for number in tools}
            text = self._rendered(conversation, _with_marks(conversation, marks))
        return {number for number, mark in marks.items() if mark not in text}

    def marks(self, conversation: Conversation) -> bool:
        """Whether the template says itself what is generated."""
        return _MARKED.search(self.source(conversation.tools)) is not None

    def marked(self, conversation: Conversation) -> tuple[np.ndarray, np.ndarray]:
        """Token ids, and 1 where transformers says that the assistant generates: of a template that `marks`."""
        out = self._rendered(
            conversation,
            conversation.messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        return np.array(out["input_ids"], np.int32), np.array(out["assistant_masks"], np.uint8)

    def spans(self, conversation: Conversation, whole: str) -> list[tuple[int, int]]:
        """First character, and past the last, of what is learnt in the `whole` text, from renderings of its parts."""
        messages, spans = conversation.messages, []
        for number in np.flatnonzero(conversation.learnt).tolist():
            if not number:
                raise DataError(
                    f"{conversation.where}: the assistant speaks first, and what it says cannot be told from what the "
                    f"chat template adds; begin with another message, or {MARKS}."
                )
            asked = self._rendered(conversation, messages[:number], add_generation_prompt=True)
            told = whole if number + 1 == len(messages) else self._rendered(conversation, messages[: number + 1])
            if not whole.startswith(told):
                raise DataError(
                    f"{conversation.where}: the chat template writes the messages up to number {number + 1} otherwise "
                    f"than in the whole conversation, so that what the assistant says in it cannot be told; {MARKS}."
                )
            if not told.startswith(asked):
                raise DataError(
                    f"{conversation.where}: the chat template asks for an answer otherwise than it writes message "
                    f"{number + 1}, so that what the assistant says in it cannot be told; {MARKS}."
                )
            spans.append((len(asked), self._without_blanks(whole, len(asked), len(told))))
        return spans

    def _without_blanks(self, text: str, start: int, stop: int) -> int:
        """Where a turn stops, without the blanks that follow the token that ends it."""
        bare = len(text[start:stop].rstrip()) + start
        return bare if text[start:bare].endswith(self.tokens) else stop

    def _rendered(self, conversation: Conversation, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        tools = list(conversation.tools) or None
        try:
            return self._own.apply_chat_template([*messages], tools=tools, **({"tokenize": False} | options))
        except Exception as error:  # whatever a template raises, and what Jinja does with its mistakes
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            if any(
                kind.__name__ == "TemplateSyntaxError" for kind in type(error).__mro__
            ):  # Jinja's: no line is at fault
                raise DataError(
                    f"the tokenizer's chat template is no template of Jinja: {reason}; correct chat_template.jinja, or "
                    "chat_template in tokenizer_config.json."
                ) from error
            raise DataError(
                f"{conversation.where}: the chat template refuses the conversation: {reason}; change it, or drop the "
                "line."
            ) from error


def _with_marks(conversation: Conversation, marks: Mapping[int, str]) -> list[Mapping[str, Any]]:
    """The messages, those of these numbers with a mark behind their content."""
    return [
        {**message, "content": message["content"] + marks[number]} if number in marks else message
        for number, message in enumerate(conversation.messages, start=1)
    ]


def _names(template: str, role: str) -> bool:
    """Whether a template asks for that role by name."""
    return re.search(rf"""['"]{re.escape(role)}['"]""", template) is not None


def _has_text_arguments(calls: Any) -> bool:
    """Whether a tool call has its arguments as a text, as OpenAI's files have them."""
    functions = [call.get("function", call) for call in calls or () if isinstance(call, dict)]
    return any(isinstance(function.get("arguments"), str) for function in functions if isinstance(function, dict))

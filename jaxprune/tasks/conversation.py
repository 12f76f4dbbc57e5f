"""One line of a chat file: messages, or a prompt and its completion; what cannot be meant is refused with its line."""

import json
from collections.abc import Mapping
from typing import Any

from .example import Conversation, Example
from .jsonl import Row, shown

SPEAKER = "assistant"  # whose words are learnt
# Roles that chat templates know by these names; a template's own beside them are checked once there is one.
ROLES = frozenset(("system", "developer", "user", SPEAKER, "tool"))
_FORMS = 'write "messages" (a list of role and content), or "prompt" and "completion"'
# What a message may lack its content for.
_INSTEAD = ("tool_calls", "reasoning_content", "thinking", "reasoning")
# What else a row or a message may hold that says what the conversation is, and where it belongs. Nothing else is
# spoken of: rows have numbers and sources of their own.
_SYSTEM = 'make it the first message, with the role "system"'
_PICTURES = dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), "drop the line: only text is read")
_UNREAD_OF_ROWS = _PICTURES | {
    "system": _SYSTEM,
    "system_prompt": _SYSTEM,
    "functions": 'call it "tools"',
    "documents": "write them into a message",
    "chat_template_kwargs": "put what it sets into the chat template, or drop it",
}
_UNREAD_OF_MESSAGES = _PICTURES | {"function_call": 'write it as "tool_calls"'}
# What elsewhere says that a message is not to be learnt. OpenAI's files have "weight", which is read.
_OTHER_WEIGHTS = ("train", "training", "training_detail", "trainable", "loss", "loss_weight", "masked")


def example_of(row: Row) -> Example:
    """The conversation in a row of a chat file. Raises DataError, naming the line, for what could be misread."""
    values = {name: value for name, value in row.values.items() if value is not None}
    _check_nothing_else(row, values)
    if "messages" in values and "completion" in values:
        raise row.fail('both "messages" and "completion" are there; keep one of the two ways.')
    if not values.keys() & {"messages", "prompt", "completion"}:
        hint = " ShareGPT's conversations of from and value:" if "conversations" in values else ""
        raise row.fail(f"no conversation that is read (found: {', '.join(row.values) or 'nothing'});{hint} {_FORMS}.")
    if "messages" in values:
        return _spoken(row, values["messages"], values.get("tools"), learnt_from=0)
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return _spoken(row, [*prompt, *completion], values.get("tools"), learnt_from=len(prompt))
    if isinstance(prompt, list) or isinstance(completion, list):
        raise row.fail("one of prompt and completion is a list of messages, the other is not; write both alike.")
    if "tools" in values:
        raise row.fail("tools belong to messages, and prompt and completion are plain text; drop them.")
    return _example(Conversation(row.where, prompt=row.text("prompt"), completion=row.text("completion")))


def _check_nothing_else(row: Row, values: Mapping[str, Any]) -> None:
    """Raise DataError for what a line says of its conversation beside the words, and is not read."""
    for name, cure in _UNREAD_OF_ROWS.items():
        if values.get(name):
            raise row.fail(f'"{name}" is not read; {cure}.')
    if values.get("label") is False:
        raise row.fail('"label" is false, as of answers not to be given, and every answer is learnt; drop the line.')
    if values.get("weight", 1) != 1:
        raise row.fail(f'"weight" of a whole line ({shown(values["weight"])}) is not read; give it to its messages.')


def _example(conversation: Conversation) -> Example:
    return Example("", None, None, chat=conversation)


def _spoken(row: Row, messages: Any, tools: Any, learnt_from: int) -> Example:
    """A conversation in messages, of which those of the assistant from number `learnt_from` on are learnt."""
    if not isinstance(messages, list) or not messages:
        raise row.fail(f"messages must be a list of role and content, got {shown(messages)}.")
    kept = tuple(_message(row, number, message) for number, message in enumerate(messages, start=1))
    learnt = tuple(
        number >= learnt_from and message["role"] == SPEAKER and _weight(row, number, message)
        for number, message in enumerate(kept)
    )
    if not any(learnt):
        told = (
            "the assistant says nothing"
            if SPEAKER not in {m["role"] for m in kept[learnt_from:]}
            else "all it says has weight 0"
        )
        told = told if not learnt_from else f"{told} in the completion"
        raise row.fail(f"{told}, so that there is nothing to learn; drop the line.")
    plain = tuple({name: value for name, value in message.items() if name != "weight"} for message in kept)
    return _example(Conversation(row.where, plain, learnt, _tools(row, tools)))


def _message(row: Row, number: int, message: Any) -> Mapping[str, Any]:
    if not isinstance(message, dict):
        raise row.fail(f"message {number} must have a role and a content, got {shown(message)}.")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        cure = "ShareGPT's from and value are not read; call them role and content" if "from" in message else "add it"
        raise row.fail(f"message {number} has no role (found: {', '.join(message) or 'nothing'}); {cure}.")
    if role.strip().lower() != role or role in ("human", "gpt", "bot", "ai", "chatbot"):
        raise row.fail(f"message {number} has the role {shown(role)}; write one of {', '.join(sorted(ROLES))}.")
    strange = [name for name in _OTHER_WEIGHTS if name in message]
    if strange:
        raise row.fail(
            f'message {number} has "{strange[0]}", which is not read; write "weight": 0 in messages not to be learnt.'
        )
    for name, cure in _UNREAD_OF_MESSAGES.items():
        if message.get(name):
            raise row.fail(f'message {number} has "{name}", which is not read; {cure}.')
    content = message.get("content")
    if isinstance(content, list):
        kinds = {str(part.get("type", "text")) if isinstance(part, dict) else "text" for part in content} - {"text"}
        if kinds:
            raise row.fail(
                f"message {number} holds {', '.join(sorted(kinds))}, and only text is read here; drop the line."
            )
        raise row.fail(f"message {number} has its content in a list of parts; join their texts into one.")
    if content is not None and not isinstance(content, str):
        raise row.fail(f"content of message {number} must be a text, got {shown(content)}.")
    said_otherwise = role == "tool" or any(message.get(name) for name in _INSTEAD)
    if not (content or "").strip() and not said_otherwise:
        raise row.fail(f"message {number} ({role}) is blank; give it a content, or drop it.")
    return message


def _weight(row: Row, number: int, message: Mapping[str, Any]) -> bool:
    """Whether what the assistant says is learnt, as OpenAI's files say it: a weight of 0 or 1."""
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise row.fail(f"weight of message {number + 1} is {shown(weight)}, expected 0 or 1.")
    return weight == 1


def _tools(row: Row, tools: Any) -> tuple[Any, ...]:
    """What a template is told of tools: a list of JSON schemas, or such a list written as a text."""
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise row.fail(f"tools are a text that is not JSON ({error}); write a list of schemas.") from error
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise row.fail(f"tools must be a list of JSON schemas, got {shown(tools)}.")
    return tuple(tools)

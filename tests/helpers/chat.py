"""Tokenizers with a chat template, and chat files, for tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jaxprune as jp
from tests.helpers import tiny
from tests.helpers.tokenizers import write_bpe_json, write_settings

SPECIAL = ("<|end|>", "<s>", "<|im_start|>", "<|im_end|>")
_SAID = "{{ m['content'] }}<|im_end|>"
_ASKED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def chatml(said: str = _SAID, begin: str = "") -> str:
    """As many models have it; `said` is what stands for the assistant's words and its end of turn."""
    return (
        begin
        + "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        + "{% if m['role'] == 'assistant' %}"
        + said
        + "{{ '\n' }}{% else %}"  # Jinja takes away the end of a line that follows a tag
        + _SAID
        + "\n{% endif %}{% endfor %}"
        + _ASKED
    )


def marked(**options: Any) -> str:
    """`chatml` that says what is generated."""
    return chatml("{% generation %}" + _SAID + "{% endgeneration %}", **options)


PLAIN = chatml()
MARKED = marked()
BEGUN = chatml(begin="{{ bos_token }}")
BEGUN_MARKED = marked(begin="{{ bos_token }}")
LINES = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}" + (
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
INSTRUCT = (  # no prompt for the answer, an end token after it, no system messages
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}"
    "{% elif m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Says otherwise what was said before: what is thought is there in the last answer alone.
THINKING = chatml("{% if loop.last %}<think></think>{% endif %}" + _SAID)


def write_chat_tokenizer(folder: Path, template: str | None, **settings: Any) -> Path:
    """Bytes and a few merges as tokens, and a chat template in transformers' settings."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bpe_json(folder, *SPECIAL)
    named = {"eos_token": "<|end|>", "bos_token": "<s>", "pad_token": "<|end|>"}
    if template is not None:
        named["chat_template"] = template
    write_settings(
        folder, tokenizer_class="PreTrainedTokenizerFast", model_input_names=["input_ids"], **{**named, **settings}
    )
    return folder


def chat_model(folder: Path, template: str | None = PLAIN, **settings: Any) -> jp.Model:
    """A tiny random Llama with such a tokenizer."""
    config = tiny.config("llama", vocab_size=280, max_position_embeddings=256, **settings)
    tiny.write(folder, config, {name: 0.5 * tensor for name, tensor in tiny.tensors(config).items()})
    write_chat_tokenizer(folder, template)
    return jp.load(folder)


def turns(*said: str, system: str | None = None) -> list[dict[str, Any]]:
    """Messages of user and assistant in turn."""
    messages = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(said)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

"""Tiny decoders with a tokenizer, for tests that prune or read text."""

from pathlib import Path
from typing import Any

import jaxprune as jp
from tests.finetuning.conftest import WORDS, write_tokenizer
from tests.helpers import tiny
from tests.helpers.tokenizers import write_letters

GROUPED = {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 24}


def settings(family: str, **changes: Any) -> dict[str, Any]:
    grouped = GROUPED if family in ("llama", "mistral", "qwen2", "qwen3") else {}
    key = "max_position_embeddings" if family != "gpt2" else "n_positions"
    return tiny.config(family, **{"vocab_size": 4 + len(WORDS), key: 64, **grouped, **changes})


def classifier(folder: Path, family: str, labels: tuple[str, ...] = ("no", "yes"), **changes: Any) -> jp.Model:
    names = {str(number): label for number, label in enumerate(labels)}
    return language_model(folder, family, head="classification", id2label=names, pad_token_id=0, **changes)


def language_model(folder: Path, family: str, **changes: Any) -> jp.Model:
    config = settings(family, **changes)
    tiny.write(folder, config, {name: 0.5 * tensor for name, tensor in tiny.tensors(config).items()})
    if family == "qwen2":
        assert write_letters(folder, WORDS) == 4 + len(WORDS)
    else:
        write_tokenizer(folder)
    return jp.load(folder)

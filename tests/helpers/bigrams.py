"""A language model whose probabilities are known: of the next word, given the last one."""

from pathlib import Path
from typing import Any

import numpy as np

import jaxprune as jp
from tests.helpers import tiny
from tests.helpers.tokenizers import write_settings

WORDS = "<unk> <s> </s> the cat dog sat ran far home on up".split()
# Half the time the first, a quarter the second; each of the others a fortieth. After other words all are alike.
LIKELY = {
    "<s>": ("the", "dog"),
    "the": ("cat", "dog"),
    "cat": ("sat", "ran"),
    "dog": ("ran", "sat"),
    "sat": ("on", "home"),
    "ran": ("far", "home"),
    "on": ("up", "home"),
    "far": ("</s>", "home"),
}


def probability(last: str, word: str) -> float:
    if last not in LIKELY:
        return 1 / len(WORDS)
    return {LIKELY[last][0]: 1 / 2, LIKELY[last][1]: 1 / 4}.get(word, 1 / 40)


def log_probability(words: str) -> float:
    """Of all words but the first."""
    each = words.split()
    return float(sum(np.log(probability(last, word)) for last, word in zip(each[:-1], each[1:], strict=True)))


def bigram_model(folder: Path, bos: bool = False, template: str | None = None, **changes: Any) -> jp.Model:
    """The model from its folder; with `bos` its tokenizer puts <s> before a text. Texts are words between spaces."""
    size = len(WORDS)
    config = tiny.config("llama", vocab_size=size, hidden_size=size, bos_token_id=1, eos_token_id=2, **changes)
    tensors = tiny.tensors(config)
    table = np.log([[probability(last, word) for word in WORDS] for last in WORDS])
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):  # what is said depends on the last word alone
            tensors[name] = np.zeros_like(tensor)
    tensors["model.embed_tokens.weight"] = np.eye(size, dtype=np.float32)
    tensors["model.norm.weight"] = np.ones(size, np.float32)
    # The norm makes √size of a one. In C order: the file's writer takes memory as it lies.
    tensors["lm_head.weight"] = np.array(table.T / np.sqrt(size), np.float32, order="C")
    tiny.write(folder, config, tensors)
    write_words(folder, bos, template)
    return jp.load(folder)


def write_words(folder: Path, bos: bool = False, template: str | None = None) -> None:
    """A tokenizer of whole words, which asks for truncation and padding as published ones may do."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    backend.add_special_tokens(WORDS[:3])
    if bos:
        backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    backend.enable_truncation(3)
    backend.enable_padding(length=40)
    backend.save(str(folder / "tokenizer.json"))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    chat = {} if template is None else {"chat_template": template}
    write_settings(folder, tokenizer_class="PreTrainedTokenizerFast", **names, **chat)

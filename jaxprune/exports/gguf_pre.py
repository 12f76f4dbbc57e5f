"""How a byte-level tokenizer divides texts before its merges, by the name that llama.cpp has for it.

What tokenizer.json says is looked up first. Only where it says something else, llama.cpp's own way follows: its
converter knows published vocabularies by the hash of the ids of one text. A hash alone may be fooled: two tokenizers
that differ in "  3" (two spaces, a digit) read that text alike.
"""

from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_NOT_WORD = r"[^\r\n\p{L}\p{N}]?"
_TEKKEN = rf"{_NOT_WORD}{_UPPER}*{_LOWER}+|{_NOT_WORD}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|"
_TEKKEN += r"\s*[\r\n]+|\s+(?!\S)|\s+"
_O200K = rf"{_NOT_WORD}{_UPPER}*{_LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|{_NOT_WORD}{_UPPER}+{_LOWER}*"
_O200K += r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_THREES, _ONES = (f"{_CONTRACTIONS}{_WORDS}{digits}{_REST}" for digits in (r"\p{N}{1,3}", r"\p{N}"))

# By steps of the pre-tokenizer, and whether words that are in the vocabulary are taken whole, whatever the merges say.
BY_STEPS: Mapping[tuple[tuple[str, ...], bool], str] = MappingProxyType(
    {
        (("words",), False): "gpt-2",
        (("digits", "words"), False): "smollm",
        ((_THREES,), True): "llama-bpe",
        ((_THREES,), False): "smaug-bpe",
        ((_ONES,), False): "qwen2",
        ((_TEKKEN,), True): "tekken",
        ((_O200K,), False): "gpt-4o",
    }
)
# What llama.cpp divides as these names only nearly: it writes classes of letters as a to z and A to Z.
NEARLY = ("tekken", "gpt-4o")
# By the first digits of the hash, of the vocabularies that models of our families come with.
# Source: llama.cpp, conversion/base.py, get_vocab_base_pre.
BY_HASH: Mapping[str, str] = MappingProxyType(
    {
        "0ef9807a4087ebef": "llama-bpe",  # Llama 3
        "c136ed14d01c2745": "smaug-bpe",
        "049ecf7629871e30": "deepseek-llm",
        "347715f544604f91": "deepseek-coder",
        "b3f499bb4255f8ca": "deepseek-r1-qwen",
        "9d032fcbd5501f4a": "falcon3",
        "35d91631860c815f": "starcoder",
        "6221ad2852e85ce9": "refact",
        "3ce83efda5659b07": "gpt-2",
        "0fe1cf6eda062318": "gpt-2",  # ruGPT3
        "bc01ce58980e1db4": "gpt3-finnish",
        "e636dc30a262dcc0": "qwen2",  # Qwen 1.5 to 2.5
        "d4540891389ea895": "qwen2",  # Qwen 3
        "862f827721df9560": "f2llmv2",
        "63b97e4253352e6f": "tekken",
        "855059429035d75a": "smollm",
        "c7ea5862a53e4272": "poro-chat",
        "7fc505bd3104ca10": "viking",
        "d4c8f286ea6b520b": "megrez",
        "1994ffd01900cfb3": "trillion",
        "d5f1dd6f980fec56": "seed-coder",
        "b0a6b1c0bd5998eb": "a.x-4.0",
        "f6791d196f87ce6b": "midm-2.0",
        "a1e163ecab2e718a": "mellum",
        "4a2e2abae11ca2b8": "kormo",
        "53e325976a6e1423": "granite-docling",
        "36f3066e97b7f399": "minicpm5",
    }
)
# The text that is hashed, to the letter.
HASHED = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis concatenated) ✅ "
    "🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 "
    "?我想在apple工作1314151天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? "
    "I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
)


def pre_of(said: Mapping[str, Any], own: Any) -> str | None:
    """The name of a pre-tokenizer; None where llama.cpp has none.

    `said` are the contents of tokenizer.json, `own` is transformers' tokenizer.
    """
    steps = _steps(said.get("pre_tokenizer"))
    named = None if steps is None else BY_STEPS.get((steps, bool(said["model"].get("ignore_merges"))))
    return named or BY_HASH.get(hashed(own))


def hashed(own: Any) -> str:
    """The first digits of the hash by which llama.cpp's converter knows a tokenizer."""
    return sha256(str([int(number) for number in own.encode(HASHED)]).encode()).hexdigest()[:16]


def _steps(pre: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """The steps in short: "digits", "words" (GPT-2's pattern) or the pattern of a split; None for other ones.

    The last turns bytes into letters, which all byte-level tokenizers do and no step says.
    """
    if pre is None:
        return None
    parts = pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    steps: list[str] = []
    for part in parts[:-1]:
        if part["type"] == "Digits" and part["individual_digits"]:
            steps.append("digits")
        elif part["type"] == "Split" and "Regex" in part["pattern"]:
            # Keeping what matches is the same as dividing there: all patterns that are known match every character.
            if (part["behavior"], part["invert"]) not in (("Isolated", False), ("Removed", True)):
                return None
            steps.append(part["pattern"]["Regex"])
        else:
            return None
    last = parts[-1]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    return (*steps, "words") if last["use_regex"] else tuple(steps)

"""The merges of a SentencePiece tokenizer as one score a token, by which llama.cpp merges.

llama.cpp, as SentencePiece, joins those neighbours first that make the token with the highest score. tokenizer.json has
a list of pairs in their order instead. The two say the same if the list has every way to make a token, and all of one
token before any of the next.
"""

from collections.abc import Collection, Mapping
from typing import Any

SPACE = "▁"  # what stands for a space in tokens
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_FILLED = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPENDED = {"type": "Prepend", "prepend": SPACE}
# Of Gemma's: no text has a space left to divide it at.
_DIVIDED = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def begins_with_space(said: Mapping[str, Any]) -> str | None:
    """Whether a space is put before texts: "always", also after special tokens; "bare", the same unless there is one
    already; "first", only at the very beginning unless there is one; "never"; None for an unlike tokenizer.

    `said` are the contents of tokenizer.json.
    """
    normalizer, pre = said.get("normalizer"), said.get("pre_tokenizer")
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    if pre in (None, _DIVIDED) and steps in ([_PREPENDED, _FILLED], [_FILLED]):
        return "always" if len(steps) == 2 else "never"
    if steps or pre is None or pre["type"] != "Metaspace" or pre["replacement"] != SPACE or pre.get("split", True):
        return None
    return "bare" if pre["prepend_scheme"] == "always" else pre["prepend_scheme"]


def merge_scores(model: Mapping[str, Any], added: Collection[str]) -> dict[str, float] | None:
    """The score of every token that merges make, falling with their order; None where scores cannot say the same.

    `added` are tokens that are no words: llama.cpp takes them out of a text before it merges. Gemma's runs of newlines
    and spaces are such tokens, and have merges all the same, which no scores would say.
    """
    vocabulary, order = model["vocab"], {}
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    last, apart = None, {*BYTES, *added}
    for first, second in pairs:
        made = first + second
        if made in apart:
            continue
        if made != last and made in order:
            return None
        order.setdefault(made, -float(len(order) + 1))
        last = made
    known = set(pairs)
    for token in vocabulary:
        for place in range(1, len(token)):
            pair = token[:place], token[place:]
            if pair not in known and pair[0] in vocabulary and pair[1] in vocabulary and token not in apart:
                return None
    return order

"""Spaces beside added tokens that a tokenizer drops (`rstrip`, `lstrip`).

A GGUF file has no key for them. llama.cpp knows one set by heart, Phi-3's, and takes it for every file whose
general.name has "phi-3" or "phi3" in it, whatever its tokens are; without "</s>" among these it does not load.
"""

import re
from collections.abc import Collection
from typing import Any

from ..checkpoint.files import listed

_PHI3 = re.compile("phi-?3", re.IGNORECASE)
_KEPT = frozenset(("<unk>", "<s>", "<|endoftext|>"))  # of Phi-3's: spaces after these stay


def name_for(
    name: str, added: Collection[Any], tokens: Collection[str], special: Collection[str], warnings: list[str]
) -> str:
    """The name that a file gives its model so that llama.cpp drops what the tokenizer drops, as near as it can.

    `added` are the tokenizer's added tokens, `tokens` the file's and `special` those of them that are no words. What
    llama.cpp does otherwise all the same is told in `warnings`. (It drops ASCII spaces alone, the tokenizer all of
    Unicode's.)
    """
    after = {token.content for token in added if token.rstrip}
    before = {token.content for token in added if token.lstrip}
    by_name = {*special} - _KEPT
    dropped: set[str] = set()
    if {"</s>", *_KEPT} <= {*tokens} and len(after ^ by_name) < len(after):
        name = name if _PHI3.search(name) else f"phi-3 {name}"
        after, dropped = after - by_name, by_name - after
    elif _PHI3.search(name):
        given, name = name, _PHI3.sub("phi_3", name)
        warnings.append(f"the file calls the model {name!r}: by {given!r} llama.cpp would take its tokens for Phi-3's.")
    differing = (("keeps", "after", after, "drops"), ("keeps", "before", before, "drops"))
    for does, side, beside, otherwise in (*differing, ("drops", "after", dropped, "keeps")):
        if beside:
            warnings.append(
                f"llama.cpp {does} spaces and newlines {side} {listed(sorted(beside))}; the tokenizer {otherwise} them."
            )
    return name

"""A tokenizer as the keys of a GGUF file: tokens and their types, merges or scores, special tokens, chat template."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.files import listed
from ..checkpoint.tokenizer_files import TOKENIZER_FILES
from ..errors import CheckpointError
from ..model.model import Model
from ..tokens.tokenizer import Tokenizer
from .gguf_pre import NEARLY, pre_of
from .gguf_scores import BYTES, SPACE, begins_with_space, merge_scores
from .gguf_strips import name_for

NORMAL, UNKNOWN, CONTROL, OWN, UNUSED, BYTE = range(1, 7)  # types of tokens; OWN: added, and no special one
ADDED_SCORE = -1000.0  # of tokens that no merge makes, as llama.cpp's converter has it
# Tokens that llama.cpp stops at whatever a file says, as far as our families have them.
_KNOWN_ENDS = frozenset(
    "<|eot_id|> <|eom_id|> <|im_end|> <|end|> <|endoftext|> <|end_of_text|> <end_of_turn> </s> <EOT> <eos>"
    " <｜end▁of▁sentence｜>".split()
)
# Where llama.cpp puts a space before a text otherwise than a tokenizer does (`begins_with_space`).
_SPACES = {
    "bare": "llama.cpp puts a space before a text that begins with one already, which the tokenizer does not.",
    "first": "llama.cpp puts a space before a text that begins with one already, and after special tokens, where the "
    "tokenizer puts none.",
}
_NAMES = {"bos": "bos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}  # sic


def tokenizer_keys(model: Model, name: str, warnings: list[str]) -> dict[str, Any]:
    """The keys of a model's tokenizer, and its name, which decides on spaces beside special tokens (`name_for`).

    Without a tokenizer a file is for token ids alone, and a warning says so.
    Raises `CheckpointError` for a tokenizer that llama.cpp would read texts otherwise with, or not at all.
    """
    if not _has_files(model):
        warnings.append("the model has no tokenizer: the file takes token ids, and no texts.")
        return {"general.name": name, "tokenizer.ggml.model": "none"}
    tokenizer = Tokenizer.of(model)
    own = tokenizer.read.own
    said = json.loads(own.backend_tokenizer.to_str())
    kind = said["model"]
    if kind["type"] != "BPE":
        raise CheckpointError(_refused(f"of the kind {kind['type']}", "of the kind BPE"))
    for setting in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if kind.get(setting):
            raise CheckpointError(_refused(f"with {setting} {kind[setting]!r}", "without"))
    tokens, types = _tokens(own, model.architecture.vocab, bytes_as_tokens=bool(kind.get("byte_fallback")))
    if dropped := len(own.get_vocab()) - (len(tokens) - types.count(UNUSED)):
        warnings.append(
            f"the tokenizer has {dropped} entries that the model's embedding has no rows for; they are left out, and "
            "what they stand for is read as other tokens."
        )
    keys = (
        _by_scores(said, own, tokens, types, warnings) if kind.get("byte_fallback") else _by_merges(said, own, warnings)
    )
    keys |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    keys |= _special(tokenizer, model.architecture.end_ids, tokens, warnings)
    added = own.backend_tokenizer.get_added_tokens_decoder().values()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind in (UNKNOWN, CONTROL, OWN)]
    keys["general.name"] = name_for(name, added, tokens, special, warnings)
    if whole := sorted(token.content for token in added if token.single_word):
        warnings.append(f"llama.cpp takes {listed(whole)} within words too; the tokenizer only as words of their own.")
    return keys | _template(own)


def _has_files(model: Model) -> bool:
    notes = model.provenance
    if notes.tokenizer is not None or notes.source is None:
        return notes.tokenizer is not None
    return any((Path(notes.source) / name).is_file() for name in TOKENIZER_FILES)


def _refused(what: str, expected: str) -> str:
    return (
        f"the model's tokenizer is one {what}, and a GGUF file of this model needs one {expected}; export it with "
        "format 'onnx' or 'transformers'."
    )


def _by_merges(said: Mapping[str, Any], own: Any, warnings: list[str]) -> dict[str, Any]:
    """Of a byte-level tokenizer, as GPT-2, Llama 3 and Qwen have it."""
    if (said.get("decoder") or {}).get("type") != "ByteLevel":
        raise CheckpointError(_refused("that has no bytes, neither as letters nor as tokens", "that has"))
    if _normalizers(said, warnings):
        raise CheckpointError(_refused(f"that normalises texts ({said['normalizer']['type']})", "that does not"))
    pre = pre_of(said, own)
    if pre is None:
        raise CheckpointError(
            "llama.cpp has no pre-tokenizer like that of the model's tokenizer (pre_tokenizer in tokenizer.json), and "
            "would make other tokens of texts with any of its own; export it with format 'onnx' or 'transformers'."
        )
    if pre in NEARLY:
        warnings.append(
            f"llama.cpp's pre-tokenizer {pre} divides words with combining marks, and words of letters beyond A to Z "
            "with capitals inside, otherwise than the tokenizer."
        )
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in said["model"]["merges"]]
    merges = [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in pairs]
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.merges": merges}


def _normalizers(said: Mapping[str, Any], warnings: list[str]) -> bool:
    """Whether texts are altered before they are divided; NFC, which Qwen's do, is passed over with a warning."""
    normalizer = said.get("normalizer")
    if normalizer is None or normalizer == {"type": "Sequence", "normalizers": []}:
        return False
    if normalizer != {"type": "NFC"}:
        return True
    warnings.append(
        "the tokenizer puts texts into Unicode's normal form C first, and llama.cpp does not: accents that are "
        "characters of their own give other tokens there."
    )
    return False


def _by_scores(
    said: Mapping[str, Any], own: Any, tokens: Sequence[str], types: Sequence[int], warnings: list[str]
) -> dict[str, Any]:
    """Of a SentencePiece tokenizer with bytes as tokens, as Llama 2 and Mistral have it."""
    space = begins_with_space(said)
    if space is None:
        raise CheckpointError(_refused("that is neither byte-level nor like Llama 2's", "that is"))
    # Gemma has "\t" itself where others have <0x09>; llama.cpp looks for either.
    known = {*said["model"]["vocab"]} | {
        f"<0x{byte:02X}>" for byte in range(128) if chr(byte) in said["model"]["vocab"]
    }
    if missing := [token for token in BYTES if token not in known]:
        raise CheckpointError(_refused(f"without a token for the byte {missing[0]}", "with all of them"))
    scores = merge_scores(said["model"], [token["content"] for token in said["added_tokens"]])
    if scores is None:
        raise CheckpointError(_refused("whose merges do not follow from an order of its tokens", "whose merges do"))
    if space in _SPACES:
        warnings.append(_SPACES[space])
    runs = {len(token): number for number, token in enumerate(tokens) if types[number] == OWN and {*token} == {" "}}
    if space == "never" and (first := _first_other_run(own, runs)):
        warnings.append(
            f"llama.cpp divides {first} spaces in a row, and other long runs, otherwise than the tokenizer."
        )
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.add_space_prefix": space != "never",
        "tokenizer.ggml.scores": [
            scores.get(token, 0.0) if kind in (NORMAL, BYTE) else ADDED_SCORE
            for token, kind in zip(tokens, types, strict=True)
        ],
    }


def _first_other_run(own: Any, runs: Mapping[int, int]) -> int | None:
    """How many spaces in a row the tokenizer does not divide as llama.cpp does, the longest token first; None: all so.

    `runs` are the tokens that are spaces, by their length; such tokens llama.cpp takes out of a text before it merges.
    """

    def ids(text: str) -> list[int]:
        return own(text, add_special_tokens=False)["input_ids"]

    for count in range(2, 2 * max(runs, default=0) + 2):
        rest, expected = count, ids("a")
        for length in sorted(runs, reverse=True):
            expected += [runs[length]] * (rest // length)
            rest %= length
        if ids("a" + count * " " + "a") != expected + ids(rest * " " + "a"):
            return count
    return None


def _tokens(own: Any, rows: int, bytes_as_tokens: bool) -> tuple[list[str], list[int]]:
    """One token and its type for every row of the embedding; those that the tokenizer lacks are named [PAD number]."""
    by_number = {number: token for token, number in own.get_vocab().items()}
    added = own.backend_tokenizer.get_added_tokens_decoder()
    tokens, types = [], []
    for number in range(rows):
        if number not in by_number:
            token, kind = f"[PAD{number}]", UNUSED
        elif number in added:
            token = added[number].content
            kind = CONTROL if added[number].special or _looks_special(token) else OWN
            token = token.replace(SPACE, " ") if kind == OWN and bytes_as_tokens else token
        else:
            token = by_number[number]
            kind = BYTE if bytes_as_tokens and token in BYTES else NORMAL
        tokens.append(token)
        types.append(UNKNOWN if bytes_as_tokens and number == own.unk_token_id else kind)
    if len(set(tokens)) < len(tokens):  # llama.cpp stops at a token that is there twice
        twice = next(token for number, token in enumerate(tokens) if token in tokens[:number])
        raise CheckpointError(_refused(f"with the token {twice!r} twice", "without"))
    return tokens, types


def _looks_special(token: str) -> bool:
    """Tokens that are special by their looks, though not all tokenizers say so; as llama.cpp's converter does it."""
    ends = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        token.startswith(start) and token.endswith(stop) for start, stop in ends
    )


def _special(tokenizer: Tokenizer, ends: Sequence[int], tokens: Sequence[str], warnings: list[str]) -> dict[str, Any]:
    """Numbers of special tokens, which of them are put around a text, and where generation stops."""
    own, numbers = tokenizer.read.own, range(len(tokens))
    keys: dict[str, Any] = {}
    for name, theirs in _NAMES.items():
        if (number := getattr(own, f"{name}_token_id")) in numbers:
            keys[f"tokenizer.ggml.{theirs}_token_id"] = int(number)
    keys |= _stops([int(number) for number in ends], own.eos_token_id, tokens, warnings)
    for side, name, around in zip(("before", "after"), ("bos", "eos"), tokenizer.around(), strict=True):
        named = keys.get(f"tokenizer.ggml.{name}_token_id")
        if len(around) > 1 or (len(around) and name == "eos" and int(around[0]) != named):
            put = "".join(tokens[int(number)] for number in around)
            raise CheckpointError(
                _refused(f"that puts {put} {side} every text", f"with one {name} token there at most")
            )
        if len(around):
            keys[f"tokenizer.ggml.{name}_token_id"] = int(around[0])
        keys[f"tokenizer.ggml.add_{name}_token"] = bool(len(around))
    return keys


def _stops(ends: list[int], named: int | None, tokens: Sequence[str], warnings: list[str]) -> dict[str, Any]:
    """End tokens: the tokenizer's own, if it is one of the model's, and up to two more that llama.cpp does not know."""
    ends = ends or ([] if named is None else [named])
    if not ends:
        warnings.append(
            "neither the model nor its tokenizer names an end token, and llama.cpp stops at one of its own choice; "
            "name it in generation_config.json."
        )
        return {}
    first = named if named is not None and named in ends else ends[0]
    keys = {"tokenizer.ggml.eos_token_id": first}
    others = sorted((number for number in ends if number != first), key=lambda number: tokens[number] in _KNOWN_ENDS)
    if message := next((number for number in others if tokens[number] == "<|eom_id|>"), None):
        keys["tokenizer.ggml.eom_token_id"] = message
        others.remove(message)
    for name in ("eot", "eom"):
        if others and f"tokenizer.ggml.{name}_token_id" not in keys:
            keys[f"tokenizer.ggml.{name}_token_id"] = others.pop(0)
    if unknown := [tokens[number] for number in others if tokens[number] not in _KNOWN_ENDS]:
        warnings.append(f"llama.cpp has no place for so many end tokens, and will not stop at {', '.join(unknown)}.")
    return keys


def _template(own: Any) -> dict[str, Any]:
    """The chat template; of several, each by its name."""
    given = own.chat_template
    if not given:
        return {}
    if isinstance(given, str):
        return {"tokenizer.chat_template": given}
    others = {name: text for name, text in given.items() if name != "default"}
    keys = {"tokenizer.chat_templates": [*others], "tokenizer.chat_template": given.get("default", "")}
    return keys | {f"tokenizer.chat_template.{name}": text for name, text in others.items()}

"""Tokenizers in GGUF files: tokens, merges or scores, special tokens, end tokens, as llama.cpp's converter has them."""

import json
import random
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("gguf", reason="GGUF files are written by the package gguf")

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import jaxprune as jp
from jaxprune.checkpoint import load
from jaxprune.errors import CheckpointError
from jaxprune.exports import gguf_pre
from jaxprune.exports.gguf_scores import merge_scores
from jaxprune.exports.gguf_strips import name_for
from tests.helpers import tiny
from tests.helpers.gguf_reader import read_gguf
from tests.helpers.tokenizers import MERGES, bpe_vocabulary
from tests.helpers.words import write_tokenizer

ROWS = 400
NORMAL, UNKNOWN, CONTROL, OWN, UNUSED, BYTE = range(1, 7)
SPLITS = {
    # name: the pattern as tokenizer.json of the vocabulary's first model has it
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "gpt-4o": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint without a tokenizer."""
    settings = tiny.config("llama", "causal_lm", vocab_size=ROWS)
    return tiny.write(tmp_path_factory.mktemp("gguf") / "dense", settings, tiny.tensors(settings))


@pytest.fixture
def export(source, tmp_path):
    """export(tokenizer) -> what was written, and the file."""

    def export(tokenizer, model=None):
        written = jp.export(load(source) if model is None else model, tmp_path / "out", format="gguf",
                            tokenizer=tokenizer, overwrite=True)  # fmt: skip
        return written, read_gguf(tmp_path / "out" / "model.gguf")

    return export


def byte_level(*special, pre=None, **settings):
    """A byte-level tokenizer, as GPT-2's."""
    backend = Tokenizer(models.BPE(bpe_vocabulary(*special), MERGES))
    backend.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    backend.add_special_tokens([*special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)


def test_a_byte_level_tokenizer_is_in_the_file(export):
    own = byte_level("<|end|>", "<s>", eos_token="<|end|>", bos_token="<s>", pad_token="<|end|>",
                     chat_template="{{ messages[0]['content'] }}")  # fmt: skip
    own.add_tokens(["<think>"])
    own.add_tokens([AddedToken("<|call|>", special=False)])  # type: ignore[arg-type]
    written, file = export(own)
    said = {key.removeprefix("tokenizer."): file.keys[key] for key in file.keys if key.startswith("tokenizer.")}
    tokens, types = said.pop("ggml.tokens"), said.pop("ggml.token_type")
    assert said == {
        "ggml.model": "gpt2",
        "ggml.pre": "gpt-2",
        "ggml.merges": ["t h", "th e", "Ġ the", "f i", "l m", "fi lm", "Ġ film"],
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 0,
        "ggml.padding_token_id": 0,
        "ggml.add_bos_token": False,
        "ggml.add_eos_token": False,
        "chat_template": "{{ messages[0]['content'] }}",
    }
    size = len(own)
    assert [own.convert_tokens_to_ids(token) for token in tokens[:size]] == list(range(size))
    assert tokens[size:] == [f"[PAD{number}]" for number in range(size, ROWS)] and len(tokens) == ROWS
    at = {token: types[number] for number, token in enumerate(tokens)}
    assert (at["<|end|>"], at["<s>"], at["<think>"], at["<|call|>"]) == (CONTROL, CONTROL, OWN, CONTROL)
    assert (at["film"], at["Ġ"], at[f"[PAD{ROWS - 1}]"]) == (NORMAL, NORMAL, UNUSED)
    assert file.kinds["tokenizer.ggml.token_type"] == 5 and file.kinds["tokenizer.ggml.add_bos_token"] == 7
    assert file.tensors["token_embd.weight"].shape[0] == len(tokens) and not written.warnings


def test_what_is_put_around_a_text_is_said(export):
    own = byte_level("<s>", "</s>", "<x>", bos_token="<s>", eos_token="</s>")
    for template, adds in (("<s> $A", (True, False)), ("<s> $A </s>", (True, True)), ("$A </s>", (False, True))):
        own.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=template, pair="$A $B", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        keys = export(own)[1].keys
        assert (keys["tokenizer.ggml.add_bos_token"], keys["tokenizer.ggml.add_eos_token"]) == adds
    for template, says in (("<s> <x> $A", "puts <s><x> before every text"), ("$A <x>", "puts <x> after every text")):
        own.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=template, pair="$A $B", special_tokens=[("<s>", 0), ("<x>", 2)]
        )
        with pytest.raises(CheckpointError, match=says):
            export(own)


# --- how texts are divided


def steps(*parts, whole=False):
    """A tokenizer of these steps, the last of which is bytes."""
    own = byte_level("<|end|>", pre=pre_tokenizers.Sequence([*parts]), eos_token="<|end|>")
    if whole:
        own.backend_tokenizer.model.ignore_merges = True
    return own


def split(name):
    return pre_tokenizers.Split(Regex(SPLITS[name]), "isolated")


BARE = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize(
    ("parts", "whole", "name"),
    [
        ((WORDS,), False, "gpt-2"),
        ((pre_tokenizers.Digits(individual_digits=True), WORDS), False, "smollm"),
        ((split("llama-bpe"), BARE), True, "llama-bpe"),
        ((split("llama-bpe"), BARE), False, "smaug-bpe"),
        ((split("qwen2"), BARE), False, "qwen2"),
    ],
)
def test_a_pre_tokenizer_is_known_by_its_steps(export, parts, whole, name):
    assert export(steps(*parts, whole=whole))[1].keys["tokenizer.ggml.pre"] == name


def test_a_split_that_keeps_what_matches_is_the_same(export):
    """As OLMo 2's and Phi-4's files say it."""
    kept = pre_tokenizers.Split(Regex(SPLITS["llama-bpe"]), "removed", invert=True)
    written, file = export(steps(kept, BARE))
    assert file.keys["tokenizer.ggml.pre"] == "smaug-bpe" and not written.warnings
    for behaviour, invert in (("isolated", True), ("removed", False), ("merged_with_previous", False)):
        with pytest.raises(CheckpointError, match="no pre-tokenizer like that"):
            export(steps(pre_tokenizers.Split(Regex(SPLITS["llama-bpe"]), behaviour, invert=invert), BARE))


@pytest.mark.parametrize(("name", "whole"), [("gpt-4o", False), ("tekken", True)])
def test_a_pre_tokenizer_that_divides_nearly_so_is_told(export, name, whole):
    written, file = export(steps(pre_tokenizers.Split(Regex(SPLITS[name]), "isolated"), BARE, whole=whole))
    assert file.keys["tokenizer.ggml.pre"] == name
    assert f"llama.cpp's pre-tokenizer {name} divides words with combining marks" in written.warnings[0]


def test_other_steps_are_known_by_the_hash_of_a_text(export, monkeypatch):
    """As llama.cpp's converter does it: SHA-256 of the list of ids, as Python prints it."""
    own = steps(pre_tokenizers.Punctuation(), WORDS)
    with pytest.raises(CheckpointError, match="llama.cpp has no pre-tokenizer like that of the model's tokenizer"):
        export(own)
    ids = own(gguf_pre.HASHED)["input_ids"]
    told = sha256(str(ids).encode()).hexdigest()
    monkeypatch.setattr(gguf_pre, "BY_HASH", {told[:16]: "falcon3"})
    assert export(own)[1].keys["tokenizer.ggml.pre"] == "falcon3"
    plain = byte_level("<|end|>", eos_token="<|end|>")
    monkeypatch.setattr(gguf_pre, "BY_HASH", {gguf_pre.hashed(plain): "smollm"})  # a hash may be fooled
    assert export(plain)[1].keys["tokenizer.ggml.pre"] == "gpt-2"


def test_a_spaced_or_altered_beginning_is_refused(export):
    with pytest.raises(CheckpointError, match="no pre-tokenizer like that"):
        export(steps(pre_tokenizers.ByteLevel(add_prefix_space=True)))
    own = byte_level("<|end|>", eos_token="<|end|>")
    own.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(CheckpointError, match=r"normalises texts \(Lowercase\)"):
        export(own)
    own.backend_tokenizer.normalizer = normalizers.NFC()
    written, _ = export(own)
    assert "Unicode's normal form C" in written.warnings[0] and len(written.warnings) == 1


# --- where generation stops


@pytest.mark.parametrize(
    ("ends", "eos", "keys"),
    [
        ((0,), "<|end|>", {"eos": 0}),
        ((), "<|end|>", {"eos": 0}),
        ((2, 0), "<|end|>", {"eos": 0, "eot": 2}),
        ((1,), "<|end|>", {"eos": 1}),
        ((0, 2, 3), "<|end|>", {"eos": 0, "eot": 2, "eom": 3}),
        ((4, 0, 2), "<|end|>", {"eos": 0, "eot": 2, "eom": 4}),
    ],
)
def test_end_tokens_are_the_models(source, export, ends, eos, keys):
    own = byte_level("<|end|>", "<stop>", "<turn>", "<call>", "<|eom_id|>", eos_token=eos)
    model = load(source)
    model = model.replace(architecture=replace(model.architecture, end_ids=ends))
    said = export(own, model)[1].keys
    names = {name: said[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")
             if f"tokenizer.ggml.{name}_token_id" in said}  # fmt: skip
    assert names == keys


def test_end_tokens_without_a_place_are_told(source, export):
    own = byte_level("<a>", "<b>", "<c>", "<d>", "<|im_end|>")
    model = load(source)
    written, _ = export(own, model.replace(architecture=replace(model.architecture, end_ids=(0, 1, 2, 3, 4))))
    assert written.warnings == ("llama.cpp has no place for so many end tokens, and will not stop at <d>.",)
    written, file = export(own, model.replace(architecture=replace(model.architecture, end_ids=())))
    assert "names an end token, and llama.cpp stops at one of its own choice; name it in" in written.warnings[0]
    assert "tokenizer.ggml.eos_token_id" not in file.keys


# --- what is no byte-level tokenizer


def sentencepiece(words, seed=0, prepend="always"):
    """A tokenizer like Llama 2's: pieces in a random order, every way to make a piece as a merge, bytes as tokens."""
    pieces = sorted(
        {word[start:stop] for word in words for start in range(len(word)) for stop in range(start + 2, len(word) + 1)}
    )
    random.Random(seed).shuffle(pieces)
    letters = sorted({letter for word in words for letter in word})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *letters]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [
        (piece[:at], piece[at:])
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in vocabulary and piece[at:] in vocabulary
    ]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if prepend == "by normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # type: ignore[assignment]
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend, split=False)  # type: ignore[assignment]
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])  # type: ignore[assignment]
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def merged_by_score(text, tokens, scores):
    """SentencePiece's way: of all neighbours that make a token those with the highest score first, from the left."""
    numbers = {token: number for number, token in enumerate(tokens)}
    parts = list(text)
    while True:
        made = [one + other for one, other in pairwise(parts)]
        pairs = [(scores[numbers[token]], -at) for at, token in enumerate(made) if token in numbers]
        if not pairs:
            break
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    out = []
    for part in parts:
        out += [numbers[part]] if part in numbers else [numbers[f"<0x{byte:02X}>"] for byte in part.encode()]
    return out


@pytest.mark.parametrize("prepend", ["always", "never", "first", "by normalizer"])
@pytest.mark.parametrize("seed", range(3))
def test_scores_merge_as_the_merges_do(export, prepend, seed):
    own = sentencepiece(["▁abba", "▁bab", "cab▁"], seed, prepend)
    written, file = export(own)
    keys = file.keys
    tokens, scores, types = (keys[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("llama", "default")
    assert keys["tokenizer.ggml.add_space_prefix"] == (prepend != "never")
    assert types[:4] == [UNKNOWN, CONTROL, CONTROL, BYTE] and types[259] == NORMAL and types[-1] == UNUSED
    assert keys["tokenizer.ggml.add_bos_token"] and not keys["tokenizer.ggml.add_eos_token"]
    told = [("begins with one already" in text, "after special tokens" in text) for text in written.warnings]
    assert told == {"always": [(True, False)], "first": [(True, True)]}.get(prepend, [])
    assert file.kinds["tokenizer.ggml.scores"] == 6
    letters = random.Random(seed)
    for _ in range(40):
        text = "".join(letters.choice("abc é") for _ in range(letters.randint(1, 12)))
        marked = text.replace(" ", "▁")
        first = "" if prepend == "never" or (prepend != "by normalizer" and marked.startswith("▁")) else "▁"
        expected = own(text, add_special_tokens=False)["input_ids"]
        assert merged_by_score(first + marked, tokens, scores) == expected, text


@pytest.mark.parametrize(
    ("first", "warns"),
    [((("▁▁", "▁"), ("▁", "▁"), ("▁", "▁▁")), False), ((("▁", "▁"), ("▁▁", "▁"), ("▁", "▁▁")), True)],
)
def test_a_tokenizer_like_gemmas(export, first, warns):
    """Runs of spaces are added tokens that have merges, in any order; a tab is its own token; texts are not divided."""
    said = json.loads(sentencepiece(["▁abba", "▁bab"], prepend="never").backend_tokenizer.to_str())
    said["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    said["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    vocabulary = said["model"]["vocab"]
    vocabulary["\t"] = vocabulary.pop("<0x09>")
    runs = {"▁▁": len(vocabulary), "▁▁▁": len(vocabulary) + 1}
    vocabulary |= runs
    said["model"]["merges"] = [*map(list, first), *said["model"]["merges"]]
    own = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(said)), eos_token="</s>")
    own.add_tokens([AddedToken(run, normalized=False) for run in runs])  # type: ignore[arg-type]
    written, file = export(own)
    tokens, types = file.keys["tokenizer.ggml.tokens"], file.keys["tokenizer.ggml.token_type"]
    assert [(tokens[number], types[number]) for number in runs.values()] == [("  ", OWN), ("   ", OWN)]
    assert (tokens[12], types[12]) == ("\t", NORMAL) and not file.keys["tokenizer.ggml.add_space_prefix"]
    # Two and two, where llama.cpp takes three and leaves one.
    told = "llama.cpp divides 4 spaces in a row, and other long runs, otherwise than the tokenizer."
    assert written.warnings == ((told,) if warns else ())


def added(**strips):
    return [SimpleNamespace(content=token, rstrip="r" in sides, lstrip="l" in sides) for token, sides in strips.items()]


PHI3 = ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|user|>", "<|end|>")


@pytest.mark.parametrize(
    ("name", "strips", "special", "given", "told"),
    [
        ("mine", {"</s>": "r", "<|user|>": "r", "<|end|>": "r"}, PHI3, "phi-3 mine", []),
        ("Phi-3-mini", {"</s>": "r", "<|user|>": "r", "<|end|>": "r"}, PHI3, "Phi-3-mini", []),
        ("mine", {"<|user|>": "r", "<|end|>": "r"}, PHI3, "phi-3 mine", ["drops spaces and newlines after </s>;"]),
        ("mine", {"<|user|>": "r"}, PHI3, "mine", ["keeps spaces and newlines after <|user|>;"]),
        ("mine", {"<|user|>": "r"}, PHI3[3:], "mine", ["keeps spaces and newlines after <|user|>;"]),
        ("mine", {"<|user|>": "l"}, PHI3, "mine", ["keeps spaces and newlines before <|user|>;"]),
        ("phi3", {"<|user|>": ""}, PHI3[3:], "phi_3", ["calls the model 'phi_3': by 'phi3' llama.cpp would"]),
    ],
)
def test_spaces_beside_tokens_are_dropped_by_the_models_name(name, strips, special, given, told):
    """llama.cpp drops those after Phi-3's tokens where a file's name has "phi-3" in it, and no others."""
    warnings: list[str] = []
    assert name_for(name, added(**strips), special, special, warnings) == given
    assert len(warnings) == len(told) and all(says in text for says, text in zip(told, warnings, strict=True))


def test_a_file_is_named_for_its_tokens(export):
    own = sentencepiece(["▁ab"])
    own.add_tokens([AddedToken("<|user|>", rstrip=True)], special_tokens=True)  # type: ignore[arg-type]
    own.add_tokens(["<|endoftext|>"], special_tokens=True)
    own.add_tokens([AddedToken("</s>", rstrip=True)], special_tokens=True)  # type: ignore[arg-type]
    assert export(own)[1].keys["general.name"] == "phi-3 dense"
    assert export(sentencepiece(["▁ab"]))[1].keys["general.name"] == "dense"


def test_tokens_that_are_words_of_their_own_are_told(export):
    own = sentencepiece(["▁ab"])
    own.add_tokens([AddedToken("cat", single_word=True)])  # type: ignore[arg-type]
    warnings = export(own)[0].warnings
    assert any("llama.cpp takes cat within words too; the tokenizer only as words of" in told for told in warnings)


def test_merges_that_no_scores_say_are_refused(export):
    own = sentencepiece(["▁abba"])
    said = json.loads(own.backend_tokenizer.to_str())
    merges = said["model"]["merges"]
    added = ["<unk>", "<s>", "</s>"]
    assert merge_scores(said["model"], added) is not None
    assert merge_scores({**said["model"], "merges": merges[:-1]}, added) is None  # one way to make a token is missing
    made = ["".join(pair) for pair in merges]
    assert any(made.count(piece) > 1 for piece in made)
    order = sorted(range(len(made)), key=lambda at: (made[:at].count(made[at]), at))  # one way of each, then the next
    assert merge_scores({**said["model"], "merges": [merges[at] for at in order]}, added) is None
    said["model"]["merges"] = merges[:-1]
    broken = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(said)), eos_token="</s>")
    with pytest.raises(CheckpointError, match="whose merges do not follow from an order of its tokens"):
        export(broken)


def test_what_llama_cpp_would_read_otherwise_is_refused(export, source, tmp_path):
    write_tokenizer(tmp_path / "words")
    with pytest.raises(
        CheckpointError, match="one of the kind WordLevel, and a GGUF file of this model needs one of the"
    ):
        export(tmp_path / "words")
    own = byte_level("<|end|>", eos_token="<|end|>")
    own.backend_tokenizer.decoder = decoders.BPEDecoder()
    with pytest.raises(CheckpointError, match="that has no bytes, neither as letters nor as tokens"):
        export(own)
    split = sentencepiece(["▁ab"])
    split.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always", split=True)
    with pytest.raises(CheckpointError, match="neither byte-level nor like Llama 2's"):
        export(split)
    said = json.loads(sentencepiece(["▁ab"]).backend_tokenizer.to_str())
    said["model"]["vocab"]["<0xff>"] = said["model"]["vocab"].pop("<0xFF>")
    fewer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(said)), eos_token="</s>")
    with pytest.raises(CheckpointError, match="without a token for the byte <0xFF>"):
        export(fewer)


def test_entries_without_a_row_are_left_out_with_a_warning(export):
    own = byte_level("<|end|>", eos_token="<|end|>")
    own.add_tokens([f"<{number}>" for number in range(ROWS - len(own) + 3)])
    written, file = export(own)
    assert len(file.keys["tokenizer.ggml.tokens"]) == ROWS
    assert "has 3 entries that the model's embedding has no rows for" in written.warnings[0]


def test_several_chat_templates_come_by_name(export):
    own = byte_level("<|end|>", eos_token="<|end|>")
    own.chat_template = {"default": "one", "tool_use": "two"}
    keys = export(own)[1].keys
    assert keys["tokenizer.chat_template"] == "one" and keys["tokenizer.chat_templates"] == ["tool_use"]
    assert keys["tokenizer.chat_template.tool_use"] == "two"


def test_a_checkpoint_brings_its_own_tokenizer(tmp_path):
    settings = tiny.config("llama", "causal_lm", vocab_size=ROWS)
    folder = tiny.write(tmp_path / "dense", settings, tiny.tensors(settings))
    byte_level("<|end|>", eos_token="<|end|>").save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7]}))
    written = jp.export(load(folder), tmp_path / "out", format="gguf")
    keys = read_gguf(tmp_path / "out" / "model.gguf").keys
    assert (keys["tokenizer.ggml.eos_token_id"], keys["tokenizer.ggml.eot_token_id"]) == (0, 7)
    assert not written.warnings and np.isclose(written.bytes, 4 * sum(
        tensor.size for tensor in read_gguf(tmp_path / "out" / "model.gguf").tensors.values()
    ))  # fmt: skip

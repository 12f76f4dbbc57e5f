"""Tokenizer files of the kinds that checkpoints come with, tiny and the same every time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("f", "i"), ("l", "m"), ("fi", "lm"), ("Ġ", "film")]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "Film", "café", "cafe", "##s", "電", "影", "電影"]


def bpe_vocabulary(*special: str) -> dict[str, int]:
    """`special` tokens first, then all bytes, then what the merges make."""
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(one + other for one, other in MERGES)]
    return {token: number for number, token in enumerate(tokens)}


def write_bpe(folder: Path, *special: str) -> int:
    """vocab.json and merges.txt, as GPT-2, OPT, RoBERTa and Qwen come with; returns the size of the vocabulary."""
    vocabulary = bpe_vocabulary(*special)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{one} {other}\n" for one, other in MERGES))
    return len(vocabulary)


def write_bpe_json(folder: Path, *special: str) -> int:
    """The same as a tokenizer.json."""
    vocabulary = bpe_vocabulary(*special)
    backend = Tokenizer(models.BPE(vocabulary, MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    backend.add_special_tokens(list(special))
    backend.save(str(folder / "tokenizer.json"))
    return len(vocabulary)


def write_pieces(folder: Path, *special: str) -> int:
    """A tokenizer.json made of a SentencePiece model, as XLM-RoBERTa and CamemBERT come with; "▁" begins words."""
    pieces = ["▁", "▁the", "▁film", "▁F", "f", "i", "l", "m", "s", "c", "a", "e", "▁ca", "é", "電", "影"]
    vocabulary = [(piece, -float(number)) for number, piece in enumerate([*special, *pieces])]
    backend = Tokenizer(models.Unigram(vocabulary, special.index("<unk>"), byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    backend.decoder = decoders.Metaspace()  # type: ignore[assignment]
    backend.add_special_tokens([token for token in special if not token.endswith("NOTUSED")])
    backend.save(str(folder / "tokenizer.json"))
    return len(vocabulary)


def write_bert(folder: Path, form: str = "tokenizer.json", **settings: Any) -> int:
    """A WordPiece vocabulary, as vocab.txt or as a tokenizer.json that lower-cases and drops accents."""
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    if form == "tokenizer.json":
        from transformers import BertTokenizer

        BertTokenizer(str(folder / "vocab.txt")).backend_tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "vocab.txt").unlink()
    if settings:
        write_settings(folder, **settings)
    return len(WORDS)


def write_letters(folder: Path, words: Sequence[str]) -> int:
    """vocab.json of single letters, for a family whose tokenizer class no setting can replace (Qwen2)."""
    letters = ["[PAD]", "[UNK]", "[CLS]", "Ġ", *sorted(set("".join(words)))]
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return len(letters)


def as_it_stands(folder: Path) -> None:
    """Settings that have transformers take tokenizer.json as it stands, whatever the family."""
    names = ["input_ids", "token_type_ids", "attention_mask"]
    write_settings(folder, tokenizer_class="PreTrainedTokenizerFast", model_input_names=names)


def write_settings(folder: Path, **settings: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
